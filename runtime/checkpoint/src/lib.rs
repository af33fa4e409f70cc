//! User-level checkpoints: primitives from which a program builds the recovery that it needs.
//!
//! The shim saves a whole machine without the program's help. Here the program says itself what is worth saving, and when,
//! and where to: a few bytes instead of megabytes, at a moment that suits it, in an encoding that outlives the machine's
//! memory layout. After *Design and Implementation of Process Checkpointing System Based on Linux Kernel* (2009), whose
//! user-level library, like libckpt before it (Plank, Beck, Kingsley, Li 1995), has the same primitives.
//!
//! ```
//! use user_checkpoint::{Checkpoints, Memory};
//! # recordstore::model::run(async {
//! let checkpoints = Checkpoints::new("bank");
//! let accounts = checkpoints.region("accounts", vec![0; 1 << 20], &[])?;
//! let transfers = checkpoints.value("transfers", 1, 0_u64)?;
//! let memory = Memory::new(4 << 20);
//!
//! checkpoints.full("hourly", &memory)?.commit().await?;
//! accounts.change(0..8, |bytes| bytes.fill(7));
//! transfers.change(|count| *count += 1);
//! checkpoints.incremental("hourly", &memory)?.commit().await?;
//! accounts.change_all(|bytes| bytes.fill(0xff));
//!
//! checkpoints.restore(&memory, "hourly").await?;
//! assert!(accounts.with(|bytes| bytes[..9] == [7, 7, 7, 7, 7, 7, 7, 7, 0]) && transfers.with(|count| *count == 1));
//! # Ok::<(), Box<dyn std::error::Error>>(()) }, || ()).unwrap();
//! ```
//!
//! | primitive | by |
//! |---|---|
//! | register plain bytes, or a value that is encoded, or encodes itself | [`Checkpoints::region`], [`Checkpoints::value`], [`Checkpoints::encoded`] |
//! | exclude scratch memory | ranges given to [`Checkpoints::region`] |
//! | take all, or what has changed | [`Checkpoints::full`], [`Checkpoints::incremental`]: a [`Draft`] |
//! | go on while it is written (*forked*) | spawn the future of [`Draft::commit`] instead of awaiting it |
//! | commit, abort | [`Draft::commit`], [`Draft::abort`]; [`Draft::write`] for two phases |
//! | name, list, remove | [`Entry`], [`Target::entries`], [`Target::newest`], [`Target::remove`] |
//! | restore all, restore one part, check | [`Checkpoints::restore`], [`Checkpoints::restore_part`], [`Checkpoints::verify`] |
//! | hooks before and after | [`Checkpoints::hook`] |
//! | targets: memory, and so the backup; a block device; your own | [`Memory`], [`Archive`], [`Target`] |
//!
//! # How changes are found
//!
//! A program has no page tables to ask. A [`Region`] hands its bytes out by [`Region::change`], for a range, and so knows
//! the blocks of [`BLOCK_BYTES`] that were written to: a bit each. An incremental checkpoint looks at those, and hashes
//! each to see whether it differs from the base: a bit that is set too often costs a hash, and no room. Marks alone would
//! save what was written and is the same (who asks for [`Region::change_all`] would save everything); hashes alone would
//! read all memory. `cargo run --release -p user-checkpoint --example cost` measures each. Two blocks with equal hashes
//! are taken for the same: by accident that happens once in 2^64 changed blocks.
//!
//! # Writing while the program goes on
//!
//! Nothing forks here, so nothing copies on write by itself. The same marks serve: from the moment that a checkpoint is
//! taken until a block is written, [`Region::change`] copies the block first. Taking one so costs a few words a block,
//! each block changed meanwhile a copy (once), and values are encoded at once.
//!
//! # Determinism
//!
//! No clock, no random number, no address, and no iteration over what is not ordered: under a pair both replicas take the
//! same checkpoints, byte for byte.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bits;
mod checkpoints;
mod draft;
mod encoded;
mod error;
mod format;
mod part;
mod region;
mod restore;
mod target;
#[cfg(test)]
mod tests;
mod value;

pub use checkpoints::{Checkpoints, Moment};
pub use draft::Draft;
pub use encoded::Encoded;
pub use error::{Error, RegisterError};
pub use format::{Kind, MAX_NAME_BYTES, MAX_PARTS};
pub use part::{NotDecoded, PartKind, Shape};
pub use recordstore::BlockDevice;
pub use region::Region;
pub use restore::Which;
pub use target::{Archive, Entry, MAX_ENTRIES, Memory, Target};
pub use value::Value;

/// Bytes in which a region's changes are counted, and the longest piece of a checkpoint.
pub const BLOCK_BYTES: usize = 4096;
