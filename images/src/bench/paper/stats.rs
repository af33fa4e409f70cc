//! Medians with their spread, and random numbers from a seed.

use serde::{Deserialize, Serialize};

use crate::bench::median;

/// The middle of some measurements, and how far they lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The middle one.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of all values; `None` when there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        Some(Self { median: median(values), min, max })
    }

    /// From the least to the greatest, as a share of the middle.
    pub fn relative(&self) -> f64 {
        (self.max - self.min) / self.median
    }
}

/// Random numbers: one stream of a seed. Streams of different numbers differ.
pub fn random(seed: u64, stream: u64) -> fastrand::Rng {
    fastrand::Rng::with_seed(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_holds_the_middle_and_both_ends() {
        assert_eq!(Spread::of(&[]), None);
        let spread = Spread::of(&[3.0, 1.0, 2.0]).expect("values");
        assert_eq!(spread, Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(spread.relative(), 1.0);
    }

    #[test]
    fn a_seed_gives_one_stream() {
        let take = |seed, stream| {
            let mut random = random(seed, stream);
            [random.u64(..), random.u64(..), random.u64(..10)]
        };
        assert_eq!(take(1, 0), take(1, 0));
        assert_ne!(take(1, 0), take(2, 0));
        assert_ne!(take(1, 0), take(1, 1));
    }
}
