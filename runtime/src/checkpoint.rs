//! User-level checkpoints: what a program saves of itself, where to, and how it comes back.
//!
//! All of it is the crate [`user_checkpoint`], whose text says what there is; here are a disk of this machine as a
//! [target](Target) and checkpoints that are written while the program goes on.
//!
//! ```ignore
//! let archive = Archive::open(Disk::open("data")?).await?;
//! let checkpoints = Checkpoints::new("shop");
//! let orders = checkpoints.value("orders", 1, Orders::default())?;
//! if archive.newest("shop").is_some() {
//!     checkpoints.restore(&archive, "shop").await?;
//! }
//! // ...
//! checkpoints.full("shop", &archive)?.commit().await?;
//! ```
//!
//! # Memory, the backup, a disk
//!
//! | target | survives |
//! |---|---|
//! | [`Memory`] | the program's own mistakes; under a pair also the death of the primary, because the backup has the same memory: this is the target "the backup" |
//! | [`Archive`] on a [`Disk`] | the death of both |

pub use user_checkpoint::*;

use crate::block::{Disk, Errno};
use crate::executor::{JoinHandle, spawn};

const _: () = assert!(recordstore::BLOCK_BYTES == crate::block::BLOCK_BYTES);

/// Writes and commits a checkpoint that was taken, beside the task that has taken it (*forked*): the program goes on at
/// once, and what it changes is not in the checkpoint. The handle gives the entry, or why there is none; dropped, it lets
/// the checkpoint be finished by itself.
///
/// Nothing forks: each block of a region that is changed before it was written is copied first, 4 KiB each and once, and
/// the slices of 64 KiB in which it is written take their turns among the tasks.
pub fn forked<T: Target + 'static>(draft: Draft<T>) -> JoinHandle<Result<Entry, Error<T::Error>>> {
    spawn(draft.commit())
}

impl BlockDevice for Disk {
    type Error = Errno;

    fn blocks(&self) -> u64 {
        Disk::blocks(self)
    }

    async fn read(&self, first_block: u64, into: &mut [u8]) -> Result<(), Errno> {
        Disk::read(self, first_block, into).await
    }

    async fn write(&self, first_block: u64, from: &[u8]) -> Result<(), Errno> {
        Disk::write(self, first_block, from).await
    }

    async fn write_zeroes(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        Disk::write_zeroes(self, first_block, blocks).await
    }

    async fn discard(&self, first_block: u64, blocks: u64) -> Result<(), Errno> {
        Disk::discard(self, first_block, blocks).await
    }

    async fn flush(&self) -> Result<(), Errno> {
        Disk::flush(self).await
    }
}
