//! What is no whole checkpoint of this program is refused, and nothing is changed.

use std::vec::Vec;

use recordstore::model::ModelDevice;

use super::harness::{Program, TABLE_BYTES, run};
use crate::{Archive, Checkpoints, Entry, Error, Memory};

/// A checkpoint with all kinds of pieces, small enough to be damaged everywhere.
fn small() -> (Checkpoints, crate::Region, crate::Value<u64>, Entry, Vec<u8>) {
    let checkpoints = Checkpoints::new("small");
    let mut content = std::vec![0_u8; 4096 + 300];
    content[4096..].fill(6);
    let region = checkpoints.region("region", content, core::slice::from_ref(&(50..60))).expect("registered");
    let value = checkpoints.value("value", 1, 0x1234_5678_u64).expect("registered");
    let memory = Memory::new(1 << 20);
    let entry = run(checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    let bytes = memory.export(entry.sequence).expect("it is there");
    (checkpoints, region, value, entry, bytes)
}

fn restore(
    checkpoints: &Checkpoints,
    entry: &Entry,
    bytes: Vec<u8>,
) -> Result<Entry, Error<core::convert::Infallible>> {
    let memory = Memory::new(1 << 20);
    memory.import(entry.clone(), bytes).expect("there is room");
    run(checkpoints.restore(&memory, entry.sequence))
}

#[test]
fn a_checkpoint_that_is_cut_or_changed_anywhere_is_refused_and_nothing_is_touched() {
    let (checkpoints, region, value, entry, bytes) = small();
    region.change_all(|bytes| bytes.fill(1));
    value.change(|value| *value = 2);
    let untouched = || region.with(|bytes| bytes.iter().all(|&byte| byte == 1)) && value.with(|value| *value == 2);
    for length in 0..bytes.len() {
        let error = restore(&checkpoints, &entry, bytes[..length].to_vec()).expect_err("it is cut");
        assert!(matches!(error, Error::Damaged { .. }), "cut at {length}: {error:?}");
        assert!(untouched(), "cut at {length}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut changed = bytes.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let error = restore(&checkpoints, &entry, changed).expect_err("it is changed");
        assert!(matches!(error, Error::Damaged { .. }), "bit {bit}: {error:?}");
        assert!(untouched(), "bit {bit}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert!(matches!(restore(&checkpoints, &entry, longer), Err(Error::Damaged { .. })));
    // The test would see it if nothing were ever restored.
    restore(&checkpoints, &entry, bytes).expect("this one is whole");
    assert!(!untouched() && value.with(|value| *value == 0x1234_5678));
}

#[test]
fn another_program_shape_or_version_is_refused() {
    let memory = Memory::new(1 << 20);
    let program = Program::new();
    run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    let refuses = |other: &Program| run(other.checkpoints.restore(&memory, "a")).expect_err("refused");
    assert!(matches!(refuses(&Program::of("another", 1)), Error::Foreign { .. }));
    assert!(matches!(refuses(&Program::of("program", 2)), Error::Shape { part, .. } if part == "ledger"));
    let more = Program::new();
    more.checkpoints.value("more", 1, 0_u8).expect("registered");
    assert_eq!(refuses(&more), Error::Parts { part: "more".into(), in_checkpoint: false });
    run(more.checkpoints.restore_part(&memory, "a", "table")).expect("those that it has");
    let fewer = Program::new();
    fewer.checkpoints.unregister("ledger").expect("idle");
    assert_eq!(refuses(&fewer), Error::Parts { part: "ledger".into(), in_checkpoint: true });
    // Another length, other exclusions.
    for (length, excluded) in [(TABLE_BYTES - 1, &[][..]), (TABLE_BYTES, core::slice::from_ref(&(0..1)))] {
        let other = Program::new();
        other.checkpoints.unregister("table").expect("idle");
        other.checkpoints.region("table", std::vec![0; length], excluded).expect("registered");
        let error = refuses(&other);
        assert!(matches!(&error, Error::Shape { part, .. } if part == "table"), "{error}");
    }
    // A value whose type has changed although its version has not.
    let other = Program::new();
    other.checkpoints.unregister("ledger").expect("idle");
    let ledger = other.checkpoints.value("ledger", 1, 0_u8).expect("registered");
    other.table.change_all(|bytes| bytes.fill(9));
    assert_eq!(refuses(&other), Error::Decode { part: "ledger".into() });
    assert!(ledger.with(|value| *value == 0) && other.table.with(|bytes| bytes.iter().all(|&byte| byte == 9)));
}

#[test]
fn a_version_of_another_time_is_named() {
    let (checkpoints, _, _, entry, mut bytes) = small();
    bytes[8] = 9;
    let checksum = crate::part::hash(&bytes[..56], 0);
    bytes[56..64].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(restore(&checkpoints, &entry, bytes), Err(Error::Version { found: 9, expected: 1 }));
}

#[test]
fn a_chain_with_another_base_is_refused() {
    let (program, memory) = (Program::new(), Memory::new(1 << 20));
    let full = run(program.checkpoints.full("a", &memory).expect("taken").commit()).expect("committed");
    program.change(1);
    let next = run(program.checkpoints.incremental("a", &memory).expect("taken").commit()).expect("committed");
    let foreign = Memory::new(1 << 20);
    program.change(2);
    let other = run(program.checkpoints.full("a", &foreign).expect("taken").commit()).expect("committed");
    let mixed = Memory::new(1 << 20);
    let bytes = |target: &Memory, entry: &Entry| target.export(entry.sequence).expect("it is there");
    // The right number with the wrong content.
    mixed.import(Entry { id: other.id, ..full.clone() }, bytes(&foreign, &other)).expect("room");
    mixed.import(next.clone(), bytes(&memory, &next)).expect("room");
    let then = program.saved();
    assert!(matches!(run(program.checkpoints.restore(&mixed, "a")), Err(Error::Damaged { .. })));
    let alone = Memory::new(1 << 20);
    alone.import(next.clone(), bytes(&memory, &next)).expect("room");
    assert!(matches!(run(program.checkpoints.restore(&alone, "a")), Err(Error::Damaged { .. })));
    assert_eq!(program.saved(), then);
    run(program.checkpoints.verify(&memory, "a")).expect("as it was written it is whole");
}

#[test]
fn a_device_with_something_else_is_left_alone() {
    let device = ModelDevice::new(200);
    for block in [0, 16] {
        device.set_block(block, [0x5a; 512]);
        assert_eq!(run(Archive::open(device.clone())).err(), Some(Error::Unrecognised));
    }
    assert_eq!(run(Archive::open(ModelDevice::new(32))).err(), Some(Error::Size { blocks: 32, expected_blocks: 33 }));
    let device = ModelDevice::new(200);
    let program = Program::new();
    let archive = run(Archive::open(device.clone())).expect("blank");
    run(program.checkpoints.full("a", &archive).expect("taken").commit()).expect("committed");
    let longer = ModelDevice::new(300);
    (0..200).for_each(|block| longer.set_block(block, device.block(block)));
    assert_eq!(run(Archive::open(longer)).err(), Some(Error::Size { blocks: 300, expected_blocks: 200 }));
}

#[test]
fn a_block_that_changes_between_check_and_use_is_told() {
    // Reads are counted: the last of those that put the checkpoint into place fails.
    let (program, device) = (Program::new(), ModelDevice::new(400));
    program.table.change_all(|bytes| bytes.fill(3));
    let archive = run(Archive::open(device.clone())).expect("blank");
    let entry = run(program.checkpoints.full("a", &archive).expect("taken").commit()).expect("committed");
    // Opening reads two catalogues; the check reads the checkpoint's one buffer.
    device.set_faults(recordstore::model::Faults { fail_read_at: Some(3), ..Default::default() });
    let error = run(program.checkpoints.restore(&archive, "a"));
    assert_eq!(error, Err(Error::HalfRestored { sequence: entry.sequence }));
    device.set_faults(recordstore::model::Faults::default());
    run(program.checkpoints.restore(&archive, "a")).expect("and once more");
}

/// Checksums keep accidents out, and somebody can always make them anew: what is whole by them and makes no sense is refused
/// as well, or at least harms nobody.
mod forged {
    use proptest::prelude::*;

    use super::{Checkpoints, Entry, Memory, Vec, restore};
    use crate::format::{Described, Header, Kind, chain_start, encode_table, put_end, put_piece};
    use crate::part::{PartKind, Shape, hash};
    use crate::{Error, Target};

    const REGION_BYTES: u64 = 4096 + 300;

    fn described() -> impl Strategy<Value = Described> {
        let lengths = prop_oneof![Just(REGION_BYTES), Just(5), Just(0), Just(u64::MAX), 0_u64..10_000];
        let name = prop_oneof![Just("region"), Just("value"), Just("other")];
        (name, any::<bool>(), 0_u64..3, lengths.clone(), lengths, proptest::bool::weighted(0.9)).prop_map(
            |(name, region, schema, length_bytes, content_bytes, present)| {
                let kind = if region { PartKind::Region } else { PartKind::Value };
                let shape = Shape { kind, schema, length_bytes };
                Described { name: name.into(), shape, present, content_bytes }
            },
        )
    }

    /// The table of an honest one, now and then with something else in it.
    fn table() -> impl Strategy<Value = Vec<Described>> {
        let of = |name: &str, kind, schema, length_bytes, content_bytes| Described {
            name: name.into(),
            shape: Shape { kind, schema, length_bytes },
            present: true,
            content_bytes,
        };
        let region = of("region", PartKind::Region, 0, REGION_BYTES, REGION_BYTES);
        let honest = std::vec![region, of("value", PartKind::Value, 1, 0, 5)];
        prop_oneof![3 => Just(honest), 1 => proptest::collection::vec(described(), 0..4)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_makes_no_sense_is_refused_or_harmless(
            table in table(),
            full in proptest::bool::weighted(0.9),
            base in prop_oneof![4 => Just(0), 1 => any::<u64>()],
            pieces in proptest::collection::vec(
                (0_u32..4, prop_oneof![0_u64..6000, Just(u64::MAX - 5)], 1_usize..4097, any::<u8>()), 0..5),
            count_off in prop_oneof![8 => Just(0_u64), 1 => any::<u64>()],
        ) {
            let checkpoints = Checkpoints::new("forged");
            let region = checkpoints.region("region", std::vec![1; REGION_BYTES as usize], &[]).expect("registered");
            let value = checkpoints.value("value", 1, 77_u32).expect("registered");
            let encoded = encode_table(&table);
            let kind = if full { Kind::Full } else { Kind::Incremental };
            let (parts, table_bytes) = (table.len() as u32, encoded.len() as u32);
            let header = Header { program: hash(b"forged", 0), sequence: 1, base, kind, parts, table_bytes }.encode();
            let sum = |bytes: &[u8]| bytes.last_chunk().map_or(0, |sum| u64::from_le_bytes(*sum));
            let mut chain = chain_start(sum(&header), sum(&encoded));
            let mut bytes = [&header[..], &encoded].concat();
            for (part, offset, length, content) in &pieces {
                chain = put_piece(&mut bytes, chain, *part, *offset, &std::vec![*content; *length]);
            }
            let id = put_end(&mut bytes, chain, (pieces.len() as u64).wrapping_add(count_off));
            let entry = Entry { name: "a".into(), sequence: 1, id, base: None, bytes: 0 };
            match restore(&checkpoints, &entry, bytes) {
                Ok(_) => prop_assert_eq!(table.len(), 2),
                Err(error) => {
                    prop_assert!(!matches!(error, Error::HalfRestored { .. }), "{error}");
                    prop_assert!(region.with(|bytes| bytes.iter().all(|&byte| byte == 1)), "{error}");
                    prop_assert!(value.with(|value| *value == 77), "{error}");
                }
            }
            // And the program goes on as ever.
            let memory = Memory::new(1 << 20);
            super::run(checkpoints.full("b", &memory).expect("taken").commit()).expect("committed");
            prop_assert_eq!(memory.entries().len(), 1);
        }
    }
}
