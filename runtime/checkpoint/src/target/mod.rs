//! Where checkpoints are kept.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Debug;

use crate::error::Error;
use crate::format::Kind;

mod archive;
mod memory;

#[cfg(test)]
pub(crate) use archive::Sabotage;
pub use archive::{Archive, MAX_ENTRIES};
pub use memory::Memory;

/// A committed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name. A full checkpoint takes the place of all older ones of its name, incremental ones are added to it.
    pub name: String,
    /// Its number: later ones have higher numbers.
    pub sequence: u64,
    /// Names its content: the last checksum in it.
    pub id: u64,
    /// Number of the one that it builds upon.
    pub base: Option<u64>,
    /// Its length in bytes.
    pub bytes: u64,
}

impl Entry {
    /// Whether it stands alone.
    pub fn kind(&self) -> Kind {
        if self.base.is_some() { Kind::Incremental } else { Kind::Full }
    }
}

/// A place for checkpoints, for one thread. At most one is being written at a time; [`begin`](Self::begin),
/// [`append`](Self::append) and [`commit`](Self::commit) or [`abort`](Self::abort) belong to it.
///
/// Whatever goes wrong, and whenever the program ends, what was committed stays; a commit is there wholly or not at all.
#[expect(async_fn_in_trait, reason = "one thread: nothing here crosses to another")]
pub trait Target {
    /// Why a device failed.
    type Error: Clone + Debug;

    /// What is there, by number.
    fn entries(&self) -> Vec<Entry>;

    /// Makes room for a checkpoint of at most `most_bytes`. No other is written before this one is committed or aborted.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Full`], [`Error::Device`].
    async fn begin(&self, most_bytes: u64) -> Result<(), Error<Self::Error>>;

    /// Adds bytes to it. All but the last have a multiple of 512 bytes.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Device`].
    async fn append(&self, bytes: &[u8]) -> Result<(), Error<Self::Error>>;

    /// Makes it one of the entries, and removes those whose numbers are `replaced`, both or neither. When this returns, it
    /// survives whatever the target survives.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::Device`]: then it may be there or not after a crash, and is not before.
    async fn commit(&self, entry: Entry, replaced: &[u64]) -> Result<(), Error<Self::Error>>;

    /// Forgets it.
    fn abort(&self);

    /// Fills `into` with bytes of an entry from `offset` on; `into` does not reach beyond its end.
    ///
    /// # Errors
    /// [`Error::NoSuch`], [`Error::Device`].
    async fn read(&self, sequence: u64, offset: u64, into: &mut [u8]) -> Result<(), Error<Self::Error>>;

    /// Removes entries, all or none; numbers that are not there are ignored.
    ///
    /// # Errors
    /// [`Error::InUse`] when one that stays builds upon one of them, [`Error::Device`].
    async fn remove(&self, sequences: &[u64]) -> Result<(), Error<Self::Error>>;

    /// The newest entry of a name.
    fn newest(&self, name: &str) -> Option<Entry> {
        self.entries().into_iter().rfind(|entry| entry.name == name)
    }
}

/// Refuses to remove what others build upon.
fn check_unused<E>(entries: &[Entry], removed: &[u64]) -> Result<(), Error<E>> {
    for entry in entries.iter().filter(|entry| !removed.contains(&entry.sequence)) {
        if let Some(base) = entry.base.filter(|base| removed.contains(base)) {
            return Err(Error::InUse { sequence: base, by: entry.sequence });
        }
    }
    Ok(())
}

macro_rules! by_reference {
    ($($type:ty),*) => { $(
        impl<T: Target> Target for $type {
            type Error = T::Error;

            fn entries(&self) -> Vec<Entry> {
                (**self).entries()
            }

            async fn begin(&self, most_bytes: u64) -> Result<(), Error<T::Error>> {
                (**self).begin(most_bytes).await
            }

            async fn append(&self, bytes: &[u8]) -> Result<(), Error<T::Error>> {
                (**self).append(bytes).await
            }

            async fn commit(&self, entry: Entry, replaced: &[u64]) -> Result<(), Error<T::Error>> {
                (**self).commit(entry, replaced).await
            }

            fn abort(&self) {
                (**self).abort();
            }

            async fn read(&self, sequence: u64, offset: u64, into: &mut [u8]) -> Result<(), Error<T::Error>> {
                (**self).read(sequence, offset, into).await
            }

            async fn remove(&self, sequences: &[u64]) -> Result<(), Error<T::Error>> {
                (**self).remove(sequences).await
            }
        }
    )* };
}

by_reference!(&T, Rc<T>);
