use super::*;
use crate::arbiter::ArbiterRecord;
use crate::control::{
    ArbiterReply, ArbiterRequest, Config, Copied, Counters, DisksChanged, GuestStopped, Level, Log, LogEnd, LogRecord,
    MAX_PAYLOAD_BYTES, Network, Promoted, Ready, ReplayEnd, Replayed, Seed, State, Status, StopKind, Stopped,
    StoppedReason, TouchedEnd,
};
use crate::event::Event;
use crate::frame::HEADER_BYTES;
use crate::link::{EpochStart, JoinState, Pages};
use crate::{Clocks, Discipline, DiskConduct, Mode, ReplicaId, Role, RunMode};
use alloc::string::String;
use alloc::vec;
use proptest::prelude::*;

/// Draws for the fields of any message.
#[derive(Clone, Debug)]
struct Draw {
    which: u8,
    words: [u64; 12],
    halves: [u32; 4],
    codes: [u8; 7],
    digests: [[u8; 32]; 2],
    mac: [u8; 6],
    counters: Vec<u64>,
    text: String,
    bulk: Vec<u8>,
    /// A stream of one event.
    events: Vec<u8>,
}

fn draw() -> impl Strategy<Value = Draw> {
    let fixed = (any::<[u64; 12]>(), any::<[u32; 4]>(), any::<[u8; 7]>(), any::<[[u8; 32]; 2]>(), any::<[u8; 6]>());
    let counters = prop::collection::vec(any::<u64>(), Counter::COUNT);
    (0_u8..23, fixed, counters, ".{0,40}", prop::collection::vec(any::<u8>(), 0..60)).prop_map(
        |(which, (words, halves, codes, digests, mac), counters, text, bulk)| {
            let mut events = Vec::new();
            Event::Frame(&bulk).append_to(&mut events).expect("short");
            Draw { which, words, halves, codes, digests, mac, counters, text, bulk, events }
        },
    )
}

impl Draw {
    fn pick<T>(&self, index: usize, count: u8, first: u8, read: impl Fn(u8) -> Option<T>) -> T {
        read(first + self.codes[index] % count).expect("a defined code")
    }

    fn to_supervisor(&self) -> ToSupervisor<'_> {
        let [a, b, c, d, e, f, g, ..] = self.words;
        match self.which {
            0 => ToSupervisor::Ready(Ready {
                abi_version: self.halves[0],
                protocol_version: self.halves[1],
                image: self.digests[0],
                cpu: self.digests[1],
                guest_memory_bytes: a,
                boot_ns: b,
            }),
            1 => ToSupervisor::Status(Status {
                role: self.pick(0, 2, 0, Role::from_code),
                state: self.pick(1, 8, 0, State::from_code),
                mode: self.pick(2, 2, 0, Mode::from_code),
                generation: a,
                epoch: b,
                executed_by_peer: c,
                lag_epochs: d,
                lag_ns: e,
                link_rtt_ns: f,
                uptime_ns: g,
                counters: Counters(self.counters.as_slice().try_into().expect("drawn so")),
            }),
            2 => ToSupervisor::ArbiterRequest(ArbiterRequest {
                request_id: a,
                expect_generation: b,
                proposer: self.pick(0, 2, 0, ReplicaId::new),
            }),
            3 => ToSupervisor::Console(Console { stream_offset_bytes: a, bytes: &self.bulk }),
            4 => ToSupervisor::Log(Log { level: self.pick(0, 4, 1, Level::from_code), text: &self.text }),
            5 => ToSupervisor::GuestStopped(GuestStopped {
                kind: self.pick(0, 3, 1, StopKind::from_code),
                code: a as i64,
                epoch: b,
                report: &self.text,
            }),
            6 => ToSupervisor::Promoted(Promoted { generation: a, epoch: b, next_input_frame: c }),
            7 => ToSupervisor::Stopped(Stopped {
                reason: self.pick(0, 8, 1, StoppedReason::from_code),
                text: &self.text,
            }),
            8 => ToSupervisor::Touched(Touched { epoch: a, page_offset: b, bytes: &self.bulk }),
            9 => ToSupervisor::TouchedEnd(TouchedEnd { epoch: a, pages: b, complete: self.codes[0] & 1 == 1 }),
            10 => ToSupervisor::LinkFresh { link_session: a },
            11 => ToSupervisor::PairingRequest(ArbiterRequest {
                request_id: a,
                expect_generation: b,
                proposer: self.pick(0, 2, 0, ReplicaId::new),
            }),
            12 => ToSupervisor::JoinFailed,
            14 => ToSupervisor::Pages(Pages { records: &self.bulk }),
            15 => ToSupervisor::State(self.state()),
            16 => ToSupervisor::PagesHeld { messages: a },
            17 => ToSupervisor::CaptureFailed,
            18 => ToSupervisor::DisksChanged(DisksChanged {
                last: self.codes[0] & 1 == 1,
                more: self.codes[0] & 2 == 2,
                ranges: &self.bulk,
            }),
            19 => ToSupervisor::Record(self.log_record()),
            20 => ToSupervisor::LogEnd(LogEnd { epoch: a, digest: b }),
            21 => ToSupervisor::Replayed(Replayed {
                epoch: a,
                digest: b,
                instruction_address: c,
                frames_out: d,
                complete: self.codes[0] & 1 == 1,
            }),
            _ => ToSupervisor::Copied(Copied {
                epoch: a,
                pages: b,
                zero_pages: c,
                last_pages: d,
                rounds: e,
                pause_ns: f,
                took_ns: g,
            }),
        }
    }

    fn to_shim(&self) -> ToShim<'_> {
        match self.which {
            0 => ToShim::Config(self.config()),
            1 => ToShim::ArbiterReply(ArbiterReply {
                request_id: self.words[0],
                granted: self.codes[0] & 1 == 1,
                record: ArbiterRecord {
                    generation: self.words[1],
                    active: self.pick(1, 2, 0, ReplicaId::new),
                    mode: self.pick(2, 2, 0, Mode::from_code),
                },
            }),
            2 => ToShim::PeerDead,
            3 => ToShim::LinkCut,
            4 => ToShim::Superseded { generation: self.words[0] },
            5 => ToShim::Time { realtime_ns: self.words[0] },
            6 => ToShim::ConsoleInput { bytes: &self.bulk },
            7 => ToShim::Shutdown,
            8 => ToShim::Shown { pages: self.words[0] },
            9 => ToShim::PeerJoins { link_session: self.words[0] },
            10 => ToShim::HandOver,
            11 => ToShim::Capture { since_epoch: self.words[0] },
            12 => ToShim::PagesHeld { messages: self.words[0] },
            13 => ToShim::Pages(Pages { records: &self.bulk }),
            14 => ToShim::WatchDisks,
            15 => ToShim::TellDisks,
            16 => ToShim::DisksCopied,
            17 => ToShim::Stored { through: self.words[0] },
            18 => ToShim::StoreLog { on: self.codes[0] & 1 == 1 },
            19 => ToShim::Replay(self.log_record()),
            20 => ToShim::ReplayEnd(ReplayEnd { digest: (self.codes[0] & 1 == 1).then_some(self.words[0]) }),
            _ => ToShim::State(self.state()),
        }
    }

    fn log_record(&self) -> LogRecord<'_> {
        let [generation, epoch, prev_digest, monotonic_ns, realtime_ns, released_through, sent_ns, ..] = self.words;
        let clocks = Clocks { monotonic_ns, realtime_ns };
        let start = EpochStart { epoch, prev_digest, clocks, released_through, sent_ns, events: &self.events };
        LogRecord { generation, start }
    }

    fn state(&self) -> JoinState<'_> {
        let [epoch, digest, monotonic_ns, realtime_ns, released_through, ..] = self.words;
        let clocks = Clocks { monotonic_ns, realtime_ns };
        JoinState { epoch, digest, clocks, released_through, state: &self.bulk }
    }

    fn config(&self) -> Config<'_> {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.words;
        Config {
            replica: self.pick(0, 2, 0, ReplicaId::new),
            role: self.pick(1, 2, 0, Role::from_code),
            mode: self.pick(2, 2, 0, Mode::from_code),
            run_mode: self.pick(3, 4, 0, RunMode::from_code),
            discipline: self.pick(4, 2, 0, Discipline::from_code),
            generation: a,
            session: b,
            pair_id: c,
            epoch_source: self.halves[0],
            epoch_length_instructions: d,
            realtime_ns: e,
            entropy: Seed(self.digests[0]),
            max_lag_ns: f,
            heartbeat_interval_ns: g,
            failure_timeout_ns: h,
            pairing_timeout_ns: i,
            status_interval_ns: j,
            max_outstanding_epochs: self.halves[1],
            max_epoch_events_bytes: self.halves[2],
            max_outstanding_bytes: k,
            check_determinism: self.codes[5] & 1 == 1,
            shared_disks: self.codes[4],
            blank_disks: self.codes[2],
            link_session: l,
            joins: self.codes[6] & 4 == 4,
            restores: self.codes[6] & 8 == 8,
            replays: self.codes[6] & 16 == 16,
            stores_log: self.codes[6] & 32 == 32,
            disk_conduct: DiskConduct::from_code(self.codes[6] >> 6).unwrap_or(DiskConduct::Own),
            max_unstored_bytes: l,
            epoch_skew_instructions: u64::from(self.codes[3]),
            network: Network {
                mac: self.mac,
                address: self.halves[3].to_be_bytes(),
                prefix_bits: self.codes[5] % 33,
                gateway: self.halves[2].to_be_bytes(),
                mtu_bytes: self.halves[1] as u16,
                dhcp: self.codes[6] & 1 == 1,
                checksums: self.codes[6] & 2 == 2,
            },
            arguments: &self.text,
        }
    }
}

type Encoded = (u16, Vec<u8>);

fn split(frame: &[u8]) -> Encoded {
    (u16::from_le_bytes([frame[6], frame[7]]), frame[HEADER_BYTES..].to_vec())
}

fn encode_up(message: &ToSupervisor<'_>) -> Encoded {
    let mut frame = Vec::new();
    message.encode_into(&mut FrameWriter::new(1), &mut frame).expect("short");
    let mut slice = vec![0xee; frame.len()];
    assert_eq!(message.encode_into_slice(&mut FrameWriter::new(1), &mut slice), Ok(frame.len()));
    assert_eq!(slice, frame);
    split(&frame)
}

fn encode_down(message: &ToShim<'_>) -> Encoded {
    let mut frame = Vec::new();
    message.encode_into(&mut FrameWriter::new(1), &mut frame).expect("short");
    let mut slice = vec![0xee; frame.len()];
    assert_eq!(message.encode_into_slice(&mut FrameWriter::new(1), &mut slice), Ok(frame.len()));
    assert_eq!(slice, frame);
    split(&frame)
}

/// What either decoder accepts must encode to the same bytes.
fn check_canonical(kind: u16, payload: &[u8]) {
    let encoded = (kind, payload.to_vec());
    if let Ok(message) = ToSupervisor::decode(kind, payload) {
        assert_eq!(encode_up(&message), encoded);
    }
    if let Ok(message) = ToShim::decode(kind, payload) {
        assert_eq!(encode_down(&message), encoded);
    }
}

#[test]
fn faults_are_told_apart() {
    let (kind, good) = encode_down(&ToShim::PeerDead);
    assert_eq!(
        ToShim::decode(kind, &good[..7]),
        Err(MessageError::Truncated { kind, expected_bytes: 8, got_bytes: 7 })
    );
    assert_eq!(ToShim::decode(KIND_READY, &good), Err(MessageError::UnknownKind { got: KIND_READY }));
    assert_eq!(ToSupervisor::decode(kind, &good), Err(MessageError::UnknownKind { got: kind }));
    let (kind, mut log) = encode_up(&ToSupervisor::Log(Log { level: Level::Warn, text: "ab" }));
    log[17] = 0xff;
    assert_eq!(ToSupervisor::decode(kind, &log), Err(MessageError::Text { kind, valid_bytes: 1 }));
    log[8] = 9;
    assert_eq!(ToSupervisor::decode(kind, &log), Err(MessageError::Field { kind, field: "level", got: 9 }));
}

#[test]
fn a_text_that_is_too_long_is_refused() {
    let text = "x".repeat(MAX_PAYLOAD_BYTES);
    let message = ToSupervisor::Log(Log { level: Level::Info, text: &text });
    let mut out = Vec::new();
    let error = EncodeError::TooLong { limit_bytes: MAX_PAYLOAD_BYTES, got_bytes: MAX_PAYLOAD_BYTES + 16 };
    assert_eq!(message.encode_into(&mut FrameWriter::new(1), &mut out), Err(error));
    assert!(out.is_empty());
}

#[test]
fn secrets_do_not_show() {
    let seed = Seed([0xab; 32]);
    let shown = alloc::format!("{seed:?}");
    assert!(!shown.contains("ab") && !shown.contains("171"), "{shown}");
}

#[test]
fn counters_have_names_of_their_own() {
    let names: alloc::collections::BTreeSet<_> = Counter::ALL.iter().map(|counter| counter.name()).collect();
    assert_eq!(names.len(), Counter::COUNT);
    let mut counters = Counters::ZERO;
    for (index, counter) in Counter::ALL.iter().enumerate() {
        counters.add(*counter, index as u64);
    }
    assert!(counters.iter().enumerate().all(|(index, (_, value))| value == index as u64));
}

proptest! {
    #[test]
    fn round_trip(draw in draw()) {
        let (kind, payload) = encode_up(&draw.to_supervisor());
        prop_assert_eq!(ToSupervisor::decode(kind, &payload), Ok(draw.to_supervisor()));
        let (kind, payload) = encode_down(&draw.to_shim());
        prop_assert_eq!(ToShim::decode(kind, &payload), Ok(draw.to_shim()));
    }

    #[test]
    fn what_is_accepted_is_canonical(draw in draw(), at in any::<prop::sample::Index>(), value in any::<u8>()) {
        for (kind, mut payload) in [encode_up(&draw.to_supervisor()), encode_down(&draw.to_shim())] {
            let index = at.index(payload.len());
            payload[index] = value;
            check_canonical(kind, &payload);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        kind in prop_oneof![0x0200_u16..0x0217, 0x0300_u16..0x0317], bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        check_canonical(kind, &bytes);
    }
}
