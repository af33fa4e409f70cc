//! Checkpoints in memory, and so at the backup.

use alloc::string::ToString;
use alloc::vec;
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
    entries: Vec<(Entry, Pieces)>,
    draft: Option<Pieces>,
}

/// A checkpoint in the pieces in which it came: nothing is copied when it grows, and no large piece of memory is asked for.
#[derive(Clone, Debug, Default)]
struct Pieces {
    /// Where each begins, and what it is.
    all: Vec<(u64, Vec<u8>)>,
    bytes: u64,
}

impl Pieces {
    /// Adds a copy of these bytes. Returns whether there was memory.
    fn add(&mut self, bytes: &[u8]) -> bool {
        let mut piece = Vec::new();
        if piece.try_reserve_exact(bytes.len()).is_err() || self.all.try_reserve(1).is_err() {
            return false;
        }
        piece.extend_from_slice(bytes);
        self.all.push((self.bytes, piece));
        self.bytes += bytes.len() as u64;
        true
    }

    /// Fills `into` from `offset` on. Returns whether there are as many bytes.
    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        let fits = offset.checked_add(into.len() as u64).is_some_and(|end| end <= self.bytes);
        let first = self.all.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
        let mut filled = 0;
        for (start, piece) in self.all.get(first..).filter(|_| fits).unwrap_or_default() {
            if filled == into.len() {
                break;
            }
            let skipped = (offset + filled as u64 - start) as usize;
            let rest = piece.get(skipped..).unwrap_or_default();
            let part = &rest[..rest.len().min(into.len() - filled)];
            into[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
        }
        fits
    }
}

impl State {
    fn used_bytes(&self) -> u64 {
        let draft = self.draft.as_ref().map_or(0, |draft| draft.bytes);
        self.entries.iter().map(|(entry, _)| entry.bytes).sum::<u64>() + draft
    }
}

impl Memory {
    /// Room for this many bytes of checkpoints, one being written included; less if there is less memory.
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
        state.entries.iter().find(|(entry, _)| entry.sequence == sequence).map(|(_, pieces)| {
            let mut bytes = vec![0; pieces.bytes as usize];
            pieces.read(0, &mut bytes);
            bytes
        })
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
        let pieces = Pieces { bytes: entry.bytes, all: vec![(0, bytes)] };
        state.entries.insert(place, (entry, pieces));
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
        state.draft = Some(Pieces::default());
        Ok(())
    }

    async fn append(&self, bytes: &[u8]) -> Result<(), Error<Infallible>> {
        let mut state = self.state.borrow_mut();
        self.check_room(&state, bytes.len() as u64)?;
        let needed_bytes = bytes.len() as u64;
        let added = state.draft.get_or_insert_default().add(bytes);
        if added { Ok(()) } else { Err(Error::Full { needed_bytes, free_bytes: 0 }) }
    }

    async fn commit(&self, entry: Entry, replaced: &[u64]) -> Result<(), Error<Infallible>> {
        let mut state = self.state.borrow_mut();
        let pieces = state.draft.take().unwrap_or_default();
        state.entries.retain(|(old, _)| !replaced.contains(&old.sequence));
        state.entries.push((entry, pieces));
        Ok(())
    }

    fn abort(&self) {
        self.state.borrow_mut().draft = None;
    }

    async fn read(&self, sequence: u64, offset: u64, into: &mut [u8]) -> Result<(), Error<Infallible>> {
        let state = self.state.borrow();
        let found = state.entries.iter().find(|(entry, _)| entry.sequence == sequence);
        let read = found.is_some_and(|(_, pieces)| pieces.read(offset, into));
        if read { Ok(()) } else { Err(Error::NoSuch { asked: sequence.to_string() }) }
    }

    async fn remove(&self, sequences: &[u64]) -> Result<(), Error<Infallible>> {
        check_unused(&self.entries(), sequences)?;
        self.state.borrow_mut().entries.retain(|(entry, _)| !sequences.contains(&entry.sequence));
        Ok(())
    }
}
