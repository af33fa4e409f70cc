//! A socket of datagrams stands for the tap: it too moves whole frames, and refuses what it has no room for.

use std::os::unix::net::UnixDatagram;

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Keeps frames, and has room for some more.
struct Frames {
    got: Vec<Vec<u8>>,
    room: usize,
}

impl FrameSink for Frames {
    fn has_room(&self) -> bool {
        self.got.len() < self.room
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = vec![0; len_bytes];
        let result = fill(&mut frame);
        self.got.push(frame);
        result
    }
}

fn tap() -> (Tap, UnixDatagram) {
    let (ours, theirs) = UnixDatagram::pair().expect("a socket pair");
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true).expect("non-blocking");
    }
    let device = TapDevice { fd: ours.into(), name: "plx0".to_owned(), mtu_bytes: 1500 };
    (Tap::over(device, Mac(MAC), None), theirs)
}

fn frame(to: [u8; 6], ethertype: [u8; 2], body: u8) -> Vec<u8> {
    [&to[..], &[2, 0, 0, 0, 0, 1], &ethertype, &[body; 46]].concat()
}

#[test]
fn only_what_can_concern_the_guest_comes_in() {
    let (mut tap, outside) = tap();
    let wanted = [frame(MAC, ETHERTYPE_IPV4, 1), frame(BROADCAST, ETHERTYPE_ARP, 2)];
    let unwanted = [
        frame([2, 0, 0, 0, 0, 8], ETHERTYPE_IPV4, 3),
        frame([0x33, 0x33, 0, 0, 0, 1], [0x86, 0xdd], 4),
        frame(MAC, [0x86, 0xdd], 5),
        vec![0xff; ETHERNET_HEADER_BYTES - 1],
    ];
    for frame in unwanted.iter().chain(&wanted) {
        outside.send(frame).expect("a socket with room");
    }
    let mut guest = Frames { got: Vec::new(), room: 10 };
    assert_eq!(tap.run(0, &mut guest), None);
    assert_eq!(guest.got, wanted);
    assert_eq!(tap.counters.filtered, unwanted.len() as u64);
}

#[test]
fn a_full_wire_leaves_frames_where_they_are() {
    let (mut tap, outside) = tap();
    for body in 1..=3 {
        outside.send(&frame(MAC, ETHERTYPE_IPV4, body)).expect("a socket with room");
    }
    let mut guest = Frames { got: Vec::new(), room: 2 };
    assert_eq!(tap.run(0, &mut guest), None);
    assert_eq!(guest.got.len(), 2);
    guest.room = 10;
    // Without a new event: what was there before is not forgotten.
    assert_eq!(tap.run(0, &mut guest), None);
    assert_eq!(guest.got.iter().map(|frame| frame[20]).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn a_flood_does_not_keep_the_turn() {
    let (mut tap, outside) = tap();
    let mut guest = Frames { got: Vec::new(), room: usize::MAX };
    let mut sent = 0;
    // The socket holds fewer frames than a turn takes, so that it is filled again while the turn goes on.
    struct Refill<'a>(&'a mut Frames, &'a UnixDatagram, &'a mut u64);
    impl FrameSink for Refill<'_> {
        fn has_room(&self) -> bool {
            self.0.has_room()
        }
        fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
            *self.2 += 1;
            self.1.send(&frame(MAC, ETHERTYPE_IPV4, *self.2 as u8)).expect("a socket with room");
            self.0.transmit(len_bytes, fill)
        }
    }
    outside.send(&frame(MAC, ETHERTYPE_IPV4, 0)).expect("a socket with room");
    assert_eq!(tap.run(77, &mut Refill(&mut guest, &outside, &mut sent)), Some(77), "there is more");
    assert_eq!(guest.got.len(), FRAMES_A_TURN);
}

#[test]
fn a_full_tap_delays_frames_and_then_drops_them() {
    let (mut tap, outside) = tap();
    let long = vec![7; 1514];
    let mut sent = 0u64;
    while tap.counters.dropped == 0 {
        tap.receive(&long);
        sent += 1;
    }
    assert!(tap.waiting_bytes > MAX_WAITING_BYTES - long.len());
    let mut guest = Frames { got: Vec::new(), room: 0 };
    let mut bytes = [0; 2048];
    let mut got = 0;
    loop {
        match outside.recv(&mut bytes) {
            Ok(length) => {
                assert_eq!(bytes[..length], long);
                got += 1;
            }
            Err(_) if tap.waiting.is_empty() => break,
            Err(_) => assert_eq!(tap.run(0, &mut guest), None),
        }
    }
    assert_eq!(got, sent - tap.counters.dropped);
    assert_eq!(tap.waiting_bytes, 0);
}

#[test]
fn the_guest_checks_what_has_crossed_a_network() {
    let (mut tap, _outside) = tap();
    let asking = tap.network();
    assert!(asking.dhcp && asking.checksums);
    assert_eq!((asking.mac, asking.address, asking.mtu_bytes), (MAC, [0; 4], 1500));
    tap.address = Some(StaticAddress {
        address: Ipv4Addr::new(10, 9, 0, 2),
        prefix_bits: 24,
        gateway: Some(Ipv4Addr::new(10, 9, 0, 1)),
    });
    let fixed = tap.network();
    assert!(!fixed.dhcp && fixed.checksums);
    assert_eq!((fixed.address, fixed.prefix_bits, fixed.gateway), ([10, 9, 0, 2], 24, [10, 9, 0, 1]));
}
