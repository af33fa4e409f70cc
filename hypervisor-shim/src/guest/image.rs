//! The packed guest inside a bootable image.

use core::fmt;

/// Bytes of the payload's header; the guest's ELF follows.
pub const PAYLOAD_HEADER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"PLXIMAGE";
const VERSION: u32 = 1;

/// A guest as the build command packed it.
#[derive(Debug, PartialEq, Eq)]
pub struct Image<'a> {
    /// Digest of the whole image, shim and guest.
    pub id: [u8; 32],
    /// The guest's ELF.
    pub elf: &'a [u8],
}

/// Why there is no guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageError {
    /// There is no payload where one should be.
    NoPayload,
    /// The payload's header has another version.
    Version {
        /// What it says.
        got: u32,
    },
    /// The header names bytes beyond the payload's room.
    Truncated {
        /// Bytes that it names.
        named: u64,
        /// Bytes that there can be.
        room: usize,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPayload => f.write_str("the image holds no guest; build it with `cargo pollux build`"),
            Self::Version { got } => write!(f, "the image's payload has version {got}, this shim knows {VERSION}"),
            Self::Truncated { named, room } => {
                write!(f, "the image's guest should have {named} bytes, there is room for {room}")
            }
        }
    }
}

impl<'a> Image<'a> {
    /// Finds the guest in the memory where the payload was loaded.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ImageError> {
        let field = |at: usize, bytes: usize| payload.get(at..at + bytes).ok_or(ImageError::NoPayload);
        let number = |at: usize, bytes: usize| {
            let mut word = [0; 8];
            word[..bytes].copy_from_slice(field(at, bytes)?);
            Ok(u64::from_le_bytes(word))
        };
        if field(0, MAGIC.len())? != MAGIC {
            return Err(ImageError::NoPayload);
        }
        let (version, header_bytes) = (number(8, 4)? as u32, number(12, 4)?);
        if version != VERSION || header_bytes as usize != PAYLOAD_HEADER_BYTES {
            return Err(ImageError::Version { got: version });
        }
        let (offset, bytes) = (number(16, 8)?, number(24, 8)?);
        let mut id = [0; 32];
        id.copy_from_slice(field(32, 32)?);
        let end = offset.checked_add(bytes).and_then(|end| usize::try_from(end).ok());
        let elf = end.and_then(|end| payload.get(offset as usize..end));
        elf.map(|elf| Self { id, elf }).ok_or(ImageError::Truncated { named: bytes, room: payload.len() })
    }
}
