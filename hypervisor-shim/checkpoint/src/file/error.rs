//! What is wrong with a file.

use alloc::string::String;
use core::fmt;

use super::VERSION;
use crate::pages::PagesError;
use crate::state::architecture_name;

/// The field of an identity that names the machine.
pub(super) const ARCHITECTURE: &str = "architecture";

/// Why a file is no checkpoint, or not one that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileError {
    /// It begins with something else.
    Magic,
    /// Another version of the format.
    Version {
        /// The version that came.
        got: u32,
    },
    /// It ends too early.
    Truncated {
        /// Which section is missing or cut short; `None`: the header.
        section: Option<u64>,
    },
    /// The content is not what was written.
    Checksum {
        /// In which section; `None`: in the header.
        section: Option<u64>,
    },
    /// A section has a header that this version cannot read.
    Section {
        /// Which one.
        section: u64,
        /// Which field of it.
        field: &'static str,
        /// Its value.
        got: u64,
    },
    /// A section cannot be decompressed.
    Compression {
        /// Which one.
        section: u64,
    },
    /// Pages that the guest does not have.
    Pages(PagesError),
    /// The last section counts differently.
    Totals {
        /// What it names.
        field: &'static str,
        /// How many it counts.
        expected: u64,
        /// How many there are.
        got: u64,
    },
    /// Something follows the last section.
    Trailing,
    /// It is of something else.
    Identity {
        /// What differs.
        field: &'static str,
        /// What is wanted; of digests the first eight bytes.
        expected: u64,
        /// What the checkpoint is of.
        got: u64,
    },
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = |section: &Option<u64>| section.map_or(String::from("header"), |n| alloc::format!("section {n}"));
        match self {
            Self::Magic => f.write_str("not a checkpoint of Pollux"),
            Self::Version { got } => write!(f, "the checkpoint has format {got}, this program knows {VERSION}"),
            Self::Truncated { section } => write!(f, "the checkpoint is cut short in its {}", place(section)),
            Self::Checksum { section } => write!(f, "the checkpoint is damaged in its {}", place(section)),
            Self::Section { section, field, got } => {
                write!(f, "section {section} of the checkpoint has the impossible value {got} for {field}")
            }
            Self::Compression { section } => write!(f, "section {section} of the checkpoint cannot be decompressed"),
            Self::Pages(error) => error.fmt(f),
            Self::Totals { field, expected, got } => {
                write!(f, "the checkpoint should have {expected} {field}, it has {got}")
            }
            Self::Trailing => f.write_str("bytes follow the end of the checkpoint"),
            Self::Identity { field: ARCHITECTURE, expected, got } => {
                let name = |number: &u64| architecture_name(u32::try_from(*number).unwrap_or_default());
                write!(f, "the checkpoint is of a guest on {}, wanted is one on {}", name(got), name(expected))
            }
            Self::Identity { field, expected, got } => {
                write!(f, "the checkpoint is of another {field}: {got:#x}, wanted is {expected:#x}")
            }
        }
    }
}

impl core::error::Error for FileError {}
