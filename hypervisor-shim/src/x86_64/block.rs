//! Virtio block devices (virtio 1.1, section 5.2). Nothing that a device writes is trusted.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use bitflags::bitflags;
use hypercall::disk::{MAX_NAME_BYTES, MAX_PLAIN_BLOCKS, Operation};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{SomeTransport, Transport};

use super::discover::Found;
use super::virtio::{Acknowledge, DeviceError, ShimHal};
use crate::machine::{Disk, DiskJob};

/// Descriptors of the queue. A job takes three, so 21 are at the device at a time.
const QUEUE_SIZE: usize = 64;
/// The only queue.
const QUEUE: u16 = 0;
/// A device that has not said its name after this time is not used.
const NAME_NS: u64 = 2_000_000_000;

bitflags! {
    /// Features that the shim asks of a block device; it uses none without all of them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Features: u64 {
        const FLUSH = 1 << 9;
        const WRITE_ZEROES = 1 << 14;
        const VERSION_1 = 1 << 32;
    }
}

/// Offset of `capacity`, in blocks.
const CONFIG_CAPACITY: usize = 0;
/// Offset of `max_write_zeroes_sectors`.
const CONFIG_MAX_WRITE_ZEROES: usize = 48;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_WRITE_ZEROES: u32 = 13;
/// The room of the blocks may be given back.
const UNMAP: u32 = 1;
const STATUS_OK: u8 = 0;
/// What a status byte holds until the device has written to it: none of its values.
const STATUS_NONE: u8 = 0xff;

/// What precedes and follows a job's data, at an address that stays.
#[derive(Debug)]
struct Frame {
    /// Type, reserved, sector; for writes of zeros also sector, number of sectors, flags.
    head: [u8; 32],
    status: [u8; 1],
}

impl Frame {
    /// The bytes of the head that the device gets.
    fn prepare(&mut self, job: &DiskJob) -> usize {
        let kind = match job.operation {
            Operation::Read => TYPE_IN,
            Operation::Write => TYPE_OUT,
            Operation::WriteZeroes | Operation::Discard => TYPE_WRITE_ZEROES,
            Operation::Flush | Operation::Forget => TYPE_FLUSH,
        };
        let has_range = kind == TYPE_WRITE_ZEROES;
        let sector = if matches!(kind, TYPE_IN | TYPE_OUT) { job.first_block } else { 0 };
        self.head[..4].copy_from_slice(&kind.to_le_bytes());
        self.head[4..8].fill(0);
        self.head[8..16].copy_from_slice(&sector.to_le_bytes());
        self.head[16..24].copy_from_slice(&job.first_block.to_le_bytes());
        self.head[24..28].copy_from_slice(&(job.blocks as u32).to_le_bytes());
        // Discarded blocks must read as zeros, so they are written as zeros whose room may be given back.
        let flags = if job.operation == Operation::Discard { UNMAP } else { 0 };
        self.head[28..].copy_from_slice(&flags.to_le_bytes());
        self.status = [STATUS_NONE];
        if has_range { 32 } else { 16 }
    }
}

/// A job at the device.
#[derive(Debug)]
struct Slot {
    job: DiskJob,
    frame: Box<Frame>,
    head_bytes: usize,
}

/// A virtio block device.
pub struct Block {
    transport: SomeTransport<'static>,
    queue: VirtQueue<ShimHal, QUEUE_SIZE>,
    name: String,
    blocks: u64,
    /// By token: the job at the device.
    slots: [Option<Slot>; QUEUE_SIZE],
    #[expect(clippy::vec_box, reason = "the device knows their addresses")]
    frames: Vec<Box<Frame>>,
    /// The device has named a job that it does not have. It gets no more, and what it had has failed.
    mad: bool,
    /// Jobs that a mad device will not do.
    given_up: Vec<DiskJob>,
    /// Jobs were added since the last kick.
    added: bool,
    /// See [`super::virtio::QueuePair::new`].
    barriers: bool,
    vector: u8,
    acknowledge: Acknowledge,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("name", &self.name).field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

impl Block {
    /// Sets the device up and asks for its name, for at most [`NAME_NS`] by `now_ns`. Its interrupts arrive at `vector`.
    pub fn new(found: Found, vector: u8, barriers: bool, mut now_ns: impl FnMut() -> u64) -> Result<Self, DeviceError> {
        let mut transport = found.transport;
        let negotiated = transport.begin_init(Features::all());
        if !negotiated.contains(Features::VERSION_1) {
            return Err(DeviceError::Legacy);
        }
        if let Some((missing, _)) = (Features::all() - negotiated).iter_names().next() {
            return Err(DeviceError::Feature(missing));
        }
        let mut queue = VirtQueue::new(&mut transport, QUEUE, false, false).map_err(DeviceError::Queue)?;
        queue.set_dev_notify(false);
        transport.finish_init();
        // In halves: a device guarantees no more than their alignment.
        let [low, high]: [u32; 2] =
            transport.read_consistent(|| transport.read_config_space(CONFIG_CAPACITY)).map_err(DeviceError::Queue)?;
        let blocks = u64::from(high) << 32 | u64::from(low);
        let max_zeroes: u32 = transport.read_config_space(CONFIG_MAX_WRITE_ZEROES).map_err(DeviceError::Queue)?;
        if u64::from(max_zeroes) < MAX_PLAIN_BLOCKS {
            return Err(DeviceError::Feature("writes of zeros of a gibibyte"));
        }
        let frame = || Box::new(Frame { head: [0; 32], status: [STATUS_NONE] });
        let mut block = Self {
            transport,
            queue,
            name: String::new(),
            blocks,
            slots: [const { None }; QUEUE_SIZE],
            frames: (0..QUEUE_SIZE / 3).map(|_| frame()).collect(),
            mad: false,
            given_up: Vec::new(),
            added: false,
            barriers,
            vector,
            acknowledge: Acknowledge::new(found.acknowledge),
        };
        block.name = block.ask_name(&mut now_ns)?;
        Ok(block)
    }

    /// The vector at which the device's interrupts arrive.
    pub fn vector(&self) -> u8 {
        self.vector
    }

    /// Leaves a mad device alone. It may still write to the buffers that it has, so these are nobody's any more.
    fn give_up(&mut self) {
        self.mad = true;
        for mut slot in self.slots.iter_mut().filter_map(Option::take) {
            core::mem::forget(core::mem::take(&mut slot.job.buffer));
            core::mem::forget(slot.frame);
            self.given_up.push(slot.job);
        }
    }

    fn ask_name(&mut self, now_ns: &mut impl FnMut() -> u64) -> Result<String, DeviceError> {
        let head: Box<[u8; 16]> =
            Box::new(core::array::from_fn(|index| if index == 0 { TYPE_GET_ID as u8 } else { 0 }));
        let mut place = vec![0; MAX_NAME_BYTES].into_boxed_slice();
        let mut status = Box::new([STATUS_NONE]);
        // SAFETY: the buffers are on the heap and are given up only after the device has used them; where it does not,
        // they are leaked below.
        let token = unsafe { self.queue.add(&[&head[..]], &mut [&mut place, &mut status[..]]) };
        let token = token.map_err(DeviceError::Queue)?;
        self.transport.notify(QUEUE);
        let until_ns = now_ns() + NAME_NS;
        while self.queue.peek_used() != Some(token) {
            if now_ns() >= until_ns {
                core::mem::forget((head, place, status));
                return Err(DeviceError::Name);
            }
            core::hint::spin_loop();
        }
        // SAFETY: these are the buffers that were added with this token.
        let popped = unsafe { self.queue.pop_used(token, &[&head[..]], &mut [&mut place, &mut status[..]]) };
        popped.map_err(DeviceError::Queue)?;
        let bytes = place.iter().position(|&byte| byte == 0).unwrap_or(place.len());
        match (str::from_utf8(&place[..bytes]), *status) {
            (Ok(name), [STATUS_OK]) if !name.is_empty() => Ok(String::from(name)),
            _ => Err(DeviceError::Name),
        }
    }
}

impl Disk for Block {
    fn name(&self) -> &str {
        &self.name
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn start(&mut self, job: DiskJob) -> Result<(), DiskJob> {
        if self.mad {
            self.given_up.push(job);
            return Ok(());
        }
        let Some(mut frame) = self.frames.pop() else { return Err(job) };
        let head_bytes = frame.prepare(&job);
        let mut slot = Slot { job, frame, head_bytes };
        let Frame { head, status } = &mut *slot.frame;
        let (head, buffer) = (&head[..head_bytes], &mut slot.job.buffer[..]);
        // SAFETY: head, data and status lie on the heap and stay there, untouched, in the slot until `pop_used` gives the
        // token back.
        let added = unsafe {
            match slot.job.operation {
                Operation::Read => self.queue.add(&[head], &mut [buffer, status]),
                Operation::Write => self.queue.add(&[head, buffer], &mut [status]),
                _ => self.queue.add(&[head], &mut [status]),
            }
        };
        match added {
            Ok(token) => {
                self.slots[usize::from(token)] = Some(slot);
                self.added = true;
                Ok(())
            }
            // There are fewer frames than thirds of the queue, so it cannot be full; if it were, the job would wait.
            Err(_) => {
                self.frames.push(slot.frame);
                Err(slot.job)
            }
        }
    }

    fn kick(&mut self) {
        // Whatever the device says it wants to know: whether it does is computed wrongly where the count of a batch
        // wraps around, and a kick that is lost is lost for good.
        if core::mem::take(&mut self.added) {
            self.transport.notify(QUEUE);
        }
    }

    fn has_done(&self) -> bool {
        !self.given_up.is_empty() || (!self.mad && self.queue.can_pop())
    }

    fn take_done(&mut self) -> Option<(DiskJob, bool)> {
        if let Some(job) = self.given_up.pop() {
            return Some((job, false));
        }
        let token = self.queue.peek_used().filter(|_| !self.mad)?;
        let Some(mut slot) = self.slots.get_mut(usize::from(token)).and_then(Option::take) else {
            self.give_up();
            return self.given_up.pop().map(|job| (job, false));
        };
        let Frame { head, status } = &mut *slot.frame;
        let (head, buffer) = (&head[..slot.head_bytes], &mut slot.job.buffer[..]);
        let mut expected_bytes = 1;
        // SAFETY: these are the buffers that were added with this token.
        let written = unsafe {
            match slot.job.operation {
                Operation::Read => {
                    expected_bytes += buffer.len();
                    self.queue.pop_used(token, &[head], &mut [buffer, status])
                }
                Operation::Write => self.queue.pop_used(token, &[head, buffer], &mut [status]),
                _ => self.queue.pop_used(token, &[head], &mut [status]),
            }
        };
        let done = slot.frame.status == [STATUS_OK] && written.is_ok_and(|bytes| bytes as usize == expected_bytes);
        self.frames.push(slot.frame);
        Some((slot.job, done))
    }

    fn set_interrupts(&mut self, enabled: bool) {
        self.queue.set_dev_notify(enabled);
        if enabled && !self.barriers {
            // An access to a device takes a lock, which is a barrier as well.
            super::apic::timer_left();
        }
    }

    fn acknowledge(&mut self) {
        self.acknowledge.write(&mut self.transport);
    }
}
