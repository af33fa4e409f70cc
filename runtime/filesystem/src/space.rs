//! Which data blocks are free.

use alloc::vec;
use alloc::vec::Vec;

/// A set of blocks.
#[derive(Clone, Debug)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(blocks: u32) -> Self {
        Self(vec![0; (blocks as usize).div_ceil(64)])
    }

    fn has(&self, block: u32) -> bool {
        self.0.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 != 0)
    }

    fn set(&mut self, block: u32, value: bool) {
        if let Some(word) = self.0.get_mut(block as usize / 64) {
            *word = *word & !(1 << (block % 64)) | u64::from(value) << (block % 64);
        }
    }
}

/// The data blocks. Number 0 is not one of them.
#[derive(Debug)]
pub(crate) struct Space {
    blocks: u32,
    used: Bits,
    /// Taken since the last commit: nothing stable speaks of them.
    fresh: Bits,
    /// Some are fresh.
    any_fresh: bool,
    free: u32,
    /// Where the next block is looked for.
    cursor: u32,
    /// Not needed any more when the next commit is stable.
    released: Vec<u32>,
    /// Takes the lowest free block always, so that what is free is used again at once.
    #[cfg(test)]
    pub eager: bool,
}

impl Space {
    pub fn new(blocks: u32) -> Self {
        let mut used = Bits::new(blocks);
        used.set(0, true);
        let free = blocks.saturating_sub(1);
        Self {
            blocks,
            used,
            fresh: Bits::new(blocks),
            any_fresh: false,
            free,
            cursor: 1,
            released: Vec::new(),
            #[cfg(test)]
            eager: false,
        }
    }

    /// Blocks in all.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    pub fn free(&self) -> u32 {
        self.free
    }

    /// Blocks that will be free when the next commit is stable.
    pub fn released(&self) -> u32 {
        self.released.len() as u32
    }

    /// Blocks that are kept for changes to what is there.
    pub fn kept(&self) -> u32 {
        (self.blocks / 64).clamp(4, 256)
    }

    /// Notes, when a device is mounted, that a block is in use. `false` if it is none, or in use already.
    pub fn claim(&mut self, block: u32) -> bool {
        if block == 0 || block >= self.blocks || self.used.has(block) {
            return false;
        }
        self.used.set(block, true);
        self.free -= 1;
        true
    }

    /// Takes up to `most` blocks that lie one behind the other: the first of them and how many. Nothing if none is free.
    pub fn take_run(&mut self, most: u32) -> Option<(u32, u32)> {
        #[cfg(test)]
        if self.eager {
            self.cursor = 1;
        }
        let start = self.next_free(self.cursor).or_else(|| self.next_free(1))?;
        let mut count = 0;
        while count < most && start + count < self.blocks && !self.used.has(start + count) {
            self.used.set(start + count, true);
            self.fresh.set(start + count, true);
            count += 1;
        }
        self.any_fresh = true;
        self.free -= count;
        self.cursor = start + count;
        Some((start, count))
    }

    /// The first free block from `from` on.
    fn next_free(&self, from: u32) -> Option<u32> {
        let first_word = from as usize / 64;
        for (index, &word) in self.used.0.iter().enumerate().skip(first_word) {
            let below = if index == first_word { (1_u64 << (from % 64)) - 1 } else { 0 };
            let taken = word | below;
            if taken != u64::MAX {
                let block = index as u32 * 64 + taken.trailing_ones();
                return (block < self.blocks).then_some(block);
            }
        }
        None
    }

    /// A block is not needed any more: it is free at once if nothing stable speaks of it, otherwise with the next commit.
    pub fn release(&mut self, block: u32) {
        if self.fresh.has(block) {
            self.fresh.set(block, false);
            self.free_block(block);
        } else {
            self.released.push(block);
        }
    }

    fn free_block(&mut self, block: u32) {
        if block != 0 && block < self.blocks && self.used.has(block) {
            self.used.set(block, false);
            self.free += 1;
        }
    }

    /// A commit is being written that speaks of everything that is taken now: from here on it may be stable.
    pub fn seal(&mut self) {
        if core::mem::take(&mut self.any_fresh) {
            self.fresh.0.fill(0);
        }
    }

    /// The commit is stable: what was released before it is free.
    pub fn committed(&mut self) {
        for block in core::mem::take(&mut self.released) {
            self.free_block(block);
        }
    }
}
