use super::*;
use crate::event::{Event, MAX_RECORD_PAYLOAD_BYTES, RecordError};
use crate::frame::FrameReader;
use crate::link::JoinState;
use alloc::vec;
use proptest::prelude::*;

const SESSION: u64 = 42;

fn encode(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let used = message.encode_into(&mut FrameWriter::new(SESSION), &mut bytes).expect("short");
    assert_eq!(used, bytes.len());
    let mut slice = vec![0xee; bytes.len()];
    assert_eq!(message.encode_into_slice(&mut FrameWriter::new(SESSION), &mut slice), Ok(used));
    assert_eq!(slice, bytes);
    bytes
}

fn payload(message: &Message<'_>) -> Vec<u8> {
    encode(message)[crate::frame::HEADER_BYTES..].to_vec()
}

fn goodbye_bytes() -> Vec<u8> {
    payload(&Message::Goodbye(Goodbye { reason: GoodbyeReason::Shutdown, generation: 3 }))
}

#[test]
fn faults_are_told_apart() {
    let kind = KIND_GOODBYE;
    let good = goodbye_bytes();
    let with = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        Message::decode(kind, &bytes).map(|_| ())
    };
    assert_eq!(Message::decode(0x0999, &good), Err(MessageError::UnknownKind { got: 0x0999 }));
    assert_eq!(
        Message::decode(kind, &good[..23]),
        Err(MessageError::Truncated { kind, expected_bytes: 24, got_bytes: 23 })
    );
    assert_eq!(
        Message::decode(kind, &[good.as_slice(), b"x"].concat()),
        Err(MessageError::Trailing { kind, got_bytes: 1 })
    );
    assert_eq!(with(0, 2), Err(MessageError::Version { kind, expected: 1, got: 2 }));
    assert_eq!(with(2, 32), Err(MessageError::Size { kind, expected_bytes: 24, got_bytes: 32 }));
    assert_eq!(with(4, 1), Err(MessageError::Field { kind, field: "reserved", got: 1 }));
    assert_eq!(with(16, 9), Err(MessageError::Field { kind, field: "reason", got: 9 }));
    assert_eq!(with(23, 5), Err(MessageError::Field { kind, field: "reserved", got: 5 }));
}

#[test]
fn malformed_events_are_refused() {
    let start = EpochStart {
        epoch: 1,
        prev_digest: 0,
        clocks: Clocks::default(),
        released_through: 0,
        sent_ns: 5,
        events: &[1, 2, 3],
    };
    let fault = RecordError::Truncated { offset_bytes: 0, expected_bytes: 8, got_bytes: 3 };
    assert_eq!(
        Message::decode(KIND_EPOCH_START, &payload(&Message::EpochStart(start))),
        Err(MessageError::Events(fault))
    );
}

#[test]
fn only_an_epoch_start_is_long() {
    let longest = size_of::<HelloBody>();
    assert!(longest <= EPOCH_START_FIXED_BYTES + 512);
}

/// Fields of a message in the order in which the strategies draw them; [`Raw::message`] gives the message.
#[derive(Clone, Debug)]
struct Raw {
    which: u8,
    words: [u64; 6],
    bytes: [[u8; 32]; 3],
    codes: [u8; 3],
    events: Vec<u8>,
}

impl Raw {
    fn message(&self) -> Message<'_> {
        let [a, b, c, d, e, f] = self.words;
        let [x, y, z] = self.codes;
        match self.which {
            0 => Message::Hello(Hello {
                identity: Identity {
                    abi_version: a as u32,
                    protocol_version: b as u32,
                    image: self.bytes[0],
                    guest_memory_bytes: c,
                    cpu: self.bytes[1],
                    guest_config: self.bytes[2],
                    epoch_source: d as u32,
                    discipline: Discipline::from_code(x % 2).expect("defined"),
                },
                replica: ReplicaId::new(y % 2).expect("0 or 1"),
                role: Role::from_code(z % 2).expect("defined"),
                generation: e,
                max_epoch_events_bytes: f as u32,
            }),
            1 => Message::Refuse(Mismatch {
                field: IdentityField::from_code(1 + x % 11).expect("defined"),
                ours: a,
                theirs: b,
            }),
            2 => Message::EpochStart(EpochStart {
                epoch: a,
                prev_digest: b,
                clocks: Clocks { monotonic_ns: c, realtime_ns: d },
                released_through: e,
                sent_ns: f,
                events: &self.events,
            }),
            3 => Message::Ack(Ack { received_through: a, executed_through: b, disks_done_below: d, echo_ns: c }),
            4 => Message::Heartbeat(Heartbeat { ended_epoch: a, ended_digest: b, released_through: c, sent_ns: d }),
            5 => Message::Diverged(Divergence { epoch: a, ours: b, theirs: c }),
            6 => Message::Goodbye(Goodbye {
                reason: GoodbyeReason::from_code(1 + x % 5).expect("defined"),
                generation: a,
            }),
            7 => Message::Pages(Pages { records: &self.events }),
            8 => Message::PagesHeld { messages: a },
            9 => Message::State(JoinState {
                epoch: a,
                digest: b,
                clocks: Clocks { monotonic_ns: c, realtime_ns: d },
                released_through: e,
                state: &self.events,
            }),
            _ => Message::Joined { generation: a },
        }
    }
}

fn raw() -> impl Strategy<Value = Raw> {
    let frames = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5);
    (0_u8..11, any::<[u64; 6]>(), any::<[[u8; 32]; 3]>(), any::<[u8; 3]>(), frames).prop_map(
        |(which, words, bytes, codes, frames)| {
            let mut events = Vec::new();
            for frame in &frames {
                assert!(frame.len() <= MAX_RECORD_PAYLOAD_BYTES);
                Event::Frame(frame).append_to(&mut events).expect("short");
            }
            Raw { which, words, bytes, codes, events }
        },
    )
}

proptest! {
    #[test]
    fn round_trip(raws in prop::collection::vec(raw(), 1..6)) {
        let mut writer = FrameWriter::new(SESSION);
        let mut bytes = Vec::new();
        for raw in &raws {
            raw.message().encode_into(&mut writer, &mut bytes).expect("short");
        }
        let mut reader = FrameReader::new(SESSION, 4096);
        let mut input = bytes.as_slice();
        for raw in &raws {
            let progress = reader.read(input).expect("valid");
            input = &input[progress.used_bytes..];
            let frame = progress.frame.expect("complete");
            prop_assert_eq!(Message::decode(frame.kind, frame.payload), Ok(raw.message()));
        }
        prop_assert!(input.is_empty());
    }

    #[test]
    fn what_is_accepted_is_canonical(raw in raw(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let message = raw.message();
        let mut bytes = payload(&message);
        let index = at.index(bytes.len());
        bytes[index] = value;
        if let Ok(decoded) = Message::decode(message.kind(), &bytes) {
            prop_assert_eq!(payload(&decoded), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(kind in 0x0100_u16..0x010e, bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        if let Ok(decoded) = Message::decode(kind, &bytes) {
            prop_assert_eq!(payload(&decoded), bytes);
        }
    }
}
