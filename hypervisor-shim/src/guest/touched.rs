//! The pages that the guest has written to in an epoch, for digests that cover memory.
//!
//! Only the newest epoch is remembered, and only by the numbers of its pages: no epoch begins before the one before has
//! been compared (`compares_first` of the replica's configuration), so that guest memory still holds what it held at
//! the end of an epoch in which the replicas came apart.

use alloc::vec::Vec;

use hypercall::layout::{GUEST_BASE, PAGE_BYTES};
use protocol::Epoch;
use protocol::digest::Digest64;

use super::{Guest, GuestMemory};

/// Seed of the digest of a page; any fixed value would do.
const PAGE_SEED: u64 = 0x706f_6c6c_7578_0002;

/// The pages touched in the newest epoch.
#[derive(Debug, Default)]
pub struct Touched {
    epoch: Epoch,
    /// Page numbers, ascending.
    pages: Vec<u32>,
}

impl Touched {
    /// With room for every page of a guest's memory, so that nothing is allocated at the end of an epoch.
    pub fn with_room(memory_bytes: usize) -> Self {
        Self { epoch: 0, pages: Vec::with_capacity(memory_bytes / PAGE_BYTES as usize) }
    }

    /// Forgets the pages of the epoch before.
    pub fn begin(&mut self, epoch: Epoch) {
        self.epoch = epoch;
        self.pages.clear();
    }

    /// Notes the page at this offset, which is above those noted before.
    pub fn note(&mut self, offset: u64) {
        self.pages.push((offset / PAGE_BYTES) as u32);
    }

    /// The offsets of the pages of this epoch; `None` if it is not the newest one.
    pub fn of(&self, epoch: Epoch) -> Option<impl ExactSizeIterator<Item = u64> + '_> {
        (epoch == self.epoch).then(|| self.pages.iter().map(|page| u64::from(*page) * PAGE_BYTES))
    }
}

impl Guest {
    /// The digest of the epoch that has just ended, with the place and the content of each of its pages.
    pub fn cover_memory(&mut self, touched: &Touched) -> u64 {
        for page in &touched.pages {
            let offset = u64::from(*page) * PAGE_BYTES;
            let mut digest = Digest64::new(PAGE_SEED);
            self.memory.digest(offset as usize, PAGE_BYTES as usize, &mut digest);
            self.digest.write_u64(offset);
            self.digest.write_u64(digest.finish());
        }
        self.digest.finish()
    }
}

/// The content of the page at an offset; empty when there is none.
pub fn page_content(memory: &GuestMemory, offset: u64, out: &mut Vec<u8>) {
    out.clear();
    memory.append_to(GUEST_BASE.saturating_add(offset), PAGE_BYTES as usize, out);
}

#[cfg(test)]
mod tests;
