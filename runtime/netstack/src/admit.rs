//! Connections that peers ask for: listeners, their limits, and attempts that nobody listens for.
//!
//! Policy: with the backlog full, a SYN is dropped and its sender tries again; with [`max_connections`] reached it is
//! answered with a reset, a clear refusal. Before either, connections in TIME-WAIT and handshakes that have been
//! stuck for [`STUCK_HANDSHAKE_US`] give way, so that a flood of SYNs with false senders neither exhausts memory nor
//! keeps others out for long.
//!
//! [`max_connections`]: crate::Config::max_connections

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::SocketAddrV4;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use smoltcp::wire::IpListenEndpoint;

use crate::config::Congestion;
use crate::conn::{Conn, Fate, Stage, ms_to_us};
use crate::device::{FrameSink, NoSink, Port};
use crate::error::Error;
use crate::event::Source;
use crate::frame::{ETHERNET_BYTES, FlowKey};
use crate::id::{ConnId, IncomingId, ListenerId};
use crate::slot::Body;
use crate::stack::Stack;
use crate::timers::NEVER_US;

/// A handshake unfinished for so long may give way to a newer one, in microseconds: many round trips of any path.
const STUCK_HANDSHAKE_US: i64 = 500_000;

/// A listening port, or, with port 0, a vacant place in the table.
pub(crate) struct Listener {
    pub(crate) generation: u32,
    pub(crate) port: u16,
    backlog: usize,
    pub(crate) half_open: usize,
    /// Slots of established connections not yet accepted.
    pub(crate) queue: VecDeque<u32>,
    /// It is in the event queue.
    pub(crate) announced: bool,
}

/// A connection attempt that waits for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incoming {
    /// Who asks.
    pub remote: SocketAddrV4,
    /// What it wants to reach.
    pub local: SocketAddrV4,
}

struct Attempt {
    generation: u32,
    /// `None` when the place is vacant.
    key: Option<FlowKey>,
    frame: Vec<u8>,
}

/// Attempts under decision, all with the same time limit, so that their order of arrival is their order of expiry.
pub(crate) struct Interception {
    attempts: Vec<Attempt>,
    vacant: Vec<u32>,
    by_flow: alloc::collections::BTreeMap<FlowKey, u32>,
    /// (deadline in microseconds, index, generation); entries may be stale.
    expiry: VecDeque<(i64, u32, u32)>,
    most: usize,
}

impl Interception {
    pub(crate) fn next_us(&self) -> i64 {
        self.expiry.front().map_or(NEVER_US, |&(at_us, _, _)| at_us)
    }

    fn get(&self, id: IncomingId) -> Option<&Attempt> {
        self.attempts.get(id.index as usize).filter(|a| a.generation == id.generation && a.key.is_some())
    }

    fn insert(&mut self, key: FlowKey, frame: &[u8], deadline_us: i64) -> IncomingId {
        let index = self.vacant.pop().unwrap_or_else(|| {
            self.attempts.push(Attempt { generation: 0, key: None, frame: Vec::new() });
            (self.attempts.len() - 1) as u32
        });
        let attempt = &mut self.attempts[index as usize];
        attempt.generation = attempt.generation.wrapping_add(1);
        attempt.key = Some(key);
        attempt.frame.clear();
        attempt.frame.extend_from_slice(frame);
        self.by_flow.insert(key, index);
        self.expiry.push_back((deadline_us, index, attempt.generation));
        IncomingId { index, generation: attempt.generation }
    }

    fn remove(&mut self, id: IncomingId) -> Option<(FlowKey, Vec<u8>)> {
        self.get(id)?;
        let attempt = &mut self.attempts[id.index as usize];
        let key = attempt.key.take()?;
        let frame = core::mem::take(&mut attempt.frame);
        self.by_flow.remove(&key);
        self.vacant.push(id.index);
        Some((key, frame))
    }
}

impl Stack {
    /// Listens on `port` of the own address (of every address with [`any_ip`](crate::Config::any_ip)). At most
    /// `backlog` connections, at least one, may be half-open or wait for [`accept`](Self::accept).
    ///
    /// # Errors
    /// [`Error::InvalidPort`] for port 0, [`Error::PortInUse`] when the port has a listener.
    pub fn listen(&mut self, port: u16, backlog: usize) -> Result<ListenerId, Error> {
        if port == 0 {
            return Err(Error::InvalidPort);
        }
        if self.listening.contains_key(&port) {
            return Err(Error::PortInUse);
        }
        let index = self.listeners.iter().position(|listener| listener.port == 0).unwrap_or_else(|| {
            self.listeners.push(Listener {
                generation: 0,
                port: 0,
                backlog: 0,
                half_open: 0,
                queue: VecDeque::new(),
                announced: false,
            });
            self.listeners.len() - 1
        });
        let listener = &mut self.listeners[index];
        listener.generation = listener.generation.wrapping_add(1);
        listener.port = port;
        listener.backlog = backlog.max(1);
        self.listening.insert(port, index as u32);
        Ok(ListenerId { index: index as u32, generation: listener.generation })
    }

    /// Stops listening. Connections that nobody accepted are reset.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the id is stale.
    pub fn unlisten(&mut self, id: ListenerId) -> Result<(), Error> {
        let listener = self.listener_mut(id).ok_or(Error::NotConnected)?;
        let port = core::mem::take(&mut listener.port);
        let queue = core::mem::take(&mut listener.queue);
        self.listening.remove(&port);
        for index in queue {
            self.discard(index);
        }
        for (index, generation) in core::mem::take(&mut self.half_open) {
            match self.slots.conn_if_current(index, generation).map(|conn| conn.stage) {
                Some(Stage::HalfOpen { listener }) if listener == id.index => {
                    self.listeners[id.index as usize].half_open -= 1;
                    self.discard(index);
                }
                Some(Stage::HalfOpen { .. }) => self.half_open.push_back((index, generation)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes the longest waiting connection; `None` when there is none or the id is stale.
    pub fn accept(&mut self, id: ListenerId) -> Option<ConnId> {
        loop {
            let index = self.listener_mut(id)?.queue.pop_front()?;
            let generation = self.slots.generation(index);
            let Some(conn) = self.slots.conn_mut(index) else {
                continue;
            };
            conn.stage = Stage::Owned;
            if conn.dead && !conn.socket().can_recv() {
                // It was reset while it waited and brought nothing: of no use to anyone.
                self.free(index);
                continue;
            }
            return Some(ConnId { index, generation });
        }
    }

    /// Connections that wait for [`accept`](Self::accept).
    #[must_use]
    pub fn accept_queue(&self, id: ListenerId) -> usize {
        self.listeners.get(id.index as usize).filter(|l| l.generation == id.generation).map_or(0, |l| l.queue.len())
    }

    /// From now on, connection attempts to ports without a listener are not refused but told as
    /// [`Event::Incoming`](crate::Event::Incoming), at most `most` at once; more are dropped and try again.
    pub fn intercept(&mut self, most: usize) {
        self.interception = Some(Interception {
            attempts: Vec::new(),
            vacant: Vec::new(),
            by_flow: alloc::collections::BTreeMap::new(),
            expiry: VecDeque::new(),
            most: most.max(1),
        });
    }

    /// What an attempt asks for; `None` when it was decided or has expired.
    #[must_use]
    pub fn incoming(&self, id: IncomingId) -> Option<Incoming> {
        let key = self.interception.as_ref()?.get(id)?.key?;
        Some(Incoming { remote: key.remote(), local: key.local() })
    }

    /// Takes the attempt. The connection is usable after its event `CONNECTED`; what is sent earlier is refused with
    /// [`Error::WouldBlock`].
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the attempt has expired, [`Error::LimitReached`] when there are too many
    /// connections (the peer is then refused).
    pub fn accept_incoming(&mut self, id: IncomingId) -> Result<ConnId, Error> {
        let (key, frame) = self.take_attempt(id)?;
        if !self.make_room() {
            self.stats.refused += 1;
            self.stray(&frame, &mut NoSink);
            return Err(Error::LimitReached);
        }
        let index = self.answer_syn(key, Stage::Owned, &frame, &mut NoSink).ok_or(Error::NotConnected)?;
        Ok(ConnId { index, generation: self.slots.generation(index) })
    }

    /// Refuses the attempt: the peer gets a reset.
    ///
    /// # Errors
    /// [`Error::NotConnected`] when the attempt was decided or has expired.
    pub fn refuse_incoming(&mut self, id: IncomingId) -> Result<(), Error> {
        let (_, frame) = self.take_attempt(id)?;
        self.stray(&frame, &mut NoSink);
        Ok(())
    }

    fn take_attempt(&mut self, id: IncomingId) -> Result<(FlowKey, Vec<u8>), Error> {
        self.interception.as_mut().and_then(|i| i.remove(id)).ok_or(Error::NotConnected)
    }

    fn listener_mut(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.listeners.get_mut(id.index as usize).filter(|l| l.generation == id.generation && l.port != 0)
    }

    /// Resets a connection that nobody holds.
    fn discard(&mut self, index: u32) {
        let Some(conn) = self.slots.conn_mut(index) else {
            return;
        };
        conn.stage = Stage::Detached;
        if conn.dead {
            return self.free(index);
        }
        conn.socket_mut().abort();
        self.touch(index, true);
    }

    /// Decides about a SYN that belongs to no connection.
    pub(crate) fn admit<S: FrameSink>(&mut self, key: FlowKey, frame: &[u8], sink: &mut S) {
        let ours = self.config.any_ip || self.address().is_some_and(|own| own.address() == key.local_ip());
        let listener = self.listening.get(&key.local_port()).copied();
        match listener {
            Some(listener) if ours => self.admit_to(listener, key, frame, sink),
            None if ours && self.interception.is_some() => self.hold(key, frame),
            _ => self.stray(frame, sink),
        }
    }

    fn admit_to<S: FrameSink>(&mut self, listener: u32, key: FlowKey, frame: &[u8], sink: &mut S) {
        let full = |stack: &Self| {
            let listener = &stack.listeners[listener as usize];
            listener.half_open + listener.queue.len() >= listener.backlog
        };
        if full(self) {
            self.evict_half_open();
        }
        if full(self) {
            self.stats.backlog_full += 1;
            return;
        }
        if !self.make_room() {
            self.stats.refused += 1;
            return self.stray(frame, sink);
        }
        self.listeners[listener as usize].half_open += 1;
        match self.answer_syn(key, Stage::HalfOpen { listener }, frame, sink) {
            Some(index) => self.remember_half_open(index),
            None => self.listeners[listener as usize].half_open -= 1,
        }
    }

    /// Makes a socket, shows it the SYN, and keeps it if smoltcp took the SYN.
    fn answer_syn<S: FrameSink>(&mut self, key: FlowKey, stage: Stage, frame: &[u8], sink: &mut S) -> Option<u32> {
        let mut conn = self.make_conn(key, stage);
        let endpoint = IpListenEndpoint { addr: Some(key.local_ip().into()), port: key.local_port() };
        let listens = conn.socket_mut().listen(endpoint).is_ok();
        let now = self.now();
        let mut port = Port::new(Some(frame), sink, &mut self.spill, &self.capabilities);
        self.iface.poll_ingress_single(now, &mut port, &mut conn.set);
        if !listens || conn.socket().state() != State::SynReceived {
            return None;
        }
        conn.seen = State::SynReceived;
        if let Stage::HalfOpen { .. } = stage {
            conn.opened_us = self.now_us;
        }
        let index = self.install(conn);
        self.touch(index, true);
        Some(index)
    }

    fn remember_half_open(&mut self, index: u32) {
        while let Some(&(index, generation)) = self.half_open.front()
            && !is_half_open(self.slots.conn_if_current(index, generation))
        {
            self.half_open.pop_front();
        }
        if self.half_open.len() >= 4 * self.config.max_connections {
            let slots = &self.slots;
            self.half_open.retain(|&(index, generation)| is_half_open(slots.conn_if_current(index, generation)));
        }
        self.half_open.push_back((index, self.slots.generation(index)));
    }

    /// Gives up the oldest handshake if it is stuck. Returns whether it did.
    fn evict_half_open(&mut self) -> bool {
        while let Some(&(index, generation)) = self.half_open.front() {
            let conn = self.slots.conn_if_current(index, generation);
            if is_half_open(conn) {
                if conn.is_none_or(|conn| self.now_us - conn.opened_us < STUCK_HANDSHAKE_US) {
                    return false;
                }
                self.half_open.pop_front();
                self.stats.half_open_dropped += 1;
                self.bury(index, Fate::TimedOut);
                return true;
            }
            self.half_open.pop_front();
        }
        false
    }

    /// Makes sure that one more connection is allowed, at the cost of one that is over or stuck.
    pub(crate) fn make_room(&mut self) -> bool {
        while self.connections >= self.config.max_connections {
            if !self.evict_time_wait() && !self.evict_half_open() {
                return false;
            }
        }
        true
    }

    /// A connection with a fresh or reused socket, not yet in the table.
    pub(crate) fn make_conn(&mut self, key: FlowKey, stage: Stage) -> Conn {
        let set = self.spare.pop().unwrap_or_else(|| self.make_socket());
        let mut conn = Conn::new(set, key, stage);
        conn.keep_alive_us = self.config.keep_alive_ms.map(ms_to_us);
        let (nagle, ack_delay_ms, congestion) = (self.config.nagle, self.config.ack_delay_ms, self.config.congestion);
        conn.apply_keep_alive();
        let socket = conn.socket_mut();
        socket.set_nagle_enabled(nagle);
        socket.set_ack_delay(ack_delay_ms.map(|ms| Duration::from_micros(ms_to_us(ms) as u64)));
        socket.set_congestion_control(match congestion {
            Congestion::None => CongestionControl::None,
            #[cfg(feature = "reno")]
            Congestion::Reno => CongestionControl::Reno,
        });
        conn
    }

    fn make_socket(&self) -> SocketSet<'static> {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(Socket::new(
            SocketBuffer::new(alloc::vec![0; self.config.tcp_rx_bytes]),
            SocketBuffer::new(alloc::vec![0; self.config.tcp_tx_bytes]),
        ));
        debug_assert_eq!(handle, SocketHandle::default());
        set
    }

    /// Puts a connection into the tables.
    pub(crate) fn install(&mut self, conn: Conn) -> u32 {
        let key = conn.key;
        let index = self.slots.insert(Body::Tcp(conn));
        self.flows.insert(key, index);
        self.connections += 1;
        index
    }

    /// A handshake for `listener` is complete.
    pub(crate) fn enqueue_accepted(&mut self, listener: u32, index: u32) {
        let entry = &mut self.listeners[listener as usize];
        entry.half_open -= 1;
        entry.queue.push_back(index);
        if !entry.announced {
            entry.announced = true;
            self.sources.push(Source::Listener(listener));
        }
    }

    /// Keeps a SYN until the program decides. A repetition of one that waits is dropped.
    fn hold(&mut self, key: FlowKey, frame: &[u8]) {
        let deadline_us = self.now_us + self.limits.half_open_us;
        let Some(interception) = &mut self.interception else {
            return;
        };
        if interception.by_flow.contains_key(&key) {
            return;
        }
        let fits = frame.len() <= self.config.mtu_bytes + ETHERNET_BYTES;
        if interception.by_flow.len() >= interception.most || !fits {
            self.stats.backlog_full += 1;
            return;
        }
        let id = interception.insert(key, frame, deadline_us);
        self.sources.push(Source::Incoming(id));
    }

    /// Forgets attempts that nobody decided in time. They get no answer, as if nobody were there.
    pub(crate) fn expire_interceptions(&mut self) {
        let Some(interception) = &mut self.interception else {
            return;
        };
        while let Some(&(at_us, index, generation)) = interception.expiry.front() {
            let live = interception.get(IncomingId { index, generation }).is_some();
            if live && at_us > self.now_us {
                return;
            }
            interception.expiry.pop_front();
            if interception.remove(IncomingId { index, generation }).is_some() {
                self.stats.half_open_dropped += 1;
            }
        }
    }
}

fn is_half_open(conn: Option<&Conn>) -> bool {
    conn.is_some_and(|conn| matches!(conn.stage, Stage::HalfOpen { .. }))
}
