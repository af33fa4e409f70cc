//! The network face of the runtime against another host's stack.

mod common;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use common::send_back;
use hypercall::layout::NET_DHCP;
use netstack::dhcp_server::DhcpServer;
use netstack::{ConnId, Ipv4Cidr, ListenerId, Stack, UdpId, UdpQueue};
use runtime::future::join;
use runtime::host::dialogue::{Dialogue, Dialogues};
use runtime::host::peer::{Driver, Peer, Step};
use runtime::host::{End, Setup, run};
use runtime::net::{self, Error, Lines, Options, StartError, TcpListener, TcpStream, UdpSocket};
use runtime::time::{Duration, Instant, sleep, timeout};
use runtime::{spawn, yield_now};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

/// A host that sends back what comes, by TCP on port 7 and by UDP on port 7.
#[derive(Default)]
struct Mirror {
    listener: Option<ListenerId>,
    udp: Option<UdpId>,
    connections: Vec<ConnId>,
}

impl Driver for Mirror {
    fn step(&mut self, stack: &mut Stack, _now_ns: u64) -> Step {
        let listener = *self.listener.get_or_insert_with(|| stack.listen(7, 10).expect("a free port"));
        let queue = UdpQueue { datagrams: 4, bytes: 4096 };
        let udp = *self.udp.get_or_insert_with(|| stack.bind(7, queue).expect("a free port"));
        self.connections.extend(stack.accept(listener));
        let mut buffer = [0; 2000];
        send_back(stack, &mut self.connections, udp, &mut buffer);
        Step::Until(u64::MAX)
    }
}

fn with_mirror<T: 'static + std::fmt::Debug>(setup: &Setup, program: impl AsyncFnOnce() -> T + 'static) -> T {
    let world = Rc::new(RefCell::new(Peer::new(Mirror::default(), 100)));
    world.borrow_mut().dhcp = Some(DhcpServer {
        server_mac: [2, 0, 0, 0, 0, 2],
        server_ip: PEER,
        client_ip: Ipv4Cidr::new(Ipv4Addr::new(10, 0, 2, 99), 24),
        router: Some(PEER),
        dns: None,
        lease_s: 3600,
        software_checksums: false,
    });
    match run(setup, &world, move || async move { program().await }).end {
        End::Returned(value) => value,
        other => panic!("the program did not return but ended as {other:?}"),
    }
}

#[test]
fn a_program_connects_out_and_says_and_hears_everything() {
    with_mirror(&Setup::default(), async || {
        let stream = TcpStream::connect(SocketAddrV4::new(PEER, 7)).await.expect("the mirror listens");
        assert_eq!(stream.peer_addr(), Ok(SocketAddrV4::new(PEER, 7)));
        assert_eq!(stream.local_addr().map(|address| *address.ip()), Ok(GUEST));
        stream.set_nodelay(false).expect("open");
        stream.set_keep_alive(Some(Duration::from_secs(1))).expect("open");
        let data: Vec<u8> = (0..200_000u32).map(|n| (n * 7 % 251) as u8).collect();
        let write = async {
            stream.write_all(&data).await?;
            stream.shutdown()
        };
        let read = async {
            let mut heard = Vec::new();
            while stream.read_with(|shown| (shown.len(), heard.extend_from_slice(shown))).await?.is_some() {}
            Ok::<_, Error>(heard)
        };
        let (written, heard) = join(write, read).await;
        assert_eq!(written, Ok(()));
        assert!(heard == Ok(data));
        assert_eq!(stream.write(b"more").await, Err(Error::Shutdown));
    });
}

#[test]
fn lines_are_found_however_they_come() {
    with_mirror(&Setup::default(), async || {
        let stream = TcpStream::connect(SocketAddrV4::new(PEER, 7)).await.expect("the mirror listens");
        let mut lines = Lines::<8>::new(&stream);
        let mut next = async |sent: &[&[u8]]| {
            for part in sent {
                stream.write_all(part).await.expect("open");
                sleep(Duration::from_millis(1)).await;
            }
            lines.next().await.map(|line| line.map(<[u8]>::to_vec))
        };
        assert_eq!(next(&[b"one\n"]).await, Ok(Some(b"one".to_vec())));
        assert_eq!(next(&[b"t", b"w", b"o\n\nth"]).await, Ok(Some(b"two".to_vec())));
        assert_eq!(next(&[]).await, Ok(Some(Vec::new())));
        assert_eq!(next(&[b"ree77\n"]).await, Ok(Some(b"three77".to_vec())), "as long as it may be");
        assert_eq!(next(&[b"12345678\n"]).await, Err(Error::TooLong));
        assert_eq!(next(&[]).await, Err(Error::TooLong), "for good");
        let stream = TcpStream::connect(SocketAddrV4::new(PEER, 7)).await.expect("the mirror listens");
        stream.write_all(b"last\nnone").await.expect("open");
        stream.shutdown().expect("open");
        let mut lines = Lines::<8>::new(&stream);
        assert_eq!(lines.next().await, Ok(Some(&b"last"[..])));
        assert_eq!(lines.next().await, Ok(None));
    });
}

#[test]
fn a_refusal_and_a_silence_are_told_apart() {
    with_mirror(&Setup::default(), async || {
        let refused = TcpStream::connect(SocketAddrV4::new(PEER, 8)).await;
        assert_eq!(refused.map(|_| ()), Err(Error::Refused));
        let nobody = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 200), 7));
        assert!(timeout(Duration::from_secs(5), nobody).await.is_err());
        let nowhere = TcpStream::connect(SocketAddrV4::new(PEER, 0)).await;
        assert_eq!(nowhere.map(|_| ()), Err(Error::InvalidPort));
    });
}

#[test]
fn datagrams_go_out_and_come_back() {
    with_mirror(&Setup::default(), async || {
        let socket = UdpSocket::bind(0).expect("a free port");
        assert!(socket.local_addr().expect("bound").port() != 0);
        for round in 0..50u8 {
            socket.send_to(&[round; 100], SocketAddrV4::new(PEER, 7)).await.expect("room in the end");
            let mut buffer = [0; 60];
            let (bytes, from) = socket.recv_from(&mut buffer).await.expect("an answer");
            assert_eq!((bytes, from, buffer), (60, SocketAddrV4::new(PEER, 7), [round; 60]));
        }
        assert_eq!(socket.send_to(&[0; 60_000], SocketAddrV4::new(PEER, 7)).await, Err(Error::TooLong));
        let port = socket.local_addr().expect("bound").port();
        assert_eq!(UdpSocket::bind(port).map(|_| ()), Err(Error::PortInUse));
        drop(socket);
        assert!(UdpSocket::bind(port).is_ok(), "dropping a socket frees its port");
    });
}

#[test]
fn an_address_comes_by_dhcp() {
    let mut setup = Setup::default();
    setup.net.flags |= NET_DHCP;
    (setup.net.address, setup.net.prefix_bits, setup.net.gateway) = (0, 0, 0);
    with_mirror(&setup, async || {
        assert_eq!(net::address(), None);
        let address = net::configured().await.expect("the network starts");
        assert_eq!(address, Ipv4Cidr::new(Ipv4Addr::new(10, 0, 2, 99), 24));
        assert_eq!((net::address(), net::gateway()), (Some(address), Some(PEER)));
        let stream = TcpStream::connect(SocketAddrV4::new(PEER, 7)).await.expect("the mirror listens");
        stream.write_all(b"hello").await.expect("open");
        let mut buffer = [0; 5];
        assert_eq!(stream.read(&mut buffer).await, Ok(5));
        assert_eq!(&buffer, b"hello");
    });
}

#[test]
fn options_are_checked_and_set_once() {
    with_mirror(&Setup::default(), async || {
        let empty = Options { tcp_rx_bytes: 0, ..Options::default() };
        assert!(matches!(net::start(&empty), Err(StartError::Config(_))));
        let _listener = TcpListener::bind(1).expect("the network starts by itself");
        assert_eq!(net::start(&Options::default()), Err(StartError::AlreadyStarted));
        assert_eq!(TcpListener::bind(1).map(|_| ()), Err(Error::PortInUse));
    });
    let mut setup = Setup::default();
    setup.net.prefix_bits = 33;
    with_mirror(&setup, async || {
        let wrong = net::start(&Options::default()).map_err(|error| error.to_string());
        assert_eq!(wrong, Err("the machine's address 10.0.2.15/33 has no valid prefix: expected 0 to 32 bits".into()));
        assert_eq!(TcpListener::bind(1).map(|_| ()), Err(Error::Unaddressable));
    });
}

/// Sends a number of bytes that no ring holds to whoever connects.
async fn pour(bytes: usize) -> Result<(), Error> {
    let listener = TcpListener::bind(9)?;
    loop {
        let stream = listener.accept().await?;
        spawn(async move {
            let mut left = bytes;
            while left > 0 {
                let filled = stream.write_with(|room| {
                    let filled = room.len().min(left);
                    room[..filled].fill(b'p');
                    (filled, filled)
                });
                left -= filled.await?;
            }
            Ok::<_, Error>(())
        });
    }
}

#[test]
fn a_ring_that_stays_full_loses_nothing() {
    let all = (0..40).map(|_| Dialogue::new(Vec::new())).collect();
    let world = Rc::new(RefCell::new(Peer::new(Dialogues { remote: SocketAddrV4::new(GUEST, 9), all }, 50)));
    world.borrow_mut().frames_taken = 3;
    let setup = Setup { heap_bytes: 32 << 20, idle_epochs: 100_000, ..Setup::default() };
    let outcome = run(&setup, &world, || async {
        net::start(&Options { tcp_tx_bytes: 64 * 1024, ..Options::default() }).expect("sound options");
        pour(150_000).await
    });
    assert_eq!(outcome.end, End::Stopped);
    for dialogue in &world.borrow().driver.all {
        assert_eq!((dialogue.end, dialogue.heard.len()), (Some(Ok(())), 150_000));
    }
}

#[test]
fn a_stream_outlives_neither_its_abort_nor_its_network() {
    with_mirror(&Setup::default(), async || {
        let stream = TcpStream::connect(SocketAddrV4::new(PEER, 7)).await.expect("the mirror listens");
        stream.abort();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(net::connections(), 0);
        let reader = TcpStream::connect(SocketAddrV4::new(PEER, 7)).await.expect("the mirror listens");
        let task = spawn(async move { reader.read(&mut [0; 10]).await });
        yield_now().await;
        task.abort();
        assert!(task.await.is_err(), "a task that waits for its socket can be dropped");
        assert!(Instant::now().as_millis() < 1000);
        // Left to the machine's end, with a task that waits on it.
        let left = TcpStream::connect(SocketAddrV4::new(PEER, 7)).await.expect("the mirror listens");
        spawn(async move { left.read(&mut [0; 10]).await });
        yield_now().await;
    });
}
