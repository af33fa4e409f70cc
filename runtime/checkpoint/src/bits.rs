//! A set of small numbers.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Numbers below a bound, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bits {
    words: Vec<u64>,
    bound: usize,
}

impl Bits {
    /// None of the numbers below `bound`.
    pub(crate) fn none(bound: usize) -> Self {
        Self { words: vec![0; bound.div_ceil(64)], bound }
    }

    /// All of them.
    pub(crate) fn all(bound: usize) -> Self {
        let mut bits = Self::none(bound);
        bits.insert_range(0..bound);
        bits
    }

    /// Whether `number` is in the set.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.words.get(number / 64).is_some_and(|word| word & 1 << (number % 64) != 0)
    }

    /// Adds a number; one at or above the bound is not added.
    pub(crate) fn insert(&mut self, number: usize) {
        if number < self.bound
            && let Some(word) = self.words.get_mut(number / 64)
        {
            *word |= 1 << (number % 64);
        }
    }

    /// Adds all of a range.
    pub(crate) fn insert_range(&mut self, range: Range<usize>) {
        let mut number = range.start;
        while number < range.end.min(self.bound) {
            if number.is_multiple_of(64) && number + 64 <= range.end.min(self.bound) {
                self.words[number / 64] = u64::MAX;
                number += 64;
            } else {
                self.insert(number);
                number += 1;
            }
        }
    }

    /// Takes a number out.
    pub(crate) fn remove(&mut self, number: usize) {
        if let Some(word) = self.words.get_mut(number / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    /// Adds all numbers of another set with the same bound.
    pub(crate) fn add(&mut self, other: &Self) {
        for (word, others) in self.words.iter_mut().zip(&other.words) {
            *word |= others;
        }
    }

    /// The least number of the set that is not below `from`.
    pub(crate) fn next(&self, from: usize) -> Option<usize> {
        let mut index = from / 64;
        let mut word = self.words.get(index)? & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        Some(index * 64 + word.trailing_zeros() as usize)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn a_set_is_a_set(bound in 0_usize..300, ranges in proptest::collection::vec((0_usize..320, 0_usize..80, any::<bool>()), 0..20)) {
            let (mut bits, mut model) = (Bits::none(bound), BTreeSet::new());
            for (start, length, remove) in ranges {
                if remove {
                    bits.remove(start);
                    model.remove(&start);
                } else {
                    bits.insert_range(start..start + length);
                    model.extend((start..start + length).filter(|number| *number < bound));
                }
            }
            let mut listed = BTreeSet::new();
            let mut from = 0;
            while let Some(number) = bits.next(from) {
                prop_assert!(bits.has(number));
                listed.insert(number);
                from = number + 1;
            }
            prop_assert_eq!(bits.count(), model.len());
            prop_assert_eq!(listed, model);
        }
    }

    #[test]
    fn all_is_every_number_below_the_bound() {
        let bits = Bits::all(130);
        assert_eq!((bits.count(), bits.has(129), bits.has(130)), (130, true, false));
        let mut none = Bits::none(130);
        none.add(&bits);
        assert_eq!(none, bits);
    }
}
