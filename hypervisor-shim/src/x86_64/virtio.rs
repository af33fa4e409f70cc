//! Virtio devices with one receive and one transmit queue: consoles and network interfaces are driven alike.
//! (Virtio 1.1, sections 2.6, 5.1 and 5.3.) Nothing that a device writes is trusted.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ptr::NonNull;

use bitflags::bitflags;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{SomeTransport, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

use super::discover::Found;
use crate::block::Lacks;
use crate::machine::{BUFFER_BYTES, Port, Received};

/// Descriptors of a queue.
const QUEUE_SIZE: usize = 32;
/// Used buffer and configuration change (virtio 1.1, section 4.2.2).
const ALL_INTERRUPTS: u32 = 3;
const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;

/// Memory and addresses for `virtio-drivers`: the shim's heap is identity mapped.
#[derive(Debug)]
pub struct ShimHal;

fn dma_layout(pages: usize) -> Layout {
    // A queue takes a few pages; the product cannot overflow.
    Layout::from_size_align(pages * PAGE_SIZE, PAGE_SIZE).expect("a page count of a queue")
}

// SAFETY: memory comes zeroed and page aligned from the heap, which hands out no range twice; heap and device memory
// are identity mapped.
unsafe impl Hal for ShimHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // SAFETY: the layout has a size.
        let memory = unsafe { alloc_zeroed(dma_layout(pages)) };
        // The crate takes physical address 0 for "no memory".
        NonNull::new(memory).map_or((0, NonNull::dangling()), |pointer| (memory as PhysAddr, pointer))
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller passes what `dma_alloc` returned.
        unsafe { dealloc(vaddr.as_ptr(), dma_layout(pages)) };
        0
    }

    // Safe with any argument: a device's registers are identity mapped, and nothing is read or written here.
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        NonNull::new(paddr as *mut u8).unwrap_or(NonNull::dangling())
    }

    // Safe with any argument: the heap is identity mapped, so the device needs no bounce buffer; nothing is accessed here.
    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr() as PhysAddr
    }

    // Safe with any argument: sharing has changed nothing.
    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

bitflags! {
    /// Features that the shim asks of a device.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Features: u64 {
        const VERSION_1 = 1 << 32;
    }
}

/// Why a device cannot be used.
#[derive(Debug)]
pub enum DeviceError {
    /// It speaks only the interface from before virtio 1.0.
    Legacy,
    /// A queue could not be set up.
    Queue(virtio_drivers::Error),
    /// A block device cannot do what every disk must.
    Feature(&'static str),
    /// A block device has no name.
    Name,
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Legacy => f.write_str(
                "the device is legacy virtio; pass -global virtio-mmio.force-legacy=false or disable-legacy=on",
            ),
            Self::Queue(error) => write!(f, "a queue of the device could not be set up: {error}"),
            Self::Feature(feature) => write!(f, "the block device lacks {feature}; use one of QEMU's over a file"),
            Self::Name => f.write_str("the block device does not say its name; give it one by serial=NAME"),
        }
    }
}

impl From<Lacks> for DeviceError {
    fn from(lacks: Lacks) -> Self {
        match lacks {
            Lacks::Version1 => Self::Legacy,
            Lacks::Feature(feature) => Self::Feature(feature),
        }
    }
}

/// How a port's buffers are laid out.
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    /// How many buffers wait at the device.
    pub receive_count: usize,
    /// Their size.
    pub receive_bytes: usize,
    /// How many buffers may be on their way out.
    pub transmit_count: usize,
}

/// A device with a receive and a transmit queue; `HEADER` bytes precede every payload.
pub struct QueuePair<const HEADER: usize> {
    transport: SomeTransport<'static>,
    receive: VirtQueue<ShimHal, QUEUE_SIZE>,
    transmit: VirtQueue<ShimHal, QUEUE_SIZE>,
    /// By token: the buffer that the device holds.
    receiving: [Option<Box<[u8]>>; QUEUE_SIZE],
    /// By token: the buffer that the device sends.
    sending: [Option<Vec<u8>>; QUEUE_SIZE],
    /// The oldest buffer received and its length as the device says, within bounds.
    current: Option<Received>,
    sent: u64,
    completed: u64,
    pool: Vec<Vec<u8>>,
    /// Buffers to be posted: half of all go to the device at once, with one kick. A device that has used up its
    /// buffers always finds us with at least that many.
    returned: Vec<Box<[u8]>>,
    half: usize,
    /// See [`QueuePair::new`].
    barriers: bool,
    vector: u8,
    acknowledge: Acknowledge,
}

/// How a device's interrupts are acknowledged.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledge(Option<NonNull<u32>>);

impl Acknowledge {
    /// By a word written to this register of the device, if it has such a register.
    pub const fn new(register: Option<NonNull<u32>>) -> Self {
        Self(register)
    }

    /// Acknowledges what the device has raised.
    pub fn write(self, transport: &mut SomeTransport<'static>) {
        match self.0 {
            // One write instead of a read and a write: which of the two possible reasons it was does not matter.
            // SAFETY: the register of this device, as discovered; writing it has no other effect.
            Some(register) => unsafe { register.as_ptr().write_volatile(ALL_INTERRUPTS) },
            None => {
                transport.ack_interrupt();
            }
        }
    }
}

impl<const HEADER: usize> fmt::Debug for QueuePair<HEADER> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueuePair")
            .field("returned", &self.returned.len())
            .field("vector", &self.vector)
            .finish_non_exhaustive()
    }
}

impl<const HEADER: usize> QueuePair<HEADER> {
    /// Sets the device up. Its interrupts arrive at `vector`.
    ///
    /// `barriers` says whether the processor's memory barriers work. QEMU's translator leaves them out where it runs one
    /// processor at a time, as it does under `-icount`; the device, which runs beside it, may then miss that it is to be
    /// kicked, and we that it was done.
    pub fn new(found: Found, vector: u8, buffers: Buffers, barriers: bool) -> Result<Self, DeviceError> {
        let mut transport = found.transport;
        if !transport.begin_init(Features::VERSION_1).contains(Features::VERSION_1) {
            return Err(DeviceError::Legacy);
        }
        let receive = VirtQueue::new(&mut transport, RECEIVE_QUEUE, false, false).map_err(DeviceError::Queue)?;
        let mut transmit = VirtQueue::new(&mut transport, TRANSMIT_QUEUE, false, false).map_err(DeviceError::Queue)?;
        // Nobody waits for transmission to complete: buffers are collected when one is needed.
        transmit.set_dev_notify(false);
        transport.finish_init();
        let mut port = Self {
            transport,
            receive,
            transmit,
            receiving: [const { None }; QUEUE_SIZE],
            sending: [const { None }; QUEUE_SIZE],
            current: None,
            sent: 0,
            completed: 0,
            pool: (0..buffers.transmit_count).map(|_| Vec::with_capacity(BUFFER_BYTES)).collect(),
            returned: Vec::new(),
            half: (buffers.receive_count / 2).max(1),
            barriers,
            vector,
            acknowledge: Acknowledge::new(found.acknowledge),
        };
        for _ in 0..buffers.receive_count {
            port.post(vec![0; buffers.receive_bytes].into_boxed_slice());
        }
        port.transport.notify(RECEIVE_QUEUE);
        Ok(port)
    }

    /// The vector at which the device's interrupts arrive.
    pub fn vector(&self) -> u8 {
        self.vector
    }

    fn post(&mut self, mut buffer: Box<[u8]>) {
        // SAFETY: the buffer stays in `receiving`, untouched, until `pop_used` gives its token back.
        let token = unsafe { self.receive.add(&[], &mut [&mut buffer]) };
        // The queue has more descriptors than there are buffers, so this cannot fail; if it did, one buffer less
        // would be in use.
        if let Ok(token) = token {
            self.receiving[usize::from(token)] = Some(buffer);
        }
    }

    fn put_returned(&mut self, buffer: Box<[u8]>) {
        self.returned.push(buffer);
        if self.returned.len() < self.half {
            return;
        }
        while let Some(buffer) = self.returned.pop() {
            self.post(buffer);
        }
        if !self.barriers || self.receive.should_notify() {
            self.transport.notify(RECEIVE_QUEUE);
        }
    }

    /// Takes the oldest received buffer from the device, unless one is held already.
    fn advance(&mut self) {
        while self.current.is_none() {
            let Some(token) = self.receive.peek_used() else { return };
            // A token that names no buffer is a device gone mad: the queue is left alone from then on.
            let Some(mut buffer) = self.receiving.get_mut(usize::from(token)).and_then(Option::take) else { return };
            // SAFETY: the buffer is the one that was added with this token.
            let written = unsafe { self.receive.pop_used(token, &[], &mut [&mut buffer]) };
            let length = written.map_or(0, |length| (length as usize).min(buffer.len()));
            if length < HEADER || length == 0 {
                self.put_returned(buffer);
            } else {
                self.current = Some(Received { buffer, start: HEADER, end: length });
            }
        }
    }

    /// Collects buffers that the device has sent.
    fn reclaim(&mut self) {
        while let Some(token) = self.transmit.peek_used() {
            let Some(mut buffer) = self.sending.get_mut(usize::from(token)).and_then(Option::take) else { return };
            // SAFETY: the buffer is the one that was added with this token.
            if unsafe { self.transmit.pop_used(token, &[&buffer], &mut []) }.is_err() {
                return;
            }
            buffer.clear();
            self.pool.push(buffer);
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
        self.put_returned(received.buffer);
    }

    fn sent(&self) -> u64 {
        self.sent
    }

    fn completed(&mut self) -> u64 {
        self.reclaim();
        self.completed
    }

    fn buffer(&mut self) -> Option<Vec<u8>> {
        if self.pool.is_empty() {
            self.reclaim();
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
        // SAFETY: the buffer stays in `sending`, untouched, until `pop_used` gives its token back.
        match unsafe { self.transmit.add(&[&buffer], &mut []) } {
            Ok(token) => {
                self.sending[usize::from(token)] = Some(buffer);
                self.sent += 1;
                // Always kick unless the device is at work on the queue: a suppressed kick is only ever late, because
                // the device looks at the queue again before it sleeps.
                if !self.barriers || self.transmit.should_notify() {
                    self.transport.notify(TRANSMIT_QUEUE);
                }
            }
            // There are fewer buffers than descriptors, so the queue cannot be full.
            Err(_) => self.pool.push(buffer),
        }
    }

    fn set_interrupts(&mut self, enabled: bool) {
        self.receive.set_dev_notify(enabled);
        if enabled && !self.barriers {
            // An access to a device takes a lock, which is a barrier as well.
            super::apic::timer_left();
        }
    }

    fn acknowledge(&mut self) {
        self.acknowledge.write(&mut self.transport);
    }
}
