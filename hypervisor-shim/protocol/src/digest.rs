//! A fast 64-bit digest for checksums and divergence detection.
//!
//! It detects accidents (a flipped bit, a lost write, a guest that went another way), not attacks: whoever can choose
//! the input can find collisions. One multiplication and two exclusive-ors a word keep it cheap under an emulator, where
//! every instruction costs about the same.

/// Odd, with no regular bit pattern: the golden ratio's fraction in 64 bits.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
/// Finalisation constants of a 64-bit avalanche (Stafford's variant 13).
const FINAL_1: u64 = 0xbf58_476d_1ce4_e5b9;
const FINAL_2: u64 = 0x94d0_49bb_1331_11eb;

/// A running 64-bit digest.
///
/// Each step is a bijection of the state for a given word and of the word for a given state, so two inputs that differ in
/// a single word never collide. The result is the same on every platform: words are little-endian.
///
/// ```
/// # use protocol::digest::Digest64;
/// let mut digest = Digest64::new(7);
/// digest.write_u64(1);
/// digest.write_bytes(b"hello");
/// assert_ne!(digest.finish(), Digest64::new(7).finish());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest64 {
    state: u64,
}

impl Digest64 {
    /// Starts a digest; different seeds give unrelated digests of the same input.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed ^ FINAL_2 }
    }

    /// Takes in one word.
    #[inline(always)]
    pub const fn write_u64(&mut self, word: u64) {
        let product = (self.state ^ word).wrapping_mul(MULTIPLIER);
        // The top half comes down: without it the high bits of a word would never reach the low bits of the state.
        self.state = product ^ (product >> 32);
    }

    /// Takes in a string of bytes and its length, so that the border between two strings counts.
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.write_u64(bytes.len() as u64);
        let (words, tail) = bytes.as_chunks::<8>();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        if !tail.is_empty() {
            let mut last = [0; 8];
            last[..tail.len()].copy_from_slice(tail);
            self.write_u64(u64::from_le_bytes(last));
        }
    }

    /// Takes in a long string of bytes by two sums of its words, for bulk, where every instruction a word counts. Those of
    /// all words but the last few may have been made by `copy`, which is given the greatest beginning of `bytes` that is a
    /// multiple of [`BulkSums::BLOCK_BYTES`] and says what [`BulkSums::add`] would have made of it: whoever has to copy the
    /// bytes anyhow need not read them twice.
    pub fn write_bulk(&mut self, bytes: &[u8], copy: impl FnOnce(&[u8]) -> BulkSums) {
        let (blocks, rest) = bytes.split_at(bytes.len() - bytes.len() % BulkSums::BLOCK_BYTES);
        let sums = copy(blocks);
        self.write_u64(bytes.len() as u64);
        self.write_sums(sums);
        self.write_bytes(rest);
    }

    /// Takes in the sums of words whose number is known.
    pub const fn write_sums(&mut self, sums: BulkSums) {
        self.write_u64(sums.sum);
        self.write_u64(sums.sum_of_sums);
    }

    /// The digest of all that was written so far; writing may go on.
    #[must_use]
    pub const fn finish(&self) -> u64 {
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(FINAL_1);
        value = (value ^ (value >> 27)).wrapping_mul(FINAL_2);
        value ^ (value >> 31)
    }
}

/// Sums of the little-endian words of a string of bytes. The first changes with any single word, the second also with the
/// order of the words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BulkSums {
    /// All words.
    pub sum: u64,
    /// What the first sum was after each word; rotated left by one bit before each, or the top bits of two words could
    /// change together unnoticed.
    pub sum_of_sums: u64,
}

impl BulkSums {
    /// The sums may be made in blocks of this length.
    pub const BLOCK_BYTES: usize = 64;

    /// Adds whole words; what is left beyond them is not taken in.
    pub fn add(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks::<8>().0 {
            self.add_u64(u64::from_le_bytes(*word));
        }
    }

    /// Adds one word.
    #[inline(always)]
    pub const fn add_u64(&mut self, word: u64) {
        self.sum = self.sum.wrapping_add(word);
        self.sum_of_sums = self.sum_of_sums.rotate_left(1).wrapping_add(self.sum);
    }
}

/// The digest of one string of bytes.
#[must_use]
pub fn digest_of(seed: u64, bytes: &[u8]) -> u64 {
    let mut digest = Digest64::new(seed);
    digest.write_bytes(bytes);
    digest.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;
    use alloc::vec::Vec;

    /// Pinned: digests travel between replicas, so a change of the function is a change of the protocol version.
    #[test]
    fn values_are_pinned() {
        assert_eq!(Digest64::new(0).finish(), EMPTY);
        assert_eq!(digest_of(0, b""), EMPTY_BYTES);
        assert_eq!(digest_of(1, b"the quick brown fox"), FOX);
    }
    const EMPTY: u64 = 0x2848_d6a4_a7b2_8bc1;
    const EMPTY_BYTES: u64 = 0x25b1_b7f2_678e_fa81;
    const FOX: u64 = 0x16d6_7e92_af19_e422;

    #[test]
    fn every_single_bit_flip_changes_the_digest() {
        let message: Vec<u8> = (0..67_u8).map(|index| index.wrapping_mul(37)).collect();
        let mut seen = BTreeSet::from([digest_of(0, &message)]);
        for bit in 0..message.len() * 8 {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(digest_of(0, &flipped)), "bit {bit} collides");
        }
    }

    #[test]
    fn borders_order_and_padding_count() {
        let joined = |parts: &[&[u8]]| {
            let mut digest = Digest64::new(0);
            parts.iter().for_each(|part| digest.write_bytes(part));
            digest.finish()
        };
        let all = [
            joined(&[b"ab", b"c"]),
            joined(&[b"a", b"bc"]),
            joined(&[b"abc"]),
            joined(&[b"abc\0"]),
            joined(&[b"c", b"ab"]),
            joined(&[b"", b"abc"]),
        ];
        assert_eq!(BTreeSet::from(all).len(), all.len());
    }

    #[test]
    fn every_flip_and_every_swap_of_words_in_bulk_counts() {
        let message: Vec<u8> = (0..203_u8).map(|index| index.wrapping_mul(37)).collect();
        let digest = |bytes: &[u8]| {
            let mut digest = Digest64::new(7);
            digest.write_bulk(bytes, |blocks| {
                assert_eq!(blocks.len(), bytes.len() / 64 * 64);
                let mut sums = BulkSums::default();
                sums.add(blocks);
                sums
            });
            digest.finish()
        };
        let mut seen = BTreeSet::from([digest(&message), digest(&message[..200]), digest(&[])]);
        for bit in 0..message.len() * 8 {
            let mut flipped = message.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(seen.insert(digest(&flipped)), "bit {bit} collides");
        }
        for word in 1..message.len() / 8 {
            let mut swapped = message.clone();
            swapped[..8].copy_from_slice(&message[8 * word..8 * word + 8]);
            swapped[8 * word..8 * word + 8].copy_from_slice(&message[..8]);
            assert!(seen.insert(digest(&swapped)), "words 0 and {word} can be swapped");
        }
    }

    #[test]
    fn flips_spread_over_the_whole_result() {
        // Averaged over all input bits, each output bit changes in close to half of the cases.
        let base = digest_of(0, &[0; 32]);
        let mut changed = [0_u32; 64];
        for bit in 0..256 {
            let mut input = [0_u8; 32];
            input[bit / 8] ^= 1 << (bit % 8);
            let difference = base ^ digest_of(0, &input);
            for (index, count) in changed.iter_mut().enumerate() {
                *count += ((difference >> index) & 1) as u32;
            }
        }
        assert!(changed.iter().all(|count| (70..=186).contains(count)), "{changed:?}");
    }
}
