//! The guest's disks: requests taken from its ring, carried out, and completed by the events of a record.
//!
//! What a guest can see of it, the numbers of requests and which of them are outstanding, is a function of its ring and of
//! the records. When a device has finished something is not: that becomes visible only by an event.
//!
//! A *mirrored* disk is carried out by each replica on its own. A *shared* one is carried out by the active replica alone; at
//! the other a request is outstanding until the record says how it ended, with what it has read ([`shared`]).
//!
//! While the guest is copied to another machine nothing new is begun for a moment ([`copied`]). Where a stored log is to be
//! enough to restore the disks, both kinds obey the log ([`logged`]).
//!
//! Copies: what a write writes is copied once, from guest memory to the buffer that the device reads, when the request is
//! taken; what a read reads is copied once, from the device's buffer to guest memory, when its completion is delivered.
//! Neither can be left out: the guest may change its memory after the one, and must not see when the device wrote to it
//! before the other.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::ops::Range;

use hypercall::disk::{
    BLOCK_BYTES, Completion, DiskInfo, MAX_OUTSTANDING, MAX_PLAIN_BLOCKS, MAX_TRANSFER_BYTES, Operation, Request,
};
use hypercall::errno::{EFAULT, EINVAL, EIO, ENOENT, ENXIO};
use hypercall::record::KIND_DISK_REQUEST;
use hypercall::ring::{Consumer, RingError};
use protocol::DiskConduct;
use protocol::digest::Digest64;
use protocol::resync::Changes;

use super::schedule::Schedule;
use super::{DeliverError, GuestMemory};
use crate::machine::{Disk, DiskJob};
pub use shared::Room;
use shared::Shared;

/// How a request ended here.
#[derive(Debug)]
enum End {
    /// It makes no sense, with an error number; the same at both replicas.
    Rejected(i64),
    /// The device has done it. The buffer holds what a read has read.
    Done(Vec<u8>),
    /// The device has failed to do it.
    Failed,
}

/// A request that was taken and not completed.
#[derive(Debug)]
struct Outstanding {
    number: u64,
    operation: Operation,
    disk: usize,
    first_block: u64,
    /// Where in guest memory a read's data goes, if it is still wanted.
    place: Option<usize>,
    /// Bytes of data.
    bytes: usize,
    end: Option<End>,
    /// How much of what was read is in records that this replica made.
    passed_bytes: usize,
    /// What records have brought of what another replica has read.
    brought: Vec<u8>,
    /// It was never begun and will not be: the guest hears that it is uncertain and asks again.
    parked: bool,
    /// What the disk of a replica that follows the log is to do when a record says that it is done.
    withheld: Option<DiskJob>,
}

/// What must have happened elsewhere before a guest may be told of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Nothing: there is no other replica.
    Alone,
    /// On mirrored disks a flush is complete when the other replica's disks have done it too, and a failure here is not the
    /// guest's business. What shared disks have read goes to the other replica.
    Paired {
        /// All requests with numbers below this are done there.
        done_below: u64,
    },
}

impl Commit {
    /// The status that the guest is told, if it may be told.
    fn status(self, outstanding: &Outstanding, is_shared: bool) -> Option<i64> {
        let end = outstanding.end.as_ref()?;
        match (end, self) {
            (End::Rejected(error), _) => Some(*error),
            (End::Failed, _) if is_shared => Some(EIO),
            (End::Done(_), _) if is_shared => Some(0),
            (End::Failed, Self::Paired { .. }) => None,
            (End::Failed, Self::Alone) => Some(EIO),
            (End::Done(_), Self::Paired { done_below }) if outstanding.operation == Operation::Flush => {
                (outstanding.number < done_below).then_some(0)
            }
            (End::Done(_), _) => Some(0),
        }
    }
}

/// A request that a device has failed to carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure<'a> {
    /// The disk's name.
    pub disk: &'a str,
    /// The request's number.
    pub number: u64,
    /// What it asked for.
    pub operation: Operation,
    /// From which block on.
    pub first_block: u64,
}

/// The disks of a guest.
#[derive(Debug)]
pub struct Disks {
    table: Vec<DiskInfo>,
    ring: Consumer,
    next_number: u64,
    /// By ascending number.
    outstanding: VecDeque<Outstanding>,
    /// One for each disk.
    schedules: Vec<Schedule>,
    shared: Shared,
    /// Flushes of mirrored disks that [`Disks::passes_flush`] has not passed, by ascending number.
    flushes: VecDeque<u64>,
    /// Buffers for reuse, each with room for the longest transfer: at most as many as there may be requests.
    pool: Vec<Vec<u8>>,
    /// Nothing more is begun.
    held: bool,
    /// What was changed on mirrored disks, while that is noted: one for each disk.
    changes: Option<Vec<Changes>>,
    /// What the disks have to do with the log.
    conduct: DiskConduct,
    /// What is asked for is carried out when a record says that it is done; what was read comes from the record.
    follows: bool,
}

/// Whether the guest may write to a range of its addresses, and at which offset that range lies.
pub(super) type Writable<'a> = &'a dyn Fn(u64, u64) -> Option<usize>;

impl Disks {
    /// The disks of a guest that has yet to start.
    pub(super) fn new(table: Vec<DiskInfo>, ring: Consumer) -> Self {
        let schedules = table.iter().map(|_| Schedule::default()).collect();
        Self {
            table,
            ring,
            next_number: 0,
            outstanding: VecDeque::new(),
            schedules,
            shared: Shared::default(),
            flushes: VecDeque::new(),
            pool: Vec::new(),
            held: false,
            changes: None,
            conduct: DiskConduct::Own,
            follows: false,
        }
    }

    /// Takes what the guest has asked for in an epoch, in its order, as long as there may be more requests. Each is added to
    /// the digest, with all that it writes.
    pub(super) fn take_requests(
        &mut self,
        epoch: u64,
        memory: &GuestMemory,
        writable: Writable<'_>,
        mut digest: Option<&mut Digest64>,
    ) -> Result<(), RingError> {
        if self.table.is_empty() && self.ring.is_empty() {
            return Ok(());
        }
        while self.outstanding.len() < MAX_OUTSTANDING {
            let request = self.ring.pop_with(|record| {
                let request = Request::decode(record.payload).filter(|_| record.kind == KIND_DISK_REQUEST);
                if let Some(digest) = digest.as_deref_mut() {
                    digest.write_bytes(record.payload);
                }
                request
            })?;
            let Some(request) = request else { break };
            let number = self.next_number;
            self.next_number += 1;
            match request.and_then(|request| Some((request, Operation::from_code(request.operation)?))) {
                Some((request, Operation::Forget)) => self.forget(request.first_block),
                Some((request, operation)) => {
                    let digest = digest.as_deref_mut();
                    let taken = self.take((epoch, number), &request, operation, memory, writable, digest);
                    if let Err(error) = taken {
                        self.note(number, operation, &request, Some(End::Rejected(error)));
                    }
                }
                None => self.note(number, Operation::Flush, &NOTHING, Some(End::Rejected(EINVAL))),
            }
        }
        Ok(())
    }

    fn note(&mut self, number: u64, operation: Operation, request: &Request, end: Option<End>) {
        self.outstanding.push_back(Outstanding {
            number,
            operation,
            disk: request.disk as usize,
            first_block: request.first_block,
            place: None,
            bytes: 0,
            end,
            passed_bytes: 0,
            brought: Vec::new(),
            parked: false,
            withheld: None,
        });
    }

    fn forget(&mut self, number: u64) {
        if let Some(outstanding) = self.find(number).and_then(|index| self.outstanding.get_mut(index)) {
            outstanding.place = None;
        }
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.outstanding.binary_search_by_key(&number, |outstanding| outstanding.number).ok()
    }

    fn take(
        &mut self,
        (epoch, number): (u64, u64),
        request: &Request,
        operation: Operation,
        memory: &GuestMemory,
        writable: Writable<'_>,
        digest: Option<&mut Digest64>,
    ) -> Result<(), i64> {
        let bytes = self.check(request, operation)?;
        let mut buffer = if bytes == 0 { Vec::new() } else { self.buffer(bytes) };
        let mut place = None;
        let reachable = match operation {
            Operation::Read => {
                place = writable(request.address, bytes as u64);
                place.is_some()
            }
            Operation::Write => memory.copy_to(request.address, &mut buffer, digest),
            _ => true,
        };
        if !reachable {
            self.put_back(buffer);
            return Err(EFAULT);
        }
        let disk = request.disk as usize;
        self.note(number, operation, request, None);
        if let Some(outstanding) = self.outstanding.back_mut() {
            (outstanding.place, outstanding.bytes) = (place, bytes);
        }
        if self.leaves_out(disk, operation) {
            self.put_back(buffer);
            return Ok(());
        }
        let (first_block, blocks) = (request.first_block, request.blocks);
        let job = DiskJob { number, epoch, operation, first_block, blocks, buffer };
        if self.follows {
            self.withhold(job);
            return Ok(());
        }
        if operation == Operation::Flush && !self.shared.has(disk) {
            self.flushes.push_back(number);
        }
        self.schedules[disk].push(job);
        Ok(())
    }

    /// The bytes of data that go with a request, or what is wrong with it.
    fn check(&self, request: &Request, operation: Operation) -> Result<usize, i64> {
        let disk = self.table.get(request.disk as usize).ok_or(ENOENT)?;
        if operation == Operation::Flush {
            return Ok(0);
        }
        let end = request.first_block.checked_add(request.blocks).ok_or(ENXIO)?;
        if end > disk.blocks {
            return Err(ENXIO);
        }
        let has_data = matches!(operation, Operation::Read | Operation::Write);
        let limit = if has_data { (MAX_TRANSFER_BYTES / BLOCK_BYTES) as u64 } else { MAX_PLAIN_BLOCKS };
        if request.blocks == 0 || request.blocks > limit {
            return Err(EINVAL);
        }
        Ok(if has_data { request.blocks as usize * BLOCK_BYTES } else { 0 })
    }

    /// A buffer of this length. What is in it is of no meaning: guest or device write to all of it, or nobody reads it.
    fn buffer(&mut self, bytes: usize) -> Vec<u8> {
        let mut buffer = self.pool.pop().unwrap_or_else(|| Vec::with_capacity(MAX_TRANSFER_BYTES));
        buffer.resize(bytes, 0);
        buffer
    }

    fn put_back(&mut self, buffer: Vec<u8>) {
        if buffer.capacity() >= MAX_TRANSFER_BYTES {
            self.pool.push(buffer);
        }
    }

    /// Lets the devices, in the order of the table, do what they may do, and takes what they have done. Disks that are shared
    /// or logged are changed only for epochs up to `committed_through`.
    pub fn serve(&mut self, devices: &mut [impl Disk], committed_through: u64) {
        self.settle(committed_through);
        for (disk, device) in devices.iter_mut().enumerate().take(self.table.len()) {
            if self.schedules[disk].is_idle() {
                continue;
            }
            while let Some((job, done)) = device.take_done() {
                // Also one that has failed may have changed something.
                self.note_change(disk, &job);
                match (self.is_gated(disk), done) {
                    (true, true) => self.schedules[disk].finish_unsettled(job.number),
                    // The guest of a pair is not told of a mirror's failure.
                    (_, false) if !self.shared.has(disk) => self.schedules[disk].fail(job.number),
                    _ => self.schedules[disk].finish(job.number),
                }
                self.note_end(job, done);
            }
            let bound = if self.is_gated(disk) { committed_through } else { u64::MAX };
            if !self.held {
                self.schedules[disk].start(device, bound);
            }
        }
    }

    fn note_end(&mut self, job: DiskJob, done: bool) {
        let end = match (done, job.operation) {
            (true, Operation::Read) => End::Done(job.buffer),
            (done, _) => {
                self.put_back(job.buffer);
                if done { End::Done(Vec::new()) } else { End::Failed }
            }
        };
        if let Some(outstanding) = self.find(job.number).and_then(|index| self.outstanding.get_mut(index)) {
            outstanding.end = Some(end);
        }
    }

    /// Whether this request, if it is outstanding, has ended here: done, failed or rejected. What another replica carries
    /// out is not waited for.
    pub fn has_ended(&self, number: u64) -> bool {
        let ended = |outstanding: &Outstanding| {
            outstanding.end.is_some() || self.leaves_out(outstanding.disk, outstanding.operation)
        };
        self.find(number).is_none_or(|index| ended(&self.outstanding[index]))
    }

    /// The name of the disk that an outstanding request is for; empty when there is no such request.
    pub fn name_of(&self, number: u64) -> &str {
        let disk = self.find(number).and_then(|index| self.table.get(self.outstanding[index].disk));
        disk.map_or("", DiskInfo::name)
    }

    /// The oldest request that a disk of this replica was given, or will be, and has not ended.
    pub fn oldest_under_way(&self) -> Option<u64> {
        let is_under_way = |outstanding: &&Outstanding| {
            let is_ours = !self.leaves_out(outstanding.disk, outstanding.operation) && outstanding.withheld.is_none();
            outstanding.end.is_none() && is_ours
        };
        self.outstanding.iter().find(is_under_way).map(|outstanding| outstanding.number)
    }

    /// Whether an outstanding request is for a shared disk.
    pub fn is_shared(&self, number: u64) -> bool {
        self.find(number).is_some_and(|index| self.shared.has(self.outstanding[index].disk))
    }

    /// All requests to mirrored disks with numbers below this are done here, those included that make no sense.
    pub fn done_below(&self) -> u64 {
        let not_done = |outstanding: &&Outstanding| {
            let waits = matches!(outstanding.end, None | Some(End::Failed)) && !outstanding.parked;
            waits && !self.shared.has(outstanding.disk) && !self.leaves_out(outstanding.disk, outstanding.operation)
        };
        self.outstanding.iter().find(not_done).map_or(self.next_number, |outstanding| outstanding.number)
    }

    /// How many requests were taken in all.
    pub fn taken(&self) -> u64 {
        self.next_number
    }

    /// Whether a flush has a number below this and had none at the last call: somebody may wait for it.
    pub fn passes_flush(&mut self, done_below: u64) -> bool {
        let passed = self.flushes.partition_point(|&number| number < done_below);
        self.flushes.drain(..passed);
        passed > 0
    }

    /// Whether every device is idle, and nothing waits for those of mirrored disks. (What waits for a shared disk was not
    /// begun, and nobody was told that it was.)
    pub fn are_idle(&self) -> bool {
        let is_idle = |(disk, schedule): (usize, &Schedule)| {
            if self.shared.has(disk) { schedule.is_device_idle() } else { schedule.is_idle() }
        };
        self.schedules.iter().enumerate().all(is_idle)
    }

    /// Whether there are no disks.
    pub fn are_none(&self) -> bool {
        self.table.is_empty()
    }

    /// The first request that a mirrored disk has failed to carry out and that is not completed.
    pub fn failure(&self) -> Option<Failure<'_>> {
        let failed = |outstanding: &&Outstanding| {
            matches!(outstanding.end, Some(End::Failed)) && !self.shared.has(outstanding.disk)
        };
        self.outstanding.iter().find(failed).map(|outstanding| Failure {
            disk: self.table.get(outstanding.disk).map_or("", DiskInfo::name),
            number: outstanding.number,
            operation: outstanding.operation,
            first_block: outstanding.first_block,
        })
    }

    /// Completions that the guest may be told of now, oldest request first.
    pub fn completions(&self, commit: Commit) -> impl Iterator<Item = Completion> + '_ {
        self.outstanding.iter().filter_map(move |outstanding| {
            let status = commit.status(outstanding, self.shared.has(outstanding.disk))? as u32;
            Some(Completion { number: outstanding.number, status, reserved: 0 })
        })
    }

    /// Takes a request out of those that are outstanding: the guest hears how it has ended, and nothing waits for that any more.
    fn take_told(&mut self, index: usize) -> Option<Outstanding> {
        let outstanding = self.outstanding.remove(index)?;
        // One that was rejected may have named a disk that does not exist.
        if let Some(schedule) = self.schedules.get_mut(outstanding.disk) {
            schedule.tell(outstanding.number);
        }
        Some(outstanding)
    }

    /// Ends a request as the record of an epoch says: what a read has read goes to guest memory now. Returns where, if it does.
    pub(super) fn complete(
        &mut self,
        epoch: u64,
        completion: &Completion,
        memory: &GuestMemory,
        digest: Option<&mut Digest64>,
    ) -> Result<Option<Range<usize>>, DeliverError> {
        let index = self.find(completion.number).ok_or(DeliverError::Malformed)?;
        let outstanding = self.take_told(index).ok_or(DeliverError::Malformed)?;
        if self.leaves_out(outstanding.disk, outstanding.operation) && outstanding.end.is_none() {
            return self.complete_brought(outstanding, completion, memory, digest);
        }
        if self.is_gated(outstanding.disk) && outstanding.operation == Operation::Read {
            self.shared.note_told(epoch, outstanding.disk, outstanding.number);
        }
        match outstanding.end {
            Some(End::Done(buffer)) => {
                let place = outstanding.place.filter(|_| completion.status == 0);
                if let Some(place) = place {
                    // By the digest mirrors that differ are found out, before anything leaves that hangs on it.
                    memory.copy_from(place, &buffer, digest);
                }
                let written = place.map(|place| place..place + buffer.len());
                self.put_back(buffer);
                Ok(written)
            }
            Some(End::Rejected(_) | End::Failed) if completion.status != 0 => Ok(None),
            // It succeeded elsewhere and not here, or it runs still: whoever asked for this did not wait.
            Some(End::Rejected(_) | End::Failed) | None => Err(DeliverError::Unfinished { number: completion.number }),
        }
    }
}

/// In place of a request that cannot be read.
const NOTHING: Request = Request { operation: 0, disk: u32::MAX, first_block: 0, blocks: 0, address: 0 };

mod copied;
mod logged;
mod shared;
#[cfg(test)]
mod tests;
