//! Mirrors of a guest that is copied: the supervisor copies the files, and is told what changes meanwhile.
//!
//! Rounds as for pages: everything once, then what has changed, as often as the supervisor asks. When the copy of the guest
//! has come to its last pages, nothing new is begun at any disk; what was begun is finished and told to the guest. Then the
//! guest waits at a boundary, the last changes are told, and the state is complete when they are copied, too. From that epoch
//! on both mirrors get the same writes.

use alloc::vec::Vec;

use protocol::control::{DisksChanged, ToSupervisor};

use super::copy::Target;
use super::{Vmm, tell};
use crate::machine::Machine;

/// Ranges in one message: with 24 bytes each it has 24 KiB, which the socket on the way has room for.
const RANGES: usize = 1024;

/// How far the copy of the mirrors is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DiskCopy {
    /// Nobody copies.
    #[default]
    None,
    /// What changes is noted.
    Watching,
    /// The last changes were told, and are being copied.
    Last,
    /// The copy is equal to what is here.
    Equal,
}

impl<M: Machine> Vmm<M> {
    /// The mirrors are about to be copied.
    pub(super) fn watch_disks(&mut self) {
        self.guest.disks_mut().note_changes();
        self.guest.disks_mut().hold(false);
        self.disk_copy = DiskCopy::Watching;
        tell(&mut self.control, &ToSupervisor::DisksChanged(DisksChanged { last: false, more: false, ranges: &[] }));
    }

    /// Tells what has changed since the last time.
    pub(super) fn tell_disks(&mut self) {
        // The last ones were told unasked: the question was on its way.
        if self.disk_copy == DiskCopy::Watching {
            self.tell_changes(false);
        }
    }

    fn tell_changes(&mut self, last: bool) {
        let mut ranges = Vec::new();
        self.guest.disks_mut().take_changes(RANGES).iter().for_each(|range| range.encode_into(&mut ranges));
        let more = self.guest.disks().has_changes();
        tell(&mut self.control, &ToSupervisor::DisksChanged(DisksChanged { last, more, ranges: &ranges }));
        self.control.flush(self.machine.control());
    }

    /// The guest stands still, and so do its disks: the last changes are told.
    pub(super) fn tell_last_changes(&mut self) {
        if self.disk_copy == DiskCopy::Watching {
            self.disk_copy = DiskCopy::Last;
            self.tell_changes(true);
        }
    }

    /// What was told is copied.
    pub(super) fn disks_copied(&mut self) {
        if self.disk_copy != DiskCopy::Last {
            return;
        }
        if self.guest.disks().has_changes() {
            self.tell_changes(true);
        } else {
            self.disk_copy = DiskCopy::Equal;
        }
    }

    /// Whether the mirrors of a copy that comes to its end are equal, or there are none.
    pub(super) fn disks_are_equal(&self) -> bool {
        !self.guest.disks().has_mirrors()
            || self.disk_copy == DiskCopy::Equal
            || self.leaves_disks_to_log()
            || self.needs_quiet_disks()
    }

    /// Whether nobody copies the mirrors that belong to a checkpoint, and no log says what they hold.
    pub(super) fn lacks_mirrors(&self) -> bool {
        let is_recorded = self.replica.as_ref().is_some_and(|replica| replica.stores_log());
        self.guest.disks().has_mirrors() && self.disk_copy == DiskCopy::None && !is_recorded
    }

    /// Whether the copy that is made begins a recording, which needs no disks: the records say what came of each request, but
    /// only of those that are made later. So it is made at a moment at which nothing is outstanding.
    pub(super) fn needs_quiet_disks(&self) -> bool {
        let records = self.replica.as_ref().is_some_and(|replica| replica.stores_log());
        let is_checkpoint = self.copier.as_ref().is_some_and(|copier| copier.target() == Target::Checkpoint);
        is_checkpoint && records && !self.guest.disks().are_logged() && self.disk_copy == DiskCopy::None
    }

    /// Whether the copy that is made, a checkpoint, needs none of the mirrors: the log behind it says what they hold.
    pub(super) fn leaves_disks_to_log(&self) -> bool {
        self.guest.disks().are_logged() && self.disk_copy == DiskCopy::None
    }

    /// The copy has ended, well or not: the disks go on.
    pub(super) fn end_disk_copy(&mut self) {
        self.disk_copy = DiskCopy::None;
        self.guest.disks_mut().forget_changes();
        self.guest.disks_mut().hold(false);
    }
}
