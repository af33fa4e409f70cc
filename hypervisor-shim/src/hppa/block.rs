//! Virtio block devices: [`crate::block`] says what they are asked, this how it comes to them.
//!
//! A job has a place of its own in memory for devices: head and status, and room for the data, which is copied there when a
//! write begins and from there when a read has ended. On x86-64 the device uses the job's own buffer; here that lies in
//! reverse. Because places are never given up, a device that has gone mad can do no harm with those that it holds.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use hypercall::disk::{MAX_NAME_BYTES, MAX_TRANSFER_BYTES};

use super::native::{self, Place};
use super::virtio::{CONTINUES, DEVICE_WRITES, DeviceError, DeviceMemory, QUEUE_SIZE, Queue, Registers};
use crate::block::{self, CONFIG_CAPACITY, CONFIG_MAX_WRITE_ZEROES, Data, Features, Head, NAME_NS, STATUS_NONE};
use crate::machine::{Disk, DiskJob};

/// Jobs at the device at a time. Each takes three descriptors, and four disks' data 4 MiB.
const SLOTS: usize = 16;
const DESCRIPTORS: u16 = 3;
const _: () = assert!(SLOTS * DESCRIPTORS as usize <= QUEUE_SIZE as usize);
/// The only queue.
const QUEUE: u16 = 0;

/// Heads and statuses share a page; a slot's status lies behind its head.
const FRAMES_BYTES: u32 = 4096;
const FRAME_BYTES: u32 = 64;
const STATUS: u32 = 32;
const _: () = assert!(SLOTS as u32 * FRAME_BYTES <= FRAMES_BYTES);
const DATA_BYTES: u32 = MAX_TRANSFER_BYTES as u32;

/// A virtio block device.
pub struct Block {
    registers: Registers,
    queue: Queue,
    frames: Place,
    data: Place,
    name: String,
    blocks: u64,
    /// The jobs at the device. Descriptors of the n-th one begin with number `3 * n`.
    slots: [Option<DiskJob>; SLOTS],
    /// The device has named a job that it does not have. It gets no more, and what it had has failed.
    mad: bool,
    /// Jobs that a mad device will not do.
    given_up: Vec<DiskJob>,
    /// Jobs were added since the last kick.
    added: bool,
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("name", &self.name).field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

impl Block {
    /// Sets the device up and asks for its name, for at most [`NAME_NS`] by `now_ns`.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub fn new(
        registers: Registers,
        memory: &mut DeviceMemory,
        now_ns: impl FnMut() -> u64,
    ) -> Result<Self, DeviceError> {
        block::check_features(Features::from_bits_truncate(registers.begin(Features::all().bits())?))?;
        let queue = Queue::new(&registers, QUEUE, memory)?;
        let frames = memory.take(FRAMES_BYTES)?;
        let data = memory.take(SLOTS as u32 * DATA_BYTES)?;
        queue.set_interrupts(false);
        registers.finish();
        let config = registers.config.ok_or(DeviceError::Feature("a configuration"))?;
        // SAFETY: the device's registers. A disk's size does not change while it is used.
        let (low, high, most_zeroes) = unsafe {
            let capacity = config.at(CONFIG_CAPACITY);
            (capacity.read_u32(), capacity.at(4).read_u32(), config.at(CONFIG_MAX_WRITE_ZEROES).read_u32())
        };
        block::check_zeroes(most_zeroes)?;
        let mut block = Self {
            registers,
            queue,
            frames,
            data,
            name: String::new(),
            blocks: u64::from(high) << 32 | u64::from(low),
            slots: [const { None }; SLOTS],
            mad: false,
            given_up: Vec::new(),
            added: false,
        };
        block.name = block.ask_name(now_ns)?;
        Ok(block)
    }

    fn head(&self, slot: usize) -> Place {
        self.frames.at(slot as u32 * FRAME_BYTES)
    }

    fn data(&self, slot: usize) -> Place {
        self.data.at(slot as u32 * DATA_BYTES)
    }

    /// Asks for something with so many bytes of data. What is to be written is in its place.
    fn ask(&mut self, slot: usize, head: &Head, data: Data, bytes: u32) {
        let (place, first) = (self.head(slot), slot as u16 * DESCRIPTORS);
        let status = place.at(STATUS);
        // SAFETY: the slot is free, so nobody else uses its frame.
        unsafe {
            for (word, offset) in head.words.into_iter().zip((0..).step_by(4)) {
                place.at(offset).write_u32(word);
            }
            status.write_u8(STATUS_NONE);
        }
        let [after_head, after_data] = [first + 1, first + 2];
        let next = if data == Data::None { after_data } else { after_head };
        self.queue.describe(first, place, head.bytes as u32, CONTINUES, next);
        let direction = if data == Data::In { DEVICE_WRITES } else { 0 };
        self.queue.describe(after_head, self.data(slot), bytes, CONTINUES | direction, after_data);
        self.queue.describe(after_data, status, 1, DEVICE_WRITES, 0);
        self.queue.give(first);
    }

    /// The slot that the device has ended, and how many bytes it says that it has written there; `None` as slot if it has
    /// named none.
    fn take(&mut self) -> Option<(Option<usize>, u32)> {
        let (descriptor, bytes) = self.queue.take()?;
        let first = u32::from(DESCRIPTORS);
        let slot = (descriptor / first) as usize;
        Some(((descriptor.is_multiple_of(first) && slot < SLOTS).then_some(slot), bytes))
    }

    fn status(&self, slot: usize) -> u8 {
        // SAFETY: the slot's own memory.
        unsafe { self.head(slot).at(STATUS).read_u8() }
    }

    fn ask_name(&mut self, mut now_ns: impl FnMut() -> u64) -> Result<String, DeviceError> {
        let mut name = [0; MAX_NAME_BYTES];
        self.ask(0, &Head::NAME, Data::In, name.len() as u32);
        self.queue.kick();
        let until_ns = now_ns() + NAME_NS;
        while self.queue.returned() == 0 {
            if now_ns() >= until_ns {
                return Err(DeviceError::Name);
            }
            core::hint::spin_loop();
        }
        if self.take().is_none_or(|(slot, _)| slot != Some(0)) {
            return Err(DeviceError::Name);
        }
        // SAFETY: the slot's own memory, and ours.
        unsafe { native::copy_in(name.as_mut_ptr(), self.data(0).0, name.len()) };
        block::name(&name, self.status(0)).map(String::from).ok_or(DeviceError::Name)
    }

    /// Leaves a mad device alone.
    fn give_up(&mut self) {
        self.mad = true;
        self.given_up.extend(self.slots.iter_mut().filter_map(Option::take));
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
        // A longer one is never made; there would be no room for it.
        if self.mad || job.buffer.len() > MAX_TRANSFER_BYTES {
            self.given_up.push(job);
            return Ok(());
        }
        let Some(slot) = self.slots.iter().position(Option::is_none) else { return Err(job) };
        let data = Data::of(&job);
        if data == Data::Out {
            // SAFETY: the slot is free, and its place has room for the most data.
            unsafe { native::copy_out(self.data(slot).0, job.buffer.as_ptr(), job.buffer.len()) };
        }
        self.ask(slot, &Head::of(&job), data, job.buffer.len() as u32);
        self.slots[slot] = Some(job);
        self.added = true;
        Ok(())
    }

    fn kick(&mut self) {
        // Whatever the device says it wants to know: a kick that is lost is lost for good.
        if core::mem::take(&mut self.added) {
            self.queue.kick();
        }
    }

    fn has_done(&self) -> bool {
        !self.given_up.is_empty() || (!self.mad && self.queue.returned() > 0)
    }

    fn take_done(&mut self) -> Option<(DiskJob, bool)> {
        if let Some(job) = self.given_up.pop() {
            return Some((job, false));
        }
        if self.mad {
            return None;
        }
        let (slot, written_bytes) = self.take()?;
        let Some((slot, mut job)) = slot.and_then(|slot| Some((slot, self.slots[slot].take()?))) else {
            self.give_up();
            return self.given_up.pop().map(|job| (job, false));
        };
        let done = block::is_done(&job, self.status(slot), written_bytes as usize);
        if done && Data::of(&job) == Data::In {
            // SAFETY: the device has given the slot back; it has as many bytes as the buffer at least.
            unsafe { native::copy_in(job.buffer.as_mut_ptr(), self.data(slot).0, job.buffer.len()) };
        }
        Some((job, done))
    }

    fn set_interrupts(&mut self, enabled: bool) {
        self.queue.set_interrupts(enabled);
        if enabled {
            self.registers.synchronise();
        }
    }

    fn acknowledge(&mut self) {
        self.registers.acknowledge();
    }
}
