//! Connections, over the network or within the machine.

use core::cell::Cell;
use core::net::SocketAddrV4;
use core::num::NonZeroU8;

use hermit_abi::{EPIPE, POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP};
use netstack::Readiness;

use super::local::End;
use super::{Errno, Events, Result, errno};
use crate::net::{Error, TcpStream};
use crate::time::Duration;

enum Carrier {
    /// `None` after an abortion.
    Network(TcpStream),
    Local {
        end: End,
        addresses: Option<(SocketAddrV4, SocketAddrV4)>,
    },
}

/// A connection.
pub(super) struct Stream {
    carrier: Carrier,
    /// How it ended was told; from then on reads find the end, and writes a closed pipe.
    told: Cell<bool>,
    /// What was not sent when it is dropped is lost.
    abort: Cell<bool>,
    finished: Cell<bool>,
}

impl Stream {
    fn new(carrier: Carrier) -> Self {
        Self { carrier, told: Cell::new(false), abort: Cell::new(false), finished: Cell::new(false) }
    }

    /// A connection over the network.
    pub(super) fn network(stream: TcpStream) -> Self {
        Self::new(Carrier::Network(stream))
    }

    /// One end of a connection within the machine, and the addresses of this end and of the other one.
    pub(super) fn local(end: End, addresses: Option<(SocketAddrV4, SocketAddrV4)>) -> Self {
        Self::new(Carrier::Local { end, addresses })
    }

    /// An error of the network, told once.
    fn tell(&self, error: Error) -> Option<Errno> {
        match error {
            Error::Reset | Error::TimedOut | Error::Refused if self.told.replace(true) => None,
            other => Some(errno(other)),
        }
    }

    /// Reads what is there: how many bytes, 0 at the end.
    ///
    /// # Safety
    /// `bytes` bytes can be written at `place`.
    pub(super) unsafe fn read(&self, place: *mut u8, bytes: usize, peek: bool) -> Result<usize> {
        match &self.carrier {
            Carrier::Network(stream) => {
                let read = if peek {
                    // SAFETY: the caller's; the bytes are read only after having been given a value.
                    stream.try_peek(unsafe {
                        place.write_bytes(0, bytes);
                        core::slice::from_raw_parts_mut(place, bytes)
                    })
                } else {
                    // SAFETY: the caller's.
                    unsafe { stream.try_read(place, bytes) }
                };
                read.or_else(|error| self.tell(error).map_or(Ok(0), Err))
            }
            // SAFETY: the caller's.
            Carrier::Local { end, .. } => unsafe { end.read(place, bytes, peek) },
        }
    }

    /// Writes what there is room for: how many bytes.
    pub(super) fn write(&self, data: &[u8]) -> Result<usize> {
        if self.finished.get() {
            return Err(EPIPE);
        }
        match &self.carrier {
            Carrier::Network(stream) => stream.try_write(data).map_err(|error| self.tell(error).unwrap_or(EPIPE)),
            Carrier::Local { end, .. } => end.write(data),
        }
    }

    /// Nothing more is written.
    pub(super) fn finish(&self) {
        self.finished.set(true);
        match &self.carrier {
            // One that is gone is as good.
            Carrier::Network(stream) => _ = stream.shutdown(),
            Carrier::Local { end, .. } => end.finish(),
        }
    }

    /// Has the connection reset when it is dropped.
    pub(super) fn abort_when_dropped(&self) {
        self.abort.set(true);
    }

    pub(super) fn local_address(&self) -> Option<SocketAddrV4> {
        match &self.carrier {
            Carrier::Network(stream) => stream.local_addr().ok(),
            Carrier::Local { addresses, .. } => addresses.map(|(own, _)| own),
        }
    }

    pub(super) fn remote_address(&self) -> Option<SocketAddrV4> {
        match &self.carrier {
            Carrier::Network(stream) => stream.peer_addr().ok(),
            Carrier::Local { addresses, .. } => addresses.map(|(_, other)| other),
        }
    }

    pub(super) fn take_error(&self) -> Errno {
        match &self.carrier {
            Carrier::Network(stream) => match stream.end() {
                Some(error @ (Error::Reset | Error::TimedOut | Error::Refused)) => self.tell(error).unwrap_or(0),
                _ => 0,
            },
            Carrier::Local { end, .. } => end.take_error(),
        }
    }

    pub(super) fn readiness(&self) -> Events {
        let stream = match &self.carrier {
            Carrier::Network(stream) => stream,
            Carrier::Local { end, .. } => return end.readiness(),
        };
        let readiness = stream.readiness();
        let mut events = 0;
        if readiness.contains(Readiness::READABLE) {
            events |= POLLIN;
        }
        if readiness.contains(Readiness::WRITABLE) {
            events |= POLLOUT;
        }
        if stream.has_peer_finished() {
            events |= POLLRDHUP;
            if self.finished.get() {
                events |= POLLHUP;
            }
        }
        match stream.end() {
            Some(Error::Finished) => events |= POLLHUP,
            Some(_) => events |= POLLHUP | POLLRDHUP | if self.told.get() { 0 } else { POLLERR },
            None => {}
        }
        events
    }

    pub(super) fn set_nodelay(&self, nodelay: bool) {
        if let Carrier::Network(stream) = &self.carrier {
            // One that is gone has nothing to delay; so below.
            let _ = stream.set_nodelay(nodelay);
        }
    }

    pub(super) fn set_keep_alive(&self, interval: Option<Duration>) {
        if let Carrier::Network(stream) = &self.carrier {
            let _ = stream.set_keep_alive(interval);
        }
    }

    pub(super) fn set_hop_limit(&self, hops: Option<NonZeroU8>) {
        if let Carrier::Network(stream) = &self.carrier {
            let _ = stream.set_hop_limit(hops);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.abort.get() {
            match &self.carrier {
                Carrier::Network(stream) => stream.reset(),
                Carrier::Local { end, .. } => end.reset(),
            }
        }
    }
}
