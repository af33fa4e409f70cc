//! A crash-safe, log-structured store of records on a block device.
//!
//! Records are appended in batches and read back, in order, when the store is opened. What was [synced](Store::sync)
//! is there after a crash at any moment, nothing is invented, and what was not synced is there as a prefix: never with
//! a hole in it. A log that has grown long is replaced by a shorter one that says the same: the new log is written
//! beside the old one and takes its place by one block, so a crash leaves the one or the other.
//!
//! ```text
//! block 0        superblock, even sequence numbers
//! block 8        superblock, odd sequence numbers (in another 4 KiB sector)
//! block 16 ...   segments of equal length; a log is a chain of segments
//!   segment:     chunk | chunk | ... | link to the next segment
//!   chunk:       header (64 bytes), records, padding to a block
//! ```
//!
//! # Why a crash cannot hurt
//!
//! * **No stable block is written again** while a superblock can lead to it. Every batch starts on a block of its own;
//!   the tail of a block is padding, not room for later. So a write that is torn, at whatever grain, damages only itself,
//!   and nothing is assumed of the device's atomicity, not even that a block is written whole. The price is padding: a
//!   batch of one small record takes a block, which is why callers batch.
//! * **A chunk is believed only behind its own predecessor.** Its header names the predecessor's checksum, its log, its
//!   number in the log and the *opening* of the store that wrote it (both superblocks are renewed with a new number
//!   before an opening writes anything). Numbers of logs are never used twice, and one opening writes one chunk of a log
//!   once. So what an earlier lap has left in a segment, or an earlier crash behind the torn tail, has a predecessor that
//!   is not the one now before it, and is not read: not even if the same records are appended again after the crash.
//!   The torn chunk itself is dead too, even if a later write over it is torn so that it becomes whole: each opening
//!   notes where the log ended, and what it does not hold by then must be of that opening.
//! * **Two superblocks, one after the other.** A switch flushes the new log, writes one superblock, flushes, writes the
//!   other, flushes, and only then gives the old log's segments free. At any moment at least one is whole, and either
//!   leads to a log that is.
//! * **Checksums are keyed** with a number drawn when the device was formatted, so that a record which looks like a
//!   chunk is not taken for one, whoever has chosen its bytes.
//!
//! # What is detected
//!
//! A tail that does not continue is where the log ends; that is what a crash leaves. But each chunk also says how much of
//! its log was stable when it was written. If a later chunk says that what is missing was stable, then a stored block was
//! changed or the device has lied about a flush: [`OpenError::Corrupt`]. Nothing tells the two apart for what came after
//! the last such word, that is for the last flush before the crash.
//!
//! # Limits
//!
//! A record takes less than 4 GiB. The live log may take two thirds of the segments; the rest is kept for its successor,
//! so a log that has filled the device can still be replaced by one of up to half its length.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod batch;
mod device;
mod error;
mod layout;
mod log;
#[cfg(any(test, feature = "model"))]
pub mod model;
mod replay;
mod segments;
mod store;
#[cfg(test)]
mod tests;

pub use batch::Batch;
pub use device::{BLOCK_BYTES, BlockDevice};
pub use error::{AppendError, OpenError};
pub use store::{Options, Presence, Replayed, Store, Usage};
