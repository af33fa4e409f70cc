//! Shared disks: one device, which the active replica uses and the other does not.
//!
//! What a read has read travels in the records, in pieces before its completion, because the other replica cannot read it by
//! itself. Of a replica that takes over nobody knows how far its predecessor came: whatever is outstanding is completed as
//! uncertain, at the start of its first own epoch, and the guest repeats it (rule P7).

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

use hypercall::disk::{COMPLETION_BYTES, Completion, Operation, UNCERTAIN};
use hypercall::record::total_bytes;
use protocol::digest::Digest64;
use protocol::event::{DISK_DATA_FIXED_BYTES, DiskData, Event, MAX_DISK_DATA_BYTES};

use super::{Commit, Disks, End, Outstanding};
use crate::guest::{DeliverError, GuestMemory};

/// Which disks are shared, and what this replica has to do with them.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Bit i: the i-th disk of the table.
    disks: u8,
    /// Another replica carries out what is asked of them.
    by_other: bool,
    /// Reads that the guest was told of, with the epoch of the record and the disk, oldest first.
    told: VecDeque<(u64, usize, u64)>,
}

impl Shared {
    /// Whether this disk is shared.
    pub(super) fn has(&self, disk: usize) -> bool {
        disk < 8 && self.disks >> disk & 1 == 1
    }

    /// Whether requests to this disk are carried out elsewhere.
    pub(super) fn leaves_out(&self, disk: usize) -> bool {
        self.by_other && self.has(disk)
    }

    /// The record of this epoch tells the guest of a read.
    pub(super) fn note_told(&mut self, epoch: u64, disk: usize, number: u64) {
        self.told.push_back((epoch, disk, number));
    }
}

/// How much may be added to the events of an epoch.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Bytes of records that go into the guest's receive ring.
    pub ring_bytes: usize,
    /// Bytes of all records.
    pub bytes: usize,
    /// Bytes of records with what was read.
    pub data_bytes: usize,
    /// What was read goes into the records whatever the disk: they are stored, and will be run again without it.
    pub records_reads: bool,
}

impl Disks {
    /// Says which disks are shared (bit i for the i-th of the table) and whether another replica carries out what is asked
    /// of them. To be called before the guest runs.
    pub fn share(&mut self, disks: u8, by_other: bool) {
        self.shared = Shared { disks, by_other, told: VecDeque::new() };
    }

    /// From now on this replica carries out what is asked of shared disks. What is outstanding there is uncertain; the guest
    /// hears of that at the start of the next epoch.
    pub fn take_over(&mut self) {
        self.shared.by_other = false;
        // What the log did not say to be done is not begun any more: it is uncertain, too.
        self.follows = false;
    }

    fn is_uncertain(&self, outstanding: &Outstanding, everything: bool) -> bool {
        let is_meant = everything || self.shared.has(outstanding.disk);
        outstanding.parked || (is_meant && !matches!(outstanding.end, Some(End::Rejected(_))))
    }

    /// Requests that an uncertain event completes, one of everything outstanding
    /// ([`protocol::event::Uncertain::EVERYTHING`]) or one of what this replica does not have on a disk of its own.
    pub fn uncertain_count(&self, everything: bool) -> usize {
        self.outstanding.iter().filter(|outstanding| self.is_uncertain(outstanding, everything)).count()
    }

    /// Whether requests wait for their epochs to be committed, or for each other.
    pub fn holds_changes(&self) -> bool {
        let waits = |(disk, schedule): (usize, &super::Schedule)| self.is_gated(disk) && schedule.has_waiting();
        self.schedules.iter().enumerate().any(waits)
    }

    /// What was read and told in epochs that are committed will not be repeated.
    pub(super) fn settle(&mut self, committed_through: u64) {
        while let Some((_, disk, number)) = self.shared.told.pop_front_if(|(epoch, ..)| *epoch <= committed_through) {
            self.schedules[disk].settle(number);
        }
    }

    /// Appends completions to the events of an epoch, oldest request first, as many as have room, and before each what the
    /// other replica cannot read by itself. Returns the bytes of the latter, which go to no ring.
    pub fn tell(&mut self, commit: Commit, room: Room, events: &mut Vec<u8>) -> usize {
        let mut data_bytes = 0;
        for outstanding in &mut self.outstanding {
            let is_shared = self.shared.has(outstanding.disk);
            let Some(status) = commit.status(outstanding, is_shared) else { continue };
            let completion_bytes = total_bytes(COMPLETION_BYTES);
            if events.len() - data_bytes + completion_bytes > room.ring_bytes {
                break;
            }
            if (is_shared && commit != Commit::Alone) || room.records_reads {
                let left = room.bytes.saturating_sub(events.len() + completion_bytes);
                let before = events.len();
                let is_whole = outstanding.pass(left.min(room.data_bytes.saturating_sub(data_bytes)), events);
                data_bytes += events.len() - before;
                // Not even a completion that needs no data goes first: what overlaps is told in its order.
                if !is_whole {
                    break;
                }
            }
            if events.len() + completion_bytes > room.bytes {
                break;
            }
            let completion = Completion { number: outstanding.number, status: status as u32, reserved: 0 };
            // Refused only beyond a length that is far above that of a completion.
            let _ = Event::DiskDone(completion).append_to(events);
        }
        data_bytes
    }

    /// Takes a piece of what another replica has read.
    pub(in crate::guest) fn bring(&mut self, data: &DiskData<'_>) -> Result<(), DeliverError> {
        let index = self.find(data.number).ok_or(DeliverError::Malformed)?;
        let outstanding = &self.outstanding[index];
        if !self.leaves_out(outstanding.disk, outstanding.operation) {
            // This replica has read it itself.
            return Ok(());
        }
        let end = outstanding.brought.len() + data.bytes.len();
        let fits = outstanding.operation == Operation::Read && outstanding.end.is_none() && end <= outstanding.bytes;
        if !fits || outstanding.brought.len() != data.offset_bytes as usize {
            return Err(DeliverError::Malformed);
        }
        if outstanding.brought.is_empty() {
            self.outstanding[index].brought = self.buffer(0);
        }
        self.outstanding[index].brought.extend_from_slice(data.bytes);
        Ok(())
    }

    /// Ends a request that another replica has carried out. Returns where in guest memory something was written.
    pub(super) fn complete_brought(
        &mut self,
        outstanding: Outstanding,
        completion: &Completion,
        memory: &GuestMemory,
        digest: Option<&mut Digest64>,
    ) -> Result<Option<Range<usize>>, DeliverError> {
        let place = outstanding.place.filter(|_| completion.status == 0);
        if let Some(place) = place {
            if outstanding.brought.len() != outstanding.bytes {
                return Err(DeliverError::Malformed);
            }
            memory.copy_from(place, &outstanding.brought, digest);
        }
        let written = place.map(|place| place..place + outstanding.brought.len());
        self.put_back(outstanding.brought);
        Ok(written)
    }

    /// An uncertain event: ends everything that is outstanding; or, if it is not about that, what is at shared disks or
    /// parked. Returns the completions, oldest first.
    pub(in crate::guest) fn end_uncertain(&mut self, everything: bool) -> Vec<Completion> {
        let mut completions = Vec::with_capacity(self.uncertain_count(everything));
        let mut index = 0;
        while let Some(outstanding) = self.outstanding.get(index) {
            if !self.is_uncertain(outstanding, everything) {
                index += 1;
                continue;
            }
            let Some(outstanding) = self.take_told(index) else { break };
            completions.push(Completion { number: outstanding.number, status: UNCERTAIN, reserved: 0 });
            self.put_back(outstanding.brought);
            if let Some(job) = outstanding.withheld {
                self.put_back(job.buffer);
            }
        }
        completions
    }
}

impl Outstanding {
    /// Appends what was read and is not in any record, as far as there is room. Returns whether there is no more of it.
    fn pass(&mut self, room_bytes: usize, events: &mut Vec<u8>) -> bool {
        let (Some(End::Done(buffer)), Operation::Read, Some(_)) = (&self.end, self.operation, self.place) else {
            return true;
        };
        let start_bytes = events.len();
        while self.passed_bytes < buffer.len() {
            // Whole words, so that padding does not eat up the room.
            let left = room_bytes.saturating_sub(events.len() - start_bytes) & !7;
            let most = left.saturating_sub(total_bytes(DISK_DATA_FIXED_BYTES)).min(MAX_DISK_DATA_BYTES);
            let end = buffer.len().min(self.passed_bytes + most);
            if end == self.passed_bytes {
                return false;
            }
            let (bytes, offset_bytes) = (&buffer[self.passed_bytes..end], self.passed_bytes as u32);
            // Refused only beyond the length that was just observed.
            let _ = Event::DiskData(DiskData { number: self.number, offset_bytes, bytes }).append_to(events);
            self.passed_bytes = end;
        }
        true
    }
}
