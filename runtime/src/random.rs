//! Random numbers.
//!
//! They come from the shim, whose generator is part of the replicated state: both replicas draw the same ones, and
//! nobody else can guess them. For many numbers that need not be secret, seed a [`Rng`] once.

use core::fmt;

use hypercall::layout::MAX_ENTROPY_BYTES;

use crate::platform;

/// The shim refused random bytes, with this error number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error(pub i64);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the shim gave no random bytes: error {}", self.0)
    }
}

impl core::error::Error for Error {}

/// Fills `place` with random bytes fit for secrets.
///
/// # Errors
/// When the shim refuses, which it does only outside a machine.
pub fn fill(place: &mut [u8]) -> Result<(), Error> {
    for chunk in place.chunks_mut(MAX_ENTROPY_BYTES as usize) {
        let result = platform::entropy(chunk);
        if result < 0 {
            return Err(Error(-result));
        }
    }
    Ok(())
}

/// A random number fit for secrets.
///
/// # Errors
/// As [`fill`].
pub fn number() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A fast generator, xoshiro256++ (Blackman and Vigna 2021), for everything that need not be secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The generator of a seed: equal seeds give equal numbers.
    pub fn from_seed(seed: u64) -> Self {
        let mut mixed = seed;
        let state = core::array::from_fn(|_| {
            // SplitMix64, as the authors advise for seeding; it never yields four zeros.
            mixed = mixed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let word = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ (word >> 31)
        });
        Self { state }
    }

    /// A generator with a seed from the shim.
    ///
    /// # Errors
    /// As [`fill`].
    pub fn new() -> Result<Self, Error> {
        number().map(Self::from_seed)
    }

    /// The next 64 bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = a.wrapping_add(*d).rotate_left(23).wrapping_add(*a);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`, all equally likely up to a bias of `bound / 2^64`; 0 when `bound` is 0.
    #[inline]
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_published_sequence() {
        // From the reference implementation with the state 1, 2, 3, 4.
        let mut rng = Rng { state: [1, 2, 3, 4] };
        assert_eq!([rng.next_u64(), rng.next_u64(), rng.next_u64()], [41_943_041, 58_720_359, 3_588_806_011_781_223]);
    }

    #[test]
    fn stays_below_its_bound() {
        let mut rng = Rng::from_seed(7);
        let mut seen = [false; 10];
        for _ in 0..1000 {
            seen[rng.below(10) as usize] = true;
        }
        assert_eq!(seen, [true; 10]);
        assert_eq!(rng.below(0), 0);
    }
}
