use super::*;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

/// What a wire would have been given.
#[derive(Default)]
struct Frames {
    got: Vec<Vec<u8>>,
    full: bool,
}

impl FrameSink for Frames {
    fn has_room(&self) -> bool {
        !self.full
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = vec![0; len_bytes];
        let result = fill(&mut frame);
        self.got.push(frame);
        result
    }
}

/// An uplink to ourselves, with a process that only has an end.
fn passt() -> (Passt, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_nonblocking(true).expect("non-blocking");
    let passt = Passt {
        child: Command::new("false").spawn().expect("a process"),
        log: PathBuf::new(),
        published: Vec::new(),
        port: Some(Port::new(mio::net::UnixStream::from_std(ours))),
        readable: true,
        answered: false,
        accepting: false,
        failure: None,
        counters: PasstCounters::default(),
    };
    (passt, theirs)
}

fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
}

#[test]
fn ports_and_addresses_are_named_as_passt_expects_them() {
    let published = [(([127, 0, 0, 1], 7300).into(), 6379), (([0, 0, 0, 0], 7301).into(), 7)];
    let all = arguments(&published, false, 5).join(" ");
    for wanted in [
        "--foreground",
        "--fd 5",
        "--address 10.0.2.15 --netmask 24 --gateway 10.0.2.2",
        "--tcp-ports 127.0.0.1/7300:6379 --tcp-ports 0.0.0.0/7301:7",
        "--udp-ports none",
        "--no-map-gw",
    ] {
        assert!(all.contains(wanted), "{wanted:?} is not in {all:?}");
    }
    assert!(!arguments(&[], true, 5).iter().any(|word| word == "--no-map-gw" || word == "--tcp-ports"));
}

#[test]
fn frames_for_the_guest_wait_until_it_serves_and_long_ones_are_left_out() {
    let (mut passt, mut peer) = passt();
    let mut wire = Frames::default();
    peer.write_all(&framed(&arp_request())).expect("written");
    passt.run(&mut wire, false);
    assert!(passt.has_answered() && wire.got.is_empty(), "the first answer is not the guest's");
    for frame in [vec![1; MAX_FRAME_BYTES], vec![2; MAX_FRAME_BYTES + 1], arp_request()] {
        peer.write_all(&framed(&frame)).expect("written");
    }
    passt.ready();
    passt.run(&mut wire, false);
    assert!(wire.got.is_empty(), "the guest does not serve yet");
    wire.full = true;
    passt.run(&mut wire, true);
    assert!(wire.got.is_empty(), "the wire is full");
    wire.full = false;
    passt.run(&mut wire, false);
    assert_eq!(wire.got, [vec![1; MAX_FRAME_BYTES], arp_request()]);
    assert_eq!(passt.counters.filtered, 1);
}

#[test]
fn frames_of_the_guest_leave_in_one_turn_and_do_not_pile_up() {
    let (mut passt, mut peer) = passt();
    passt.receive(b"one");
    passt.receive(b"three");
    passt.run(&mut Frames::default(), true);
    let sent = [framed(b"one"), framed(b"three")].concat();
    let mut got = vec![0; sent.len()];
    peer.read_exact(&mut got).expect("read");
    assert_eq!(got, sent);
    for _ in 0..=MAX_WAITING_BYTES / 1000 {
        passt.receive(&[0; 1000]);
    }
    assert!(passt.counters.dropped > 0, "the buffer is bounded");
}

#[test]
fn the_end_of_passt_is_a_failure_and_that_of_the_guest_is_not() {
    let (mut passt, peer) = self::passt();
    // Not dropped: a process that another test is starting may hold a copy for a moment.
    peer.shutdown(std::net::Shutdown::Both).expect("shut down");
    passt.run(&mut Frames::default(), true);
    let failure = passt.failure().expect("it is gone");
    assert!(failure.contains("exit status: 1") || failure.contains("signal"), "{failure}");
    let (mut passt, mut peer) = self::passt();
    passt.receive(b"bye");
    passt.guest_has_gone();
    passt.run(&mut Frames::default(), true);
    let mut got = Vec::new();
    peer.read_to_end(&mut got).expect("the end");
    assert_eq!((got, passt.failure()), (framed(b"bye"), None));
}
