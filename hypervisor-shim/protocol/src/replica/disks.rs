//! Disks: what a replica must know of the other one's.
//!
//! Each replica carries out every request of the guest on its own disk; the caller does that. The primary decides when the
//! guest is told, by an event in a record. A write needs no word from the backup for that: what follows from the event
//! leaves only when the backup holds the record, and with it that of the epoch in which the write was asked for. A flush
//! promises that both disks have it. So the backup's acknowledgements say how far its disks are.
//!
//! A disk that both share is used by the active replica alone. What changes it is an output: it may begin only when output
//! commit lets the outputs of its epoch leave ([`Replica::committed_through`]), or a survivor that never asks for it would
//! find it done. At promotion everything that the guest has outstanding there is uncertain (P7), and the guest has to hear of
//! that although nothing else may happen to it ([`Replica::owes_uncertain`]).
//!
//! With [`super::Config::logs_disks`] every disk is treated so: what changes it is an output, also of the durable log, and the
//! backup, which has a disk of its own, changes there only what the record of an epoch says is done. So no disk holds what the
//! log does not know, and the log alone can bring a disk from a checkpoint on to where the guest believes it to be.

use super::failover::Failover;
use super::join::Join;
use super::{Guest, Replica};
use crate::event::Uncertain;
use crate::{Epoch, Mode, Role};

impl Replica {
    /// This replica's disks have done all requests with numbers below this; a number never goes back. `at_once`: there is a
    /// flush among those that are new, for which the primary may wait.
    pub fn note_disks(&mut self, done_below: u64, at_once: bool) {
        self.backup.disks_done_below = done_below;
        self.backup.ack_due |= at_once && self.role == Role::Backup;
    }

    /// All requests with numbers below this are done at the backup's disks, as far as it has said.
    pub fn peer_disks_done_below(&self) -> u64 {
        self.active.disks_done_below
    }

    /// Outputs of the epochs up to this one may leave, and what they ask of shared disks may begin; 0 at a backup. Unlike
    /// [`super::Command::Release`] it also moves on over epochs without outputs.
    pub fn committed_through(&self) -> Epoch {
        if self.role == Role::Primary && self.stopped.is_none() { self.active.released_through } else { 0 }
    }

    /// Whether the record of the next epoch begins with the uncertain event of P7.
    pub fn owes_uncertain(&self) -> bool {
        self.active.uncertain_due.is_some()
    }

    /// Whether that event is about everything outstanding ([`Uncertain::EVERYTHING`]).
    pub fn owes_everything(&self) -> bool {
        self.active.uncertain_due == Some(Uncertain::EVERYTHING)
    }

    /// A copy of the guest was made at this boundary, and the log goes on behind it: whatever is outstanding was begun by
    /// nobody and will not be, neither here nor where the copy goes on. The record of the next epoch says so.
    pub fn give_up_outstanding(&mut self) {
        if self.role == Role::Primary && self.guest == Guest::AtBoundary {
            self.active.uncertain_due = Some(Uncertain::EVERYTHING);
        }
    }

    /// Whether the backup has run all that this replica has, as far as it has said.
    pub fn peer_has_run_everything(&self) -> bool {
        self.guest != Guest::Running && self.active.executed_through == self.ended_through
    }

    /// Whether this is a backup whose primary goes on: one that fails now is not missed.
    pub fn follows_peer(&self) -> bool {
        self.role == Role::Backup && self.peer_seems_well()
    }

    /// Whether this is a primary that may leave the pair because its own disk cannot do request `number`: it may leave, and
    /// the backup's disk has done it. Who must not leave tells its guest of the fault when it is alone.
    pub fn gives_way(&self, number: u64) -> bool {
        self.may_leave() && number < self.active.disks_done_below
    }

    /// Whether this is a primary whose backup can take over. A newcomer cannot before the arbiter's record is paired with
    /// it, although its disk does what the primary's does; nor is one counted upon that is being replaced as lost.
    pub fn may_leave(&self) -> bool {
        self.role == Role::Primary && self.mode == Mode::Paired && self.join == Join::None && self.peer_seems_well()
    }

    fn peer_seems_well(&self) -> bool {
        self.peer.link_open && !self.peer.dead && self.failover == Failover::None
    }
}
