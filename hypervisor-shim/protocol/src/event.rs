//! The records inside an epoch record: what happened to the guest from outside, in the order in which it will see it.
//!
//! The stream is the format of the guest's rings, so that events go from the hub's packet to the log, the peer and the
//! guest by copying bytes, never by translating them:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | payload length in bytes, u32 |
//! | 4..6 | kind, u16 |
//! | 6..8 | flags, u16, zero |
//! | 8.. | payload, then zeros up to a multiple of 8 bytes |
//!
//! All integers are little-endian.

use alloc::vec::Vec;
use core::fmt;
use hypercall::disk::{COMPLETION_BYTES, Completion};
use hypercall::record::Header;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use hypercall::record::{
    ALIGNMENT_BYTES as RECORD_ALIGN_BYTES, HEADER_BYTES as RECORD_HEADER_BYTES, KIND_CONSOLE_INPUT, KIND_DISK_DATA,
    KIND_DISK_DONE, KIND_FRAME, KIND_RESEED, KIND_UNCERTAIN, MAX_PAYLOAD_BYTES as MAX_RECORD_PAYLOAD_BYTES,
    total_bytes as record_bytes,
};

/// Bytes of the seed in a reseed event.
pub const SEED_BYTES: usize = 32;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct UncertainWire {
    version: U16,
    size_bytes: U16,
    device: U32,
    operation: U64,
}

const UNCERTAIN_VERSION: u16 = 1;
const UNCERTAIN_BYTES: usize = size_of::<UncertainWire>();

/// Why a stream of records cannot be read. Offsets are bytes from the start of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The stream ends inside a record.
    Truncated {
        /// Where the record starts.
        offset_bytes: usize,
        /// What the record needs.
        expected_bytes: usize,
        /// What is left of the stream.
        got_bytes: usize,
    },
    /// A payload is longer than any record may be.
    TooLong {
        /// Where the record starts.
        offset_bytes: usize,
        /// The greatest length allowed.
        limit_bytes: usize,
        /// The length it names.
        got_bytes: usize,
    },
    /// The bytes between a payload and the next record are not zero.
    Padding {
        /// Where the record starts.
        offset_bytes: usize,
    },
    /// Flags that this version does not know.
    Flags {
        /// Where the record starts.
        offset_bytes: usize,
        /// The flags.
        got: u16,
    },
    /// A kind that this version does not know or that does not belong in this stream.
    UnknownKind {
        /// Where the record starts.
        offset_bytes: usize,
        /// The kind.
        got: u16,
    },
    /// A payload that its kind does not allow.
    BadPayload {
        /// Where the record starts.
        offset_bytes: usize,
        /// The record's kind.
        kind: u16,
        /// The payload's length.
        got_bytes: usize,
    },
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Truncated { offset_bytes, expected_bytes, got_bytes } => {
                write!(f, "record at byte {offset_bytes} needs {expected_bytes} bytes, the stream has {got_bytes} left")
            }
            Self::TooLong { offset_bytes, limit_bytes, got_bytes } => write!(
                f,
                "record at byte {offset_bytes} names {got_bytes} bytes of payload, at most {limit_bytes} are allowed"
            ),
            Self::Padding { offset_bytes } => {
                write!(f, "padding of the record at byte {offset_bytes} is not zero")
            }
            Self::Flags { offset_bytes, got } => {
                write!(f, "record at byte {offset_bytes} has flags {got:#06x}, expected none")
            }
            Self::UnknownKind { offset_bytes, got } => {
                write!(f, "record at byte {offset_bytes} has kind {got}, which is not allowed here")
            }
            Self::BadPayload { offset_bytes, kind, got_bytes } => {
                write!(f, "record at byte {offset_bytes} of kind {kind} has an impossible payload of {got_bytes} bytes")
            }
        }
    }
}

impl core::error::Error for RecordError {}

/// One record of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it starts, in bytes from the start of the stream.
    pub offset_bytes: usize,
    /// Its kind, not yet judged.
    pub kind: u16,
    /// Its payload, without padding.
    pub payload: &'a [u8],
}

/// Iterates over the records of a stream. An error ends the iteration.
#[derive(Clone, Debug)]
pub struct RecordReader<'a> {
    stream: &'a [u8],
    offset_bytes: usize,
}

impl<'a> RecordReader<'a> {
    /// Reads a stream from its start.
    #[must_use]
    pub const fn new(stream: &'a [u8]) -> Self {
        Self { stream, offset_bytes: 0 }
    }

    /// How much of the stream the records yielded so far take.
    #[must_use]
    pub const fn consumed_bytes(&self) -> usize {
        self.offset_bytes
    }

    fn read(&self, rest: &'a [u8]) -> Result<Record<'a>, RecordError> {
        let offset_bytes = self.offset_bytes;
        let truncated = |expected_bytes| RecordError::Truncated { offset_bytes, expected_bytes, got_bytes: rest.len() };
        let (header, body) = rest.split_first_chunk().ok_or_else(|| truncated(RECORD_HEADER_BYTES))?;
        let header = Header::decode(*header);
        let payload_bytes = header.payload_bytes as usize;
        if payload_bytes > MAX_RECORD_PAYLOAD_BYTES {
            return Err(RecordError::TooLong {
                offset_bytes,
                limit_bytes: MAX_RECORD_PAYLOAD_BYTES,
                got_bytes: payload_bytes,
            });
        }
        if header.flags != 0 {
            return Err(RecordError::Flags { offset_bytes, got: header.flags });
        }
        let whole_bytes = record_bytes(payload_bytes);
        let padded = body.get(..whole_bytes - RECORD_HEADER_BYTES).ok_or_else(|| truncated(whole_bytes))?;
        let (payload, padding) = padded.split_at(payload_bytes);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(RecordError::Padding { offset_bytes });
        }
        Ok(Record { offset_bytes, kind: header.kind, payload })
    }
}

impl<'a> Iterator for RecordReader<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.stream.get(self.offset_bytes..).filter(|rest| !rest.is_empty())?;
        let read = self.read(rest);
        self.offset_bytes = match &read {
            Ok(record) => self.offset_bytes + record_bytes(record.payload.len()),
            Err(_) => self.stream.len(),
        };
        Some(read)
    }
}

/// Writes one record to the start of `buffer` and returns its length, or `None` (and writes nothing) when it does not fit
/// or is longer than a record may be.
#[must_use]
pub fn write_record(buffer: &mut [u8], kind: u16, payload: &[u8]) -> Option<usize> {
    if payload.len() > MAX_RECORD_PAYLOAD_BYTES {
        return None;
    }
    let record = buffer.get_mut(..record_bytes(payload.len()))?;
    let (header, body) = record.split_at_mut(RECORD_HEADER_BYTES);
    header.copy_from_slice(&header_for(kind, payload.len()));
    let (data, padding) = body.split_at_mut(payload.len());
    data.copy_from_slice(payload);
    padding.fill(0);
    Some(record_bytes(payload.len()))
}

fn header_for(kind: u16, payload_bytes: usize) -> [u8; RECORD_HEADER_BYTES] {
    // The callers have checked the length against MAX_RECORD_PAYLOAD_BYTES, which fits in 32 bits.
    Header::new(kind, payload_bytes as u32).encode()
}

/// The payload of an uncertain interrupt (IO2): an operation that may or may not have been performed; the driver
/// repeats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uncertain {
    /// The device's number in the guest's device table.
    pub device: u32,
    /// The operation's number as the guest gave it, or [`Uncertain::EVERY_OPERATION`] or
    /// [`Uncertain::EVERYTHING`].
    pub operation: u64,
}

impl Uncertain {
    /// Stands for every operation of the device that is outstanding.
    ///
    /// Of a disk that is mirrored only requests that were given up for a copy of the guest count: this replica has its own
    /// disk, and goes on with the others.
    pub const EVERY_OPERATION: u64 = u64::MAX;
    /// Stands for every operation that is outstanding, whatever its device and whoever was to carry it out.
    pub const EVERYTHING: u64 = u64::MAX - 1;

    /// Reads the payload of an event; `None` if it is none of this version.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        Self::from_wire(payload)
    }

    fn to_wire(self) -> UncertainWire {
        UncertainWire {
            version: U16::new(UNCERTAIN_VERSION),
            size_bytes: U16::new(UNCERTAIN_BYTES as u16),
            device: U32::new(self.device),
            operation: U64::new(self.operation),
        }
    }

    fn from_wire(payload: &[u8]) -> Option<Self> {
        let wire = UncertainWire::ref_from_bytes(payload).ok()?;
        let known = wire.version.get() == UNCERTAIN_VERSION && usize::from(wire.size_bytes.get()) == UNCERTAIN_BYTES;
        known.then(|| Self { device: wire.device.get(), operation: wire.operation.get() })
    }
}

/// Bytes before the data of a [`DiskData`].
pub const DISK_DATA_FIXED_BYTES: usize = size_of::<DiskDataWire>();
/// Most data of one [`DiskData`].
pub const MAX_DISK_DATA_BYTES: usize = MAX_RECORD_PAYLOAD_BYTES - DISK_DATA_FIXED_BYTES;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct DiskDataWire {
    number: U64,
    offset_bytes: U32,
    reserved: U32,
}

/// A piece of what a read of a shared disk has read. Pieces come in order; the completion comes behind the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskData<'a> {
    /// Which request.
    pub number: u64,
    /// How much of it came before.
    pub offset_bytes: u32,
    /// At least one byte, at most [`MAX_DISK_DATA_BYTES`].
    pub bytes: &'a [u8],
}

impl<'a> DiskData<'a> {
    /// Reads a payload; `None` if it is not one.
    #[must_use]
    pub fn decode(payload: &'a [u8]) -> Option<Self> {
        let (wire, bytes) = DiskDataWire::ref_from_prefix(payload).ok()?;
        let DiskDataWire { number, offset_bytes, reserved } = *wire;
        let good = reserved.get() == 0 && !bytes.is_empty();
        good.then(|| Self { number: number.get(), offset_bytes: offset_bytes.get(), bytes })
    }

    fn append_to(&self, stream: &mut Vec<u8>) -> Result<(), RecordError> {
        let wire = DiskDataWire {
            number: U64::new(self.number),
            offset_bytes: U32::new(self.offset_bytes),
            reserved: U32::ZERO,
        };
        append_parts(stream, KIND_DISK_DATA, &[wire.as_bytes(), self.bytes])
    }
}

/// What happens to a guest at the start of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A frame received.
    Frame(&'a [u8]),
    /// Bytes typed at the console.
    ConsoleInput(&'a [u8]),
    /// Fresh seed for the entropy generator.
    Reseed(&'a [u8; SEED_BYTES]),
    /// An operation whose outcome is not known.
    Uncertain(Uncertain),
    /// A disk request is done or has failed. What a read of a mirrored disk has read is not in the record: each replica's own
    /// disk knows.
    DiskDone(Completion),
    /// What a read of a shared disk has read, in part: only the active replica's disk has read it.
    DiskData(DiskData<'a>),
}

impl<'a> Event<'a> {
    /// The record kind.
    #[must_use]
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Frame(_) => KIND_FRAME,
            Self::ConsoleInput(_) => KIND_CONSOLE_INPUT,
            Self::Reseed(_) => KIND_RESEED,
            Self::Uncertain(_) => KIND_UNCERTAIN,
            Self::DiskDone(_) => KIND_DISK_DONE,
            Self::DiskData(_) => KIND_DISK_DATA,
        }
    }

    /// Bytes that the event takes in a stream.
    #[must_use]
    pub const fn encoded_bytes(&self) -> usize {
        record_bytes(match self {
            Self::Frame(bytes) | Self::ConsoleInput(bytes) => bytes.len(),
            Self::Reseed(_) => SEED_BYTES,
            Self::Uncertain(_) => UNCERTAIN_BYTES,
            Self::DiskDone(_) => COMPLETION_BYTES,
            Self::DiskData(data) => DISK_DATA_FIXED_BYTES + data.bytes.len(),
        })
    }

    /// Appends the event to a stream.
    ///
    /// # Errors
    /// [`RecordError::TooLong`] (and nothing is appended) when the payload exceeds [`MAX_RECORD_PAYLOAD_BYTES`].
    pub fn append_to(&self, stream: &mut Vec<u8>) -> Result<(), RecordError> {
        match self {
            Self::Frame(bytes) | Self::ConsoleInput(bytes) => append_record(stream, self.kind(), bytes),
            Self::Reseed(seed) => append_record(stream, self.kind(), seed.as_slice()),
            Self::Uncertain(uncertain) => append_record(stream, self.kind(), uncertain.to_wire().as_bytes()),
            Self::DiskDone(completion) => append_record(stream, self.kind(), &completion.encode()),
            Self::DiskData(data) => data.append_to(stream),
        }
    }

    fn from_record(record: Record<'a>) -> Result<Self, RecordError> {
        let Record { offset_bytes, kind, payload } = record;
        let bad = RecordError::BadPayload { offset_bytes, kind, got_bytes: payload.len() };
        match kind {
            KIND_FRAME => Ok(Self::Frame(payload)),
            KIND_CONSOLE_INPUT => Ok(Self::ConsoleInput(payload)),
            KIND_RESEED => payload.try_into().map(Self::Reseed).map_err(|_| bad),
            KIND_UNCERTAIN => Uncertain::decode(payload).map(Self::Uncertain).ok_or(bad),
            KIND_DISK_DONE => Completion::decode(payload).map(Self::DiskDone).ok_or(bad),
            KIND_DISK_DATA => DiskData::decode(payload).map(Self::DiskData).ok_or(bad),
            got => Err(RecordError::UnknownKind { offset_bytes, got }),
        }
    }
}

/// Appends one record of any kind to a stream.
///
/// # Errors
/// [`RecordError::TooLong`] (and nothing is appended) when the payload exceeds [`MAX_RECORD_PAYLOAD_BYTES`].
pub fn append_record(stream: &mut Vec<u8>, kind: u16, payload: &[u8]) -> Result<(), RecordError> {
    append_parts(stream, kind, &[payload])
}

/// Appends a record whose payload is the parts one after the other.
fn append_parts(stream: &mut Vec<u8>, kind: u16, parts: &[&[u8]]) -> Result<(), RecordError> {
    let payload_bytes = parts.iter().map(|part| part.len()).sum();
    if payload_bytes > MAX_RECORD_PAYLOAD_BYTES {
        return Err(RecordError::TooLong {
            offset_bytes: stream.len(),
            limit_bytes: MAX_RECORD_PAYLOAD_BYTES,
            got_bytes: payload_bytes,
        });
    }
    let end_bytes = stream.len() + record_bytes(payload_bytes);
    stream.reserve(record_bytes(payload_bytes));
    stream.extend_from_slice(&header_for(kind, payload_bytes));
    for part in parts {
        stream.extend_from_slice(part);
    }
    stream.resize(end_bytes, 0);
    Ok(())
}

/// Iterates over the events of an epoch. An error ends the iteration.
#[derive(Clone, Debug)]
pub struct EventReader<'a> {
    records: RecordReader<'a>,
}

impl<'a> EventReader<'a> {
    /// Reads a stream from its start.
    #[must_use]
    pub const fn new(stream: &'a [u8]) -> Self {
        Self { records: RecordReader::new(stream) }
    }

    /// Reads a whole stream for its errors and returns the number of events.
    ///
    /// # Errors
    /// The first fault of the stream.
    pub fn validate(stream: &'a [u8]) -> Result<usize, RecordError> {
        Self::new(stream).try_fold(0, |count, event| event.map(|_| count + 1))
    }
}

impl<'a> Iterator for EventReader<'a> {
    type Item = Result<Event<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        let event = self.records.next()?.and_then(Event::from_record);
        if event.is_err() {
            self.records.offset_bytes = self.records.stream.len();
        }
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    fn stream_of(events: &[Event<'_>]) -> Vec<u8> {
        let mut stream = Vec::new();
        for event in events {
            let before = stream.len();
            event.append_to(&mut stream).expect("short enough");
            assert_eq!(stream.len() - before, event.encoded_bytes());
        }
        stream
    }

    fn read_all(stream: &[u8]) -> Result<Vec<Event<'_>>, RecordError> {
        EventReader::new(stream).collect()
    }

    #[test]
    fn layout_is_pinned() {
        let stream = stream_of(&[Event::Frame(b"abc"), Event::Uncertain(Uncertain { device: 2, operation: 5 })]);
        let expected = [
            [3, 0, 0, 0, 1, 0, 0, 0],
            [b'a', b'b', b'c', 0, 0, 0, 0, 0],
            [16, 0, 0, 0, 4, 0, 0, 0],
            [1, 0, 16, 0, 2, 0, 0, 0],
            [5, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(stream, expected.concat());
    }

    #[test]
    fn faults_are_told_apart() {
        let good = stream_of(&[Event::Frame(b"abc")]);
        assert_eq!(
            read_all(&good[..15]),
            Err(RecordError::Truncated { offset_bytes: 0, expected_bytes: 16, got_bytes: 15 })
        );
        assert_eq!(
            read_all(&good[..7]),
            Err(RecordError::Truncated { offset_bytes: 0, expected_bytes: 8, got_bytes: 7 })
        );
        let with = |index: usize, value: u8| {
            let mut bad = good.clone();
            bad[index] = value;
            bad
        };
        assert_eq!(read_all(&with(15, 1)), Err(RecordError::Padding { offset_bytes: 0 }));
        assert_eq!(read_all(&with(6, 1)), Err(RecordError::Flags { offset_bytes: 0, got: 1 }));
        assert_eq!(read_all(&with(4, 9)), Err(RecordError::UnknownKind { offset_bytes: 0, got: 9 }));
        assert_eq!(
            read_all(&with(4, 3)),
            Err(RecordError::BadPayload { offset_bytes: 0, kind: KIND_RESEED, got_bytes: 3 })
        );
        assert_eq!(
            read_all(&with(3, 0xff)),
            Err(RecordError::TooLong {
                offset_bytes: 0,
                limit_bytes: MAX_RECORD_PAYLOAD_BYTES,
                got_bytes: 0xff00_0003
            })
        );
    }

    #[test]
    fn an_error_ends_the_iteration() {
        let mut stream = Vec::new();
        append_record(&mut stream, 99, b"?").expect("short");
        append_record(&mut stream, KIND_FRAME, b"after").expect("short");
        let mut reader = EventReader::new(&stream);
        assert!(reader.next().is_some_and(|event| event.is_err()));
        assert!(reader.next().is_none());
    }

    #[test]
    fn pieces_of_disk_data_are_never_empty_and_at_most_a_record() {
        let whole = vec![7; MAX_DISK_DATA_BYTES];
        let data = |bytes| Event::DiskData(DiskData { number: 1, offset_bytes: 2, bytes });
        assert_eq!(read_all(&stream_of(&[data(&whole)])), Ok(vec![data(&whole)]));
        let long = vec![7; MAX_DISK_DATA_BYTES + 1];
        assert!(data(&long).append_to(&mut Vec::new()).is_err());
        let bad = Err(RecordError::BadPayload { offset_bytes: 0, kind: KIND_DISK_DATA, got_bytes: 16 });
        assert_eq!(read_all(&stream_of(&[data(&[])])), bad);
        let mut reserved = stream_of(&[data(&[1])]);
        reserved[8 + 12] = 1;
        assert!(read_all(&reserved).is_err());
    }

    #[test]
    fn a_payload_that_is_too_long_is_refused_whole() {
        let long = vec![0; MAX_RECORD_PAYLOAD_BYTES + 1];
        let mut stream = vec![7];
        assert!(Event::Frame(&long).append_to(&mut stream).is_err());
        assert_eq!(stream, [7]);
        let mut buffer = vec![0xee; long.len() + 64];
        assert_eq!(write_record(&mut buffer, KIND_FRAME, &long), None);
        assert!(buffer.iter().all(|byte| *byte == 0xee));
    }

    fn any_event() -> impl Strategy<Value = (u16, Vec<u8>)> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..90);
        prop_oneof![
            bytes().prop_map(|payload| (KIND_FRAME, payload)),
            bytes().prop_map(|payload| (KIND_CONSOLE_INPUT, payload)),
            prop::array::uniform32(any::<u8>()).prop_map(|seed| (KIND_RESEED, seed.to_vec())),
            any::<(u32, u64)>().prop_map(|(device, operation)| {
                (KIND_UNCERTAIN, Uncertain { device, operation }.to_wire().as_bytes().to_vec())
            }),
            (any::<(u64, u32)>(), prop::collection::vec(any::<u8>(), 1..90)).prop_map(|((number, offset), data)| {
                let number = number.to_le_bytes();
                (KIND_DISK_DATA, [&number[..], &offset.to_le_bytes(), &[0; 4], &data].concat())
            }),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(records in prop::collection::vec(any_event(), 0..12)) {
            let mut stream = Vec::new();
            let mut buffer = vec![0xaa; 2048];
            let mut used = 0;
            for (kind, payload) in &records {
                append_record(&mut stream, *kind, payload).expect("short");
                used += write_record(&mut buffer[used..], *kind, payload).expect("fits");
            }
            prop_assert_eq!(&buffer[..used], &stream);
            let events = read_all(&stream).expect("valid");
            prop_assert_eq!(events.len(), records.len());
            prop_assert_eq!(EventReader::validate(&stream), Ok(records.len()));
            prop_assert_eq!(stream_of(&events), stream);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_what_is_accepted_is_canonical(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(events) = read_all(&bytes) {
                prop_assert_eq!(stream_of(&events), bytes);
            }
        }

        #[test]
        fn a_flipped_header_never_panics(
            records in prop::collection::vec(any_event(), 1..4), at in any::<prop::sample::Index>(), bit in 0..8,
        ) {
            let mut stream = Vec::new();
            for (kind, payload) in &records {
                append_record(&mut stream, *kind, payload).expect("short");
            }
            let index = at.index(stream.len());
            stream[index] ^= 1_u8 << bit;
            if let Ok(events) = read_all(&stream) {
                prop_assert_eq!(stream_of(&events), stream);
            }
        }
    }
}
