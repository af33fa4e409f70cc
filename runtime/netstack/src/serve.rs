//! One socket at a time: a segment in, what it has to send out, and what either changed.

use smoltcp::iface::{Interface, PollResult, SocketSet};
use smoltcp::phy::DeviceCapabilities;
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;

use crate::conn::{Conn, Fate, Stage};
use crate::device::{FrameSink, Port, Rest, Spill};
use crate::event::{Readiness, Source};
use crate::quirks::bare_fin;
use crate::slot::Body;
use crate::stack::Stack;
use crate::timers::NEVER_US;

/// Ended sockets kept for reuse. Enough to absorb a burst of short connections; more would hold memory for nothing.
const SPARE_SOCKETS: usize = 32;

/// How long to leave a socket alone that says it has something to send and then does not, in microseconds. No such
/// case is known; the bound keeps one from becoming an endless loop.
const STUCK_RETRY_US: i64 = 10_000;

/// How long a connection stays in TIME-WAIT, in microseconds: as long as smoltcp's own timer, which must not come
/// first, because it would clear what the program has not read yet.
const TIME_WAIT_US: i64 = 10_000_000;

/// smoltcp's least retransmission timeout, in microseconds. Looking earlier than needed is harmless.
const LEAST_RTO_US: i64 = 1_000_000;

/// How sending from one socket ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Egress {
    /// All is sent; next due at this time in microseconds.
    Idle { due_us: i64 },
    /// The sink is full.
    SinkFull,
    /// The link address of the destination is not known yet.
    AwaitsNeighbor { due_us: i64 },
}

/// Sends all that the one socket in `set` may send now.
fn drain<S: FrameSink>(
    iface: &mut Interface,
    set: &mut SocketSet<'static>,
    now: Instant,
    mut egress_first: bool,
    (sink, spill, capabilities): (&mut S, &mut Spill, &DeviceCapabilities),
) -> Egress {
    let now_us = now.total_micros();
    let due_us = |due: Option<Instant>| due.map_or(NEVER_US, |at| at.total_micros());
    loop {
        if !egress_first {
            let due = iface.poll_at(now, set);
            if due.is_none_or(|at| at > now) {
                return Egress::Idle { due_us: due_us(due) };
            }
        }
        // smoltcp must not meet a full sink: see `quirks`.
        if !spill.is_empty() || !sink.has_room() {
            return Egress::SinkFull;
        }
        let mut port = Port::new(None, &mut *sink, &mut *spill, capabilities);
        if iface.poll_egress(now, &mut port, set) == PollResult::SocketStateChanged {
            match port.rest {
                // The usual end, one answer sent whole, without the cost of asking for the deadline: it is that of
                // the retransmission, or an earlier one that is registered already.
                Rest::Nothing => return Egress::Idle { due_us: now_us + LEAST_RTO_US },
                Rest::Data => egress_first = true,
                Rest::Unknown => egress_first = false,
            }
            continue;
        }
        let offered = port.offered;
        let due = due_us(iface.poll_at(now, set)).max(now_us + 1);
        if offered {
            return Egress::AwaitsNeighbor { due_us: due };
        }
        return Egress::Idle { due_us: if due == now_us + 1 { now_us + STUCK_RETRY_US } else { due } };
    }
}

/// What changed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// A segment of the peer.
    Peer,
    /// A timer, a call of the program or a lost address.
    Own,
}

impl Stack {
    /// Takes a segment for a known connection.
    pub(crate) fn segment<S: FrameSink>(&mut self, index: u32, frame: &[u8], sink: &mut S) {
        let now = self.now();
        let slot = self.slots.slot(index);
        let Body::Tcp(conn) = &mut slot.body else {
            return;
        };
        let queued_before = conn.socket().recv_queue();
        conn.last_rx_us = self.now_us;
        if conn.repeats_ack(frame) {
            return;
        }
        let mut port = Port::new(Some(frame), sink, &mut self.spill, &self.capabilities);
        self.iface.poll_ingress_single(now, &mut port, &mut conn.set);

        let queued = conn.socket().recv_queue();
        let changed = conn.socket().state() != conn.seen;
        let mut readiness = Readiness::empty();
        readiness.set(Readiness::READABLE, queued > queued_before);
        if conn.want_write && conn.wakes_writer() {
            conn.want_write = false;
            readiness |= Readiness::WRITABLE;
        }
        if conn.stage == Stage::Detached && queued > 0 {
            // Nobody will read this; a reset tells the peer so (RFC 9293, 3.6.1).
            conn.socket_mut().abort();
        }
        let finish = conn.finish_when_acked && conn.socket().send_queue() == 0;
        if finish {
            conn.finish();
        }
        self.touch(index, finish);
        if !readiness.is_empty() {
            self.notify(index, readiness);
        }
        if changed {
            self.settle(index, Cause::Peer);
        }
    }

    /// What a FIN needs beyond being shown to smoltcp.
    pub(crate) fn after_fin<S: FrameSink>(&mut self, index: u32, frame: &[u8], sink: &mut S) {
        self.restart_time_wait(index);
        // Not taken, perhaps wrongly: see `quirks`.
        if self.slots.conn_mut(index).is_some_and(|conn| conn.awaits_fin())
            && let Some(bare) = bare_fin(frame, &self.capabilities.checksum)
        {
            self.segment(index, bare.frame(), sink);
        }
    }

    /// Sends what the slot may send and registers its next deadline. Returns whether the sink was full.
    pub(crate) fn serve<S: FrameSink>(&mut self, index: u32, sink: &mut S) -> bool {
        let mut give_up_us = NEVER_US;
        if let Some(conn) = self.slots.conn_mut(index) {
            if conn.dead {
                return false;
            }
            give_up_us = conn.give_up_at_us(self.now_us, &self.limits);
            if give_up_us <= self.now_us {
                if self.give_up(index) {
                    return false;
                }
                give_up_us = self.now_us + self.limits.close_us.max(1);
            }
        }
        let now = self.now();
        let slot = self.slots.slot(index);
        let egress_first = core::mem::take(&mut slot.egress_first);
        let Some(set) = slot.body.set_mut() else {
            return false;
        };
        let out = (&mut *sink, &mut self.spill, &self.capabilities);
        let mut due_us = match drain(&mut self.iface, set, now, egress_first, out) {
            Egress::SinkFull => return true,
            Egress::Idle { due_us } => due_us,
            Egress::AwaitsNeighbor { due_us } => {
                if let Body::Tcp(conn) = &slot.body
                    && conn.socket().state() == State::Closed
                {
                    // Only a reset is left to send, and nobody there to hear it.
                    self.bury(index, Fate::Reset);
                    return false;
                }
                if !slot.awaits_neighbor {
                    slot.awaits_neighbor = true;
                    self.neighbor_waiters.push(index);
                }
                due_us
            }
        };
        if let Body::Tcp(conn) = &mut slot.body
            && conn.prod(due_us)
        {
            due_us = self.now_us + 1;
        }
        due_us = due_us.min(give_up_us);
        self.timers.arm(&mut slot.registered_us, index, due_us);
        self.after_egress(index);
        false
    }

    /// Looks at what sending has changed.
    fn after_egress(&mut self, index: u32) {
        match &self.slots.slot(index).body {
            Body::Tcp(_) => self.settle(index, Cause::Own),
            Body::Udp(_) => self.udp_sent(index),
            Body::Dhcp(_) => self.apply_dhcp(),
            Body::Vacant => {}
        }
    }

    /// Ends a connection whose time is up. Returns whether nothing is left to send for it.
    fn give_up(&mut self, index: u32) -> bool {
        let Some(conn) = self.slots.conn_mut(index) else {
            return true;
        };
        if conn.seen == State::TimeWait {
            self.end_time_wait(index);
            return true;
        }
        if matches!(conn.stage, Stage::HalfOpen { .. }) {
            self.stats.half_open_dropped += 1;
            self.bury(index, Fate::TimedOut);
            return true;
        }
        self.stats.timed_out += 1;
        if conn.socket().state() == State::Closed {
            // Its reset could not be sent for as long: the peer is out of reach.
            self.bury(index, Fate::TimedOut);
            return true;
        }
        conn.fate = Some(Fate::TimedOut);
        conn.socket_mut().abort();
        self.slots.slot(index).egress_first = true;
        false
    }

    /// Tells the program, once, that a socket changed. Sockets that it does not hold are silent.
    pub(crate) fn notify(&mut self, index: u32, readiness: Readiness) {
        let slot = self.slots.slot(index);
        if let Body::Tcp(Conn { stage, .. }) = &slot.body
            && *stage != Stage::Owned
        {
            return;
        }
        if slot.pending.is_empty() {
            self.sources.push(Source::Slot(index));
        }
        slot.pending |= readiness;
    }

    /// Follows a change of the socket's state.
    pub(crate) fn settle(&mut self, index: u32, cause: Cause) {
        let Some(conn) = self.slots.conn_mut(index) else {
            return;
        };
        let socket = conn.socket();
        let state = socket.state();
        let gone = matches!(state, State::Closed | State::Listen) && socket.local_endpoint().is_none();
        if conn.dead || (state == conn.seen && !gone) {
            return;
        }
        let before = core::mem::replace(&mut conn.seen, state);
        conn.peer_finished |= matches!(state, State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        if gone {
            let fate = match before {
                State::LastAck | State::TimeWait => Fate::Done,
                State::SynSent if cause == Cause::Peer => Fate::Refused,
                _ => Fate::Reset,
            };
            self.leave_time_wait(before);
            return self.bury(index, fate);
        }
        if matches!(before, State::SynSent | State::SynReceived)
            && !matches!(state, State::SynSent | State::SynReceived | State::Closed)
        {
            self.established(index);
        }
        match state {
            State::TimeWait => {
                self.notify(index, Readiness::READABLE);
                self.enter_time_wait(index);
            }
            State::CloseWait | State::Closing => self.notify(index, Readiness::READABLE),
            State::Closed => self.notify(index, Readiness::all().difference(Readiness::CONNECTED)),
            _ => {}
        }
    }

    /// The handshake is complete.
    fn established(&mut self, index: u32) {
        let Some(conn) = self.slots.conn_mut(index) else {
            return;
        };
        match conn.stage {
            Stage::HalfOpen { listener } => {
                conn.stage = Stage::Queued { listener };
                self.enqueue_accepted(listener, index);
            }
            Stage::Owned => {
                conn.want_write = false;
                self.notify(index, Readiness::CONNECTED | Readiness::WRITABLE);
            }
            Stage::Queued { .. } | Stage::Detached => {}
        }
    }

    /// Takes a connection off the network: its tuple is free again. Who holds its id can still read what arrived.
    pub(crate) fn bury(&mut self, index: u32, fate: Fate) {
        let slot = self.slots.slot(index);
        self.timers.disarm(&mut slot.registered_us, index);
        let Body::Tcp(conn) = &mut slot.body else {
            return;
        };
        self.flows.remove(&conn.key);
        conn.dead = true;
        conn.fate.get_or_insert(fate);
        match conn.stage {
            Stage::HalfOpen { listener } => {
                self.listeners[listener as usize].half_open -= 1;
                self.free(index);
            }
            Stage::Detached => self.free(index),
            Stage::Owned | Stage::Queued { .. } => {
                self.notify(index, Readiness::all().difference(Readiness::CONNECTED));
            }
        }
    }

    /// Empties a slot whose connection is dead and keeps its socket for the next one.
    pub(crate) fn free(&mut self, index: u32) {
        if let Body::Tcp(mut conn) = self.slots.remove(index) {
            self.connections -= 1;
            if self.spare.len() < SPARE_SOCKETS {
                conn.socket_mut().abort();
                self.spare.push(conn.set);
            }
        }
    }

    fn enter_time_wait(&mut self, index: u32) {
        while self.time_wait_count >= self.config.max_time_wait.max(1) && self.evict_time_wait() {}
        while let Some(&(index, generation)) = self.time_wait.front()
            && !in_time_wait(self.slots.conn_if_current(index, generation))
        {
            self.time_wait.pop_front();
        }
        if self.time_wait.len() >= 4 * self.config.max_time_wait.max(16) {
            let slots = &self.slots;
            self.time_wait.retain(|&(index, generation)| in_time_wait(slots.conn_if_current(index, generation)));
        }
        self.restart_time_wait(index);
        self.time_wait_count += 1;
        self.time_wait.push_back((index, self.slots.generation(index)));
    }

    /// Lets a connection in TIME-WAIT stay in it for the full time: its peer has not heard our last acknowledgement.
    fn restart_time_wait(&mut self, index: u32) {
        let until_us = self.now_us + TIME_WAIT_US;
        if let Some(conn) = self.slots.conn_mut(index).filter(|conn| conn.seen == State::TimeWait) {
            conn.time_wait_until_us = until_us;
        }
    }

    /// Keeps the count of connections in TIME-WAIT when one leaves the state it was in `before`.
    fn leave_time_wait(&mut self, before: State) {
        if before == State::TimeWait {
            self.time_wait_count -= 1;
        }
    }

    /// Ends the oldest connection in TIME-WAIT. Returns whether there was one.
    pub(crate) fn evict_time_wait(&mut self) -> bool {
        while let Some((index, generation)) = self.time_wait.pop_front() {
            if in_time_wait(self.slots.conn_if_current(index, generation)) {
                self.stats.time_wait_evicted += 1;
                self.end_time_wait(index);
                return true;
            }
        }
        false
    }

    /// Whether a connection in TIME-WAIT makes way for a new one of the same tuple (RFC 9293, 3.10.7.4).
    pub(crate) fn gives_way(&mut self, index: u32) -> bool {
        let waits = self.slots.conn_mut(index).is_some_and(|conn| conn.seen == State::TimeWait);
        if waits {
            self.end_time_wait(index);
        }
        waits
    }

    fn end_time_wait(&mut self, index: u32) {
        self.leave_time_wait(State::TimeWait);
        self.bury(index, Fate::Done);
    }
}

fn in_time_wait(conn: Option<&Conn>) -> bool {
    conn.is_some_and(|conn| conn.seen == State::TimeWait && !conn.dead)
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;
    use core::net::{Ipv4Addr, SocketAddrV4};

    use super::*;
    use crate::config::Config;

    struct Frames(Vec<Vec<u8>>);

    impl FrameSink for Frames {
        fn has_room(&self) -> bool {
            true
        }

        fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
            self.0.push(alloc::vec![0; len_bytes]);
            fill(self.0.last_mut().expect("just pushed"))
        }
    }

    fn stack(host: u8) -> Stack {
        let ip = smoltcp::wire::Ipv4Cidr::new(Ipv4Addr::new(10, 0, 2, host), 24);
        Stack::new(Config::new([2, 0, 0, 0, 0, host], Some(ip), None, host.into()), 0).expect("valid")
    }

    #[test]
    fn short_connections_leave_no_trace() {
        let (mut a, mut b) = (stack(1), stack(2));
        let listener = a.listen(80, 4).expect("free");
        let (mut to_a, mut to_b) = (Frames(Vec::new()), Frames(Vec::new()));
        for round in 0..200u64 {
            let now_ns = round * 1_000_000_000;
            let id = b.connect(SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 1), 80)).expect("room");
            let mut open = true;
            for _ in 0..20 {
                b.poll(now_ns, &mut to_a);
                to_a.0.drain(..).for_each(|frame| a.receive(now_ns, &frame, &mut to_b));
                if let Some(served) = a.accept(listener) {
                    a.close(served).expect("open");
                }
                a.poll(now_ns, &mut to_b);
                to_b.0.drain(..).for_each(|frame| b.receive(now_ns, &frame, &mut to_a));
                if open && b.recv(id, &mut [0; 1]) == Ok(0) {
                    b.close(id).expect("open");
                    open = false;
                }
            }
            assert!(!open, "round {round}");
        }
        // Ten seconds of TIME-WAIT at one connection a second; nothing else may pile up.
        for stack in [&a, &b] {
            assert!(stack.time_wait.len() <= 12, "{}", stack.time_wait.len());
            assert!(stack.half_open.len() <= 1 && stack.dirty.is_empty() && stack.neighbor_waiters.is_empty());
            assert!(stack.flows.len() == stack.connections && stack.connections <= 12);
            assert!(stack.spare.len() <= SPARE_SOCKETS);
        }
    }
}
