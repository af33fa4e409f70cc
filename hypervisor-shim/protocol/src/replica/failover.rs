//! Losing the peer: suspicion, the arbiter's grant, promotion (P6, P7), and being superseded.

use super::handover::HandOver;
use super::join::Join;
use super::{Command, Commands, Guest, LinkFault, Outgoing, Promotion, ProtocolFault, Replica, StopReason};
use crate::arbiter::ArbiterRecord;
use crate::event::Uncertain;
use crate::link::{Goodbye, GoodbyeReason};
use crate::{Generation, Mode, Role};

/// How far this replica is in going on without its peer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Failover {
    /// The peer is taken to be well.
    None,
    /// Backup only: the peer seems to have failed. The arbiter is asked when the log is consumed, and not before
    /// `ask_at_ns`, so that a primary that is well and lost only the link comes first.
    Suspected { ask_at_ns: u64, by_silence: bool },
    /// The arbiter was asked. There is no way back to the pair from here: the answer may be a grant.
    Asking(Request),
    /// Backup only: granted; the log is consumed, then comes the promotion.
    Granted,
}

/// A request to the arbiter that has not been answered.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    /// When it is to be made again.
    pub(super) retry_at_ns: u64,
    backoff_ns: u64,
}

impl Request {
    /// Whether it is to be made again now. It is, ever more rarely, up to once in `longest_ns`: the request or its answer may
    /// be lost, and the arbiter may be away.
    pub(super) fn repeat_if_due(&mut self, now_ns: u64, longest_ns: u64) -> bool {
        let due = now_ns >= self.retry_at_ns;
        if due {
            self.backoff_ns = self.backoff_ns.saturating_mul(2).min(longest_ns);
            self.retry_at_ns = now_ns.saturating_add(self.backoff_ns);
        }
        due
    }
}

impl Replica {
    pub(super) fn fault(&mut self, now_ns: u64, fault: ProtocolFault, out: &mut impl Commands) {
        out.push(Command::CloseLink);
        self.on_link_closed(now_ns, LinkFault::Protocol(fault), out);
    }

    pub(super) fn on_link_closed(&mut self, now_ns: u64, fault: LinkFault, out: &mut impl Commands) {
        if !self.peer.link_open {
            return;
        }
        self.peer.link_open = false;
        self.peer.link_fault = Some(fault);
        if !self.join_lost(now_ns, out) {
            self.suspect(now_ns, false, out);
        }
    }

    pub(super) fn on_silence(&mut self, now_ns: u64, out: &mut impl Commands) {
        if !self.join_lost(now_ns, out) {
            self.suspect(now_ns, true, out);
        }
    }

    pub(super) fn on_peer_dead(&mut self, now_ns: u64, out: &mut impl Commands) {
        self.peer.dead = true;
        if self.join_lost(now_ns, out) {
            return;
        }
        if self.mode == Mode::Solo || self.peer.finished || self.needs_peer_no_more(out) {
            return;
        }
        self.ask_arbiter(now_ns, out);
    }

    fn suspect(&mut self, now_ns: u64, by_silence: bool, out: &mut impl Commands) {
        let known = match self.failover {
            Failover::None => false,
            Failover::Suspected { by_silence, .. } => !by_silence,
            Failover::Asking(_) | Failover::Granted => true,
        };
        if known || self.mode == Mode::Solo || self.needs_peer_no_more(out) {
            return;
        }
        match self.role {
            Role::Primary => self.ask_arbiter(now_ns, out),
            Role::Backup => {
                let ask_at_ns = now_ns.saturating_add(self.config.heartbeat_interval_ns);
                self.failover = Failover::Suspected { ask_at_ns, by_silence };
            }
        }
    }

    /// The peer was only late.
    pub(super) fn clear_suspicion(&mut self) {
        if matches!(self.failover, Failover::Suspected { by_silence: true, .. }) {
            self.failover = Failover::None;
        }
    }

    /// When the guest has ended, a peer that goes away is no failure if the last output has been released.
    fn needs_peer_no_more(&mut self, out: &mut impl Commands) -> bool {
        if self.guest != Guest::Stopped {
            return false;
        }
        match self.role {
            // What is left to wait for is this replica's own devices.
            Role::Primary => self.active.released_through >= self.ended_through,
            Role::Backup if self.backup.released_claim >= self.ended_through => {
                self.discard_released(out);
                self.stop(StopReason::GuestStopped, out);
                true
            }
            Role::Backup => false,
        }
    }

    pub(super) fn ask_arbiter(&mut self, now_ns: u64, out: &mut impl Commands) {
        if matches!(self.failover, Failover::Asking(_) | Failover::Granted) {
            return;
        }
        let request = self.new_request(now_ns);
        self.failover = Failover::Asking(request);
        self.push_request(request.id, out);
    }

    /// A request to the arbiter that is made now.
    pub(super) fn new_request(&mut self, now_ns: u64) -> Request {
        self.last_request_id += 1;
        let backoff_ns = self.config.heartbeat_interval_ns;
        Request { id: self.last_request_id, retry_at_ns: now_ns.saturating_add(backoff_ns), backoff_ns }
    }

    pub(super) fn repeat_request(&mut self, now_ns: u64, out: &mut impl Commands) {
        if let Failover::Asking(request) = &mut self.failover
            && request.repeat_if_due(now_ns, self.config.failure_timeout_ns)
        {
            let request_id = request.id;
            self.push_request(request_id, out);
        }
    }

    fn push_request(&self, request_id: u64, out: &mut impl Commands) {
        out.push(Command::AskArbiter { request_id, expect_generation: self.asking_from() });
    }

    pub(super) fn on_arbiter_reply(
        &mut self,
        now_ns: u64,
        request_id: u64,
        granted: bool,
        record: ArbiterRecord,
        out: &mut impl Commands,
    ) {
        if record.active != self.config.replica {
            if self.join == Join::Tentative {
                // The record was not paired: this newcomer is no member of anything.
                return self.stop(StopReason::Superseded { generation: record.generation }, out);
            }
            return self.on_superseded(record.generation, out);
        }
        if self.on_pairing_reply(now_ns, request_id, granted, record, out) {
            return;
        }
        let asked = matches!(self.failover, Failover::Asking(request) if request.id == request_id);
        let expected = record.generation.checked_sub(1) == Some(self.asking_from());
        if asked && granted && record.mode == Mode::Solo && expected {
            self.on_grant(now_ns, record.generation, out);
        }
    }

    /// The peer is active in `generation`; nothing to learn from if that is not after ours.
    pub(super) fn on_superseded(&mut self, generation: Generation, out: &mut impl Commands) {
        if generation > self.generation {
            self.stop(StopReason::Superseded { generation }, out);
        }
    }

    fn on_grant(&mut self, now_ns: u64, generation: Generation, out: &mut impl Commands) {
        self.generation = generation;
        self.join = Join::None;
        self.handover = HandOver::No;
        if self.peer.link_open && !self.peer.dead {
            let goodbye = Goodbye { reason: GoodbyeReason::Superseded, generation };
            self.send(now_ns, Outgoing::Goodbye(goodbye), out);
        }
        // From here on nothing is taken from the old peer, or a stream of late records would put off the promotion.
        self.peer.link_open = false;
        match self.role {
            Role::Primary => {
                self.failover = Failover::None;
                self.mode = Mode::Solo;
                self.active.window.clear();
                out.push(Command::GoSolo { generation });
                self.release_committed(now_ns, out);
            }
            Role::Backup => {
                self.failover = Failover::Granted;
                self.backup_advance(now_ns, out);
            }
        }
    }

    /// P6: all that was received has been run, and the arbiter has granted. Everything acknowledged is in the state
    /// that goes on, so every output that the old primary released follows from it.
    pub(super) fn promote(&mut self, now_ns: u64, out: &mut impl Commands) {
        self.discard_released(out);
        self.failover = Failover::None;
        self.role = Role::Primary;
        self.mode = Mode::Solo;
        let released_through = self.backup.released_claim.min(self.ended_through);
        self.active.released_through = released_through;
        self.active.commanded_through = released_through;
        self.active.confirmed_through = released_through;
        self.active.received_through = self.ended_through;
        self.active.executed_through = self.ended_through;
        let uncertain = if self.config.logs_disks { Uncertain::EVERYTHING } else { Uncertain::EVERY_OPERATION };
        // A guest that has not run yet has nothing outstanding.
        self.active.uncertain_due = (self.ended_through > 0).then_some(uncertain);
        self.backup.unreported_since_ns = None;
        out.push(Command::Promote(Promotion {
            generation: self.generation,
            first_own_epoch: self.ended_through + 1,
            resend_from_epoch: released_through + 1,
            clocks: self.record.clocks,
            clocks_received_ns: self.backup.record_received_ns,
        }));
        self.store_kept(out);
        self.release_committed(now_ns, out);
    }

    pub(super) fn on_goodbye(&mut self, now_ns: u64, goodbye: Goodbye, out: &mut impl Commands) {
        if self.join == Join::Empty && goodbye.reason != GoodbyeReason::Shutdown {
            return self.stop(StopReason::Incomplete, out);
        }
        match goodbye.reason {
            GoodbyeReason::HandOver if self.role == Role::Primary => {
                self.fault(now_ns, ProtocolFault::WrongRole, out);
            }
            GoodbyeReason::HandOver => self.take_over(now_ns, out),
            GoodbyeReason::Superseded if goodbye.generation > self.generation => {
                self.on_superseded(goodbye.generation, out);
            }
            // It goes, whatever it believes: as good as a closed link.
            GoodbyeReason::Superseded => self.on_link_closed(now_ns, LinkFault::Closed, out),
            GoodbyeReason::Discarded => self.stop(StopReason::Discarded, out),
            GoodbyeReason::Shutdown => self.stop(StopReason::Shutdown, out),
            GoodbyeReason::GuestStopped if self.role == Role::Primary => {
                self.fault(now_ns, ProtocolFault::WrongRole, out);
            }
            GoodbyeReason::GuestStopped => {
                self.peer.link_open = false;
                self.peer.finished = true;
                self.note_release_claim(self.backup.received_through);
                self.backup_advance(now_ns, out);
            }
        }
    }

    pub(super) fn on_shutdown(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.peer.link_open && !self.peer.dead {
            let goodbye = Goodbye { reason: GoodbyeReason::Shutdown, generation: self.generation };
            self.send(now_ns, Outgoing::Goodbye(goodbye), out);
        }
        self.stop(StopReason::Shutdown, out);
    }
}
