//! Sockets: TCP and UDP over IPv4, and pairs that stay within the machine.
//!
//! What goes to an address of this machine (`127.0.0.0/8`, its own) never meets the network: two sockets are joined by queues
//! in memory, datagrams are put into the other's queue. All the rest is the guest's TCP/IP ([`crate::net`]).
//! Any number of threads may use a socket at once.
//!
//! Ports that nobody has chosen are given out in turn, waiting threads are woken in the order in which they came: both are
//! functions of the record.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};

use hermit_abi::{
    EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, ECONNREFUSED, ECONNRESET, EINVAL, EMSGSIZE, ENETUNREACH, ENOBUFS,
    ENOTCONN, EOPNOTSUPP, EPIPE, ETIMEDOUT, O_NONBLOCK, O_RDWR, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP, S_IFSOCK,
    stat,
};

use super::descriptors::{Errno, Open, Result, Status, in_turn, stat_of};
use super::signal::{Events, Signal};
use super::wait;
use crate::net::{self, Error};
use crate::time::Instant;

mod calls;
mod connect;
mod datagrams;
mod listener;
pub(super) mod local;
mod options;
mod ports;
mod stream;

pub(in crate::sys) use calls::hermit_address;
pub use calls::{
    sys_accept, sys_bind, sys_connect, sys_getpeername, sys_getsockname, sys_getsockopt, sys_listen, sys_recv,
    sys_recvfrom, sys_send, sys_sendto, sys_setsockopt, sys_shutdown, sys_shutdown_socket, sys_socket,
};
pub use options::{Name, Value};

use datagrams::Datagrams;
use listener::Listener;
use options::Options;
use ports::Reservation;
use stream::Stream;

/// Where addresses of a socket come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Internet,
    /// Without addresses: pairs.
    Local,
}

/// What a socket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Bytes in order.
    Stream,
    /// Datagrams.
    Datagram,
}

/// How a call reads or writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mode {
    /// What is read stays where it is (`MSG_PEEK`).
    pub peek: bool,
    /// This call does not wait (`MSG_DONTWAIT`).
    pub dont_wait: bool,
    /// It waits until all of the room is filled (`MSG_WAITALL`).
    pub wait_all: bool,
}

/// Which side `shutdown` ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nothing more is read.
    Read,
    /// Nothing more is written.
    Write,
    /// Both.
    Both,
}

/// What a socket has become so far.
enum State {
    /// Nothing, but perhaps with a port.
    Fresh,
    Listening(Rc<Listener>),
    Connecting(net::TcpStream),
    Connected(Rc<Stream>),
    Datagrams(Rc<Datagrams>),
}

/// A socket.
pub struct Socket {
    family: Family,
    kind: Kind,
    status: Status,
    signal: Rc<Signal>,
    state: RefCell<State>,
    /// Its port, if it has one of its own.
    bound: RefCell<Option<Reservation>>,
    options: Options,
    /// What is to be told of an attempt that nobody waited for, or 0.
    error: Cell<Errno>,
    /// Nothing more is read.
    deaf: Cell<bool>,
}

/// The error number of an error of the network.
fn errno(error: Error) -> Errno {
    match error {
        Error::NotConnected => ENOTCONN,
        Error::WouldBlock => EAGAIN,
        Error::Finished | Error::Shutdown => EPIPE,
        Error::Refused => ECONNREFUSED,
        Error::Reset => ECONNRESET,
        Error::TimedOut => ETIMEDOUT,
        Error::PortInUse => EADDRINUSE,
        Error::InvalidPort | Error::NoFreePort => EADDRNOTAVAIL,
        Error::Unaddressable => ENETUNREACH,
        Error::LimitReached => ENOBUFS,
        Error::TooLong => EMSGSIZE,
    }
}

/// Whether an address is one of this machine's.
fn is_ours(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || net::own_address() == Some(ip)
}

impl Socket {
    /// A new socket.
    ///
    /// # Errors
    /// `EOPNOTSUPP` for local datagrams.
    pub fn new(family: Family, kind: Kind, nonblocking: bool) -> Result<Rc<Self>> {
        if family == Family::Local && kind == Kind::Datagram {
            return Err(EOPNOTSUPP);
        }
        Ok(Self::with_state(family, kind, State::Fresh, nonblocking, Rc::default()))
    }

    /// Two local sockets that are connected with each other.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn pair(kind: Kind, nonblocking: bool) -> Result<[Rc<Self>; 2]> {
        if kind == Kind::Datagram {
            return Err(EOPNOTSUPP);
        }
        let signals: [Rc<Signal>; 2] = Default::default();
        let ends = local::join(&signals[0], &signals[1]);
        let [one, two] = signals;
        let connected = |end, signal| {
            let state = State::Connected(Rc::new(Stream::local(end, None)));
            Self::with_state(Family::Local, kind, state, nonblocking, signal)
        };
        let [first, second] = ends;
        Ok([connected(first, one), connected(second, two)])
    }

    fn with_state(family: Family, kind: Kind, state: State, nonblocking: bool, signal: Rc<Signal>) -> Rc<Self> {
        Rc::new(Self {
            family,
            kind,
            status: Status::new(O_RDWR | if nonblocking { O_NONBLOCK } else { 0 }),
            signal,
            state: RefCell::new(state),
            bound: RefCell::new(None),
            options: Options::default(),
            error: Cell::new(0),
            deaf: Cell::new(false),
        })
    }

    /// What it carries, and where its addresses come from.
    pub fn kind(&self) -> (Family, Kind) {
        (self.family, self.kind)
    }

    fn set_state(&self, state: State) {
        let old = self.state.replace(state);
        drop(old);
    }

    /// Calls are over, for this socket's flags and a call's mode, at once, at a time, or never.
    fn attempt<T>(
        &self,
        events: Events,
        limit: Option<crate::time::Duration>,
        mode: Mode,
        mut operation: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        if mode.dont_wait {
            return operation();
        }
        wait::until(self, events, limit.map(|limit| Instant::now() + limit), operation)
    }

    /// The stream of a connection.
    fn stream(&self) -> Result<Rc<Stream>> {
        self.settle()?;
        match &*self.state.borrow() {
            State::Connected(stream) => Ok(Rc::clone(stream)),
            _ => Err(ENOTCONN),
        }
    }

    /// The queue of datagrams; gives the socket a port if it has none.
    fn datagrams(self: &Rc<Self>) -> Result<Rc<Datagrams>> {
        if let State::Datagrams(datagrams) = &*self.state.borrow() {
            return Ok(Rc::clone(datagrams));
        }
        self.bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        match &*self.state.borrow() {
            State::Datagrams(datagrams) => Ok(Rc::clone(datagrams)),
            _ => Err(EOPNOTSUPP),
        }
    }

    /// Gives the socket an address of this machine; with port 0, one that is free.
    ///
    /// # Errors
    /// `EINVAL` if it has one, `EADDRINUSE`, `EADDRNOTAVAIL`, `EAFNOSUPPORT` for a socket without addresses.
    pub fn bind(self: &Rc<Self>, address: SocketAddrV4) -> Result<()> {
        if self.family != Family::Internet {
            return Err(EAFNOSUPPORT);
        }
        if self.bound.borrow().is_some() || !matches!(&*self.state.borrow(), State::Fresh) {
            return Err(EINVAL);
        }
        if !is_ours(*address.ip()) {
            return Err(EADDRNOTAVAIL);
        }
        match self.kind {
            Kind::Stream => {
                *self.bound.borrow_mut() = Some(ports::reserve(self, address)?);
            }
            Kind::Datagram => {
                let (reservation, datagrams) = Datagrams::bind(self, address)?;
                *self.bound.borrow_mut() = Some(reservation);
                self.set_state(State::Datagrams(Rc::new(datagrams)));
            }
        }
        Ok(())
    }

    /// Reads from a connection, or a datagram, into memory that need not hold values: how many bytes, and who sent them if
    /// they came as a datagram.
    ///
    /// # Errors
    /// `ENOTCONN`, `EAGAIN` when it is not to wait or the time is over, or how the connection ended.
    ///
    /// # Safety
    /// `bytes` bytes can be written at `place`.
    pub unsafe fn receive(
        self: &Rc<Self>,
        place: *mut u8,
        bytes: usize,
        mode: Mode,
    ) -> Result<(usize, Option<SocketAddrV4>)> {
        if self.kind == Kind::Datagram {
            // SAFETY: the caller's; the bytes are read only after having been given a value.
            let buffer = unsafe {
                place.write_bytes(0, bytes);
                core::slice::from_raw_parts_mut(place, bytes)
            };
            return self.receive_datagram(buffer, mode).map(|(bytes, from)| (bytes, Some(from)));
        }
        if bytes == 0 {
            return self.stream().map(|_| (0, None));
        }
        let mut read = 0;
        loop {
            // SAFETY: the caller's; `read` is no more than `bytes`.
            let piece = self.attempt(POLLIN, self.options.receive_limit.get(), mode, || unsafe {
                self.receive_now(place.add(read), bytes - read, mode)
            });
            match piece {
                Ok(piece) => {
                    read += piece;
                    if piece == 0 || read == bytes || !mode.wait_all || mode.peek {
                        return Ok((read, None));
                    }
                }
                Err(_) if read > 0 => return Ok((read, None)),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// # Safety
    /// As [`receive`](Self::receive).
    unsafe fn receive_now(&self, place: *mut u8, bytes: usize, mode: Mode) -> Result<usize> {
        let stream = self.stream()?;
        if self.deaf.get() {
            return Ok(0);
        }
        // SAFETY: the caller's.
        unsafe { stream.read(place, bytes, mode.peek) }
    }

    /// Writes to a connection, all of it unless it is not to wait: how many bytes.
    ///
    /// # Errors
    /// `ENOTCONN`, `EPIPE` after the end, `EAGAIN` when it is not to wait or the time is over, or how the connection ended.
    pub fn send(self: &Rc<Self>, data: &[u8], mode: Mode) -> Result<usize> {
        if self.kind == Kind::Datagram {
            return self.send_datagram(data, None, mode);
        }
        self.send_stream(data, mode)
    }

    fn send_stream(&self, data: &[u8], mode: Mode) -> Result<usize> {
        let mut written = 0;
        loop {
            let piece =
                self.attempt(POLLOUT, self.options.send_limit.get(), mode, || self.stream()?.write(&data[written..]));
            match piece {
                Ok(piece) => written += piece,
                Err(_) if written > 0 => return Ok(written),
                Err(errno) => return Err(errno),
            }
            if written == data.len() || mode.dont_wait || self.status.is_nonblocking() {
                return Ok(written);
            }
        }
    }

    /// Says that nothing more is written or read.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn shutdown(&self, side: Side) -> Result<()> {
        let listener = match &*self.state.borrow() {
            State::Listening(listener) => Some(Rc::clone(listener)),
            _ => None,
        };
        if let Some(listener) = listener {
            if side != Side::Write {
                listener.stop();
                self.signal.notify(POLLIN | POLLHUP);
            }
            return Ok(());
        }
        if self.kind == Kind::Datagram {
            let connected = matches!(&*self.state.borrow(), State::Datagrams(datagrams) if datagrams.peer().is_some());
            if !connected {
                return Err(ENOTCONN);
            }
        } else {
            let stream = self.stream().map_err(|_| ENOTCONN)?;
            if side != Side::Read {
                stream.finish();
            }
        }
        if side != Side::Write {
            self.deaf.set(true);
            self.signal.notify(POLLIN | POLLRDHUP);
        }
        Ok(())
    }

    /// This end's address; none of a local socket.
    pub fn local_address(&self) -> Option<SocketAddrV4> {
        let connected = match &*self.state.borrow() {
            State::Connected(stream) => stream.local_address(),
            State::Connecting(stream) => stream.local_addr().ok(),
            State::Datagrams(datagrams) => {
                let peer = datagrams.peer();
                let bound = self.bound.borrow().as_ref().map(Reservation::address);
                return match (bound, peer) {
                    (Some(bound), Some(peer)) if bound.ip().is_unspecified() => {
                        Some(SocketAddrV4::new(datagrams::source(bound, *peer.ip()), bound.port()))
                    }
                    (bound, _) => bound,
                };
            }
            _ => None,
        };
        let bound = || self.bound.borrow().as_ref().map(Reservation::address);
        let none = || (self.family == Family::Internet).then(|| SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        connected.or_else(bound).or_else(none)
    }

    /// The other end's address; none of a local socket.
    ///
    /// # Errors
    /// `ENOTCONN`.
    pub fn remote_address(&self) -> Result<Option<SocketAddrV4>> {
        let _ = self.stream();
        match &*self.state.borrow() {
            State::Connected(stream) => Ok(stream.remote_address()),
            State::Datagrams(datagrams) => datagrams.peer().map(Some).ok_or(ENOTCONN),
            _ => Err(ENOTCONN),
        }
    }

    /// What went wrong and was told nobody yet, or 0.
    fn take_error(&self) -> Errno {
        let _ = self.settle();
        let kept = self.error.take();
        if kept != 0 {
            return kept;
        }
        match &*self.state.borrow() {
            State::Connected(stream) => stream.take_error(),
            _ => 0,
        }
    }
}

impl Open for Socket {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        // SAFETY: the slice is as long as it says.
        unsafe { self.read_raw(buffer.as_mut_ptr(), buffer.len()) }
    }

    unsafe fn read_raw(&self, place: *mut u8, bytes: usize) -> Result<usize> {
        match self.kind {
            Kind::Stream => {
                if bytes == 0 {
                    return self.stream().map(|_| 0);
                }
                // SAFETY: the caller's.
                self.attempt(POLLIN, self.options.receive_limit.get(), Mode::default(), || unsafe {
                    self.receive_now(place, bytes, Mode::default())
                })
            }
            Kind::Datagram => {
                // SAFETY: the caller's; the bytes are read only after having been given a value.
                let buffer = unsafe {
                    place.write_bytes(0, bytes);
                    core::slice::from_raw_parts_mut(place, bytes)
                };
                self.receive_datagram(buffer, Mode::default()).map(|(bytes, _)| bytes)
            }
        }
    }

    fn write(&self, data: &[u8]) -> Result<usize> {
        match self.kind {
            Kind::Stream => self.send_stream(data, Mode::default()),
            Kind::Datagram => self.send_connected(data),
        }
    }

    fn write_pieces(&self, pieces: &[&[u8]]) -> Result<usize> {
        match self.kind {
            Kind::Datagram => self.send_connected(&pieces.concat()),
            Kind::Stream => in_turn(pieces, |piece| self.send_stream(piece, Mode::default())),
        }
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat_of(S_IFSOCK))
    }

    fn readiness(&self) -> Events {
        let state = self.state.borrow();
        let mut events = match &*state {
            // As Linux has it.
            State::Fresh if self.kind == Kind::Stream => POLLOUT | POLLHUP,
            State::Fresh => POLLOUT,
            State::Listening(listener) => listener.readiness(),
            State::Connecting(stream) => match stream.opened() {
                Err(Error::WouldBlock) => 0,
                Ok(()) => POLLOUT,
                Err(_) => POLLIN | POLLOUT | POLLERR | POLLHUP | POLLRDHUP,
            },
            State::Connected(stream) => stream.readiness(),
            State::Datagrams(datagrams) => datagrams.readiness(),
        };
        if self.deaf.get() {
            events |= POLLIN | POLLRDHUP;
        }
        if self.error.get() != 0 {
            events |= POLLERR | POLLIN | POLLOUT;
        }
        events
    }

    fn signal(&self) -> Option<&Signal> {
        Some(&self.signal)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let State::Connected(stream) = &*self.state.borrow()
            && self.options.linger.get() == Some(crate::time::Duration::ZERO)
        {
            stream.abort_when_dropped();
        }
    }
}

/// Forgets what sockets share, after they have gone: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn reset() {
    ports::reset();
}
