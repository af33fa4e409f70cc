//! What changed, told once, so that an executor wakes exactly the tasks concerned.

use alloc::collections::VecDeque;

use crate::id::{ConnId, IncomingId, ListenerId, UdpId};

bitflags::bitflags! {
    /// What a connection may be ready for. A hint: the operation itself has the last word.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Readiness: u8 {
        /// Data or the end of the peer's stream arrived.
        const READABLE = 1;
        /// There is room to send after a send that found none.
        const WRITABLE = 2;
        /// The handshake is complete.
        const CONNECTED = 4;
        /// The connection is over; reads drain what is left.
        const CLOSED = 8;
    }
}

/// An edge: something happened since the last time events were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A connection changed.
    Connection(ConnId, Readiness),
    /// A listener has a connection to [`accept`](crate::Stack::accept).
    Acceptable(ListenerId),
    /// A peer asks for a connection that nobody listens for; see [`Stack::intercept`](crate::Stack::intercept).
    Incoming(IncomingId),
    /// A UDP socket changed: datagrams arrived or room was made.
    Datagram(UdpId, Readiness),
    /// DHCP configured or lost the address; see [`Stack::address`](crate::Stack::address).
    Address,
}

/// Who has something to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Slot(u32),
    Listener(u32),
    Incoming(IncomingId),
    Address,
}

/// Sources in the order in which they first had something to tell. Each source knows whether it is queued, so the
/// queue is bounded by the number of sources.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    queue: VecDeque<Source>,
}

impl Sources {
    pub(crate) fn push(&mut self, source: Source) {
        self.queue.push_back(source);
    }

    pub(crate) fn pop(&mut self) -> Option<Source> {
        self.queue.pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
