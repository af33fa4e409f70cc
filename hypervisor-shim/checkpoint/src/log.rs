//! The stored log of a pair as files.
//!
//! A log is a sequence of *segments*, one file each. A segment is only ever appended to, and a new one begins with each life
//! of the pair, each change of the active replica, each checkpoint, and whenever writing has failed.
//!
//! | part | content |
//! |---|---|
//! | header | [`SEGMENT_HEADER_BYTES`]: of which guest, which segment in the sequence, generation and first epoch; checksummed |
//! | records | each with a header of [`RECORD_HEADER_BYTES`], then the events of the epoch; checksummed |
//!
//! A record's checksum begins with that of the segment's header, so that one of another segment is none of this one's.
//!
//! # What is torn and what is damaged
//! Records are written in groups, and each group is synced before anybody hears that it is stored. A machine that dies while
//! it writes leaves any part of the newest group. So each record says how much of the file was synced when it was written
//! ([`Entry::synced_bytes`]): something unreadable behind that, with whatever follows, is the *torn* end of the log and was
//! promised to nobody; something unreadable before what any later record knows to be synced is *damage*, and refused.
//! (Damage in the newest group itself looks like a torn end; nothing in the file could tell it from one.)
//!
//! # Overlaps
//! A promoted replica stores again what storage may lack, so a segment may begin before the end of the one before it
//! ([`History`]). A record that is the same as the known one changes nothing; one that differs takes the place of that and of
//! all behind it.

mod history;

pub use history::{History, Place};

use core::fmt;

use alloc::vec::Vec;

use protocol::control::{LogEnd, LogRecord};
use protocol::digest::Digest64;
use protocol::event::EventReader;
use protocol::link::EpochStart;
use protocol::{Clocks, Epoch, Generation, ReplicaId};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::file::{FileError, Identity};

/// The first bytes of a segment.
pub const MAGIC: [u8; 8] = *b"PLXLOG1\n";
/// Version of the format; it changes with any field.
pub const VERSION: u32 = 1;
/// Bytes of a segment's header.
pub const SEGMENT_HEADER_BYTES: usize = size_of::<SegmentBytes>();
/// Bytes before a record's events.
pub const RECORD_HEADER_BYTES: usize = size_of::<RecordBytes>();
/// The longest events of one record.
pub const MAX_EVENTS_BYTES: u32 = 1024 * 1024;

const CHECKSUM_SEED: u64 = u64::from_le_bytes(MAGIC);
const CONTENT_SEED: u64 = 0x706f_6c6c_7578_4c47;
/// Records begin at multiples of this.
const ALIGNMENT_BYTES: usize = 8;
const KIND_RECORD: u32 = 1;
const KIND_END: u32 = 2;

/// What a segment is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Its number: segments are read in this order, and none is missing between two.
    pub sequence: u64,
    /// Names the log: the same in all segments of a folder, random.
    pub lineage: u64,
    /// The guest.
    pub identity: Identity,
    /// The generation of the pair when it was begun.
    pub generation: Generation,
    /// The replica that is active then.
    pub replica: ReplicaId,
    /// The epoch of its first record.
    pub first_epoch: Epoch,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct SegmentBytes {
    magic: [u8; 8],
    version: U32,
    header_bytes: U32,
    sequence: U64,
    lineage: U64,
    architecture: U32,
    abi_version: U32,
    image: [u8; 32],
    cpu: [u8; 32],
    memory_bytes: U64,
    generation: U64,
    replica: U64,
    first_epoch: U64,
    checksum: U64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct RecordBytes {
    checksum: U64,
    kind: U32,
    events_bytes: U32,
    epoch: U64,
    generation: U64,
    /// Of the epoch before; of this one in an end.
    digest: U64,
    monotonic_ns: U64,
    realtime_ns: U64,
    synced_bytes: U64,
}

/// Why a log cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogError {
    /// The file does not begin as a segment does.
    NotALog,
    /// Another version of the format.
    Version {
        /// What the file says.
        got: u32,
    },
    /// The header's checksum is wrong, or a field holds what it cannot.
    Header,
    /// Something that was synced cannot be read any more.
    Damaged {
        /// Where it begins.
        at_byte: u64,
        /// The epoch whose record should be there.
        epoch: Epoch,
    },
    /// The log is another guest's, or this is not where it was made.
    Identity(FileError),
    /// A segment is of another log than the one before it.
    Lineage {
        /// The sequence number of the segment.
        sequence: u64,
    },
    /// A segment is missing.
    Missing {
        /// Its sequence number.
        sequence: u64,
    },
    /// A segment begins behind the end of all before it.
    Gap {
        /// The sequence number of the segment.
        sequence: u64,
        /// The epoch that should have come.
        expected: Epoch,
        /// The epoch that came.
        got: Epoch,
    },
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotALog => f.write_str("it is not a segment of a log"),
            Self::Version { got } => write!(f, "it is of version {got} of the format; this program reads {VERSION}"),
            Self::Header => f.write_str("its header is damaged"),
            Self::Damaged { at_byte, epoch } => write!(
                f,
                "it is damaged at byte {at_byte}, in the record of epoch {epoch}, and later records are whole: what was \
                 stored cannot be replayed beyond the end of epoch {}",
                epoch.saturating_sub(1)
            ),
            Self::Identity(error) => error.fmt(f),
            Self::Lineage { sequence } => write!(f, "segment {sequence} belongs to another log"),
            Self::Missing { sequence } => write!(f, "segment {sequence} of the log is missing"),
            Self::Gap { sequence, expected, got } => write!(
                f,
                "the log lacks epochs {expected} to {}: segment {sequence} begins with epoch {got}",
                got.saturating_sub(1)
            ),
        }
    }
}

impl core::error::Error for LogError {}

/// Writes segments.
#[derive(Debug, Clone, Copy)]
pub struct SegmentWriter {
    seed: u64,
}

impl SegmentWriter {
    /// Begins a segment: appends its header to `out`.
    pub fn new(header: &SegmentHeader, out: &mut Vec<u8>) -> Self {
        let bytes = header.encode();
        out.extend_from_slice(bytes.as_bytes());
        Self { seed: bytes.checksum.get() }
    }

    /// Appends a record. So many bytes of the segment are synced.
    pub fn record(&self, record: &LogRecord<'_>, synced_bytes: u64, out: &mut Vec<u8>) {
        let start = &record.start;
        let header = RecordBytes {
            checksum: U64::ZERO,
            kind: U32::new(KIND_RECORD),
            // Of epochs whose events are bounded far below that.
            events_bytes: U32::new(start.events.len() as u32),
            epoch: U64::new(start.epoch),
            generation: U64::new(record.generation),
            digest: U64::new(start.prev_digest),
            monotonic_ns: U64::new(start.clocks.monotonic_ns),
            realtime_ns: U64::new(start.clocks.realtime_ns),
            synced_bytes: U64::new(synced_bytes),
        };
        self.append(header, start.events, out);
    }

    /// Appends how the last epoch ended.
    pub fn end(&self, end: &LogEnd, generation: Generation, synced_bytes: u64, out: &mut Vec<u8>) {
        let header = RecordBytes {
            checksum: U64::ZERO,
            kind: U32::new(KIND_END),
            events_bytes: U32::ZERO,
            epoch: U64::new(end.epoch),
            generation: U64::new(generation),
            digest: U64::new(end.digest),
            monotonic_ns: U64::ZERO,
            realtime_ns: U64::ZERO,
            synced_bytes: U64::new(synced_bytes),
        };
        self.append(header, &[], out);
    }

    fn append(&self, mut header: RecordBytes, events: &[u8], out: &mut Vec<u8>) {
        header.checksum = U64::new(header.checksum(self.seed, events));
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(events);
        out.resize(out.len().next_multiple_of(ALIGNMENT_BYTES), 0);
    }
}

impl SegmentHeader {
    fn encode(&self) -> SegmentBytes {
        let mut bytes = SegmentBytes {
            magic: MAGIC,
            version: U32::new(VERSION),
            header_bytes: U32::new(SEGMENT_HEADER_BYTES as u32),
            sequence: U64::new(self.sequence),
            lineage: U64::new(self.lineage),
            architecture: U32::new(self.identity.architecture),
            abi_version: U32::new(self.identity.abi_version),
            image: self.identity.image,
            cpu: self.identity.cpu,
            memory_bytes: U64::new(self.identity.memory_bytes),
            generation: U64::new(self.generation),
            replica: U64::new(self.replica.get().into()),
            first_epoch: U64::new(self.first_epoch),
            checksum: U64::ZERO,
        };
        bytes.checksum = U64::new(bytes.checksum());
        bytes
    }

    fn decode(bytes: &SegmentBytes) -> Result<Self, LogError> {
        if bytes.magic != MAGIC {
            return Err(LogError::NotALog);
        }
        if bytes.version.get() != VERSION {
            return Err(LogError::Version { got: bytes.version.get() });
        }
        let replica = u8::try_from(bytes.replica.get()).ok().and_then(ReplicaId::new).ok_or(LogError::Header)?;
        if bytes.checksum() != bytes.checksum.get() || bytes.header_bytes.get() as usize != SEGMENT_HEADER_BYTES {
            return Err(LogError::Header);
        }
        Ok(Self {
            sequence: bytes.sequence.get(),
            lineage: bytes.lineage.get(),
            identity: Identity {
                architecture: bytes.architecture.get(),
                abi_version: bytes.abi_version.get(),
                image: bytes.image,
                cpu: bytes.cpu,
                memory_bytes: bytes.memory_bytes.get(),
            },
            generation: bytes.generation.get(),
            replica,
            first_epoch: bytes.first_epoch.get(),
        })
    }
}

impl SegmentBytes {
    fn checksum(&self) -> u64 {
        let mut digest = Digest64::new(CHECKSUM_SEED);
        digest.write_bytes(&self.as_bytes()[..SEGMENT_HEADER_BYTES - size_of::<U64>()]);
        digest.finish()
    }
}

impl RecordBytes {
    fn checksum(&self, seed: u64, events: &[u8]) -> u64 {
        let mut digest = Digest64::new(seed);
        digest.write_bytes(&self.as_bytes()[size_of::<U64>()..]);
        digest.write_bytes(events);
        digest.finish()
    }
}

/// What an entry of a segment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// The record of an epoch.
    Record {
        /// The digest of the epoch before.
        prev_digest: u64,
        /// A digest of all that the guest gets of the record.
        content: u64,
    },
    /// How an epoch ended.
    End {
        /// The epoch's digest.
        digest: u64,
    },
}

/// An entry of a segment, without its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// The epoch.
    pub epoch: Epoch,
    /// The generation in which it was stored.
    pub generation: Generation,
    /// Where it begins in the segment.
    pub at_byte: u64,
    /// Its length, with its events and up to the next one.
    pub bytes: u32,
    /// So much of the segment was synced when it was written.
    pub synced_bytes: u64,
}

/// A segment that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What it is of.
    pub header: SegmentHeader,
    /// Its entries, oldest first.
    pub entries: Vec<Entry>,
    /// So many bytes are whole; what is behind them is torn.
    pub whole_bytes: u64,
}

impl Segment {
    /// Reads a segment; `None` if the file is so short that nothing was ever stored in it.
    ///
    /// # Errors
    /// [`LogError`]. A torn end is none.
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, LogError> {
        let Ok((header, _)) = SegmentBytes::ref_from_prefix(bytes) else {
            let is_beginning = bytes.len() < MAGIC.len() || bytes.starts_with(&MAGIC);
            return if is_beginning { Ok(None) } else { Err(LogError::NotALog) };
        };
        let seed = header.checksum.get();
        let header = SegmentHeader::decode(header)?;
        let mut entries = Vec::new();
        let mut at = SEGMENT_HEADER_BYTES;
        while let Some(entry) = entry_at(bytes, at, seed) {
            at += entry.bytes as usize;
            entries.push(entry);
        }
        let synced_bytes = (at..bytes.len())
            .step_by(ALIGNMENT_BYTES)
            .filter_map(|later| entry_at(bytes, later, seed))
            .map(|entry| entry.synced_bytes)
            .max();
        if synced_bytes.is_some_and(|synced_bytes| synced_bytes > at as u64) {
            let epoch = entries.last().map_or(header.first_epoch, |entry: &Entry| entry.epoch.saturating_add(1));
            return Err(LogError::Damaged { at_byte: at as u64, epoch });
        }
        Ok(Some(Self { header, entries, whole_bytes: at as u64 }))
    }
}

/// The entry that begins there, if it is a whole one of this segment.
fn entry_at(bytes: &[u8], at: usize, seed: u64) -> Option<Entry> {
    let (header, rest) = RecordBytes::ref_from_prefix(bytes.get(at..)?).ok()?;
    let events_bytes = header.events_bytes.get();
    let kind = header.kind.get();
    // Cheap questions first: this is also asked of what is no entry.
    if !matches!(kind, KIND_RECORD | KIND_END) || events_bytes > MAX_EVENTS_BYTES {
        return None;
    }
    let events = rest.get(..events_bytes as usize)?;
    let bytes = (RECORD_HEADER_BYTES + events.len()).next_multiple_of(ALIGNMENT_BYTES);
    let padding = rest.get(events.len()..bytes - RECORD_HEADER_BYTES)?;
    if header.checksum(seed, events) != header.checksum.get() || padding.iter().any(|byte| *byte != 0) {
        return None;
    }
    let digest = header.digest.get();
    let kind = match kind {
        KIND_END => EntryKind::End { digest },
        _ => EntryKind::Record { prev_digest: digest, content: content(header, events) },
    };
    Some(Entry {
        kind,
        epoch: header.epoch.get(),
        generation: header.generation.get(),
        at_byte: at as u64,
        bytes: bytes as u32,
        synced_bytes: header.synced_bytes.get(),
    })
}

fn content(header: &RecordBytes, events: &[u8]) -> u64 {
    let mut digest = Digest64::new(CONTENT_SEED);
    for word in [&header.epoch, &header.digest, &header.monotonic_ns, &header.realtime_ns] {
        digest.write_u64(word.get());
    }
    digest.write_bytes(events);
    digest.finish()
}

/// The record in the bytes of an [`Entry`], which were checked when the segment was read; `None` if they hold none, or
/// events that are none.
pub fn record(bytes: &[u8]) -> Option<LogRecord<'_>> {
    let (header, rest) = RecordBytes::ref_from_prefix(bytes).ok()?;
    let events = rest.get(..header.events_bytes.get() as usize)?;
    if header.kind.get() != KIND_RECORD || EventReader::validate(events).is_err() {
        return None;
    }
    let clocks = Clocks { monotonic_ns: header.monotonic_ns.get(), realtime_ns: header.realtime_ns.get() };
    let start = EpochStart {
        epoch: header.epoch.get(),
        prev_digest: header.digest.get(),
        clocks,
        released_through: 0,
        sent_ns: 0,
        events,
    };
    Some(LogRecord { generation: header.generation.get(), start })
}

#[cfg(test)]
mod tests;
