//! The guest: its memory, its rings, its hypercalls, and the part of its state that the shim keeps for it.
//!
//! Everything here is a function of guest memory, guest registers and this state, so that two replicas that start
//! alike and see the same events stay alike. Nothing that a guest hands over is trusted.

mod calls;
mod disks;
mod guards;
mod image;
mod load;
mod memory;
mod outputs;
mod pages;
mod preempt;
mod report;
mod schedule;
mod state;
mod ticks;
mod touched;

#[cfg(test)]
mod tests;

pub use disks::{Commit, Disks, Failure, Room};
pub use image::{Image, ImageError, PAYLOAD_HEADER_BYTES};
pub use load::{GuestConfig, LoadError, Mapping, Rights, Start, load};
pub use memory::GuestMemory;
pub use outputs::{EpochEnd, EpochOutputs, OutputLog};
pub use pages::PageSet;
pub use report::{Cause, write_report};
pub use state::{Surroundings, install_pages};
pub use touched::{Touched, page_content};

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use hypercall::disk::Completion;
use hypercall::layout::SharedPage;
use hypercall::record::{KIND_CONSOLE_INPUT, KIND_DISK_DATA, KIND_DISK_DONE, KIND_FRAME, KIND_RESEED, KIND_UNCERTAIN};
use hypercall::ring::{Consumer, Producer, RingError};
use protocol::Clocks;
use protocol::digest::Digest64;
use protocol::event::{DiskData, RecordReader, Uncertain};
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::SeedableRng;

/// Seed of every epoch digest; any fixed value would do.
const DIGEST_SEED: u64 = 0x706f_6c6c_7578_0001;

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndKind {
    /// It called exit.
    Exit,
    /// It reported a panic.
    Panic,
    /// It did what it may not.
    Fault,
}

/// A guest's end, the same in both replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// How.
    pub kind: EndKind,
    /// The exit code; 101 for a panic, 139 for a fault.
    pub code: u32,
    /// What the guest or the shim has to say about it.
    pub report: String,
}

/// Events that cannot be delivered: the guest has damaged its ring, or the log is not one of this guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliverError {
    /// The guest's receive ring is damaged.
    Ring(RingError),
    /// The guest's receive ring has no room for what the record holds.
    Full,
    /// The record holds something that is no event.
    Malformed,
    /// The record says that a disk request is done, and here it is not.
    Unfinished {
        /// Which.
        number: u64,
    },
}

impl fmt::Display for DeliverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(error) => write!(f, "receive ring: {error}"),
            Self::Full => f.write_str("the receive ring has no room for the events of the record"),
            Self::Malformed => f.write_str("the record holds something that is no event"),
            Self::Unfinished { number } => {
                write!(f, "disk request {number} is done as the record says, but not by this replica's disk")
            }
        }
    }
}

/// A loaded guest and the shim's state for it.
pub struct Guest {
    memory: GuestMemory,
    shared_page: usize,
    /// Where the rings lie: receive, transmit, requests to disks.
    rings: [usize; 3],
    /// Pages that the shim has written to, while that is noted.
    written: Option<PageSet>,
    /// Where ring 3 may write: the shim writes for it nowhere else.
    writable: Vec<Mapping>,
    receive: Producer,
    transmit: Consumer,
    disks: Disks,
    /// The guest has agreed on the ABI.
    greeted: bool,
    preemption: preempt::Preempting,
    guards: guards::Guards,
    ticks: ticks::Ticks,
    generator: ChaCha12Rng,
    clocks: Clocks,
    /// Time stamps handed out in this epoch.
    time_stamps: u64,
    digest: Digest64,
    /// Bare mode compares nothing and must not pay for it.
    digests: bool,
    hypercalls: u64,
    /// Console bytes of this epoch.
    console: Vec<u8>,
    /// Console bytes of all epochs before.
    console_offset: u64,
    /// Frames that the guest has received in all.
    frames_in: u64,
    /// Frames that the guest has sent in all.
    frames_out: u64,
    end: Option<End>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("frames_in", &self.frames_in)
            .field("frames_out", &self.frames_out)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl Guest {
    /// A guest that [`load`] has just put into memory. `seed` is the start of its random numbers; it never reaches a
    /// log.
    ///
    /// # Safety
    /// `start` is what [`load`] returned for this memory.
    pub unsafe fn new(memory: GuestMemory, start: &Start, seed: [u8; 32]) -> Self {
        let ring = |offset: usize| memory.pointer(offset);
        // SAFETY: the loader placed the rings inside guest memory, 8-aligned and disjoint from everything else; the
        // guest touches them only while the shim does not run.
        let (receive, transmit, requests) = unsafe {
            (
                Producer::new(ring(start.receive_ring), hypercall::layout::RING_BYTES, 0),
                Consumer::new(ring(start.transmit_ring), hypercall::layout::RING_BYTES, 0),
                Consumer::new(ring(start.disk_ring), hypercall::layout::DISK_RING_BYTES, 0),
            )
        };
        Self {
            memory,
            shared_page: start.shared_page,
            rings: [start.receive_ring, start.transmit_ring, start.disk_ring],
            written: None,
            writable: start.mappings.iter().copied().filter(|mapping| mapping.rights == Rights::WRITE).collect(),
            receive,
            transmit,
            disks: Disks::new(start.disks.clone(), requests),
            greeted: false,
            preemption: preempt::Preempting::default(),
            guards: guards::Guards::default(),
            ticks: ticks::Ticks::of(start),
            generator: ChaCha12Rng::from_seed(seed),
            clocks: Clocks::default(),
            time_stamps: 0,
            digest: Digest64::new(DIGEST_SEED),
            digests: true,
            hypercalls: 0,
            console: Vec::new(),
            console_offset: 0,
            frames_in: 0,
            frames_out: 0,
            end: None,
        }
    }

    /// Makes no digests from now on: they are zero.
    pub fn without_digests(&mut self) {
        self.digests = false;
    }

    /// Starts an epoch: sets the clocks and delivers the events of its record.
    pub fn begin_epoch(&mut self, epoch: u64, clocks: Clocks, events: &[u8]) -> Result<(), DeliverError> {
        self.clocks = clocks;
        self.time_stamps = 0;
        self.digest = Digest64::new(DIGEST_SEED ^ epoch);
        let page = SharedPage {
            epoch,
            monotonic_ns: clocks.monotonic_ns,
            realtime_ns: clocks.realtime_ns,
            ..SharedPage::new()
        };
        self.memory.write_struct(self.shared_page, &page);
        self.note_written(self.shared_page, size_of::<SharedPage>());
        self.ticks.wind(&self.memory);
        if let Some(counter) = self.ticks.place() {
            self.note_written(counter, size_of::<i64>());
        }
        let before = self.receive.position();
        let delivered = self.deliver(epoch, events);
        self.note_received(before);
        delivered
    }

    fn deliver(&mut self, epoch: u64, events: &[u8]) -> Result<(), DeliverError> {
        for record in RecordReader::new(events) {
            let record = record.map_err(|_| DeliverError::Malformed)?;
            match record.kind {
                KIND_FRAME | KIND_CONSOLE_INPUT => {
                    if record.payload.len() > hypercall::record::MAX_PAYLOAD_BYTES {
                        return Err(DeliverError::Malformed);
                    }
                    if !self.receive.push(record.kind, record.payload).map_err(DeliverError::Ring)? {
                        return Err(DeliverError::Full);
                    }
                    self.frames_in += u64::from(record.kind == KIND_FRAME);
                }
                KIND_DISK_DONE => self.deliver_completion(epoch, record.payload)?,
                KIND_DISK_DATA => {
                    let data = DiskData::decode(record.payload).ok_or(DeliverError::Malformed)?;
                    self.disks.bring(&data)?;
                }
                KIND_RESEED => {
                    let seed = record.payload.try_into().map_err(|_| DeliverError::Malformed)?;
                    self.generator = ChaCha12Rng::from_seed(seed);
                }
                // Frames that were outstanding are TCP's business; of disks the guest is told.
                KIND_UNCERTAIN => {
                    let uncertain = Uncertain::decode(record.payload).ok_or(DeliverError::Malformed)?;
                    for completion in self.disks.end_uncertain(uncertain.operation == Uncertain::EVERYTHING) {
                        self.push_completion(&completion.encode())?;
                    }
                }
                _ => return Err(DeliverError::Malformed),
            }
        }
        Ok(())
    }

    fn deliver_completion(&mut self, epoch: u64, payload: &[u8]) -> Result<(), DeliverError> {
        let completion = Completion::decode(payload).ok_or(DeliverError::Malformed)?;
        let digest = self.digests.then_some(&mut self.digest);
        if let Some(written) = self.disks.complete(epoch, &completion, &self.memory, digest)? {
            self.note_written(written.start, written.len());
        }
        self.push_completion(payload)
    }

    fn push_completion(&mut self, payload: &[u8]) -> Result<(), DeliverError> {
        let pushed = self.receive.push(KIND_DISK_DONE, payload).map_err(DeliverError::Ring)?;
        if pushed { Ok(()) } else { Err(DeliverError::Full) }
    }

    /// The guest's disks.
    pub fn disks(&self) -> &Disks {
        &self.disks
    }

    /// The guest's disks, to have their requests carried out.
    pub fn disks_mut(&mut self) -> &mut Disks {
        &mut self.disks
    }

    /// Bytes of event records that the receive ring can take now, wherever its free space begins.
    pub fn receive_room_bytes(&self) -> Result<usize, RingError> {
        let free = self.receive.free_bytes()? as usize;
        // A record that does not fit before the end of the ring costs a skip of at most its own size.
        Ok(free.saturating_sub(hypercall::record::total_bytes(hypercall::layout::MAX_FRAME_BYTES)))
    }

    /// The value of a trapped time stamp read: the epoch's clock, strictly increasing, the same in both replicas.
    pub fn time_stamp(&mut self) -> u64 {
        self.time_stamps += 1;
        let value = self.clocks.monotonic_ns + self.time_stamps;
        self.digest.write_u64(value);
        value
    }

    /// Frames that the guest has received in all: the number of the next one.
    pub fn frames_in(&self) -> u64 {
        self.frames_in
    }

    /// Frames that the guest has sent in all.
    pub fn frames_out(&self) -> u64 {
        self.frames_out
    }

    /// Hypercalls that the guest has made.
    pub fn hypercalls(&self) -> u64 {
        self.hypercalls
    }

    /// How the guest ended, if it has.
    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Whether the guest itself may write to this range.
    fn may_write(&self, address: u64, bytes: u64) -> bool {
        writable_offset(&self.memory, &self.writable, address, bytes).is_some()
    }

    /// The guest's memory, for reports.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Ends the guest, unless it has ended already.
    pub fn set_end(&mut self, kind: EndKind, code: u32, report: String) {
        if self.end.is_none() {
            self.digest.write_bytes(report.as_bytes());
            self.end = Some(End { kind, code, report });
        }
    }
}

/// The offset of a range of guest addresses, if it lies in one of these mappings.
fn writable_offset(memory: &GuestMemory, writable: &[Mapping], address: u64, bytes: u64) -> Option<usize> {
    let offset = memory.offset_of(address, bytes)?;
    let (start, end) = (offset as u64, offset as u64 + bytes);
    let inside = writable.iter().any(|mapping| mapping.offset <= start && end <= mapping.offset + mapping.bytes);
    inside.then_some(offset)
}
