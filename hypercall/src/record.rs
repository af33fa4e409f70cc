//! The record format: what rings, epoch events and hub batches are made of.
//!
//! A record is an 8-byte header (`payload_bytes: u32`, `kind: u16`, `flags: u16`, little-endian), the payload, and
//! zeros up to the next multiple of 8 bytes.

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 8;
/// Records begin at multiples of this many bytes.
pub const ALIGNMENT_BYTES: usize = 8;
/// Longest payload of a record.
pub const MAX_PAYLOAD_BYTES: usize = 32 * 1024;

/// An Ethernet frame.
pub const KIND_FRAME: u16 = 1;
/// Bytes typed at the console.
pub const KIND_CONSOLE_INPUT: u16 = 2;
/// 32 fresh random bytes for the shim's generator; never seen by the guest itself.
pub const KIND_RESEED: u16 = 3;
/// An outstanding operation may or may not have been performed (P7 of the paper).
pub const KIND_UNCERTAIN: u16 = 4;
/// A disk request has been completed: a [`crate::disk::Completion`].
pub const KIND_DISK_DONE: u16 = 5;
/// Only in the disk ring: a [`crate::disk::Request`].
pub const KIND_DISK_REQUEST: u16 = 6;
/// Only in epoch records: part of what the read of a shared disk has read; never seen by the guest itself.
pub const KIND_DISK_DATA: u16 = 7;
/// Only in rings: nothing follows up to the end of the ring's data area.
pub const KIND_SKIP: u16 = 0xffff;

/// A record's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Length of the payload without padding.
    pub payload_bytes: u32,
    /// One of the `KIND_` constants.
    pub kind: u16,
    /// Zero in this version.
    pub flags: u16,
}

impl Header {
    /// The header of a record of `kind` with `payload_bytes`.
    #[inline]
    pub const fn new(kind: u16, payload_bytes: u32) -> Self {
        Self { payload_bytes, kind, flags: 0 }
    }

    /// The eight bytes of it.
    #[inline]
    pub const fn encode(self) -> [u8; HEADER_BYTES] {
        ((self.payload_bytes as u64) | ((self.kind as u64) << 32) | ((self.flags as u64) << 48)).to_le_bytes()
    }

    /// The header that these bytes spell. Any bytes spell one; the caller checks length and kind.
    #[inline]
    pub const fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let word = u64::from_le_bytes(bytes);
        Self { payload_bytes: word as u32, kind: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }
}

/// Bytes that a record with this payload takes, header and padding included.
#[inline]
pub const fn total_bytes(payload_bytes: usize) -> usize {
    HEADER_BYTES + payload_bytes.next_multiple_of(ALIGNMENT_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_encoding() {
        let header = Header { payload_bytes: 0x0102_0304, kind: 0x0506, flags: 0x0708 };
        assert_eq!(header.encode(), [4, 3, 2, 1, 6, 5, 8, 7]);
        assert_eq!(Header::decode(header.encode()), header);
    }

    #[test]
    fn totals_are_aligned() {
        assert_eq!(total_bytes(0), 8);
        assert_eq!(total_bytes(1), 16);
        assert_eq!(total_bytes(8), 16);
        assert_eq!(total_bytes(9), 24);
    }
}
