//! Disks for tasks.
//!
//! A disk is named in the app's manifest and given by `pollux up --disk NAME=FILE`. It is an array of blocks of
//! [`BLOCK_BYTES`]. Under a pair a disk has a mirror at each replica, or is shared by both; a program sees one. When a replica
//! takes over a shared disk, it does not know what of the operations in flight was done; this module has it done again, in
//! the same order, and programs do not notice.
//!
//! ```ignore
//! let disk = Disk::open("data")?;
//! disk.write(0, &superblock).await?;
//! disk.flush().await?;
//! ```
//!
//! Many operations may be in flight at once. One that overlaps an earlier one is carried out after it; an operation takes
//! its place in that order when its future is first polled. An operation is done or fails, never half of it by the word of
//! the disk; but a write of more than [`MAX_TRANSFER_BYTES`] goes in several pieces, one after the other, and when both
//! replicas die any write that was not flushed may be there, not there, or there in part, block by block.
//!
//! Data goes from the caller's buffer to the device and back with one copy, made by the shim between epochs. A future that
//! is dropped before it is done takes its buffer back: a write may have been carried out or not, a read goes nowhere. (It
//! must be dropped or completed. One that is leaked while it is in flight, by `mem::forget`, would have the shim write to
//! memory that is somebody else's by then.)

use alloc::boxed::Box;
use core::cell::RefCell;
use core::fmt;

use hypercall::disk::{DiskInfo, MAX_PLAIN_BLOCKS, Operation, Request};
use hypercall::errno;

mod requests;

pub use hypercall::disk::{BLOCK_BYTES, MAX_TRANSFER_BYTES};

use crate::platform;
use requests::{Requests, Transfer};

local! {
    static STATE: RefCell<Option<Box<Requests>>> = RefCell::new(None);
}

/// Why an operation was not done.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// There is no disk of this name.
    pub const ENOENT: Self = Self(errno::ENOENT as i32);
    /// The device has failed.
    pub const EIO: Self = Self(errno::EIO as i32);
    /// Beyond the end of the disk.
    pub const ENXIO: Self = Self(errno::ENXIO as i32);
    /// Not whole blocks.
    pub const EINVAL: Self = Self(errno::EINVAL as i32);
    /// The shim may not read or write the buffer.
    pub const EFAULT: Self = Self(errno::EFAULT as i32);

    /// The error with this number, as `hermit-abi` counts them.
    pub const fn new(code: i32) -> Self {
        Self(code)
    }

    /// Its number, as `hermit-abi` counts them.
    pub const fn code(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::ENOENT => "there is no disk of this name; give one to `pollux up` by --disk NAME=FILE (ENOENT)",
            Self::EIO => "the disk has failed to do it (EIO)",
            Self::ENXIO => "beyond the end of the disk (ENXIO)",
            Self::EINVAL => "not a whole number of blocks (EINVAL)",
            Self::EFAULT => "the buffer does not lie in memory of this guest (EFAULT)",
            Self(code) => return write!(f, "disk error {code}"),
        })
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::ENOENT => "ENOENT",
            Self::EIO => "EIO",
            Self::ENXIO => "ENXIO",
            Self::EINVAL => "EINVAL",
            Self::EFAULT => "EFAULT",
            Self(code) => return write!(f, "Errno({code})"),
        })
    }
}

impl core::error::Error for Errno {}

/// A disk of this guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    index: u32,
    blocks: u64,
    was_blank: bool,
}

impl Disk {
    /// The disk of this name.
    ///
    /// # Errors
    /// [`Errno::ENOENT`] when the machine has none.
    pub fn open(name: &str) -> Result<Self, Errno> {
        let index = table().iter().position(|disk| disk.name() == name).ok_or(Errno::ENOENT)?;
        let info = &table()[index];
        Ok(Self { index: index as u32, blocks: info.blocks, was_blank: info.is_blank() })
    }

    /// Its size in blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Whether all of it was zeros when the program was started, as its host has seen it.
    pub fn was_blank(&self) -> bool {
        self.was_blank
    }

    /// Fills `into`, whose length is a multiple of [`BLOCK_BYTES`], from `first_block` on.
    ///
    /// # Errors
    /// See [`Errno`]; the buffer's content is of no use then.
    pub async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), Errno> {
        self.check(first_block, into.len())?;
        for (piece, first_block) in into.chunks_mut(MAX_TRANSFER_BYTES).zip(piece_starts(first_block)) {
            let request = self.request(Operation::Read, first_block, blocks_of(piece), piece.as_mut_ptr() as u64);
            Transfer::new(request, piece).await?;
        }
        Ok(())
    }

    /// Writes `from`, whose length is a multiple of [`BLOCK_BYTES`], from `first_block` on.
    ///
    /// # Errors
    /// See [`Errno`]; the blocks may have been written to in part.
    pub async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), Errno> {
        self.check(first_block, from.len())?;
        for (piece, first_block) in from.chunks(MAX_TRANSFER_BYTES).zip(piece_starts(first_block)) {
            let request = self.request(Operation::Write, first_block, blocks_of(piece), piece.as_ptr() as u64);
            Transfer::new(request, piece).await?;
        }
        Ok(())
    }

    /// Writes zeros to blocks.
    ///
    /// # Errors
    /// See [`Errno`]; the blocks may have been written to in part.
    pub async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        self.plain(Operation::WriteZeroes, first_block, blocks).await
    }

    /// Writes zeros to blocks and lets the host have their room.
    ///
    /// # Errors
    /// See [`Errno`]; the blocks may have been written to in part.
    pub async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        self.plain(Operation::Discard, first_block, blocks).await
    }

    /// Makes stable what was done before it was called. Under a pair: on both mirrors, or on the one disk that both share.
    ///
    /// # Errors
    /// [`Errno::EIO`]: nobody knows what is stable then.
    pub async fn flush(&self) -> Result<(), Errno> {
        Transfer::new(self.request(Operation::Flush, 0, 0, 0), ()).await
    }

    async fn plain(&self, operation: Operation, first_block: u64, blocks: u64) -> Result<(), Errno> {
        let end = first_block.checked_add(blocks).filter(|&end| end <= self.blocks).ok_or(Errno::ENXIO)?;
        let mut next = first_block;
        while next < end {
            let piece = (end - next).min(MAX_PLAIN_BLOCKS);
            Transfer::new(self.request(operation, next, piece, 0), ()).await?;
            next += piece;
        }
        Ok(())
    }

    /// The shim checks all of it again; here it is checked before the first piece of several is written.
    fn check(&self, first_block: u64, bytes: usize) -> Result<(), Errno> {
        if !bytes.is_multiple_of(BLOCK_BYTES) {
            return Err(Errno::EINVAL);
        }
        let end = first_block.checked_add((bytes / BLOCK_BYTES) as u64);
        if end.is_some_and(|end| end <= self.blocks) { Ok(()) } else { Err(Errno::ENXIO) }
    }

    fn request(&self, operation: Operation, first_block: u64, blocks: u64, address: u64) -> Request {
        Request { operation: operation as u32, disk: self.index, first_block, blocks, address }
    }
}

/// Names and sizes in blocks of all disks, sorted by name.
pub fn disks() -> impl Iterator<Item = (&'static str, u64)> {
    table().iter().map(|disk| (disk.name(), disk.blocks))
}

fn table() -> &'static [DiskInfo] {
    let Some(boot) = platform::boot().filter(|boot| boot.disk_count > 0) else { return &[] };
    // SAFETY: the shim has put so many there and keeps them mapped read-only for as long as the guest runs.
    unsafe { core::slice::from_raw_parts(boot.disks as *const DiskInfo, boot.disk_count as usize) }
}

fn blocks_of(piece: &[u8]) -> u64 {
    (piece.len() / BLOCK_BYTES) as u64
}

fn piece_starts(first_block: u64) -> impl Iterator<Item = u64> {
    (first_block..).step_by(MAX_TRANSFER_BYTES / BLOCK_BYTES)
}

/// Takes the ring that the shim has set up.
///
/// # Panics
/// If it is not one of this ABI, after the shim has agreed on the ABI.
pub(crate) fn attach() {
    let Some(boot) = platform::boot() else { return };
    STATE.with(|state| *state.borrow_mut() = Some(Box::new(Requests::attach(boot))));
}

/// Drops the ring: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn detach() {
    let state = STATE.with(|state| state.borrow_mut().take());
    drop(state);
}

/// Hands the shim what tasks have asked for; it takes it when the epoch ends.
pub(crate) fn send() {
    STATE.with(|state| {
        if let Some(requests) = state.borrow_mut().as_mut() {
            requests.send();
        }
    });
}

/// Notes a completion that the receive ring has brought. Who waits for it is woken by [`dispatch`].
pub(crate) fn complete(payload: &[u8]) {
    STATE.with(|state| {
        if let Some(requests) = state.borrow_mut().as_mut() {
            requests.complete(payload);
        }
    });
}

/// Wakes those whose operations were completed. Foreign wakers may do anything, so nothing is borrowed meanwhile.
pub(crate) fn dispatch() {
    while let Some(wake) = STATE.with(|state| state.borrow_mut().as_mut().and_then(|requests| requests.next_woken())) {
        wake.wake();
    }
}

#[cfg(test)]
mod tests;
