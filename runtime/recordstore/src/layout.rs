//! The stored format: superblocks and chunk headers, encoded and decoded in one place. All numbers are little endian.

use crate::BLOCK_BYTES;
use xxhash_rust::xxh64::Xxh64;

/// Version of the format.
pub(crate) const VERSION: u32 = 1;
/// Where the two superblocks are: in different sectors of 4 KiB, which many disks write as one.
pub(crate) const SUPERBLOCKS: [u64; 2] = [0, 8];
/// Where segments begin.
pub(crate) const FIRST_SEGMENT_BLOCK: u64 = 16;
/// Bytes of a chunk's header.
pub(crate) const HEADER_BYTES: usize = 64;

const SUPERBLOCK_MAGIC: u64 = u64::from_le_bytes(*b"PolluxRS");
const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"PxCk");

/// Bytes of the superblock that its checksum covers.
const SUPERBLOCK_COVERED: usize = 64;
/// Bytes of the header that the checksum covers.
const HEADER_COVERED: usize = 56;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_le_bytes(*word))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_le_bytes(*word))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Where the live log is.
///
/// | bytes | field |
/// |---|---|
/// | 0..8 | magic `PolluxRS` |
/// | 8..12 | version |
/// | 12..16 | blocks of a segment |
/// | 16..24 | sequence number: the superblock with the higher one counts |
/// | 24..32 | blocks of the device |
/// | 32..40 | number of the live log |
/// | 40..44 | its first segment |
/// | 44..48 | openings of the store so far |
/// | 48..56 | key of the checksums of chunks |
/// | 56..64 | chunks that the log had, all of them stable, when this was written |
/// | 64..72 | XXH64 of the bytes before |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub segment_blocks: u32,
    pub sequence: u64,
    pub blocks: u64,
    pub log: u64,
    pub first_segment: u32,
    pub openings: u32,
    pub key: u64,
    /// Chunks below this number are stable. Those from it on, if there are any, are of this opening: what an earlier one
    /// has left there is dead, even if it becomes whole again because what is written over it is torn.
    pub kept: u64,
}

/// What a block that should hold a superblock holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Superblock(Superblock),
    /// Whole, but of another version.
    Version(u32),
    /// Zeros.
    Blank,
    /// The beginning of a superblock, then zeros: the write of it was torn.
    Torn,
    /// Anything else: something foreign, or a write that was torn.
    Other,
}

impl Superblock {
    pub fn encode(&self) -> [u8; BLOCK_BYTES] {
        let mut block = [0; BLOCK_BYTES];
        put(&mut block, 0, &SUPERBLOCK_MAGIC.to_le_bytes());
        put(&mut block, 8, &VERSION.to_le_bytes());
        put(&mut block, 12, &self.segment_blocks.to_le_bytes());
        put(&mut block, 16, &self.sequence.to_le_bytes());
        put(&mut block, 24, &self.blocks.to_le_bytes());
        put(&mut block, 32, &self.log.to_le_bytes());
        put(&mut block, 40, &self.first_segment.to_le_bytes());
        put(&mut block, 44, &self.openings.to_le_bytes());
        put(&mut block, 48, &self.key.to_le_bytes());
        put(&mut block, 56, &self.kept.to_le_bytes());
        let checksum = superblock_checksum(&block);
        put(&mut block, SUPERBLOCK_COVERED, &checksum.to_le_bytes());
        block
    }

    pub fn decode(block: &[u8; BLOCK_BYTES]) -> Found {
        if block.iter().all(|&byte| byte == 0) {
            return Found::Blank;
        }
        let whole = u64_at(block, SUPERBLOCK_COVERED) == superblock_checksum(block);
        if !whole || u64_at(block, 0) != SUPERBLOCK_MAGIC {
            return Found::Other;
        }
        let version = u32_at(block, 8);
        if version != VERSION {
            return Found::Version(version);
        }
        Found::Superblock(Self {
            segment_blocks: u32_at(block, 12),
            sequence: u64_at(block, 16),
            blocks: u64_at(block, 24),
            log: u64_at(block, 32),
            first_segment: u32_at(block, 40),
            openings: u32_at(block, 44),
            key: u64_at(block, 48),
            kept: u64_at(block, 56),
        })
    }

    /// Reads what may be this superblock, whose key nobody knows, if its write was torn: so much of it as was stored, then zeros.
    pub fn decode_torn(&self, block: &[u8; BLOCK_BYTES]) -> Found {
        const FREE: [core::ops::Range<usize>; 2] = [48..56, SUPERBLOCK_COVERED..SUPERBLOCK_COVERED + 8];
        let found = Self::decode(block);
        let stored = block.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let fits = block.iter().zip(self.encode()).enumerate().take(stored);
        let mut fits = fits.filter(|(at, _)| !FREE.iter().any(|free| free.contains(at)));
        let is_beginning = fits.all(|(_, (&found, expected))| found == expected);
        if found == Found::Other && is_beginning { Found::Torn } else { found }
    }

    /// The place of a superblock with this sequence number.
    pub fn place(sequence: u64) -> u64 {
        if sequence.is_multiple_of(2) { SUPERBLOCKS[0] } else { SUPERBLOCKS[1] }
    }
}

fn superblock_checksum(block: &[u8; BLOCK_BYTES]) -> u64 {
    xxhash_rust::xxh64::xxh64(block.get(..SUPERBLOCK_COVERED).unwrap_or(&[]), 0)
}

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whole records.
    Records,
    /// The first piece of a record that is longer than a chunk.
    First,
    /// A further piece.
    Middle,
    /// The last piece.
    Last,
    /// The number of the segment in which the log goes on, 4 bytes.
    Link,
}

impl Kind {
    fn code(self) -> u32 {
        match self {
            Self::Records => 1,
            Self::First => 2,
            Self::Middle => 3,
            Self::Last => 4,
            Self::Link => 5,
        }
    }

    fn from_code(code: u32) -> Option<Self> {
        [Self::Records, Self::First, Self::Middle, Self::Last, Self::Link].into_iter().find(|kind| kind.code() == code)
    }
}

/// The head of a chunk.
///
/// | bytes | field |
/// |---|---|
/// | 0..4 | magic `PxCk` |
/// | 4..8 | kind |
/// | 8..16 | number of the log |
/// | 16..24 | number of the chunk in the log, from 0 |
/// | 24..32 | chunks of the log that were stable when this one was written |
/// | 32..40 | checksum of the chunk before; of the first chunk, the log's number |
/// | 40..44 | opening of the store in which it was written |
/// | 44..48 | bytes of payload |
/// | 48..56 | reserved, zero |
/// | 56..64 | XXH64, with the store's key, of the bytes before and of the payload |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    pub log: u64,
    pub number: u64,
    pub stable: u64,
    pub previous: u64,
    pub opening: u32,
    pub payload_bytes: u32,
}

impl Header {
    /// Writes the header to the start of `chunk`, whose payload is in place; gives the checksum.
    pub fn seal(&self, key: u64, chunk: &mut [u8]) -> u64 {
        let end = HEADER_BYTES + self.payload_bytes as usize;
        put(chunk, 0, &CHUNK_MAGIC.to_le_bytes());
        put(chunk, 4, &self.kind.code().to_le_bytes());
        put(chunk, 8, &self.log.to_le_bytes());
        put(chunk, 16, &self.number.to_le_bytes());
        put(chunk, 24, &self.stable.to_le_bytes());
        put(chunk, 32, &self.previous.to_le_bytes());
        put(chunk, 40, &self.opening.to_le_bytes());
        put(chunk, 44, &self.payload_bytes.to_le_bytes());
        put(chunk, 48, &0u64.to_le_bytes());
        let checksum = chunk_checksum(key, chunk, end);
        put(chunk, HEADER_COVERED, &checksum.to_le_bytes());
        checksum
    }

    /// Reads the header at the start of `block`, unchecked but for its form: whether the chunk is whole tells
    /// [`verify`](Self::verify).
    pub fn parse(block: &[u8]) -> Option<Self> {
        if block.len() < HEADER_BYTES || u32_at(block, 0) != CHUNK_MAGIC {
            return None;
        }
        Some(Self {
            kind: Kind::from_code(u32_at(block, 4))?,
            log: u64_at(block, 8),
            number: u64_at(block, 16),
            stable: u64_at(block, 24),
            previous: u64_at(block, 32),
            opening: u32_at(block, 40),
            payload_bytes: u32_at(block, 44),
        })
    }

    /// Blocks that the chunk takes.
    pub fn blocks(&self) -> u64 {
        chunk_blocks(self.payload_bytes as usize)
    }

    /// The checksum of the chunk at the start of `chunk`, if it is right.
    pub fn verify(&self, key: u64, chunk: &[u8]) -> Option<u64> {
        let end = HEADER_BYTES + self.payload_bytes as usize;
        let checksum = u64_at(chunk, HEADER_COVERED);
        (chunk.len() >= end && chunk_checksum(key, chunk, end) == checksum).then_some(checksum)
    }
}

/// Blocks of a chunk with so much payload.
pub(crate) fn chunk_blocks(payload_bytes: usize) -> u64 {
    (HEADER_BYTES + payload_bytes).div_ceil(BLOCK_BYTES) as u64
}

fn chunk_checksum(key: u64, chunk: &[u8], end: usize) -> u64 {
    let mut hasher = Xxh64::new(key);
    hasher.update(chunk.get(..HEADER_COVERED).unwrap_or(&[]));
    hasher.update(chunk.get(HEADER_BYTES..end).unwrap_or(&[]));
    hasher.digest()
}
