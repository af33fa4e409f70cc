//! One log: where it ends, and how records become chunks.

use crate::BLOCK_BYTES;
use crate::batch::{LENGTH_BYTES, split_record};
use crate::layout::{HEADER_BYTES, Header, Kind, chunk_blocks};
use crate::segments::Geometry;
use alloc::vec::Vec;

/// A log and its end.
#[derive(Debug)]
pub(crate) struct Log {
    pub id: u64,
    /// The opening of the store in which chunks are written now.
    pub opening: u32,
    /// In the order of the log.
    pub segments: Vec<u32>,
    /// Blocks of the last segment that chunks take.
    pub used_blocks: u64,
    /// Number of the next chunk.
    pub next: u64,
    /// Checksum of the last chunk.
    pub previous: u64,
    /// Chunks below this number are stable.
    pub stable: u64,
    /// Records in the log.
    pub records: u64,
    /// An error has left it in doubt what of this log is stored.
    pub broken: bool,
}

impl Log {
    pub fn new(id: u64, opening: u32, first_segment: u32) -> Self {
        Self {
            id,
            opening,
            segments: Vec::from([first_segment]),
            used_blocks: 0,
            next: 0,
            previous: id,
            stable: 0,
            records: 0,
            broken: false,
        }
    }

    pub fn segment(&self) -> u32 {
        self.segments.last().copied().unwrap_or(0)
    }

    /// The block at which the next chunk starts, if it fits into this segment.
    pub fn position(&self, geometry: &Geometry) -> u64 {
        geometry.start(self.segment()) + self.used_blocks
    }

    /// Makes the next chunk in `buffer`, padded to whole blocks, and counts it as written.
    pub fn make_chunk(&mut self, key: u64, kind: Kind, payload: &[u8], buffer: &mut Vec<u8>) {
        let bytes = chunk_blocks(payload.len()) as usize * BLOCK_BYTES;
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        buffer.extend_from_slice(payload);
        // The padding is zeros: what lies behind a record must not depend on what the memory held.
        buffer.resize(bytes, 0);
        let header = Header {
            kind,
            log: self.id,
            number: self.next,
            stable: self.stable,
            previous: self.previous,
            opening: self.opening,
            payload_bytes: payload.len() as u32,
        };
        self.previous = header.seal(key, buffer);
        self.next += 1;
        self.used_blocks += header.blocks();
    }

    /// New segments that these chunks need.
    pub fn segments_needed(&self, geometry: &Geometry, chunks: Chunks<'_>) -> usize {
        let (mut used_blocks, mut needed) = (self.used_blocks, 0);
        for (_, payload) in chunks {
            let blocks = chunk_blocks(payload.len());
            if used_blocks + blocks > geometry.usable_blocks() {
                needed += 1;
                used_blocks = 0;
            }
            used_blocks += blocks;
        }
        needed
    }
}

/// Cuts encoded records into chunks: as many whole records as fit, or a piece of one that does not.
#[derive(Clone)]
pub(crate) struct Chunks<'a> {
    rest: &'a [u8],
    /// Bytes left of the record that is being cut.
    cutting: usize,
    most_bytes: usize,
}

impl<'a> Chunks<'a> {
    pub fn new(geometry: &Geometry, encoded: &'a [u8]) -> Self {
        let most_bytes = geometry.most_chunk_blocks() as usize * BLOCK_BYTES - HEADER_BYTES;
        Self { rest: encoded, cutting: 0, most_bytes }
    }

    fn cut(&mut self, bytes: usize) -> &'a [u8] {
        let (piece, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, &[]));
        self.rest = rest;
        piece
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (Kind, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        if self.cutting > 0 {
            let bytes = self.cutting.min(self.most_bytes);
            self.cutting -= bytes;
            let kind = if self.cutting == 0 { Kind::Last } else { Kind::Middle };
            return Some((kind, self.cut(bytes)));
        }
        let (mut bytes, mut rest) = (0, self.rest);
        while let Some((record, after)) = split_record(rest) {
            if bytes + LENGTH_BYTES + record.len() > self.most_bytes {
                break;
            }
            bytes += LENGTH_BYTES + record.len();
            rest = after;
        }
        if bytes > 0 {
            return Some((Kind::Records, self.cut(bytes)));
        }
        let (record, _) = split_record(self.rest)?;
        self.cutting = LENGTH_BYTES + record.len() - self.most_bytes;
        Some((Kind::First, self.cut(self.most_bytes)))
    }
}
