//! A checkpoint as bytes.
//!
//! ```text
//! header   64 bytes: magic, version, program, sequence, id of the base, kind, number of parts, checksum
//! parts    each 32 bytes and its name, padded to 8; then the checksum of them all
//! pieces   each 24 bytes (part, length, offset, checksum) and up to 4096 bytes of content; of zeros only the length
//! end      24 bytes: a piece of no part, whose offset is the number of pieces
//! ```
//!
//! All numbers are little-endian. Every piece's checksum covers the piece and begins with the checksum before it, back to
//! the header's: a piece that is changed, missing, repeated, out of order or of another checkpoint breaks the chain, and
//! so does an end that comes too early. The last checksum is the *id* of the checkpoint, by which an incremental one names
//! its base.

use alloc::string::String;
use alloc::vec::Vec;

use crate::BLOCK_BYTES;
use crate::part::{PartKind, Shape, hash};

/// What a checkpoint begins with.
pub(crate) const MAGIC: [u8; 8] = *b"PLXPROGC";
/// The version that this crate writes and reads.
pub(crate) const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const PIECE_BYTES: usize = 24;
const PART_BYTES: usize = 32;
/// Most parts of a checkpoint, and so what a table takes at most: bounds what a reader allocates.
pub const MAX_PARTS: usize = 256;
/// Longest name of a part or of a checkpoint, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
const MAX_TABLE_BYTES: usize = MAX_PARTS * (PART_BYTES + MAX_NAME_BYTES) + 8;
/// In place of a part's number: the end.
const END: u32 = u32::MAX;
/// Flag in a piece's length: all its bytes are zero and not stored.
const ZEROS: u32 = 1 << 31;

/// Whether a checkpoint stands alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// It holds everything.
    Full = 0,
    /// It holds what has changed since its base.
    Incremental = 1,
}

/// What a checkpoint begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) program: u64,
    pub(crate) sequence: u64,
    /// Id of the base; 0 in a full one.
    pub(crate) base: u64,
    pub(crate) kind: Kind,
    pub(crate) parts: u32,
    pub(crate) table_bytes: u32,
}

/// Why bytes are no checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// They are not whole.
    Damaged(&'static str),
    /// They have another version.
    Version(u32),
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Header {
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&(HEADER_BYTES as u32).to_le_bytes());
        bytes[16..24].copy_from_slice(&self.program.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.base.to_le_bytes());
        bytes[40..44].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes[44..48].copy_from_slice(&self.parts.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.table_bytes.to_le_bytes());
        let checksum = hash(&bytes[..56], 0);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The header and its checksum.
    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u64), Bad> {
        if bytes[..8] != MAGIC {
            return Err(Bad::Damaged("it does not begin as checkpoints do"));
        }
        let checksum = word64(bytes, 56);
        if hash(&bytes[..56], 0) != checksum {
            return Err(Bad::Damaged("its header is damaged"));
        }
        // What another version has in these bytes is its own affair, but for the checksum.
        if word32(bytes, 8) != VERSION {
            return Err(Bad::Version(word32(bytes, 8)));
        }
        let kind = match word32(bytes, 40) {
            0 => Kind::Full,
            1 => Kind::Incremental,
            _ => return Err(Bad::Damaged("its kind is unknown")),
        };
        let header = Self {
            program: word64(bytes, 16),
            sequence: word64(bytes, 24),
            base: word64(bytes, 32),
            kind,
            parts: word32(bytes, 44),
            table_bytes: word32(bytes, 48),
        };
        let sound = header.parts as usize <= MAX_PARTS
            && (8..=MAX_TABLE_BYTES).contains(&(header.table_bytes as usize))
            && word32(bytes, 12) as usize == HEADER_BYTES
            && (kind == Kind::Full) == (header.base == 0);
        if sound { Ok((header, checksum)) } else { Err(Bad::Damaged("its header contradicts itself")) }
    }
}

/// A part as a checkpoint describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    pub(crate) name: String,
    pub(crate) shape: Shape,
    /// It is in this checkpoint.
    pub(crate) present: bool,
    /// Of a value, bytes of its encoding; of a region, its length in bytes.
    pub(crate) content_bytes: u64,
}

/// The table of parts with its checksum.
pub(crate) fn encode_table(parts: &[Described]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.name.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&[part.shape.kind as u8, u8::from(part.present), 0, 0]);
        bytes.extend_from_slice(&part.shape.schema.to_le_bytes());
        bytes.extend_from_slice(&part.shape.length_bytes.to_le_bytes());
        bytes.extend_from_slice(&part.content_bytes.to_le_bytes());
        bytes.extend_from_slice(part.name.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    let checksum = hash(&bytes, 0);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The parts, and the table's checksum.
pub(crate) fn decode_table(bytes: &[u8], parts: u32) -> Result<(Vec<Described>, u64), Bad> {
    let damaged = Bad::Damaged("its table of parts is damaged");
    let (table, checksum) = bytes.split_last_chunk::<8>().ok_or(damaged)?;
    let checksum = u64::from_le_bytes(*checksum);
    if hash(table, 0) != checksum {
        return Err(damaged);
    }
    let (mut rest, mut all) = (table, Vec::new());
    for _ in 0..parts {
        let (fixed, behind) = rest.split_at_checked(PART_BYTES).ok_or(damaged)?;
        let name_bytes = word32(fixed, 0) as usize;
        let padded = name_bytes.checked_next_multiple_of(8).ok_or(damaged)?;
        let (name, behind) = behind.split_at_checked(padded).ok_or(damaged)?;
        let name = core::str::from_utf8(&name[..name_bytes]).map_err(|_| damaged)?;
        let kind = match fixed[4] {
            0 => PartKind::Region,
            1 => PartKind::Value,
            _ => return Err(damaged),
        };
        let shape = Shape { kind, schema: word64(fixed, 8), length_bytes: word64(fixed, 16) };
        let present = fixed[5] != 0;
        if kind == PartKind::Region && word64(fixed, 24) != shape.length_bytes {
            return Err(damaged);
        }
        all.push(Described { name: name.into(), shape, present, content_bytes: word64(fixed, 24) });
        rest = behind;
    }
    if rest.is_empty() { Ok((all, checksum)) } else { Err(damaged) }
}

/// What the chain of checksums begins with.
pub(crate) fn chain_start(header: u64, table: u64) -> u64 {
    hash(&table.to_le_bytes(), header)
}

/// A piece's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) part: u32,
    pub(crate) offset: u64,
    pub(crate) length: usize,
    pub(crate) zeros: bool,
    checksum: u64,
}

/// What comes next in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Piece(Piece),
    /// The end: how many pieces there are, and the last checksum.
    End {
        pieces: u64,
        id: u64,
    },
}

fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    rest.iter().all(|&byte| byte == 0) && words.iter().all(|word| *word == [0; 8])
}

fn piece_checksum(fixed: &[u8], content: &[u8], chain: u64) -> u64 {
    hash(content, hash(fixed, chain))
}

/// Appends a piece; gives the new end of the chain.
pub(crate) fn put_piece(out: &mut Vec<u8>, chain: u64, part: u32, offset: u64, content: &[u8]) -> u64 {
    debug_assert!(content.len() <= BLOCK_BYTES, "pieces are bounded");
    let zeros = is_zero(content);
    let stored = if zeros { &[][..] } else { content };
    put(out, chain, part, content.len() as u32 | if zeros { ZEROS } else { 0 }, offset, stored)
}

/// Appends the end; gives the id.
pub(crate) fn put_end(out: &mut Vec<u8>, chain: u64, pieces: u64) -> u64 {
    put(out, chain, END, 0, pieces, &[])
}

fn put(out: &mut Vec<u8>, chain: u64, part: u32, length: u32, offset: u64, stored: &[u8]) -> u64 {
    let start = out.len();
    out.extend_from_slice(&part.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    let checksum = piece_checksum(&out[start..], stored, chain);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_slice(stored);
    checksum
}

/// Reads a piece's header; its content is yet to be checked.
pub(crate) fn next_piece(bytes: &[u8; PIECE_BYTES], chain: u64) -> Result<Next, Bad> {
    let (part, length, offset, checksum) = (word32(bytes, 0), word32(bytes, 4), word64(bytes, 8), word64(bytes, 16));
    if part == END {
        let whole = length == 0 && piece_checksum(&bytes[..16], &[], chain) == checksum;
        return if whole {
            Ok(Next::End { pieces: offset, id: checksum })
        } else {
            Err(Bad::Damaged("its end is damaged"))
        };
    }
    let zeros = length & ZEROS != 0;
    let length = (length & !ZEROS) as usize;
    if length == 0 || length > BLOCK_BYTES {
        return Err(Bad::Damaged("a piece has no such length"));
    }
    Ok(Next::Piece(Piece { part, offset, length, zeros, checksum }))
}

impl Piece {
    /// Bytes that follow the header.
    pub(crate) fn stored_bytes(&self) -> usize {
        if self.zeros { 0 } else { self.length }
    }

    /// Checks header and content; gives the new end of the chain.
    pub(crate) fn check(&self, fixed: &[u8; PIECE_BYTES], stored: &[u8], chain: u64) -> Result<u64, Bad> {
        let whole = piece_checksum(&fixed[..16], stored, chain) == self.checksum;
        if whole { Ok(self.checksum) } else { Err(Bad::Damaged("a piece is damaged or not in its place")) }
    }
}
