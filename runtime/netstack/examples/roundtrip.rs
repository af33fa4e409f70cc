//! Cost of a request and its answer, by number of connections.
//!
//! A client and a server stack hand each other frames in memory; every connection sends a small request, the server
//! answers each, as a key-value store would. Prints, for each number of connections, nanoseconds of the server's side
//! alone and of both together. The point is that the figure does not grow with the number of connections.
//!
//! `cargo run --release --example roundtrip -p netstack [requests] [connections]`

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use netstack::{Config, ConnId, Event, FrameSink, Ipv4Cidr, Readiness, Stack};

const SERVER_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const CLIENT_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const PORT: u16 = 6379;
const REQUEST: &[u8] = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000001\r\n$3\r\nxxx\r\n";
const ANSWER: &[u8] = b"+OK\r\n";
/// Frames between two rounds of the server, as an epoch would bundle them.
const BATCH_FRAMES: usize = 64;

/// Simulated time between two requests of a connection, in nanoseconds: short of a delayed acknowledgement, so that
/// every request costs one frame each way however many connections there are.
const THINK_NS: u64 = 5_000_000;

/// Frames one after the other in one buffer, like the ring of a virtual machine.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Batch {
    fn frames(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start..end])
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

impl FrameSink for Batch {
    fn has_room(&self) -> bool {
        true
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let start = self.bytes.len();
        self.bytes.resize(start + len_bytes, 0);
        self.ends.push(start + len_bytes);
        fill(&mut self.bytes[start..])
    }
}

fn stack(mac: u8, ip: Ipv4Addr) -> Stack {
    let mut config = Config::new([0x52, 0x54, 0, 0, 0, mac], Some(Ipv4Cidr::new(ip, 24)), None, 42);
    config.software_checksums = false;
    config.max_connections = 20_000;
    config.tcp_rx_bytes = 4096;
    config.tcp_tx_bytes = 4096;
    Stack::new(config, 0).expect("a valid configuration")
}

struct Bench {
    server: Stack,
    client: Stack,
    to_server: Batch,
    to_client: Batch,
    now_ns: u64,
    step_ns: u64,
    in_server: Duration,
    served: usize,
}

impl Bench {
    /// Hands the server its frames, answers requests and collects its frames.
    fn serve(&mut self) {
        let begin = Instant::now();
        for frame in self.to_server.frames() {
            self.server.receive(self.now_ns, frame, &mut self.to_client);
        }
        while let Some(event) = self.server.next_event() {
            if let Event::Connection(id, readiness) = event
                && readiness.contains(Readiness::READABLE)
                && self.server.recv_with(id, |data| (data.len(), data.len())).is_ok()
            {
                self.server.send(id, ANSWER).expect("room for an answer");
                self.served += 1;
            }
        }
        self.server.poll(self.now_ns, &mut self.to_client);
        self.in_server += begin.elapsed();
        self.to_server.clear();
    }

    /// Hands the client its frames; returns the connections that got an answer.
    fn collect(&mut self, answered: &mut Vec<ConnId>) {
        for frame in self.to_client.frames() {
            self.client.receive(self.now_ns, frame, &mut self.to_server);
        }
        self.to_client.clear();
        while let Some(event) = self.client.next_event() {
            if let Event::Connection(id, readiness) = event
                && readiness.contains(Readiness::READABLE)
                && self.client.recv_with(id, |data| (data.len(), ())).is_ok()
            {
                answered.push(id);
            }
        }
    }

    fn exchange(&mut self, answered: &mut Vec<ConnId>) {
        self.now_ns += self.step_ns;
        self.client.poll(self.now_ns, &mut self.to_server);
        self.serve();
        self.collect(answered);
    }
}

/// Runs `requests` over `connections`; returns nanoseconds per request (server, both).
fn run(connections: usize, requests: usize) -> (f64, f64) {
    let mut bench = Bench {
        server: stack(15, SERVER_IP),
        client: stack(2, CLIENT_IP),
        to_server: Batch::default(),
        to_client: Batch::default(),
        now_ns: 0,
        step_ns: THINK_NS * BATCH_FRAMES.min(connections) as u64 / connections as u64,
        in_server: Duration::ZERO,
        served: 0,
    };
    let listener = bench.server.listen(PORT, connections).expect("a free port");
    let remote = SocketAddrV4::new(SERVER_IP, PORT);
    let ids: Vec<ConnId> = (0..connections).map(|_| bench.client.connect(remote).expect("room")).collect();
    let mut idle = Vec::new();
    let mut accepted = 0;
    while accepted < connections {
        bench.exchange(&mut idle);
        while bench.server.accept(listener).is_some() {
            accepted += 1;
        }
    }
    bench.exchange(&mut idle);
    bench.in_server = Duration::ZERO;
    // Connections take turns, a batch at a time, so that all are used however many there are.
    let begin = Instant::now();
    let mut next = 0;
    idle.clear();
    while bench.served < requests {
        for _ in 0..BATCH_FRAMES.min(connections) {
            bench.client.send(ids[next % connections], REQUEST).expect("room for a request");
            next += 1;
        }
        while idle.len() < BATCH_FRAMES.min(connections) {
            bench.exchange(&mut idle);
        }
        idle.clear();
    }
    let both = begin.elapsed();
    let per = |time: Duration| time.as_nanos() as f64 / bench.served as f64;
    (per(bench.in_server), per(both))
}

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse().expect("a number"));
    let requests = arguments.next().unwrap_or(200_000);
    let chosen: Vec<usize> = arguments.collect();
    let counts = if chosen.is_empty() { vec![1, 50, 1_000, 10_000] } else { chosen };
    println!("connections  server ns/request  both ns/request");
    for connections in counts {
        let (server, both) = run(connections, requests);
        println!("{connections:>11}  {server:>17.0}  {both:>15.0}");
    }
}
