//! Which sockets have which ports.

use alloc::collections::BTreeMap;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::{Ipv4Addr, SocketAddrV4};

use hermit_abi::EADDRINUSE;

use super::{Kind, Result, Socket};

/// First of the ports that are given out to who does not choose one (RFC 6335).
const FIRST_FREE: u16 = 49152;

/// Who has a port, at which address.
struct Holder {
    ip: Ipv4Addr,
    socket: Weak<Socket>,
}

struct Ports {
    streams: BTreeMap<u16, Vec<Holder>>,
    datagrams: BTreeMap<u16, Vec<Holder>>,
    /// The one that was given out last.
    last: u16,
}

local! {
    static PORTS: RefCell<Ports> = RefCell::new(Ports::new());
}

impl Ports {
    const fn new() -> Self {
        Self { streams: BTreeMap::new(), datagrams: BTreeMap::new(), last: u16::MAX }
    }

    fn of(&mut self, kind: Kind) -> &mut BTreeMap<u16, Vec<Holder>> {
        match kind {
            Kind::Stream => &mut self.streams,
            Kind::Datagram => &mut self.datagrams,
        }
    }

    fn is_free(&mut self, kind: Kind, address: SocketAddrV4) -> bool {
        let collides =
            |holder: &Holder| holder.ip == *address.ip() || holder.ip.is_unspecified() || address.ip().is_unspecified();
        self.of(kind).get(&address.port()).is_none_or(|holders| !holders.iter().any(collides))
    }

    /// The next port in turn that is free at this address.
    fn next_free(&mut self, kind: Kind, ip: Ipv4Addr) -> Option<u16> {
        for _ in FIRST_FREE..=u16::MAX {
            self.last = if self.last == u16::MAX { FIRST_FREE } else { self.last + 1 };
            if self.is_free(kind, SocketAddrV4::new(ip, self.last)) {
                return Some(self.last);
            }
        }
        None
    }
}

/// A port of a socket, until it is dropped.
pub(super) struct Reservation {
    kind: Kind,
    address: SocketAddrV4,
    socket: Weak<Socket>,
}

impl Reservation {
    pub(super) fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        PORTS.with(|ports| {
            let mut ports = ports.borrow_mut();
            let all = ports.of(self.kind);
            if let Some(holders) = all.get_mut(&self.address.port()) {
                holders.retain(|holder| !Weak::ptr_eq(&holder.socket, &self.socket));
                if holders.is_empty() {
                    all.remove(&self.address.port());
                }
            }
        });
    }
}

/// Gives a socket a port: that of `address`, or the next one that is free if that is 0.
pub(super) fn reserve(socket: &Rc<Socket>, address: SocketAddrV4) -> Result<Reservation> {
    let kind = socket.kind;
    PORTS.with(|ports| {
        let mut ports = ports.borrow_mut();
        let port = match address.port() {
            0 => ports.next_free(kind, *address.ip()).ok_or(EADDRINUSE)?,
            port if ports.is_free(kind, address) => port,
            _ => return Err(EADDRINUSE),
        };
        let address = SocketAddrV4::new(*address.ip(), port);
        let socket = Rc::downgrade(socket);
        ports.of(kind).entry(port).or_default().push(Holder { ip: *address.ip(), socket: Weak::clone(&socket) });
        Ok(Reservation { kind, address, socket })
    })
}

/// A port for a connection within the machine, which nobody is to find by it.
pub(super) fn passing() -> u16 {
    PORTS.with(|ports| ports.borrow_mut().next_free(Kind::Stream, Ipv4Addr::UNSPECIFIED)).unwrap_or(FIRST_FREE)
}

/// The socket that gets what goes to an address of this machine.
pub(super) fn find(kind: Kind, address: SocketAddrV4) -> Option<Rc<Socket>> {
    PORTS.with(|ports| {
        let mut ports = ports.borrow_mut();
        let holders = ports.of(kind).get(&address.port())?;
        let exact = holders.iter().find(|holder| holder.ip == *address.ip());
        exact.or_else(|| holders.iter().find(|holder| holder.ip.is_unspecified()))?.socket.upgrade()
    })
}

/// Forgets which port was given out last: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(super) fn reset() {
    PORTS.with(|ports| *ports.borrow_mut() = Ports::new());
}
