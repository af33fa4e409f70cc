//! How much one request costs the guest: the whole program on a fake shim, driven like `redis-benchmark` drives a
//! server, and timed only while the guest runs.
//!
//! `cargo run --release -p kv --example requests -- [CONNECTIONS] [PIPELINE] [REQUESTS]`

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use std::time::{Duration, Instant};

use netstack::{ConnId, Error, Event, Readiness, Stack};
use runtime::host::peer::{Driver, Peer, Step};
use runtime::host::{Boundary, Setup, World, run};
use runtime::random::Rng;

/// What each request is.
#[derive(Clone, Copy)]
enum Test {
    Set,
    Get,
    Incr,
}

impl Test {
    fn request(self, rng: &mut Rng) -> String {
        let key = format!("key:{:012}", rng.below(10_000));
        match self {
            Self::Set => format!("*3\r\n$3\r\nSET\r\n$16\r\n{key}\r\n$3\r\nVXK\r\n"),
            Self::Get => format!("*2\r\n$3\r\nGET\r\n$16\r\n{key}\r\n"),
            Self::Incr => format!("*2\r\n$4\r\nINCR\r\n$20\r\ncounter:{:012}\r\n", rng.below(10_000)),
        }
    }

    /// Lines that one reply has at least and at most: a missing key has one, a found one two.
    fn ends(self, reply: &[u8]) -> usize {
        let lines = reply.iter().filter(|&&byte| byte == b'\n').count();
        match self {
            Self::Set | Self::Incr => lines,
            Self::Get => lines - reply.iter().filter(|&&byte| byte == b'V').count(),
        }
    }
}

struct Load {
    test: Test,
    pipeline: usize,
    batches: Vec<Vec<u8>>,
    rng: Rng,
    connections: Vec<ConnId>,
    awaited: Vec<usize>,
    wanted: usize,
    left: usize,
}

impl Load {
    fn new(test: Test, connections: usize, pipeline: usize, requests: usize) -> Self {
        let mut rng = Rng::from_seed(1);
        let batches =
            (0..1000).map(|_| (0..pipeline).map(|_| test.request(&mut rng)).collect::<String>().into_bytes()).collect();
        Self {
            test,
            pipeline,
            batches,
            rng,
            connections: Vec::new(),
            awaited: vec![0; connections],
            wanted: connections,
            left: requests,
        }
    }

    fn ask(&mut self, stack: &mut Stack, index: usize) {
        let batch = &self.batches[self.rng.below(1000) as usize];
        let sent = stack.send(self.connections[index], batch).expect("the connection is open");
        assert_eq!(sent, batch.len(), "a batch fits the send buffer");
        self.awaited[index] = self.pipeline;
    }

    fn hear(&mut self, stack: &mut Stack, index: usize) {
        let test = self.test;
        // The buffer is a ring: what wraps comes in two pieces.
        loop {
            match stack.recv_with(self.connections[index], |data| (data.len(), test.ends(data))) {
                Ok(replies) => {
                    self.awaited[index] -= replies;
                    self.left = self.left.saturating_sub(replies);
                }
                Err(Error::WouldBlock) => break,
                Err(error) => panic!("connection {index} ended: {error}"),
            }
        }
        if self.awaited[index] == 0 {
            self.ask(stack, index);
        }
    }
}

impl Driver for Load {
    fn step(&mut self, stack: &mut Stack, _now_ns: u64) -> Step {
        if self.connections.is_empty() {
            let remote = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 6379);
            self.connections = (0..self.wanted).map(|_| stack.connect(remote).expect("room")).collect();
        }
        while let Some(event) = stack.next_event() {
            let Event::Connection(id, readiness) = event else { continue };
            let Some(index) = self.connections.iter().position(|&connection| connection == id) else { continue };
            if readiness.contains(Readiness::CONNECTED) {
                self.ask(stack, index);
            } else if readiness.contains(Readiness::READABLE) {
                self.hear(stack, index);
            }
        }
        if self.left == 0 { Step::Done } else { Step::Until(u64::MAX) }
    }
}

/// Measures the time between boundaries.
struct Timed {
    peer: Peer<Load>,
    resumed: Instant,
    guest: Duration,
}

impl World for Timed {
    // A frame of its own, so that a profiler can leave it out.
    #[inline(never)]
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        self.guest += self.resumed.elapsed();
        self.peer.boundary(boundary);
        self.resumed = Instant::now();
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a number"));
    let connections = numbers.next().unwrap_or(50);
    let pipeline = numbers.next().unwrap_or(1);
    let requests = numbers.next().unwrap_or(500_000);
    for (name, test) in [("set", Test::Set), ("get", Test::Get), ("incr", Test::Incr)] {
        let peer = Peer::new(Load::new(test, connections, pipeline, requests), connections + 1);
        let world = Rc::new(RefCell::new(Timed { peer, resumed: Instant::now(), guest: Duration::ZERO }));
        let setup = Setup { heap_bytes: (16 << 20) + connections as u64 * (64 << 10), ..Setup::default() };
        let outcome = run(&setup, &world, kv::service::main);
        let guest_ns = world.borrow().guest.as_nanos() as usize;
        println!(
            "{name}: {connections} connections, pipeline {pipeline}: {} ns a request in the guest, {:.1} requests an epoch",
            guest_ns / requests,
            requests as f64 / outcome.epochs as f64
        );
    }
}
