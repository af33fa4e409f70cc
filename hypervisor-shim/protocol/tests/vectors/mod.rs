//! What the golden vectors are made of: one message of each kind, with a different byte everywhere, encoded, handed to a
//! judge of the bytes, and decoded again.
//!
//! Two programs run it: the test `golden` compares with the files under `tests/golden`, and `tests/vectors` runs on other
//! machines and tells what it has seen.

use hypercall::disk::Completion;
use protocol::arbiter::ArbiterRecord;
use protocol::control::{
    ArbiterReply, ArbiterRequest, Config, Console, Copied, Counter, Counters, DisksChanged, GuestStopped, Level, Log,
    LogEnd, LogRecord, Network, Promoted, Ready, ReplayEnd, Replayed, Seed, State, Status, StopKind, Stopped,
    StoppedReason, ToShim, ToSupervisor, Touched, TouchedEnd,
};
use protocol::event::{DiskData, Event, EventReader, Uncertain};
use protocol::frame::{FrameError, FrameReader, FrameWriter, HEADER_BYTES};
use protocol::hubwire::{self, BatchEncoder, Envelope, Packet};
use protocol::link::{
    Ack, Divergence, EpochStart, Goodbye, GoodbyeReason, Heartbeat, Hello, Identity, IdentityField, JoinState, Message,
    Mismatch, Pages,
};
use protocol::{Clocks, Discipline, DiskConduct, Mode, ReplicaId, Role, RunMode};

/// The session of all frames and packets.
pub const SESSION: u64 = 0x0123_4567_89ab_cdef;

/// Judges the bytes of one vector: folder, name, bytes.
pub type Check<'a> = &'a mut dyn FnMut(&str, &str, &[u8]);

/// Encodes and decodes some of them.
pub type Visit = fn(Check<'_>);

/// All of them, by name.
pub const ALL: [(&str, Visit); 5] = [
    ("events", event_streams),
    ("link messages", link_messages),
    ("frames", frames),
    ("control messages", control_messages),
    ("packets", packets),
];

/// A digest whose bytes all differ, so that a swapped or shifted byte shows.
fn ramp(first: u8) -> [u8; 32] {
    std::array::from_fn(|index| first + index as u8)
}

fn events() -> Vec<u8> {
    let mut stream = Vec::new();
    let uncertain = Event::Uncertain(Uncertain { device: 3, operation: Uncertain::EVERY_OPERATION });
    let done = Event::DiskDone(Completion { number: 0x0102_0304_0506_0708, status: 0x1112, reserved: 0 });
    let reseed = ramp(1);
    let others = [Event::Frame(b"frame of 17 bytes"), Event::ConsoleInput(b"ls\n"), Event::Reseed(&reseed)];
    let data = Event::DiskData(DiskData { number: 0x2122_2324_2526_2728, offset_bytes: 0x3132_3334, bytes: b"read" });
    for event in others.into_iter().chain([uncertain, done, data]) {
        event.append_to(&mut stream).expect("short");
    }
    stream
}

fn messages_of_link(events: &[u8]) -> Vec<(&'static str, Message<'_>)> {
    let hello = Hello {
        identity: Identity {
            abi_version: 0x0102_0304,
            protocol_version: 0x1112_1314,
            image: ramp(0x20),
            guest_memory_bytes: 0x3132_3334_3536_3738,
            cpu: ramp(0x40),
            guest_config: ramp(0x60),
            epoch_source: 0x8182_8384,
            discipline: Discipline::Revised,
        },
        replica: ReplicaId::ONE,
        role: Role::Backup,
        generation: 0x9192_9394_9596_9798,
        max_epoch_events_bytes: 0xa1a2_a3a4,
    };
    let start = EpochStart {
        epoch: 0x0102_0304_0506_0708,
        prev_digest: 0x1112_1314_1516_1718,
        clocks: Clocks { monotonic_ns: 0x2122_2324_2526_2728, realtime_ns: 0x3132_3334_3536_3738 },
        released_through: 0x4142_4344_4546_4748,
        sent_ns: 0x5152_5354_5556_5758,
        events,
    };
    vec![
        ("hello", Message::Hello(hello)),
        ("refuse", Message::Refuse(Mismatch { field: IdentityField::GuestMemory, ours: 1 << 24, theirs: 1 << 25 })),
        ("epoch_start", Message::EpochStart(start)),
        ("epoch_start_empty", Message::EpochStart(EpochStart { events: b"", ..start })),
        (
            "ack",
            Message::Ack(Ack {
                received_through: 0x0102_0304,
                executed_through: 0x0506,
                disks_done_below: 0x0b0c_0d0e,
                echo_ns: 0x0708_090a,
            }),
        ),
        (
            "heartbeat",
            Message::Heartbeat(Heartbeat { ended_epoch: 1, ended_digest: 2, released_through: 3, sent_ns: 4 }),
        ),
        ("diverged", Message::Diverged(Divergence { epoch: 5, ours: 6, theirs: 7 })),
        ("goodbye", Message::Goodbye(Goodbye { reason: GoodbyeReason::Superseded, generation: 8 })),
        ("pages", Message::Pages(Pages { records: b"pages" })),
        ("pages_held", Message::PagesHeld { messages: 9 }),
        ("state", Message::State(join_state())),
        ("joined", Message::Joined { generation: 15 }),
    ]
}

fn join_state() -> JoinState<'static> {
    JoinState {
        epoch: 10,
        digest: 11,
        clocks: Clocks { monotonic_ns: 12, realtime_ns: 13 },
        released_through: 14,
        state: b"registers and more",
    }
}

fn to_supervisor() -> Vec<(&'static str, ToSupervisor<'static>)> {
    let mut counters = Counters::ZERO;
    for (index, counter) in Counter::ALL.iter().enumerate() {
        counters.add(*counter, 0x0101 * (index as u64 + 1));
    }
    let status = Status {
        role: Role::Backup,
        state: State::Promoting,
        mode: Mode::Solo,
        generation: 1,
        epoch: 2,
        executed_by_peer: 3,
        lag_epochs: 4,
        lag_ns: 5,
        link_rtt_ns: 6,
        uptime_ns: 7,
        counters,
    };
    let ready = Ready {
        abi_version: 1,
        protocol_version: 2,
        image: ramp(0x10),
        cpu: ramp(0x30),
        guest_memory_bytes: 16 << 20,
        boot_ns: 33_000_000,
    };
    let request = ArbiterRequest { request_id: 9, expect_generation: 10, proposer: ReplicaId::ONE };
    let stopped = GuestStopped { kind: StopKind::Fault, code: -14, epoch: 11, report: "page fault at 0x10" };
    let replayed = Replayed { epoch: 31, digest: 32, instruction_address: 0x4000_0033, frames_out: 34, complete: true };
    let copied = Copied { epoch: 21, pages: 22, zero_pages: 23, last_pages: 24, rounds: 25, pause_ns: 26, took_ns: 27 };
    vec![
        ("ready", ToSupervisor::Ready(ready)),
        ("status", ToSupervisor::Status(status)),
        ("arbiter_request", ToSupervisor::ArbiterRequest(request)),
        ("console", ToSupervisor::Console(Console { stream_offset_bytes: 12, bytes: b"hello\r\n\xff" })),
        ("log", ToSupervisor::Log(Log { level: Level::Warn, text: "link closed" })),
        ("guest_stopped", ToSupervisor::GuestStopped(stopped)),
        ("promoted", ToSupervisor::Promoted(Promoted { generation: 13, epoch: 14, next_input_frame: 15 })),
        ("stopped", ToSupervisor::Stopped(Stopped { reason: StoppedReason::Refused, text: "image differs" })),
        ("touched", ToSupervisor::Touched(Touched { epoch: 16, page_offset: 0x17000, bytes: b"a page" })),
        ("touched_end", ToSupervisor::TouchedEnd(TouchedEnd { epoch: 18, pages: 19, complete: true })),
        ("link_fresh", ToSupervisor::LinkFresh { link_session: 20 }),
        ("pairing_request", ToSupervisor::PairingRequest(request)),
        ("join_failed", ToSupervisor::JoinFailed),
        ("copied", ToSupervisor::Copied(copied)),
        ("captured_pages", ToSupervisor::Pages(Pages { records: b"captured" })),
        ("captured_state", ToSupervisor::State(join_state())),
        ("restored_pages_held", ToSupervisor::PagesHeld { messages: 28 }),
        ("capture_failed", ToSupervisor::CaptureFailed),
        ("disks_changed", ToSupervisor::DisksChanged(DisksChanged { last: true, more: false, ranges: &[0x11; 24] })),
        ("record", ToSupervisor::Record(log_record())),
        ("log_end", ToSupervisor::LogEnd(LogEnd { epoch: 29, digest: 30 })),
        ("replayed", ToSupervisor::Replayed(replayed)),
    ]
}

fn log_record() -> LogRecord<'static> {
    let start = EpochStart {
        epoch: 2,
        prev_digest: 3,
        clocks: Clocks { monotonic_ns: 4, realtime_ns: 5 },
        released_through: 6,
        sent_ns: 7,
        events: Box::leak(events().into_boxed_slice()),
    };
    LogRecord { generation: 1, start }
}

fn config() -> Config<'static> {
    Config {
        replica: ReplicaId::ONE,
        role: Role::Backup,
        mode: Mode::Paired,
        run_mode: RunMode::Pair,
        discipline: Discipline::Original,
        generation: 1,
        session: SESSION,
        pair_id: 2,
        epoch_source: 3,
        epoch_length_instructions: 4,
        realtime_ns: 5,
        entropy: Seed(ramp(0x70)),
        max_lag_ns: 6,
        heartbeat_interval_ns: 7,
        failure_timeout_ns: 8,
        pairing_timeout_ns: 9,
        status_interval_ns: 10,
        max_outstanding_epochs: 11,
        max_epoch_events_bytes: 12,
        max_outstanding_bytes: 13,
        check_determinism: true,
        shared_disks: 0x5a,
        blank_disks: 0xa6,
        link_session: 14,
        joins: true,
        restores: true,
        replays: true,
        stores_log: true,
        disk_conduct: DiskConduct::Logged,
        max_unstored_bytes: 16,
        epoch_skew_instructions: 16,
        network: Network {
            mac: [2, 0, 0, 0, 0, 15],
            address: [10, 0, 2, 15],
            prefix_bits: 24,
            gateway: [10, 0, 2, 2],
            mtu_bytes: 1500,
            dhcp: false,
            checksums: true,
        },
        arguments: "port=6379 maxmemory=64mb",
    }
}

fn to_shim() -> Vec<(&'static str, ToShim<'static>)> {
    let record = ArbiterRecord { generation: 2, active: ReplicaId::ONE, mode: Mode::Solo };
    vec![
        ("config", ToShim::Config(config())),
        ("arbiter_reply", ToShim::ArbiterReply(ArbiterReply { request_id: 1, granted: true, record })),
        ("peer_dead", ToShim::PeerDead),
        ("link_cut", ToShim::LinkCut),
        ("superseded", ToShim::Superseded { generation: 3 }),
        ("time", ToShim::Time { realtime_ns: 4 }),
        ("console_input", ToShim::ConsoleInput { bytes: b"quit\n" }),
        ("shutdown", ToShim::Shutdown),
        ("shown", ToShim::Shown { pages: 5 }),
        ("peer_joins", ToShim::PeerJoins { link_session: 6 }),
        ("hand_over", ToShim::HandOver),
        ("watch_disks", ToShim::WatchDisks),
        ("tell_disks", ToShim::TellDisks),
        ("disks_copied", ToShim::DisksCopied),
        ("capture", ToShim::Capture { since_epoch: 8 }),
        ("captured_pages_held", ToShim::PagesHeld { messages: 7 }),
        ("restored_pages", ToShim::Pages(Pages { records: b"restored" })),
        ("restored_state", ToShim::State(join_state())),
        ("stored", ToShim::Stored { through: 9 }),
        ("store_log", ToShim::StoreLog { on: true }),
        ("replay", ToShim::Replay(log_record())),
        ("replay_end", ToShim::ReplayEnd(ReplayEnd { digest: Some(10) })),
    ]
}

/// The kind and the payload of the only frame in `frame`.
fn kind_and_payload(frame: &[u8]) -> Vec<u8> {
    [&frame[6..8], &frame[HEADER_BYTES..]].concat()
}

fn split(message: &[u8]) -> (u16, &[u8]) {
    let (kind, payload) = message.split_first_chunk().expect("a kind");
    (u16::from_le_bytes(*kind), payload)
}

/// Encodes and decodes what its name says.
pub fn event_streams(check: Check<'_>) {
    let stream = events();
    check("event", "all", &stream);
    assert_eq!(EventReader::validate(&stream), Ok(6));
}

/// Encodes and decodes what its name says.
pub fn link_messages(check: Check<'_>) {
    let events = events();
    let messages = messages_of_link(&events);
    for (name, message) in &messages {
        let mut frame = Vec::new();
        message.encode_into(&mut FrameWriter::new(SESSION), &mut frame).expect("short");
        let vector = kind_and_payload(&frame);
        check("link", name, &vector);
        let (kind, payload) = split(&vector);
        assert_eq!(Message::decode(kind, payload), Ok(*message), "{name}");
    }
}

/// Encodes and decodes what its name says.
pub fn frames(check: Check<'_>) {
    let events = events();
    let messages = messages_of_link(&events);
    let mut writer = FrameWriter::new(SESSION);
    let mut stream = Vec::new();
    for (_, message) in &messages {
        message.encode_into(&mut writer, &mut stream).expect("short");
    }
    check("frame", "all", &stream);
    let mut expected = messages.iter().map(|(_, message)| *message);
    let read: Result<(), FrameError> = FrameReader::new(SESSION, 4096).feed(&stream, |frame| {
        assert_eq!(Message::decode(frame.kind, frame.payload).ok(), expected.next());
        Ok(())
    });
    assert_eq!(read, Ok(()));
    assert_eq!(expected.next(), None);
}

/// Encodes and decodes what its name says.
pub fn control_messages(check: Check<'_>) {
    for (name, message) in to_supervisor() {
        let mut frame = Vec::new();
        message.encode_into(&mut FrameWriter::new(SESSION), &mut frame).expect("short");
        let vector = kind_and_payload(&frame);
        check("control", name, &vector);
        let (kind, payload) = split(&vector);
        assert_eq!(ToSupervisor::decode(kind, payload), Ok(message), "{name}");
    }
    for (name, message) in to_shim() {
        let mut frame = Vec::new();
        message.encode_into(&mut FrameWriter::new(SESSION), &mut frame).expect("short");
        let vector = kind_and_payload(&frame);
        check("control", name, &vector);
        let (kind, payload) = split(&vector);
        assert_eq!(ToShim::decode(kind, payload), Ok(message), "{name}");
    }
}

/// Encodes and decodes what its name says.
pub fn packets(check: Check<'_>) {
    let envelope = Envelope {
        destination: [2, 0, 0, 0, 0, 1],
        source: [2, 0, 0, 0, 0, 2],
        session: SESSION,
        generation: 0x1112_1314_1516_1718,
    };
    let mut buffer = [0; 512];
    let mut encoder = BatchEncoder::new(&mut buffer).expect("large");
    let frames: [&[u8]; 3] = [b"first", b"exactly sixteen!", b"third frame"];
    assert!(frames.iter().all(|frame| encoder.push(frame)));
    let used = encoder.finish(&envelope, 0x2122_2324_2526_2728);
    check("hubwire", "frames", &buffer[..used]);
    match Packet::decode(&buffer[..used], SESSION) {
        Ok(Packet::Frames(batch)) => {
            assert_eq!(batch.first_sequence(), 0x2122_2324_2526_2728);
            assert_eq!(batch.generation(), envelope.generation);
            assert!(batch.frames().eq(frames));
        }
        other => panic!("expected frames, got {other:?}"),
    }
    let used = hubwire::encode_resume(&mut buffer, &envelope, 0x3132).expect("large");
    check("hubwire", "resume", &buffer[..used]);
    let resume = Packet::Resume { generation: envelope.generation, next_input_sequence: 0x3132 };
    assert_eq!(Packet::decode(&buffer[..used], SESSION), Ok(resume));
}
