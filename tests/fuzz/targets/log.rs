//! Stored logs and recordings, which are the same files: the first byte says whether the rest is taken for a segment as it is, or
//! for instructions to write segments and to damage the last of them, so that checksums do not keep the fuzzer out.
#![no_main]

#[path = "../shared/source.rs"]
mod source;

use checkpoint::file::Identity;
use checkpoint::log::{
    EntryKind, History, LogError, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentWriter,
    record,
};
use libfuzzer_sys::fuzz_target;
use protocol::control::{LogEnd, LogRecord};
use protocol::link::EpochStart;
use protocol::{Clocks, ReplicaId};
use source::Source;

const MAX_SEGMENTS: usize = 6;
const MAX_RECORDS: usize = 40;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else { return };
    if kind % 2 == 0 {
        if let Ok(Some(segment)) = Segment::read(bytes) {
            check_segment(&segment, bytes);
        }
    } else {
        written(&mut Source(bytes));
    }
});

/// Entries lie one behind the other, and nothing of the torn end is among them.
fn check_segment(segment: &Segment, bytes: &[u8]) {
    let mut at = SEGMENT_HEADER_BYTES as u64;
    for entry in &segment.entries {
        assert_eq!(entry.at_byte, at);
        assert!(entry.bytes as usize >= RECORD_HEADER_BYTES);
        at += u64::from(entry.bytes);
    }
    assert_eq!(segment.whole_bytes, at);
    assert!(at <= bytes.len() as u64);
}

impl Source<'_> {
    /// A small number mostly, and now and then any.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            254 => u64::MAX - u64::from(self.byte()),
            small => u64::from(small),
        }
    }
}

fn identity(image: u8) -> Identity {
    Identity { architecture: 1, abi_version: 2, image: [image; 32], cpu: [4; 32], memory_bytes: 1 << 24 }
}

/// A segment as instructed, with as many entries as it has; epochs follow each other unless the input says otherwise.
fn write(source: &mut Source<'_>, sequence: u64) -> (Vec<u8>, usize) {
    let header = SegmentHeader {
        sequence: if source.byte() == 255 { source.number() } else { sequence },
        lineage: u64::from(source.byte() == 255),
        identity: identity(u8::from(source.byte() == 255)),
        generation: source.number(),
        replica: ReplicaId::ZERO,
        first_epoch: source.number(),
    };
    let mut out = Vec::new();
    let writer = SegmentWriter::new(&header, &mut out);
    let mut epoch = header.first_epoch;
    let mut entries = 0;
    for _ in 0..usize::from(source.byte()).min(MAX_RECORDS) {
        let kind = source.byte();
        let synced_bytes = if kind & 1 == 0 { out.len() as u64 } else { source.number() };
        if kind & 2 != 0 {
            epoch = source.number();
        }
        if kind & 4 != 0 {
            writer.end(&LogEnd { epoch, digest: source.number() }, header.generation, synced_bytes, &mut out);
        } else {
            let events = source.bytes(usize::from(u8::MAX));
            let clocks = Clocks { monotonic_ns: source.number(), realtime_ns: 0 };
            let start = EpochStart {
                epoch,
                prev_digest: source.number(),
                clocks,
                released_through: 0,
                sent_ns: 0,
                events: &events,
            };
            writer.record(&LogRecord { generation: header.generation, start }, synced_bytes, &mut out);
            epoch = epoch.wrapping_add(1);
        }
        entries += 1;
    }
    (out, entries)
}

/// Segments are written, read again as a history, and then the last one is damaged.
fn written(source: &mut Source<'_>) {
    let count = usize::from(source.byte()).min(MAX_SEGMENTS);
    let mut history = History::default();
    let mut files = Vec::new();
    for sequence in 1..=count as u64 {
        let (bytes, entries) = write(source, sequence);
        let segment = Segment::read(&bytes).expect("it was just written").expect("it has a header");
        check_segment(&segment, &bytes);
        assert_eq!((segment.entries.len(), segment.whole_bytes), (entries, bytes.len() as u64));
        let before = history.last_epoch();
        match history.add(&segment) {
            Ok(()) => files.push((segment.header.sequence, bytes)),
            // What comes behind a gap within a segment is left out, and the log is refused.
            Err(LogError::Gap { .. }) => return,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert_eq!(history.last_epoch(), before, "what does not belong to the log has changed nothing");
                return;
            }
        }
    }
    replay(&history, &files);
    if let Some((_, bytes)) = files.last() {
        damage(source, bytes);
    }
}

/// What a replay does: every epoch of the history is read where it is said to lie.
fn replay(history: &History, files: &[(u64, Vec<u8>)]) {
    let Some((first, last)) = history.first_epoch().zip(history.last_epoch()) else { return };
    assert!(first <= last && last - first < (MAX_SEGMENTS * MAX_RECORDS) as u64);
    assert!(history.place(last.wrapping_add(1)).is_none() || last == u64::MAX);
    for epoch in first..=last {
        let place = history.place(epoch).expect("within the history");
        let (_, bytes) =
            files.iter().find(|(sequence, _)| *sequence == place.sequence).expect("of one of the segments");
        let at = place.at_byte as usize;
        // Events that are none are refused then.
        if let Some(read) = record(&bytes[at..at + place.bytes as usize]) {
            assert_eq!((read.start.epoch, read.start.prev_digest), (epoch, place.prev_digest));
        }
        if epoch > first {
            assert_eq!(history.digest(epoch - 1), Some(place.prev_digest));
        }
    }
    let _ = history.digest(last);
}

/// A segment that was cut ends with its last whole entry; one that was changed is refused, or ends before the change.
fn damage(source: &mut Source<'_>, bytes: &[u8]) {
    let whole = Segment::read(bytes).expect("as it was written").expect("it has a header");
    let place = (source.number() as usize).wrapping_mul(257).wrapping_add(usize::from(source.byte())) % bytes.len();
    if let Some(cut) = Segment::read(&bytes[..place]).expect("a cut is no damage") {
        let ends = |entry: &&checkpoint::log::Entry| entry.at_byte + u64::from(entry.bytes) <= place as u64;
        assert!(cut.entries.iter().eq(whole.entries.iter().take_while(ends)));
    } else {
        assert!(place < SEGMENT_HEADER_BYTES);
    }
    let mut changed = bytes.to_vec();
    changed[place] ^= source.byte().max(1);
    match Segment::read(&changed) {
        Ok(read) => {
            let read = read.expect("it is as long as before");
            check_segment(&read, &changed);
            assert!(read.whole_bytes <= place as u64, "what was changed was read");
            assert_eq!(read.entries[..], whole.entries[..read.entries.len()]);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let records = whole.entries.iter().filter(|entry| matches!(entry.kind, EntryKind::Record { .. })).count();
    assert!(records <= MAX_RECORDS);
}
