//! Mirrored disks: what a replica must know of the other one's.
//!
//! Each replica carries out every request of the guest on its own disk; the caller does that. The primary decides when the
//! guest is told, by an event in a record. A write needs no word from the backup for that: what follows from the event
//! leaves only when the backup holds the record, and with it that of the epoch in which the write was asked for. A flush
//! promises that both disks have it. So the backup's acknowledgements say how far its disks are.

use super::failover::Failover;
use super::{Guest, Replica};
use crate::Role;

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

    /// Whether the backup has run all that this replica has, as far as it has said.
    pub fn peer_has_run_everything(&self) -> bool {
        self.guest != Guest::Running && self.active.executed_through == self.ended_through
    }

    /// Whether this is a backup whose primary goes on: one that fails now is not missed.
    pub fn follows_peer(&self) -> bool {
        self.role == Role::Backup && self.peer.link_open && !self.peer.dead && self.failover == Failover::None
    }
}
