//! The order in which one disk's requests are carried out.
//!
//! Mirrors must end equal, and a read must see the writes before it. So a job waits for every job before it that overlaps
//! it if one of the two changes blocks. Whatever does not overlap goes to the device at once and finishes in any order.
//! A job that has failed is waited for until the guest has heard of it: what it was to change is there at the other mirror
//! and not here, and nobody may read it here before it is clear that this replica goes on without the other one.
//!
//! Of a shared disk there is one, and a replica that takes over repeats what its predecessor had under way. So there a job
//! that changes blocks also waits until its epoch is committed, and for every read before it that overlaps it until what was
//! read is committed: repeated, that read must find what it found.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use hypercall::disk::Operation;

use crate::machine::{Disk, DiskJob};

/// Whether the device holds something else afterwards.
pub(super) fn changes_blocks(operation: Operation) -> bool {
    !matches!(operation, Operation::Read | Operation::Flush | Operation::Forget)
}

/// Blocks that a job reads or changes.
#[derive(Debug, Clone, Copy)]
struct Extent {
    number: u64,
    first: u64,
    end: u64,
    changes: bool,
}

impl Extent {
    fn of(job: &DiskJob) -> Self {
        let (first, end) = match job.operation {
            // A flush covers what was completed before; nothing has to wait for it, nor it for anything.
            Operation::Flush => (0, 0),
            _ => (job.first_block, job.first_block.saturating_add(job.blocks)),
        };
        Self { number: job.number, first, end, changes: changes_blocks(job.operation) }
    }

    fn conflicts(&self, other: &Self) -> bool {
        (self.changes || other.changes) && self.first < other.end && other.first < self.end
    }
}

/// Jobs of one disk, from when they were taken to when the device has done them.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Not given to the device, oldest first.
    waiting: VecDeque<DiskJob>,
    /// At the device.
    started: Vec<Extent>,
    /// Reads that the device has done and that may be repeated yet.
    unsettled: Vec<Extent>,
    /// What the device has failed to do, and the guest does not know.
    failed: Vec<Extent>,
}

impl Schedule {
    pub(super) fn push(&mut self, job: DiskJob) {
        self.waiting.push_back(job);
    }

    /// The device has finished the job with this number.
    pub(super) fn finish(&mut self, number: u64) {
        self.started.retain(|extent| extent.number != number);
    }

    /// The device has failed to do the job with this number.
    pub(super) fn fail(&mut self, number: u64) {
        self.failed.extend(self.started.iter().find(|extent| extent.number == number).copied());
        self.finish(number);
    }

    /// The guest hears how the job with this number has ended.
    pub(super) fn tell(&mut self, number: u64) {
        self.failed.retain(|extent| extent.number != number);
    }

    /// The device has finished a job that may be repeated by another replica until [`Schedule::settle`] says otherwise.
    pub(super) fn finish_unsettled(&mut self, number: u64) {
        let is_read = |extent: &&Extent| extent.number == number && !extent.changes && extent.first < extent.end;
        let read = self.started.iter().find(is_read).copied();
        self.unsettled.extend(read);
        self.finish(number);
    }

    /// A read will not be repeated.
    pub(super) fn settle(&mut self, number: u64) {
        self.unsettled.retain(|extent| extent.number != number);
    }

    /// Whether the device has nothing to do.
    pub(super) fn is_device_idle(&self) -> bool {
        self.started.is_empty()
    }

    /// Whether a job waits to be started.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes what was not started.
    pub(super) fn take_waiting(&mut self) -> VecDeque<DiskJob> {
        core::mem::take(&mut self.waiting)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.started.is_empty()
    }

    /// Gives the device every job that may start, as far as it takes them. What changes blocks and was asked for after epoch
    /// `committed_through` may not.
    pub(super) fn start(&mut self, device: &mut impl Disk, committed_through: u64) {
        let mut index = 0;
        let mut started = false;
        while let Some(job) = self.waiting.get(index) {
            let extent = Extent::of(job);
            let before = self.waiting.iter().take(index).map(Extent::of);
            let others = self.started.iter().chain(&self.unsettled).chain(&self.failed).copied().chain(before);
            let is_held = changes_blocks(job.operation) && job.epoch > committed_through;
            if is_held || others.into_iter().any(|other| extent.conflicts(&other)) {
                index += 1;
                continue;
            }
            let Some(job) = self.waiting.remove(index) else { break };
            if let Err(job) = device.start(job) {
                self.waiting.insert(index, job);
                break;
            }
            self.started.push(extent);
            started = true;
        }
        if started {
            device.kick();
        }
    }
}

#[cfg(test)]
mod tests;
