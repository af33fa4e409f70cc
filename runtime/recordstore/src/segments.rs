//! How a device is divided, and which parts are free.

use crate::layout::FIRST_SEGMENT_BLOCK;
use alloc::vec;
use alloc::vec::Vec;

/// Segments that a device is divided into, about.
const SEGMENTS: u64 = 64;
const LEAST_SEGMENT_BLOCKS: u64 = 8;
/// 16 MiB. Each opening reads one block of each segment at most.
const MOST_SEGMENT_BLOCKS: u64 = 1 << 15;
/// Fewer segments leave no room for a log and its successor.
const LEAST_SEGMENTS: u64 = 6;
/// The largest chunk: 64 KiB, which bounds the buffers of reading and writing.
const MOST_CHUNK_BLOCKS: u64 = 128;

/// Blocks that a device must have.
pub(crate) const LEAST_BLOCKS: u64 = FIRST_SEGMENT_BLOCK + LEAST_SEGMENTS * LEAST_SEGMENT_BLOCKS;

/// Length of the segments of a new store on a device of `blocks` blocks.
pub(crate) fn segment_blocks(blocks: u64) -> u32 {
    let wanted = (blocks / SEGMENTS).max(1).next_power_of_two() / 2;
    wanted.clamp(LEAST_SEGMENT_BLOCKS, MOST_SEGMENT_BLOCKS) as u32
}

/// The division of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub segment_blocks: u64,
    pub segments: u32,
}

impl Geometry {
    /// The division of `blocks` blocks into segments of `segment_blocks`; nothing if the two do not go together.
    pub fn new(blocks: u64, segment_blocks: u32) -> Option<Self> {
        let segment_blocks = u64::from(segment_blocks);
        if !(LEAST_SEGMENT_BLOCKS..=MOST_SEGMENT_BLOCKS).contains(&segment_blocks) {
            return None;
        }
        let segments = u32::try_from(blocks.checked_sub(FIRST_SEGMENT_BLOCK)? / segment_blocks).ok()?;
        (u64::from(segments) >= LEAST_SEGMENTS).then_some(Self { segment_blocks, segments })
    }

    /// The first block of a segment.
    pub fn start(&self, segment: u32) -> u64 {
        FIRST_SEGMENT_BLOCK + u64::from(segment) * self.segment_blocks
    }

    /// Blocks of a segment that chunks may take; the last is for the link.
    pub fn usable_blocks(&self) -> u64 {
        self.segment_blocks - 1
    }

    /// Blocks of the largest chunk.
    pub fn most_chunk_blocks(&self) -> u64 {
        MOST_CHUNK_BLOCKS.min(self.segment_blocks / 2)
    }

    /// Segments that the live log may take; the others are for its successor.
    pub fn live_segments(&self) -> usize {
        (self.segments - self.segments / 3) as usize
    }
}

/// Which segments belong to a log.
#[derive(Debug)]
pub(crate) struct Segments {
    taken: Vec<bool>,
    free: usize,
    /// Where the search for a free one goes on: a segment rests for a while before it is used again.
    next: usize,
}

impl Segments {
    pub fn new(count: u32) -> Self {
        Self { taken: vec![false; count as usize], free: count as usize, next: 0 }
    }

    pub fn free(&self) -> usize {
        self.free
    }

    /// Marks a segment as taken; false if it is already, or there is none of this number.
    pub fn take(&mut self, segment: u32) -> bool {
        match self.taken.get_mut(segment as usize) {
            Some(taken) if !*taken => {
                *taken = true;
                self.free -= 1;
                self.next = segment as usize + 1;
                true
            }
            _ => false,
        }
    }

    /// Takes a free segment.
    pub fn take_any(&mut self) -> Option<u32> {
        let count = self.taken.len();
        let found = (self.next..count).chain(0..self.next.min(count)).find(|&at| self.taken.get(at) == Some(&false))?;
        let segment = found as u32;
        self.take(segment).then_some(segment)
    }

    pub fn give_back(&mut self, segment: u32) {
        if let Some(taken) = self.taken.get_mut(segment as usize)
            && core::mem::take(taken)
        {
            self.free += 1;
        }
    }
}
