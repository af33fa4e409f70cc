use super::*;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

const SESSION: u64 = 0xabcd;
const ENVELOPE: Envelope =
    Envelope { destination: [2, 0, 0, 0, 0, 1], source: [2, 0, 0, 0, 0, 2], session: SESSION, generation: 5 };

fn encode(frames: &[Vec<u8>], first_sequence: u64) -> Vec<u8> {
    let mut buffer = vec![0xee; MAX_PACKET_BYTES];
    let mut encoder = BatchEncoder::new(&mut buffer).expect("large");
    for frame in frames {
        assert!(encoder.push(frame));
    }
    let used = encoder.finish(&ENVELOPE, first_sequence);
    buffer.truncate(used);
    buffer
}

fn decode(packet: &[u8]) -> Result<Packet<'_>, BatchError> {
    Packet::decode(packet, SESSION)
}

fn batch(packet: &[u8]) -> Batch<'_> {
    match decode(packet) {
        Ok(Packet::Frames(batch)) => batch,
        other => panic!("expected frames, got {other:?}"),
    }
}

/// Writes an accepted packet again; the outer addresses are the only bytes that decoding drops.
fn encode_again(packet: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    let mut envelope = ENVELOPE;
    envelope.destination.copy_from_slice(&packet[..6]);
    envelope.source.copy_from_slice(&packet[6..12]);
    let used = match decode(packet).expect("accepted") {
        Packet::Frames(batch) => {
            envelope.generation = batch.generation();
            let mut encoder = BatchEncoder::new(&mut buffer).expect("large");
            assert_eq!(encoder.push_records(batch.records()).map(|taken| taken.frames), Ok(batch.frame_count()));
            encoder.finish(&envelope, batch.first_sequence())
        }
        Packet::Resume { generation, next_input_sequence } => {
            envelope.generation = generation;
            encode_resume(&mut buffer, &envelope, next_input_sequence).expect("large")
        }
    };
    buffer.truncate(used);
    buffer
}

#[test]
fn records_are_aligned_behind_a_virtio_header() {
    assert_eq!((12 + HEADER_BYTES) % event::RECORD_ALIGN_BYTES, 0);
}

#[test]
fn faults_are_told_apart() {
    let good = encode(&[b"abc".to_vec()], 9);
    let with = |index: usize, value: u8| {
        let mut packet = good.clone();
        packet[index] = value;
        decode(&packet).map(|_| ())
    };
    assert_eq!(decode(&good[..HEADER_BYTES - 1]), Err(BatchError::Length { got_bytes: HEADER_BYTES - 1 }));
    assert_eq!(decode(&vec![0; MAX_PACKET_BYTES + 1]), Err(BatchError::Length { got_bytes: MAX_PACKET_BYTES + 1 }));
    assert_eq!(with(12, 8), Err(BatchError::Ethertype { got: 0x08b5 }));
    assert_eq!(with(14, 3), Err(BatchError::Version { expected: 1, got: 3 }));
    assert_eq!(with(16, 7), Err(BatchError::UnknownKind { got: 7 }));
    assert_eq!(with(16, 2), Err(BatchError::Count { expected: 0, got: 1 }));
    assert_eq!(with(18, 2), Err(BatchError::Count { expected: 2, got: 1 }));
    assert_eq!(with(28, 0), Err(BatchError::WrongSession));
    let cut = RecordError::Truncated { offset_bytes: 0, expected_bytes: 16, got_bytes: 15 };
    assert_eq!(decode(&good[..good.len() - 1]), Err(BatchError::Records(cut)));
    let console = RecordError::UnknownKind { offset_bytes: 0, got: event::KIND_CONSOLE_INPUT };
    assert_eq!(with(HEADER_BYTES + 4, 2), Err(BatchError::Records(console)));
    let wrapping = encode(&[b"abc".to_vec()], u64::MAX);
    assert_eq!(decode(&wrapping), Err(BatchError::Sequence { first_sequence: u64::MAX }));
}

#[test]
fn resume_round_trip() {
    let mut buffer = [0; HEADER_BYTES];
    assert_eq!(encode_resume(&mut buffer, &ENVELOPE, 77), Ok(HEADER_BYTES));
    assert_eq!(decode(&buffer), Ok(Packet::Resume { generation: 5, next_input_sequence: 77 }));
    let short = BufferTooSmall { expected_bytes: HEADER_BYTES, got_bytes: 43 };
    assert_eq!(encode_resume(&mut buffer[..43], &ENVELOPE, 77), Err(short));
    assert_eq!(BatchEncoder::new(&mut buffer[..43]).err(), Some(short));
}

#[test]
fn a_full_packet_takes_no_more_and_stays_valid() {
    let mut buffer = vec![0; MAX_PACKET_BYTES + 100];
    let mut encoder = BatchEncoder::new(&mut buffer).expect("large");
    let mut pushed = 0;
    while encoder.push(&[7; 1514]) {
        pushed += 1;
    }
    assert_eq!(pushed, (MAX_PACKET_BYTES - HEADER_BYTES) / record_bytes(1514));
    let last = encoder.free_payload_bytes();
    assert!(!encoder.push(&vec![1; last + 1]));
    assert!(encoder.push(&vec![1; last]));
    assert_eq!(encoder.free_payload_bytes(), 0);
    let used = encoder.finish(&ENVELOPE, 0);
    assert_eq!(usize::from(batch(&buffer[..used]).frame_count()), pushed + 1);
}

#[test]
fn records_of_a_ring_are_taken_as_far_as_they_fit() {
    let mut ring = Vec::new();
    for index in 0..4_u8 {
        event::append_record(&mut ring, KIND_FRAME, &[index; 20]).expect("short");
    }
    let mut buffer = [0; HEADER_BYTES + 2 * 32 + 31];
    let mut encoder = BatchEncoder::new(&mut buffer).expect("large");
    assert_eq!(encoder.push_records(&ring), Ok(Taken { frames: 2, bytes: 64 }));
    assert_eq!(encoder.push_records(&ring[64..]), Ok(Taken { frames: 0, bytes: 0 }));
    let used = encoder.finish(&ENVELOPE, 3);
    assert_eq!(batch(&buffer[..used]).frames().collect::<Vec<_>>(), [[0; 20], [1; 20]]);
}

#[test]
fn a_ring_with_a_foreign_record_is_refused_whole() {
    let mut ring = Vec::new();
    event::append_record(&mut ring, KIND_FRAME, b"good").expect("short");
    event::append_record(&mut ring, event::KIND_RESEED, b"bad").expect("short");
    let mut buffer = [0; 200];
    let mut encoder = BatchEncoder::new(&mut buffer).expect("large");
    let fault = RecordError::UnknownKind { offset_bytes: 16, got: event::KIND_RESEED };
    assert_eq!(encoder.push_records(&ring), Err(fault));
    assert_eq!((encoder.frame_count(), encoder.free_bytes()), (0, 200 - HEADER_BYTES));
}

#[test]
fn what_a_receiver_has_seen_is_skipped() {
    let packet = encode(&[b"a".to_vec(), b"bb".to_vec(), b"ccccccccc".to_vec()], 10);
    let batch = batch(&packet);
    assert_eq!((batch.first_sequence(), batch.end_sequence()), (10, 13));
    assert_eq!(batch.records_from(0), batch.records());
    assert_eq!(batch.records_from(10), batch.records());
    assert_eq!(batch.records_from(11), &batch.records()[16..]);
    assert_eq!(batch.records_from(12), &batch.records()[32..]);
    assert_eq!(batch.records_from(13), b"");
    assert_eq!(batch.records_from(u64::MAX), b"");
}

#[test]
fn the_filter_lets_each_frame_out_once() {
    let mut filter = OutputFilter::new(0);
    let fresh = Admission { duplicates: 0, lost_frames: 0 };
    assert_eq!(filter.admit(0, 3), fresh);
    assert_eq!(filter.admit(0, 3), Admission { duplicates: 3, lost_frames: 0 });
    assert_eq!(filter.admit(1, 4), Admission { duplicates: 2, lost_frames: 0 });
    assert_eq!(filter.admit(5, 0), fresh);
    assert_eq!(filter.admit(7, 1), Admission { duplicates: 0, lost_frames: 2 });
    assert_eq!(filter.next_sequence(), 8);
    assert_eq!(filter.admit(2, 1), Admission { duplicates: 1, lost_frames: 0 });
    assert_eq!(filter.next_sequence(), 8);
}

#[test]
fn the_log_refuses_only_what_can_never_fit() {
    let mut log = InputLog::new(8, 4, 100);
    assert_eq!(log.push(&[0; 9]), Err(InputLogError { capacity_bytes: 8, got_bytes: 9 }));
    assert_eq!(log.push(&[1; 8]), Ok(100));
    assert_eq!(log.push(&[2; 8]), Ok(101));
    assert_eq!(log.since(0).collect::<Vec<_>>(), [(101, [2; 8].as_slice())]);
    assert_eq!(log.since(0).lost_frames(), 101);
    log.forget_before(102);
    assert_eq!(log.since(101).next(), None);
    assert_eq!((log.oldest_sequence(), log.next_sequence()), (102, 102));
}

fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..10)
}

proptest! {
    #[test]
    fn round_trip(frames in frames(), first_sequence in 0..u64::MAX - 100) {
        let packet = encode(&frames, first_sequence);
        let batch = batch(&packet);
        prop_assert_eq!(batch.frames().map(<[u8]>::to_vec).collect::<Vec<_>>(), frames);
        prop_assert_eq!((batch.generation(), batch.first_sequence()), (5, first_sequence));
        prop_assert_eq!(encode_again(&packet), packet);
    }

    #[test]
    fn what_is_accepted_is_canonical(
        frames in frames(), at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let mut packet = encode(&frames, 1);
        let index = at.index(packet.len());
        packet[index] = value;
        if decode(&packet).is_ok() {
            prop_assert_eq!(encode_again(&packet), packet);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(mut packet in prop::collection::vec(any::<u8>(), 0..300), honest in any::<bool>()) {
        if honest && packet.len() >= HEADER_BYTES {
            packet[..HEADER_BYTES - 24].copy_from_slice(&encode(&[], 0)[..HEADER_BYTES - 24]);
            packet[28..36].copy_from_slice(&SESSION.to_le_bytes());
        }
        if decode(&packet).is_ok() {
            prop_assert_eq!(encode_again(&packet), packet);
        }
    }

    /// The log against the plain list of all frames: what it holds is a suffix, in order and untouched, and it forgets
    /// no more than its bounds ask for (wrapping may leave the end of the ring unused for one frame).
    #[test]
    fn the_log_holds_the_newest_frames(
        lengths in prop::collection::vec(1_usize..40, 1..120), capacity in 40_usize..200, max_frames in 1_usize..20,
        ask in 0_u64..130,
    ) {
        let mut log = InputLog::new(capacity, max_frames, 0);
        let mut all: Vec<Vec<u8>> = Vec::new();
        for (index, length) in lengths.iter().enumerate() {
            let frame = vec![index as u8; *length];
            prop_assert_eq!(log.push(&frame), Ok(index as u64));
            all.push(frame);
            let oldest = log.oldest_sequence() as usize;
            let held: Vec<_> = log.since(0).map(|(sequence, frame)| (sequence as usize, frame.to_vec())).collect();
            let expected: Vec<_> = (oldest..all.len()).map(|at| (at, all[at].clone())).collect();
            prop_assert_eq!(held, expected);
            let kept = all.len() - oldest;
            prop_assert!(kept >= 1 && kept <= max_frames);
            if kept < max_frames && oldest > 0 {
                let with_one_more: usize = all[oldest - 1..].iter().map(Vec::len).sum();
                prop_assert!(with_one_more + 2 * 40 > capacity);
            }
        }
        let since = log.since(ask);
        prop_assert_eq!(since.lost_frames(), log.oldest_sequence().saturating_sub(ask));
        let first = since.clone().next().map(|(sequence, _)| sequence);
        let expected = ask.max(log.oldest_sequence());
        prop_assert_eq!(first, (expected < log.next_sequence()).then_some(expected));
    }

    #[test]
    fn the_filter_agrees_with_a_set(batches in prop::collection::vec((0_u64..40, 0_u16..6), 0..30)) {
        let mut filter = OutputFilter::new(0);
        let mut let_out = Vec::new();
        for (first, count) in batches {
            let admission = filter.admit(first, count);
            let_out.extend((first..first + u64::from(count)).skip(usize::from(admission.duplicates)));
        }
        prop_assert!(let_out.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", let_out);
        prop_assert_eq!(let_out.last().map_or(0, |last| last + 1), filter.next_sequence());
    }
}
