//! The active replica: P1, P2, output commit and the bounds on the lag.

use alloc::vec::Vec;

use super::failover::Failover;
use super::handover::HandOver;
use super::log::Window;
use super::{
    Active, Blocked, Command, Commands, EVERY_DEVICE, Gate, Guest, Outgoing, ProtocolFault, Record, Replica, StopReason,
};
use crate::event::{Event, Uncertain};
use crate::link::{Ack, Divergence, Goodbye, GoodbyeReason};
use crate::{Clocks, Discipline, Epoch, Mode, Role};

impl Active {
    pub(super) fn new() -> Self {
        Self {
            window: Window::default(),
            received_through: 0,
            executed_through: 0,
            disks_done_below: 0,
            released_through: 0,
            commanded_through: 0,
            confirmed_through: 0,
            newest_output_epoch: 0,
            rtt_ns: 0,
            divergence: None,
            uncertain_due: None,
        }
    }
}

impl Replica {
    /// Whether [`Self::begin`] may be called. Cheap: ask at every boundary, and again after every input.
    pub fn may_begin(&self, now_ns: u64) -> Gate {
        let blocked = self.obstacle().or_else(|| self.lags(now_ns).then(|| self.or_arbiter(Blocked::Lag)));
        blocked.map_or(Gate::Ready, Gate::Blocked)
    }

    /// Whether the backup has not acknowledged the newest record, or storage does not hold it, so that what the guest put out last is still held.
    ///
    /// Nothing forbids to begin another epoch then. But a guest that has nothing to do except for what has just come
    /// loses nothing by waiting: what it would answer could not leave before the acknowledgement either, and meanwhile
    /// more comes that can share the cost of the epoch.
    pub fn awaits_ack(&self) -> bool {
        let unacknowledged =
            self.mode == Mode::Paired && self.sends_log() && self.active.received_through < self.record.epoch;
        self.role == Role::Primary && (unacknowledged || self.stored_through() < self.record.epoch)
    }

    /// Whether nothing but the bounds on the lag asks for the newest records to be sent at once: the caller may collect
    /// some, for a time that is short beside the lag allowed, unless outputs wait for their acknowledgement.
    pub fn may_delay_records(&self) -> bool {
        let listens = if self.mode == Mode::Paired { self.peer.agreed } else { self.storage.on };
        self.role == Role::Primary
            && listens
            && self.discipline() == Discipline::Revised
            && !self.config.compares_first
            && self.guest != Guest::Stopped
    }

    /// What keeps the next epoch from beginning, whatever the time is.
    fn obstacle(&self) -> Option<Blocked> {
        if self.stopped.is_some() {
            return Some(Blocked::Stopped);
        }
        if self.role == Role::Backup {
            return Some(Blocked::Backup);
        }
        match self.guest {
            Guest::Running => return Some(Blocked::Running),
            Guest::Stopped => return Some(Blocked::GuestStopped),
            Guest::AtBoundary => {}
        }
        if self.storage_lags() {
            return Some(Blocked::Storage);
        }
        if self.mode == Mode::Solo {
            return None;
        }
        self.paired_obstacle().map(|blocked| self.or_arbiter(blocked))
    }

    /// What acknowledgements would have opened, only the arbiter can open when it was asked.
    fn or_arbiter(&self, blocked: Blocked) -> Blocked {
        if self.failover == Failover::None { blocked } else { Blocked::Arbiter }
    }

    fn lags(&self, now_ns: u64) -> bool {
        let oldest_ns = self.active.window.oldest_begin_ns();
        oldest_ns.is_some_and(|begin_ns| now_ns.saturating_sub(begin_ns) > self.config.max_lag_ns)
    }

    /// Records and heartbeats go to the backup. They do not once the arbiter was asked: then there is no way back to
    /// the pair, and the backup could not tell epochs that it was not sent. Nor do they to a newcomer that is only being
    /// brought to the state.
    pub(super) fn sends_log(&self) -> bool {
        self.mode == Mode::Paired && self.peer.link_open && self.peer.agreed && self.failover == Failover::None
    }

    fn paired_obstacle(&self) -> Option<Blocked> {
        let active = &self.active;
        if self.handover != HandOver::No {
            return Some(Blocked::HandingOver);
        }
        if self.awaits_newcomer() {
            return Some(Blocked::Joining);
        }
        if active.divergence.is_some() {
            return Some(Blocked::Arbiter);
        }
        if !self.peer.agreed {
            return Some(Blocked::Pairing);
        }
        if self.discipline() == Discipline::Original && active.received_through < self.record.epoch {
            return Some(Blocked::Acks);
        }
        if self.config.compares_first && active.executed_through < self.record.epoch {
            return Some(Blocked::Acks);
        }
        if active.window.len() >= self.config.max_outstanding_epochs as usize
            || active.window.bytes() >= self.config.max_outstanding_bytes
        {
            return Some(Blocked::Outstanding);
        }
        None
    }

    /// Begins the next epoch with these clocks and events (P1, P2): the record goes to the backup, and the guest runs
    /// without waiting for it. Returns the epoch.
    ///
    /// The monotonic clock of the record never goes back; deliver what [`Self::record`] holds, not what was given: a
    /// promoted replica's first record also begins with the uncertain event of P7.
    ///
    /// # Panics
    /// If [`Self::may_begin`] did not say [`Gate::Ready`] in this state (the time may have moved on since), or if the events exceed [`Self::max_epoch_events_bytes`]:
    /// errors of the caller, not of anything outside.
    pub fn begin(&mut self, now_ns: u64, clocks: Clocks, events: Vec<u8>, out: &mut impl Commands) -> Epoch {
        let obstacle = self.obstacle();
        assert!(obstacle.is_none(), "an epoch was begun against the gate: {obstacle:?}");
        assert!(events.len() <= self.max_epoch_events_bytes(), "an epoch was begun with more events than agreed");
        self.note_call(now_ns);
        let epoch = self.record.epoch + 1;
        let record = Record {
            epoch,
            prev_digest: self.last_digest,
            clocks: Clocks { monotonic_ns: clocks.monotonic_ns.max(self.record.clocks.monotonic_ns), ..clocks },
            released_through: self.release_claim(),
            sent_ns: now_ns,
            events: match self.active.uncertain_due.take() {
                Some(operation) => self.with_uncertain(operation, events),
                None => events,
            },
        };
        let previous = core::mem::replace(&mut self.record, record);
        self.pool.put(previous.events);
        self.store_record(out);
        if self.mode == Mode::Paired {
            self.active.window.push(now_ns, self.record.events.len());
            if self.sends_log() {
                self.send(now_ns, Outgoing::EpochStart { epoch }, out);
            }
        }
        self.guest = Guest::Running;
        out.push(Command::RunEpoch { epoch });
        epoch
    }

    /// P7: whatever the old primary had outstanding may or may not have been done; the drivers repeat it.
    fn with_uncertain(&mut self, operation: u64, events: Vec<u8>) -> Vec<u8> {
        let uncertain = Event::Uncertain(Uncertain { device: EVERY_DEVICE, operation });
        let mut all = self.take_buffer();
        let appended = uncertain.append_to(&mut all);
        assert!(appended.is_ok(), "an uncertain event is shorter than any limit");
        all.extend_from_slice(&events);
        self.pool.put(events);
        all
    }

    pub(super) fn active_ended(&mut self, now_ns: u64, out: &mut impl Commands) {
        if (self.guest == Guest::Stopped || self.config.compares_first) && self.sends_log() {
            // No record will follow to carry the last digest, or none before the backup has compared it.
            self.send_heartbeat(now_ns, out);
        }
        self.release_committed(now_ns, out);
    }

    /// Output commit: the outputs of E leave when E has ended and the backup holds the record that starts E, because
    /// from that record it will produce the same outputs again. Without a backup they leave at once. If the log is stored,
    /// they also wait for storage to hold that record.
    pub(super) fn release_committed(&mut self, now_ns: u64, out: &mut impl Commands) {
        let stored_through = self.stored_through();
        let active = &mut self.active;
        let committed_through = match self.mode {
            Mode::Solo => self.ended_through,
            Mode::Paired if active.divergence.is_some() => return,
            Mode::Paired if self.config.compares_first => self.ended_through.min(active.executed_through),
            Mode::Paired => self.ended_through.min(active.received_through),
        }
        .min(stored_through);
        if committed_through > active.released_through {
            if active.newest_output_epoch > active.released_through {
                if active.confirmed_through >= active.commanded_through {
                    // All that was commanded is confirmed, and what came after had no outputs: the claim may not fall
                    // back behind it now that something is commanded again.
                    active.confirmed_through = active.released_through;
                }
                // What lies behind the newest outputs has none, and nobody will confirm it.
                active.commanded_through = committed_through.min(active.newest_output_epoch);
                out.push(Command::Release { through: committed_through });
            }
            active.released_through = committed_through;
        }
        self.finish_if_released(now_ns, out);
    }

    /// Once the guest has ended and its last output has left, so does the replica.
    fn finish_if_released(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.guest != Guest::Stopped || self.release_claim() < self.ended_through {
            return;
        }
        if self.peer.link_open {
            let goodbye = Goodbye { reason: GoodbyeReason::GuestStopped, generation: self.generation };
            self.send(now_ns, Outgoing::Goodbye(goodbye), out);
        }
        self.stop(StopReason::GuestStopped, out);
    }

    /// How far the outputs are known to have left: what the backup may forget.
    pub(super) fn release_claim(&self) -> Epoch {
        let active = &self.active;
        if self.config.confirms_releases && active.confirmed_through < active.commanded_through {
            active.confirmed_through
        } else {
            active.released_through
        }
    }

    /// The outputs that [`Command::Release`] let go have left the devices' queues through this epoch, so that even the
    /// death of this machine cannot lose them. It is enough to name the newest epoch that had any. Only with
    /// [`super::Config::confirms_releases`].
    pub fn confirm_released(&mut self, now_ns: u64, through: Epoch, out: &mut impl Commands) {
        if self.stopped.is_some() || self.role != Role::Primary {
            return;
        }
        let active = &mut self.active;
        active.confirmed_through = active.confirmed_through.max(through.min(active.commanded_through));
        self.finish_if_released(now_ns, out);
        if self.stopped.is_none() {
            self.pair_if_settled(now_ns, out);
            self.hand_over_if_done(now_ns, out);
        }
    }

    pub(super) fn on_ack(&mut self, now_ns: u64, ack: &Ack, out: &mut impl Commands) {
        if self.role != Role::Primary {
            return self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
        let Ack { received_through, executed_through, disks_done_below, echo_ns } = *ack;
        if self.ack_of_newcomer(now_ns, received_through, out) {
            return;
        }
        let active = &mut self.active;
        if received_through < active.received_through
            || executed_through < active.executed_through
            || executed_through > received_through
            || received_through > self.record.epoch
            || disks_done_below < active.disks_done_below
        {
            return self.fault(
                now_ns,
                ProtocolFault::BadAck { received_through, executed_through, disks_done_below },
                out,
            );
        }
        self.peer.agreed = true;
        active.window.pop(executed_through - active.executed_through);
        active.received_through = received_through;
        active.executed_through = executed_through;
        active.disks_done_below = disks_done_below;
        if echo_ns != 0 && echo_ns <= now_ns {
            active.rtt_ns = now_ns - echo_ns;
        }
        self.release_committed(now_ns, out);
        if self.stopped.is_none() {
            self.pair_if_settled(now_ns, out);
        }
    }

    /// The backup has found a difference and stops. Which of the two is wrong nobody knows: outputs stop until the
    /// arbiter lets this replica go on alone.
    pub(super) fn on_diverged(&mut self, now_ns: u64, divergence: Divergence, out: &mut impl Commands) {
        if self.role != Role::Primary {
            return self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
        self.active.divergence = Some(divergence.swapped());
        self.peer.link_open = false;
        out.push(Command::CloseLink);
        if !self.join_lost(now_ns, out) {
            self.ask_arbiter(now_ns, out);
        }
    }
}
