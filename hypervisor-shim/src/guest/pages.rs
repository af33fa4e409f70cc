//! A set of pages of guest memory.

use alloc::vec;
use alloc::vec::Vec;

use hypercall::layout::PAGE_BYTES;

/// A set of page numbers below a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    pages: u32,
    count: u32,
}

impl PageSet {
    /// No page of a guest with so much memory.
    pub fn empty(memory_bytes: usize) -> Self {
        let pages = (memory_bytes as u64 / PAGE_BYTES) as u32;
        Self { words: vec![0; pages.div_ceil(64) as usize], pages, count: 0 }
    }

    /// All pages of a guest with so much memory.
    pub fn all(memory_bytes: usize) -> Self {
        let mut set = Self::empty(memory_bytes);
        (0..set.pages).for_each(|page| set.insert(page));
        set
    }

    /// Adds a page; one beyond the guest's memory is none of its pages.
    pub fn insert(&mut self, page: u32) {
        if page < self.pages {
            let (word, bit) = (&mut self.words[page as usize / 64], 1 << (page % 64));
            self.count += u32::from(*word & bit == 0);
            *word |= bit;
        }
    }

    /// Adds the pages of a range of guest memory.
    pub fn insert_range(&mut self, offset: u64, bytes: u64) {
        if bytes > 0 {
            let last = (offset + bytes - 1) / PAGE_BYTES;
            (offset / PAGE_BYTES..=last).for_each(|page| self.insert(page as u32));
        }
    }

    /// Takes the first page at or behind `from` out of the set.
    pub fn take_from(&mut self, from: u32) -> Option<u32> {
        let mut index = from as usize / 64;
        let mut word = self.words.get(index)? & (u64::MAX << (from % 64));
        while word == 0 {
            index += 1;
            word = *self.words.get(index)?;
        }
        let bit = word.trailing_zeros();
        self.words[index] &= !(1 << bit);
        self.count -= 1;
        Some(index as u32 * 64 + bit)
    }

    /// Moves all pages of `other` here.
    pub fn absorb(&mut self, other: &mut Self) {
        let mut from = 0;
        while let Some(page) = other.take_from(from) {
            self.insert(page);
            from = page;
        }
    }

    /// Adds all pages of `other`, a set of the same guest's.
    pub fn unite(&mut self, other: &Self) {
        self.count = 0;
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
            self.count += word.count_ones();
        }
    }

    /// How many pages there are.
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY_BYTES: usize = 130 * PAGE_BYTES as usize;

    fn drain(set: &mut PageSet) -> Vec<u32> {
        core::iter::from_fn(|| set.take_from(0)).collect()
    }

    #[test]
    fn pages_come_out_once_and_in_order() {
        let mut set = PageSet::empty(MEMORY_BYTES);
        for page in [129, 0, 63, 64, 0, 130, u32::MAX] {
            set.insert(page);
        }
        assert_eq!(set.len(), 4);
        assert_eq!(set.take_from(1), Some(63));
        assert_eq!(set.take_from(130), None);
        assert_eq!(drain(&mut set), [0, 64, 129]);
        assert!(set.is_empty());
        assert_eq!(drain(&mut PageSet::all(MEMORY_BYTES)), (0..130).collect::<Vec<_>>());
    }

    #[test]
    fn a_range_touches_the_pages_that_it_lies_in() {
        let mut set = PageSet::empty(MEMORY_BYTES);
        set.insert_range(PAGE_BYTES - 1, 2);
        set.insert_range(5 * PAGE_BYTES, 0);
        set.insert_range(7 * PAGE_BYTES, PAGE_BYTES);
        let mut other = PageSet::all(MEMORY_BYTES);
        other.absorb(&mut set);
        assert_eq!((other.len(), set.len()), (130, 0));
        set.insert_range(PAGE_BYTES - 1, 2);
        set.insert_range(7 * PAGE_BYTES, PAGE_BYTES);
        let mut united = PageSet::empty(MEMORY_BYTES);
        united.insert(7);
        united.insert(99);
        united.unite(&set);
        assert_eq!(united.len(), 4);
        assert_eq!(drain(&mut united), [0, 1, 7, 99]);
        assert_eq!(drain(&mut set), [0, 1, 7]);
    }
}
