//! The backup: P3 to P5. Its only events are those of the primary's log; its outputs are kept until the primary has
//! released the same, and its digests are compared with the primary's.

use super::failover::Failover;
use super::join::Join;
use super::log::Queue;
use super::{Backup, Command, Commands, Guest, Outgoing, ProtocolFault, Record, Replica, StopReason};
use crate::link::{Ack, Divergence, EpochStart, Heartbeat};
use crate::{Epoch, Role};

impl Backup {
    pub(super) fn new() -> Self {
        Self {
            queue: Queue::default(),
            received_through: 0,
            record_received_ns: 0,
            unreported_since_ns: None,
            ack_due: false,
            echo_ns: 0,
            disks_done_below: 0,
            last_ack_ns: 0,
            released_claim: 0,
            discard_due: false,
            peer_ended: (0, 0),
        }
    }
}

impl Replica {
    pub(super) fn on_epoch_start(&mut self, now_ns: u64, start: &EpochStart<'_>, out: &mut impl Commands) {
        if self.role != Role::Backup || self.join == Join::Empty {
            return self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
        if let Err(fault) = self.check_record(start) {
            return self.fault(now_ns, fault, out);
        }
        self.backup.ack_due = true;
        self.backup.echo_ns = start.sent_ns;
        self.note_release_claim(start.released_through);
        let starts_after_our_end = start.epoch == self.ended_through + 1;
        if starts_after_our_end && (start.prev_digest != self.last_digest || self.guest == Guest::Stopped) {
            return self.diverge(now_ns, start.prev_digest, out);
        }
        let mut events = self.take_buffer();
        events.extend_from_slice(start.events);
        let record = Record {
            epoch: start.epoch,
            prev_digest: start.prev_digest,
            clocks: start.clocks,
            released_through: start.released_through,
            sent_ns: start.sent_ns,
            events,
        };
        self.backup.queue.push(now_ns, record);
        self.backup.received_through = start.epoch;
    }

    fn check_record(&self, start: &EpochStart<'_>) -> Result<(), ProtocolFault> {
        let backup = &self.backup;
        let expected = backup.received_through + 1;
        if start.epoch != expected {
            return Err(ProtocolFault::EpochGap { expected, got: start.epoch });
        }
        let limit_bytes = u64::from(self.config.max_epoch_events_bytes);
        let events_bytes = start.events.len() as u64;
        let queued_epochs = backup.queue.len() + usize::from(self.guest == Guest::Running);
        let queued_bytes = backup.queue.bytes() + events_bytes;
        if events_bytes > limit_bytes
            || queued_epochs >= self.config.max_outstanding_epochs as usize
            || queued_bytes > self.config.max_outstanding_bytes.saturating_add(limit_bytes)
        {
            let queued_epochs = u32::try_from(queued_epochs).unwrap_or(u32::MAX);
            return Err(ProtocolFault::Overflow { queued_epochs, queued_bytes });
        }
        self.check_release_claim(start.released_through, start.epoch - 1)
    }

    fn check_release_claim(&self, released_through: Epoch, ended_epoch: Epoch) -> Result<(), ProtocolFault> {
        if released_through < self.backup.released_claim || released_through > ended_epoch {
            return Err(ProtocolFault::BadRelease { released_through });
        }
        Ok(())
    }

    pub(super) fn note_release_claim(&mut self, released_through: Epoch) {
        if released_through > self.backup.released_claim {
            self.backup.released_claim = released_through;
            self.backup.discard_due = true;
        }
    }

    pub(super) fn on_heartbeat(&mut self, now_ns: u64, heartbeat: &Heartbeat, out: &mut impl Commands) {
        if self.role != Role::Backup || self.join == Join::Empty {
            return self.fault(now_ns, ProtocolFault::WrongRole, out);
        }
        let Heartbeat { ended_epoch, ended_digest, released_through, sent_ns } = *heartbeat;
        if ended_epoch > self.backup.received_through || ended_epoch < self.backup.peer_ended.0 {
            return self.fault(now_ns, ProtocolFault::BadHeartbeat { ended_epoch }, out);
        }
        if let Err(fault) = self.check_release_claim(released_through, ended_epoch) {
            return self.fault(now_ns, fault, out);
        }
        self.backup.ack_due = true;
        self.backup.echo_ns = sent_ns;
        self.backup.peer_ended = (ended_epoch, ended_digest);
        self.note_release_claim(released_through);
        if ended_epoch == self.ended_through && ended_digest != self.last_digest {
            self.diverge(now_ns, ended_digest, out);
        }
    }

    /// The end of a round: discard, acknowledge, and only then run on, because clients wait for the acknowledgement.
    pub(super) fn flush_backup(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.role != Role::Backup || self.stopped.is_some() {
            return;
        }
        self.discard_released(out);
        if self.peer.link_open && (self.backup.ack_due || now_ns >= self.progress_deadline_ns()) {
            self.send_ack(now_ns, out);
        }
        self.backup_advance(now_ns, out);
    }

    pub(super) fn discard_released(&mut self, out: &mut impl Commands) {
        if self.backup.discard_due {
            self.backup.discard_due = false;
            self.forget_stored();
            out.push(Command::Discard { through: self.backup.released_claim });
        }
    }

    pub(super) fn send_ack(&mut self, now_ns: u64, out: &mut impl Commands) {
        let ack = Ack {
            received_through: self.backup.received_through,
            executed_through: self.reported_through(),
            disks_done_below: self.backup.disks_done_below,
            echo_ns: core::mem::take(&mut self.backup.echo_ns),
        };
        self.backup.ack_due = false;
        self.backup.unreported_since_ns = None;
        self.backup.last_ack_ns = now_ns;
        self.send(now_ns, Outgoing::Ack(ack), out);
    }

    /// How far the primary is told that the guest has run: with [`super::Config::compares_first`] only as far as the
    /// primary's digests are known here, each of which was compared when it came or when the epoch ended.
    fn reported_through(&self) -> Epoch {
        if !self.config.compares_first {
            return self.ended_through;
        }
        // The record of an epoch carries the digest of the one before.
        let known_through = self.backup.peer_ended.0.max(self.backup.received_through.saturating_sub(1));
        self.ended_through.min(known_through)
    }

    /// P5: the epoch ended here; the primary must have ended it the same way.
    pub(super) fn backup_ended(&mut self, now_ns: u64, out: &mut impl Commands) {
        let (peer_ended, peer_digest) = self.backup.peer_ended;
        let theirs = match self.backup.queue.front() {
            Some(next) => Some(next.prev_digest),
            None => (peer_ended == self.ended_through).then_some(peer_digest),
        };
        let primary_went_on = !self.backup.queue.is_empty();
        if let Some(theirs) = theirs
            && (theirs != self.last_digest || (self.guest == Guest::Stopped && primary_went_on))
        {
            return self.diverge(now_ns, theirs, out);
        }
        self.backup.unreported_since_ns.get_or_insert(self.backup.record_received_ns);
        // The primary waits for it, if there is something new to tell.
        self.backup.ack_due |= self.config.compares_first && self.reported_through() == self.ended_through;
        self.flush_backup(now_ns, out);
    }

    /// Runs the next epoch of the log or, when the log is consumed, whatever waited for that.
    pub(super) fn backup_advance(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.stopped.is_some() || self.guest == Guest::Running {
            return;
        }
        if let Some((received_ns, record)) = self.backup.queue.pop() {
            let epoch = record.epoch;
            self.replace_record(record);
            self.backup.record_received_ns = received_ns;
            self.guest = Guest::Running;
            return out.push(Command::RunEpoch { epoch });
        }
        if self.peer.finished {
            return self.finish_with_peer(now_ns, out);
        }
        match self.failover {
            Failover::None | Failover::Asking(_) => {}
            Failover::Suspected { ask_at_ns, .. } if now_ns >= ask_at_ns => self.ask_arbiter(now_ns, out),
            Failover::Suspected { .. } => {}
            Failover::Granted => self.promote(now_ns, out),
        }
    }

    /// The primary's guest has ended and the log is consumed: this guest must have ended as well.
    fn finish_with_peer(&mut self, now_ns: u64, out: &mut impl Commands) {
        self.discard_released(out);
        if self.guest == Guest::Stopped {
            self.stop(StopReason::GuestStopped, out);
        } else {
            self.diverge(now_ns, self.backup.peer_ended.1, out);
        }
    }

    fn diverge(&mut self, now_ns: u64, theirs: u64, out: &mut impl Commands) {
        let divergence = Divergence { epoch: self.ended_through, ours: self.last_digest, theirs };
        if self.peer.link_open {
            self.send(now_ns, Outgoing::Diverged(divergence), out);
        }
        self.stop(StopReason::Diverged(divergence), out);
    }
}
