//! Datagrams: those of the network, and those within the machine.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};

use hermit_abi::{
    EADDRINUSE, EAGAIN, ECONNREFUSED, EDESTADDRREQ, EINVAL, EMSGSIZE, ENETUNREACH, POLLERR, POLLIN, POLLOUT,
};
use netstack::Readiness;

use super::{Events, Kind, Mode, Reservation, Result, Socket, State, errno, is_ours, ports};
use crate::net::{self, Error, UdpSocket};

/// Most bytes that wait for a reader, of those that have come from this machine. What comes beyond is lost.
const MOST_WAITING_BYTES: usize = 256 * 1024;
/// What a datagram counts beyond its bytes.
const OVERHEAD_BYTES: usize = 64;
/// Longest datagram of IPv4.
const MOST_BYTES: usize = 65_507;

struct Waiting {
    data: Box<[u8]>,
    from: SocketAddrV4,
}

/// What a socket for datagrams has.
pub(super) struct Datagrams {
    /// None for a port that only this machine reaches.
    network: Option<UdpSocket>,
    waiting: RefCell<VecDeque<Waiting>>,
    waiting_bytes: Cell<usize>,
    peer: Cell<Option<SocketAddrV4>>,
}

/// Where a datagram to `to` comes from, of a socket that is bound to this address.
pub(super) fn source(bound: SocketAddrV4, to: Ipv4Addr) -> Ipv4Addr {
    match bound.ip() {
        ip if !ip.is_unspecified() => *ip,
        _ if to.is_loopback() => to,
        _ => net::own_address().unwrap_or(Ipv4Addr::LOCALHOST),
    }
}

impl Datagrams {
    /// Gives a socket a port, and queues.
    pub(super) fn bind(socket: &Rc<Socket>, address: SocketAddrV4) -> Result<(Reservation, Self)> {
        loop {
            let reservation = ports::reserve(socket, address)?;
            let network = if address.ip().is_loopback() {
                None
            } else {
                match UdpSocket::bind_watched(reservation.address().port(), Rc::clone(&socket.signal)) {
                    Ok(network) => Some(network),
                    // A task's socket has it: the next one then.
                    Err(Error::PortInUse) if address.port() == 0 => continue,
                    Err(Error::PortInUse) => return Err(EADDRINUSE),
                    Err(error) => return Err(errno(error)),
                }
            };
            let peer = Cell::new(None);
            let datagrams = Self { network, waiting: RefCell::default(), waiting_bytes: Cell::new(0), peer };
            socket.options.apply_to_datagrams(datagrams.network.as_ref());
            return Ok((reservation, datagrams));
        }
    }

    pub(super) fn peer(&self) -> Option<SocketAddrV4> {
        self.peer.get()
    }

    pub(super) fn set_peer(&self, peer: Option<SocketAddrV4>) {
        self.peer.set(peer);
    }

    pub(super) fn network(&self) -> Option<&UdpSocket> {
        self.network.as_ref()
    }

    fn is_wanted(&self, from: SocketAddrV4) -> bool {
        self.peer.get().is_none_or(|peer| peer == from)
    }

    fn take(&self, buffer: &mut [u8], keep: bool) -> Result<(usize, SocketAddrV4)> {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(Waiting { data, from }) = waiting.front() {
            let (from, wanted) = (*from, self.is_wanted(*from));
            let bytes = data.len().min(buffer.len());
            buffer[..bytes].copy_from_slice(&data[..bytes]);
            if !keep || !wanted {
                self.waiting_bytes.set(self.waiting_bytes.get() - data.len() - OVERHEAD_BYTES);
                waiting.pop_front();
            }
            if wanted {
                return Ok((bytes, from));
            }
        }
        let network = self.network.as_ref().ok_or(EAGAIN)?;
        loop {
            let (bytes, from) = network.try_receive(buffer, keep).map_err(errno)?;
            if self.is_wanted(from) {
                return Ok((bytes.min(buffer.len()), from));
            }
            if keep {
                // One that nobody wants is in the way.
                network.try_receive(&mut [], false).map_err(errno)?;
            }
        }
    }

    /// Puts in a datagram from this machine. What finds no room is lost, as UDP has it.
    fn put(&self, data: &[u8], from: SocketAddrV4) {
        let bytes = self.waiting_bytes.get() + data.len() + OVERHEAD_BYTES;
        if bytes <= MOST_WAITING_BYTES {
            self.waiting_bytes.set(bytes);
            self.waiting.borrow_mut().push_back(Waiting { data: data.into(), from });
        }
    }

    pub(super) fn readiness(&self) -> Events {
        let network = self.network.as_ref().map_or(Readiness::WRITABLE, UdpSocket::readiness);
        let readable = !self.waiting.borrow().is_empty() || network.contains(Readiness::READABLE);
        (if readable { POLLIN } else { 0 }) | if network.contains(Readiness::WRITABLE) { POLLOUT } else { 0 }
    }
}

impl Socket {
    /// Takes a datagram: how many of its bytes fitted, and who sent it.
    pub(super) fn receive_datagram(&self, buffer: &mut [u8], mode: Mode) -> Result<(usize, SocketAddrV4)> {
        self.attempt(POLLIN, self.options.receive_limit.get(), mode, || {
            match self.error.take() {
                0 => {}
                errno => return Err(errno),
            }
            let datagrams = match &*self.state.borrow() {
                State::Datagrams(datagrams) => Rc::clone(datagrams),
                _ => return Err(EAGAIN),
            };
            if self.deaf.get() {
                return Ok((0, SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)));
            }
            datagrams.take(buffer, mode.peek)
        })
    }

    /// Sends a datagram, to where the socket is connected unless it says where.
    ///
    /// # Errors
    /// `EDESTADDRREQ` when nobody says where, `EMSGSIZE`, `ENETUNREACH`, and `ECONNREFUSED` when the one before has found
    /// nobody.
    pub fn send_datagram(self: &Rc<Self>, data: &[u8], to: Option<SocketAddrV4>, mode: Mode) -> Result<usize> {
        // Gives it a port.
        self.datagrams()?;
        self.send_bound(data, to, mode)
    }

    /// As [`send_datagram`](Self::send_datagram), to where it is connected.
    pub(super) fn send_connected(&self, data: &[u8]) -> Result<usize> {
        self.send_bound(data, None, Mode::default())
    }

    fn send_bound(&self, data: &[u8], to: Option<SocketAddrV4>, mode: Mode) -> Result<usize> {
        let datagrams = match &*self.state.borrow() {
            State::Datagrams(datagrams) => Rc::clone(datagrams),
            _ => return Err(EDESTADDRREQ),
        };
        match self.error.take() {
            0 => {}
            errno => return Err(errno),
        }
        let to = to.or(datagrams.peer()).ok_or(EDESTADDRREQ)?;
        let to = if to.ip().is_unspecified() { SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port()) } else { to };
        if to.port() == 0 {
            return Err(EINVAL);
        }
        if data.len() > MOST_BYTES {
            return Err(EMSGSIZE);
        }
        if is_ours(*to.ip()) {
            self.send_within(data, to, &datagrams);
            return Ok(data.len());
        }
        let network = datagrams.network().ok_or(ENETUNREACH)?;
        self.attempt(POLLOUT, self.options.send_limit.get(), mode, || network.try_send(data, to).map_err(errno))?;
        Ok(data.len())
    }

    /// Sends a datagram to a socket of this machine.
    fn send_within(&self, data: &[u8], to: SocketAddrV4, own: &Datagrams) {
        let Some(bound) = self.bound.borrow().as_ref().map(Reservation::address) else { return };
        let from = SocketAddrV4::new(source(bound, *to.ip()), bound.port());
        let receiver = ports::find(Kind::Datagram, to);
        let taken = receiver.as_ref().and_then(|receiver| match &*receiver.state.borrow() {
            State::Datagrams(datagrams) => Some(Rc::clone(datagrams)),
            _ => None,
        });
        match (receiver, taken) {
            (Some(receiver), Some(datagrams)) => {
                datagrams.put(data, from);
                receiver.signal.notify(POLLIN);
            }
            // As a message that the port is not reachable would have it.
            _ if own.peer() == Some(to) => {
                self.error.set(ECONNREFUSED);
                self.signal.notify(POLLIN | POLLERR);
            }
            _ => {}
        }
    }
}
