//! Checkpoints in memory, and so at the backup.

use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::convert::Infallible;

use super::{Entry, Target, check_unused};
use crate::error::Error;

/// Checkpoints in memory of the program.
///
/// # At the backup
///
/// Under a pair this memory is there twice, like all memory of the program: the backup has taken the same checkpoint at the
/// same instruction. So this *is* the target "the backup". It needs no transfer, and nothing needs to be waited for: by the
/// rule of output commit nothing that the program says after a commit leaves the pair before the backup holds every event
/// that the checkpoint depends on. Whoever has heard of a checkpoint can have it restored after the primary's death. What
/// it does not survive is the end of both replicas; for that there is [`Archive`](super::Archive).
#[derive(Debug)]
pub struct Memory {
    limit_bytes: u64,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    entries: Vec<(Entry, Vec<u8>)>,
    draft: Option<Vec<u8>>,
}

impl State {
    fn used_bytes(&self) -> u64 {
        let draft = self.draft.as_ref().map_or(0, Vec::len) as u64;
        self.entries.iter().map(|(entry, _)| entry.bytes).sum::<u64>() + draft
    }
}

impl Memory {
    /// Room for this many bytes of checkpoints, one being written included.
    pub fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, state: RefCell::default() }
    }

    /// Bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.state.borrow().used_bytes()
    }

    /// Bytes of an entry as they are stored, to be sent elsewhere.
    pub fn export(&self, sequence: u64) -> Option<Vec<u8>> {
        let state = self.state.borrow();
        state.entries.iter().find(|(entry, _)| entry.sequence == sequence).map(|(_, bytes)| bytes.clone())
    }

    /// Adds a checkpoint that came from elsewhere. It is looked at when it is restored.
    ///
    /// # Errors
    /// [`Error::Full`]; [`Error::Name`] when there is an entry of this number.
    pub fn import(&self, mut entry: Entry, bytes: Vec<u8>) -> Result<(), Error<Infallible>> {
        let mut state = self.state.borrow_mut();
        entry.bytes = bytes.len() as u64;
        self.check_room(&state, entry.bytes)?;
        let place = state.entries.partition_point(|(other, _)| other.sequence < entry.sequence);
        if state.entries.get(place).is_some_and(|(other, _)| other.sequence == entry.sequence) {
            return Err(Error::Name { name: entry.name });
        }
        state.entries.insert(place, (entry, bytes));
        Ok(())
    }

    fn check_room(&self, state: &State, needed_bytes: u64) -> Result<(), Error<Infallible>> {
        let free_bytes = self.limit_bytes.saturating_sub(state.used_bytes());
        if needed_bytes > free_bytes { Err(Error::Full { needed_bytes, free_bytes }) } else { Ok(()) }
    }
}

impl Target for Memory {
    type Error = Infallible;

    fn entries(&self) -> Vec<Entry> {
        self.state.borrow().entries.iter().map(|(entry, _)| entry.clone()).collect()
    }

    /// Checks no more than that there is a draft's place: what `most_bytes` allows for is seldom used, and memory is asked
    /// for as the checkpoint grows.
    async fn begin(&self, _most_bytes: u64) -> Result<(), Error<Infallible>> {
        let mut state = self.state.borrow_mut();
        if state.draft.is_some() {
            return Err(Error::Busy);
        }
        state.draft = Some(Vec::new());
        Ok(())
    }

    async fn append(&self, bytes: &[u8]) -> Result<(), Error<Infallible>> {
        let mut state = self.state.borrow_mut();
        self.check_room(&state, bytes.len() as u64)?;
        state.draft.get_or_insert_default().extend_from_slice(bytes);
        Ok(())
    }

    async fn commit(&self, entry: Entry, replaced: &[u64]) -> Result<(), Error<Infallible>> {
        let mut state = self.state.borrow_mut();
        let mut bytes = state.draft.take().unwrap_or_default();
        bytes.shrink_to_fit();
        state.entries.retain(|(old, _)| !replaced.contains(&old.sequence));
        state.entries.push((entry, bytes));
        Ok(())
    }

    fn abort(&self) {
        self.state.borrow_mut().draft = None;
    }

    async fn read(&self, sequence: u64, offset: u64, into: &mut [u8]) -> Result<(), Error<Infallible>> {
        let state = self.state.borrow();
        let found = state.entries.iter().find(|(entry, _)| entry.sequence == sequence);
        let bytes = found.and_then(|(_, bytes)| bytes.get(offset as usize..)?.get(..into.len()));
        into.copy_from_slice(bytes.ok_or_else(|| Error::NoSuch { asked: sequence.to_string() })?);
        Ok(())
    }

    async fn remove(&self, sequences: &[u64]) -> Result<(), Error<Infallible>> {
        check_unused(&self.entries(), sequences)?;
        self.state.borrow_mut().entries.retain(|(entry, _)| !sequences.contains(&entry.sequence));
        Ok(())
    }
}
