use super::*;
use alloc::vec;
use proptest::prelude::*;

const SESSION: u64 = 0x1122_3344_5566_7788;
const LIMIT_BYTES: usize = 512;

type Owned = (u16, Vec<u8>);

fn encode(frames: &[Owned]) -> Vec<u8> {
    let mut writer = FrameWriter::new(SESSION);
    let mut bytes = Vec::new();
    for (kind, payload) in frames {
        writer.encode_into(&mut bytes, *kind, &[payload]).expect("short");
    }
    bytes
}

/// Reads pieces of the given lengths (the last one repeated) and returns all frames, and the error if there is one.
fn read_in_pieces(bytes: &[u8], lengths: &[usize]) -> (Vec<Owned>, Option<FrameError>) {
    let mut reader = FrameReader::new(SESSION, LIMIT_BYTES);
    let mut frames = Vec::new();
    let mut rest = bytes;
    let mut lengths = lengths.iter().copied();
    let mut length = 1;
    while !rest.is_empty() {
        length = lengths.next().unwrap_or(length).clamp(1, rest.len());
        let (piece, after) = rest.split_at(length);
        rest = after;
        let fed: Result<(), FrameError> = reader.feed(piece, |frame| {
            frames.push((frame.kind, frame.payload.to_vec()));
            Ok(())
        });
        if let Err(error) = fed {
            assert_eq!(reader.read(b""), Err(error), "a fault must be final");
            return (frames, Some(error));
        }
        assert!(reader.buffer.len() <= HEADER_BYTES + LIMIT_BYTES);
    }
    (frames, None)
}

fn one() -> Vec<u8> {
    encode(&[(3, b"payload".to_vec())])
}

fn fault_of(bytes: &[u8]) -> FrameError {
    let (frames, whole) = read_in_pieces(bytes, &[bytes.len()]);
    assert!(frames.is_empty());
    assert_eq!(read_in_pieces(bytes, &[1]).1, whole, "the fault must not depend on the pieces");
    whole.expect("a fault")
}

fn with(index: usize, value: u8) -> Vec<u8> {
    let mut bytes = one();
    assert_ne!(bytes[index], value);
    bytes[index] = value;
    bytes
}

#[test]
fn faults_are_told_apart() {
    assert_eq!(fault_of(&with(0, b'Q')), FrameError::BadMagic { got: u32::from_le_bytes(*b"QLXF") });
    assert_eq!(fault_of(&with(4, 2)), FrameError::BadVersion { expected: 1, got: 2 });
    assert_eq!(fault_of(&with(8, 48)), FrameError::BadHeader { header_bytes: 48, flags: 0 });
    assert_eq!(fault_of(&with(11, 1)), FrameError::BadHeader { header_bytes: 40, flags: 256 });
    assert_eq!(fault_of(&with(16, 4)), FrameError::OutOfSequence { expected: 0, got: 4 });
    assert_eq!(fault_of(&with(24, 0)), FrameError::WrongSession);
    assert_eq!(fault_of(&with(14, 1)), FrameError::TooLong { limit_bytes: LIMIT_BYTES, got_bytes: 65_536 + 7 });
    for index in [6, 32, HEADER_BYTES, HEADER_BYTES + 6] {
        assert!(matches!(fault_of(&with(index, 0xee)), FrameError::BadChecksum { .. }), "byte {index}");
    }
}

#[test]
fn replayed_and_lost_frames_are_refused() {
    let frames = [(1, b"a".to_vec()), (2, b"b".to_vec()), (3, b"c".to_vec())];
    let bytes = encode(&frames);
    let size = HEADER_BYTES + 1;
    let lost = [&bytes[..size], &bytes[2 * size..]].concat();
    let (read, error) = read_in_pieces(&lost, &[lost.len()]);
    assert_eq!(read, frames[..1]);
    assert_eq!(error, Some(FrameError::OutOfSequence { expected: 1, got: 2 }));
    let replayed = [&bytes[..size], &bytes[..size]].concat();
    assert_eq!(read_in_pieces(&replayed, &[7]).1, Some(FrameError::OutOfSequence { expected: 1, got: 0 }));
}

#[test]
fn a_whole_frame_is_not_copied() {
    let bytes = one();
    let mut reader = FrameReader::new(SESSION, LIMIT_BYTES);
    let progress = reader.read(&bytes).expect("valid");
    let frame = progress.frame.expect("complete");
    assert_eq!(frame.payload.as_ptr(), bytes[HEADER_BYTES..].as_ptr());
    assert_eq!(reader.buffer.capacity(), 0);
}

#[test]
fn the_greatest_payload_passes_and_one_byte_more_does_not() {
    let (frames, error) = read_in_pieces(&encode(&[(1, vec![7; LIMIT_BYTES])]), &[100]);
    assert_eq!((frames.len(), error), (1, None));
    let (frames, error) = read_in_pieces(&encode(&[(1, vec![7; LIMIT_BYTES + 1])]), &[100]);
    assert_eq!(frames.len(), 0);
    assert_eq!(error, Some(FrameError::TooLong { limit_bytes: LIMIT_BYTES, got_bytes: LIMIT_BYTES + 1 }));
}

#[test]
fn a_stream_cut_short_is_noticed() {
    let bytes = one();
    let mut reader = FrameReader::new(SESSION, LIMIT_BYTES);
    assert_eq!(reader.pending_bytes(), 0);
    let progress = reader.read(&bytes[..45]).expect("valid so far");
    assert_eq!(progress, Progress { used_bytes: 45, frame: None });
    assert_eq!(reader.pending_bytes(), 45);
    assert!(reader.read(&bytes[45..]).expect("valid").frame.is_some());
    assert_eq!(reader.pending_bytes(), 0);
}

#[test]
fn a_failed_encoding_leaves_no_trace() {
    let mut writer = FrameWriter::new(SESSION);
    let long = vec![0; MAX_PAYLOAD_BYTES];
    let mut out = vec![9];
    let too_long = EncodeError::TooLong { limit_bytes: MAX_PAYLOAD_BYTES, got_bytes: MAX_PAYLOAD_BYTES + 1 };
    assert_eq!(writer.encode_into(&mut out, 1, &[&long, b"x"]), Err(too_long));
    assert_eq!(out, [9]);
    let mut small = [9; HEADER_BYTES];
    let too_small = EncodeError::BufferTooSmall { expected_bytes: HEADER_BYTES + 1, got_bytes: HEADER_BYTES };
    assert_eq!(writer.encode_into_slice(&mut small, 1, &[b"x"]), Err(too_small));
    assert_eq!(small, [9; HEADER_BYTES]);
    assert_eq!(writer.next_sequence(), 0);
}

#[test]
fn the_directions_of_a_link_have_different_sessions() {
    assert_ne!(direction_session(SESSION, ReplicaId::ZERO), direction_session(SESSION, ReplicaId::ONE));
}

fn frames() -> impl Strategy<Value = Vec<Owned>> {
    prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..LIMIT_BYTES)), 0..8)
}

proptest! {
    #[test]
    fn any_pieces_give_the_same_messages(frames in frames(), lengths in prop::collection::vec(1_usize..700, 0..20)) {
        let bytes = encode(&frames);
        prop_assert_eq!(read_in_pieces(&bytes, &lengths), (frames, None));
    }

    #[test]
    fn parts_and_slices_give_the_same_bytes(
        payload in prop::collection::vec(any::<u8>(), 0..300), cut in any::<prop::sample::Index>(), kind in any::<u16>(),
    ) {
        let (left, right) = payload.split_at(cut.index(payload.len() + 1));
        let mut joined = Vec::new();
        FrameWriter::new(SESSION).encode_into(&mut joined, kind, &[left, right]).expect("short");
        prop_assert_eq!(&joined, &encode_at(kind, &payload));
        let mut slice = vec![0xcc; joined.len() + 3];
        let used = FrameWriter::new(SESSION).encode_into_slice(&mut slice, kind, &[left, b"", right]).expect("fits");
        prop_assert_eq!(&slice[..used], &joined);
        prop_assert_eq!(&slice[used..], &[0xcc; 3]);
    }

    #[test]
    fn any_flipped_bit_is_noticed(
        frames in frames(), at in any::<prop::sample::Index>(), bit in 0..8, lengths in prop::collection::vec(1_usize..700, 0..9),
    ) {
        let mut bytes = encode(&frames);
        prop_assume!(!bytes.is_empty());
        let index = at.index(bytes.len());
        bytes[index] ^= 1_u8 << bit;
        let (read, error) = read_in_pieces(&bytes, &lengths);
        // A longer payload length makes the reader wait for bytes that never come; the link's timeout ends that.
        prop_assert!(error.is_some() || read.len() < frames.len());
        prop_assert_eq!(&read, &frames[..read.len()]);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..400), lengths in prop::collection::vec(1_usize..100, 0..9),
    ) {
        let (frames, _) = read_in_pieces(&bytes, &lengths);
        prop_assert!(frames.is_empty());
    }
}

fn encode_at(kind: u16, payload: &[u8]) -> Vec<u8> {
    encode(&[(kind, payload.to_vec())])
}
