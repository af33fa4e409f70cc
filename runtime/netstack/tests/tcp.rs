//! Connections over a clean wire: opening, data, closing, limits.
#![allow(missing_docs)]

mod common;

use std::net::SocketAddrV4;

use common::{A_IP, CLEAN, Net, config_a, config_b, read_all};
use netstack::{ConnId, Error, Event, Readiness};

const PORT: u16 = 6379;

#[test]
fn echo_and_close_from_the_client() {
    let mut net = Net::new(1);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    assert!(net.a.events.contains(&Event::Acceptable(listener)));
    assert!(net.b.readiness(b).contains(Readiness::CONNECTED | Readiness::WRITABLE));
    assert_eq!(net.a.stack.remote(a).unwrap(), net.b.stack.local(b).unwrap());
    assert_eq!(net.a.stack.recv(a, &mut [0; 8]), Err(Error::WouldBlock));

    assert_eq!(net.b.stack.send(b, b"hello"), Ok(5));
    net.run(100, "no data", |net| net.a.stack.recv_queue(a) == Ok(5));
    assert!(net.a.readiness(a).contains(Readiness::READABLE));
    assert_eq!(read_all(&mut net.a.stack, a), b"hello");
    assert_eq!(net.a.stack.send(a, b"world!"), Ok(6));
    net.run(100, "no answer", |net| net.b.stack.recv_queue(b) == Ok(6));
    assert_eq!(read_all(&mut net.b.stack, b), b"world!");

    net.b.stack.close(b).unwrap();
    assert_eq!(net.b.stack.send(b, b"x"), Err(Error::NotConnected));
    net.run(100, "no end of stream", |net| net.a.readiness(a).contains(Readiness::READABLE));
    assert_eq!(net.a.stack.recv(a, &mut [0; 8]), Ok(0));
    net.a.stack.close(a).unwrap();
    net.run(60_000, "connections not reclaimed", |net| {
        net.a.stack.connections() == 0 && net.b.stack.connections() == 0
    });
}

#[test]
fn a_port_of_ones_own_choice_and_what_is_asked_of_a_connection() {
    let mut net = Net::new(21);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let to = SocketAddrV4::new(A_IP, PORT);
    let b = net.b.stack.connect_from(Some(7777), to).unwrap();
    assert_eq!(net.b.stack.connect_from(Some(7777), to), Err(Error::PortInUse));
    assert_eq!(net.b.stack.local(b).map(|local| local.port()), Ok(7777));
    let hops = std::num::NonZeroU8::new(3);
    net.b.stack.set_hop_limit(b, hops).unwrap();
    net.run(100, "no connection", |net| net.a.stack.accept_queue(listener) == 1 && net.b.stack.may_send(b));
    let a = net.a.stack.accept(listener).unwrap();
    assert_eq!(net.a.stack.remote(a).map(|remote| remote.port()), Ok(7777));
    // A buffer that is exactly full was no failed attempt; who waits for room says so.
    let room = net.b.stack.send_capacity(b).unwrap();
    assert_eq!(net.b.stack.send(b, &vec![1; room]), Ok(room));
    net.b.events.clear();
    net.b.stack.await_room(b).unwrap();
    net.run(1000, "no room", |net| {
        read_all(&mut net.a.stack, a);
        net.b.readiness(b).contains(Readiness::WRITABLE)
    });
    assert!(!net.a.stack.peer_has_finished(a));
    net.b.stack.shutdown(b).unwrap();
    net.run(1000, "no end", |net| net.a.stack.peer_has_finished(a));
}

#[test]
fn half_close_keeps_the_other_direction() {
    let mut net = Net::new(2);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.b.stack.send(b, b"question").unwrap();
    net.b.stack.shutdown(b).unwrap();
    assert_eq!(net.b.stack.send(b, b"more"), Err(Error::Shutdown));
    net.run(100, "no end of stream", |net| !net.a.stack.may_recv(a) || net.a.stack.recv_queue(a) == Ok(8));
    assert_eq!(read_all(&mut net.a.stack, a), b"question");
    net.run(100, "no end of stream", |net| net.a.stack.recv(a, &mut [0; 1]) == Ok(0));
    net.a.stack.send(a, b"answer").unwrap();
    net.a.stack.close(a).unwrap();
    net.run(100, "no answer", |net| net.b.stack.recv_queue(b) == Ok(6));
    assert_eq!(read_all(&mut net.b.stack, b), b"answer");
    net.run(100, "no end", |net| net.b.stack.recv(b, &mut [0; 1]) == Ok(0));
    assert_eq!(net.b.stack.connections(), 1, "TIME-WAIT is kept");
    net.b.stack.close(b).unwrap();
    net.run(60_000, "not reclaimed", |net| net.a.stack.connections() + net.b.stack.connections() == 0);
}

#[test]
fn abort_resets_the_peer() {
    let mut net = Net::new(3);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.b.stack.send(b, b"last words").unwrap();
    net.run(100, "no data", |net| net.a.stack.recv_queue(a) == Ok(10));
    net.b.stack.abort(b).unwrap();
    net.run(100, "no reset", |net| net.a.readiness(a).contains(Readiness::CLOSED));
    assert_eq!(net.b.stack.connections(), 0);
    assert_eq!(read_all(&mut net.a.stack, a), b"last words", "what arrived stays readable");
    assert_eq!(net.a.stack.recv(a, &mut [0; 1]), Err(Error::Reset));
    assert_eq!(net.a.stack.send(a, b"x"), Err(Error::Reset));
    assert!(!net.a.stack.is_open(a));
    assert_eq!(net.a.stack.connections(), 1, "the id holds the slot");
    net.a.stack.close(a).unwrap();
    assert_eq!(net.a.stack.connections(), 0);
}

#[test]
fn closing_with_unread_data_resets() {
    let mut net = Net::new(4);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.b.stack.send(b, b"ignored").unwrap();
    net.run(100, "no data", |net| net.a.stack.recv_queue(a) == Ok(7));
    net.a.stack.close(a).unwrap();
    net.run(100, "no reset", |net| net.b.stack.end(b) == Some(Error::Reset));
    assert_eq!(net.a.stack.connections(), 0);
}

#[test]
fn data_for_a_closed_connection_resets() {
    let mut net = Net::new(5);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.a.stack.close(a).unwrap();
    net.run(100, "no end", |net| net.b.stack.recv(b, &mut [0; 1]) == Ok(0));
    net.b.stack.send(b, b"into the void").unwrap();
    net.run(100, "no reset", |net| net.b.stack.end(b) == Some(Error::Reset));
    assert_eq!(net.a.stack.connections(), 0);
}

#[test]
fn nobody_listens() {
    let mut net = Net::new(6);
    let b = net.b.stack.connect(SocketAddrV4::new(A_IP, 99)).unwrap();
    assert_eq!(net.b.stack.recv(b, &mut [0; 1]), Err(Error::WouldBlock));
    assert_eq!(net.b.stack.send(b, b"x"), Err(Error::WouldBlock));
    net.run(100, "not refused", |net| net.b.readiness(b).contains(Readiness::CLOSED));
    assert_eq!(net.b.stack.recv(b, &mut [0; 1]), Err(Error::Refused));
    assert_eq!(net.b.stack.end(b), Some(Error::Refused));
}

#[test]
fn nobody_answers() {
    let mut config = config_b(7);
    config.user_timeout_ms = 3_000;
    let mut net = Net::with(config_a(7), config, CLEAN, 7);
    net.faults.loss = 100;
    let b = net.b.stack.connect(SocketAddrV4::new(A_IP, PORT)).unwrap();
    net.run(3_100, "no timeout", |net| net.b.readiness(b).contains(Readiness::CLOSED));
    assert_eq!(net.b.stack.end(b), Some(Error::TimedOut));
    net.b.stack.close(b).unwrap();
    assert_eq!(net.b.stack.connections(), 0);
}

#[test]
fn silent_peer_times_out_only_with_data_outstanding() {
    let mut config = config_b(8);
    config.user_timeout_ms = 5_000;
    let mut net = Net::with(config_a(8), config, CLEAN, 8);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (_, b) = net.connect(listener, PORT);
    net.faults.loss = 100;
    net.run_for(3_600_000);
    assert!(net.b.stack.is_open(b), "idle is not silent");
    net.b.stack.send(b, b"are you there?").unwrap();
    net.run_for(4_900);
    assert!(net.b.stack.is_open(b));
    net.run(200, "no timeout", |net| net.b.stack.end(b) == Some(Error::TimedOut));
}

#[test]
fn idle_close_finishes_gracefully() {
    // The peer was silent for an hour: closing then must send a FIN, not give up at once.
    let mut net = Net::new(9);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.run_for(3_600_000);
    net.b.stack.close(b).unwrap();
    net.run(1_000, "no end", |net| net.a.stack.recv(a, &mut [0; 1]) == Ok(0));
}

#[test]
fn keep_alive_finds_a_dead_peer_and_spares_a_live_one() {
    let mut config = config_b(10);
    config.keep_alive_ms = Some(10_000);
    config.user_timeout_ms = 20_000;
    let mut net = Net::with(config_a(10), config, CLEAN, 10);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.run_for(600_000);
    assert!(net.b.stack.is_open(b), "a live peer answers probes");
    assert_eq!(net.a.stack.recv_queue(a), Ok(0), "a probe carries no data");
    net.faults.loss = 100;
    net.run(31_000, "dead peer not found", |net| net.b.stack.end(b) == Some(Error::TimedOut));
}

#[test]
fn keep_alive_switched_on_late() {
    let mut net = Net::new(11);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (_, b) = net.connect(listener, PORT);
    net.run_for(3_600_000);
    net.b.stack.set_keep_alive(b, Some(1_000)).unwrap();
    net.run_for(100_000);
    assert!(net.b.stack.is_open(b));
    net.faults.loss = 100;
    net.run(3_100, "dead peer not found after three probes", |net| net.b.stack.end(b) == Some(Error::TimedOut));
}

#[test]
fn idle_timeout() {
    let mut config = config_a(12);
    config.idle_timeout_ms = Some(30_000);
    let mut net = Net::with(config, config_b(12), CLEAN, 12);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    for _ in 0..10 {
        net.run_for(20_000);
        net.b.stack.send(b, b"x").unwrap();
        net.run(100, "no data", |net| !read_all(&mut net.a.stack, a).is_empty());
    }
    assert!(net.a.stack.is_open(a));
    net.run(30_100, "idle connection kept", |net| net.a.stack.end(a) == Some(Error::TimedOut));
    net.run(100, "peer not told", |net| net.b.stack.end(b) == Some(Error::Reset));
}

#[test]
fn backpressure_and_writable() {
    let mut net = Net::new(13);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    let data: Vec<u8> = (0..200_000u32).map(|n| (n % 251) as u8).collect();
    let (mut sent, mut got, mut blocked) = (0, Vec::new(), 0);
    net.b.events.clear();
    let mut may_write = true;
    net.run(120_000, "transfer incomplete", |net| {
        if may_write && sent < data.len() {
            loop {
                match net.b.stack.send(b, &data[sent..]) {
                    Ok(n) => sent += n,
                    Err(Error::WouldBlock) => break,
                    Err(error) => panic!("{error}"),
                }
                if sent == data.len() {
                    break;
                }
            }
            may_write = false;
            blocked += 1;
        }
        may_write |= net.b.readiness(b).contains(Readiness::WRITABLE);
        got.extend(read_all(&mut net.a.stack, a));
        got.len() == data.len()
    });
    assert!(blocked > 3, "the writer met back-pressure {blocked} times");
    assert_eq!(got, data);
}

#[test]
fn reader_that_stops_stalls_the_writer_and_resumes() {
    let mut net = Net::new(14);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    let data = vec![7; 100_000];
    let mut sent = net.b.stack.send(b, &data).unwrap();
    net.run_for(300_000);
    assert_eq!(net.a.stack.recv_queue(a), Ok(16 * 1024), "the window is full");
    assert!(net.b.stack.is_open(b), "a zero window is not silence: probes are answered");
    let mut got = 0;
    net.run(600_000, "no resumption", |net| {
        sent += net.b.stack.send(b, &data[sent..]).unwrap_or(0);
        got += read_all(&mut net.a.stack, a).len();
        got == data.len()
    });
}

#[test]
fn zero_copy_calls() {
    let mut net = Net::new(15);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    let room = net.b.stack.send_with(b, |room| {
        room[..4].copy_from_slice(b"ABCD");
        (4, room.len())
    });
    assert_eq!(room, Ok(16 * 1024));
    net.run(100, "no data", |net| net.a.stack.recv_queue(a) == Ok(4));
    assert_eq!(net.a.stack.recv_with(a, |data| (1, data.to_vec())), Ok(b"ABCD".to_vec()));
    assert_eq!(net.a.stack.recv_with(a, |data| (usize::MAX, data.to_vec())), Ok(b"BCD".to_vec()));
    assert_eq!(net.a.stack.recv_with(a, |_| (0, ())), Err(Error::WouldBlock));
    assert_eq!(net.b.stack.send_with(b, |room| (usize::MAX, room.len())), Ok(16 * 1024 - 4));
    assert_eq!(net.b.stack.send_capacity(b), Ok(0));
    assert_eq!(net.b.stack.send(b, b"0123456789"), Err(Error::WouldBlock));
    assert_eq!(net.b.stack.send_with(b, |_| (0, ())), Err(Error::WouldBlock));
    assert_eq!(net.b.stack.send(b, b""), Ok(0));
}

#[test]
fn stale_ids_are_errors() {
    let mut net = Net::new(16);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.b.stack.abort(b).unwrap();
    net.a.stack.abort(a).unwrap();
    net.run_for(10);
    let (a2, _) = net.connect(listener, PORT);
    assert_eq!(a.index(), a2.index(), "the slot is reused, which is what makes the old id dangerous");
    let stack = &mut net.a.stack;
    for id in [a, ConnId::from_bits(0), ConnId::from_bits(u64::MAX)] {
        assert_eq!(stack.recv(id, &mut [0; 1]), Err(Error::NotConnected));
        assert_eq!(stack.recv_with(id, |_| (0, ())), Err(Error::NotConnected));
        assert_eq!(stack.send(id, b"x"), Err(Error::NotConnected));
        assert_eq!(stack.send_with(id, |_| (0, ())), Err(Error::NotConnected));
        assert_eq!(stack.close(id), Err(Error::NotConnected));
        assert_eq!(stack.abort(id), Err(Error::NotConnected));
        assert_eq!(stack.shutdown(id), Err(Error::NotConnected));
        assert_eq!(stack.recv_queue(id), Err(Error::NotConnected));
        assert_eq!(stack.send_queue(id), Err(Error::NotConnected));
        assert_eq!(stack.send_capacity(id), Err(Error::NotConnected));
        assert_eq!(stack.remote(id), Err(Error::NotConnected));
        assert_eq!(stack.set_nodelay(id, true), Err(Error::NotConnected));
        assert_eq!(stack.set_keep_alive(id, None), Err(Error::NotConnected));
        assert_eq!(stack.end(id), Some(Error::NotConnected));
        assert!(!stack.may_send(id) && !stack.may_recv(id) && !stack.is_open(id));
        assert!(stack.readiness(id).contains(Readiness::CLOSED));
    }
    assert_eq!(ConnId::from_bits(a2.to_bits()), a2);
    assert!(stack.is_open(a2));
    stack.unlisten(listener).unwrap();
    assert_eq!(stack.unlisten(listener), Err(Error::NotConnected));
    assert_eq!(stack.accept(listener), None);
}

#[test]
fn listen_and_connect_refuse_nonsense() {
    let mut net = Net::new(17);
    let stack = &mut net.a.stack;
    assert_eq!(stack.listen(0, 1), Err(Error::InvalidPort));
    stack.listen(1, 1).unwrap();
    assert_eq!(stack.listen(1, 1), Err(Error::PortInUse));
    for (ip, port, error) in [
        ([10, 0, 2, 2], 0, Error::InvalidPort),
        ([0, 0, 0, 0], 1, Error::Unaddressable),
        ([255, 255, 255, 255], 1, Error::Unaddressable),
        ([10, 0, 2, 255], 1, Error::Unaddressable),
        ([10, 0, 2, 15], 1, Error::Unaddressable),
        ([224, 0, 0, 1], 1, Error::Unaddressable),
    ] {
        assert_eq!(stack.connect(SocketAddrV4::new(ip.into(), port)), Err(error), "{ip:?}:{port}");
    }
}

#[test]
fn unlisten_resets_those_who_wait() {
    let mut net = Net::new(18);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let ids: Vec<_> = (0..4).map(|_| net.b.stack.connect(SocketAddrV4::new(A_IP, PORT)).unwrap()).collect();
    net.run(100, "not queued", |net| net.a.stack.accept_queue(listener) == 4);
    net.a.stack.unlisten(listener).unwrap();
    net.run(100, "not reset", |net| ids.iter().all(|&id| net.b.stack.end(id) == Some(Error::Reset)));
    assert_eq!(net.a.stack.connections(), 0);
    let again = net.a.stack.listen(PORT, 8).unwrap();
    assert_ne!(again, listener);
    net.connect(again, PORT);
}

#[test]
fn time_wait_is_bounded_and_makes_way() {
    let mut config = config_b(19);
    config.max_time_wait = 4;
    let mut net = Net::with(config_a(19), config, CLEAN, 19);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    for _ in 0..20 {
        let (a, b) = net.connect(listener, PORT);
        net.b.stack.close(b).unwrap();
        net.run(100, "no end", |net| net.a.stack.recv(a, &mut [0; 1]) == Ok(0));
        net.a.stack.close(a).unwrap();
        net.run(100, "passive side not reclaimed", |net| net.a.stack.connections() == 0);
        net.run_for(1);
        assert!(net.b.stack.connections() <= 4);
    }
    assert_eq!(net.b.stack.stats().time_wait_evicted, 16);
    net.run(11_000, "TIME-WAIT does not end", |net| net.b.stack.connections() == 0);
}

#[test]
fn unread_data_outlives_time_wait() {
    let mut net = Net::new(20);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.a.stack.shutdown(a).unwrap();
    net.run(100, "no end", |net| net.b.stack.recv(b, &mut [0; 1]) == Ok(0));
    net.b.stack.send(b, b"read me later").unwrap();
    net.b.stack.close(b).unwrap();
    net.run_for(60_000);
    assert_eq!(net.b.stack.connections(), 0);
    assert_eq!(read_all(&mut net.a.stack, a), b"read me later");
    assert_eq!(net.a.stack.recv(a, &mut [0; 1]), Ok(0));
    net.a.stack.close(a).unwrap();
    assert_eq!(net.a.stack.connections(), 0);
}

#[test]
fn a_repeated_fin_prolongs_time_wait() {
    let mut net = Net::new(21);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.b.stack.close(b).unwrap();
    net.run(100, "no end", |net| net.a.stack.recv(a, &mut [0; 1]) == Ok(0));
    // A's FIN leaves at 0, 1, 3, 7 and 15 s; the acknowledgements of all but the last are lost.
    net.a_hears = false;
    net.a.stack.shutdown(a).unwrap();
    net.run_for(8_000);
    assert_eq!(net.a.stack.end(a), None);
    net.a_hears = true;
    net.run_for(8_000);
    assert_eq!(net.a.stack.end(a), Some(Error::Finished));
    assert_eq!(net.b.stack.connections(), 1, "TIME-WAIT began again at 7 s");
    net.run(20_000, "TIME-WAIT does not end", |net| net.b.stack.connections() == 0);
}
