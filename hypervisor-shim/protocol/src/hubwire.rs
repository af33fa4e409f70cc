//! Batches of guest frames between a shim and the hub.
//!
//! The shim's network device carries one packet per batch, not one per guest frame, because a kick or an interrupt costs
//! more than everything else about a frame. A packet is an outer Ethernet header, a batch header and a stream of frame
//! records in the format of [`crate::event`], so a batch of received frames becomes the events of an epoch, and what a
//! guest has put in its ring becomes a batch, by copying bytes.
//!
//! | bytes | field |
//! |---|---|
//! | 0..6, 6..12 | destination and source of the outer Ethernet header |
//! | 12..14 | its type, big-endian: [`ETHERTYPE`] |
//! | 14..16 | version, u16: [`VERSION`] |
//! | 16..18 | kind, u16: [`KIND_FRAMES`] or [`KIND_RESUME`] |
//! | 18..20 | number of frames, u16 |
//! | 20..28 | sequence number of the first frame, u64 |
//! | 28..36 | session, u64 |
//! | 36..44 | generation of the sender, u64 |
//! | 44.. | the frames as records |
//!
//! Integers without a note are little-endian. Behind a virtio-net header of 12 bytes the records are aligned to 8 bytes.
//!
//! Frames to the guest are numbered by the hub; frames from the guest by how many the guest has sent, which is the same
//! at both replicas: a promoted backup that sends frames again gives them the numbers that they had, and
//! [`OutputFilter`] drops them exactly. [`InputLog`] keeps the newest frames to the guest for a promoted backup, which
//! asks for those that the log of its primary did not cover.

mod helpers;
#[cfg(test)]
mod tests;

pub use helpers::{Admission, InputLog, InputLogError, OutputFilter, Since};

use core::fmt;
use zerocopy::little_endian::{U16, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::Generation;
use crate::event::{self, KIND_FRAME, RECORD_HEADER_BYTES, RecordError, RecordReader, record_bytes};

/// The Ethernet type of a batch: "local experimental".
pub const ETHERTYPE: u16 = 0x88b5;
/// Version of the batch format.
pub const VERSION: u16 = 1;
/// A batch of frames.
pub const KIND_FRAMES: u16 = 1;
/// Shim to hub after a promotion: send again what is left of the frames from the packet's sequence number on.
pub const KIND_RESUME: u16 = 2;
/// Bytes before the records.
pub const HEADER_BYTES: usize = size_of::<Header>();
/// The longest packet, outer Ethernet header included.
pub const MAX_PACKET_BYTES: usize = 61_440;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Header {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: zerocopy::big_endian::U16,
    version: U16,
    kind: U16,
    frame_count: U16,
    first_sequence: U64,
    session: U64,
    generation: U64,
}

/// Why a packet is not a batch for this receiver. Foreign packets are dropped, never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchError {
    /// Shorter than the header or longer than [`MAX_PACKET_BYTES`].
    Length {
        /// The packet's length.
        got_bytes: usize,
    },
    /// Not a batch at all.
    Ethertype {
        /// The type in the outer Ethernet header.
        got: u16,
    },
    /// Another version of the format.
    Version {
        /// The version known here.
        expected: u16,
        /// The version that came.
        got: u16,
    },
    /// The packet belongs to another pair.
    WrongSession,
    /// A kind that this version does not know.
    UnknownKind {
        /// The kind.
        got: u16,
    },
    /// The header names another number of frames than there are.
    Count {
        /// The number in the header.
        expected: u16,
        /// The number of records.
        got: usize,
    },
    /// The sequence numbers of the frames exceed 64 bits.
    Sequence {
        /// The number of the first frame.
        first_sequence: u64,
    },
    /// The records are malformed.
    Records(RecordError),
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Length { got_bytes } => {
                write!(f, "packet has {got_bytes} bytes, expected {HEADER_BYTES} to {MAX_PACKET_BYTES}")
            }
            Self::Ethertype { got } => write!(f, "packet has Ethernet type {got:#06x}, expected {ETHERTYPE:#06x}"),
            Self::Version { expected, got } => {
                write!(f, "batch has version {got}, expected {expected}: build both ends from the same source")
            }
            Self::WrongSession => f.write_str("batch belongs to another session"),
            Self::UnknownKind { got } => write!(f, "batch has kind {got}, expected {KIND_FRAMES} or {KIND_RESUME}"),
            Self::Count { expected, got } => write!(f, "batch names {expected} frames and holds {got}"),
            Self::Sequence { first_sequence } => {
                write!(f, "numbers of the frames from {first_sequence} on exceed 64 bits")
            }
            Self::Records(error) => write!(f, "frames of a batch are malformed: {error}"),
        }
    }
}

impl core::error::Error for BatchError {}

impl From<RecordError> for BatchError {
    fn from(error: RecordError) -> Self {
        Self::Records(error)
    }
}

/// From where and to where a packet goes; the same for every packet of a sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Destination of the outer Ethernet header.
    pub destination: [u8; 6],
    /// Source of the outer Ethernet header.
    pub source: [u8; 6],
    /// The pair's session.
    pub session: u64,
    /// The sender's generation.
    pub generation: Generation,
}

impl Envelope {
    fn header(&self, kind: u16, frame_count: u16, first_sequence: u64) -> Header {
        Header {
            destination: self.destination,
            source: self.source,
            ethertype: ETHERTYPE.into(),
            version: U16::new(VERSION),
            kind: U16::new(kind),
            frame_count: U16::new(frame_count),
            first_sequence: U64::new(first_sequence),
            session: U64::new(self.session),
            generation: U64::new(self.generation),
        }
    }
}

/// The buffer given for a packet is shorter than its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferTooSmall {
    /// What the header takes.
    pub expected_bytes: usize,
    /// What the buffer has.
    pub got_bytes: usize,
}

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "header of a batch takes {} bytes, the buffer has {}", self.expected_bytes, self.got_bytes)
    }
}

impl core::error::Error for BufferTooSmall {}

/// Writes a resume packet to the start of `buffer` and returns its length in bytes.
///
/// # Errors
/// [`BufferTooSmall`].
pub fn encode_resume(
    buffer: &mut [u8],
    envelope: &Envelope,
    next_input_sequence: u64,
) -> Result<usize, BufferTooSmall> {
    let got_bytes = buffer.len();
    let head = buffer.get_mut(..HEADER_BYTES).ok_or(BufferTooSmall { expected_bytes: HEADER_BYTES, got_bytes })?;
    head.copy_from_slice(envelope.header(KIND_RESUME, 0, next_input_sequence).as_bytes());
    Ok(HEADER_BYTES)
}

/// How much of a stream of records a batch has taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Whole records.
    pub frames: u16,
    /// Their bytes, headers and padding included.
    pub bytes: usize,
}

/// Fills one packet in a caller's buffer.
#[derive(Debug)]
pub struct BatchEncoder<'b> {
    buffer: &'b mut [u8],
    used_bytes: usize,
    frame_count: u16,
}

impl<'b> BatchEncoder<'b> {
    /// Begins a packet; at most [`MAX_PACKET_BYTES`] of the buffer are used.
    ///
    /// # Errors
    /// [`BufferTooSmall`].
    pub fn new(buffer: &'b mut [u8]) -> Result<Self, BufferTooSmall> {
        if buffer.len() < HEADER_BYTES {
            return Err(BufferTooSmall { expected_bytes: HEADER_BYTES, got_bytes: buffer.len() });
        }
        let limit_bytes = buffer.len().min(MAX_PACKET_BYTES);
        Ok(Self { buffer: &mut buffer[..limit_bytes], used_bytes: HEADER_BYTES, frame_count: 0 })
    }

    /// Appends a frame, or returns `false` (and the packet is as it was) when it does not fit.
    #[must_use]
    pub fn push(&mut self, frame: &[u8]) -> bool {
        if self.frame_count == u16::MAX {
            return false;
        }
        let Some(written) = event::write_record(&mut self.buffer[self.used_bytes..], KIND_FRAME, frame) else {
            return false;
        };
        self.used_bytes += written;
        self.frame_count += 1;
        true
    }

    /// Appends as many whole frame records from the start of `stream` as fit, in one copy, and says how many.
    ///
    /// # Errors
    /// When a record that would be taken is malformed or no frame; the packet is as it was then.
    pub fn push_records(&mut self, stream: &[u8]) -> Result<Taken, RecordError> {
        let mut records = RecordReader::new(stream);
        let mut taken = Taken::default();
        while taken.bytes < self.free_bytes() && taken.frames < u16::MAX - self.frame_count {
            let Some(record) = records.next().transpose()? else { break };
            require_frame(&record)?;
            if records.consumed_bytes() > self.free_bytes() {
                break;
            }
            taken = Taken { frames: taken.frames + 1, bytes: records.consumed_bytes() };
        }
        self.buffer[self.used_bytes..self.used_bytes + taken.bytes].copy_from_slice(&stream[..taken.bytes]);
        self.used_bytes += taken.bytes;
        self.frame_count += taken.frames;
        Ok(taken)
    }

    /// Bytes left for records.
    #[must_use]
    pub const fn free_bytes(&self) -> usize {
        self.buffer.len() - self.used_bytes
    }

    /// The longest frame that still fits; 0 when none does.
    #[must_use]
    pub const fn free_payload_bytes(&self) -> usize {
        self.free_bytes().saturating_sub(RECORD_HEADER_BYTES) / event::RECORD_ALIGN_BYTES * event::RECORD_ALIGN_BYTES
    }

    /// Frames in the packet so far.
    #[must_use]
    pub const fn frame_count(&self) -> u16 {
        self.frame_count
    }

    /// Writes the header and returns the packet's length in bytes. The frames are numbered from `first_sequence` on.
    pub fn finish(self, envelope: &Envelope, first_sequence: u64) -> usize {
        let header = envelope.header(KIND_FRAMES, self.frame_count, first_sequence);
        self.buffer[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        self.used_bytes
    }
}

fn require_frame(record: &event::Record<'_>) -> Result<(), RecordError> {
    if record.kind == KIND_FRAME {
        Ok(())
    } else {
        Err(RecordError::UnknownKind { offset_bytes: record.offset_bytes, got: record.kind })
    }
}

/// A packet that was read; everything about it has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// A batch of frames.
    Frames(Batch<'a>),
    /// A promoted replica asks for the frames from this number on.
    Resume {
        /// The sender's generation.
        generation: Generation,
        /// Number of the first frame that it has not seen.
        next_input_sequence: u64,
    },
}

impl<'a> Packet<'a> {
    /// Reads a packet, outer Ethernet header included. The addresses of the outer header are not judged.
    ///
    /// # Errors
    /// The first fault of the packet.
    pub fn decode(packet: &'a [u8], session: u64) -> Result<Self, BatchError> {
        let length = BatchError::Length { got_bytes: packet.len() };
        if packet.len() > MAX_PACKET_BYTES {
            return Err(length);
        }
        let (header, records) = Header::ref_from_prefix(packet).map_err(|_| length)?;
        if header.ethertype.get() != ETHERTYPE {
            return Err(BatchError::Ethertype { got: header.ethertype.get() });
        }
        if header.version.get() != VERSION {
            return Err(BatchError::Version { expected: VERSION, got: header.version.get() });
        }
        if header.session.get() != session {
            return Err(BatchError::WrongSession);
        }
        let (expected, first_sequence) = (header.frame_count.get(), header.first_sequence.get());
        let got = RecordReader::new(records)
            .try_fold(0, |count, record| record.and_then(|record| require_frame(&record)).map(|()| count + 1))?;
        if got != usize::from(expected) {
            return Err(BatchError::Count { expected, got });
        }
        if first_sequence.checked_add(u64::from(expected)).is_none() {
            return Err(BatchError::Sequence { first_sequence });
        }
        let generation = header.generation.get();
        match header.kind.get() {
            KIND_FRAMES => Ok(Self::Frames(Batch { generation, first_sequence, frame_count: expected, records })),
            KIND_RESUME if expected == 0 => Ok(Self::Resume { generation, next_input_sequence: first_sequence }),
            KIND_RESUME => Err(BatchError::Count { expected: 0, got }),
            got => Err(BatchError::UnknownKind { got }),
        }
    }
}

/// The frames of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch<'a> {
    generation: Generation,
    first_sequence: u64,
    frame_count: u16,
    records: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The sender's generation.
    #[must_use]
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Number of the first frame.
    #[must_use]
    pub const fn first_sequence(&self) -> u64 {
        self.first_sequence
    }

    /// Number of the first frame after this batch.
    #[must_use]
    pub const fn end_sequence(&self) -> u64 {
        // Checked when the packet was read.
        self.first_sequence + self.frame_count as u64
    }

    /// Number of frames.
    #[must_use]
    pub const fn frame_count(&self) -> u16 {
        self.frame_count
    }

    /// The frames as a stream of event records, ready to become the events of an epoch.
    #[must_use]
    pub const fn records(&self) -> &'a [u8] {
        self.records
    }

    /// The records from the frame with this number on; empty when all frames come before it.
    #[must_use]
    pub fn records_from(&self, sequence: u64) -> &'a [u8] {
        let skip = sequence.saturating_sub(self.first_sequence);
        let skipped_bytes = self.frames().take(usize::try_from(skip).unwrap_or(usize::MAX));
        &self.records[skipped_bytes.map(|frame| record_bytes(frame.len())).sum()..]
    }

    /// The frames in their order.
    pub fn frames(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        // All records were checked when the packet was read, so no error ends this early.
        RecordReader::new(self.records).map_while(|record| record.ok().map(|record| record.payload))
    }
}
