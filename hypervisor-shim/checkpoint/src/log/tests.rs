use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use protocol::event::Event;

use super::*;

fn identity() -> Identity {
    Identity { architecture: 1, abi_version: 2, image: [3; 32], cpu: [4; 32], memory_bytes: 1 << 24 }
}

fn header(sequence: u64, first_epoch: Epoch) -> SegmentHeader {
    let replica = ReplicaId::ZERO;
    SegmentHeader { sequence, lineage: 77, identity: identity(), generation: 1, replica, first_epoch }
}

/// Events of an epoch in one of several histories.
fn events(epoch: Epoch, history: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let length = (epoch % 1_000 * 7 + history) as usize % 40;
    Event::Frame(&vec![epoch as u8 ^ history as u8; length + 14]).append_to(&mut out).expect("short");
    out
}

fn log_record(epoch: Epoch, history: u64, events: &[u8]) -> LogRecord<'_> {
    let clocks = Clocks { monotonic_ns: (epoch % 1_000) * 1_000 + history, realtime_ns: 5 };
    let prev_digest = epoch.wrapping_mul(31);
    LogRecord {
        generation: 1,
        start: EpochStart { epoch, prev_digest, clocks, released_through: 0, sent_ns: 0, events },
    }
}

/// A segment of groups of records, each synced before the next.
fn segment(header: &SegmentHeader, history: u64, groups: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    let writer = SegmentWriter::new(header, &mut out);
    let mut epoch = header.first_epoch;
    for records in groups {
        let synced_bytes = out.len() as u64;
        for _ in 0..*records {
            let events = events(epoch, history);
            writer.record(&log_record(epoch, history, &events), synced_bytes, &mut out);
            epoch = epoch.wrapping_add(1);
        }
    }
    out
}

fn read(bytes: &[u8]) -> Segment {
    Segment::read(bytes).expect("readable").expect("a header")
}

#[test]
fn what_is_written_is_read() {
    let bytes = segment(&header(3, 10), 0, &[1, 4, 2]);
    let read = read(&bytes);
    assert_eq!((read.header, read.whole_bytes), (header(3, 10), bytes.len() as u64));
    assert_eq!(read.entries.len(), 7);
    for (entry, epoch) in read.entries.iter().zip(10..) {
        let place = entry.at_byte as usize..entry.at_byte as usize + entry.bytes as usize;
        let expected = events(epoch, 0);
        assert_eq!(record(&bytes[place]), Some(log_record(epoch, 0, &expected)));
    }
}

#[test]
fn a_log_that_is_cut_anywhere_ends_with_the_last_whole_record() {
    let bytes = segment(&header(1, 1), 0, &[1, 3, 1, 2]);
    let whole = read(&bytes);
    for length in 0..bytes.len() {
        let cut = Segment::read(&bytes[..length]).expect("a cut is no damage");
        let Some(cut) = cut else {
            assert!(length < SEGMENT_HEADER_BYTES);
            continue;
        };
        let kept = whole.entries.iter().take_while(|entry| entry.at_byte + u64::from(entry.bytes) <= length as u64);
        assert!(cut.entries.iter().eq(kept), "cut at {length}");
    }
}

#[test]
fn a_flipped_byte_is_damage_or_the_torn_end_and_never_read() {
    let bytes = segment(&header(1, 1), 0, &[2, 2, 2]);
    let whole = read(&bytes);
    let last_group = whole.entries[4].at_byte;
    for place in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[place] ^= 0x10;
        match Segment::read(&bad) {
            Err(LogError::Damaged { at_byte, epoch }) => {
                let hit = &whole.entries[epoch as usize - 1];
                assert!((hit.at_byte..hit.at_byte + u64::from(hit.bytes)).contains(&(place as u64)));
                assert_eq!(hit.at_byte, at_byte);
                assert!((place as u64) < last_group, "{place}: the last group is not known to be synced");
            }
            Err(_) => assert!(place < SEGMENT_HEADER_BYTES, "{place}"),
            Ok(read) => {
                let read = read.expect("a header");
                assert!(place as u64 >= last_group, "{place} was synced");
                assert!(read.entries.len() < whole.entries.len(), "{place} was read");
                assert_eq!(read.entries[..], whole.entries[..read.entries.len()]);
            }
        }
    }
}

/// Sectors of the newest group may reach the disk in any order.
#[test]
fn a_hole_in_the_group_that_was_being_written_is_torn() {
    let bytes = segment(&header(1, 1), 0, &[2, 4]);
    let whole = read(&bytes);
    let mut holed = bytes;
    let hole = &whole.entries[3];
    holed[hole.at_byte as usize..][..hole.bytes as usize].fill(0);
    assert_eq!(read(&holed).entries[..], whole.entries[..3]);
}

#[test]
fn records_of_other_segments_are_none_of_this_one() {
    let one = segment(&header(1, 1), 0, &[3]);
    let two = segment(&header(2, 1), 0, &[3]);
    let mixed =
        [&one[..read(&one).entries[2].at_byte as usize], &two[read(&two).entries[2].at_byte as usize..]].concat();
    assert_eq!(read(&mixed).entries.len(), 2);
}

fn history(segments: &[Vec<u8>]) -> Result<History, LogError> {
    let mut history = History::default();
    for bytes in segments {
        history.add(&read(bytes))?;
    }
    Ok(history)
}

#[test]
fn segments_make_one_history() {
    let old = segment(&header(1, 1), 0, &[6]);
    // Stored again by a promoted replica that has lived through epoch 4: nothing changes.
    let again = segment(&header(2, 3), 0, &[2]);
    let all = history(&[old.clone(), again.clone()]).expect("one log");
    assert_eq!((all.last_epoch(), all.place(5).map(|place| place.sequence)), (Some(6), Some(1)));
    // Its own epochs take the place of what the old one alone knew.
    let own = segment(&header(3, 5), 9, &[1]);
    let all = history(&[old.clone(), again.clone(), own]).expect("one log");
    assert_eq!((all.last_epoch(), all.place(5).map(|place| place.sequence)), (Some(5), Some(3)));
    assert_eq!((all.digest(4), all.digest(5), all.place(6)), (Some(5 * 31), None, None));
    let gap = segment(&header(3, 8), 0, &[1]);
    let error = LogError::Gap { sequence: 3, expected: 7, got: 8 };
    assert_eq!(history(&[old.clone(), again, gap]), Err(error));
    let missing = history(&[old.clone(), segment(&header(3, 7), 0, &[1])]);
    assert_eq!(missing, Err(LogError::Missing { sequence: 2 }));
    let foreign = SegmentHeader { lineage: 78, ..header(2, 7) };
    assert_eq!(history(&[old, segment(&foreign, 0, &[1])]), Err(LogError::Lineage { sequence: 2 }));
}

/// Found by the fuzz target: whoever writes a file chooses its numbers.
#[test]
fn numbers_at_the_end_of_the_number_line_do_not_wrap() {
    let far = segment(&header(u64::MAX, u64::MAX), 0, &[1]);
    let known = history(std::slice::from_ref(&far)).expect("one log");
    assert_eq!((known.first_epoch(), known.last_epoch()), (Some(u64::MAX), Some(u64::MAX)));
    assert_eq!((known.digest(u64::MAX), known.place(0)), (None, None));
    let error = LogError::Missing { sequence: u64::MAX };
    assert_eq!(history(&[far, segment(&header(0, 1), 0, &[1])]), Err(error));
}

#[test]
fn the_last_digest_is_known_if_it_was_stored_and_nothing_follows() {
    let mut bytes = segment(&header(1, 1), 0, &[2]);
    let writer = SegmentWriter::new(&header(1, 1), &mut Vec::new());
    writer.end(&LogEnd { epoch: 2, digest: 99 }, 1, bytes.len() as u64, &mut bytes);
    let known = history(&[bytes.clone()]).expect("one log");
    assert_eq!((known.digest(1), known.digest(2), known.digest(3)), (Some(62), Some(99), None));
    let more = history(&[bytes, segment(&header(2, 3), 0, &[1])]).expect("one log");
    assert_eq!((more.digest(2), more.digest(3)), (Some(93), None));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), at in 0_usize..300) {
        let _ = Segment::read(&bytes);
        let mut patched = segment(&header(1, 1), 0, &[2, 1]);
        let end = (at + bytes.len()).min(patched.len());
        if at < end {
            patched[at..end].copy_from_slice(&bytes[..end - at]);
        }
        let _ = Segment::read(&patched);
        let _ = record(&bytes);
    }
}
