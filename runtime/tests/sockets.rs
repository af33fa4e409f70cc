//! Sockets by descriptor against another host's stack, and what waits for many of them.

mod common;

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use common::send_back;
use hermit_abi::{
    EADDRINUSE, EAGAIN, EALREADY, EBADF, ECONNREFUSED, EEXIST, EINPROGRESS, EINVAL, EISCONN, EMSGSIZE, ENETUNREACH,
    ENOENT, ENOTCONN, ENOTSOCK, EPERM, EPIPE, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP,
};
use netstack::{ConnId, ListenerId, Stack, UdpId, UdpQueue};
use runtime::host::peer::{Driver, Peer, Step};
use runtime::host::{End, Setup, run};
use runtime::sys::descriptors::{self, Open as _};
use runtime::sys::epoll::{Epoll, Interest};
use runtime::sys::resolve::{LookupError, lookup};
use runtime::sys::sockets::{Family, Kind, Mode, Name, Side, Socket, Value};
use runtime::sys::{events, sys_close, sys_eventfd, sys_getaddrbyname, sys_read, sys_write};
use runtime::time::{Duration, Instant};

const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const MIRROR: SocketAddrV4 = SocketAddrV4::new(PEER, 7);
const SERVER: SocketAddrV4 = SocketAddrV4::new(PEER, 53);

/// A host that sends back what comes to port 7, connects to the guest's port 80 and says something there, and answers
/// questions for names.
#[derive(Default)]
struct Other {
    listener: Option<ListenerId>,
    udp: Option<UdpId>,
    names: Option<UdpId>,
    connections: Vec<ConnId>,
    caller: Option<ConnId>,
    said: bool,
}

impl Driver for Other {
    fn step(&mut self, stack: &mut Stack, _now_ns: u64) -> Step {
        let queue = UdpQueue { datagrams: 8, bytes: 8192 };
        let listener = *self.listener.get_or_insert_with(|| stack.listen(7, 10).expect("a free port"));
        let udp = *self.udp.get_or_insert_with(|| stack.bind(7, queue).expect("a free port"));
        let names = *self.names.get_or_insert_with(|| stack.bind(53, queue).expect("a free port"));
        self.connections.extend(stack.accept(listener));
        let mut buffer = [0; 2000];
        send_back(stack, &mut self.connections, udp, &mut buffer);
        while let Ok(datagram) = stack.recv_from(names, &mut buffer) {
            let mut answer = buffer[..datagram.len_bytes].to_vec();
            // First somebody else's, then the right one: the name has one address, unless it begins with n.
            let known = answer[13] != b'n';
            answer[2..4].copy_from_slice(if known { &[0x81, 0x80] } else { &[0x81, 0x83] });
            if known {
                answer[7] = 1;
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 7]);
            }
            let mut wrong = answer.clone();
            wrong[0] ^= 1;
            for message in [wrong, answer] {
                stack.send_to(names, &message, datagram.remote).expect("room for an answer");
            }
        }
        self.call(stack);
        Step::Until(u64::MAX)
    }
}

impl Other {
    /// Calls the guest's port 80 until somebody is there, and says something.
    fn call(&mut self, stack: &mut Stack) {
        let gone = self.caller.is_none_or(|id| stack.end(id).is_some());
        if gone && !self.said {
            self.caller = stack.connect(SocketAddrV4::new(GUEST, 80)).ok();
        }
        if let Some(id) = self.caller
            && !self.said
            && stack.send(id, b"call").is_ok()
        {
            self.said = true;
        }
    }
}

fn on_machine<T: 'static + std::fmt::Debug>(program: impl FnOnce() -> T + 'static) -> T {
    let world = Rc::new(RefCell::new(Peer::new(Other::default(), 100)));
    match run(&Setup::default(), &world, move || async move { program() }).end {
        End::Returned(value) => value,
        other => panic!("the program did not return but ended as {other:?}"),
    }
}

fn stream() -> Rc<Socket> {
    Socket::new(Family::Internet, Kind::Stream, false).expect("a socket")
}

fn nonblocking(socket: &Socket, yes: bool) {
    socket.status().set(hermit_abi::O_NONBLOCK, if yes { hermit_abi::O_NONBLOCK } else { 0 });
}

fn receive(socket: &Rc<Socket>, buffer: &mut [u8], mode: Mode) -> Result<usize, i32> {
    // SAFETY: the slice is as long as it says.
    unsafe { socket.receive(buffer.as_mut_ptr(), buffer.len(), mode) }.map(|(bytes, _)| bytes)
}

/// What an epoll tells now: data and events.
fn told(epoll: &Epoll, deadline: Option<Instant>) -> Vec<(u64, i16)> {
    let mut told = Vec::new();
    epoll.wait(16, deadline, &mut |events, data| told.push((data, events))).expect("it waits");
    told
}

fn now() -> Option<Instant> {
    Some(Instant::now())
}

fn interest(events: i16, data: u64) -> Interest {
    Interest { events, edge: false, once: false, data }
}

#[test]
fn a_connection_to_another_host_waits_in_calls() {
    on_machine(|| {
        let socket = stream();
        assert_eq!(socket.send(b"x", Mode::default()), Err(ENOTCONN));
        assert_eq!(socket.connect(Some(MIRROR)), Ok(()));
        assert_eq!(socket.connect(Some(MIRROR)), Err(EISCONN));
        assert_eq!(socket.remote_address(), Ok(Some(MIRROR)));
        assert_eq!(socket.local_address().map(|address| *address.ip()), Some(GUEST));
        let mut buffer = [0; 100];
        assert_eq!(socket.send(b"hello", Mode::default()), Ok(5));
        assert_eq!(receive(&socket, &mut buffer[..2], Mode { peek: true, ..Mode::default() }), Ok(2));
        assert_eq!(receive(&socket, &mut buffer[..5], Mode { wait_all: true, ..Mode::default() }), Ok(5));
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(receive(&socket, &mut buffer, Mode { dont_wait: true, ..Mode::default() }), Err(EAGAIN));
        let limit = Duration::from_millis(30);
        socket.set_option(Name::ReceiveLimit, Value::Time(Some(limit))).expect("a limit");
        let start = Instant::now();
        assert_eq!(receive(&socket, &mut buffer, Mode::default()), Err(EAGAIN));
        assert!(Instant::now() - start >= limit);
        assert_eq!(socket.shutdown(Side::Write), Ok(()));
        assert_eq!(socket.send(b"x", Mode::default()), Err(EPIPE));
        socket.set_option(Name::ReceiveLimit, Value::Time(None)).expect("none");
        assert_eq!(receive(&socket, &mut buffer, Mode::default()), Ok(0));
        assert_eq!(socket.readiness() & (POLLIN | POLLRDHUP | POLLHUP), POLLIN | POLLRDHUP | POLLHUP);
    });
}

#[test]
fn a_connection_is_opened_while_the_program_goes_on() {
    on_machine(|| {
        let socket = stream();
        nonblocking(&socket, true);
        let epoll = Epoll::new();
        let descriptor = descriptors::open(socket.clone(), false).expect("a descriptor");
        assert_eq!(socket.connect(Some(MIRROR)), Err(EINPROGRESS));
        assert_eq!(socket.connect(Some(MIRROR)), Err(EALREADY));
        epoll.add(descriptor, interest(POLLIN | POLLOUT, 1)).expect("watched");
        assert_eq!(told(&epoll, now()), []);
        assert_eq!(told(&epoll, None), [(1, POLLOUT)]);
        assert_eq!((socket.option(Name::Error), socket.connect(Some(MIRROR))), (Value::Number(0), Err(EISCONN)));
        // Nobody listens there.
        let refused = stream();
        nonblocking(&refused, true);
        let other = descriptors::open(refused.clone(), false).expect("a descriptor");
        assert_eq!(refused.connect(Some(SocketAddrV4::new(PEER, 8))), Err(EINPROGRESS));
        epoll.change(descriptor, interest(0, 1)).expect("known");
        epoll.add(other, interest(POLLOUT, 2)).expect("watched");
        let [(2, events)] = told(&epoll, None)[..] else { panic!("the other one is told") };
        assert_eq!(events, POLLOUT | POLLERR | POLLHUP);
        assert_eq!(refused.option(Name::Error), Value::Number(ECONNREFUSED));
        assert_eq!(refused.option(Name::Error), Value::Number(0), "it is told once");
        let blocking = stream();
        assert_eq!(blocking.connect(Some(SocketAddrV4::new(PEER, 8))), Err(ECONNREFUSED));
        assert_eq!(blocking.connect(Some(SocketAddrV4::new(Ipv4Addr::BROADCAST, 8))), Err(ENETUNREACH));
    });
}

/// What tokio relies on: after a call that did not do all, an edge follows.
#[test]
fn edges_suffice_to_send_and_receive_everything() {
    let received = on_machine(|| {
        let socket = stream();
        socket.connect(Some(MIRROR)).expect("the mirror listens");
        nonblocking(&socket, true);
        let epoll = Epoll::new();
        let descriptor = descriptors::open(socket.clone(), false).expect("a descriptor");
        let both = Interest { events: POLLIN | POLLOUT | POLLRDHUP, edge: true, once: false, data: 9 };
        epoll.add(descriptor, both).expect("watched");
        let data: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
        let (mut sent, mut received) = (0, Vec::new());
        while received.len() < data.len() {
            let [(9, events)] = told(&epoll, None)[..] else { panic!("there is one") };
            if events & POLLOUT != 0 {
                while sent < data.len() {
                    match socket.send(&data[sent..], Mode::default()) {
                        Ok(bytes) => {
                            let short = bytes < data.len() - sent;
                            sent += bytes;
                            if short {
                                break;
                            }
                        }
                        Err(errno) => {
                            assert_eq!(errno, EAGAIN);
                            break;
                        }
                    }
                }
            }
            if events & POLLIN != 0 {
                let mut buffer = [0; 3000];
                loop {
                    match receive(&socket, &mut buffer, Mode::default()) {
                        Ok(bytes) => {
                            received.extend_from_slice(&buffer[..bytes]);
                            if bytes < buffer.len() {
                                break;
                            }
                        }
                        Err(errno) => {
                            assert_eq!(errno, EAGAIN);
                            break;
                        }
                    }
                }
            }
        }
        assert_eq!(data, received);
        received.len()
    });
    assert_eq!(received, 300_000);
}

#[test]
fn a_listener_is_told_of_and_found_by_both_ways() {
    on_machine(|| {
        let listener = stream();
        listener.bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 80)).expect("a free port");
        listener.listen(10).expect("it listens");
        assert_eq!(stream().bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80)), Err(EADDRINUSE));
        let epoll = Epoll::new();
        let descriptor = descriptors::open(listener.clone(), false).expect("a descriptor");
        epoll.add(descriptor, interest(POLLIN, 1)).expect("watched");
        // The other host calls.
        assert_eq!(told(&epoll, None), [(1, POLLIN)]);
        let accepted = listener.accept(false).expect("somebody");
        assert_eq!(accepted.remote_address().map(|address| address.map(|address| *address.ip())), Ok(Some(PEER)));
        let mut buffer = [0; 10];
        assert_eq!(receive(&accepted, &mut buffer, Mode::default()), Ok(4));
        // And somebody of this machine, at its address.
        let near = stream();
        near.connect(Some(SocketAddrV4::new(GUEST, 80))).expect("it listens");
        assert_eq!(told(&epoll, None), [(1, POLLIN)]);
        let accepted = listener.accept(true).expect("somebody");
        assert_eq!(accepted.remote_address(), Ok(near.local_address()));
        assert_eq!(receive(&accepted, &mut buffer, Mode::default()), Err(EAGAIN));
        nonblocking(&listener, true);
        assert_eq!(listener.accept(false).err(), Some(EAGAIN));
    });
}

#[test]
fn datagrams_go_out_and_come_back() {
    on_machine(|| {
        let socket = Socket::new(Family::Internet, Kind::Datagram, false).expect("a socket");
        let mut buffer = [0; 2000];
        assert_eq!(socket.send_datagram(b"one", Some(MIRROR), Mode::default()), Ok(3));
        // SAFETY: the array is as long as it says.
        let received = unsafe { socket.receive(buffer.as_mut_ptr(), buffer.len(), Mode::default()) };
        assert_eq!(received, Ok((3, Some(MIRROR))));
        socket.connect(Some(MIRROR)).expect("a peer");
        for text in [&b"three"[..], b"four"] {
            assert_eq!(socket.send(text, Mode::default()), Ok(text.len()));
        }
        assert_eq!(receive(&socket, &mut buffer, Mode { peek: true, ..Mode::default() }), Ok(5));
        assert_eq!(receive(&socket, &mut buffer[..2], Mode::default()), Ok(2), "the rest is cut off");
        assert_eq!(receive(&socket, &mut buffer, Mode::default()), Ok(4));
        assert_eq!(socket.send(&[0; 70_000], Mode::default()), Err(EMSGSIZE));
        assert_eq!(socket.local_address().map(|address| *address.ip()), Some(GUEST));
        nonblocking(&socket, true);
        assert_eq!(receive(&socket, &mut buffer, Mode::default()), Err(EAGAIN));
        assert_eq!(socket.readiness(), POLLOUT);
    });
}

#[test]
fn names_are_asked_for() {
    on_machine(|| {
        assert_eq!(lookup("www.example.org", Some(SERVER)), Ok(vec![Ipv4Addr::new(192, 0, 2, 7)]));
        assert_eq!(lookup("nobody.example.org", Some(SERVER)), Err(LookupError::NoSuchName));
        assert_eq!(lookup("192.0.2.1", None), Ok(vec![Ipv4Addr::new(192, 0, 2, 1)]));
        assert_eq!(lookup("pollux", None), Ok(vec![GUEST]));
        assert_eq!(lookup("no name", Some(SERVER)), Err(LookupError::NoSuchName));
        let mut address = [0; 4];
        // SAFETY: the name is a text, the place an array of that length.
        let mut by_name = |name: &core::ffi::CStr, bytes| unsafe {
            (sys_getaddrbyname(name.as_ptr(), address.as_mut_ptr(), bytes), Ipv4Addr::from(address))
        };
        assert_eq!(by_name(c"localhost", 4), (0, Ipv4Addr::LOCALHOST));
        assert_eq!((by_name(c"localhost", 16).0, by_name(c"no name", 4).0), (-EINVAL, -ENOENT));
        // Nobody answers there, and asking ends.
        let nowhere = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 77), 53);
        assert_eq!(lookup("www.example.org", Some(nowhere)), Err(LookupError::TryAgain));
    });
}

#[test]
fn an_epoll_tells_levels_edges_and_once() {
    on_machine(|| {
        let epoll = Epoll::new();
        let [reader, writer] = events::pipe(true, false).expect("a pipe");
        let mut byte = 0u8;
        // SAFETY: the places are variables.
        let put = || unsafe { sys_write(writer, b"x".as_ptr(), 1) };
        // SAFETY: as above.
        let mut take = || unsafe { sys_read(reader, &raw mut byte, 1) };
        epoll.add(reader, interest(POLLIN, 1)).expect("watched");
        assert_eq!(epoll.add(reader, interest(POLLIN, 1)), Err(EEXIST));
        assert_eq!((epoll.add(77, interest(0, 0)), epoll.add(1, interest(0, 0))), (Err(EBADF), Err(EPERM)));
        assert_eq!((epoll.remove(writer), epoll.change(writer, interest(0, 0))), (Err(ENOENT), Err(ENOENT)));
        assert_eq!(told(&epoll, now()), []);
        assert_eq!((put(), put()), (1, 1));
        assert_eq!((told(&epoll, now()), told(&epoll, now())), (vec![(1, POLLIN)], vec![(1, POLLIN)]));
        assert_eq!((take(), told(&epoll, now())), (1, vec![(1, POLLIN)]), "one is left");
        assert_eq!((take(), told(&epoll, now())), (1, vec![]));
        let edge = Interest { edge: true, ..interest(POLLIN, 2) };
        epoll.change(reader, edge).expect("known");
        put();
        assert_eq!((told(&epoll, now()), told(&epoll, now())), (vec![(2, POLLIN)], vec![]));
        put();
        assert_eq!(told(&epoll, now()), [(2, POLLIN)], "another edge, though it was ready before");
        epoll.change(reader, Interest { once: true, ..interest(POLLIN, 3) }).expect("known");
        assert_eq!((told(&epoll, now()), put(), told(&epoll, now())), (vec![(3, POLLIN)], 1, vec![]));
        epoll.change(reader, interest(POLLIN, 4)).expect("known");
        assert_eq!(told(&epoll, now()), [(4, POLLIN)]);
        // Several are told in turn, also if there is room for one only.
        let counter = sys_eventfd(1, 0);
        epoll.add(counter, interest(POLLIN, 5)).expect("watched");
        let mut order = Vec::new();
        for _ in 0..4 {
            epoll.wait(1, now(), &mut |_, data| order.push(data)).expect("it waits");
        }
        assert_eq!(order, [4, 5, 4, 5]);
        // What is closed is forgotten, and its number is free for another.
        assert_eq!(sys_close(counter), 0);
        assert_eq!(told(&epoll, now()), [(4, POLLIN)]);
        let again = sys_eventfd(1, 0);
        assert_eq!((again, epoll.add(again, interest(POLLIN, 6))), (counter, Ok(())));
        assert_eq!(epoll.remove(reader), Ok(()));
        assert_eq!(told(&epoll, now()), [(6, POLLIN)]);
        let start = Instant::now();
        epoll.change(again, interest(0, 6)).expect("known");
        assert_eq!(told(&epoll, Some(start + Duration::from_millis(70))), []);
        assert!(Instant::now() - start >= Duration::from_millis(70));
    });
}

#[test]
fn counters_count() {
    on_machine(|| {
        let read = |descriptor| {
            let mut bytes = [0; 8];
            // SAFETY: the array is as long as it says.
            match unsafe { sys_read(descriptor, bytes.as_mut_ptr(), 8) } {
                8 => Ok(u64::from_ne_bytes(bytes)),
                error => Err(-error as i32),
            }
        };
        let write = |descriptor, more: u64| {
            let bytes = more.to_ne_bytes();
            // SAFETY: as above.
            unsafe { sys_write(descriptor, bytes.as_ptr(), 8) }
        };
        let counter = sys_eventfd(0, hermit_abi::EFD_NONBLOCK);
        assert_eq!((read(counter), write(counter, 3), write(counter, 4), read(counter)), (Err(EAGAIN), 8, 8, Ok(7)));
        assert_eq!((write(counter, u64::MAX - 1), write(counter, 1)), (8, -EAGAIN as isize));
        assert_eq!(write(counter, u64::MAX), -EINVAL as isize);
        assert_eq!(read(counter), Ok(u64::MAX - 1));
        let semaphore = sys_eventfd(2, hermit_abi::EFD_NONBLOCK | hermit_abi::EFD_SEMAPHORE);
        assert_eq!((read(semaphore), read(semaphore), read(semaphore)), (Ok(1), Ok(1), Err(EAGAIN)));
        assert!(descriptors::get_as::<Socket>(counter, ENOTSOCK).is_err());
    });
}
