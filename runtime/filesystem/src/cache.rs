//! Blocks of files in memory.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::BLOCK_BYTES;
use crate::inode::Ino;

/// Which block of which file.
pub(crate) type Key = (Ino, u64);

/// What a block holds.
pub(crate) type Bytes = [u8; BLOCK_BYTES];

#[derive(Debug)]
struct Page {
    bytes: Box<Bytes>,
    /// The device does not have it.
    dirty: bool,
    /// Used since the hand came by.
    used: bool,
}

/// Blocks by file and place. Which ones are dropped is decided by a clock's hand that goes round in their order.
#[derive(Debug)]
pub(crate) struct Cache {
    pages: BTreeMap<Key, Page>,
    dirty: usize,
    /// Most pages.
    most: usize,
    hand: Key,
}

impl Cache {
    pub fn new(most: usize) -> Self {
        Self { pages: BTreeMap::new(), dirty: 0, most, hand: (0, 0) }
    }

    pub fn dirty(&self) -> usize {
        self.dirty
    }

    /// Whether so much is changed that it had better be written out.
    pub fn is_crowded(&self) -> bool {
        self.dirty * 2 > self.most
    }

    pub fn has(&self, key: Key) -> bool {
        self.pages.contains_key(&key)
    }

    pub fn is_dirty(&self, key: Key) -> bool {
        self.pages.get(&key).is_some_and(|page| page.dirty)
    }

    pub fn get(&mut self, key: Key) -> Option<&Bytes> {
        let page = self.pages.get_mut(&key)?;
        page.used = true;
        Some(&page.bytes)
    }

    /// A block's content, to be changed; it is zeros if it is not there yet.
    pub fn change(&mut self, key: Key) -> &mut Bytes {
        if !self.pages.contains_key(&key) {
            self.make_room(1);
        }
        let page = self.pages.entry(key).or_insert_with(zeros);
        if !page.dirty {
            page.dirty = true;
            self.dirty += 1;
        }
        page.used = true;
        &mut page.bytes
    }

    /// Keeps what the device has. What is changed stays as it is.
    pub fn keep(&mut self, key: Key, bytes: &Bytes) {
        if self.pages.contains_key(&key) {
            return;
        }
        self.make_room(1);
        let mut page = zeros();
        page.bytes.copy_from_slice(bytes);
        page.dirty = false;
        self.pages.insert(key, page);
    }

    /// The device has it now.
    pub fn clean(&mut self, key: Key) {
        if let Some(page) = self.pages.get_mut(&key)
            && core::mem::take(&mut page.dirty)
        {
            self.dirty -= 1;
        }
    }

    /// The next changed blocks from `from` on: up to `most` of one file that follow each other.
    pub fn dirty_run(&self, from: Key, most: usize) -> Vec<Key> {
        let mut run: Vec<Key> = Vec::new();
        for (&key, _) in self.pages.range(from..).filter(|(_, page)| page.dirty) {
            let follows = run.last().is_none_or(|&(ino, index)| key == (ino, index + 1));
            if run.len() == most || !follows {
                break;
            }
            run.push(key);
        }
        run
    }

    /// Forgets the blocks of a file from `index` on, changed or not.
    pub fn forget(&mut self, ino: Ino, index: u64) {
        let keys: Vec<Key> = self.pages.range((ino, index)..=(ino, u64::MAX)).map(|(&key, _)| key).collect();
        for key in keys {
            self.clean(key);
            self.pages.remove(&key);
        }
    }

    /// Drops unchanged blocks until `count` more fit. If all are changed, nothing goes: the caller writes out in time.
    fn make_room(&mut self, count: usize) {
        let mut looks = self.pages.len() * 2;
        while self.pages.len() + count > self.most && looks > 0 {
            looks -= 1;
            let after = (Bound::Excluded(self.hand), Bound::Unbounded);
            let Some((&key, page)) = self.pages.range_mut(after).next() else {
                // Round once more: numbers of inodes begin at 1.
                self.hand = (0, 0);
                continue;
            };
            self.hand = key;
            if !page.dirty && !core::mem::take(&mut page.used) {
                self.pages.remove(&key);
            }
        }
    }
}

fn zeros() -> Page {
    Page { bytes: Box::new([0; BLOCK_BYTES]), dirty: false, used: true }
}
