//! A crash-safe file system on a block device, for one program.
//!
//! What was [synced](FileSystem::sync) is there after a crash at any moment. What was changed since is there as a prefix in the
//! order of *commits*: a crash leaves the state of one commit as a whole, so a rename has happened or has not, and a file
//! never has the length of one moment with the name of another. A commit is made by a sync, when blocks run short, and
//! whenever the owner wants one (a timer, say). Nothing here has a clock: times are arguments.
//!
//! ```text
//! the device:   metadata log | data blocks of 4 KiB
//! metadata log: a recordstore, an eighth of the device
//! ```
//!
//! # How
//!
//! * **Metadata is a log**, a [`recordstore`]: records say what an inode, a name or a run of blocks is now. A commit is a
//!   batch of them between two marks; one without its end is not believed. When the log has grown long, all metadata is
//!   written to a new one, which takes the old one's place by one block.
//! * **Data is never overwritten.** A changed block goes to a free place; the records name that place and the checksum of what
//!   lies there. Data is flushed before the records that speak of it are written. The old place is free when the
//!   commit is stable, not before.
//! * **A checksum for every block**, in the metadata: what a device has changed is an error of the read
//!   ([`FsError::Io`]), not data.
//! * **Changes are gathered in memory**, in a cache of blocks that has a bound; what does not fit is written out early, to
//!   places that no commit speaks of yet.
//! * **Room is reserved** when a block is changed, so that it is the write that fails with [`FsError::NoSpace`] and not the
//!   sync. Some blocks are kept for changes to what is there, which need room until the commit.
//!
//! # Bounds
//!
//! All metadata is in memory: some 13 bytes for a block, 200 for a file and its name. [`Options::metadata_bytes`] is the
//! bound of that, and the log's size another; both end in [`FsError::NoSpace`]. Lists are in the order of names,
//! and free blocks are taken in the order of numbers, so equal operations leave equal devices.
// Images are compiled to inline much. What is called from many places and not often says `inline(never)`: it is in every
// ordinary program's image.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod blocks;
pub mod bundle;
mod cache;
mod commit;
mod data;
mod error;
mod fs;
mod inode;
mod mount;
mod names;
mod part;
mod record;
mod replay;
mod space;
#[cfg(test)]
mod tests;

pub use error::{FsError, MountError};
pub use fs::{FileSystem, ROOT, Room};
pub use inode::{Attributes, Ino, Kind, Times};
pub use mount::{Mounted, Options};
pub use names::Entry;

/// Bytes of a block of a file.
pub const BLOCK_BYTES: usize = 4096;
/// Longest name in bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link in bytes.
pub const MAX_TARGET_BYTES: usize = 4095;
/// Longest file in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 44;
