//! Making a mirror equal to another one while that is written to: which blocks have changed, and when it is enough.
//!
//! All blocks are copied once. What is written meanwhile is noted, and copied in rounds, each of which leaves fewer blocks
//! for the next ([`Rounds`]). The last ones are copied while nothing is written, at the epoch from which on both replicas
//! carry out the same writes.

use alloc::vec;
use alloc::vec::Vec;

/// Bits for one disk at most: 128 KiB hold them.
const MAX_CHUNKS: u64 = 1 << 20;
/// The least that is told apart: a page of the host's cache.
const MIN_CHUNK_BLOCKS: u64 = 8;

/// Blocks of a disk that were changed. Neighbours may count as changed, too: a large disk is looked at in larger pieces.
#[derive(Clone, Debug)]
pub struct Changes {
    blocks: u64,
    chunk_shift: u32,
    bits: Vec<u64>,
    changed: u64,
    /// No word of `bits` before this one has a bit.
    first_word: usize,
}

impl Changes {
    /// Nothing of a disk with so many blocks has changed.
    #[must_use]
    pub fn new(blocks: u64) -> Self {
        let chunk_blocks = blocks.div_ceil(MAX_CHUNKS).max(MIN_CHUNK_BLOCKS).next_power_of_two();
        let chunk_shift = chunk_blocks.trailing_zeros();
        let words = blocks.div_ceil(chunk_blocks).div_ceil(64) as usize;
        Self { blocks, chunk_shift, bits: vec![0; words], changed: 0, first_word: words }
    }

    /// These blocks were changed. What lies beyond the disk's end is ignored.
    pub fn note(&mut self, first_block: u64, blocks: u64) {
        let end = first_block.saturating_add(blocks).min(self.blocks);
        if first_block >= end {
            return;
        }
        for chunk in first_block >> self.chunk_shift..=(end - 1) >> self.chunk_shift {
            let (word, bit) = ((chunk / 64) as usize, 1 << (chunk % 64));
            self.changed += u64::from(self.bits[word] & bit == 0);
            self.bits[word] |= bit;
            self.first_word = self.first_word.min(word);
        }
    }

    /// Whether nothing has changed that was not taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed == 0
    }

    /// Takes the first range that has changed: its first block and how many they are.
    pub fn take(&mut self) -> Option<(u64, u64)> {
        if self.is_empty() {
            self.first_word = self.bits.len();
            return None;
        }
        while self.bits[self.first_word] == 0 {
            self.first_word += 1;
        }
        let first = self.first_word as u64 * 64 + u64::from(self.bits[self.first_word].trailing_zeros());
        let mut end = first;
        while let Some(word) = self.bits.get_mut((end / 64) as usize)
            && *word >> (end % 64) & 1 == 1
        {
            *word &= !(1 << (end % 64));
            end += 1;
        }
        self.changed -= end - first;
        let (first_block, end_block) = (first << self.chunk_shift, (end << self.chunk_shift).min(self.blocks));
        Some((first_block, end_block - first_block))
    }
}

/// A range of blocks of one disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangedBlocks {
    /// Which disk, by its place among those of the guest.
    pub disk: u32,
    /// The first of them.
    pub first_block: u64,
    /// How many.
    pub blocks: u64,
}

/// Bytes of a range in a message.
const RANGE_BYTES: usize = 24;

impl ChangedBlocks {
    /// Appends the range: disk and a reserved word (u32), first block, number of blocks (u64), little-endian.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.disk.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.first_block.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
    }

    /// Reads ranges. `None` if the bytes are none: another length, a reserved word that is used, no block, or blocks beyond
    /// what numbers can say.
    #[must_use]
    pub fn decode_all(bytes: &[u8]) -> Option<Vec<Self>> {
        let (ranges, rest) = bytes.as_chunks::<RANGE_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        ranges.iter().map(Self::decode).collect()
    }

    fn decode(bytes: &[u8; RANGE_BYTES]) -> Option<Self> {
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        // The upper half of the first word is reserved.
        let disk = u32::try_from(word(0)?).ok()?;
        let (first_block, blocks) = (word(8)?, word(16)?);
        let is_range = blocks > 0 && first_block.checked_add(blocks).is_some();
        is_range.then_some(Self { disk, first_block, blocks })
    }
}

/// So much may be left for the pause: it is copied within a few milliseconds.
const LAST_BYTES: u64 = 1 << 20;
/// A program that writes faster than can be copied is made to wait for what is left after so many rounds.
const MAX_ROUNDS: u32 = 12;

/// When the rounds of a copy have done what rounds can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rounds {
    count: u32,
    before_bytes: u64,
}

impl Rounds {
    /// A round was copied, of so many bytes that had changed. Returns whether the next ones would be of no more use.
    pub fn copied(&mut self, bytes: u64) -> bool {
        self.count += 1;
        let shrinks = self.count == 1 || bytes < self.before_bytes - self.before_bytes / 4;
        self.before_bytes = bytes;
        bytes <= LAST_BYTES || !shrinks || self.count >= MAX_ROUNDS
    }

    /// How many there were.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use proptest::prelude::*;

    fn take_all(changes: &mut Changes) -> Vec<(u64, u64)> {
        core::iter::from_fn(|| changes.take()).collect()
    }

    #[test]
    fn ranges_are_whole_pages_within_the_disk() {
        let mut changes = Changes::new(1001);
        assert!(changes.is_empty() && changes.take().is_none());
        changes.note(7, 2);
        changes.note(500, 12);
        changes.note(1000, 1);
        changes.note(1001, 50);
        changes.note(3, 0);
        changes.note(u64::MAX, u64::MAX);
        assert_eq!(take_all(&mut changes), [(0, 16), (496, 16), (1000, 1)]);
        assert!(changes.is_empty());
        changes.note(0, u64::MAX);
        assert_eq!(take_all(&mut changes), [(0, 1001)]);
    }

    #[test]
    fn a_large_disk_takes_no_more_room() {
        let blocks = 1 << 35;
        let mut changes = Changes::new(blocks);
        assert!(changes.bits.len() * 64 <= MAX_CHUNKS as usize);
        changes.note(blocks - 1, 1);
        let (first, count) = changes.take().expect("one range");
        assert_eq!(first + count, blocks);
        assert_eq!(count, blocks / MAX_CHUNKS);
    }

    #[test]
    fn rounds_end_when_little_is_left_or_nothing_is_gained() {
        let mut few = Rounds::default();
        assert!(few.copied(LAST_BYTES));
        let mut shrinking = Rounds::default();
        assert!(!shrinking.copied(100 << 20) && !shrinking.copied(50 << 20));
        assert!(shrinking.copied(45 << 20), "hardly less than before");
        let mut slow = Rounds::default();
        let rounds = (1..).find(|round| slow.copied((1 << 40) >> round)).expect("they end");
        assert_eq!((rounds, slow.count()), (MAX_ROUNDS, MAX_ROUNDS));
    }

    proptest! {
        #[test]
        fn everything_noted_is_taken_once(
            blocks in 1_u64..5_000, notes in prop::collection::vec((0_u64..5_000, 0_u64..300), 0..40),
        ) {
            let mut changes = Changes::new(blocks);
            let mut expected = BTreeSet::new();
            for (first, count) in notes {
                changes.note(first, count);
                for block in (first..first + count).filter(|block| *block < blocks) {
                    let page = block / MIN_CHUNK_BLOCKS * MIN_CHUNK_BLOCKS;
                    expected.extend(page..(page + MIN_CHUNK_BLOCKS).min(blocks));
                }
            }
            let mut taken = BTreeSet::new();
            for (first, count) in take_all(&mut changes) {
                prop_assert!(count > 0);
                for block in first..first + count {
                    prop_assert!(taken.insert(block), "block {} twice", block);
                }
            }
            prop_assert_eq!(taken, expected);
            prop_assert!(changes.is_empty());
        }

        #[test]
        fn ranges_survive_encoding(ranges in prop::collection::vec((any::<u32>(), 0_u64..1 << 60, 1_u64..1 << 60), 0..9)) {
            let ranges: Vec<_> = ranges
                .into_iter()
                .map(|(disk, first_block, blocks)| ChangedBlocks { disk, first_block, blocks })
                .collect();
            let mut bytes = Vec::new();
            ranges.iter().for_each(|range| range.encode_into(&mut bytes));
            prop_assert_eq!(ChangedBlocks::decode_all(&bytes), Some(ranges));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            if let Some(ranges) = ChangedBlocks::decode_all(&bytes) {
                let mut again = Vec::new();
                ranges.iter().for_each(|range| range.encode_into(&mut again));
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
