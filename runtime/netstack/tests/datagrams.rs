//! UDP, ICMP, ARP, DHCP and the hub's ways: any destination, interception.
#![allow(missing_docs)]

mod common;

use std::net::{Ipv4Addr, SocketAddrV4};

use common::{A_IP, A_MAC, B_IP, B_MAC, CLEAN, MS, Net, Outbox, config_a, config_b, read_all};
use netstack::dhcp_server::DhcpServer;
use netstack::{Config, Error, Event, FrameSink, Ipv4Cidr, Readiness, Stack, UdpQueue};

const QUEUE: UdpQueue = UdpQueue { datagrams: 4, bytes: 4096 };

#[test]
fn datagrams_both_ways() {
    let mut net = Net::new(1);
    let a = net.a.stack.bind(53, QUEUE).unwrap();
    let b = net.b.stack.bind(0, QUEUE).unwrap();
    let b_port = net.b.stack.udp_port(b).unwrap();
    assert!(b_port >= 32_768);
    assert_eq!(net.a.stack.bind(53, QUEUE), Err(Error::PortInUse));
    net.b.stack.send_to(b, b"query", SocketAddrV4::new(A_IP, 53)).unwrap();
    net.run(100, "no query", |net| net.a.events.contains(&Event::Datagram(a, Readiness::READABLE)));
    let mut buffer = [0; 64];
    assert_eq!(net.a.stack.udp_readiness(a), Ok(Readiness::READABLE | Readiness::WRITABLE));
    let peeked = net.a.stack.peek_from(a, &mut buffer[..2]).unwrap();
    let datagram = net.a.stack.recv_from(a, &mut buffer).unwrap();
    assert_eq!(peeked, datagram, "it stays where it is, and is as long as it is");
    assert_eq!(net.a.stack.udp_readiness(a), Ok(Readiness::WRITABLE));
    assert_eq!((datagram.remote, datagram.local), (SocketAddrV4::new(B_IP, b_port), A_IP));
    assert_eq!(&buffer[..datagram.len_bytes], b"query");
    assert_eq!(net.a.stack.recv_from(a, &mut buffer), Err(Error::WouldBlock));
    net.a.stack.send_to(a, b"a longer answer", datagram.remote).unwrap();
    net.run(100, "no answer", |net| net.b.events.contains(&Event::Datagram(b, Readiness::READABLE)));
    let cut = net.b.stack.recv_from(b, &mut buffer[..4]).unwrap();
    assert_eq!((cut.len_bytes, &buffer[..4]), (15, &b"a lo"[..]));
    net.a.stack.unbind(a).unwrap();
    assert_eq!(net.a.stack.unbind(a), Err(Error::NotConnected));
    assert_eq!(net.a.stack.recv_from(a, &mut buffer), Err(Error::NotConnected));
    assert_eq!(net.a.stack.send_to(a, b"x", datagram.remote), Err(Error::NotConnected));
    net.a.stack.bind(53, QUEUE).unwrap();
}

#[test]
fn full_queues_tell_when_there_is_room() {
    let mut net = Net::new(2);
    net.a.stack.bind(7, QUEUE).unwrap();
    let b = net.b.stack.bind(0, QUEUE).unwrap();
    let to = SocketAddrV4::new(A_IP, 7);
    for _ in 0..4 {
        net.b.stack.send_to(b, b"x", to).unwrap();
    }
    assert_eq!(net.b.stack.udp_readiness(b), Ok(Readiness::empty()));
    assert_eq!(net.b.stack.send_to(b, b"x", to), Err(Error::WouldBlock));
    net.run(100, "no room", |net| net.b.events.contains(&Event::Datagram(b, Readiness::WRITABLE)));
    net.b.stack.send_to(b, b"x", to).unwrap();
    assert_eq!(net.b.stack.send_to(b, &[0; 2000], to), Err(Error::TooLong), "does not fit the MTU");
    assert_eq!(net.b.stack.send_to(b, b"x", SocketAddrV4::new(A_IP, 0)), Err(Error::InvalidPort));
    let nobody = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 7);
    assert_eq!(net.b.stack.send_to(b, b"x", nobody), Err(Error::Unaddressable));
    assert_eq!(net.b.stack.send_from(b, b"x", A_IP, to), Err(Error::Unaddressable), "not our address");
}

fn dhcp_server(lease_s: u32) -> DhcpServer {
    DhcpServer {
        server_mac: B_MAC,
        server_ip: B_IP,
        client_ip: Ipv4Cidr::new(A_IP, 24),
        router: Some(B_IP),
        dns: Some(Ipv4Addr::new(10, 0, 2, 3)),
        lease_s,
        software_checksums: true,
    }
}

/// Runs a client against a server until `until_ns`; returns the frames that the client sent.
fn run_dhcp(client: &mut Stack, server: Option<&DhcpServer>, now_ns: &mut u64, until_ns: u64) -> usize {
    let (mut to_server, mut to_client) = (Outbox::new(0xaa), Outbox::new(0x55));
    let mut sent = 0;
    loop {
        let due_ns = client.poll(*now_ns, &mut to_server);
        while let Some(frame) = to_server.frames.pop_front() {
            sent += 1;
            if let Some(server) = server {
                assert!(server.serve(&frame, &mut to_client) || frame[12..14] == [8, 6], "not for the server");
            }
        }
        if let Some(frame) = to_client.frames.pop_front() {
            client.receive(*now_ns, &frame, &mut to_server);
            continue;
        }
        match due_ns {
            Some(due_ns) if due_ns <= until_ns => *now_ns = due_ns.max(*now_ns),
            _ => {
                *now_ns = until_ns;
                return sent;
            }
        }
    }
}

#[test]
fn dhcp_gives_an_address_and_renews_it() {
    let mut client = Stack::new(Config::new(A_MAC, None, None, 3), 0).unwrap();
    assert_eq!(client.connect(SocketAddrV4::new(B_IP, 1)), Err(Error::Unaddressable));
    let server = dhcp_server(600);
    let mut now_ns = 0;
    // Nobody answers at first.
    assert!(run_dhcp(&mut client, None, &mut now_ns, 2_900 * MS) >= 5, "it keeps asking");
    assert_eq!(client.address(), None);
    run_dhcp(&mut client, Some(&server), &mut now_ns, 10_000 * MS);
    assert_eq!(client.address(), Some(Ipv4Cidr::new(A_IP, 24)));
    assert_eq!(client.gateway(), Some(B_IP));
    assert_eq!(client.dns_servers(), [Ipv4Addr::new(10, 0, 2, 3)]);
    let mut events = Vec::new();
    client.take_events(|event| events.push(event));
    assert_eq!(events, [Event::Address]);
    // An hour of renewals changes nothing; then the server is gone and the address with it.
    client.learn_neighbor(B_IP, B_MAC).unwrap();
    for minute in 1..=60 {
        run_dhcp(&mut client, Some(&server), &mut now_ns, minute * 60_000 * MS);
        client.learn_neighbor(B_IP, B_MAC).unwrap();
    }
    assert_eq!(client.address(), Some(Ipv4Cidr::new(A_IP, 24)));
    assert!(!client.has_events());
    run_dhcp(&mut client, None, &mut now_ns, 75 * 60_000 * MS);
    assert_eq!(client.address(), None);
    client.take_events(|event| events.push(event));
    assert_eq!(events, [Event::Address, Event::Address]);
}

#[test]
fn dhcp_server_ignores_what_is_not_for_it() {
    let server = dhcp_server(60);
    let mut out = Outbox::new(0);
    assert!(!server.serve(&[0; 20], &mut out));
    let mut stack = Stack::new(config_a(4), 0).unwrap();
    let id = stack.bind(9, QUEUE).unwrap();
    stack.learn_neighbor(B_IP, B_MAC).unwrap();
    stack.send_to(id, b"not dhcp", SocketAddrV4::new(B_IP, 67)).unwrap();
    let mut frames = Outbox::new(0);
    stack.poll(0, &mut frames);
    assert!(server.serve(&frames.frames[0], &mut out), "port 67 is its own");
    assert!(out.frames.is_empty());
}

#[test]
fn pings_and_unknown_ports_are_answered() {
    let mut stack = Stack::new(config_a(5), 0).unwrap();
    stack.learn_neighbor(B_IP, B_MAC).unwrap();
    let mut config = config_b(5);
    config.software_checksums = true;
    let mut peer = Stack::new(config, 0).unwrap();
    peer.learn_neighbor(A_IP, A_MAC).unwrap();
    let id = peer.bind(9, QUEUE).unwrap();
    peer.send_to(id, b"anyone?", SocketAddrV4::new(A_IP, 9)).unwrap();
    let (mut there, mut back) = (Outbox::new(0), Outbox::new(0));
    peer.poll(0, &mut there);
    let datagram = there.frames.pop_front().unwrap();
    stack.receive(0, &datagram, &mut back);
    let reply = back.frames.pop_front().expect("port unreachable");
    assert_eq!((reply[23], reply[34], reply[35]), (1, 3, 3));
    // A ping: the reply made into a request.
    let mut ping = reply.clone();
    ping[..6].copy_from_slice(&A_MAC);
    ping[6..12].copy_from_slice(&B_MAC);
    ping[26..30].copy_from_slice(&B_IP.octets());
    ping[30..34].copy_from_slice(&A_IP.octets());
    (ping[34], ping[35]) = (8, 0);
    ping[36..38].fill(0);
    let sum: u32 = ping[34..].chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |&l| u32::from(l))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ping[36..38].copy_from_slice(&sum.to_be_bytes());
    stack.receive(0, &ping, &mut back);
    let pong = back.frames.pop_front().expect("echo reply");
    assert_eq!((pong[23], pong[34]), (1, 0));
    assert_eq!(pong[38..], ping[38..]);
}

#[test]
fn an_expired_neighbour_is_asked_for_again() {
    let mut net = Net::new(6);
    let listener = net.a.stack.listen(80, 4).unwrap();
    let (a, b) = net.connect(listener, 80);
    net.run_for(200_000);
    net.trace = Some(Vec::new());
    let before_ns = net.now_ns;
    net.b.stack.send(b, b"after a pause").unwrap();
    net.run(1_000, "no data", |net| net.a.stack.recv_queue(a) == Ok(13));
    assert!(net.trace.as_ref().unwrap().iter().any(|(_, _, frame)| frame[12..14] == [8, 6]), "no ARP was needed");
    assert!(net.now_ns - before_ns < 2 * MS, "the data left as soon as the address was known");
}

fn hub(seed: u64) -> Net {
    let mut config = config_b(seed);
    config.any_ip = true;
    let mut net = Net::with(config_a(seed), config, CLEAN, seed);
    net.b.stack.intercept(4);
    net
}

#[test]
fn the_hub_decides_about_connections_to_anywhere() {
    let mut net = hub(7);
    let anywhere = SocketAddrV4::new(Ipv4Addr::new(93, 184, 216, 34), 443);
    let a = net.a.stack.connect(anywhere).unwrap();
    net.run(100, "not intercepted", |net| !net.b.events.is_empty());
    let Some(Event::Incoming(id)) = net.b.events.pop() else { panic!("{:?}", net.b.events) };
    let incoming = net.b.stack.incoming(id).unwrap();
    assert_eq!((incoming.local, incoming.remote), (anywhere, net.a.stack.local(a).unwrap()));
    // The decision takes longer than the guest's first retransmission.
    net.run_for(2_500);
    assert!(net.b.events.is_empty(), "a repeated SYN is the same attempt");
    let b = net.b.stack.accept_incoming(id).unwrap();
    assert_eq!(net.b.stack.accept_incoming(id), Err(Error::NotConnected));
    assert_eq!(net.b.stack.incoming(id), None);
    assert_eq!(net.b.stack.send(b, b"x"), Err(Error::WouldBlock));
    net.run(100, "not connected", |net| net.b.readiness(b).contains(Readiness::CONNECTED));
    assert_eq!(net.b.stack.local(b).unwrap(), anywhere);
    net.b.stack.send(b, b"hello from the internet").unwrap();
    net.run(100, "no data", |net| net.a.stack.recv_queue(a) == Ok(23));
    assert_eq!(read_all(&mut net.a.stack, a), b"hello from the internet");
}

#[test]
fn the_hub_refuses_and_forgets() {
    let mut net = hub(8);
    let anywhere = SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 25);
    let a = net.a.stack.connect(anywhere).unwrap();
    net.run(100, "not intercepted", |net| !net.b.events.is_empty());
    let Some(Event::Incoming(id)) = net.b.events.pop() else { panic!("{:?}", net.b.events) };
    net.b.stack.refuse_incoming(id).unwrap();
    assert_eq!(net.b.stack.refuse_incoming(id), Err(Error::NotConnected));
    net.run(100, "not refused", |net| net.a.stack.end(a) == Some(Error::Refused));
    // Nobody decides: the attempt is forgotten, and more than the limit are not even kept.
    for _ in 0..6 {
        net.a.stack.connect(anywhere).unwrap();
    }
    net.run_for(100);
    assert_eq!(net.b.events.len(), 4);
    assert_eq!(net.b.stack.stats().backlog_full, 2);
    let Some(Event::Incoming(id)) = net.b.events.pop() else { panic!("{:?}", net.b.events) };
    net.run_for(5_000);
    assert_eq!(net.b.stack.accept_incoming(id), Err(Error::NotConnected));
    assert_eq!(net.b.stack.connections(), 0);
}

#[test]
fn the_hub_answers_datagrams_in_the_name_of_others() {
    let mut net = hub(9);
    let name_server = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 3), 53);
    let b = net.b.stack.bind(53, QUEUE).unwrap();
    let a = net.a.stack.bind(0, QUEUE).unwrap();
    net.a.stack.send_to(a, b"who is?", name_server).unwrap();
    net.run(100, "no query", |net| !net.b.events.is_empty());
    let query = net.b.stack.recv_from(b, &mut [0; 64]).unwrap();
    assert_eq!(query.local, *name_server.ip());
    net.b.stack.send_from(b, b"nobody", query.local, query.remote).unwrap();
    net.run(100, "no answer", |net| !net.a.events.is_empty());
    assert_eq!(net.a.stack.recv_from(a, &mut [0; 64]).unwrap().remote, name_server);
}

#[test]
fn the_hub_does_not_claim_an_announced_address() {
    let mut net = hub(10);
    // A gratuitous ARP of the guest: request, sender and target its own address.
    let mut frame = vec![0xff; 6];
    frame.extend(A_MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(A_MAC);
    frame.extend(A_IP.octets());
    frame.extend([0; 6]);
    frame.extend(A_IP.octets());
    net.b.stack.receive(0, &frame, &mut net.b.out);
    assert!(net.b.out.frames.is_empty());
    let asked = frame.len() - 4;
    frame[asked..].copy_from_slice(&[10, 0, 2, 99]);
    net.b.stack.receive(0, &frame, &mut net.b.out);
    assert_eq!(net.b.out.frames.len(), 1, "everything else it answers for");
    assert!(net.b.out.has_room());
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let ok = config_a(1);
    let refused = |change: &dyn Fn(&mut Config)| {
        let mut config = ok.clone();
        change(&mut config);
        let error = Stack::new(config, 0).err().expect("refused");
        assert!(!error.to_string().is_empty());
    };
    refused(&|c| c.mac = [1, 0, 0, 0, 0, 0]);
    refused(&|c| c.ip = Some(Ipv4Cidr::new(Ipv4Addr::BROADCAST, 24)));
    refused(&|c| c.gateway = Some(Ipv4Addr::new(224, 0, 0, 1)));
    refused(&|c| c.mtu_bytes = 100);
    refused(&|c| c.mtu_bytes = 70_000);
    refused(&|c| c.tcp_rx_bytes = 0);
    refused(&|c| c.tcp_tx_bytes = 2 << 30);
    refused(&|c| c.max_connections = 0);
}

#[test]
fn fragments_are_dropped_and_counted() {
    let mut net = Net::new(11);
    net.a.stack.bind(9, QUEUE).unwrap();
    let b = net.b.stack.bind(0, QUEUE).unwrap();
    net.b.stack.learn_neighbor(A_IP, A_MAC).unwrap();
    net.b.stack.send_to(b, b"a part of something", SocketAddrV4::new(A_IP, 9)).unwrap();
    net.b.stack.poll(0, &mut net.b.out);
    let whole = net.b.out.frames.pop_front().unwrap();
    for (high, low) in [(0x20, 0), (0, 1), (0x3f, 0xff)] {
        let mut frame = whole.clone();
        (frame[20], frame[21]) = (high, low);
        net.a.stack.receive(0, &frame, &mut net.a.out);
    }
    assert_eq!(net.a.stack.stats().unusable_frames, 3);
    assert!(!net.a.stack.has_events());
    let mut frame = whole;
    frame[20] = 0x40;
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum();
    frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    net.a.stack.receive(0, &frame, &mut net.a.out);
    assert!(net.a.stack.has_events(), "don't-fragment is no fragment");
}
