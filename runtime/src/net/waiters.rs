//! Which task waits for which socket.

use alloc::vec::Vec;
use core::task::Waker;

use netstack::{ConnId, Event, ListenerId, Readiness, UdpId};

use crate::executor::waker::Wake;

/// One socket's waiters: one task that reads (or accepts) and one that writes.
#[derive(Default)]
struct Waiter {
    /// The id that registered; another id means that the place belongs to a later socket.
    owner: u64,
    read: Option<Wake>,
    write: Option<Wake>,
}

/// A table of waiters, indexed like the stack's own table.
#[derive(Default)]
struct Table(Vec<Waiter>);

impl Table {
    #[inline]
    fn place(&mut self, index: usize, owner: u64) -> &mut Waiter {
        if index >= self.0.len() {
            self.0.resize_with(index + 1, Waiter::default);
        }
        let waiter = &mut self.0[index];
        if waiter.owner != owner {
            *waiter = Waiter { owner, ..Waiter::default() };
        }
        waiter
    }

    #[inline]
    fn wake(&mut self, index: usize, owner: u64, readiness: Readiness, wake: &mut impl FnMut(Wake)) {
        let Some(waiter) = self.0.get_mut(index).filter(|waiter| waiter.owner == owner) else { return };
        if readiness.intersects(Readiness::READABLE.union(Readiness::CLOSED))
            && let Some(reader) = waiter.read.take()
        {
            wake(reader);
        }
        if readiness.intersects(Readiness::WRITABLE.union(Readiness::CONNECTED).union(Readiness::CLOSED))
            && let Some(writer) = waiter.write.take()
        {
            wake(writer);
        }
    }
}

/// All waiters of the network.
#[derive(Default)]
pub(super) struct Waiters {
    connections: Table,
    listeners: Table,
    datagrams: Table,
    address: Vec<Wake>,
}

impl Waiters {
    #[inline]
    pub(super) fn read(&mut self, id: ConnId, wake: Wake) {
        self.connections.place(id.index(), id.to_bits()).read = Some(wake);
    }

    #[inline]
    pub(super) fn write(&mut self, id: ConnId, wake: Wake) {
        self.connections.place(id.index(), id.to_bits()).write = Some(wake);
    }

    pub(super) fn accept(&mut self, id: ListenerId, wake: Wake) {
        self.listeners.place(id.index(), id.to_bits()).read = Some(wake);
    }

    pub(super) fn read_datagram(&mut self, id: UdpId, wake: Wake) {
        self.datagrams.place(id.index(), id.to_bits()).read = Some(wake);
    }

    pub(super) fn write_datagram(&mut self, id: UdpId, wake: Wake) {
        self.datagrams.place(id.index(), id.to_bits()).write = Some(wake);
    }

    pub(super) fn wait_for_address(&mut self, waker: &Waker) {
        self.address.push(Wake::of(waker));
    }

    /// Hands out the wakers that an event concerns.
    #[inline]
    pub(super) fn on_event(&mut self, event: Event, mut wake: impl FnMut(Wake)) {
        match event {
            Event::Connection(id, readiness) => self.connections.wake(id.index(), id.to_bits(), readiness, &mut wake),
            Event::Acceptable(id) => self.listeners.wake(id.index(), id.to_bits(), Readiness::READABLE, &mut wake),
            Event::Datagram(id, readiness) => self.datagrams.wake(id.index(), id.to_bits(), readiness, &mut wake),
            Event::Address => self.address.drain(..).for_each(wake),
            // A guest does not intercept connections to others.
            Event::Incoming(_) => {}
        }
    }
}
