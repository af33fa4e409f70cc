//! Disks: what a guest asks of them and what it is told.
//!
//! A guest puts [`Request`]s into the disk ring ([`crate::layout::BootInfo::disk_ring`]), one record of kind
//! [`crate::record::KIND_DISK_REQUEST`] each. The shim takes them when the epoch ends, in their order. Every record taken
//! has a number, counted from 0 since the guest's start; nothing else names a request, so guest and shim need not agree
//! on names. What a write writes is copied when it is taken. Later, at the start of some epoch, the receive ring brings a
//! [`Completion`] (kind [`crate::record::KIND_DISK_DONE`]), and what a read has read lies in the guest's memory by then, not
//! earlier: data never arrives during an epoch.
//!
//! Requests that overlap one before them, one of the two changing blocks, are carried out after it; all others at once, in
//! no order. A request that makes no sense is completed with an error. At most [`MAX_OUTSTANDING`] requests are taken and
//! not completed at a time; more of them wait in the ring, in which a guest should keep no write whose data it wants to
//! change.
//!
//! A replica that takes over does not know how far its predecessor came with a disk that both share. It completes everything
//! outstanding there as [`UNCERTAIN`], at the start of its first epoch: done or not done, and nobody will do it any more. The
//! guest asks again, in the order in which it had asked, before it asks for anything new. That brings back what a guest has
//! seen: no operation that changes blocks was begun while a read before it that overlaps it was outstanding.
//!
//! Nobody is told that fewer blocks were read or written than asked for: a request is done or has failed.

use crate::layout::PAGE_BYTES;

/// Bytes of a block: the unit of all addresses and lengths.
pub const BLOCK_BYTES: usize = 512;
/// Most disks of a guest.
pub const MAX_DISKS: usize = 4;
/// Longest name of a disk in bytes: what a virtio block device can say of itself (virtio 1.1, section 5.2.6).
pub const MAX_NAME_BYTES: usize = 20;
/// Most data of one request.
pub const MAX_TRANSFER_BYTES: usize = 64 * 1024;
/// Most blocks of one request that carries no data ([`Operation::WriteZeroes`], [`Operation::Discard`]).
pub const MAX_PLAIN_BLOCKS: u64 = 1 << 21;
/// Most requests that are taken and not completed.
pub const MAX_OUTSTANDING: usize = 64;
/// The status of a request that may have been carried out or not (the uncertain interrupt of rule P7): ask again. No
/// [`crate::errno`] has this value.
pub const UNCERTAIN: u32 = u32::MAX;

/// [`DiskInfo::flags`]: when the guest was started, all blocks were zeros. Only who sees the disk from outside can say that
/// of a large one: to a guest it would be a read of everything. It stays as it was said, whatever is written afterwards.
pub const FLAG_BLANK: u32 = 1;

/// A disk of this guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct DiskInfo {
    /// Its name, filled up with zeros.
    pub name: [u8; MAX_NAME_BYTES],
    /// [`FLAG_BLANK`] or 0.
    pub flags: u32,
    /// Its size in blocks.
    pub blocks: u64,
}

impl DiskInfo {
    /// A disk of which nothing is said. A name that is too long is cut.
    pub fn new(name: &str, blocks: u64) -> Self {
        let mut padded = [0; MAX_NAME_BYTES];
        let bytes = name.len().min(MAX_NAME_BYTES);
        padded[..bytes].copy_from_slice(&name.as_bytes()[..bytes]);
        Self { name: padded, flags: 0, blocks }
    }

    /// The same, and whether it is blank.
    pub fn with_blank(self, is_blank: bool) -> Self {
        Self { flags: if is_blank { FLAG_BLANK } else { 0 }, ..self }
    }

    /// Whether all blocks were zeros when the guest was started.
    pub fn is_blank(&self) -> bool {
        self.flags & FLAG_BLANK != 0
    }

    /// Its name; empty when it is not UTF-8.
    pub fn name(&self) -> &str {
        let bytes = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        str::from_utf8(&self.name[..bytes]).unwrap_or_default()
    }
}

// The table of disks has a place of its own in the page of the boot information.
const _: () = assert!(MAX_DISKS * size_of::<DiskInfo>() <= PAGE_BYTES as usize / 16);

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Operation {
    /// Blocks to memory.
    Read = 0,
    /// Memory to blocks.
    Write = 1,
    /// Zeros to blocks.
    WriteZeroes = 2,
    /// The same, and the disk may give their room back. What was discarded reads as zeros: anything else would be up to
    /// the host, and two mirrors must not differ.
    Discard = 3,
    /// Everything that was completed before this request was taken becomes stable.
    Flush = 4,
    /// What the read with the number [`Request::first_block`] has read is not wanted any more: its memory is not written
    /// to. The read is completed all the same; this is not.
    Forget = 5,
}

impl Operation {
    /// The operation with this number.
    pub const fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::Read,
            1 => Self::Write,
            2 => Self::WriteZeroes,
            3 => Self::Discard,
            4 => Self::Flush,
            5 => Self::Forget,
            _ => return None,
        })
    }
}

/// Bytes of a [`Request`].
pub const REQUEST_BYTES: usize = size_of::<Request>();
/// Bytes of a [`Completion`].
pub const COMPLETION_BYTES: usize = size_of::<Completion>();

/// What a guest asks for. Fields are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Request {
    /// An [`Operation`].
    pub operation: u32,
    /// Which disk: its place in the table of disks.
    pub disk: u32,
    /// The first block.
    pub first_block: u64,
    /// How many blocks.
    pub blocks: u64,
    /// Where the data lies or will lie in guest memory, any alignment; zero for operations without data.
    pub address: u64,
}

impl Request {
    /// The bytes of it.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[..4].copy_from_slice(&self.operation.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.disk.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.first_block.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[24..].copy_from_slice(&self.address.to_le_bytes());
        bytes
    }

    /// The request that these bytes spell; `None` if there are more or fewer than one has.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; REQUEST_BYTES] = bytes.try_into().ok()?;
        Some(Self {
            operation: half(bytes, 0),
            disk: half(bytes, 4),
            first_block: word(bytes, 8),
            blocks: word(bytes, 16),
            address: word(bytes, 24),
        })
    }
}

/// What a guest is told of a request that is done or has failed. Fields are little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Completion {
    /// Which request.
    pub number: u64,
    /// 0, [`UNCERTAIN`], or one of [`crate::errno`].
    pub status: u32,
    /// Zero.
    pub reserved: u32,
}

impl Completion {
    /// The bytes of it.
    pub fn encode(&self) -> [u8; COMPLETION_BYTES] {
        let mut bytes = [0; COMPLETION_BYTES];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.status.to_le_bytes());
        bytes[12..].copy_from_slice(&self.reserved.to_le_bytes());
        bytes
    }

    /// The completion that these bytes spell; `None` for another length or a reserved field that is not zero.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; COMPLETION_BYTES] = bytes.try_into().ok()?;
        let completion = Self { number: word(bytes, 0), status: half(bytes, 8), reserved: half(bytes, 12) };
        (completion.reserved == 0).then_some(completion)
    }
}

fn half<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_survive_encoding() {
        let request = Request {
            operation: 0x0102_0304,
            disk: 0x0506_0708,
            first_block: 0x1112_1314_1516_1718,
            blocks: 0x2122_2324_2526_2728,
            address: 0x3132_3334_3536_3738,
        };
        let bytes = request.encode();
        assert_eq!(bytes[..8], [4, 3, 2, 1, 8, 7, 6, 5]);
        assert_eq!(bytes[24..], [0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31]);
        assert_eq!(Request::decode(&bytes), Some(request));
        assert_eq!(Request::decode(&bytes[1..]), None);
    }

    #[test]
    fn completions_survive_encoding() {
        let completion = Completion { number: 0x0102_0304_0506_0708, status: 5, reserved: 0 };
        let mut bytes = completion.encode();
        assert_eq!(bytes, [8, 7, 6, 5, 4, 3, 2, 1, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Completion::decode(&bytes), Some(completion));
        bytes[15] = 1;
        assert_eq!(Completion::decode(&bytes), None);
        assert_eq!(Completion::decode(&bytes[..8]), None);
    }

    #[test]
    fn names_are_cut_and_read_back() {
        assert_eq!(DiskInfo::new("data", 9).name(), "data");
        assert_eq!(DiskInfo::new("", 9).name(), "");
        assert_eq!(DiskInfo::new("a-name-of-more-than-twenty", 9).name(), "a-name-of-more-than-");
        assert_eq!(DiskInfo { name: [0xff; MAX_NAME_BYTES], flags: 0, blocks: 1 }.name(), "");
        let disk = DiskInfo::new("a-name-of-twenty-b-s", 9).with_blank(true);
        assert_eq!((disk.name(), disk.is_blank()), ("a-name-of-twenty-b-s", true));
        assert!(!disk.with_blank(false).is_blank() && !DiskInfo::new("data", 9).is_blank());
    }

    #[test]
    fn every_operation_has_its_code() {
        let known = (0..10).filter_map(Operation::from_code).map(|operation| operation as u32);
        assert!(known.eq(0..6));
    }
}
