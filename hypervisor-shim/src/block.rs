//! What a virtio block device is asked and what its answers mean (virtio 1.1, section 5.2): the same on every machine.
//!
//! How a request comes to the device is the platforms' affair: on x86-64 from where it lies, by the queues of
//! `virtio-drivers`; on PA-RISC by queues and buffers in memory of their own, because linear memory lies in reverse there.
//! Nothing that a device answers is trusted.

use bitflags::bitflags;
use hypercall::disk::{MAX_PLAIN_BLOCKS, Operation};

use crate::machine::DiskJob;

/// A device that has not said its name after this time is not used.
pub const NAME_NS: u64 = 2_000_000_000;
/// Offset of `capacity`, in blocks, in the device's configuration.
pub const CONFIG_CAPACITY: u32 = 0;
/// Offset of `max_write_zeroes_sectors`.
pub const CONFIG_MAX_WRITE_ZEROES: u32 = 48;

bitflags! {
    /// Features that the shim asks of a block device; it uses none without all of them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Features: u64 {
        /// What was written can be made stable.
        const FLUSH = 1 << 9;
        /// Zeros need not be sent.
        const WRITE_ZEROES = 1 << 14;
        /// Not the interface from before virtio 1.0.
        const VERSION_1 = 1 << 32;
    }
}

/// What a device lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacks {
    /// The interface of virtio 1.0.
    Version1,
    /// What this names.
    Feature(&'static str),
}

/// Judges what a device and the shim have agreed upon.
///
/// # Errors
/// The first thing that it lacks.
pub fn check_features(negotiated: Features) -> Result<(), Lacks> {
    if !negotiated.contains(Features::VERSION_1) {
        return Err(Lacks::Version1);
    }
    match (Features::all() - negotiated).iter_names().next() {
        Some((missing, _)) => Err(Lacks::Feature(missing)),
        None => Ok(()),
    }
}

/// Judges `max_write_zeroes_sectors`.
///
/// # Errors
/// That it is too little.
pub fn check_zeroes(most_blocks: u32) -> Result<(), Lacks> {
    if u64::from(most_blocks) < MAX_PLAIN_BLOCKS {
        return Err(Lacks::Feature("writes of zeros of a gibibyte"));
    }
    Ok(())
}

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_WRITE_ZEROES: u32 = 13;
/// The room of the blocks may be given back.
const UNMAP: u32 = 1;
const STATUS_OK: u8 = 0;
/// What a status byte holds until the device has written to it: none of its values.
pub const STATUS_NONE: u8 = 0xff;

/// Words of the longest head.
pub const HEAD_WORDS: usize = 8;
const PLAIN_HEAD_BYTES: usize = 16;
const RANGE_HEAD_BYTES: usize = 32;

/// What precedes a request's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Type, reserved, sector; for writes of zeros also sector, number of sectors, flags. Little-endian for the device.
    pub words: [u32; HEAD_WORDS],
    /// How many bytes of them the device gets.
    pub bytes: usize,
}

impl Head {
    /// Asks for the device's name.
    pub const NAME: Self = Self { words: [TYPE_GET_ID, 0, 0, 0, 0, 0, 0, 0], bytes: PLAIN_HEAD_BYTES };

    /// Asks for a job.
    pub fn of(job: &DiskJob) -> Self {
        let (kind, sector, bytes) = match job.operation {
            Operation::Read => (TYPE_IN, job.first_block, PLAIN_HEAD_BYTES),
            Operation::Write => (TYPE_OUT, job.first_block, PLAIN_HEAD_BYTES),
            Operation::WriteZeroes | Operation::Discard => (TYPE_WRITE_ZEROES, 0, RANGE_HEAD_BYTES),
            Operation::Flush | Operation::Forget => (TYPE_FLUSH, 0, PLAIN_HEAD_BYTES),
        };
        // Discarded blocks must read as zeros, so they are written as zeros whose room may be given back.
        let flags = if job.operation == Operation::Discard { UNMAP } else { 0 };
        let [(low, high), (first_low, first_high)] =
            [sector, job.first_block].map(|number| (number as u32, (number >> 32) as u32));
        Self { words: [kind, 0, low, high, first_low, first_high, job.blocks as u32, flags], bytes }
    }
}

/// Who fills a job's buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// The device: what was read.
    In,
    /// We: what is to be written.
    Out,
    /// Nobody: there is none.
    None,
}

impl Data {
    /// The data of a job.
    pub fn of(job: &DiskJob) -> Self {
        match job.operation {
            Operation::Read => Self::In,
            Operation::Write => Self::Out,
            _ => Self::None,
        }
    }
}

/// Whether a job was done, by the status that the device has left and how many bytes it says that it has written, status
/// included.
pub fn is_done(job: &DiskJob, status: u8, written_bytes: usize) -> bool {
    let data_bytes = if Data::of(job) == Data::In { job.buffer.len() } else { 0 };
    status == STATUS_OK && written_bytes == data_bytes + 1
}

/// The name that a device has put there, if that is one.
pub fn name(place: &[u8], status: u8) -> Option<&str> {
    let bytes = place.iter().position(|&byte| byte == 0).unwrap_or(place.len());
    let name = str::from_utf8(&place[..bytes]).ok()?;
    (status == STATUS_OK && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn job(operation: Operation, first_block: u64, blocks: u64, bytes: usize) -> DiskJob {
        DiskJob { number: 7, epoch: 3, operation, first_block, blocks, buffer: vec![0; bytes] }
    }

    #[test]
    fn heads_are_those_of_the_standard() {
        let first = 0x1_0000_0002;
        let head = |operation| Head::of(&job(operation, first, 9, 0));
        for (operation, kind) in [(Operation::Read, 0), (Operation::Write, 1)] {
            assert_eq!((head(operation).words[..4].to_vec(), head(operation).bytes), (vec![kind, 0, 2, 1], 16));
        }
        // The sector of a write of zeros is in its range, and of a flush nowhere.
        assert_eq!(head(Operation::WriteZeroes), Head { words: [13, 0, 0, 0, 2, 1, 9, 0], bytes: 32 });
        assert_eq!(head(Operation::Discard), Head { words: [13, 0, 0, 0, 2, 1, 9, 1], bytes: 32 });
        assert_eq!((head(Operation::Flush).words[..4].to_vec(), head(Operation::Flush).bytes), (vec![4, 0, 0, 0], 16));
        assert_eq!((Head::NAME.words[0], Head::NAME.bytes), (8, 16));
    }

    #[test]
    fn only_a_whole_answer_is_done() {
        let read = job(Operation::Read, 0, 2, 1024);
        assert!(is_done(&read, 0, 1025));
        for (status, bytes) in [(0, 1024), (0, 1), (0, 1026), (1, 1025), (2, 1025), (STATUS_NONE, 1025)] {
            assert!(!is_done(&read, status, bytes), "status {status}, {bytes} bytes");
        }
        // The device writes nothing of a write's data.
        let write = job(Operation::Write, 0, 2, 1024);
        assert!(is_done(&write, 0, 1) && !is_done(&write, 0, 1025));
        assert!(is_done(&job(Operation::Flush, 0, 0, 0), 0, 1));
    }

    #[test]
    fn a_device_that_lacks_something_is_refused() {
        assert_eq!(check_features(Features::all()), Ok(()));
        assert_eq!(check_features(Features::all() - Features::VERSION_1), Err(Lacks::Version1));
        assert_eq!(check_features(Features::all() - Features::FLUSH), Err(Lacks::Feature("FLUSH")));
        assert_eq!(check_features(Features::VERSION_1 | Features::FLUSH), Err(Lacks::Feature("WRITE_ZEROES")));
        assert!(check_zeroes(1 << 21).is_ok() && check_zeroes((1 << 21) - 1).is_err());
    }

    #[test]
    fn a_name_ends_at_the_first_zero_and_is_text() {
        assert_eq!(name(b"data\0\0x", 0), Some("data"));
        assert_eq!(name(b"twenty_bytes_in_all_", 0), Some("twenty_bytes_in_all_"));
        for (place, status) in
            [(&b"\0data"[..], 0), (b"", 0), (b"data\0", 1), (b"data\0", STATUS_NONE), (b"\xff\xfe", 0)]
        {
            assert_eq!(name(place, status), None, "{place:?}, status {status}");
        }
    }
}
