//! Properties over a wire that loses, repeats and reorders frames, and over garbage.
#![allow(missing_docs)]

mod common;

use std::net::SocketAddrV4;

use common::{A_IP, A_MAC, CLEAN, Faults, Net, Outbox, Rng, config_a, config_b};
use netstack::dhcp_server::DhcpServer;
use netstack::{Config, ConnId, Error, Stack};
use proptest::prelude::*;

const PORT: u16 = 6379;

/// One direction of a connection: what is sent, and what has arrived of it.
struct Stream {
    data: Vec<u8>,
    sent: usize,
    got: usize,
    finished: bool,
    ended: bool,
}

impl Stream {
    fn new(rng: &mut Rng, most: u64) -> Self {
        let data = (0..rng.below(most)).map(|_| rng.next() as u8).collect();
        Self { data, sent: 0, got: 0, finished: false, ended: false }
    }

    /// Sends some more; at the end, finishes.
    fn write(&mut self, stack: &mut Stack, id: ConnId, rng: &mut Rng) {
        if self.finished {
            return;
        }
        if self.sent == self.data.len() {
            stack.shutdown(id).unwrap();
            self.finished = true;
            return;
        }
        let most = (self.sent + 1 + rng.below(5_000) as usize).min(self.data.len());
        match stack.send(id, &self.data[self.sent..most]) {
            Ok(n) => self.sent += n,
            Err(Error::WouldBlock) => {}
            Err(error) => panic!("send: {error}"),
        }
    }

    /// Reads some and compares it.
    fn read(&mut self, stack: &mut Stack, id: ConnId, rng: &mut Rng) {
        let mut buffer = vec![0; 1 + rng.below(8_000) as usize];
        match stack.recv(id, &mut buffer) {
            Ok(0) => {
                assert_eq!(self.got, self.data.len(), "the stream ended early");
                self.ended = true;
            }
            Ok(n) => {
                assert!(self.data[self.got..].starts_with(&buffer[..n]), "wrong bytes at {}", self.got);
                self.got += n;
            }
            Err(Error::WouldBlock) => {}
            Err(error) => panic!("recv: {error}"),
        }
    }
}

/// With one frame in seven lost, retransmissions back off beyond the ordinary limits.
fn patient(mut config: Config) -> Config {
    config.user_timeout_ms = 3_600_000;
    config.close_timeout_ms = 3_600_000;
    config.half_open_timeout_ms = 600_000;
    #[cfg(feature = "reno")]
    if config.seed % 2 == 1 {
        config.congestion = netstack::Congestion::Reno;
    }
    config
}

/// Cases per property; `PROPTEST_CASES` overrides.
fn cases() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(48);
    ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases) }
}

/// Several connections carry random data both ways until all streams have ended and every connection is reclaimed.
fn transfer(seed: u64, faults: Faults, connections: usize, most_bytes: u64, room: usize) -> Net {
    let mut net = Net::with(patient(config_a(seed)), patient(config_b(seed)), faults, seed);
    net.a.out.room = room;
    net.b.out.room = room;
    transfer_with(net, seed, connections, most_bytes)
}

fn transfer_with(mut net: Net, seed: u64, connections: usize, most_bytes: u64) -> Net {
    net.trace = Some(Vec::new());
    let listener = net.a.stack.listen(PORT, 64).unwrap();
    let mut rng = Rng(seed ^ 0x5eed);
    let clients: Vec<ConnId> =
        (0..connections).map(|_| net.b.stack.connect(SocketAddrV4::new(A_IP, PORT)).unwrap()).collect();
    let mut servers: Vec<Option<ConnId>> = vec![None; connections];
    let mut up: Vec<Stream> = (0..connections).map(|_| Stream::new(&mut rng, most_bytes)).collect();
    let mut down: Vec<Stream> = (0..connections).map(|_| Stream::new(&mut rng, most_bytes)).collect();
    net.run(7_200_000, "streams unfinished", |net| {
        while let Some(id) = net.a.stack.accept(listener) {
            let port = net.a.stack.remote(id).unwrap().port();
            let n = clients.iter().position(|&c| net.b.stack.local(c).unwrap().port() == port).unwrap();
            servers[n] = Some(id);
        }
        for n in 0..connections {
            if !net.b.stack.may_send(clients[n]) && !up[n].finished {
                assert!(net.b.stack.is_open(clients[n]), "{:?}", net.b.stack.end(clients[n]));
                continue;
            }
            up[n].write(&mut net.b.stack, clients[n], &mut rng);
            down[n].read(&mut net.b.stack, clients[n], &mut rng);
            if let Some(server) = servers[n] {
                up[n].read(&mut net.a.stack, server, &mut rng);
                down[n].write(&mut net.a.stack, server, &mut rng);
            }
        }
        up.iter().chain(&down).all(|stream| stream.ended)
    });
    for (client, server) in clients.iter().zip(&servers) {
        net.b.stack.close(*client).unwrap();
        net.a.stack.close(server.unwrap()).unwrap();
    }
    net.run(7_200_000, "not reclaimed", |net| net.a.stack.connections() + net.b.stack.connections() == 0);
    net
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn bytes_arrive_in_order_and_streams_close(
        seed: u64, loss in 0u64..15, duplicate in 0u64..10, reorder in 0u64..40, connections in 1usize..6,
    ) {
        transfer(seed, Faults { loss, duplicate, reorder, delay_ns: 300_000 }, connections, 60_000, usize::MAX);
    }

    #[test]
    fn a_small_sink_loses_nothing(seed: u64, room in 1usize..4, connections in 1usize..8) {
        let net = transfer(seed, CLEAN, connections, 40_000, room);
        prop_assert_eq!(net.a.stack.stats().replies_dropped + net.b.stack.stats().replies_dropped, 0);
        // Nothing had to be sent twice: a full sink is not a lossy one.
        prop_assert_eq!(net.a.stack.stats().timed_out + net.b.stack.stats().timed_out, 0);
    }

    #[test]
    fn equal_calls_give_equal_frames(seed: u64, loss in 0u64..10, room in 1usize..20) {
        let faults = Faults { loss, duplicate: 5, reorder: 20, delay_ns: 200_000 };
        let first = transfer(seed, faults, 3, 20_000, room);
        let second = transfer(seed, faults, 3, 20_000, room);
        prop_assert!(first.trace.is_some_and(|trace| !trace.is_empty() && Some(trace) == second.trace));
    }

    #[test]
    fn garbage_never_panics(frames in prop::collection::vec(garbage(), 1..200), any_ip: bool, checksums: bool) {
        let mut config = config_a(1);
        config.any_ip = any_ip;
        config.software_checksums = checksums;
        let mut stack = Stack::new(config, 0).unwrap();
        stack.listen(PORT, 4).unwrap();
        if any_ip {
            stack.intercept(4);
        }
        let server = dhcp_server();
        let mut out = Outbox::new(0);
        for (n, frame) in frames.iter().enumerate() {
            stack.receive(n as u64 * 1_000_000, frame, &mut out);
            server.serve(frame, &mut out);
            stack.poll(n as u64 * 1_000_000, &mut out);
        }
        stack.take_events(|_| {});
        prop_assert!(stack.connections() <= 4);
    }

    #[test]
    fn mutated_conversations_never_panic(seed: u64, percent in 1u64..30) {
        let mut config = config_a(seed);
        config.software_checksums = false;
        let mut peer = config_b(seed);
        peer.software_checksums = false;
        let mut net = Net::with(config, peer, CLEAN, seed);
        let listener = net.a.stack.listen(PORT, 8).unwrap();
        let mut rng = Rng(seed);
        for round in 0..200u64 {
            if round % 20 == 0 {
                let _ = net.b.stack.connect(SocketAddrV4::new(A_IP, PORT));
            }
            net.run_for(1);
            while let Some(id) = net.a.stack.accept(listener) {
                let _ = net.a.stack.send(id, &[1; 3000]);
                let _ = net.a.stack.shutdown(id);
            }
            // A frame that might be part of it: a recorded one with a few bytes changed.
            net.trace.get_or_insert_with(Vec::new);
            let frames: Vec<_> = net.trace.as_ref().unwrap().iter().rev().take(8).cloned().collect();
            for (_, to_a, mut frame) in frames {
                if !rng.chance(percent) {
                    continue;
                }
                for _ in 0..1 + rng.below(3) {
                    let at = 12 + rng.below(frame.len() as u64 - 12) as usize;
                    frame[at] = rng.next() as u8;
                }
                let host = if to_a { &mut net.a } else { &mut net.b };
                host.stack.receive(net.now_ns, &frame, &mut host.out);
            }
        }
        net.run_for(100);
    }
}

fn dhcp_server() -> DhcpServer {
    DhcpServer {
        server_mac: common::B_MAC,
        server_ip: common::B_IP,
        client_ip: netstack::Ipv4Cidr::new(A_IP, 24),
        router: None,
        dns: None,
        lease_s: 60,
        software_checksums: false,
    }
}

/// Frames from pure noise to nearly right: a plausible Ethernet, IPv4 and transport header, then noise.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let shaped = (
        prop::sample::select(vec![[8u8, 0], [8, 6], [0x86, 0xdd], [0x88, 0xb5]]),
        prop::sample::select(vec![1u8, 2, 6, 17, 99]),
        prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x44, 0x65]),
        prop::sample::select(vec![[10u8, 0, 2, 2], [0; 4], [255; 4], [224, 0, 0, 1], [10, 0, 2, 255], [10, 0, 2, 15]]),
        prop::sample::select(vec![[10u8, 0, 2, 15], [0; 4], [255; 4], [224, 0, 0, 1], [10, 0, 2, 255], [1, 2, 3, 4]]),
        prop::sample::select(vec![PORT, 68, 67, 0, 99]),
        prop::collection::vec(any::<u8>(), 0..300),
        any::<bool>(),
    )
        .prop_map(|(ethertype, protocol, version, src, dst, port, rest, broadcast)| {
            let mut frame = Vec::new();
            frame.extend(if broadcast { [0xff; 6] } else { A_MAC });
            frame.extend(common::B_MAC);
            frame.extend(ethertype);
            let total = 20 + rest.len() as u16 + 4;
            frame.extend([version, 0]);
            frame.extend(total.to_be_bytes());
            frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(src);
            frame.extend(dst);
            frame.extend([0x80, 0x01]);
            frame.extend(port.to_be_bytes());
            frame.extend(rest);
            frame
        });
    prop_oneof![1 => noise, 4 => shaped]
}

#[test]
fn frames_are_written_completely() {
    // The two outboxes start their buffers with different bytes; a transfer whose fill bytes are swapped must look
    // the same, or some byte of some frame was left as it was found.
    let faults = Faults { loss: 3, duplicate: 3, reorder: 20, delay_ns: 200_000 };
    let first = transfer(77, faults, 3, 50_000, usize::MAX);
    let mut net = Net::with(patient(config_a(77)), patient(config_b(77)), faults, 77);
    std::mem::swap(&mut net.a.out.fill, &mut net.b.out.fill);
    let second = transfer_with(net, 77, 3, 50_000);
    assert!(first.trace.is_some_and(|trace| trace.len() > 100 && Some(trace) == second.trace));
}
