//! Virtio devices on the PCI bus (virtio 1.1, sections 2.6 and 4.1), and those with one receive and one transmit queue
//! (sections 5.1 and 5.3).
//!
//! Not by the crate that x86-64 uses: it keeps queues and buffers in its own memory, and linear memory lies in reverse, so
//! a device cannot use it. Queues and buffers are in memory set aside for devices, reached by [`Place`], and what is
//! received or sent is copied once more. Nothing that a device writes is trusted. Disks, in [`super::block`], use the same
//! queues.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::native::{self, Place};
use crate::block::Lacks;
use crate::machine::{BUFFER_BYTES, Port, Received};

/// Descriptors of a queue.
pub(super) const QUEUE_SIZE: u16 = 64;
/// Offsets in a queue's page: descriptors, available ring, used ring.
const AVAILABLE: u32 = 16 * QUEUE_SIZE as u32;
const USED: u32 = 2048;
const QUEUE_BYTES: u32 = 4096;
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// Descriptor flag: another one follows.
pub(super) const CONTINUES: u16 = 1;
/// Descriptor flag: the device writes.
pub(super) const DEVICE_WRITES: u16 = 2;
/// Flag of the available ring: no interrupt is wanted.
const NO_INTERRUPT: u16 = 1;

/// Offsets of the common configuration.
mod common {
    pub const DEVICE_FEATURES_SELECT: u32 = 0;
    pub const DEVICE_FEATURES: u32 = 4;
    pub const DRIVER_FEATURES_SELECT: u32 = 8;
    pub const DRIVER_FEATURES: u32 = 12;
    pub const STATUS: u32 = 20;
    pub const QUEUE_SELECT: u32 = 22;
    pub const QUEUE_SIZE: u32 = 24;
    pub const QUEUE_ENABLE: u32 = 28;
    pub const QUEUE_NOTIFY_OFFSET: u32 = 30;
    pub const QUEUE_DESCRIPTORS: u32 = 32;
    pub const QUEUE_AVAILABLE: u32 = 40;
    pub const QUEUE_USED: u32 = 48;
}

/// Device status: acknowledged, driver, features agreed, driver ready.
const ACKNOWLEDGED: u8 = 1;
const DRIVER: u8 = 2;
const DRIVER_OK: u8 = 4;
const FEATURES_OK: u8 = 8;
/// Feature bit: not legacy.
const VERSION_1: u64 = 1 << 32;

/// Where a device's registers are.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    /// Common configuration.
    pub common: Place,
    /// Where queues are kicked.
    pub notify: Place,
    /// Distance of the queues' kicks, in bytes.
    pub notify_multiplier: u32,
    /// Interrupt status; reading it acknowledges.
    pub interrupt: Place,
    /// What the kind of device has of its own; not every kind has something.
    pub config: Option<Place>,
}

impl Registers {
    /// Resets the device and agrees on those of these features that it has.
    ///
    /// # Errors
    /// [`DeviceError::Legacy`]
    pub(super) fn begin(&self, wanted: u64) -> Result<u64, DeviceError> {
        let common = self.common;
        // SAFETY: the registers are the device's; one that is reset does nothing.
        unsafe {
            let status = common.at(common::STATUS);
            status.write_u8(0);
            status.write_u8(ACKNOWLEDGED | DRIVER);
            let mut agreed = 0;
            for half in 0..2 {
                common.at(common::DEVICE_FEATURES_SELECT).write_u32(half);
                let features = common.at(common::DEVICE_FEATURES).read_u32() & (wanted >> (32 * half)) as u32;
                common.at(common::DRIVER_FEATURES_SELECT).write_u32(half);
                common.at(common::DRIVER_FEATURES).write_u32(features);
                agreed |= u64::from(features) << (32 * half);
            }
            status.write_u8(ACKNOWLEDGED | DRIVER | FEATURES_OK);
            if agreed & VERSION_1 == 0 || status.read_u8() & FEATURES_OK == 0 {
                return Err(DeviceError::Legacy);
            }
            Ok(agreed)
        }
    }

    /// The queues are there: the device may use them.
    pub(super) fn finish(&self) {
        // SAFETY: the device's register, whose queues have memory of their own.
        unsafe { self.common.at(common::STATUS).write_u8(ACKNOWLEDGED | DRIVER | FEATURES_OK | DRIVER_OK) };
    }

    /// Takes a lock that the device has, too: whoever looks at a queue after this sees what came before. Where instructions
    /// are counted, QEMU leaves barriers out of translated code.
    pub(super) fn synchronise(&self) {
        // SAFETY: the device's register, whose reading has no effect.
        unsafe { self.common.at(common::STATUS).read_u8() };
    }

    /// Forgets the interrupt that the device has raised.
    pub(super) fn acknowledge(&self) {
        // SAFETY: the device's register for it.
        unsafe { self.interrupt.read_u8() };
    }
}

/// Why a device cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceError {
    /// It speaks only the interface from before virtio 1.0, or does not agree to speak another.
    Legacy,
    /// A queue is too short.
    Queue {
        /// The most that the device can.
        size: u16,
    },
    /// Memory for devices is used up.
    Memory,
    /// A block device cannot do what every disk must.
    Feature(&'static str),
    /// A block device has no name.
    Name,
}

impl From<Lacks> for DeviceError {
    fn from(lacks: Lacks) -> Self {
        match lacks {
            Lacks::Version1 => Self::Legacy,
            Lacks::Feature(feature) => Self::Feature(feature),
        }
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str("the device is legacy virtio; pass disable-legacy=on"),
            Self::Queue { size } => {
                write!(f, "the device has queues of {size} entries, {QUEUE_SIZE} are needed")
            }
            Self::Memory => f.write_str("the memory set aside for devices is used up; use fewer devices"),
            Self::Feature(feature) => write!(f, "the block device lacks {feature}; use one of QEMU's over a file"),
            Self::Name => f.write_str("the block device does not say its name; give it one by serial=NAME"),
        }
    }
}

/// Memory that devices can reach, given out once and for good.
#[derive(Debug)]
pub struct DeviceMemory {
    next: u32,
    end: u32,
}

impl DeviceMemory {
    /// The memory from `start` to `end`, both multiples of 4096.
    ///
    /// # Safety
    /// It is memory, zero, and nobody else's.
    pub const unsafe fn new(start: u32, end: u32) -> Self {
        Self { next: start, end }
    }

    /// So many bytes, a multiple of 4096.
    pub(super) fn take(&mut self, bytes: u32) -> Result<Place, DeviceError> {
        let place = self.next;
        if self.end - place < bytes {
            return Err(DeviceError::Memory);
        }
        self.next += bytes;
        Ok(Place(place))
    }
}

/// A queue: descriptors and two rings, which driver and device write to in turn.
#[derive(Debug)]
pub(super) struct Queue {
    index: u16,
    memory: Place,
    kick: Place,
    /// Our position in the available ring.
    available: u16,
    /// Our position in the used ring.
    used: u16,
}

impl Queue {
    /// Sets the queue up, with descriptors that say nothing yet.
    pub fn new(registers: &Registers, index: u16, memory: &mut DeviceMemory) -> Result<Self, DeviceError> {
        let place = memory.take(QUEUE_BYTES)?;
        let common = registers.common;
        // SAFETY: the registers are the device's, whose queue gets memory of its own; offsets are those of the standard,
        // here and in all of this module.
        unsafe {
            common.at(common::QUEUE_SELECT).write_u16(index);
            let size = common.at(common::QUEUE_SIZE).read_u16();
            if size < QUEUE_SIZE {
                return Err(DeviceError::Queue { size });
            }
            common.at(common::QUEUE_SIZE).write_u16(QUEUE_SIZE);
            for (register, address) in [
                (common::QUEUE_DESCRIPTORS, place),
                (common::QUEUE_AVAILABLE, place.at(AVAILABLE)),
                (common::QUEUE_USED, place.at(USED)),
            ] {
                common.at(register).write_u32(address.0);
                common.at(register + 4).write_u32(0);
            }
            let offset = u32::from(common.at(common::QUEUE_NOTIFY_OFFSET).read_u16());
            common.at(common::QUEUE_ENABLE).write_u16(1);
            let kick = registers.notify.at(offset * registers.notify_multiplier);
            Ok(Self { index, memory: place, kick, available: 0, used: 0 })
        }
    }

    /// Says what a descriptor is: so many bytes there, its flags, and which one follows if they say that one does. The
    /// device does not hold it.
    pub fn describe(&mut self, descriptor: u16, place: Place, bytes: u32, flags: u16, next: u16) {
        let at = self.memory.at(16 * u32::from(descriptor));
        // SAFETY: the queue's own memory.
        unsafe {
            at.write_u32(place.0);
            at.at(4).write_u32(0);
            at.at(8).write_u32(bytes);
            at.at(12).write_u32(u32::from(next) << 16 | u32::from(flags));
        }
    }

    /// Says how long a descriptor is that the device does not hold.
    pub fn resize(&mut self, descriptor: u16, bytes: u32) {
        // SAFETY: the queue's own memory.
        unsafe { self.memory.at(16 * u32::from(descriptor) + 8).write_u32(bytes) };
    }

    /// Gives a descriptor, and those that follow it, to the device.
    pub fn give(&mut self, descriptor: u16) {
        let slot = u32::from(self.available % QUEUE_SIZE);
        // SAFETY: the queue's own memory.
        unsafe {
            self.memory.at(AVAILABLE + 4 + 2 * slot).write_u16(descriptor);
            native::barrier();
            self.available = self.available.wrapping_add(1);
            self.memory.at(AVAILABLE + 2).write_u16(self.available);
            native::barrier();
        }
    }

    /// Tells the device that it was given something.
    pub fn kick(&self) {
        // SAFETY: the device's register for it.
        unsafe { self.kick.write_u16(self.index) }
    }

    /// How many descriptors the device has given back that were not taken yet; a device that claims more than there are
    /// has given none.
    pub fn returned(&self) -> u16 {
        // SAFETY: the queue's own memory.
        let used = unsafe { self.memory.at(USED + 2).read_u16() };
        let count = used.wrapping_sub(self.used);
        if count > QUEUE_SIZE { 0 } else { count }
    }

    /// Takes the oldest descriptor that the device has given back, and how many bytes it has written.
    pub fn take(&mut self) -> Option<(u32, u32)> {
        if self.returned() == 0 {
            return None;
        }
        let slot = u32::from(self.used % QUEUE_SIZE);
        self.used = self.used.wrapping_add(1);
        // SAFETY: the queue's own memory.
        unsafe {
            native::barrier();
            let at = self.memory.at(USED + 4 + 8 * slot);
            Some((at.read_u32(), at.at(4).read_u32()))
        }
    }

    /// Whether the device shall interrupt when it gives something back.
    pub fn set_interrupts(&self, enabled: bool) {
        // SAFETY: the queue's own memory.
        unsafe {
            self.memory.at(AVAILABLE).write_u16(if enabled { 0 } else { NO_INTERRUPT });
            native::barrier();
        }
    }
}

/// A queue whose n-th descriptor is always its n-th buffer.
#[derive(Debug)]
struct BufferQueue {
    queue: Queue,
    buffers: Place,
    buffer_bytes: u32,
}

impl BufferQueue {
    /// Sets the queue up with `count` buffers.
    fn new(
        registers: &Registers,
        index: u16,
        memory: &mut DeviceMemory,
        (count, buffer_bytes): (u16, u32),
        flags: u16,
    ) -> Result<Self, DeviceError> {
        let mut queue = Queue::new(registers, index, memory)?;
        let buffers = memory.take(u32::from(count) * buffer_bytes)?;
        for descriptor in 0..count {
            queue.describe(descriptor, buffers.at(u32::from(descriptor) * buffer_bytes), buffer_bytes, flags, 0);
        }
        Ok(Self { queue, buffers, buffer_bytes })
    }

    /// Where a buffer is.
    fn buffer(&self, descriptor: u16) -> Place {
        self.buffers.at(u32::from(descriptor) * self.buffer_bytes)
    }
}

/// How a port's buffers are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// How many buffers wait at the device, at most 64.
    pub receive_count: u16,
    /// Their size, a multiple of 4096.
    pub receive_bytes: u32,
    /// How many buffers may be on their way out, at most 64.
    pub transmit_count: u16,
}

/// A device with a receive and a transmit queue; `HEADER` bytes precede every payload.
pub struct QueuePair<const HEADER: usize> {
    registers: Registers,
    receive: BufferQueue,
    transmit: BufferQueue,
    receive_count: u16,
    transmit_count: u16,
    /// The oldest buffer received.
    current: Option<Received>,
    /// Empty buffers for what is received.
    spare: Vec<Box<[u8]>>,
    /// Empty buffers for what is sent.
    pool: Vec<Vec<u8>>,
    sent: u64,
    completed: u64,
}

impl<const HEADER: usize> fmt::Debug for QueuePair<HEADER> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair").field("registers", &self.registers).finish_non_exhaustive()
    }
}

impl<const HEADER: usize> QueuePair<HEADER> {
    /// Sets the device up.
    ///
    /// # Errors
    /// [`DeviceError`]
    pub fn new(registers: Registers, memory: &mut DeviceMemory, buffers: Buffers) -> Result<Self, DeviceError> {
        registers.begin(VERSION_1)?;
        let receive = (buffers.receive_count, buffers.receive_bytes);
        let transmit = (buffers.transmit_count, BUFFER_BYTES as u32);
        let mut port = Self {
            registers,
            receive: BufferQueue::new(&registers, RECEIVE_QUEUE, memory, receive, DEVICE_WRITES)?,
            transmit: BufferQueue::new(&registers, TRANSMIT_QUEUE, memory, transmit, 0)?,
            receive_count: buffers.receive_count,
            transmit_count: buffers.transmit_count,
            current: None,
            spare: vec![vec![0; buffers.receive_bytes as usize].into_boxed_slice()],
            pool: (0..buffers.transmit_count).map(|_| Vec::with_capacity(BUFFER_BYTES)).collect(),
            sent: 0,
            completed: 0,
        };
        // Nobody waits for transmission to complete: buffers are collected when one is needed.
        port.transmit.queue.set_interrupts(false);
        port.receive.queue.set_interrupts(false);
        registers.finish();
        for descriptor in 0..buffers.receive_count {
            port.receive.queue.give(descriptor);
        }
        port.receive.queue.kick();
        Ok(port)
    }

    /// Copies the oldest received buffer from the device's memory, unless one is held already.
    fn advance(&mut self) {
        while self.current.is_none() {
            let Some((descriptor, length)) = self.receive.queue.take() else { return };
            // What names no buffer is a device gone mad: one buffer less is in use from then on.
            let Ok(descriptor) = u16::try_from(descriptor) else { continue };
            if descriptor >= self.receive_count {
                continue;
            }
            let length = length.min(self.receive.buffer_bytes) as usize;
            if length > HEADER {
                let bytes = self.receive.buffer_bytes as usize;
                let mut buffer = self.spare.pop().unwrap_or_else(|| vec![0; bytes].into_boxed_slice());
                // SAFETY: the device has given the buffer back, and ours has `buffer_bytes`.
                unsafe { native::copy_in(buffer.as_mut_ptr(), self.receive.buffer(descriptor).0, length) };
                self.current = Some(Received { buffer, start: HEADER, end: length });
            }
            self.receive.queue.give(descriptor);
            self.receive.queue.kick();
        }
    }

    /// Counts the buffers that the device has sent.
    fn reclaim(&mut self) {
        while self.transmit.queue.take().is_some() {
            self.completed += 1;
        }
    }
}

impl<const HEADER: usize> Port for QueuePair<HEADER> {
    const HEADER_BYTES: usize = HEADER;

    fn peek(&mut self) -> Option<&[u8]> {
        self.advance();
        self.current.as_ref().map(Received::payload)
    }

    fn take(&mut self) -> Option<Received> {
        self.advance();
        self.current.take()
    }

    fn give_back(&mut self, received: Received) {
        self.spare.push(received.buffer);
    }

    fn buffer(&mut self) -> Option<Vec<u8>> {
        self.reclaim();
        if self.sent.wrapping_sub(self.completed) >= u64::from(self.transmit_count) {
            return None;
        }
        let mut buffer = self.pool.pop()?;
        buffer.clear();
        buffer.resize(HEADER, 0);
        Some(buffer)
    }

    fn put_back(&mut self, buffer: Vec<u8>) {
        self.pool.push(buffer);
    }

    fn send(&mut self, buffer: Vec<u8>) {
        self.reclaim();
        let length = buffer.len().min(BUFFER_BYTES);
        // Descriptors come back in the order in which they were given, so the next one is free when any is: `buffer` has
        // seen to that.
        let descriptor = (self.sent % u64::from(self.transmit_count)) as u16;
        // SAFETY: the device does not hold this descriptor's buffer, which has room for `BUFFER_BYTES`.
        unsafe { native::copy_out(self.transmit.buffer(descriptor).0, buffer.as_ptr(), length) };
        self.transmit.queue.resize(descriptor, length as u32);
        self.transmit.queue.give(descriptor);
        self.transmit.queue.kick();
        self.sent += 1;
        self.pool.push(buffer);
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn completed(&mut self) -> u64 {
        self.reclaim();
        self.completed
    }

    fn set_interrupts(&mut self, enabled: bool) {
        self.receive.queue.set_interrupts(enabled);
        if enabled {
            self.registers.synchronise();
        }
    }

    fn acknowledge(&mut self) {
        self.registers.acknowledge();
    }
}
