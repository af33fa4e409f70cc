//! Disks of a guest that is copied to another machine, or into a checkpoint, while it runs.
//!
//! What a disk holds is no part of the copy: the supervisor copies files. It must end with the same blocks as they were at
//! the epoch of the copy. So towards the end nothing more is begun ([`Disks::hold`]); what was begun is finished, and the guest
//! is told of it as ever; what is outstanding then was never begun anywhere. Of that the copy holds the numbers alone: it is
//! *parked*, the guest hears that it is uncertain (rule P7) and asks again. Nothing of it had any effect, so the order of what
//! overlaps is as if it had been asked for later.
//!
//! Until then it is noted which blocks have changed. A change is noted when the device has finished it: whoever copies a block
//! while it is written to copies it again.

use alloc::vec::Vec;

use hypercall::disk::Operation;
use hypercall::ring::Consumer;
use protocol::resync::{ChangedBlocks, Changes};

use super::{Disks, NOTHING, Schedule};
use crate::guest::schedule::changes_blocks;
use crate::machine::DiskJob;

impl Disks {
    /// Our position in the ring, and the number of the next request.
    pub(in crate::guest) fn saved(&self) -> (u32, u64) {
        (self.ring.position(), self.next_number)
    }

    /// Numbers of what is outstanding, of a guest that [`Disks::can_be_copied`].
    pub(in crate::guest) fn parked(&self) -> Vec<u64> {
        self.outstanding.iter().map(|outstanding| outstanding.number).collect()
    }

    /// What [`Disks::saved`] and [`Disks::parked`] gave, with a ring at that position.
    pub(in crate::guest) fn restored(&mut self, ring: Consumer, next_number: u64, parked: &[u64]) {
        self.ring = ring;
        self.next_number = next_number;
        self.outstanding.clear();
        for &number in parked {
            self.note(number, Operation::Flush, &NOTHING, None);
        }
        self.outstanding.iter_mut().for_each(|outstanding| outstanding.parked = true);
    }

    /// Begins nothing more, or goes on.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether what was begun is still to be finished, or to be told to the guest.
    pub fn is_draining(&self) -> bool {
        self.held && !self.can_be_copied()
    }

    /// Whether the numbers of what is outstanding are all that a copy of the guest must know: nothing of it was begun.
    pub(in crate::guest) fn can_be_copied(&self) -> bool {
        let never_begun = self.outstanding.iter().all(|outstanding| outstanding.end.is_none());
        let is_held = self.held || self.outstanding.is_empty();
        is_held && never_begun && self.schedules.iter().all(Schedule::is_device_idle)
    }

    /// The copy is made: here, too, what is outstanding is not begun any more, but asked for again. Goes on with all else.
    pub fn park(&mut self) {
        for index in 0..self.schedules.len() {
            for job in self.schedules[index].take_waiting() {
                self.put_back(job.buffer);
            }
        }
        self.flushes.clear();
        self.outstanding.iter_mut().for_each(|outstanding| outstanding.parked = true);
        self.held = false;
    }

    /// Notes from now on which blocks of mirrored disks are changed; what was noted before is forgotten.
    pub fn note_changes(&mut self) {
        self.changes = Some(self.table.iter().map(|disk| Changes::new(disk.blocks)).collect());
    }

    /// Notes nothing any more.
    pub fn forget_changes(&mut self) {
        self.changes = None;
    }

    /// Whether there is a mirrored disk.
    pub fn has_mirrors(&self) -> bool {
        (0..self.table.len()).any(|disk| !self.shared.has(disk))
    }

    /// Takes what has changed, at most so many ranges; the others are there the next time.
    pub fn take_changes(&mut self, limit: usize) -> Vec<ChangedBlocks> {
        let mut taken = Vec::new();
        for (disk, changes) in self.changes.iter_mut().flatten().enumerate() {
            while taken.len() < limit
                && let Some((first_block, blocks)) = changes.take()
            {
                taken.push(ChangedBlocks { disk: disk as u32, first_block, blocks });
            }
        }
        taken
    }

    /// Whether something has changed that was not taken.
    pub fn has_changes(&self) -> bool {
        self.changes.iter().flatten().any(|changes| !changes.is_empty())
    }

    pub(super) fn note_change(&mut self, disk: usize, job: &DiskJob) {
        if changes_blocks(job.operation)
            && !self.shared.has(disk)
            && let Some(changes) = self.changes.as_mut().and_then(|changes| changes.get_mut(disk))
        {
            changes.note(job.first_block, job.blocks);
        }
    }
}
