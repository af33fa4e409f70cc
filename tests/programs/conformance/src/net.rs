//! Sockets, within the machine: what reaches beyond it is not the same everywhere.

use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
#[cfg(not(feature = "portable"))]
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::check;

const SHORT: Duration = Duration::from_millis(20);
const HOME: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

pub fn run() {
    addresses();
    listeners();
    streams();
    ends();
    limits();
    options();
    nonblocking();
    threads();
    datagrams();
    datagram_errors();
    #[cfg(not(feature = "portable"))]
    {
        pairs();
        pipes();
    }
    names();
}

fn kind<T>(result: io::Result<T>) -> Result<T, ErrorKind> {
    result.map_err(|error| error.kind())
}

/// Two ends of a connection: who has connected, who has accepted.
fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(HOME).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, from) = listener.accept().unwrap();
    assert_eq!(from, client.local_addr().unwrap());
    (client, server)
}

/// An address that nobody listens at.
fn nobody() -> SocketAddr {
    TcpListener::bind(HOME).unwrap().local_addr().unwrap()
}

fn addresses() {
    let listener = TcpListener::bind(HOME).unwrap();
    let own = listener.local_addr().unwrap();
    check("net: a listener has an address and a port", (own.ip(), own.port() != 0));
    let client = TcpStream::connect(own).unwrap();
    let (server, from) = listener.accept().unwrap();
    let ends = [client.local_addr(), client.peer_addr(), server.local_addr(), server.peer_addr()].map(Result::unwrap);
    check("net: both ends agree", (ends[0] == ends[3], ends[1] == ends[2], ends[1] == own, from == ends[0]));
    check("net: both are of this machine", ends.map(|end| end.ip()));
    let any = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    check("net: an unspecified address", any.local_addr().unwrap().ip());
    let port = any.local_addr().unwrap().port();
    check("net: it is reached at any of this machine's", TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    check("net: also at another one of them", TcpStream::connect((Ipv4Addr::new(127, 1, 2, 3), port)).is_ok());
    let foreign = TcpListener::bind((Ipv4Addr::new(192, 0, 2, 1), 0));
    check("net: an address of others", kind(foreign).err());
}

fn listeners() {
    let first = TcpListener::bind(HOME).unwrap();
    let second = TcpListener::bind(first.local_addr().unwrap());
    check("net: a port that is taken", kind(second).err());
    let address = first.local_addr().unwrap();
    drop(first);
    check("net: and is free again", TcpListener::bind(address).is_ok());
    check("net: nobody listens", kind(TcpStream::connect(nobody())).err());
    let unread = kind(TcpStream::connect_timeout(&nobody(), Duration::from_secs(5)));
    check("net: nobody listens, with a time limit", unread.err());
    let listener = TcpListener::bind(HOME).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener);
    check("net: a connection that nobody has accepted", kind(client.read(&mut [0; 8])));
    let listener = TcpListener::bind(HOME).unwrap();
    let clients: Vec<_> = (0..5).map(|_| TcpStream::connect(listener.local_addr().unwrap()).unwrap()).collect();
    let accepted: Vec<_> = listener.incoming().take(5).map(|stream| stream.unwrap().peer_addr().unwrap()).collect();
    let in_order = clients.iter().zip(&accepted).all(|(client, from)| client.local_addr().unwrap() == *from);
    check("net: connections are accepted in their order", in_order);
    let other = listener.try_clone().unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener);
    check("net: a clone of a listener", other.accept().unwrap().1 == client.local_addr().unwrap());
}

fn streams() {
    let (mut client, mut server) = connected();
    check("net: write", client.write(b"hello").unwrap());
    let mut buffer = [0; 16];
    check("net: read", (server.read(&mut buffer).unwrap(), &buffer[..5] == b"hello"));
    client.write_all(b"look").unwrap();
    let peeked = (server.peek(&mut buffer[..2]).unwrap(), server.peek(&mut buffer).unwrap());
    check("net: peek", (peeked, server.read(&mut buffer).unwrap()));
    let written = client.write_vectored(&[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two")]).unwrap();
    let read = server.read_vectored(&mut [io::IoSliceMut::new(&mut [0; 2]), io::IoSliceMut::new(&mut [0; 20])]);
    check("net: pieces", (written, read.unwrap()));
    let mut other = client.try_clone().unwrap();
    other.write_all(b"both").unwrap();
    drop(client);
    other.write_all(b" ends").unwrap();
    drop(other);
    let mut text = String::new();
    server.read_to_string(&mut text).unwrap();
    check("net: a clone keeps the connection", text);
    let (mut client, mut server) = connected();
    let size = 3_000_000;
    let writer = thread::spawn(move || {
        let data: Vec<u8> = (0..size).map(|n: u32| (n % 251) as u8).collect();
        client.write_all(&data)
    });
    let mut all = Vec::new();
    server.read_to_end(&mut all).unwrap();
    let right = all.iter().enumerate().all(|(n, byte)| *byte == (n as u32 % 251) as u8);
    check("net: three million bytes", (all.len(), right, writer.join().unwrap().is_ok()));
}

fn ends() {
    let mut buffer = [0; 8];
    let (mut client, mut server) = connected();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    check("net: a half that is closed", (server.read(&mut buffer).unwrap(), server.read(&mut buffer).unwrap()));
    server.write_all(b"answer").unwrap();
    check("net: and the other half", client.read(&mut buffer).unwrap());
    check("net: writing to what one has closed", kind(client.write(b"x")));
    client.shutdown(Shutdown::Read).unwrap();
    check("net: reading from what one has closed", kind(client.read(&mut buffer)));
    let (mut client, server) = connected();
    drop(server);
    check("net: the other has gone", kind(client.read(&mut buffer)));
    let (client, mut server) = connected();
    server.write_all(b"nobody reads this").unwrap();
    drop(client);
    check("net: what was not read is a reset", kind(server.read(&mut buffer)));
    check("net: told once", kind(server.read(&mut buffer)));
    check("net: and then the pipe is broken", kind(server.write(b"x")));
    let (client, mut server) = connected();
    let waiting = thread::spawn(move || server.read(&mut [0; 8]).unwrap());
    thread::sleep(SHORT);
    client.shutdown(Shutdown::Both).unwrap();
    check("net: a reader is woken by the end", waiting.join().unwrap());
    let (mut client, server) = connected();
    let clone = client.try_clone().unwrap();
    let waiting = thread::spawn(move || client.read(&mut [0; 8]).unwrap());
    thread::sleep(SHORT);
    clone.shutdown(Shutdown::Read).unwrap();
    check("net: and by one's own shutdown", waiting.join().unwrap());
    drop(server);
}

fn limits() {
    let (client, mut server) = connected();
    check("net: no limit at first", (client.read_timeout().unwrap(), client.write_timeout().unwrap()));
    check("net: no time is no limit", kind(client.set_read_timeout(Some(Duration::ZERO))));
    server.set_read_timeout(Some(SHORT)).unwrap();
    server.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
    check("net: limits are kept", (server.read_timeout().unwrap(), server.write_timeout().unwrap()));
    let start = Instant::now();
    let error = server.read(&mut [0; 8]).err().map(|error| error.kind());
    check("net: a read with a time limit", (error, start.elapsed() >= SHORT));
    server.set_write_timeout(Some(SHORT)).unwrap();
    let data = vec![1; 1 << 20];
    let error = loop {
        if let Err(error) = server.write(&data) {
            break error.kind();
        }
    };
    check("net: a write with a time limit", error);
    drop(client);
}

fn options() {
    let (client, _server) = connected();
    client.set_nodelay(true).unwrap();
    check("net: nodelay", client.nodelay().unwrap());
    client.set_ttl(42).unwrap();
    check("net: ttl", client.ttl().unwrap());
    check("net: no ttl", client.set_ttl(0).is_err());
    check("net: no error", client.take_error().unwrap().is_none());
    let socket = UdpSocket::bind(HOME).unwrap();
    let before = socket.broadcast().unwrap();
    socket.set_broadcast(true).unwrap();
    check("net: broadcast", (before, socket.broadcast().unwrap()));
}

fn nonblocking() {
    let listener = TcpListener::bind(HOME).unwrap();
    listener.set_nonblocking(true).unwrap();
    check("net: nobody to accept", kind(listener.accept()).err());
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    client.set_nonblocking(true).unwrap();
    check("net: nothing to read", kind(client.read(&mut [0; 8])));
    check("net: nothing to peek", kind(client.peek(&mut [0; 8])));
    let (data, mut total) = (vec![7; 1 << 16], 0);
    let error = loop {
        match client.write(&data) {
            Ok(bytes) => total += bytes,
            Err(error) => break error.kind(),
        }
    };
    check("net: no room to write", error);
    let mut read = 0;
    while read < total {
        read += server.read(&mut [0; 8192]).unwrap();
    }
    client.write_all(b"again").unwrap();
    check("net: room again", server.read(&mut [0; 8192]).unwrap());
    client.set_nonblocking(false).unwrap();
    let later = thread::spawn(move || {
        thread::sleep(SHORT);
        server.write_all(b"late").unwrap();
    });
    check("net: waiting again", client.read(&mut [0; 8]).unwrap());
    later.join().unwrap();
}

fn threads() {
    let listener = TcpListener::bind(HOME).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        for stream in listener.incoming().take(20) {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 256];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
                    stream.write_all(&buffer[..bytes]).unwrap();
                }
            });
        }
    });
    let clients: Vec<_> = (0..20)
        .map(|n| {
            thread::spawn(move || {
                let mut stream = TcpStream::connect(address).unwrap();
                (0..20).all(|round| {
                    let text = format!("{n}/{round}");
                    stream.write_all(text.as_bytes()).unwrap();
                    let mut echo = vec![0; text.len()];
                    stream.read_exact(&mut echo).is_ok() && echo == text.as_bytes()
                })
            })
        })
        .collect();
    check(
        "net: a thread a connection",
        clients.into_iter().filter_map(|c| c.join().ok()).filter(|right| *right).count(),
    );
    server.join().unwrap();
    let (client, server) = connected();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let mut server = server.try_clone().unwrap();
            thread::spawn(move || server.read(&mut [0; 1]).unwrap())
        })
        .collect();
    thread::sleep(SHORT);
    (&client).write_all(b"four").unwrap();
    check("net: several readers of one", readers.into_iter().map(|reader| reader.join().unwrap()).sum::<usize>());
}

fn datagrams() {
    let (one, two) = (UdpSocket::bind(HOME).unwrap(), UdpSocket::bind(HOME).unwrap());
    let (from_one, from_two) = (one.local_addr().unwrap(), two.local_addr().unwrap());
    check("udp: sent", one.send_to(b"hello", from_two).unwrap());
    let mut buffer = [0; 16];
    let (bytes, from) = two.recv_from(&mut buffer).unwrap();
    check("udp: received", (&buffer[..bytes] == b"hello", from == from_one));
    one.send_to(b"", from_two).unwrap();
    check("udp: an empty one", two.recv_from(&mut buffer).unwrap().0);
    one.send_to(b"too long for it", from_two).unwrap();
    check("udp: what does not fit is cut off", two.recv_from(&mut buffer[..3]).unwrap().0);
    for text in [&b"first"[..], b"second"] {
        one.send_to(text, from_two).unwrap();
    }
    let peeked = two.peek_from(&mut buffer).unwrap().0;
    check("udp: their order", (peeked, two.recv_from(&mut buffer).unwrap().0, two.recv(&mut buffer).unwrap()));
    one.connect(from_two).unwrap();
    two.connect(from_one).unwrap();
    check("udp: a peer", (one.peer_addr().unwrap() == from_two, one.send(b"mine").unwrap()));
    check("udp: from the peer", two.recv(&mut buffer).unwrap());
    let stranger = UdpSocket::bind(HOME).unwrap();
    stranger.send_to(b"stranger", from_two).unwrap();
    one.send(b"friend").unwrap();
    check("udp: nobody else's", two.recv(&mut buffer).map(|bytes| buffer[..bytes] == *b"friend").unwrap());
    let clone = two.try_clone().unwrap();
    one.send(b"clone").unwrap();
    check("udp: a clone", clone.recv(&mut buffer).unwrap());
    let long = vec![9; 60_000];
    one.send(&long).unwrap();
    let mut room = vec![0; 65_536];
    check("udp: a long one", two.recv(&mut room).map(|bytes| room[..bytes] == long[..]).unwrap());
}

fn datagram_errors() {
    let socket = UdpSocket::bind(HOME).unwrap();
    check("udp: no peer", (kind(socket.peer_addr()).err(), kind(socket.send(b"x")).is_err()));
    check("udp: too long", kind(socket.send_to(&vec![0; 70_000], HOME_PORT)).is_err());
    check("udp: a port that is taken", kind(UdpSocket::bind(socket.local_addr().unwrap())).err());
    socket.set_read_timeout(Some(SHORT)).unwrap();
    let start = Instant::now();
    let error = kind(socket.recv(&mut [0; 8]));
    check("udp: a time limit", (error, start.elapsed() >= SHORT));
    socket.set_nonblocking(true).unwrap();
    check("udp: nothing there", kind(socket.recv_from(&mut [0; 8])).err());
    let gone = UdpSocket::bind(HOME).unwrap().local_addr().unwrap();
    socket.connect(gone).unwrap();
    socket.send(b"anybody?").unwrap();
    check("udp: nobody there", kind(socket.recv(&mut [0; 8])));
    check("udp: both may have one port", {
        let stream = TcpListener::bind(HOME).unwrap();
        UdpSocket::bind(stream.local_addr().unwrap()).is_ok()
    });
}

const HOME_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9);

#[cfg(not(feature = "portable"))]
fn pairs() {
    let (mut one, mut two) = UnixStream::pair().unwrap();
    one.write_all(b"pair").unwrap();
    let mut buffer = [0; 8];
    check("pair: there", two.read(&mut buffer).unwrap());
    two.write_all(b"and back").unwrap();
    check("pair: and back", one.read(&mut buffer).unwrap());
    one.set_nonblocking(true).unwrap();
    check("pair: nothing there", kind(one.read(&mut buffer)));
    check("pair: no name", one.local_addr().unwrap().is_unnamed());
    drop(one);
    check("pair: the end", (kind(two.read(&mut buffer)), kind(two.write(b"x"))));
}

#[cfg(not(feature = "portable"))]
fn pipes() {
    let (mut reader, mut writer) = io::pipe().unwrap();
    let later = thread::spawn(move || {
        thread::sleep(SHORT);
        writer.write_all(&[5; 200_000]).unwrap();
    });
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    check("pipe: more than it holds", all.len());
    later.join().unwrap();
    let (reader, mut writer) = io::pipe().unwrap();
    drop(reader);
    check("pipe: nobody reads", kind(writer.write(b"x")));
}

fn names() {
    let home: Vec<IpAddr> = ("127.0.0.1", 80).to_socket_addrs().unwrap().map(|address| address.ip()).collect();
    check("names: an address is one", home);
    let found =
        ("localhost", 80).to_socket_addrs().map(|mut all| all.any(|a| a.ip() == Ipv4Addr::LOCALHOST && a.port() == 80));
    check("names: localhost", found.unwrap());
    check("names: no name", "no port".to_socket_addrs().is_err());
    check("names: an empty one", ("", 80).to_socket_addrs().is_err());
    let listener = TcpListener::bind(("localhost", 0)).unwrap();
    check(
        "names: connecting by name",
        TcpStream::connect(("localhost", listener.local_addr().unwrap().port())).is_ok(),
    );
}
