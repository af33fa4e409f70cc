//! Single-producer, single-consumer rings of records in guest memory.
//!
//! Positions are free-running byte counts, multiples of 8, taken modulo the capacity. A record never wraps: where
//! it does not fit before the end of the data area, a [`KIND_SKIP`] header fills the rest.
//!
//! Guest and shim never run at the same time, so the ring needs no ordering; but neither side trusts the other.
//! Each keeps its own position in its own memory, publishes it in the header, and checks the position that it
//! reads: a damaged header is a [`RingError`], never an access outside the data area.

use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::ABI_VERSION;
use crate::record::{ALIGNMENT_BYTES, HEADER_BYTES, Header, KIND_SKIP, MAX_PAYLOAD_BYTES, total_bytes};

/// Bytes from the ring's address to its data area.
pub const DATA_OFFSET: usize = size_of::<RingHeader>();

/// The smallest data area. A record of up to half the capacity always fits into an empty ring.
pub const MIN_CAPACITY_BYTES: u32 = 4096;

/// What stands in front of a ring's data area.
#[derive(Debug)]
#[repr(C)]
pub struct RingHeader {
    /// [`ABI_VERSION`].
    pub version: u32,
    /// Bytes of this structure.
    pub struct_bytes: u32,
    /// Bytes of the data area, a power of two.
    pub capacity_bytes: u32,
    /// Zero.
    pub reserved: u32,
    /// The producer's position.
    pub head: AtomicU32,
    /// Zero.
    pub padding: [u32; 10],
    /// The consumer's position.
    pub tail: AtomicU32,
}

/// What a ring's reader may find wrong with what the other side wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingError {
    /// The header's version, size or capacity is not what this side set up.
    Header,
    /// A position that is unaligned or more than the capacity away from ours.
    Position {
        /// Our own position.
        ours: u32,
        /// The position that the other side published.
        theirs: u32,
    },
    /// A record that is longer than a record may be, or that crosses the end of what was published.
    Record {
        /// Position of the record.
        at: u32,
        /// Its claimed payload.
        payload_bytes: u32,
    },
}

impl core::fmt::Display for RingError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Header => write!(f, "ring header is not the one that was set up"),
            Self::Position { ours, theirs } => {
                write!(f, "ring position {theirs:#x} is unaligned or too far from {ours:#x}")
            }
            Self::Record { at, payload_bytes } => {
                write!(f, "ring record at {at:#x} claims {payload_bytes} bytes, more than were published or allowed")
            }
        }
    }
}

/// Where a ring lies, seen from one side.
#[derive(Debug, Clone, Copy)]
struct Memory {
    header: *mut RingHeader,
    data: *mut u8,
    capacity: u32,
}

impl Memory {
    /// # Safety
    /// `base` points to `DATA_OFFSET + capacity` bytes, 8-aligned, valid for reads and writes as long as the
    /// value is used, and not accessed by anybody else while this side runs.
    unsafe fn new(base: *mut u8, capacity: u32) -> Self {
        assert!(capacity.is_power_of_two() && capacity >= MIN_CAPACITY_BYTES);
        // SAFETY: the offset stays within the range that the caller vouches for.
        Self { header: base.cast(), data: unsafe { base.add(DATA_OFFSET) }, capacity }
    }

    fn head(&self) -> &AtomicU32 {
        // SAFETY: `header` is valid and aligned by the contract of `new`.
        unsafe { &(*self.header).head }
    }

    fn tail(&self) -> &AtomicU32 {
        // SAFETY: as for `head`.
        unsafe { &(*self.header).tail }
    }

    #[inline]
    fn offset(&self, position: u32) -> usize {
        (position & (self.capacity - 1)) as usize
    }

    #[inline]
    fn read_header(&self, position: u32) -> Header {
        // SAFETY: positions are multiples of 8 and the offset is below the capacity, itself a multiple of 8, so
        // the eight bytes lie in the data area.
        Header::decode(unsafe { ptr::read(self.data.add(self.offset(position)).cast()) })
    }

    #[inline]
    fn write_header(&self, position: u32, header: Header) {
        // SAFETY: as for `read_header`.
        unsafe { ptr::write(self.data.add(self.offset(position)).cast(), header.encode()) }
    }
}

/// Writes the header of an empty ring at `base`.
///
/// # Safety
/// `base` points to `DATA_OFFSET + capacity_bytes` writable bytes, 8-aligned.
pub unsafe fn initialise(base: *mut u8, capacity_bytes: u32) {
    let header = RingHeader {
        version: ABI_VERSION,
        struct_bytes: size_of::<RingHeader>() as u32,
        capacity_bytes,
        reserved: 0,
        head: AtomicU32::new(0),
        padding: [0; 10],
        tail: AtomicU32::new(0),
    };
    // SAFETY: the caller vouches for the memory.
    unsafe { ptr::write(base.cast(), header) }
}

/// Checks that a ring that the other side has set up is one of this version and capacity.
///
/// # Safety
/// `base` points to a readable, 8-aligned [`RingHeader`].
pub unsafe fn check(base: *const u8, capacity_bytes: u32) -> Result<(), RingError> {
    // SAFETY: the caller vouches for the memory.
    let header = unsafe { &*base.cast::<RingHeader>() };
    let good = header.version == ABI_VERSION
        && header.struct_bytes as usize == size_of::<RingHeader>()
        && header.capacity_bytes == capacity_bytes;
    if good { Ok(()) } else { Err(RingError::Header) }
}

/// The writing side of a ring.
#[derive(Debug)]
pub struct Producer {
    memory: Memory,
    head: u32,
}

impl Producer {
    /// The producer of an initialised ring, at position `head` (0 for a fresh ring).
    ///
    /// # Safety
    /// `base` points to `DATA_OFFSET + capacity` bytes, 8-aligned, valid for reads and writes for as long as the
    /// producer lives, and nobody else accesses them while a method of it runs or a borrow from it lives.
    pub unsafe fn new(base: *mut u8, capacity: u32, head: u32) -> Self {
        // SAFETY: same contract.
        Self { memory: unsafe { Memory::new(base, capacity) }, head }
    }

    /// Our own position: how many bytes were ever published, modulo 2^32.
    pub fn position(&self) -> u32 {
        self.head
    }

    /// Bytes free, before padding and skips.
    #[inline]
    pub fn free_bytes(&self) -> Result<u32, RingError> {
        let tail = self.memory.tail().load(Relaxed);
        let used = self.head.wrapping_sub(tail);
        if used > self.memory.capacity || !tail.is_multiple_of(ALIGNMENT_BYTES as u32) {
            return Err(RingError::Position { ours: self.head, theirs: tail });
        }
        Ok(self.memory.capacity - used)
    }

    /// Whether a record with a payload of this size fits now.
    #[inline]
    pub fn fits(&self, payload_bytes: usize) -> Result<bool, RingError> {
        let need = total_bytes(payload_bytes) as u32;
        Ok(need + self.skip_bytes(need) <= self.free_bytes()?)
    }

    #[inline]
    fn skip_bytes(&self, need: u32) -> u32 {
        let to_end = self.memory.capacity - self.memory.offset(self.head) as u32;
        if need > to_end { to_end } else { 0 }
    }

    /// Appends a record whose payload `fill` writes in place. Returns whether there was room.
    ///
    /// # Panics
    /// If `payload_bytes` is above [`MAX_PAYLOAD_BYTES`], which is an error of the caller.
    #[inline]
    pub fn push_with(
        &mut self,
        kind: u16,
        payload_bytes: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<bool, RingError> {
        assert!(payload_bytes <= MAX_PAYLOAD_BYTES);
        if !self.fits(payload_bytes)? {
            return Ok(false);
        }
        let need = total_bytes(payload_bytes) as u32;
        let skip = self.skip_bytes(need);
        if skip != 0 {
            self.memory.write_header(self.head, Header::new(KIND_SKIP, skip - HEADER_BYTES as u32));
            self.head = self.head.wrapping_add(skip);
        }
        self.memory.write_header(self.head, Header::new(kind, payload_bytes as u32));
        let start = self.memory.offset(self.head) + HEADER_BYTES;
        let padded = need as usize - HEADER_BYTES;
        if padded != payload_bytes {
            // SAFETY: the last word of the padded payload lies in the data area; it is zeroed so that padding
            // never carries old bytes from one replica's memory into a digest.
            unsafe { ptr::write(self.memory.data.add(start + padded - 8).cast::<u64>(), 0) };
        }
        // SAFETY: `fits` showed that the record lies in the free part of the data area, and `skip` that it does
        // not cross its end; nobody else accesses it by the contract of `new`.
        fill(unsafe { core::slice::from_raw_parts_mut(self.memory.data.add(start), payload_bytes) });
        self.head = self.head.wrapping_add(need);
        self.memory.head().store(self.head, Relaxed);
        Ok(true)
    }

    /// Appends a record. Returns whether there was room.
    #[inline]
    pub fn push(&mut self, kind: u16, payload: &[u8]) -> Result<bool, RingError> {
        self.push_with(kind, payload.len(), |place| place.copy_from_slice(payload))
    }
}

/// One record of a ring.
#[derive(Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// One of the `KIND_` constants, or something else that the producer wrote.
    pub kind: u16,
    /// The payload without padding.
    pub payload: &'a mut [u8],
}

/// The reading side of a ring.
#[derive(Debug)]
pub struct Consumer {
    memory: Memory,
    tail: u32,
}

impl Consumer {
    /// The consumer of an initialised ring, at position `tail` (0 for a fresh ring).
    ///
    /// # Safety
    /// As for [`Producer::new`].
    pub unsafe fn new(base: *mut u8, capacity: u32, tail: u32) -> Self {
        // SAFETY: same contract.
        Self { memory: unsafe { Memory::new(base, capacity) }, tail }
    }

    /// Our own position: how many bytes were ever consumed, modulo 2^32.
    pub fn position(&self) -> u32 {
        self.tail
    }

    /// Whether nothing was published beyond our position.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.memory.head().load(Relaxed) == self.tail
    }

    fn published_bytes(&self) -> Result<u32, RingError> {
        let head = self.memory.head().load(Relaxed);
        let available = head.wrapping_sub(self.tail);
        if available > self.memory.capacity || !head.is_multiple_of(ALIGNMENT_BYTES as u32) {
            return Err(RingError::Position { ours: self.tail, theirs: head });
        }
        Ok(available)
    }

    /// Takes the next record: hands it to `read` and frees it afterwards. `None` when the ring is empty.
    #[inline]
    pub fn pop_with<R>(&mut self, read: impl FnOnce(Record<'_>) -> R) -> Result<Option<R>, RingError> {
        loop {
            let available = self.published_bytes()?;
            if available == 0 {
                return Ok(None);
            }
            let header = self.memory.read_header(self.tail);
            let damaged = RingError::Record { at: self.tail, payload_bytes: header.payload_bytes };
            let to_end = self.memory.capacity - self.memory.offset(self.tail) as u32;
            if header.kind == KIND_SKIP {
                if header.payload_bytes != to_end - HEADER_BYTES as u32 || to_end > available {
                    return Err(damaged);
                }
                self.advance(to_end);
                continue;
            }
            let need = total_bytes(header.payload_bytes.min(u32::MAX / 2) as usize) as u32;
            if header.payload_bytes as usize > MAX_PAYLOAD_BYTES || need > available || need > to_end {
                return Err(damaged);
            }
            let start = self.memory.offset(self.tail) + HEADER_BYTES;
            // SAFETY: the record lies before the end of the data area (`need <= to_end`), and nobody else
            // accesses it by the contract of `new`.
            let payload =
                unsafe { core::slice::from_raw_parts_mut(self.memory.data.add(start), header.payload_bytes as usize) };
            let result = read(Record { kind: header.kind, payload });
            self.advance(need);
            return Ok(Some(result));
        }
    }

    #[inline]
    fn advance(&mut self, bytes: u32) {
        self.tail = self.tail.wrapping_add(bytes);
        self.memory.tail().store(self.tail, Relaxed);
    }
}

#[cfg(test)]
mod tests;
