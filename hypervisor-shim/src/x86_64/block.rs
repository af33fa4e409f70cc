//! Virtio block devices (virtio 1.1, section 5.2). Nothing that a device writes is trusted.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use hypercall::disk::MAX_NAME_BYTES;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{SomeTransport, Transport};

use super::discover::Found;
use super::virtio::{Acknowledge, DeviceError, ShimHal};
use crate::block::{
    self, CONFIG_CAPACITY, CONFIG_MAX_WRITE_ZEROES, Data, Features, HEAD_WORDS, Head, NAME_NS, STATUS_NONE,
};
use crate::machine::{Disk, DiskJob};

/// Descriptors of the queue. A job takes three, so 21 are at the device at a time.
const QUEUE_SIZE: usize = 64;
/// The only queue.
const QUEUE: u16 = 0;

/// What precedes and follows a job's data, at an address that stays.
#[derive(Debug)]
struct Frame {
    head: [u8; 4 * HEAD_WORDS],
    status: [u8; 1],
}

impl Frame {
    fn new() -> Box<Self> {
        Box::new(Self { head: [0; 4 * HEAD_WORDS], status: [STATUS_NONE] })
    }

    /// The bytes of the head that the device gets.
    fn prepare(&mut self, head: &Head) -> usize {
        for (place, word) in self.head.as_chunks_mut().0.iter_mut().zip(head.words) {
            *place = word.to_le_bytes();
        }
        self.status = [STATUS_NONE];
        head.bytes
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
        block::check_features(negotiated)?;
        let mut queue = VirtQueue::new(&mut transport, QUEUE, false, false).map_err(DeviceError::Queue)?;
        queue.set_dev_notify(false);
        transport.finish_init();
        // In halves: a device guarantees no more than their alignment.
        let [low, high]: [u32; 2] = transport
            .read_consistent(|| transport.read_config_space(CONFIG_CAPACITY as usize))
            .map_err(DeviceError::Queue)?;
        let blocks = u64::from(high) << 32 | u64::from(low);
        let max_zeroes = transport.read_config_space(CONFIG_MAX_WRITE_ZEROES as usize).map_err(DeviceError::Queue)?;
        block::check_zeroes(max_zeroes)?;
        let mut block = Self {
            transport,
            queue,
            name: String::new(),
            blocks,
            slots: [const { None }; QUEUE_SIZE],
            frames: (0..QUEUE_SIZE / 3).map(|_| Frame::new()).collect(),
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
        let mut frame = Frame::new();
        let head_bytes = frame.prepare(&Head::NAME);
        let mut place = vec![0; MAX_NAME_BYTES].into_boxed_slice();
        let Frame { head, status } = &mut *frame;
        // SAFETY: the buffers are on the heap and are given up only after the device has used them; where it does not,
        // they are leaked below.
        let token = unsafe { self.queue.add(&[&head[..head_bytes]], &mut [&mut place, status]) };
        let token = token.map_err(DeviceError::Queue)?;
        self.transport.notify(QUEUE);
        let until_ns = now_ns() + NAME_NS;
        while self.queue.peek_used() != Some(token) {
            if now_ns() >= until_ns {
                core::mem::forget((frame, place));
                return Err(DeviceError::Name);
            }
            core::hint::spin_loop();
        }
        // SAFETY: these are the buffers that were added with this token.
        let popped = unsafe { self.queue.pop_used(token, &[&head[..head_bytes]], &mut [&mut place, status]) };
        popped.map_err(DeviceError::Queue)?;
        block::name(&place, status[0]).map(String::from).ok_or(DeviceError::Name)
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
        let head_bytes = frame.prepare(&Head::of(&job));
        let data = Data::of(&job);
        let mut slot = Slot { job, frame, head_bytes };
        let Frame { head, status } = &mut *slot.frame;
        let (head, buffer) = (&head[..head_bytes], &mut slot.job.buffer[..]);
        // SAFETY: head, data and status lie on the heap and stay there, untouched, in the slot until `pop_used` gives the
        // token back.
        let added = unsafe {
            match data {
                Data::In => self.queue.add(&[head], &mut [buffer, status]),
                Data::Out => self.queue.add(&[head, buffer], &mut [status]),
                Data::None => self.queue.add(&[head], &mut [status]),
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
        let data = Data::of(&slot.job);
        let Frame { head, status } = &mut *slot.frame;
        let (head, buffer) = (&head[..slot.head_bytes], &mut slot.job.buffer[..]);
        // SAFETY: these are the buffers that were added with this token.
        let written = unsafe {
            match data {
                Data::In => self.queue.pop_used(token, &[head], &mut [buffer, status]),
                Data::Out => self.queue.pop_used(token, &[head, buffer], &mut [status]),
                Data::None => self.queue.pop_used(token, &[head], &mut [status]),
            }
        };
        let [status] = slot.frame.status;
        let done = written.is_ok_and(|bytes| block::is_done(&slot.job, status, bytes as usize));
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
