//! Framing of byte streams: where a message begins and ends, and that it is whole, in order and meant for this stream.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic, u32: [`MAGIC`] |
//! | 4..6 | version, u16: [`VERSION`] |
//! | 6..8 | kind, u16: what the payload is |
//! | 8..10 | header length in bytes, u16: [`HEADER_BYTES`] |
//! | 10..12 | flags, u16, zero |
//! | 12..16 | payload length in bytes, u32 |
//! | 16..24 | sequence number, u64: 0 for the first frame of a stream, then consecutive |
//! | 24..32 | session, u64: chosen at random for each stream, so that replayed and foreign bytes are refused |
//! | 32..40 | checksum, u64: [`Digest64`] of bytes 0..32 and of the payload |
//! | 40.. | payload |
//!
//! All integers are little-endian. The streams that carry frames are reliable and ordered, so any fault is final: the
//! stream counts as failed.

pub(crate) mod body;

pub use body::MessageError;

use alloc::vec::Vec;
use core::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ReplicaId;
use crate::digest::Digest64;

/// The first four bytes of each frame: "PLXF".
pub const MAGIC: u32 = u32::from_le_bytes(*b"PLXF");
/// Version of the framing.
pub const VERSION: u16 = 1;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = size_of::<Header>();
/// The longest payload that a writer writes and that a reader can be told to accept.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

const CHECKSUM_SEED: u64 = MAGIC as u64;
/// The checksum is the header's last field and covers what is before it.
const SUMMED_HEADER_BYTES: usize = HEADER_BYTES - size_of::<U64>();

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: U32,
    version: U16,
    kind: U16,
    header_bytes: U16,
    flags: U16,
    payload_bytes: U32,
    sequence: U64,
    session: U64,
    checksum: U64,
}

/// The session of one direction of a link whose pair has this session.
#[must_use]
pub const fn direction_session(pair_session: u64, sender: ReplicaId) -> u64 {
    pair_session ^ sender.get() as u64
}

/// Why a stream of frames cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// A frame does not begin with [`MAGIC`].
    BadMagic {
        /// What it begins with.
        got: u32,
    },
    /// Another version of the framing.
    BadVersion {
        /// The version known here.
        expected: u16,
        /// The version that came.
        got: u16,
    },
    /// A header of another length, or flags that this version does not know.
    BadHeader {
        /// The length that came, in bytes.
        header_bytes: u16,
        /// The flags that came.
        flags: u16,
    },
    /// The content is not what was sent.
    BadChecksum {
        /// Computed over what came.
        expected: u64,
        /// The one in the header.
        got: u64,
    },
    /// A frame was lost, repeated or replayed.
    OutOfSequence {
        /// The number that should have come.
        expected: u64,
        /// The number that came.
        got: u64,
    },
    /// The frame belongs to another stream.
    WrongSession,
    /// The payload is longer than this reader accepts.
    TooLong {
        /// The greatest length accepted.
        limit_bytes: usize,
        /// The length in the header.
        got_bytes: usize,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadMagic { got } => write!(f, "frame begins with {got:#010x}, expected {MAGIC:#010x}"),
            Self::BadVersion { expected, got } => {
                write!(f, "frame has version {got}, expected {expected}: build both ends from the same source")
            }
            Self::BadHeader { header_bytes, flags } => write!(
                f,
                "frame has a header of {header_bytes} bytes with flags {flags:#06x}, expected {HEADER_BYTES} without flags"
            ),
            Self::BadChecksum { expected, got } => {
                write!(f, "frame has checksum {got:016x}, its content gives {expected:016x}")
            }
            Self::OutOfSequence { expected, got } => write!(f, "frame has number {got}, expected {expected}"),
            Self::WrongSession => f.write_str("frame belongs to another session"),
            Self::TooLong { limit_bytes, got_bytes } => {
                write!(f, "frame names {got_bytes} bytes of payload, at most {limit_bytes} are accepted")
            }
        }
    }
}

impl core::error::Error for FrameError {}

/// Why a message cannot be written. Nothing was written then, and no sequence number was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// The payload is longer than [`MAX_PAYLOAD_BYTES`].
    TooLong {
        /// The greatest length allowed.
        limit_bytes: usize,
        /// The payload's length.
        got_bytes: usize,
    },
    /// The frame does not fit in the caller's buffer.
    BufferTooSmall {
        /// What the frame takes.
        expected_bytes: usize,
        /// What the buffer has.
        got_bytes: usize,
    },
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooLong { limit_bytes, got_bytes } => {
                write!(f, "payload has {got_bytes} bytes, at most {limit_bytes} fit in a frame")
            }
            Self::BufferTooSmall { expected_bytes, got_bytes } => {
                write!(f, "frame takes {expected_bytes} bytes, the buffer has {got_bytes}")
            }
        }
    }
}

impl core::error::Error for EncodeError {}

/// Writes the frames of one stream.
#[derive(Clone, Debug)]
pub struct FrameWriter {
    session: u64,
    next_sequence: u64,
}

impl FrameWriter {
    /// A writer at the start of a stream.
    #[must_use]
    pub const fn new(session: u64) -> Self {
        Self { session, next_sequence: 0 }
    }

    /// The number that the next frame will have.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Appends a frame to `out`; its payload is the parts one after the other. Returns the frame's length in bytes.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`].
    pub fn encode_into(&mut self, out: &mut Vec<u8>, kind: u16, parts: &[&[u8]]) -> Result<usize, EncodeError> {
        let frame_bytes = frame_bytes(parts)?;
        let start = out.len();
        out.reserve(frame_bytes);
        out.extend_from_slice(&[0; HEADER_BYTES]);
        for part in parts {
            out.extend_from_slice(part);
        }
        self.seal(&mut out[start..], kind);
        Ok(frame_bytes)
    }

    /// Writes a frame to the start of `out`, as [`FrameWriter::encode_into`] does.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] and [`EncodeError::BufferTooSmall`].
    pub fn encode_into_slice(&mut self, out: &mut [u8], kind: u16, parts: &[&[u8]]) -> Result<usize, EncodeError> {
        let frame_bytes = frame_bytes(parts)?;
        let got_bytes = out.len();
        let frame =
            out.get_mut(..frame_bytes).ok_or(EncodeError::BufferTooSmall { expected_bytes: frame_bytes, got_bytes })?;
        let mut at = HEADER_BYTES;
        for part in parts {
            frame[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        self.seal(frame, kind);
        Ok(frame_bytes)
    }

    /// Fills in the header of a frame whose payload is in place.
    fn seal(&mut self, frame: &mut [u8], kind: u16) {
        let (head, payload) = frame.split_at_mut(HEADER_BYTES);
        let mut header = Header {
            magic: U32::new(MAGIC),
            version: U16::new(VERSION),
            kind: U16::new(kind),
            header_bytes: U16::new(HEADER_BYTES as u16),
            flags: U16::ZERO,
            payload_bytes: U32::new(payload.len() as u32),
            sequence: U64::new(self.next_sequence),
            session: U64::new(self.session),
            checksum: U64::ZERO,
        };
        header.checksum = U64::new(checksum(&header, payload));
        head.copy_from_slice(header.as_bytes());
        self.next_sequence = self.next_sequence.wrapping_add(1);
    }
}

fn frame_bytes(parts: &[&[u8]]) -> Result<usize, EncodeError> {
    let payload_bytes = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(part.len()));
    if payload_bytes > MAX_PAYLOAD_BYTES {
        return Err(EncodeError::TooLong { limit_bytes: MAX_PAYLOAD_BYTES, got_bytes: payload_bytes });
    }
    Ok(HEADER_BYTES + payload_bytes)
}

fn checksum(header: &Header, payload: &[u8]) -> u64 {
    let mut digest = Digest64::new(CHECKSUM_SEED);
    digest.write_bytes(&header.as_bytes()[..SUMMED_HEADER_BYTES]);
    digest.write_bytes(payload);
    digest.finish()
}

/// A frame that was read: whole, in order, checksum verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'f> {
    /// What the payload is.
    pub kind: u16,
    /// The payload, in the caller's input or in the reader's buffer.
    pub payload: &'f [u8],
}

/// What one call of [`FrameReader::read`] achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress<'f> {
    /// Bytes of the input that were taken; the caller goes on after them.
    pub used_bytes: usize,
    /// A frame, or `None` when the whole input was taken and more is needed.
    pub frame: Option<Frame<'f>>,
}

/// Reads the frames of one stream from pieces of any size.
///
/// A frame that lies whole in a piece is given out where it lies; only a frame that spans pieces is copied. The buffer
/// holds at most one frame.
#[derive(Clone, Debug)]
pub struct FrameReader {
    session: u64,
    next_sequence: u64,
    max_payload_bytes: usize,
    /// A frame that began in an earlier piece.
    buffer: Vec<u8>,
    /// The length of that frame, or 0 while its header is not complete.
    whole_bytes: usize,
    /// The frame in the buffer was given out by the call before.
    delivered: bool,
    failed: Option<FrameError>,
}

impl FrameReader {
    /// A reader at the start of a stream that accepts payloads up to `max_payload_bytes` (at most
    /// [`MAX_PAYLOAD_BYTES`]).
    #[must_use]
    pub fn new(session: u64, max_payload_bytes: usize) -> Self {
        Self {
            session,
            next_sequence: 0,
            max_payload_bytes: max_payload_bytes.min(MAX_PAYLOAD_BYTES),
            buffer: Vec::new(),
            whole_bytes: 0,
            delivered: false,
            failed: None,
        }
    }

    /// Bytes of a frame that has begun and is not complete: not 0 at the end of a stream means that it was cut short.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        if self.delivered { 0 } else { self.buffer.len() }
    }

    /// The number that the next frame must have: as many frames were read.
    #[must_use]
    pub const fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Takes bytes from the input until a frame is complete or the input is used up.
    ///
    /// ```
    /// # use protocol::frame::{FrameReader, FrameWriter};
    /// # let mut bytes = Vec::new();
    /// # FrameWriter::new(7).encode_into(&mut bytes, 1, &[b"hello"]).unwrap();
    /// let mut reader = FrameReader::new(7, 1024);
    /// let mut input = bytes.as_slice();
    /// loop {
    ///     let progress = reader.read(input)?;
    ///     input = &input[progress.used_bytes..];
    ///     let Some(frame) = progress.frame else { break };
    ///     assert_eq!(frame.payload, b"hello");
    /// }
    /// # Ok::<(), protocol::frame::FrameError>(())
    /// ```
    ///
    /// # Errors
    /// The first fault of the stream, by this call and by all that follow.
    pub fn read<'f>(&'f mut self, input: &'f [u8]) -> Result<Progress<'f>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if self.delivered {
            self.buffer.clear();
            self.whole_bytes = 0;
            self.delivered = false;
        }
        if self.buffer.is_empty()
            && let Ok((header, rest)) = Header::ref_from_prefix(input)
        {
            let payload_bytes = self.check_header(header)?;
            if let Some(payload) = rest.get(..payload_bytes) {
                let frame = self.accept(header, payload)?;
                return Ok(Progress { used_bytes: HEADER_BYTES + payload_bytes, frame: Some(frame) });
            }
        }
        self.collect(input)
    }

    /// Reads a whole piece and hands each frame that it completes to `sink`.
    ///
    /// # Errors
    /// The first fault of the stream or of the sink; the rest of the piece is not read then.
    pub fn feed<E: From<FrameError>>(
        &mut self,
        mut input: &[u8],
        mut sink: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            let progress = self.read(input)?;
            input = &input[progress.used_bytes..];
            match progress.frame {
                Some(frame) => sink(frame)?,
                None => return Ok(()),
            }
        }
    }

    /// The path of a frame that spans pieces.
    fn collect<'f>(&'f mut self, input: &[u8]) -> Result<Progress<'f>, FrameError> {
        let mut used_bytes = 0;
        if self.whole_bytes == 0 {
            used_bytes = self.take(input, HEADER_BYTES);
            let Ok(header) = Header::read_from_bytes(&self.buffer) else {
                return Ok(Progress { used_bytes, frame: None });
            };
            self.whole_bytes = HEADER_BYTES + self.check_header(&header)?;
            self.buffer.reserve_exact(self.whole_bytes - HEADER_BYTES);
        }
        used_bytes += self.take(&input[used_bytes..], self.whole_bytes);
        if self.buffer.len() < self.whole_bytes {
            return Ok(Progress { used_bytes, frame: None });
        }
        let buffer = core::mem::take(&mut self.buffer);
        let result = match Header::ref_from_prefix(&buffer) {
            Ok((header, payload)) => self.accept(header, payload).map(|frame| frame.kind),
            // The buffer holds a whole frame here, so it holds a header.
            Err(_) => Err(FrameError::BadHeader { header_bytes: 0, flags: 0 }),
        };
        self.buffer = buffer;
        self.delivered = true;
        result.map(|kind| Progress { used_bytes, frame: Some(Frame { kind, payload: &self.buffer[HEADER_BYTES..] }) })
    }

    /// Fills the buffer up to a length, as far as the input goes.
    fn take(&mut self, input: &[u8], until_bytes: usize) -> usize {
        let wanted = input.len().min(until_bytes - self.buffer.len());
        self.buffer.extend_from_slice(&input[..wanted]);
        wanted
    }

    /// Judges a header before its payload is waited for, and returns the payload's length.
    fn check_header(&mut self, header: &Header) -> Result<usize, FrameError> {
        let payload_bytes = header.payload_bytes.get() as usize;
        let fault = if header.magic.get() != MAGIC {
            FrameError::BadMagic { got: header.magic.get() }
        } else if header.version.get() != VERSION {
            FrameError::BadVersion { expected: VERSION, got: header.version.get() }
        } else if usize::from(header.header_bytes.get()) != HEADER_BYTES || header.flags.get() != 0 {
            FrameError::BadHeader { header_bytes: header.header_bytes.get(), flags: header.flags.get() }
        } else if header.session.get() != self.session {
            FrameError::WrongSession
        } else if header.sequence.get() != self.next_sequence {
            FrameError::OutOfSequence { expected: self.next_sequence, got: header.sequence.get() }
        } else if payload_bytes > self.max_payload_bytes {
            FrameError::TooLong { limit_bytes: self.max_payload_bytes, got_bytes: payload_bytes }
        } else {
            return Ok(payload_bytes);
        };
        Err(self.fail(fault))
    }

    fn accept<'f>(&mut self, header: &Header, payload: &'f [u8]) -> Result<Frame<'f>, FrameError> {
        let expected = checksum(header, payload);
        if expected != header.checksum.get() {
            return Err(self.fail(FrameError::BadChecksum { expected, got: header.checksum.get() }));
        }
        self.next_sequence = self.next_sequence.wrapping_add(1);
        Ok(Frame { kind: header.kind.get(), payload })
    }

    fn fail(&mut self, error: FrameError) -> FrameError {
        self.failed = Some(error);
        error
    }
}

#[cfg(test)]
mod tests;
