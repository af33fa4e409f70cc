//! The order in which one disk's requests are carried out.
//!
//! Mirrors must end equal, and a read must see the writes before it. So a job waits for every job before it that overlaps
//! it if one of the two changes blocks. Whatever does not overlap goes to the device at once and finishes in any order.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use hypercall::disk::Operation;

use crate::machine::{Disk, DiskJob};

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
        Self { number: job.number, first, end, changes: job.operation != Operation::Read }
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
}

impl Schedule {
    pub(super) fn push(&mut self, job: DiskJob) {
        self.waiting.push_back(job);
    }

    /// The device has finished the job with this number.
    pub(super) fn finish(&mut self, number: u64) {
        self.started.retain(|extent| extent.number != number);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.started.is_empty()
    }

    /// Gives the device every job that may start, as far as it takes them.
    pub(super) fn start(&mut self, device: &mut impl Disk) {
        let mut index = 0;
        let mut started = false;
        while let Some(job) = self.waiting.get(index) {
            let extent = Extent::of(job);
            let before = self.waiting.iter().take(index).map(Extent::of);
            if self.started.iter().copied().chain(before).any(|other| extent.conflicts(&other)) {
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
