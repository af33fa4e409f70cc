//! Which task waits for which socket.

use alloc::rc::Rc;
use alloc::vec::Vec;
use core::task::Waker;

use hermit_abi::{POLLERR, POLLHUP, POLLIN, POLLOUT, POLLRDHUP};
use netstack::{ConnId, Event, ListenerId, Readiness, UdpId};

use crate::executor::waker::Wake;
use crate::sys::signal::{Events, Signal};

/// One socket's waiters: one task that reads (or accepts) and one that writes.
#[derive(Default)]
struct Waiter {
    /// The id that registered; another id means that the place belongs to a later socket.
    owner: u64,
    read: Option<Wake>,
    write: Option<Wake>,
    /// Who waits by way of a descriptor, any number of them.
    signal: Option<Rc<Signal>>,
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
        if let Some(signal) = &waiter.signal {
            signal.fire(events_of(readiness), wake);
        }
    }
}

/// What a change of a socket lets those hope for who wait by way of a descriptor.
fn events_of(readiness: Readiness) -> Events {
    let bits = [
        (Readiness::READABLE, POLLIN | POLLRDHUP),
        (Readiness::WRITABLE.union(Readiness::CONNECTED), POLLOUT),
        (Readiness::CLOSED, POLLIN | POLLRDHUP | POLLOUT | POLLHUP | POLLERR),
    ];
    bits.into_iter().filter(|(bit, _)| readiness.intersects(*bit)).fold(0, |events, (_, more)| events | more)
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

    pub(super) fn watch_connection(&mut self, id: ConnId, signal: Rc<Signal>) {
        self.connections.place(id.index(), id.to_bits()).signal = Some(signal);
    }

    pub(super) fn watch_listener(&mut self, id: ListenerId, signal: Rc<Signal>) {
        self.listeners.place(id.index(), id.to_bits()).signal = Some(signal);
    }

    pub(super) fn watch_datagrams(&mut self, id: UdpId, signal: Rc<Signal>) {
        self.datagrams.place(id.index(), id.to_bits()).signal = Some(signal);
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
