//! The forwarder with real sockets on one side and a real TCP/IP stack as the guest on the other.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use netstack::{FrameSink, ListenerId};
use protocol::ReplicaId;
use protocol::hubwire::{BatchEncoder, Envelope, MAX_PACKET_BYTES, Packet};

use super::*;
use crate::supervise::port::Port;

const SESSION: u64 = 5;
const GUEST_PORT: u16 = 80;
const TOKENS: Tokens = Tokens { listeners: 100, datagrams: 500, pipes: 1000 };
/// Nothing here takes this long; a test that waits for longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Collects the guest's frames.
#[derive(Default)]
struct Sink(Vec<Vec<u8>>);

impl FrameSink for Sink {
    fn has_room(&self) -> bool {
        self.0.len() < 64
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut frame = vec![0; len_bytes];
        let result = fill(&mut frame);
        self.0.push(frame);
        result
    }
}

/// A forwarder, its wire and a guest, moved on by hand.
struct Bench {
    poll: Poll,
    forwarder: Forwarder,
    wire: Wire,
    port: Port,
    guest_end: StdUnixStream,
    guest_input: Vec<u8>,
    guest: Stack,
    listener: ListenerId,
    sink: Sink,
    sent_frames: u64,
    started: Instant,
}

impl Bench {
    fn new(max_pipes: usize) -> Self {
        let poll = Poll::new().expect("an event loop");
        let (ours, theirs) = StdUnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("non-blocking");
        theirs.set_nonblocking(true).expect("non-blocking");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let published = vec![Published::new(listener, GUEST_PORT).expect("published")];
        let registry = poll.registry().try_clone().expect("a registry");
        let mut forwarder = Forwarder::new(registry, TOKENS, published, 7, true, 0).expect("a forwarder");
        forwarder.max_pipes = max_pipes;
        let mut config = Config::new(GUEST_MAC, Some(Ipv4Cidr::new(GUEST, PREFIX_BITS)), Some(GATEWAY), 9);
        config.software_checksums = false;
        config.mtu_bytes = MTU_BYTES;
        let mut guest = Stack::new(config, 0).expect("a stack");
        let listener = guest.listen(GUEST_PORT, 64).expect("a listener");
        Self {
            poll,
            forwarder,
            wire: Wire::new(SESSION, 1, ReplicaId::ZERO, 0),
            port: Port::new(mio::net::UnixStream::from_std(ours)),
            guest_end: theirs,
            guest_input: Vec::new(),
            guest,
            listener,
            sink: Sink::default(),
            sent_frames: 0,
            started: Instant::now(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.forwarder.published()[0].host
    }

    fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address()).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        client
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// One turn of everything.
    fn turn(&mut self) {
        let mut events = Events::with_capacity(256);
        self.poll.poll(&mut events, Some(Duration::from_millis(1))).expect("polled");
        let now_ns = self.now_ns();
        for event in &events {
            match event.token().0 {
                token @ 1000.. => self.forwarder.socket_ready(token - 1000, event),
                token @ 500.. => self.forwarder.datagram_socket_ready(token - 500, now_ns),
                token => self.forwarder.listener_ready(token - 100),
            }
        }
        let (wire, forwarder) = (&mut self.wire, &mut self.forwarder);
        self.port
            .read(|packet| {
                wire.take_packet(ReplicaId::ZERO, packet, |wire, frame| forwarder.receive(now_ns, frame, wire));
            })
            .expect("read");
        self.forwarder.run(now_ns, &mut self.wire, true);
        self.wire.flush(&mut self.port, now_ns).expect("flushed");
        self.guest_turn(now_ns);
    }

    fn guest_turn(&mut self, now_ns: u64) {
        let mut chunk = vec![0; 1 << 20];
        match self.guest_end.read(&mut chunk) {
            Ok(bytes) => self.guest_input.extend_from_slice(&chunk[..bytes]),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        while let Some((length, rest)) = self.guest_input.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let Some(packet) = rest.get(..length) else { break };
            let Ok(Packet::Frames(batch)) = Packet::decode(packet, SESSION) else { panic!("no batch") };
            for frame in batch.frames() {
                self.guest.receive(now_ns, frame, &mut self.sink);
            }
            self.guest_input.drain(..4 + length);
        }
        self.guest.poll(now_ns, &mut self.sink);
        let mut buffer = vec![0; 4 + MAX_PACKET_BYTES];
        for frame in std::mem::take(&mut self.sink.0) {
            let mut batch = BatchEncoder::new(&mut buffer[4..]).expect("large");
            assert!(batch.push(&frame));
            let envelope = Envelope { destination: [2; 6], source: [4; 6], session: SESSION, generation: 1 };
            let used = batch.finish(&envelope, self.sent_frames);
            self.sent_frames += 1;
            buffer[..4].copy_from_slice(&(used as u32).to_be_bytes());
            self.guest_end.write_all(&buffer[..4 + used]).expect("the socket takes it");
        }
    }

    /// Turns until `wanted` gives something.
    fn until<T>(&mut self, what: &str, mut wanted: impl FnMut(&mut Self) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            self.turn();
            if let Some(result) = wanted(self) {
                return result;
            }
            assert!(Instant::now() < until, "not in time: {what}");
        }
    }

    fn accept(&mut self) -> ConnId {
        self.until("the guest accepts", |bench| bench.guest.accept(bench.listener))
    }

    fn guest_reads(&mut self, conn: ConnId, count: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.until("the guest reads", |bench| {
            let mut chunk = [0; 4096];
            while let Ok(bytes) = bench.guest.recv(conn, &mut chunk) {
                if bytes == 0 {
                    break;
                }
                got.extend_from_slice(&chunk[..bytes]);
            }
            (got.len() >= count).then_some(())
        });
        got
    }
}

/// What a non-blocking read of a client says.
fn poll_read(client: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    client.set_nonblocking(true)?;
    let mut chunk = [0; 65_536];
    match client.read(&mut chunk) {
        Ok(bytes) => Ok(Some(chunk[..bytes].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[test]
fn bytes_pass_both_ways_and_each_side_ends_on_its_own() {
    let mut bench = Bench::new(8);
    let mut client = bench.connect();
    client.write_all(b"question").expect("written");
    let conn = bench.accept();
    assert_eq!(bench.guest_reads(conn, 8), b"question");
    client.shutdown(Shutdown::Write).expect("half closed");
    bench.until("the guest sees the end", |bench| (bench.guest.recv(conn, &mut [0; 8]) == Ok(0)).then_some(()));
    // The client has finished sending; it still hears the answer.
    bench.guest.send(conn, b"answer").expect("sent");
    bench.guest.close(conn).expect("closed");
    let mut got = Vec::new();
    bench.until("the client sees the end", |_| match poll_read(&mut client).expect("no reset") {
        Some(bytes) if bytes.is_empty() => Some(()),
        Some(bytes) => {
            got.extend(bytes);
            None
        }
        None => None,
    });
    assert_eq!(got, b"answer");
    bench.until("the pipe is gone", |bench| (bench.forwarder.open_pipes() == 0).then_some(()));
    assert_eq!(bench.forwarder.counters.reset, 0);
}

#[test]
fn a_reset_goes_through_both_ways() {
    let mut bench = Bench::new(8);
    let mut client = bench.connect();
    client.write_all(b"x").expect("written");
    let conn = bench.accept();
    bench.guest.abort(conn).expect("aborted");
    let error = bench.until("the client sees the reset", |_| poll_read(&mut client).err());
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let client = bench.connect();
    let conn = bench.accept();
    pipe::reset(&mio::net::TcpStream::from_std(client));
    bench.until("the guest sees the reset", |bench| bench.guest.end(conn));
    assert_eq!(bench.guest.end(conn), Some(StackError::Reset));
    assert_eq!((bench.forwarder.open_pipes(), bench.forwarder.counters.reset), (0, 2));
}

#[test]
fn a_port_that_nobody_serves_resets_the_client() {
    let mut bench = Bench::new(8);
    bench.guest.unlisten(bench.listener).expect("listening");
    let mut client = bench.connect();
    let error = bench.until("the client sees the reset", |_| poll_read(&mut client).err());
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn who_does_not_read_makes_the_other_wait_and_nothing_is_lost() {
    let mut bench = Bench::new(8);
    let mut client = bench.connect();
    client.set_nonblocking(true).expect("non-blocking");
    let conn = bench.accept();
    // The client writes until nobody takes any more: the guest does not read.
    let mut sent: Vec<u8> = Vec::new();
    let mut stuck = 0;
    while stuck < 50 {
        let chunk: Vec<u8> = (0..8192).map(|index| ((sent.len() + index) % 251) as u8).collect();
        match client.write(&chunk) {
            Ok(bytes) => {
                sent.extend_from_slice(&chunk[..bytes]);
                stuck = 0;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                stuck += 1;
            }
        }
        bench.turn();
    }
    assert!(sent.len() > BUFFER_BYTES);
    assert!(bench.guest_reads(conn, sent.len()) == sent, "bytes differ");
    // The other way round.
    let (mut sent, mut stuck) = (Vec::new(), 0);
    while stuck < 50 {
        let chunk: Vec<u8> = (0..8192).map(|index| ((sent.len() + index) % 241) as u8).collect();
        match bench.guest.send(conn, &chunk) {
            Ok(bytes) => {
                sent.extend_from_slice(&chunk[..bytes]);
                stuck = 0;
            }
            Err(error) => {
                assert_eq!(error, StackError::WouldBlock);
                stuck += 1;
            }
        }
        bench.turn();
    }
    let mut got = Vec::new();
    bench.until("the client reads", |_| {
        while let Some(bytes) = poll_read(&mut client).expect("no reset") {
            got.extend(bytes);
        }
        (got.len() >= sent.len()).then_some(())
    });
    assert!(got == sent, "bytes differ");
}

#[test]
fn one_client_too_many_is_reset_and_the_others_are_served() {
    let mut bench = Bench::new(2);
    let first = [bench.connect(), bench.connect()];
    let served = [bench.accept(), bench.accept()];
    let mut extra = bench.connect();
    let error = bench.until("the extra client is reset", |_| poll_read(&mut extra).err());
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(bench.forwarder.counters.refused, 1);
    for mut client in first {
        client.write_all(b"still here").expect("written");
        // Which of the two connections is this client's is not the guest's to know.
        let mut chunk = [0; 64];
        let got = bench.until("the guest reads", |bench| {
            served.iter().find_map(|&conn| bench.guest.recv(conn, &mut chunk).ok().filter(|&bytes| bytes > 0))
        });
        assert_eq!(&chunk[..got], b"still here");
    }
    for conn in served {
        bench.guest.close(conn).expect("closed");
    }
    bench.until("their pipes are gone", |bench| (bench.forwarder.open_pipes() == 0).then_some(()));
    bench.connect();
    bench.accept();
}

#[test]
fn the_guest_reaches_a_service_of_the_host_and_learns_when_there_is_none() {
    let mut bench = Bench::new(8);
    let service = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = service.local_addr().expect("an address").port();
    let conn = bench.guest.connect(SocketAddrV4::new(GATEWAY, port)).expect("begun");
    bench.until("the guest is connected", |bench| bench.guest.may_send(conn).then_some(()));
    let (mut server, _) = service.accept().expect("accepted");
    bench.guest.send(conn, b"hello").expect("sent");
    server.set_nonblocking(true).expect("non-blocking");
    let got = bench.until("the service reads", |_| poll_read(&mut server).expect("no reset"));
    assert_eq!(got, b"hello");
    server.write_all(b"welcome").expect("written");
    assert_eq!(bench.guest_reads(conn, 7), b"welcome");
    assert_eq!(bench.forwarder.counters.outbound, 1);

    drop(service);
    let refused = bench.guest.connect(SocketAddrV4::new(GATEWAY, port)).expect("begun");
    let end = bench.until("the guest is refused", |bench| bench.guest.end(refused));
    assert_eq!(end, StackError::Refused);
    let nowhere = bench.guest.connect(SocketAddrV4::new([10, 0, 2, 77].into(), 9)).expect("begun");
    let end = bench.until("the guest is refused", |bench| bench.guest.end(nowhere));
    assert_eq!(end, StackError::Refused);
    assert_eq!(bench.forwarder.counters.outbound_refused, 2);
}

#[test]
fn probes_find_out_when_the_guest_begins_to_serve() {
    let mut bench = Bench::new(8);
    bench.guest.unlisten(bench.listener).expect("listening");
    bench.forwarder.start_probes();
    let refusals = bench.guest.stats().frames_in;
    bench.until("the guest refuses some probes", |bench| (bench.guest.stats().frames_in > refusals + 5).then_some(()));
    assert_eq!(bench.forwarder.unanswered_ports(), [GUEST_PORT]);
    bench.listener = bench.guest.listen(GUEST_PORT, 64).expect("a listener");
    bench.until("the probe is answered", |bench| bench.forwarder.unanswered_ports().is_empty().then_some(()));
}

#[test]
fn clients_of_a_guest_that_has_gone_read_its_last_words_and_are_reset() {
    let mut bench = Bench::new(8);
    let mut client = bench.connect();
    client.write_all(b"question").expect("written");
    let conn = bench.accept();
    assert_eq!(bench.guest_reads(conn, 8), b"question");
    bench.guest.send(conn, b"last words").expect("room");
    // The forwarder has the frame, and has not looked at it.
    let now_ns = bench.now_ns();
    bench.guest_turn(now_ns);
    bench.forwarder.guest_has_gone();
    let mut heard = Vec::new();
    let error = bench.until("the reset", |_| match poll_read(&mut client) {
        Ok(Some(bytes)) => {
            assert!(!bytes.is_empty(), "an orderly end would look like a whole answer");
            heard.extend_from_slice(&bytes);
            None
        }
        Ok(None) => None,
        Err(error) => Some(error),
    });
    assert_eq!((heard.as_slice(), error.kind()), (&b"last words"[..], io::ErrorKind::ConnectionReset));
    assert_eq!(bench.forwarder.open_pipes(), 0);

    let mut late = bench.connect();
    bench.until("the reset of one who comes later", |_| poll_read(&mut late).err());
    assert_eq!(bench.forwarder.counters.refused, 1);
}

#[test]
fn datagrams_find_their_way_out_and_back() {
    let mut bench = Bench::new(8);
    let service = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    service.set_nonblocking(true).expect("non-blocking");
    let port = service.local_addr().expect("an address").port();
    let asked = SocketAddrV4::new(GATEWAY, port);
    let queue = netstack::UdpQueue { datagrams: 8, bytes: 4096 };
    let sockets = [0, 0].map(|any| bench.guest.bind(any, queue).expect("bound"));
    for (index, socket) in sockets.into_iter().enumerate() {
        bench.guest.send_to(socket, format!("question {index}").as_bytes(), asked).expect("sent");
    }
    let mut asked_by = Vec::new();
    bench.until("the service hears both", |_| {
        let mut chunk = [0; 64];
        while let Ok((bytes, from)) = service.recv_from(&mut chunk) {
            asked_by.push((String::from_utf8_lossy(&chunk[..bytes]).into_owned(), from));
        }
        (asked_by.len() == 2).then_some(())
    });
    for (question, from) in asked_by {
        service.send_to(question.replace("question", "answer").as_bytes(), from).expect("sent");
    }
    for (index, socket) in sockets.into_iter().enumerate() {
        let mut chunk = [0; 64];
        let answer = bench.until("the guest hears", |bench| bench.guest.recv_from(socket, &mut chunk).ok());
        assert_eq!(answer.remote, asked, "the answer comes from where the question went");
        assert_eq!(&chunk[..answer.len_bytes], format!("answer {index}").as_bytes());
    }
    assert_eq!(bench.forwarder.counters.outbound, 2);
    // A minute later nothing is left of them.
    let later_ns = bench.now_ns() + 61_000_000_000;
    assert_eq!(bench.forwarder.expire_flows(later_ns), None);
    bench.guest.send_to(sockets[0], b"again", asked).expect("sent");
    bench.until("the service hears again", |_| service.recv_from(&mut [0; 8]).ok());
    assert_eq!(bench.forwarder.counters.outbound, 3);
    // Where the guest may not go, nothing goes.
    bench.guest.send_to(sockets[0], b"x", SocketAddrV4::new([10, 0, 2, 99].into(), 9)).expect("sent");
    bench.until("it is refused", |bench| (bench.forwarder.counters.outbound_refused == 1).then_some(()));
}
