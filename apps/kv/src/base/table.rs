//! The hash table under keys, sets, hashes and sorted sets: linear hashing over a dense array.
//!
//! * Entries lie densely in insertion order (removal moves the last one into the hole). So a random entry is one
//!   index away, iteration depends on the history of operations and not on hash values or addresses, and a chain
//!   step is an index, not a pointer.
//! * Buckets split one at a time as the table grows and merge one at a time as it shrinks (Litwin 1980), so no
//!   insertion ever rehashes the whole table: there are no pauses to show up as latency.
//!
//! # The scan cursor
//!
//! Buckets are addressed by the low bits of the hash: at any time those below `level + 1` (a power of two) are
//! complete, and a bucket `b` may have been split into `b` and `b + level + 1`. A scan step visits every entry
//! whose hash ends in the cursor's bits under mask `level`, split or not, then increments the cursor *from its
//! highest bit down* (bit-reversed), as redis does. So the set of finished hash suffixes is prefix-closed: when the
//! table doubles, all suffixes that extend a finished one are finished too; when it halves, the cursor falls back
//! to a suffix that may be visited again. An entry that is there from start to end of a full scan is therefore
//! returned at least once, whatever is added or removed meanwhile; some may come twice.

use super::chunked::Chunked;
use alloc::vec::Vec;
use core::hash::{BuildHasher, Hasher};
use foldhash::quality::FixedState;

use super::bytes::same;

const NIL: u32 = u32::MAX;
const MIN_BUCKETS: usize = 4;

/// The secret that places keys in buckets; equal seeds give equal tables.
#[derive(Clone, Copy)]
pub struct Seed(u64);

impl Seed {
    /// A seed of 64 bits that clients must not be able to guess.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    #[inline]
    fn hash(self, key: &[u8]) -> u32 {
        let mut hasher = FixedState::with_seed(self.0).build_hasher();
        hasher.write(key);
        hasher.finish() as u32
    }
}

/// What a [`Table`] holds: something with a key.
pub trait Entry {
    /// The key; it must not change while the entry is in a table.
    fn key(&self) -> &[u8];
    /// Heap memory behind the entry, in bytes.
    fn heap_bytes(&self) -> usize;
}

struct Slot<E> {
    hash: u32,
    next: u32,
    entry: E,
}

/// A hash table from [`Entry::key`] to entries that are addressed by a dense index, `0..len`.
pub struct Table<E> {
    heads: Vec<u32>,
    /// The smallest 2^k - 1 that is not below the highest bucket.
    mask: u32,
    slots: Chunked<Slot<E>>,
    heap_bytes: usize,
    seed: Seed,
}

impl<E: Entry> Table<E> {
    /// An empty table; it allocates nothing.
    pub const fn new(seed: Seed) -> Self {
        Self { heads: Vec::new(), mask: 0, slots: Chunked::new(), heap_bytes: 0, seed }
    }

    /// The seed given at construction.
    pub fn seed(&self) -> Seed {
        self.seed
    }

    /// Number of entries.
    #[inline]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.slots.len() == 0
    }

    /// Memory of the table and all behind it, in bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.slots.bytes() + self.heads.capacity() * size_of::<u32>() + self.heap_bytes
    }

    /// The hash of `key` for [`find_hashed`](Self::find_hashed) and [`insert_new`](Self::insert_new).
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u32 {
        self.seed.hash(key)
    }

    #[inline]
    fn bucket(&self, hash: u32) -> usize {
        let bucket = (hash & self.mask) as usize;
        if bucket < self.heads.len() { bucket } else { bucket & (self.mask >> 1) as usize }
    }

    /// The index of `key`.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.find_hashed(self.hash(key), key)
    }

    /// The index of `key`, whose hash is known.
    #[inline]
    pub fn find_hashed(&self, hash: u32, key: &[u8]) -> Option<u32> {
        let mut at = *self.heads.get(self.bucket(hash))?;
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.hash == hash && same(slot.entry.key(), key) {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    /// An index with this hash that `wanted` accepts.
    pub fn find_by_hash(&self, hash: u32, mut wanted: impl FnMut(&E) -> bool) -> Option<u32> {
        let mut at = *self.heads.get(self.bucket(hash))?;
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.hash == hash && wanted(&slot.entry) {
                return Some(at);
            }
            at = slot.next;
        }
        None
    }

    /// The entry at `index`.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&E> {
        self.slots.get(index as usize).map(|slot| &slot.entry)
    }

    /// The hash of the entry at `index`.
    #[inline]
    pub fn hash_at(&self, index: u32) -> u32 {
        self.slots.get(index as usize).map_or(0, |slot| slot.hash)
    }

    /// Changes the entry at `index`, keeping account of its memory.
    #[inline]
    pub fn edit<R>(&mut self, index: u32, change: impl FnOnce(&mut E) -> R) -> Option<R> {
        let slot = self.slots.get_mut(index as usize)?;
        let before = slot.entry.heap_bytes();
        let result = change(&mut slot.entry);
        self.heap_bytes = self.heap_bytes + slot.entry.heap_bytes() - before;
        Some(result)
    }

    /// The entry at `index`, to change what is not on the heap.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut E> {
        self.slots.get_mut(index as usize).map(|slot| &mut slot.entry)
    }

    /// Adds an entry whose key must not be in the table; gives its index, which is the old length.
    pub fn insert_new(&mut self, hash: u32, entry: E) -> u32 {
        if self.heads.is_empty() {
            self.heads.resize(MIN_BUCKETS, NIL);
            self.mask = MIN_BUCKETS as u32 - 1;
        }
        let index = self.slots.len() as u32;
        self.heap_bytes += entry.heap_bytes();
        let bucket = self.bucket(hash);
        let head = &mut self.heads[bucket];
        self.slots.push(Slot { hash, next: *head, entry });
        *head = index;
        if self.slots.len() > self.heads.len() {
            self.split();
        }
        index
    }

    /// Takes the entry at `index` out. If another entry moved into its place, its old index comes along.
    pub fn remove(&mut self, index: u32) -> Option<(E, Option<u32>)> {
        let slot = self.slots.get(index as usize)?;
        let (hash, next) = (slot.hash, slot.next);
        self.relink(hash, index, next);
        let last = self.slots.len() as u32 - 1;
        if index != last {
            let hash = self.hash_at(last);
            self.relink(hash, last, index);
        }
        let entry = self.slots.swap_remove(index as usize)?.entry;
        self.heap_bytes -= entry.heap_bytes();
        if self.slots.len() == 0 {
            self.heads = Vec::new();
            self.mask = 0;
        } else {
            // At most two merges a removal: one would fall behind, for each removal lowers the target by two.
            while self.heads.len() > MIN_BUCKETS && self.slots.len() * 2 < self.heads.len() {
                self.merge();
            }
        }
        Some((entry, (index != last).then_some(last)))
    }

    /// Makes whoever points to `from` in the chain of `hash` point to `to`.
    fn relink(&mut self, hash: u32, from: u32, to: u32) {
        let bucket = self.bucket(hash);
        let Some(head) = self.heads.get_mut(bucket) else { return };
        if *head == from {
            *head = to;
            return;
        }
        let mut at = *head;
        while let Some(slot) = self.slots.get_mut(at as usize) {
            if slot.next == from {
                slot.next = to;
                return;
            }
            at = slot.next;
        }
    }

    /// Adds one bucket and moves to it what belongs there.
    fn split(&mut self) {
        let new = self.heads.len() as u32;
        if new > self.mask {
            self.mask = self.mask * 2 + 1;
        }
        let old = (new & (self.mask >> 1)) as usize;
        let mask = self.mask;
        let mut at = core::mem::replace(&mut self.heads[old], NIL);
        let mut moved = NIL;
        while let Some(slot) = self.slots.get_mut(at as usize) {
            let next = slot.next;
            let head = if slot.hash & mask == new { &mut moved } else { &mut self.heads[old] };
            slot.next = *head;
            *head = at;
            at = next;
        }
        self.heads.push(moved);
    }

    /// Removes the last bucket, joining its chain to the one it was split from.
    fn merge(&mut self) {
        let Some(head) = self.heads.pop() else { return };
        let into = self.heads.len() & (self.mask >> 1) as usize;
        let mut at = head;
        while let Some(slot) = self.slots.get_mut(at as usize) {
            if slot.next == NIL {
                slot.next = core::mem::replace(&mut self.heads[into], head);
                break;
            }
            at = slot.next;
        }
        if self.heads.len() == (self.mask >> 1) as usize + 1 {
            self.mask >>= 1;
        }
        if self.heads.len() * 4 < self.heads.capacity() {
            self.heads.shrink_to(self.heads.len() * 2);
        }
    }

    /// The entries by index.
    pub fn iter(&self) -> impl Iterator<Item = &E> {
        self.slots.iter().map(|slot| &slot.entry)
    }

    /// Visits the entries under `cursor` (0 starts) and gives the next cursor, 0 at the end. See the module's text.
    pub fn scan(&self, cursor: u64, mut visit: impl FnMut(&E)) -> u64 {
        let buckets = self.heads.len();
        if buckets == 0 {
            return 0;
        }
        let level = if buckets == self.mask as usize + 1 { self.mask } else { self.mask >> 1 };
        let bucket = cursor as u32 & level;
        for bucket in [bucket as usize, bucket as usize + level as usize + 1] {
            let mut at = self.heads.get(bucket).copied().unwrap_or(NIL);
            while let Some(slot) = self.slots.get(at as usize) {
                visit(&slot.entry);
                at = slot.next;
            }
        }
        u64::from((bucket | !level).reverse_bits().wrapping_add(1).reverse_bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Rng, SmallBytes};
    use alloc::collections::{BTreeMap, BTreeSet};
    use alloc::format;

    impl Entry for (SmallBytes, u32) {
        fn key(&self) -> &[u8] {
            self.0.as_slice()
        }
        fn heap_bytes(&self) -> usize {
            self.0.heap_bytes()
        }
    }

    fn key(n: usize) -> SmallBytes {
        SmallBytes::new(format!("{n}{}", "k".repeat(n % 40)).as_bytes())
    }

    fn check(table: &Table<(SmallBytes, u32)>, model: &BTreeMap<usize, u32>) {
        assert_eq!(table.len(), model.len());
        for (&n, &value) in model {
            let at = table.find(key(n).as_slice()).expect("a key of the model");
            assert_eq!(table.get(at).expect("a found index").1, value);
        }
        let heap: usize = model.keys().map(|&n| key(n).heap_bytes()).sum();
        assert_eq!(table.heap_bytes, heap);
    }

    #[test]
    fn behaves_as_a_map_through_growth_and_shrinkage() {
        let mut rng = Rng::new(3);
        let mut table: Table<(SmallBytes, u32)> = Table::new(Seed::new(1));
        let mut model = BTreeMap::new();
        for (round, grow) in [3, 1, 3, 0].into_iter().enumerate() {
            for step in 0..3000 {
                let n = rng.below(2000);
                match table.find(key(n).as_slice()) {
                    Some(at) if rng.below(4) >= grow => {
                        assert_eq!(table.remove(at).map(|(e, _)| e.1), model.remove(&n));
                    }
                    Some(at) => {
                        table.edit(at, |e| e.1 += 1);
                        *model.get_mut(&n).expect("in both") += 1;
                    }
                    None if grow > 0 => {
                        table.insert_new(table.hash(key(n).as_slice()), (key(n), 0));
                        model.insert(n, 0);
                    }
                    None => {}
                }
                if step % 500 == 0 {
                    check(&table, &model);
                }
            }
            check(&table, &model);
            assert!(table.heads.len() <= (2 * table.len()).max(MIN_BUCKETS), "round {round}");
        }
        for n in 0..2000 {
            if let Some(at) = table.find(key(n).as_slice()) {
                table.remove(at);
            }
        }
        assert_eq!((table.len(), table.bytes()), (0, 0));
    }

    /// The guarantee of SCAN: what stays throughout is seen, while the table grows and shrinks by factors.
    #[test]
    fn a_scan_sees_all_that_stays() {
        for seed in 0..40 {
            let mut rng = Rng::new(seed);
            let mut table: Table<(SmallBytes, u32)> = Table::new(Seed::new(seed));
            let stay = rng.below(300) + 1;
            let add = |table: &mut Table<(SmallBytes, u32)>, n| {
                table.insert_new(table.hash(key(n).as_slice()), (key(n), n as u32));
            };
            (0..stay).for_each(|n| add(&mut table, n));
            let (mut seen, mut cursor, mut extra, mut next) = (BTreeSet::new(), 0, Vec::new(), stay);
            let mut steps = 0;
            loop {
                cursor = table.scan(cursor, |e| {
                    seen.insert(e.1 as usize);
                });
                if cursor == 0 {
                    break;
                }
                steps += 1;
                let growing = (steps / 10) % 2 == 0;
                for _ in 0..rng.below(60) {
                    if growing && steps < 200 {
                        add(&mut table, next);
                        extra.push(next);
                        next += 1;
                    } else if let Some(n) = extra.pop() {
                        let at = table.find(key(n).as_slice()).expect("added before");
                        table.remove(at);
                    }
                }
            }
            assert!((0..stay).all(|n| seen.contains(&n)), "seed {seed}");
        }
    }

    #[test]
    fn an_unchanging_table_is_scanned_exactly_once() {
        for len in [1usize, 3, 4, 5, 7, 100, 1000] {
            let mut table: Table<(SmallBytes, u32)> = Table::new(Seed::new(9));
            (0..len).for_each(|n| {
                table.insert_new(table.hash(key(n).as_slice()), (key(n), 0));
            });
            let (mut count, mut cursor) = (0, 0);
            loop {
                cursor = table.scan(cursor, |_| count += 1);
                if cursor == 0 {
                    break;
                }
            }
            assert_eq!(count, len);
        }
    }
}
