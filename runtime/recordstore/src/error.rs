//! What can go wrong.

use core::fmt;

/// Why a store could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError<E> {
    /// The device failed.
    Device(E),
    /// The device is too small to hold a store.
    TooSmall {
        /// Blocks of the device.
        blocks: u64,
        /// Blocks that a store needs.
        needed_blocks: u64,
    },
    /// The device holds something, and it is no store.
    Unrecognised,
    /// The store has a version that this program does not know.
    Version {
        /// The version found.
        found: u32,
    },
    /// The store was made for a device of another length.
    Resized {
        /// Blocks of the device.
        blocks: u64,
        /// Blocks of the device that the store was made on.
        expected_blocks: u64,
    },
    /// There is a record longer than any that this program appends ([`Options::most_record_bytes`]).
    ///
    /// [`Options::most_record_bytes`]: crate::Options::most_record_bytes
    LongRecord {
        /// Chunk of the log, counted from 0, with which it becomes too long.
        chunk: u64,
        /// Bytes of a record, at most.
        most_bytes: u32,
    },
    /// Records that were stable are not there any more: a stored block was changed, or the device lost a flush.
    Corrupt {
        /// Chunk of the log that cannot be read, counted from 0.
        chunk: u64,
        /// Block of the device at which it should start.
        block: u64,
        /// Chunks of the log that had been stable.
        stable_chunks: u64,
    },
}

impl<E: fmt::Debug> fmt::Display for OpenError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "the device failed: {error:?}"),
            Self::TooSmall { blocks, needed_blocks } => {
                write!(f, "the device has {blocks} blocks and a store needs {needed_blocks}: use a larger one")
            }
            Self::Unrecognised => f.write_str(
                "the device holds something that is no record store: give an empty one, or clear its first 8 KiB if \
                 nothing on it is needed",
            ),
            Self::Version { found } => {
                write!(f, "the store has version {found}, expected {}: use the program that wrote it", VERSION_SHOWN)
            }
            Self::Resized { blocks, expected_blocks } => {
                write!(f, "the store was made for {expected_blocks} blocks and the device has {blocks}: use its own")
            }
            Self::LongRecord { chunk, most_bytes } => write!(
                f,
                "a record in chunk {chunk} of the log has more than {most_bytes} bytes: the store is another program's"
            ),
            Self::Corrupt { chunk, block, stable_chunks } => write!(
                f,
                "chunk {chunk} of the log, at block {block}, cannot be read although {stable_chunks} chunks had been \
                 stable: the device has changed a block or lost a flush; take its contents from a copy, such as the other \
                 mirror, or give up all that follows"
            ),
        }
    }
}

const VERSION_SHOWN: u32 = crate::layout::VERSION;

impl<E: fmt::Debug> core::error::Error for OpenError<E> {}

/// Why records were not appended, or a log not switched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AppendError<E> {
    /// The device failed. Whether the records are stored is not known, and the log takes no more; see [`Store::begin`].
    ///
    /// [`Store::begin`]: crate::Store::begin
    Device(E),
    /// There is no room. Nothing was written, and what was there is as it was.
    Full {
        /// Segments that the records need.
        needed_segments: usize,
        /// Segments that this log may still take.
        free_segments: usize,
    },
    /// An earlier error of the device has left this log in doubt.
    Broken,
    /// There is no next log; begin one first.
    NotBegun,
}

impl<E: fmt::Debug> fmt::Display for AppendError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "the device failed: {error:?}"),
            Self::Full { needed_segments, free_segments } => write!(
                f,
                "the store is full: {needed_segments} segments are needed and {free_segments} may be taken; replace \
                 the log by a shorter one or use a larger device"
            ),
            Self::Broken => f.write_str("the log is in doubt since the device failed: begin a new one"),
            Self::NotBegun => f.write_str("no next log has been begun"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for AppendError<E> {}
