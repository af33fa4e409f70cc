//! What an epoch puts out, held until it may leave.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use hypercall::record::{Header, KIND_FRAME, total_bytes};
use hypercall::ring::RingError;
use protocol::Epoch;

use super::{End, Guest};
use crate::machine::Registers;

/// The outputs of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochOutputs {
    /// The epoch.
    pub epoch: Epoch,
    /// Frames as a stream of records, ready for a batch to the hub.
    pub records: Vec<u8>,
    /// Number of frames.
    pub frame_count: u64,
    /// Number of the first frame, counted from the guest's start.
    pub first_frame: u64,
    /// Console bytes.
    pub console: Vec<u8>,
    /// Offset of the first console byte, counted from the guest's start.
    pub console_offset: u64,
    /// The guest's end.
    pub end: Option<End>,
}

impl EpochOutputs {
    /// Whether there is nothing to release.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty() && self.console.is_empty() && self.end.is_none()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.records.len() + self.console.len()
    }
}

/// What the end of an epoch yields.
#[derive(Debug)]
pub struct EpochEnd {
    /// Digest of hypercalls, outputs and registers.
    pub digest: u64,
    /// Which ring the guest has damaged, and how: it is to be ended for it. All rings are looked at in every epoch, so
    /// that both replicas notice in the same one; a guest whose receive ring cannot be written to would otherwise only
    /// hear nothing any more.
    pub damaged: Option<(&'static str, RingError)>,
}

impl Guest {
    /// Ends an epoch: moves what the guest has put out into `outputs` and returns the epoch's digest.
    pub fn end_epoch(&mut self, epoch: Epoch, registers: &impl Registers, outputs: &mut EpochOutputs) -> EpochEnd {
        outputs.epoch = epoch;
        outputs.first_frame = self.frames_out;
        let transmit = self.collect_frames(&mut outputs.records).err().map(|error| ("transmit", error));
        let disk = self.take_disk_requests(epoch).err().map(|error| ("disk", error));
        let damaged = transmit.or(disk).or_else(|| self.receive.free_bytes().err().map(|error| ("receive", error)));
        outputs.frame_count = self.frames_out - outputs.first_frame;
        outputs.console_offset = self.console_offset;
        self.console_offset += self.console.len() as u64;
        core::mem::swap(&mut outputs.console, &mut self.console);
        outputs.end.clone_from(&self.end);
        if !self.digests {
            return EpochEnd { digest: 0, damaged };
        }
        self.digest.write_bytes(&outputs.records);
        self.digest.write_bytes(&outputs.console);
        registers.digest(&mut self.digest);
        self.ticks.digest(&self.memory, &mut self.digest);
        EpochEnd { digest: self.digest.finish(), damaged }
    }

    /// Takes the requests of the disk ring. They count as outputs for the digest, but wait for nobody: what a replica
    /// writes to its own mirror is seen by nobody else before it is active, and then it has the same past. (Shared disks have
    /// a rule of their own: [`Disks::serve`](super::Disks::serve).)
    fn take_disk_requests(&mut self, epoch: Epoch) -> Result<(), RingError> {
        let (memory, writable) = (&self.memory, &self.writable);
        let reach = |address, bytes| super::writable_offset(memory, writable, address, bytes);
        let before = self.disks.saved();
        let taken = self.disks.take_requests(epoch, memory, &reach, self.digests.then_some(&mut self.digest));
        if self.disks.saved() != before {
            // Our position, in the ring's header.
            self.note_written(self.rings[2], hypercall::ring::DATA_OFFSET);
        }
        taken
    }

    /// Moves the frames of the transmit ring to `records`. Records of other kinds, and frames longer than any, are
    /// passed over: the guest alone is the worse for it.
    fn collect_frames(&mut self, records: &mut Vec<u8>) -> Result<(), RingError> {
        let mut count = 0;
        while self
            .transmit
            .pop_with(|record| {
                if record.kind == KIND_FRAME && record.payload.len() <= hypercall::layout::MAX_FRAME_BYTES {
                    append_frame(records, record.payload);
                    count += 1;
                }
            })?
            .is_some()
        {}
        if count > 0 {
            // Our position, in the ring's header.
            self.note_written(self.rings[1], hypercall::ring::DATA_OFFSET);
        }
        self.frames_out += count;
        Ok(())
    }
}

fn append_frame(records: &mut Vec<u8>, frame: &[u8]) {
    let end = records.len() + total_bytes(frame.len());
    records.extend_from_slice(&Header::new(KIND_FRAME, frame.len() as u32).encode());
    records.extend_from_slice(frame);
    records.resize(end, 0);
}

/// Outputs in the order of their epochs, from the oldest that may still be needed.
#[derive(Debug, Default)]
pub struct OutputLog {
    /// With the times at which their epochs ended, in nanoseconds of the machine's clock.
    held: VecDeque<(u64, EpochOutputs)>,
    pool: Vec<EpochOutputs>,
    bytes: usize,
    discarded_through: Epoch,
}

/// How many empty outputs are kept for reuse.
const POOL: usize = 64;
/// A buffer that grew beyond this is not kept.
const POOL_BUFFER_BYTES: usize = 32 * 1024;

impl OutputLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Empty outputs to be filled, with the capacity of some used before.
    pub fn take_empty(&mut self) -> EpochOutputs {
        self.pool.pop().unwrap_or_default()
    }

    /// Adds the outputs of the next epoch, which ended at `ended_ns`. Those of an epoch already discarded, and empty ones, are not
    /// kept.
    pub fn push(&mut self, outputs: EpochOutputs, ended_ns: u64) {
        if outputs.is_empty() || outputs.epoch <= self.discarded_through {
            self.recycle(outputs);
        } else {
            self.bytes += outputs.bytes();
            self.held.push_back((ended_ns, outputs));
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The oldest outputs, if their epoch is at most `through`.
    pub fn oldest(&self, through: Epoch) -> Option<&EpochOutputs> {
        self.held.front().map(|(_, outputs)| outputs).filter(|outputs| outputs.epoch <= through)
    }

    /// Drops the oldest outputs; returns when their epoch ended.
    pub fn drop_oldest(&mut self) -> Option<u64> {
        let (ended_ns, outputs) = self.held.pop_front()?;
        self.bytes -= outputs.bytes();
        self.recycle(outputs);
        Some(ended_ns)
    }

    /// Drops the outputs of all epochs up to `through`, those to come included.
    pub fn discard(&mut self, through: Epoch) {
        self.discarded_through = self.discarded_through.max(through);
        while self.oldest(through).is_some() {
            self.drop_oldest();
        }
    }

    fn recycle(&mut self, mut outputs: EpochOutputs) {
        if self.pool.len() < POOL && outputs.records.capacity() <= POOL_BUFFER_BYTES {
            outputs.records.clear();
            outputs.console.clear();
            outputs.end = None;
            self.pool.push(outputs);
        }
    }
}
