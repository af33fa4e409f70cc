//! The situations in which smoltcp 0.14 alone hangs (see `src/quirks.rs`), each made on purpose. Times are simulated.
#![allow(missing_docs)]

mod common;

use common::{A_IP, CLEAN, MS, Net, config_a, config_b, read_all};
use netstack::ConnId;

const PORT: u16 = 6379;
/// Ethernet, IPv4 and TCP headers without options, in bytes.
const HEADERS_BYTES: usize = 54;

/// A connected pair without checksums, so that frames can be forged, and with a record of all frames.
fn connected(seed: u64) -> (Net, ConnId, ConnId) {
    let (mut a, mut b) = (config_a(seed), config_b(seed));
    a.software_checksums = false;
    b.software_checksums = false;
    let mut net = Net::with(a, b, CLEAN, seed);
    let listener = net.a.stack.listen(PORT, 8).unwrap();
    let (a, b) = net.connect(listener, PORT);
    net.run_for(100);
    net.trace = Some(Vec::new());
    (net, a, b)
}

/// The TCP frames sent to `a` (or to `b`) since the record began.
fn sent(net: &Net, to_a: bool) -> Vec<Vec<u8>> {
    let trace = net.trace.as_ref().unwrap();
    trace.iter().filter(|(_, to, frame)| *to == to_a && frame[23] == 6).map(|(_, _, frame)| frame.clone()).collect()
}

fn deliver(net: &mut Net, to_a: bool, frame: &[u8]) {
    let host = if to_a { &mut net.a } else { &mut net.b };
    host.stack.receive(net.now_ns, frame, &mut host.out);
}

/// An acknowledgement from `a` of everything that `b` has been told, made from a frame of `b`: it acknowledges `ack`
/// and offers `window` bytes.
fn forged_ack(from_b: &[u8], ack: [u8; 4], window: u16) -> Vec<u8> {
    let mut frame = from_b[..HEADERS_BYTES].to_vec();
    let (destination, source) = from_b[..12].split_at(6);
    frame[..6].copy_from_slice(source);
    frame[6..12].copy_from_slice(destination);
    frame[16..18].copy_from_slice(&40u16.to_be_bytes());
    frame[26..30].copy_from_slice(&A_IP.octets());
    frame[30..34].copy_from_slice(&from_b[26..30]);
    frame[34..36].copy_from_slice(&from_b[36..38]);
    frame[36..38].copy_from_slice(&from_b[34..36]);
    frame[38..42].copy_from_slice(&from_b[42..46]);
    frame[42..46].copy_from_slice(&ack);
    frame[46] = 0x50;
    frame[47] = 0x10;
    frame[48..50].copy_from_slice(&window.to_be_bytes());
    frame
}

#[test]
fn a_fin_whose_data_came_before_is_taken() {
    let (mut net, a, b) = connected(1);
    net.b.stack.send(b, &[5; 1560]).unwrap();
    net.b.stack.shutdown(b).unwrap();
    net.faults.loss = 100;
    net.poll();
    net.faults.loss = 0;
    let frames = sent(&net, true);
    assert_eq!(frames.len(), 2);
    assert_ne!(frames[1][47] & 1, 0, "the second segment carries the FIN");
    // The first is lost, the second arrives; then the first, and the second again.
    for n in [1, 0, 1] {
        deliver(&mut net, true, &frames[n]);
    }
    assert_eq!(read_all(&mut net.a.stack, a).len(), 1560);
    assert_eq!(net.a.stack.recv(a, &mut [0; 1]), Ok(0));
}

#[test]
fn a_lost_fin_is_sent_again_despite_repeated_acknowledgements() {
    let (mut net, a, b) = connected(2);
    net.b.stack.shutdown(b).unwrap();
    net.faults.loss = 100;
    net.poll();
    net.faults.loss = 0;
    let fin = sent(&net, true).pop().unwrap();
    let seq: [u8; 4] = fin[38..42].try_into().unwrap();
    for _ in 0..6 {
        let ack = forged_ack(&fin, seq, 16_384);
        deliver(&mut net, false, &ack);
        net.poll();
    }
    net.run(1_100, "FIN never repeated", |net| net.a.stack.recv(a, &mut [0; 1]) == Ok(0));
}

#[test]
fn a_fast_retransmission_waits_for_room() {
    let (mut net, a, b) = connected(3);
    net.b.stack.send(b, &[5; 5 * 1460]).unwrap();
    net.faults.loss = 100;
    net.poll();
    net.faults.loss = 0;
    let frames = sent(&net, true);
    assert_eq!(frames.len(), 5);
    for frame in &frames[1..] {
        deliver(&mut net, true, frame);
    }
    // Four duplicate acknowledgements reach B while its sink is full.
    net.b.out.room = 0;
    net.run_for(10);
    let before_ns = net.now_ns;
    net.b.out.room = usize::MAX;
    net.run(2_000, "nothing retransmitted", |net| net.a.stack.recv_queue(a) == Ok(5 * 1460));
    assert!(net.now_ns - before_ns < 500 * MS, "it was not the slow timer that helped");
}

/// B sends data that is all lost, and hears that the window is closed; then the wire is good again.
fn closed_window(net: &mut Net, b: ConnId) {
    net.b.stack.send(b, &[5; 3000]).unwrap();
    net.faults.loss = 100;
    net.poll();
    let first = sent(net, true).into_iter().find(|frame| frame.len() > HEADERS_BYTES).unwrap();
    let seq: [u8; 4] = first[38..42].try_into().unwrap();
    deliver(net, false, &forged_ack(&first, seq, 0));
    net.run_for(3_000);
    net.faults.loss = 0;
}

#[test]
fn a_window_closed_by_an_old_segment_opens_again() {
    let (mut net, a, b) = connected(4);
    closed_window(&mut net, b);
    net.run(10_000, "stuck", |net| net.a.stack.recv_queue(a) == Ok(3000));
    // Once it has helped, the probing stops.
    net.b.stack.send(b, b"x").unwrap();
    net.run_for(5_000);
    let quiet = net.delivered;
    net.run_for(60_000);
    assert_eq!(net.delivered, quiet);
}

#[test]
fn the_same_while_closing() {
    let (mut net, a, b) = connected(5);
    net.a.stack.shutdown(a).unwrap();
    net.run(100, "no end", |net| net.b.stack.recv(b, &mut [0; 1]) == Ok(0));
    closed_window(&mut net, b);
    net.b.stack.close(b).unwrap();
    net.run(10_000, "stuck", |net| net.a.stack.recv_queue(a) == Ok(3000));
    read_all(&mut net.a.stack, a);
    net.run(1_000, "no end", |net| net.a.stack.recv(a, &mut [0; 1]) == Ok(0));
    net.a.stack.close(a).unwrap();
    net.run(11_000, "not reclaimed", |net| net.a.stack.connections() + net.b.stack.connections() == 0);
}

#[test]
fn closing_with_data_queued_sends_it_all_in_either_state() {
    for peer_first in [false, true] {
        let (mut net, a, b) = connected(6);
        if peer_first {
            net.a.stack.shutdown(a).unwrap();
            net.run(100, "no end", |net| net.b.stack.recv(b, &mut [0; 1]) == Ok(0));
        }
        net.b.stack.send(b, &[5; 10_000]).unwrap();
        net.b.stack.close(b).unwrap();
        net.run(100, "data missing", |net| net.a.stack.recv_queue(a) == Ok(10_000));
        read_all(&mut net.a.stack, a);
        net.run(100, "no end", |net| net.a.stack.recv(a, &mut [0; 1]) == Ok(0));
        net.a.stack.close(a).unwrap();
    }
}

#[test]
fn a_lost_answer_is_sent_again_after_the_least_timeout() {
    // Guards the shortcut by which a socket that has sent everything is not asked for its deadline.
    let (mut net, a, b) = connected(7);
    for round in 0..5 {
        net.b.stack.send(b, b"request").unwrap();
        net.faults.loss = 100;
        net.poll();
        net.faults.loss = 0;
        let sent_ns = net.now_ns;
        net.run(5_000, "never repeated", |net| net.a.stack.recv_queue(a) == Ok(7));
        let waited_ms = (net.now_ns - sent_ns) / MS;
        // The estimator doubles its timeout when it fires and halves it with a clean round trip.
        assert!((1_000..=2_001).contains(&waited_ms), "round {round}: {waited_ms} ms");
        read_all(&mut net.a.stack, a);
        net.b.stack.send(b, b"clean").unwrap();
        net.run(100, "no data", |net| !read_all(&mut net.a.stack, a).is_empty());
        net.run_for(100);
    }
}
