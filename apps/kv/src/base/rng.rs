//! A small random generator for commands that choose members at random (SPOP, RANDOMKEY and the like).

/// SplitMix64 (Steele, Lea, Flood 2014). Its seed comes from the caller, so two replicas choose alike.
pub struct Rng(u64);

impl Rng {
    /// A generator that is a function of `seed` alone.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `0..limit`, or 0 when `limit` is 0; the bias is below `limit / 2^64`.
    pub fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next_u64()) * limit as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn covers_its_range_and_repeats_from_its_seed() {
        let mut seen = [false; 10];
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for _ in 0..200 {
            let x = a.below(10);
            assert_eq!(x, b.below(10));
            seen[x] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(a.below(0), 0);
    }
}
