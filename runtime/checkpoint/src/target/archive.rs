//! Checkpoints on a block device.
//!
//! ```text
//! block 0        catalogue, even generations
//! block 16       catalogue, odd generations
//! block 32 ...   checkpoints, each in one run of blocks
//! ```
//!
//! A checkpoint is written to blocks that no stable catalogue names and made stable; then the older catalogue's place gets a
//! new one, which is made stable in turn. So at any moment one place holds a whole catalogue, and everything that it names
//! is whole, at whatever grain a write is torn. Blocks of removed entries are free once the catalogue without them is
//! stable; the other place may then still hold one that names them, but an older one, and the newest whole one counts.
//!
//! After an error of the device it is unknown which catalogue is there. Before any block is written again, the place in
//! doubt gets the known one once more, with a newer generation.

use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::ops::Range;

use recordstore::{BLOCK_BYTES, BlockDevice};

use super::{Entry, Target, check_unused};
use crate::error::Error;
use crate::format::MAX_NAME_BYTES;
use crate::part::hash;

const MAGIC: [u8; 8] = *b"PLXARCHV";
const VERSION: u32 = 1;
const CATALOGUE_BLOCKS: u64 = 16;
const CATALOGUE_BYTES: usize = CATALOGUE_BLOCKS as usize * BLOCK_BYTES;
const FIRST_BLOCK: u64 = 2 * CATALOGUE_BLOCKS;
const HEADER_BYTES: usize = 64;
const ENTRY_BYTES: usize = 128;
/// Most checkpoints in an archive.
pub const MAX_ENTRIES: usize = (CATALOGUE_BYTES - HEADER_BYTES) / ENTRY_BYTES;

/// Checkpoints on a block device, which survive whatever it survives. Made on a blank device when first written to.
#[derive(Debug)]
pub struct Archive<D: BlockDevice> {
    device: D,
    state: RefCell<State>,
    #[cfg(test)]
    pub(crate) sabotage: Cell<Sabotage>,
    /// An operation failed, or was dropped half way: see the module's text.
    doubtful: Cell<bool>,
}

/// Mistakes that the tests must find: each is a canary.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sabotage {
    #[default]
    None,
    /// The catalogue is written before what it names is stable.
    CatalogueBeforeFlush,
    /// The newest catalogue is written over.
    SamePlace,
    /// Blocks are free before the catalogue without them is stable.
    FreeEarly,
    /// What is in doubt stays so.
    StayDoubtful,
}

#[derive(Clone, Debug, Default)]
struct State {
    generation: u64,
    /// Entries with their blocks, by number.
    entries: Vec<(Entry, Range<u64>)>,
    draft: Option<Draft>,
}

#[derive(Clone, Debug)]
struct Draft {
    blocks: Range<u64>,
    bytes: u64,
}

impl<D: BlockDevice> Archive<D> {
    /// Opens the archive on a device. Nothing is written: a blank device is an archive without entries.
    ///
    /// # Errors
    /// [`Error::Device`], [`Error::Unrecognised`], [`Error::Size`], [`Error::Version`].
    pub async fn open(device: D) -> Result<Self, Error<D::Error>> {
        let blocks = device.blocks();
        if blocks <= FIRST_BLOCK {
            return Err(Error::Size { blocks, expected_blocks: FIRST_BLOCK + 1 });
        }
        let (mut newest, mut blank, mut torn, mut refused) = (None::<State>, 0, 0, Error::Unrecognised);
        for place in 0..2 {
            let mut bytes = vec![0; CATALOGUE_BYTES];
            device.read(place * CATALOGUE_BLOCKS, &mut bytes).await.map_err(Error::Device)?;
            match decode(&bytes, blocks) {
                Ok(found) if newest.as_ref().is_none_or(|newest| newest.generation < found.generation) => {
                    newest = Some(found);
                }
                Ok(_) => {}
                Err(Error::Unrecognised) if bytes.iter().all(|&byte| byte == 0) => blank += 1,
                Err(Error::Unrecognised) => torn += if is_torn_first(&bytes) { 1 } else { 2 },
                Err(other) => refused = other,
            }
        }
        let state = match newest {
            Some(state) => state,
            // Blank, or one that lost its power before its first commit was done.
            None if blank == 2 || (blank, torn) == (1, 1) => State::default(),
            None => return Err(refused),
        };
        #[cfg(test)]
        let sabotage = Cell::default();
        Ok(Self {
            device,
            state: RefCell::new(state),
            #[cfg(test)]
            sabotage,
            // A catalogue that was torn could be made whole by another write over it that is torn in turn, after its blocks
            // were written again.
            doubtful: Cell::new(torn > 0),
        })
    }

    /// Bytes of the longest run of free blocks: what the next checkpoint may take.
    pub fn free_bytes(&self) -> u64 {
        let longest = self.gaps().map(|gap| gap.end - gap.start).max();
        longest.unwrap_or(0) * BLOCK_BYTES as u64
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Runs of free blocks, in order.
    fn gaps(&self) -> impl Iterator<Item = Range<u64>> {
        let mut used: Vec<_> = self.state.borrow().entries.iter().map(|(_, blocks)| blocks.clone()).collect();
        used.sort_by_key(|blocks| blocks.start);
        let end = self.device.blocks();
        used.push(end..end);
        let mut from = FIRST_BLOCK;
        used.into_iter().filter_map(move |blocks| {
            let gap = from..blocks.start;
            from = blocks.end;
            (gap.start < gap.end).then_some(gap)
        })
    }

    /// Makes entries the stable ones.
    async fn renew(&self, entries: Vec<(Entry, Range<u64>)>) -> Result<(), Error<D::Error>> {
        let generation = self.state.borrow().generation + 1;
        self.doubtful.set(true);
        self.write_catalogue(generation, &entries).await.map_err(Error::Device)?;
        self.doubtful.set(false);
        let mut state = self.state.borrow_mut();
        state.generation = generation;
        state.entries = entries;
        Ok(())
    }

    async fn write_catalogue(&self, generation: u64, entries: &[(Entry, Range<u64>)]) -> Result<(), D::Error> {
        let bytes = encode(generation, self.device.blocks(), entries);
        let place = self.place_of(generation);
        self.device.write(place, &bytes).await?;
        self.device.flush().await
    }

    fn place_of(&self, generation: u64) -> u64 {
        #[cfg(test)]
        if self.sabotage.get() == Sabotage::SamePlace {
            return 0;
        }
        generation % 2 * CATALOGUE_BLOCKS
    }

    /// Writes what is known over what is in doubt. The place in doubt is that of the next generation, and stays so: the one
    /// after it goes to the other place, so this skips one.
    async fn settle(&self) -> Result<(), Error<D::Error>> {
        #[cfg(test)]
        if self.sabotage.get() == Sabotage::StayDoubtful {
            return Ok(());
        }
        if !self.doubtful.get() {
            return Ok(());
        }
        let (generation, entries) = {
            let mut state = self.state.borrow_mut();
            // It may be there with this generation: so this one is newer, and in the same place.
            state.generation += 2;
            (state.generation + 1, state.entries.clone())
        };
        self.write_catalogue(generation, &entries).await.map_err(Error::Device)?;
        self.state.borrow_mut().generation = generation;
        self.doubtful.set(false);
        Ok(())
    }

    async fn write_draft(&self, draft: &Draft, bytes: &[u8]) -> Result<(), Error<D::Error>> {
        let first = draft.blocks.start + draft.bytes / BLOCK_BYTES as u64;
        let needed_bytes = draft.bytes + bytes.len() as u64;
        let free_bytes = (draft.blocks.end - draft.blocks.start) * BLOCK_BYTES as u64;
        if needed_bytes > free_bytes {
            return Err(Error::Full { needed_bytes, free_bytes });
        }
        let (whole, rest) = bytes.split_at(bytes.len() / BLOCK_BYTES * BLOCK_BYTES);
        if !whole.is_empty() {
            self.device.write(first, whole).await.map_err(Error::Device)?;
        }
        if !rest.is_empty() {
            let mut block = [0; BLOCK_BYTES];
            block[..rest.len()].copy_from_slice(rest);
            let last = first + (whole.len() / BLOCK_BYTES) as u64;
            self.device.write(last, &block).await.map_err(Error::Device)?;
        }
        Ok(())
    }
}

impl<D: BlockDevice> Target for Archive<D> {
    type Error = D::Error;

    fn entries(&self) -> Vec<Entry> {
        self.state.borrow().entries.iter().map(|(entry, _)| entry.clone()).collect()
    }

    async fn begin(&self, most_bytes: u64) -> Result<(), Error<D::Error>> {
        if self.state.borrow().draft.is_some() {
            return Err(Error::Busy);
        }
        self.settle().await?;
        let blocks = most_bytes.div_ceil(BLOCK_BYTES as u64).max(1);
        let gap = self.gaps().find(|gap| gap.end - gap.start >= blocks);
        let full = || Error::Full { needed_bytes: most_bytes, free_bytes: self.free_bytes() };
        let start = gap.ok_or_else(full)?.start;
        self.state.borrow_mut().draft = Some(Draft { blocks: start..start + blocks, bytes: 0 });
        Ok(())
    }

    async fn append(&self, bytes: &[u8]) -> Result<(), Error<D::Error>> {
        let draft = self.state.borrow().draft.clone().ok_or(Error::Busy)?;
        self.write_draft(&draft, bytes).await?;
        if let Some(draft) = &mut self.state.borrow_mut().draft {
            draft.bytes += bytes.len() as u64;
        }
        Ok(())
    }

    async fn commit(&self, entry: Entry, replaced: &[u64]) -> Result<(), Error<D::Error>> {
        let (draft, mut entries) = {
            let state = self.state.borrow();
            (state.draft.clone().ok_or(Error::Busy)?, state.entries.clone())
        };
        let blocks = draft.blocks.start..draft.blocks.start + draft.bytes.div_ceil(BLOCK_BYTES as u64);
        entries.retain(|(old, _)| !replaced.contains(&old.sequence));
        entries.push((entry, blocks));
        if entries.len() > MAX_ENTRIES {
            return Err(Error::TooMany { limit: MAX_ENTRIES });
        }
        self.settle().await?;
        #[cfg(test)]
        let flush = self.sabotage.get() != Sabotage::CatalogueBeforeFlush;
        #[cfg(not(test))]
        let flush = true;
        if flush {
            self.device.flush().await.map_err(Error::Device)?;
        }
        self.renew(entries).await?;
        self.abort();
        Ok(())
    }

    fn abort(&self) {
        self.state.borrow_mut().draft = None;
    }

    async fn read(&self, sequence: u64, offset: u64, into: &mut [u8]) -> Result<(), Error<D::Error>> {
        let state = self.state.borrow().entries.iter().find(|(entry, _)| entry.sequence == sequence).cloned();
        let no_such = || Error::NoSuch { asked: sequence.to_string() };
        let (entry, blocks) = state.ok_or_else(no_such)?;
        offset.checked_add(into.len() as u64).filter(|&end| end <= entry.bytes).ok_or_else(no_such)?;
        let skipped = (offset % BLOCK_BYTES as u64) as usize;
        let first = blocks.start + offset / BLOCK_BYTES as u64;
        if skipped == 0 && into.len().is_multiple_of(BLOCK_BYTES) {
            return self.device.read(first, into).await.map_err(Error::Device);
        }
        let mut whole = vec![0; (skipped + into.len()).next_multiple_of(BLOCK_BYTES)];
        self.device.read(first, &mut whole).await.map_err(Error::Device)?;
        into.copy_from_slice(&whole[skipped..skipped + into.len()]);
        Ok(())
    }

    async fn remove(&self, sequences: &[u64]) -> Result<(), Error<D::Error>> {
        check_unused(&self.entries(), sequences)?;
        if self.state.borrow().draft.is_some() {
            return Err(Error::Busy);
        }
        self.settle().await?;
        let mut entries = self.state.borrow().entries.clone();
        entries.retain(|(entry, _)| !sequences.contains(&entry.sequence));
        #[cfg(test)]
        if self.sabotage.get() == Sabotage::FreeEarly {
            self.state.borrow_mut().entries.clone_from(&entries);
            return Ok(());
        }
        self.renew(entries).await
    }
}

/// Whether this may be what is left of the first catalogue of all: it has one entry, so all of it lies in the first block,
/// and of that a beginning was written.
fn is_torn_first(bytes: &[u8]) -> bool {
    let written = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let shown = written.min(MAGIC.len());
    written <= BLOCK_BYTES && bytes[..shown] == MAGIC[..shown]
}

fn encode(generation: u64, device_blocks: u64, entries: &[(Entry, Range<u64>)]) -> Vec<u8> {
    let mut bytes = vec![0; CATALOGUE_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&generation.to_le_bytes());
    bytes[24..32].copy_from_slice(&device_blocks.to_le_bytes());
    for ((entry, blocks), place) in entries.iter().zip(bytes[HEADER_BYTES..].chunks_exact_mut(ENTRY_BYTES)) {
        let words =
            [entry.sequence, entry.id, entry.base.unwrap_or(0), entry.bytes, blocks.start, blocks.end - blocks.start];
        for (word, place) in words.iter().zip(place.chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        place[48] = entry.name.len() as u8;
        place[56..56 + entry.name.len()].copy_from_slice(entry.name.as_bytes());
    }
    let checksum = hash(&bytes, u64::from(VERSION));
    bytes[56..64].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

/// What a catalogue says. `Unrecognised`: it is none, or torn.
fn decode<E>(bytes: &[u8], device_blocks: u64) -> Result<State, Error<E>> {
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let mut unsigned = bytes.to_vec();
    unsigned[56..64].fill(0);
    let [version, count] = [word(8) as u32, (word(8) >> 32) as u32];
    if bytes[..8] != MAGIC || hash(&unsigned, u64::from(version)) != word(56) {
        return Err(Error::Unrecognised);
    }
    if version != VERSION {
        return Err(Error::Version { found: version, expected: VERSION });
    }
    if word(24) != device_blocks {
        return Err(Error::Size { blocks: device_blocks, expected_blocks: word(24) });
    }
    let mut entries = Vec::new();
    for at in (HEADER_BYTES..).step_by(ENTRY_BYTES).take((count as usize).min(MAX_ENTRIES)) {
        let [sequence, id, base, length, start, blocks] = core::array::from_fn(|index| word(at + 8 * index));
        let name_bytes = usize::from(bytes[at + 48]).min(MAX_NAME_BYTES);
        let name = String::from_utf8_lossy(&bytes[at + 56..at + 56 + name_bytes]).into_owned();
        let end = start.checked_add(blocks).filter(|&end| start >= FIRST_BLOCK && end <= device_blocks);
        let fits = length.div_ceil(BLOCK_BYTES as u64) <= blocks;
        let end = end.filter(|_| fits).ok_or(Error::Unrecognised)?;
        let base = (base != 0).then_some(base);
        entries.push((Entry { name, sequence, id, base, bytes: length }, start..end));
    }
    Ok(State { generation: word(16), entries, draft: None })
}
