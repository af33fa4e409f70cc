//! The stored format, and what is no store.

use super::crashes::BLOCKS;
use super::harness::{Run, open};
use crate::error::OpenError;
use crate::layout::{Found, Header, Kind, Superblock};
use crate::model::{Crash, Faults, ModelDevice, run};
use crate::store::{Presence, Sabotage};
use crate::{BLOCK_BYTES, Batch};

/// A golden vector: whoever changes the format must change its version.
#[test]
fn the_format_is_what_it_was() {
    let superblock = Superblock {
        segment_blocks: 8,
        sequence: 0x0102,
        blocks: 0x0304,
        log: 0x0506_0000_0007,
        first_segment: 9,
        openings: 10,
        key: 11,
        kept: 12,
    };
    let block = superblock.encode();
    let start = *b"PolluxRS\x01\0\0\0\x08\0\0\0\x02\x01\0\0\0\0\0\0\x04\x03\0\0\0\0\0\0\x07\0\0\0\x06\x05\0\0\x09\0\0\0\x0a\0\0\0\x0b";
    assert_eq!(block.get(..start.len()), Some(&start[..]));
    assert_eq!(block.get(64..72), Some(&0xda42_5a32_f149_51b9_u64.to_le_bytes()[..]));
    assert_eq!(Superblock::decode(&block), Found::Superblock(superblock));
    let header = Header { kind: Kind::Link, log: 1, number: 2, stable: 3, previous: 4, opening: 5, payload_bytes: 4 };
    let mut chunk = [0; BLOCK_BYTES];
    chunk[64..68].copy_from_slice(&[6, 0, 0, 0]);
    let checksum = header.seal(0x5eed, &mut chunk);
    assert_eq!(checksum, 0x4d9b_c407_2b1f_20e7);
    assert_eq!((Header::parse(&chunk), header.verify(0x5eed, &chunk)), (Some(header), Some(checksum)));
    assert_eq!(header.verify(0x5eee, &chunk), None);
}

#[test]
fn every_bit_of_a_superblock_and_of_a_chunk_counts() {
    let superblock = Superblock {
        segment_blocks: 8,
        sequence: 1,
        blocks: 2,
        log: 3,
        first_segment: 4,
        openings: 5,
        key: 6,
        kept: 7,
    };
    for bit in 0..72 * 8 {
        let mut block = superblock.encode();
        block[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Superblock::decode(&block), Found::Other, "bit {bit}");
    }
    let header =
        Header { kind: Kind::Records, log: 1, number: 2, stable: 3, previous: 4, opening: 5, payload_bytes: 100 };
    for bit in 0..164 * 8 {
        let mut chunk = [0; BLOCK_BYTES];
        header.seal(7, &mut chunk);
        chunk[bit / 8] ^= 1 << (bit % 8);
        let read = Header::parse(&chunk).and_then(|header| header.verify(7, &chunk));
        assert_eq!(read, None, "bit {bit}");
    }
}

#[test]
fn what_is_no_store_is_left_alone() {
    assert_eq!(
        open(&ModelDevice::new(63), Sabotage::None).err(),
        Some(OpenError::TooSmall { blocks: 63, needed_blocks: 64 })
    );
    let foreign = ModelDevice::new(BLOCKS);
    foreign.set_block(0, [1; BLOCK_BYTES]);
    assert_eq!(open(&foreign, Sabotage::None).err(), Some(OpenError::Unrecognised));
    assert_eq!(foreign.changes(), 0);

    let device = ModelDevice::new(BLOCKS);
    drop(Run::open(&device, Sabotage::None).expect("a blank device"));
    let resized = ModelDevice::new(BLOCKS + 8);
    for block in 0..BLOCKS {
        resized.set_block(block, device.after(Crash::LoseAll).block(block));
    }
    let expected = OpenError::Resized { blocks: BLOCKS + 8, expected_blocks: BLOCKS };
    assert_eq!(open(&resized, Sabotage::None).err(), Some(expected));
}

/// The very first write of a store may be torn, too. What does not begin as that one is somebody else's.
#[test]
fn a_store_whose_first_superblock_was_torn_is_made_anew() {
    let device = ModelDevice::new(BLOCKS);
    device.set_faults(Faults { power_off_after: Some(1), ..Faults::default() });
    drop(open(&device, Sabotage::None));
    let whole = device.after(Crash::KeepAll).block(8);
    assert!(matches!(Superblock::decode(&whole), Found::Superblock(first) if first.sequence == 1));
    let bytes = whole.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    for kept_bytes in 0..BLOCK_BYTES {
        let torn = |change: u8| {
            let mut block = [0; BLOCK_BYTES];
            block[..kept_bytes].copy_from_slice(&whole[..kept_bytes]);
            block[0] ^= change;
            let device = ModelDevice::new(BLOCKS);
            device.set_block(8, block);
            device
        };
        let expected = match kept_bytes {
            0 => Presence::Blank,
            kept if kept < bytes => Presence::Torn,
            _ => Presence::Store,
        };
        assert_eq!(run(Presence::of(&torn(0)), || ()), Ok(expected), "{kept_bytes} bytes");
        let (_, replayed, _) = open(&torn(0), Sabotage::None).expect("a store");
        assert_eq!(replayed.formatted, expected != Presence::Store, "{kept_bytes} bytes");
        assert_eq!(open(&torn(0x20), Sabotage::None).err(), Some(OpenError::Unrecognised), "{kept_bytes} bytes");
    }
}

#[test]
fn a_blank_device_becomes_an_empty_store_once() {
    let device = ModelDevice::new(BLOCKS);
    for (formatted, records) in [(true, 0), (false, 0)] {
        let (_, replayed, found) = open(&device, Sabotage::None).expect("a store");
        assert_eq!((replayed.formatted, found.len(), replayed.torn), (formatted, records, false));
    }
}

#[test]
fn batches_hold_records_and_no_empty_ones() {
    let mut batch = Batch::new();
    batch.push(b"one");
    batch.push(b"");
    batch.open();
    batch.extend(b"tw");
    assert_eq!(batch.open_bytes(), b"tw");
    assert_eq!(batch.encoded(), b"\x03\0\0\0one");
    batch.extend(b"o");
    batch.close();
    assert_eq!((batch.records(), batch.encoded()), (2, &b"\x03\0\0\0one\x03\0\0\0two"[..]));
    batch.clear(0);
    assert!(batch.is_empty() && batch.records() == 0);
}
