//! Plain bytes that are saved.
//!
//! A region owns its bytes and hands them out for the length of a call, so it knows which blocks were written to
//! ([`BLOCK_BYTES`] each). That serves twice: an incremental checkpoint looks at those blocks only, and a checkpoint that
//! is being written while the program goes on saves a block before it is changed (copy on write, by software).

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::ops::Range;

use crate::BLOCK_BYTES;
use crate::bits::Bits;
use crate::part::{Frozen, NotDecoded, NotEncoded, Part, PartKind, Shape, hash};

/// Seed of the hash of what is excluded.
const EXCLUSIONS_SEED: u64 = 0x6578_636c_7564_6564;

/// Bytes of fixed length that are saved. Clones are the same region.
#[derive(Clone)]
pub struct Region(Rc<RegionPart>);

pub(crate) struct RegionPart {
    name: String,
    /// Sorted, neither empty nor touching.
    excluded: Vec<Range<usize>>,
    state: RefCell<State>,
}

struct State {
    bytes: Box<[u8]>,
    /// Blocks written to since the base was frozen.
    touched: Bits,
    /// Hash of each block's saved bytes in the base.
    hashes: Vec<u64>,
    capture: Option<Capture>,
}

/// A checkpoint that is being written.
struct Capture {
    /// Blocks that are still to be written.
    pending: Bits,
    /// Those among them that were changed since, as they were.
    kept: BTreeMap<usize, Box<[u8]>>,
    /// Where to look for the next.
    next: usize,
    /// What [`State::touched`] was.
    touched_before: Bits,
    /// Hashes of what was written.
    hashes: Vec<(usize, u64)>,
}

impl Region {
    pub(crate) fn new(name: String, bytes: Box<[u8]>, mut excluded: Vec<Range<usize>>) -> Self {
        excluded.retain(|range| range.start < range.end);
        excluded.sort_by_key(|range| range.start);
        let mut merged: Vec<Range<usize>> = Vec::new();
        for range in excluded {
            match merged.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => merged.push(range),
            }
        }
        let blocks = bytes.len().div_ceil(BLOCK_BYTES);
        let state = State { bytes, touched: Bits::all(blocks), hashes: vec![0; blocks], capture: None };
        Self(Rc::new(RegionPart { name, excluded: merged, state: RefCell::new(state) }))
    }

    pub(crate) fn part(&self) -> Rc<dyn Part> {
        Rc::clone(&self.0) as Rc<dyn Part>
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.state.borrow().bytes.len()
    }

    /// Shows the bytes.
    ///
    /// # Panics
    /// When called within [`change`](Self::change) of the same region.
    pub fn with<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.0.state.borrow().bytes)
    }

    /// Lets bytes be changed: `range` of them. Costs a bit a block; while a checkpoint is being written also a copy of each
    /// block that it has not come to yet.
    ///
    /// # Panics
    /// When the range does not lie in the region, or when called within [`with`](Self::with) or `change` of the same region.
    pub fn change<R>(&self, range: Range<usize>, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut state = self.0.state.borrow_mut();
        if range.start < range.end {
            state.touch(range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES));
        }
        change(&mut state.bytes[range])
    }

    /// Lets all bytes be changed: every block then counts as written to.
    ///
    /// # Panics
    /// As [`change`](Self::change).
    pub fn change_all<R>(&self, change: impl FnOnce(&mut [u8]) -> R) -> R {
        self.change(0..self.len_bytes(), change)
    }

    /// Blocks written to since the newest checkpoint: those that the next incremental one looks at.
    pub fn touched_blocks(&self) -> usize {
        self.0.state.borrow().touched.count()
    }

    /// Bytes of blocks kept for a checkpoint that is being written, because the program has changed them meanwhile.
    pub fn kept_bytes(&self) -> usize {
        self.0.state.borrow().capture.as_ref().map_or(0, |capture| capture.kept.values().map(|kept| kept.len()).sum())
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Region").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl State {
    fn blocks(&self) -> usize {
        self.hashes.len()
    }

    fn touch(&mut self, blocks: Range<usize>) {
        if let Some(capture) = &mut self.capture {
            for block in blocks.clone() {
                if capture.pending.has(block) && !capture.kept.contains_key(&block) {
                    capture.kept.insert(block, self.bytes[place(block, self.bytes.len())].into());
                }
            }
        }
        self.touched.insert_range(blocks);
    }
}

/// Where a block lies; the last may be shorter.
fn place(block: usize, length: usize) -> Range<usize> {
    block * BLOCK_BYTES..((block + 1) * BLOCK_BYTES).min(length)
}

impl RegionPart {
    /// What of a range is saved.
    fn included(&self, within: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let first = self.excluded.partition_point(|range| range.end <= within.start);
        let ends = self.excluded[first..].iter().take_while(move |range| range.start < within.end);
        let mut from = within.start;
        let holes = ends.cloned().chain(core::iter::once(within.end..within.end));
        holes.filter_map(move |hole| {
            let piece = from..hole.start;
            from = hole.end;
            (piece.start < piece.end).then_some(piece)
        })
    }

    fn excluded_bytes(&self) -> usize {
        self.excluded.iter().map(|range| range.end - range.start).sum()
    }

    /// Hash of what is saved of a block; `content` is the block's.
    fn hash_of(&self, block: Range<usize>, content: &[u8]) -> u64 {
        self.included(block.clone()).fold(block.start as u64, |seed, piece| {
            hash(&content[piece.start - block.start..piece.end - block.start], seed)
        })
    }
}

impl Part for RegionPart {
    fn name(&self) -> &str {
        &self.name
    }

    fn shape(&self) -> Shape {
        let schema = self.excluded.iter().fold(0, |seed, range| {
            let (start, end) = ((range.start as u64).to_le_bytes(), (range.end as u64).to_le_bytes());
            hash(&[start, end].concat(), seed ^ EXCLUSIONS_SEED)
        });
        Shape { kind: PartKind::Region, schema, length_bytes: self.state.borrow().bytes.len() as u64 }
    }

    fn freeze(&self, changed_only: bool) -> Result<Frozen, NotEncoded> {
        let mut state = self.state.borrow_mut();
        let State { bytes, touched, hashes, .. } = &*state;
        let (length, blocks) = (bytes.len(), state.blocks());
        let mut pending = if changed_only { Bits::none(blocks) } else { Bits::all(blocks) };
        let mut next = 0;
        while changed_only && let Some(block) = touched.next(next) {
            let place = place(block, length);
            if self.hash_of(place.clone(), &bytes[place]) != hashes[block] {
                pending.insert(block);
            }
            next = block + 1;
        }
        let count = pending.count();
        let touched_before = core::mem::replace(&mut state.touched, Bits::none(blocks));
        let hashes = Vec::with_capacity(count);
        state.capture = Some(Capture { pending, kept: BTreeMap::new(), next: 0, touched_before, hashes });
        // Every exclusion splits one block at most once more.
        let most_pieces = (count + self.excluded.len()) as u64;
        let most_bytes = if changed_only { count * BLOCK_BYTES } else { length - self.excluded_bytes() } as u64;
        Ok(Frozen { present: count > 0 || !changed_only, length_bytes: length as u64, most_pieces, most_bytes })
    }

    fn emit(&self, emit: &mut dyn FnMut(u64, &[u8])) -> bool {
        let mut state = self.state.borrow_mut();
        let State { bytes, capture: Some(capture), .. } = &mut *state else { return false };
        let Some(block) = capture.pending.next(capture.next) else { return false };
        let place = place(block, bytes.len());
        let kept = capture.kept.remove(&block);
        let content = kept.as_deref().unwrap_or(&bytes[place.clone()]);
        for piece in self.included(place.clone()) {
            emit(piece.start as u64, &content[piece.start - place.start..piece.end - place.start]);
        }
        let hash = self.hash_of(place, content);
        capture.hashes.push((block, hash));
        capture.pending.remove(block);
        capture.next = block + 1;
        true
    }

    fn thaw(&self, committed: bool) {
        let mut state = self.state.borrow_mut();
        let Some(capture) = state.capture.take() else { return };
        if committed {
            capture.hashes.iter().for_each(|&(block, hash)| state.hashes[block] = hash);
        } else {
            state.touched.add(&capture.touched_before);
        }
    }

    fn stage<'a>(&'a self, _encoded: &'a [u8]) -> Result<Box<dyn FnOnce() + 'a>, NotDecoded> {
        Ok(Box::new(|| ()))
    }

    fn apply(&self, offset: u64, bytes: &[u8]) {
        let start = offset as usize;
        if let Some(place) = self.state.borrow_mut().bytes.get_mut(start..start + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn restored(&self, base: bool) {
        let mut state = self.state.borrow_mut();
        let (length, blocks) = (state.bytes.len(), state.blocks());
        state.touched = if base { Bits::none(blocks) } else { Bits::all(blocks) };
        for block in 0..if base { blocks } else { 0 } {
            let place = place(block, length);
            state.hashes[block] = self.hash_of(place.clone(), &state.bytes[place]);
        }
    }
}
