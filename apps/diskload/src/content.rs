//! What a block holds: foreseeable for anybody who knows the seed.
//!
//! A block's content follows from a seed, its number and a version: the version in the first eight bytes, little-endian, then
//! words of a generator. So who reads a disk knows of each block which version of it lies there, and whether it is whole.

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014): a bijection that scatters.
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Fills a block.
pub fn fill(content: &mut [u8], seed: u64, block: u64, version: u64) {
    let start = mix(seed ^ mix(block ^ mix(version)));
    for (index, word) in content.chunks_exact_mut(8).enumerate() {
        let value = if index == 0 { version } else { mix(start.wrapping_add(index as u64)) };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_depends_on_all_three_and_begins_with_the_version() {
        let block = |seed, block, version| {
            let mut content = [0; 512];
            fill(&mut content, seed, block, version);
            content
        };
        let one = block(1, 2, 3);
        assert_eq!(one, block(1, 2, 3));
        assert_eq!(one[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        for other in [block(2, 2, 3), block(1, 3, 3), block(1, 2, 4)] {
            assert!(one[8..].iter().zip(&other[8..]).filter(|(a, b)| a != b).count() > 400);
        }
    }
}
