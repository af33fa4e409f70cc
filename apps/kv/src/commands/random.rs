//! Choices for SRANDMEMBER, HRANDFIELD and ZRANDMEMBER.

use crate::base::Rng;
use alloc::collections::BTreeSet;

/// What the count argument of a random choice asks for.
pub enum Choice {
    /// So many different elements, or all.
    Distinct(usize),
    /// Exactly so many, each chosen independently.
    Repeating(usize),
}

impl Choice {
    /// Reads a count: a negative one allows repetition.
    pub fn from_count(count: i64) -> Self {
        match usize::try_from(count) {
            Ok(count) => Self::Distinct(count),
            Err(_) => Self::Repeating(count.unsigned_abs() as usize),
        }
    }

    /// How many elements are chosen from `len`.
    pub fn len(&self, len: usize) -> usize {
        match self {
            Self::Distinct(count) => len.min(*count),
            Self::Repeating(_) if len == 0 => 0,
            Self::Repeating(count) => *count,
        }
    }

    /// Gives the chosen indices of `0..len` until `choose` says it has had enough.
    pub fn each(&self, len: usize, rng: &mut Rng, mut choose: impl FnMut(usize) -> bool) {
        let mut wanted = self.len(len);
        match self {
            Self::Repeating(_) => {
                while wanted > 0 && choose(rng.below(len)) {
                    wanted -= 1;
                }
            }
            // Few of many: draw until new. At most a third is taken, so draws stay few.
            Self::Distinct(_) if wanted * 3 <= len => {
                let mut taken = BTreeSet::new();
                while taken.len() < wanted {
                    let index = rng.below(len);
                    if taken.insert(index) && !choose(index) {
                        return;
                    }
                }
            }
            // Many of few: one pass that takes each index with the probability it has left.
            Self::Distinct(_) => {
                for index in 0..len {
                    if rng.below(len - index) < wanted {
                        wanted -= 1;
                        if !choose(index) {
                            return;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn distinct_choices_differ_and_repeating_ones_are_as_many_as_asked() {
        let mut rng = Rng::new(1);
        for (len, count) in [(10, 3), (10, 9), (10, 10), (10, 20), (1000, 5), (0, 4), (5, 0)] {
            let mut chosen = Vec::new();
            Choice::from_count(count).each(len, &mut rng, |index| {
                chosen.push(index);
                true
            });
            assert_eq!(chosen.len(), len.min(count as usize));
            assert!(chosen.iter().all(|&index| index < len));
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), chosen.len());
            let mut repeated = 0;
            Choice::from_count(-count).each(len, &mut rng, |_| {
                repeated += 1;
                true
            });
            assert_eq!(repeated, if len == 0 { 0 } else { count });
        }
    }
}
