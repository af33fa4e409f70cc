//! Listening sockets, and connections that wait to be accepted.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::net::{Ipv4Addr, SocketAddrV4};

use hermit_abi::{EAGAIN, ECONNREFUSED, EINVAL, EISCONN, EOPNOTSUPP, POLLHUP, POLLIN};

use super::local::{self, End};
use super::stream::Stream;
use super::{Events, Family, Kind, Mode, Reservation, Result, Signal, Socket, State, errno};
use crate::net::TcpListener;
use crate::thread;

/// Most connections that may wait, whatever a program asks for.
const MOST_WAITING: usize = 4096;

/// A connection within the machine that waits to be accepted.
struct Waiting {
    /// There until it is accepted.
    end: Option<End>,
    signal: Rc<Signal>,
    own: SocketAddrV4,
    other: SocketAddrV4,
}

/// A listening socket's queues.
pub(super) struct Listener {
    /// None for a port that only this machine reaches.
    network: Option<TcpListener>,
    waiting: RefCell<VecDeque<Waiting>>,
    most: Cell<usize>,
    /// It was shut down.
    stopped: Cell<bool>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // Nobody has accepted it: the other end is told so.
        if let Some(end) = self.end.take() {
            end.reset();
        }
    }
}

impl Listener {
    fn accept(&self) -> Result<Rc<Socket>> {
        if self.stopped.get() {
            return Err(EINVAL);
        }
        let waiting = self.waiting.borrow_mut().pop_front();
        if let Some(mut waiting) = waiting
            && let Some(end) = waiting.end.take()
        {
            let state = State::Connected(Rc::new(Stream::local(end, Some((waiting.own, waiting.other)))));
            let signal = Rc::clone(&waiting.signal);
            return Ok(Socket::with_state(Family::Internet, Kind::Stream, state, false, signal));
        }
        let stream = self.network.as_ref().ok_or(EAGAIN)?.try_accept().map_err(errno)?;
        let signal: Rc<Signal> = Rc::default();
        stream.watch(Rc::clone(&signal));
        let state = State::Connected(Rc::new(Stream::network(stream)));
        Ok(Socket::with_state(Family::Internet, Kind::Stream, state, false, signal))
    }

    pub(super) fn readiness(&self) -> Events {
        let waits = !self.waiting.borrow().is_empty()
            || self.network.as_ref().is_some_and(TcpListener::is_acceptable)
            || self.stopped.get();
        (if waits { POLLIN } else { 0 }) | if self.stopped.get() { POLLHUP } else { 0 }
    }

    /// Accepts no more.
    pub(super) fn stop(&self) {
        self.stopped.set(true);
        drop(self.waiting.take());
    }

    /// Puts a connection within the machine into the queue: the other end of it, which the one who asks keeps.
    pub(super) fn join(&self, signal: &Rc<Signal>, own: SocketAddrV4, other: SocketAddrV4) -> Result<End> {
        let mut waiting = self.waiting.borrow_mut();
        if self.stopped.get() || waiting.len() >= self.most.get() {
            return Err(ECONNREFUSED);
        }
        let accepted: Rc<Signal> = Rc::default();
        let [kept, end] = local::join(signal, &accepted);
        waiting.push_back(Waiting { end: Some(end), signal: accepted, own, other });
        Ok(kept)
    }
}

impl Socket {
    /// Listens, at a free port unless it has one, with room for `backlog` connections that nobody has accepted yet.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EISCONN`, `EOPNOTSUPP` for what cannot listen.
    pub fn listen(self: &Rc<Self>, backlog: usize) -> Result<()> {
        if self.kind != Kind::Stream || self.family != Family::Internet {
            return Err(EOPNOTSUPP);
        }
        let most = backlog.clamp(1, MOST_WAITING);
        match &*self.state.borrow() {
            State::Fresh => {}
            State::Listening(listener) => {
                listener.most.set(most);
                return Ok(());
            }
            _ => return Err(EISCONN),
        }
        if self.bound.borrow().is_none() {
            self.bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))?;
        }
        let address = self.bound.borrow().as_ref().map(Reservation::address).ok_or(EINVAL)?;
        let network = if address.ip().is_loopback() {
            None
        } else {
            let network = TcpListener::bind_with_backlog(address.port(), most).map_err(errno)?;
            network.watch(Rc::clone(&self.signal));
            Some(network)
        };
        let listener =
            Listener { network, waiting: RefCell::default(), most: Cell::new(most), stopped: Cell::new(false) };
        self.set_state(State::Listening(Rc::new(listener)));
        Ok(())
    }

    /// Takes the next connection; waits for one unless the socket is not to.
    ///
    /// # Errors
    /// `EINVAL` for a socket that does not listen, `EAGAIN` when it is not to wait or the time is over.
    pub fn accept(&self, nonblocking: bool) -> Result<Rc<Self>> {
        let listener = match &*self.state.borrow() {
            State::Listening(listener) => Rc::clone(listener),
            _ if self.kind == Kind::Datagram => return Err(EOPNOTSUPP),
            _ => return Err(EINVAL),
        };
        if !super::Open::status(self).is_nonblocking() {
            // Those first who were woken for the last one. Pools of threads look for an idle thread, and one that was woken and
            // has not run yet would be taken for that, however many connections it was given.
            thread::yield_now();
        }
        let limit = self.options.receive_limit.get();
        let accepted = self.attempt(POLLIN, limit, Mode::default(), || listener.accept())?;
        if nonblocking {
            super::Open::status(&*accepted).set(hermit_abi::O_NONBLOCK, hermit_abi::O_NONBLOCK);
        }
        Ok(accepted)
    }

    /// Hands a listening socket a connection within the machine.
    pub(super) fn take_connection(&self, signal: &Rc<Signal>, own: SocketAddrV4, other: SocketAddrV4) -> Result<End> {
        let listener = match &*self.state.borrow() {
            State::Listening(listener) => Rc::clone(listener),
            _ => return Err(ECONNREFUSED),
        };
        let end = listener.join(signal, own, other)?;
        self.signal.notify(POLLIN);
        Ok(end)
    }
}
