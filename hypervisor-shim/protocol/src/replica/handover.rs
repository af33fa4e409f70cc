//! A planned change of roles: the primary stops at a boundary, and the backup takes over with nothing to
//! repeat.
//!
//! The arbiter decides as at a failover, so that nothing is lost if either dies meanwhile: a primary that hears nothing
//! of the backup for too long asks like any other, and goes on if the backup has not asked before.

use super::failover::Failover;
use super::join::Join;
use super::{Commands, Guest, LinkFault, Outgoing, Replica};
use crate::link::{Goodbye, GoodbyeReason};
use crate::{Mode, Role};

/// How far a planned change of roles is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum HandOver {
    /// None is planned.
    No,
    /// No epoch begins any more.
    Wanted,
    /// The backup was told.
    Told,
}

impl Replica {
    pub(super) fn on_hand_over(&mut self) {
        let paired = self.role == Role::Primary && self.mode == Mode::Paired && self.sends_log();
        if paired && self.join == Join::None && self.handover == HandOver::No && self.guest != Guest::Stopped {
            self.handover = HandOver::Wanted;
        }
    }

    /// Tells the backup to take over once it holds everything and every output has left.
    pub(super) fn hand_over_if_done(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.handover != HandOver::Wanted || self.stopped.is_some() || !self.sends_log() {
            return;
        }
        let through = self.ended_through;
        let done = self.guest == Guest::AtBoundary
            && self.record.epoch == through
            && self.active.received_through == through
            && self.active.released_through == through
            && self.release_claim() == through;
        if done {
            self.handover = HandOver::Told;
            // It says what the backup need not release again.
            self.send_heartbeat(now_ns, out);
            let goodbye = Goodbye { reason: GoodbyeReason::HandOver, generation: self.generation };
            self.send(now_ns, Outgoing::Goodbye(goodbye), out);
        }
    }

    /// The primary has stopped for this backup.
    pub(super) fn take_over(&mut self, now_ns: u64, out: &mut impl Commands) {
        self.peer.link_open = false;
        self.peer.link_fault = Some(LinkFault::HandedOver);
        self.failover = Failover::Suspected { ask_at_ns: now_ns, by_silence: false };
        self.flush_backup(now_ns, out);
    }
}
