//! What can go wrong.

use alloc::string::String;
use core::fmt;

use crate::part::Shape;

/// Why a checkpoint was not taken, written, found or restored. `E` is the device's own error; a target in memory has none
/// ([`Infallible`](core::convert::Infallible)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// The device failed. What was committed before is as it was.
    Device(E),
    /// There is no room for it. What was committed before is as it was.
    Full {
        /// Bytes that are needed.
        needed_bytes: u64,
        /// Bytes that may be had: of a device, the longest free run.
        free_bytes: u64,
    },
    /// The target holds as many checkpoints as it can name.
    TooMany {
        /// How many that is.
        limit: usize,
    },
    /// Another checkpoint is being taken of these parts, or written to this target: finish or drop it first.
    Busy,
    /// An incremental checkpoint has nothing to build upon: the newest one of this name in the target is not the newest
    /// that was taken or restored here. Take a full one.
    NoBase {
        /// The name.
        name: String,
    },
    /// The target has no checkpoint of this name or number.
    NoSuch {
        /// What was asked for.
        asked: String,
    },
    /// No part of this name is registered.
    NoPart {
        /// The name.
        part: String,
    },
    /// Another checkpoint builds upon it: remove that one first, or both at once.
    InUse {
        /// Number of the checkpoint.
        sequence: u64,
        /// Number of the one that builds upon it.
        by: u64,
    },
    /// A name that is empty, or longer than [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES) bytes.
    Name {
        /// The name.
        name: String,
    },
    /// A value's own `Serialize` refused.
    Encode {
        /// The part.
        part: String,
    },
    /// It is cut short or damaged. Nothing was changed.
    Damaged {
        /// Number of the checkpoint.
        sequence: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// It is of a version that this program does not know. Nothing was changed.
    Version {
        /// The version found.
        found: u32,
        /// The version expected.
        expected: u32,
    },
    /// It is of another program. Nothing was changed.
    Foreign {
        /// The program expected, as a hash of the name that it gives itself.
        expected: u64,
        /// The program found.
        found: u64,
    },
    /// A part has another shape than the one registered. Nothing was changed.
    Shape {
        /// The part.
        part: String,
        /// As registered.
        expected: Shape,
        /// As found.
        found: Shape,
    },
    /// The checkpoint lacks a part that is registered, or holds one that is not. Nothing was changed.
    Parts {
        /// The part.
        part: String,
        /// Whether the checkpoint has it.
        in_checkpoint: bool,
    },
    /// A value cannot be decoded; its type has changed and its version has not. Nothing was changed.
    Decode {
        /// The part.
        part: String,
    },
    /// The target changed or failed between being checked and being read: regions hold a mixture now. Restore again, or
    /// end the program.
    HalfRestored {
        /// Number of the checkpoint.
        sequence: u64,
    },
    /// The device holds something that is no archive of checkpoints.
    Unrecognised,
    /// The device is too small for an archive, or the archive was made for a device of another length.
    Size {
        /// Blocks of the device.
        blocks: u64,
        /// Blocks expected.
        expected_blocks: u64,
    },
}

impl<E: fmt::Debug> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "the device failed: {error:?}"),
            Self::Full { needed_bytes, free_bytes } => write!(
                f,
                "there is no room for a checkpoint of {needed_bytes} bytes, only for {free_bytes}: remove old ones or \
                 give a larger target"
            ),
            Self::TooMany { limit } => write!(f, "the target holds {limit} checkpoints already: remove old ones"),
            Self::Busy => f.write_str("another checkpoint is being taken or written: finish or drop it first"),
            Self::NoBase { name } => {
                write!(f, "an incremental checkpoint {name:?} has nothing to build upon: take a full one")
            }
            Self::NoSuch { asked } => write!(f, "there is no checkpoint {asked}: list the target's entries"),
            Self::NoPart { part } => write!(f, "no part {part:?} is registered"),
            Self::InUse { sequence, by } => {
                write!(f, "checkpoint {sequence} cannot be removed: {by} builds upon it; remove both")
            }
            Self::Name { name } => {
                write!(f, "the name {name:?} is empty or longer than {} bytes: choose another", crate::MAX_NAME_BYTES)
            }
            Self::Encode { part } => write!(f, "the value {part:?} refused to be encoded"),
            Self::Damaged { sequence, what } => {
                write!(f, "checkpoint {sequence} is damaged or cut short: {what}; use another")
            }
            Self::Version { found, expected } => write!(
                f,
                "the checkpoint has version {found}, expected {expected}: use a program of the time that it was written"
            ),
            Self::Foreign { expected, found } => {
                write!(f, "the checkpoint is of another program: expected {expected:#018x}, found {found:#018x}")
            }
            Self::Shape { part, expected, found } => {
                write!(f, "part {part:?} was {found} in the checkpoint, expected {expected}")
            }
            Self::Parts { part, in_checkpoint: true } => {
                write!(f, "the checkpoint has a part {part:?} that is not registered: register all before restoring")
            }
            Self::Parts { part, in_checkpoint: false } => {
                write!(f, "the checkpoint has no part {part:?}: restore the others one by one")
            }
            Self::Decode { part } => {
                write!(f, "the value {part:?} cannot be decoded: its type has changed, so raise its version")
            }
            Self::HalfRestored { sequence } => write!(
                f,
                "the target failed while checkpoint {sequence} was put into place: regions hold a mixture; restore again"
            ),
            Self::Unrecognised => f.write_str(
                "the device holds something that is no archive of checkpoints: give an empty one, or clear its first \
                 16 KiB if nothing on it is needed",
            ),
            Self::Size { blocks, expected_blocks } => write!(
                f,
                "the device has {blocks} blocks and the archive needs {expected_blocks}: use its own or a larger one"
            ),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}

/// Why a part was not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterError {
    /// A name that is empty, longer than [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES) bytes, or taken.
    Name {
        /// The name.
        name: String,
    },
    /// There are [`MAX_PARTS`](crate::MAX_PARTS) parts already.
    TooMany,
    /// What is excluded does not lie in the region.
    Excluded {
        /// Where it ends, in bytes from the region's start.
        end: usize,
        /// The region's length in bytes.
        length_bytes: usize,
    },
    /// A checkpoint is being taken: register parts before or afterwards.
    Busy,
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name { name } => write!(
                f,
                "the name {name:?} is empty, taken, or longer than {} bytes: choose another",
                crate::MAX_NAME_BYTES
            ),
            Self::TooMany => write!(f, "a checkpoint has at most {} parts: put some together", crate::MAX_PARTS),
            Self::Excluded { end, length_bytes } => {
                write!(f, "an exclusion ends at {end} in a region of {length_bytes} bytes: exclude what lies in it")
            }
            Self::Busy => f.write_str("a checkpoint is being taken: register parts before or afterwards"),
        }
    }
}

impl core::error::Error for RegisterError {}
