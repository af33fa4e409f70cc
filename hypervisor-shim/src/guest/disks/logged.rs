//! Disks that a stored log must be able to restore, and disks of a log that is run again.
//!
//! The log says what a guest asks of its disks, because the guest asks again when it is run again, and what it was told. Three
//! rules make that enough to bring a disk from a checkpoint on to the end of the log, whenever both machines die:
//!
//! - What was read travels in the records, as that of shared disks does. Running the log reads nothing.
//! - The active replica changes a disk only for epochs that are committed, so stored. No disk holds what the log does not know.
//! - A replica that *follows*, a backup or one that runs a log, changes its disk when a record says that the change is done, and
//!   waits until it is. What no record says to be done was not begun there. When it goes on by itself, all of that is
//!   uncertain (rule P7): the guest asks for it again.
//!
//! So running the log writes again, in its order, what was told to be done since the checkpoint. That is harmless where it was
//! done already, and what was under way at the end is written, or not, by the guest itself. Where a log is run for its own sake
//! there are no disks at all ([`DiskConduct::Absent`]).

use hypercall::disk::Operation;
use protocol::DiskConduct;

use super::{Disks, End};
use crate::machine::DiskJob;

impl Disks {
    /// Says what the disks have to do with the log, and whether this replica follows it. To be called before the guest runs.
    pub fn conduct(&mut self, conduct: DiskConduct, follows: bool) {
        self.conduct = conduct;
        self.follows = follows && conduct == DiskConduct::Logged;
    }

    /// Whether a stored log is to be enough to restore the disks.
    pub fn are_logged(&self) -> bool {
        self.conduct == DiskConduct::Logged
    }

    /// Whether this replica changes its disks when records say so.
    pub fn follow_log(&self) -> bool {
        self.follows
    }

    /// Whether what is asked of this disk may change it only when it is committed.
    pub(super) fn is_gated(&self, disk: usize) -> bool {
        !self.follows && (self.are_logged() || self.shared.has(disk))
    }

    /// Whether this replica carries out no such request: another one does, or has done, and records say what came of it.
    pub(super) fn leaves_out(&self, disk: usize, operation: Operation) -> bool {
        self.conduct == DiskConduct::Absent
            || self.shared.leaves_out(disk)
            || (self.follows && operation == Operation::Read)
    }

    /// Keeps what the request that was taken last asks for until a record says that it is done.
    pub(super) fn withhold(&mut self, job: DiskJob) {
        if let Some(outstanding) = self.outstanding.back_mut() {
            outstanding.withheld = Some(job);
        }
    }

    /// A record says that this request is done: it is, as soon as the device has done it.
    pub fn release(&mut self, number: u64) {
        let Some(index) = self.find(number) else { return };
        if let Some(job) = self.outstanding[index].withheld.take() {
            self.schedules[self.outstanding[index].disk].push(job);
        }
    }

    /// Nothing more will be said: what was asked for in epochs up to this one is carried out unasked.
    pub fn release_through(&mut self, epoch: u64) {
        for outstanding in &mut self.outstanding {
            if let Some(job) = outstanding.withheld.take_if(|job| job.epoch <= epoch) {
                self.schedules[outstanding.disk].push(job);
            }
        }
    }

    /// Whether a device has failed to do this request.
    pub fn has_failed(&self, number: u64) -> bool {
        self.find(number).is_some_and(|index| matches!(self.outstanding[index].end, Some(End::Failed)))
    }

    /// The log that was run is at its end, and the guest goes on by itself. What no record said to be done is given up: the
    /// guest hears that it is uncertain.
    pub fn stop_following(&mut self) {
        self.follows = false;
        for index in 0..self.outstanding.len() {
            let outstanding = &mut self.outstanding[index];
            outstanding.parked = !matches!(outstanding.end, Some(End::Rejected(_)));
            if let Some(job) = outstanding.withheld.take() {
                self.put_back(job.buffer);
            }
        }
    }
}
