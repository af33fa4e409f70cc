//! Virtio devices on the PCI bus with one receive and one transmit queue (virtio 1.1, sections 2.6, 4.1, 5.1 and 5.3).
//!
//! Not by the crate that x86-64 uses: it keeps queues and buffers in its own memory, and linear memory lies in reverse, so
//! a device cannot use it. Queues and buffers are in memory set aside for devices, reached by [`Place`], and what is
//! received or sent is copied once more. Nothing that a device writes is trusted.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use super::native::{self, Place};
use crate::machine::{BUFFER_BYTES, Port, Received};

/// Descriptors of a queue.
const QUEUE_SIZE: u16 = 32;
/// Offsets in a queue's page: descriptors, available ring, used ring.
const AVAILABLE: u32 = 16 * QUEUE_SIZE as u32;
const USED: u32 = 2048;
const QUEUE_BYTES: u32 = 4096;
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// Descriptor flag: the device writes.
const DEVICE_WRITES: u16 = 2;
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
/// Feature bit 32, in the upper half: not legacy.
const VERSION_1: u32 = 1;

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
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str("the device is legacy virtio; pass disable-legacy=on"),
            Self::Queue { size } => {
                write!(f, "the device has queues of {size} entries, {QUEUE_SIZE} are needed")
            }
            Self::Memory => f.write_str("the memory set aside for devices is used up; use fewer devices"),
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
    fn take(&mut self, bytes: u32) -> Result<Place, DeviceError> {
        let place = self.next;
        if self.end - place < bytes {
            return Err(DeviceError::Memory);
        }
        self.next += bytes;
        Ok(Place(place))
    }
}

/// A queue whose n-th descriptor is always its n-th buffer.
#[derive(Debug)]
struct Queue {
    memory: Place,
    buffers: Place,
    buffer_bytes: u32,
    kick: Place,
    /// Our position in the available ring.
    available: u16,
    /// Our position in the used ring.
    used: u16,
}

impl Queue {
    /// Sets the queue up with `count` buffers.
    fn new(
        registers: &Registers,
        index: u16,
        memory: &mut DeviceMemory,
        (count, buffer_bytes): (u16, u32),
        flags: u16,
    ) -> Result<Self, DeviceError> {
        let place = memory.take(QUEUE_BYTES)?;
        let buffers = memory.take(u32::from(count) * buffer_bytes)?;
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
            for descriptor in 0..u32::from(count) {
                let at = place.at(16 * descriptor);
                at.write_u32(buffers.at(descriptor * buffer_bytes).0);
                at.at(4).write_u32(0);
                at.at(8).write_u32(buffer_bytes);
                at.at(12).write_u16(flags);
            }
            common.at(common::QUEUE_ENABLE).write_u16(1);
            let kick = registers.notify.at(offset * registers.notify_multiplier);
            Ok(Self { memory: place, buffers, buffer_bytes, kick, available: 0, used: 0 })
        }
    }

    /// Where a buffer is.
    fn buffer(&self, descriptor: u16) -> Place {
        self.buffers.at(u32::from(descriptor) * self.buffer_bytes)
    }

    /// Gives a descriptor to the device.
    fn give(&mut self, descriptor: u16) {
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

    fn kick(&self, index: u16) {
        // SAFETY: the device's register for it.
        unsafe { self.kick.write_u16(index) }
    }

    /// How many descriptors the device has given back that were not taken yet; a device that claims more than there are
    /// has given none.
    fn returned(&self) -> u16 {
        // SAFETY: the queue's own memory.
        let used = unsafe { self.memory.at(USED + 2).read_u16() };
        let count = used.wrapping_sub(self.used);
        if count > QUEUE_SIZE { 0 } else { count }
    }

    /// Takes the oldest descriptor that the device has given back, and how many bytes it has written.
    fn take(&mut self) -> Option<(u32, u32)> {
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

    fn set_interrupts(&self, enabled: bool) {
        // SAFETY: the queue's own memory.
        unsafe {
            self.memory.at(AVAILABLE).write_u16(if enabled { 0 } else { NO_INTERRUPT });
            native::barrier();
        }
    }
}

/// How a port's buffers are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// How many buffers wait at the device, at most 32.
    pub receive_count: u16,
    /// Their size, a multiple of 4096.
    pub receive_bytes: u32,
    /// How many buffers may be on their way out, at most 32.
    pub transmit_count: u16,
}

/// A device with a receive and a transmit queue; `HEADER` bytes precede every payload.
pub struct QueuePair<const HEADER: usize> {
    registers: Registers,
    receive: Queue,
    transmit: Queue,
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
        let common = registers.common;
        // SAFETY: see `Queue::new`; a device that is reset does nothing.
        unsafe {
            let status = common.at(common::STATUS);
            status.write_u8(0);
            status.write_u8(ACKNOWLEDGED | DRIVER);
            common.at(common::DEVICE_FEATURES_SELECT).write_u32(1);
            if common.at(common::DEVICE_FEATURES).read_u32() & VERSION_1 == 0 {
                return Err(DeviceError::Legacy);
            }
            for (half, features) in [(0, 0), (1, VERSION_1)] {
                common.at(common::DRIVER_FEATURES_SELECT).write_u32(half);
                common.at(common::DRIVER_FEATURES).write_u32(features);
            }
            status.write_u8(ACKNOWLEDGED | DRIVER | FEATURES_OK);
            if status.read_u8() & FEATURES_OK == 0 {
                return Err(DeviceError::Legacy);
            }
        }
        let receive = (buffers.receive_count, buffers.receive_bytes);
        let transmit = (buffers.transmit_count, BUFFER_BYTES as u32);
        let mut port = Self {
            registers,
            receive: Queue::new(&registers, RECEIVE_QUEUE, memory, receive, DEVICE_WRITES)?,
            transmit: Queue::new(&registers, TRANSMIT_QUEUE, memory, transmit, 0)?,
            receive_count: buffers.receive_count,
            transmit_count: buffers.transmit_count,
            current: None,
            spare: vec![vec![0; buffers.receive_bytes as usize].into_boxed_slice()],
            pool: (0..buffers.transmit_count).map(|_| Vec::with_capacity(BUFFER_BYTES)).collect(),
            sent: 0,
            completed: 0,
        };
        // Nobody waits for transmission to complete: buffers are collected when one is needed.
        port.transmit.set_interrupts(false);
        port.receive.set_interrupts(false);
        // SAFETY: as above.
        unsafe { common.at(common::STATUS).write_u8(ACKNOWLEDGED | DRIVER | FEATURES_OK | DRIVER_OK) };
        for descriptor in 0..buffers.receive_count {
            port.receive.give(descriptor);
        }
        port.receive.kick(RECEIVE_QUEUE);
        Ok(port)
    }

    /// Copies the oldest received buffer from the device's memory, unless one is held already.
    fn advance(&mut self) {
        while self.current.is_none() {
            let Some((descriptor, length)) = self.receive.take() else { return };
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
            self.receive.give(descriptor);
            self.receive.kick(RECEIVE_QUEUE);
        }
    }

    /// Counts the buffers that the device has sent.
    fn reclaim(&mut self) {
        while self.transmit.take().is_some() {
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
        unsafe {
            native::copy_out(self.transmit.buffer(descriptor).0, buffer.as_ptr(), length);
            self.transmit.memory.at(16 * u32::from(descriptor) + 8).write_u32(length as u32);
        }
        self.transmit.give(descriptor);
        self.transmit.kick(TRANSMIT_QUEUE);
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
        self.receive.set_interrupts(enabled);
        if enabled {
            // Where instructions are counted, QEMU leaves barriers out of translated code. Reading a register of a device
            // takes a lock that it has, too: whoever looks at the queue after this sees what came before.
            // SAFETY: the device's register, whose reading has no effect.
            unsafe { self.registers.common.at(common::STATUS).read_u8() };
        }
    }

    fn acknowledge(&mut self) {
        // SAFETY: the device's register for it.
        unsafe { self.registers.interrupt.read_u8() };
    }
}
