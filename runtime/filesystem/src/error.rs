//! What can go wrong.

use alloc::string::String;
use core::fmt;

/// Why an operation was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsError {
    /// The device has failed, or holds something else than was written.
    Io,
    /// There is no such name, or no such file any more.
    NotFound,
    /// The name is taken.
    Exists,
    /// It is no directory, and should be.
    NotDirectory,
    /// It is a directory, and should not be.
    IsDirectory,
    /// The directory has entries.
    NotEmpty,
    /// No free block, no room in the metadata log, or no memory for more metadata.
    NoSpace,
    /// The file would be longer than [`MAX_FILE_BYTES`](crate::MAX_FILE_BYTES).
    TooLarge,
    /// The name, or a link's target, is too long.
    NameTooLong,
    /// The operation makes no sense: a directory moved into itself, a name that none can have, no symbolic link.
    Invalid,
    /// The file has as many names as there can be.
    TooManyLinks,
    /// A directory can have one name only.
    NotPermitted,
}

impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "the device has failed, or holds something else than was written",
            Self::NotFound => "there is no such file or directory",
            Self::Exists => "the name is taken",
            Self::NotDirectory => "it is no directory",
            Self::IsDirectory => "it is a directory",
            Self::NotEmpty => "the directory is not empty",
            Self::NoSpace => "the file system is full",
            Self::TooLarge => "the file would be too long",
            Self::NameTooLong => "the name is too long",
            Self::Invalid => "the operation makes no sense",
            Self::TooManyLinks => "the file has too many names",
            Self::NotPermitted => "a directory can have one name only",
        })
    }
}

impl core::error::Error for FsError {}

/// Why there is no file system on a device, or none that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountError {
    /// The device failed.
    Device(String),
    /// The device is too small.
    TooSmall {
        /// Its bytes.
        bytes: u64,
        /// Bytes that a file system needs.
        needed_bytes: u64,
    },
    /// The device is larger than block numbers reach.
    TooBig {
        /// Its bytes.
        bytes: u64,
    },
    /// It holds something, and no file system.
    Foreign,
    /// It holds a file system of a version that this program does not know.
    Version {
        /// The version found.
        found: u32,
    },
    /// The file system was made for a device of another size.
    Resized,
    /// What is stored contradicts itself, or was stable and is not there any more.
    Damaged(String),
    /// The metadata does not fit into the memory that it may take.
    Memory {
        /// Bytes that it may take.
        limit_bytes: usize,
    },
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(error) => write!(f, "the disk has failed: {error}"),
            Self::TooSmall { bytes, needed_bytes } => {
                write!(f, "the disk has {bytes} bytes, and a file system needs {needed_bytes}: give a larger one")
            }
            Self::TooBig { bytes } => write!(f, "the disk has {bytes} bytes, more than 16 TiB: give a smaller one"),
            Self::Foreign => f.write_str(
                "it holds something that is no file system of Pollux, and is left as it is: give a new disk, or clear \
                 this one if nothing on it is needed",
            ),
            Self::Version { found } => write!(
                f,
                "its file system has version {found}, expected {}: use the program that wrote it",
                crate::record::VERSION
            ),
            Self::Resized => f.write_str("its file system was made for a disk of another size: give that one"),
            Self::Damaged(what) => {
                write!(
                    f,
                    "its file system is damaged ({what}): take its contents from a copy, such as the other mirror"
                )
            }
            Self::Memory { limit_bytes } => write!(
                f,
                "what it holds needs more than {limit_bytes} bytes of memory for names and places alone: raise --memory-mib"
            ),
        }
    }
}

impl core::error::Error for MountError {}
