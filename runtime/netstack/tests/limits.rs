//! Many connections, too many connections, and floods.
#![allow(missing_docs)]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4};

use common::{A_IP, A_MAC, B_IP, B_MAC, CLEAN, MS, Net, Outbox, config_a, config_b, read_all};
use netstack::{ConnId, Error, Event, Readiness, Stack};

const PORT: u16 = 6379;

/// A SYN from any address, with checksums left out.
fn syn(remote: SocketAddrV4, port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(A_MAC);
    frame.extend(B_MAC);
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
    frame.extend(remote.ip().octets());
    frame.extend(A_IP.octets());
    frame.extend(remote.port().to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

fn without_checksums(mut config: netstack::Config) -> netstack::Config {
    config.software_checksums = false;
    config
}

#[test]
fn a_thousand_connections_at_once() {
    let mut net = Net::new(1);
    let listener = net.a.stack.listen(PORT, 2_000).unwrap();
    let clients: Vec<ConnId> =
        (0..1_000).map(|_| net.b.stack.connect(SocketAddrV4::new(A_IP, PORT)).unwrap()).collect();
    let mut servers = Vec::new();
    net.run(10_000, "not all connected", |net| {
        servers.extend(std::iter::from_fn(|| net.a.stack.accept(listener)));
        servers.len() == 1_000
    });
    for round in 0..3u32 {
        for (n, &client) in clients.iter().enumerate() {
            net.b.stack.send(client, &(n as u32 * 10 + round).to_be_bytes()).unwrap();
        }
        let mut echoed = 0;
        net.run(10_000, "no answers", |net| {
            for event in std::mem::take(&mut net.a.events) {
                if let Event::Connection(id, readiness) = event
                    && readiness.contains(Readiness::READABLE)
                {
                    let data = read_all(&mut net.a.stack, id);
                    echoed += usize::from(!data.is_empty());
                    net.a.stack.send(id, &data).unwrap();
                }
            }
            echoed == 1_000 && clients.iter().all(|&id| net.b.stack.recv_queue(id) == Ok(4))
        });
        for (n, &client) in clients.iter().enumerate() {
            assert_eq!(read_all(&mut net.b.stack, client), (n as u32 * 10 + round).to_be_bytes());
        }
    }
    for client in clients {
        net.b.stack.close(client).unwrap();
    }
    for server in servers {
        net.a.stack.close(server).unwrap();
    }
    net.run(60_000, "not reclaimed", |net| net.a.stack.connections() + net.b.stack.connections() == 0);
}

#[test]
fn ten_thousand_attempts_leave_the_server_serving() {
    let mut server = config_a(2);
    server.max_connections = 100;
    let mut client = config_b(2);
    client.max_connections = 20_000;
    client.tcp_rx_bytes = 1024;
    client.tcp_tx_bytes = 1024;
    let mut net = Net::with(server, client, CLEAN, 2);
    let listener = net.a.stack.listen(PORT, 200).unwrap();
    let (a, b) = net.connect(listener, PORT);
    let crowd: Vec<ConnId> = (0..10_000).map(|_| net.b.stack.connect(SocketAddrV4::new(A_IP, PORT)).unwrap()).collect();
    net.run(1_000, "attempts undecided", |net| {
        crowd.iter().all(|&id| net.b.stack.may_send(id) || net.b.stack.end(id) == Some(Error::Refused))
    });
    assert_eq!(net.a.stack.connections(), 100);
    assert_eq!(net.a.stack.stats().refused, 10_000 - 99);
    // The first connection still works, and when the crowd has gone, newcomers do.
    net.b.stack.send(b, b"alive?").unwrap();
    net.run(100, "no data", |net| net.a.stack.recv_queue(a) == Ok(6));
    for id in crowd {
        net.b.stack.abort(id).unwrap();
    }
    net.run_for(10);
    assert_eq!(net.a.stack.accept(listener), None, "those who were reset while they waited are skipped");
    assert_eq!(net.a.stack.connections(), 1);
    net.connect(listener, PORT);
}

#[test]
fn a_full_backlog_makes_others_wait_not_fail() {
    let mut net = Net::new(3);
    let listener = net.a.stack.listen(PORT, 4).unwrap();
    let clients: Vec<ConnId> = (0..10).map(|_| net.b.stack.connect(SocketAddrV4::new(A_IP, PORT)).unwrap()).collect();
    net.run_for(100);
    assert_eq!(net.a.stack.accept_queue(listener), 4);
    assert_eq!(net.a.stack.stats().backlog_full, 6);
    let mut accepted = 0;
    net.run(60_000, "waiting clients never got in", |net| {
        while net.a.stack.accept(listener).is_some() {
            accepted += 1;
        }
        accepted == 10
    });
    assert!(clients.iter().all(|&id| net.b.stack.may_send(id)));
}

#[test]
fn a_syn_flood_is_bounded_and_lets_others_in() {
    let mut net = Net::with(without_checksums(config_a(4)), without_checksums(config_b(4)), CLEAN, 4);
    let listener = net.a.stack.listen(PORT, 32).unwrap();
    let flood = |net: &mut Net, from: u32, to: u32| {
        for n in from..to {
            let remote = SocketAddrV4::new(Ipv4Addr::from(0x0102_0000 + n), 1_000);
            net.a.stack.receive(net.now_ns, &syn(remote, PORT), &mut net.a.out);
        }
    };
    flood(&mut net, 0, 10_000);
    assert_eq!(net.a.stack.connections(), 32);
    net.run_for(600);
    // The handshakes of the flood are stuck by now; an honest client gets in although the flood goes on.
    flood(&mut net, 10_000, 10_010);
    net.connect(listener, PORT);
    flood(&mut net, 10_010, 20_000);
    assert!(net.a.stack.connections() <= 33);
    net.run(10_000, "half-open connections not reclaimed", |net| net.a.stack.connections() == 1);
}

#[test]
fn half_open_connections_end() {
    let mut net = Net::with(without_checksums(config_a(5)), without_checksums(config_b(5)), CLEAN, 5);
    net.a.stack.listen(PORT, 32).unwrap();
    for n in 0..20 {
        net.a.stack.receive(0, &syn(SocketAddrV4::new(B_IP, 1_000 + n), PORT), &mut net.a.out);
    }
    assert_eq!(net.a.stack.connections(), 20);
    net.faults.loss = 100;
    net.run_for(4_900);
    assert_eq!(net.a.stack.connections(), 20);
    net.run(200, "not reclaimed", |net| net.a.stack.connections() == 0);
    assert_eq!(net.a.stack.stats().half_open_dropped, 20);
}

#[test]
fn a_reset_ends_a_half_open_connection_at_once() {
    let mut net = Net::with(without_checksums(config_a(6)), without_checksums(config_b(6)), CLEAN, 6);
    net.a.stack.listen(PORT, 32).unwrap();
    // Nobody at B knows of this: its stack answers the SYN|ACK with a reset.
    net.a.stack.receive(0, &syn(SocketAddrV4::new(B_IP, 1_000), PORT), &mut net.a.out);
    net.run(100, "not reclaimed", |net| net.a.stack.connections() == 0);
    assert_eq!(net.a.stack.stats().half_open_dropped, 0);
}

#[test]
fn replies_wait_for_room() {
    let mut stack = Stack::new(without_checksums(config_a(7)), 0).unwrap();
    stack.learn_neighbor(B_IP, B_MAC).unwrap();
    let mut out = Outbox::new(0);
    out.room = 0;
    for n in 0..10 {
        // Nobody listens: each is answered with a reset.
        stack.receive(MS, &syn(SocketAddrV4::new(B_IP, 1_000 + n), 99), &mut out);
    }
    assert!(stack.has_backlog());
    stack.poll(MS, &mut out);
    assert!(out.frames.is_empty());
    out.room = 4;
    stack.poll(MS, &mut out);
    assert_eq!(out.frames.len(), 4);
    out.room = 100;
    stack.poll(MS, &mut out);
    assert_eq!(out.frames.len(), 10);
    assert!(!stack.has_backlog());
    assert_eq!(stack.stats().replies_dropped, 0);
    // Beyond a bound they are dropped: memory is bounded, and their cause repeats itself.
    out.room = 0;
    for n in 0..1_000 {
        stack.receive(MS, &syn(SocketAddrV4::new(B_IP, 1_000 + n), 99), &mut out);
    }
    assert_eq!(stack.stats().replies_dropped, 1_000 - 256);
}

#[test]
fn a_full_sink_shares_fairly() {
    let mut net = Net::new(8);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let pairs: Vec<_> = (0..4).map(|_| net.connect(listener, PORT)).collect();
    for &(_, b) in &pairs {
        net.b.stack.send(b, &[9; 14_600]).unwrap();
    }
    // Two frames fit at a time; every connection gets its turn before the first has sent all of its ten.
    let mut out = Outbox::new(0);
    let mut ports = std::collections::BTreeSet::new();
    for _ in 0..4 {
        out.room = 2;
        net.b.stack.poll(net.now_ns, &mut out);
        ports.extend(out.frames.drain(..).map(|frame| u16::from_be_bytes([frame[34], frame[35]])));
    }
    assert_eq!(ports.len(), 4);
}
