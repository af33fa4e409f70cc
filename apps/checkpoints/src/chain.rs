//! Algorithm 2: incremental checkpoints with a bounded chain.
//!
//! An incremental checkpoint is cheap to take, but a restore reads the whole chain, and nothing in it can be given up. So a
//! chain is begun anew by a full checkpoint when it has grown too many links, or when its links together are as large as
//! the full one: reading and keeping it then costs two to three full ones at most, whatever the changes; and unless the
//! number of links is what ends chains, half of what is written are changes.

use runtime::checkpoint::{Checkpoints, Entry, Error, Kind, Target};

/// How long a chain may become.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    /// Most incremental checkpoints after a full one.
    pub most_links: usize,
}

/// A chain as it lies in a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Length {
    /// Incremental checkpoints after the full one.
    pub links: usize,
    /// Their bytes together.
    pub links_bytes: u64,
    /// Bytes of the full one.
    pub full_bytes: u64,
}

impl Length {
    /// Of the chain of this name.
    pub fn of<T: Target>(target: &T, name: &str) -> Self {
        let mut length = Self::default();
        for entry in target.entries().iter().filter(|entry| entry.name == name) {
            match entry.kind() {
                Kind::Full => length = Self { full_bytes: entry.bytes, ..Self::default() },
                Kind::Incremental => {
                    length.links += 1;
                    length.links_bytes += entry.bytes;
                }
            }
        }
        length
    }
}

impl Chain {
    /// What the next checkpoint should be.
    pub fn next_kind(&self, length: Length) -> Kind {
        let is_long = length.links >= self.most_links || length.links_bytes >= length.full_bytes;
        if is_long { Kind::Full } else { Kind::Incremental }
    }

    /// Takes the next checkpoint of a chain.
    ///
    /// # Errors
    /// Those of a checkpoint.
    pub async fn take<T: Target>(
        &self,
        checkpoints: &Checkpoints,
        name: &str,
        target: &T,
    ) -> Result<Entry, Error<T::Error>> {
        let draft = match self.next_kind(Length::of(target, name)) {
            Kind::Full => checkpoints.full(name, target),
            // After a start without a restore, say, there is nothing to build upon.
            Kind::Incremental => match checkpoints.incremental(name, target) {
                Err(Error::NoBase { .. }) => checkpoints.full(name, target),
                other => other,
            },
        };
        draft?.commit().await
    }
}
