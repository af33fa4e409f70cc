//! Lists: a deque of chunks, so that pushes and pops at both ends are O(1) and never move more than a chunk.

use crate::base::{SmallBytes, same};
use alloc::collections::VecDeque;

const CHUNK_ITEMS: usize = 128;

type Chunk = VecDeque<SmallBytes>;

/// A list. Ends are O(1), a position in the middle O(length / 128), which is how redis's quicklist does it too.
#[derive(Default)]
pub struct List {
    /// None of them empty.
    chunks: VecDeque<Chunk>,
    len: usize,
    heap_bytes: usize,
}

impl List {
    /// An empty list.
    pub const fn new() -> Self {
        Self { chunks: VecDeque::new(), len: 0, heap_bytes: 0 }
    }

    /// Number of elements.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a key never holds an empty list")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Memory behind the list, in bytes; every chunk but a single one counts as full.
    #[inline]
    pub fn bytes(&self) -> usize {
        let items = match self.chunks.len() {
            0 => 0,
            1 => self.chunks.front().map_or(0, Chunk::capacity),
            many => many * CHUNK_ITEMS,
        };
        self.heap_bytes + items * size_of::<SmallBytes>() + self.chunks.capacity() * size_of::<Chunk>()
    }

    /// A deep copy.
    pub fn duplicate(&self) -> Self {
        let mut copy = Self::new();
        self.for_range(0, self.len, |element| copy.push_back(element));
        copy
    }

    /// A chunk that grows when it is the first, so that short lists stay small, or one of full size.
    fn new_chunk(&self) -> Chunk {
        if self.chunks.is_empty() { Chunk::new() } else { Chunk::with_capacity(CHUNK_ITEMS) }
    }

    /// Adds an element before the first.
    #[inline]
    pub fn push_front(&mut self, element: &[u8]) {
        if self.chunks.front().is_none_or(|chunk| chunk.len() >= CHUNK_ITEMS) {
            self.chunks.push_front(self.new_chunk());
        }
        let element = self.account(element);
        if let Some(chunk) = self.chunks.front_mut() {
            chunk.push_front(element);
        }
    }

    /// Adds an element behind the last.
    #[inline]
    pub fn push_back(&mut self, element: &[u8]) {
        if self.chunks.back().is_none_or(|chunk| chunk.len() >= CHUNK_ITEMS) {
            self.chunks.push_back(self.new_chunk());
        }
        let element = self.account(element);
        if let Some(chunk) = self.chunks.back_mut() {
            chunk.push_back(element);
        }
    }

    fn account(&mut self, element: &[u8]) -> SmallBytes {
        let element = SmallBytes::new(element);
        self.heap_bytes += element.heap_bytes();
        self.len += 1;
        element
    }

    fn unaccount(&mut self, element: &SmallBytes) {
        self.heap_bytes -= element.heap_bytes();
        self.len -= 1;
    }

    /// Takes the first element.
    #[inline]
    pub fn pop_front(&mut self) -> Option<SmallBytes> {
        let chunk = self.chunks.front_mut()?;
        let element = chunk.pop_front()?;
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        self.unaccount(&element);
        Some(element)
    }

    /// Takes the last element.
    #[inline]
    pub fn pop_back(&mut self) -> Option<SmallBytes> {
        let chunk = self.chunks.back_mut()?;
        let element = chunk.pop_back()?;
        if chunk.is_empty() {
            self.chunks.pop_back();
        }
        self.unaccount(&element);
        Some(element)
    }

    /// The chunk of element `index` and its place there.
    fn locate(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index < self.len / 2 {
            let mut rest = index;
            for (at, chunk) in self.chunks.iter().enumerate() {
                if rest < chunk.len() {
                    return Some((at, rest));
                }
                rest -= chunk.len();
            }
            return None;
        }
        let mut behind = self.len - index;
        for (at, chunk) in self.chunks.iter().enumerate().rev() {
            if behind <= chunk.len() {
                return Some((at, chunk.len() - behind));
            }
            behind -= chunk.len();
        }
        None
    }

    /// Element `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let (chunk, place) = self.locate(index)?;
        self.chunks.get(chunk)?.get(place).map(SmallBytes::as_slice)
    }

    /// Replaces element `index`; false if there is none.
    pub fn set(&mut self, index: usize, element: &[u8]) -> bool {
        let Some((chunk, place)) = self.locate(index) else { return false };
        let Some(old) = self.chunks.get_mut(chunk).and_then(|chunk| chunk.get_mut(place)) else { return false };
        let old = core::mem::replace(old, SmallBytes::new(element));
        self.unaccount(&old);
        self.account(element);
        true
    }

    /// Inserts an element before element `index`, or at the end.
    pub fn insert(&mut self, index: usize, element: &[u8]) {
        let Some((at, place)) = self.locate(index) else { return self.push_back(element) };
        if index == 0 {
            return self.push_front(element);
        }
        let element = self.account(element);
        let Some(chunk) = self.chunks.get_mut(at) else { return };
        chunk.insert(place, element);
        if chunk.len() > CHUNK_ITEMS {
            let half = chunk.split_off(CHUNK_ITEMS / 2);
            self.chunks.insert(at + 1, half);
        }
    }

    /// Visits `count` elements from `start` on.
    #[inline]
    pub fn for_range(&self, start: usize, count: usize, mut visit: impl FnMut(&[u8])) {
        let Some((first, mut skip)) = self.locate(start) else { return };
        let mut rest = count;
        for chunk in self.chunks.range(first..) {
            let (front, back) = chunk.as_slices();
            for half in [front, back] {
                let from = skip.min(half.len());
                skip -= from;
                let half = half.get(from..).unwrap_or(&[]);
                let half = half.get(..rest).unwrap_or(half);
                half.iter().for_each(|element| visit(element.as_slice()));
                rest -= half.len();
            }
            if rest == 0 {
                return;
            }
        }
    }

    /// The elements from the first, or from the last backwards.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.chunks.iter().flatten().map(SmallBytes::as_slice)
    }

    /// Keeps `count` elements from `start` on.
    pub fn trim(&mut self, start: usize, count: usize) {
        for _ in 0..start.min(self.len) {
            self.pop_front();
        }
        for _ in count.min(self.len)..self.len {
            self.pop_back();
        }
    }

    /// Removes up to `limit` elements equal to `element`, the first ones or the last ones; gives how many.
    pub fn remove_equal(&mut self, element: &[u8], limit: usize, from_back: bool) -> usize {
        let chunks = self.chunks.len();
        let (mut removed, mut freed_bytes) = (0, 0);
        for step in 0..chunks {
            let Some(chunk) = self.chunks.get_mut(if from_back { chunks - 1 - step } else { step }) else { break };
            let mut seen = 0;
            while removed < limit && seen < chunk.len() {
                let place = if from_back { chunk.len() - 1 - seen } else { seen };
                if chunk.get(place).is_some_and(|e| same(e.as_slice(), element)) {
                    freed_bytes += chunk.remove(place).map_or(0, |e| e.heap_bytes());
                    removed += 1;
                } else {
                    seen += 1;
                }
            }
        }
        self.chunks.retain(|chunk| !chunk.is_empty());
        self.len -= removed;
        self.heap_bytes -= freed_bytes;
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Rng;
    use alloc::vec::Vec;

    #[test]
    fn behaves_as_a_deque() {
        let mut rng = Rng::new(5);
        let mut list = List::new();
        let mut model: VecDeque<Vec<u8>> = VecDeque::new();
        for step in 0..20_000 {
            let element = alloc::vec![b'a' + rng.below(3) as u8; rng.below(40)];
            let at = rng.below(model.len() + 1);
            match rng.below(if step < 12_000 { 9 } else { 14 }) {
                0..=2 => {
                    list.push_front(&element);
                    model.push_front(element);
                }
                3..=5 => {
                    list.push_back(&element);
                    model.push_back(element);
                }
                6 => {
                    list.insert(at, &element);
                    model.insert(at, element);
                }
                7 => assert_eq!(list.set(at, &element), model.get_mut(at).map(|e| *e = element).is_some()),
                8 if step % 10 == 0 => {
                    let limit = rng.below(5);
                    let back = rng.below(2) == 1;
                    let mut left = limit;
                    let mut keep = |e: &Vec<u8>| {
                        *e != element || left == 0 || {
                            left -= 1;
                            false
                        }
                    };
                    let kept: VecDeque<_> = if back {
                        model.iter().rev().filter(|e| keep(e)).cloned().collect::<Vec<_>>().into_iter().rev().collect()
                    } else {
                        model.iter().filter(|e| keep(e)).cloned().collect()
                    };
                    assert_eq!(list.remove_equal(&element, limit, back), model.len() - kept.len());
                    model = kept;
                }
                9..=10 => assert_eq!(list.pop_front().map(|e| e.as_slice().to_vec()), model.pop_front()),
                11..=12 => assert_eq!(list.pop_back().map(|e| e.as_slice().to_vec()), model.pop_back()),
                _ => {}
            }
            assert_eq!(list.len(), model.len());
            assert_eq!(list.get(at).map(<[u8]>::to_vec), model.get(at).cloned());
            if step % 1000 == 0 {
                assert!(list.iter().eq(model.iter()));
                let count = rng.below(300);
                let mut range = Vec::new();
                list.for_range(at, count, |e| range.push(e.to_vec()));
                assert!(range.iter().eq(model.iter().skip(at).take(count)));
            }
        }
        list.trim(100, 50);
        assert!(list.iter().eq(model.iter().skip(100).take(50)));
        list.trim(0, 0);
        assert_eq!((list.len(), list.heap_bytes), (0, 0));
    }
}
