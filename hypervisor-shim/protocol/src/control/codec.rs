//! The wire format of the control messages: the only place that encodes and decodes them.

mod config;
mod fields;
mod storage;

use alloc::vec::Vec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{I64, U16, U32, U64};

use self::config::config;
use self::fields::{
    arbiter_reply, arbiter_request, copied, disks_changed, guest_stopped, log, promoted, ready, status, stopped,
    touched_end,
};
use super::{Console, Counter, ToShim, ToSupervisor, Touched};
use crate::frame::body::{self, Empty, Number, Prefix, bodies};
use crate::frame::{EncodeError, FrameWriter, MessageError};
use crate::link::Pages;
use crate::link::state::{StateBody, join_state};

macro_rules! kinds {
    ($($name:ident = $value:literal for $message:ident :: $variant:ident;)+) => {
        $(
            #[doc = concat!("Frame kind of [`", stringify!($message), "::", stringify!($variant), "`].")]
            pub const $name: u16 = $value;
        )+
    };
}

kinds! {
    KIND_READY = 0x0201 for ToSupervisor::Ready;
    KIND_STATUS = 0x0202 for ToSupervisor::Status;
    KIND_ARBITER_REQUEST = 0x0203 for ToSupervisor::ArbiterRequest;
    KIND_CONSOLE = 0x0204 for ToSupervisor::Console;
    KIND_LOG = 0x0205 for ToSupervisor::Log;
    KIND_GUEST_STOPPED = 0x0206 for ToSupervisor::GuestStopped;
    KIND_PROMOTED = 0x0207 for ToSupervisor::Promoted;
    KIND_STOPPED = 0x0208 for ToSupervisor::Stopped;
    KIND_TOUCHED = 0x0209 for ToSupervisor::Touched;
    KIND_TOUCHED_END = 0x020a for ToSupervisor::TouchedEnd;
    KIND_LINK_FRESH = 0x020b for ToSupervisor::LinkFresh;
    KIND_PAIRING_REQUEST = 0x020c for ToSupervisor::PairingRequest;
    KIND_JOIN_FAILED = 0x020d for ToSupervisor::JoinFailed;
    KIND_COPIED = 0x020e for ToSupervisor::Copied;
    KIND_CAPTURED_PAGES = 0x020f for ToSupervisor::Pages;
    KIND_CAPTURED_STATE = 0x0210 for ToSupervisor::State;
    KIND_RESTORED_PAGES_HELD = 0x0211 for ToSupervisor::PagesHeld;
    KIND_CAPTURE_FAILED = 0x0212 for ToSupervisor::CaptureFailed;
    KIND_DISKS_CHANGED = 0x0213 for ToSupervisor::DisksChanged;
    KIND_RECORD = 0x0214 for ToSupervisor::Record;
    KIND_LOG_END = 0x0215 for ToSupervisor::LogEnd;
    KIND_REPLAYED = 0x0216 for ToSupervisor::Replayed;
    KIND_CONFIG = 0x0301 for ToShim::Config;
    KIND_ARBITER_REPLY = 0x0302 for ToShim::ArbiterReply;
    KIND_PEER_DEAD = 0x0303 for ToShim::PeerDead;
    KIND_LINK_CUT = 0x0304 for ToShim::LinkCut;
    KIND_SUPERSEDED = 0x0305 for ToShim::Superseded;
    KIND_TIME = 0x0306 for ToShim::Time;
    KIND_CONSOLE_INPUT = 0x0307 for ToShim::ConsoleInput;
    KIND_SHUTDOWN = 0x0308 for ToShim::Shutdown;
    KIND_SHOWN = 0x0309 for ToShim::Shown;
    KIND_PEER_JOINS = 0x030a for ToShim::PeerJoins;
    KIND_HAND_OVER = 0x030b for ToShim::HandOver;
    KIND_CAPTURE = 0x030c for ToShim::Capture;
    KIND_CAPTURED_PAGES_HELD = 0x030d for ToShim::PagesHeld;
    KIND_RESTORED_PAGES = 0x030e for ToShim::Pages;
    KIND_RESTORED_STATE = 0x030f for ToShim::State;
    KIND_WATCH_DISKS = 0x0310 for ToShim::WatchDisks;
    KIND_TELL_DISKS = 0x0311 for ToShim::TellDisks;
    KIND_DISKS_COPIED = 0x0312 for ToShim::DisksCopied;
    KIND_STORED = 0x0313 for ToShim::Stored;
    KIND_STORE_LOG = 0x0314 for ToShim::StoreLog;
    KIND_REPLAY = 0x0315 for ToShim::Replay;
    KIND_REPLAY_END = 0x0316 for ToShim::ReplayEnd;
}

bodies! {
    ReadyBody {
        abi_version: U32,
        protocol_version: U32,
        image: [u8; 32],
        cpu: [u8; 32],
        guest_memory_bytes: U64,
        boot_ns: U64,
    }
    StatusBody {
        role: u8,
        state: u8,
        mode: u8,
        reserved: [u8; 5],
        generation: U64,
        epoch: U64,
        executed_by_peer: U64,
        lag_epochs: U64,
        lag_ns: U64,
        link_rtt_ns: U64,
        uptime_ns: U64,
        counters: [U64; Counter::COUNT],
    }
    ArbiterRequestBody {
        request_id: U64,
        expect_generation: U64,
        proposer: u8,
        reserved: [u8; 7],
    }
    ConsoleBody {
        stream_offset_bytes: U64,
    }
    LogBody {
        level: u8,
        reserved: [u8; 7],
    }
    GuestStoppedBody {
        code: I64,
        epoch: U64,
        kind: u8,
        reserved: [u8; 7],
    }
    PromotedBody {
        generation: U64,
        epoch: U64,
        next_input_frame: U64,
    }
    StoppedBody {
        reason: u8,
        reserved: [u8; 7],
    }
    TouchedBody {
        epoch: U64,
        page_offset: U64,
    }
    TouchedEndBody {
        epoch: U64,
        pages: U64,
        complete: u8,
        reserved: [u8; 7],
    }
    ConfigBody {
        generation: U64,
        session: U64,
        pair_id: U64,
        epoch_length_instructions: U64,
        realtime_ns: U64,
        entropy: [u8; 32],
        max_lag_ns: U64,
        heartbeat_interval_ns: U64,
        failure_timeout_ns: U64,
        pairing_timeout_ns: U64,
        status_interval_ns: U64,
        max_outstanding_bytes: U64,
        max_outstanding_epochs: U32,
        max_epoch_events_bytes: U32,
        epoch_source: U32,
        replica: u8,
        role: u8,
        mode: u8,
        run_mode: u8,
        discipline: u8,
        dhcp: u8,
        checksums: u8,
        prefix_bits: u8,
        address: [u8; 4],
        gateway: [u8; 4],
        mac: [u8; 6],
        mtu_bytes: U16,
        check_determinism: u8,
        joins: u8,
        restores: u8,
        shared_disks: u8,
        link_session: U64,
        max_unstored_bytes: U64,
        stores_log: u8,
        replays: u8,
        disk_conduct: u8,
        blank_disks: u8,
        unused: [u8; 4],
        epoch_skew_instructions: U64,
    }
    ArbiterReplyBody {
        request_id: U64,
        generation: U64,
        granted: u8,
        active: u8,
        mode: u8,
        reserved: [u8; 5],
    }
    CopiedBody {
        epoch: U64,
        pages: U64,
        zero_pages: U64,
        last_pages: U64,
        rounds: U64,
        pause_ns: U64,
        took_ns: U64,
    }
    DisksChangedBody {
        last: u8,
        more: u8,
        reserved: [u8; 6],
    }
}

/// Gives a message type its two ways to be written.
macro_rules! encode {
    ($message:ident) => {
        /// Appends the message as a frame to `out` and returns the frame's length in bytes.
        ///
        /// # Errors
        /// [`EncodeError::TooLong`].
        pub fn encode_into(&self, writer: &mut FrameWriter, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
            self.with_parts(|kind, parts| {
                within_limit(parts)?;
                writer.encode_into(out, kind, parts)
            })
        }

        /// Writes the message as a frame to the start of `out` and returns the frame's length in bytes.
        ///
        /// # Errors
        /// [`EncodeError::TooLong`] and [`EncodeError::BufferTooSmall`].
        pub fn encode_into_slice(&self, writer: &mut FrameWriter, out: &mut [u8]) -> Result<usize, EncodeError> {
            self.with_parts(|kind, parts| {
                within_limit(parts)?;
                writer.encode_into_slice(out, kind, parts)
            })
        }
    };
}

fn within_limit(parts: &[&[u8]]) -> Result<(), EncodeError> {
    let got_bytes = parts.iter().map(|part| part.len()).sum();
    if got_bytes > super::MAX_PAYLOAD_BYTES {
        return Err(EncodeError::TooLong { limit_bytes: super::MAX_PAYLOAD_BYTES, got_bytes });
    }
    Ok(())
}

impl<'a> ToSupervisor<'a> {
    encode!(ToSupervisor);

    fn with_parts<R>(&self, write: impl FnOnce(u16, &[&[u8]]) -> R) -> R {
        match self {
            Self::Ready(ready) => write(KIND_READY, &[ReadyBody::from(ready).as_bytes()]),
            Self::Status(status) => write(KIND_STATUS, &[StatusBody::from(status).as_bytes()]),
            Self::ArbiterRequest(request) => {
                write(KIND_ARBITER_REQUEST, &[ArbiterRequestBody::from(request).as_bytes()])
            }
            Self::Console(console) => {
                let body = ConsoleBody {
                    prefix: Prefix::of::<ConsoleBody>(),
                    stream_offset_bytes: U64::new(console.stream_offset_bytes),
                };
                write(KIND_CONSOLE, &[body.as_bytes(), console.bytes])
            }
            Self::Log(log) => {
                let body = LogBody { prefix: Prefix::of::<LogBody>(), level: log.level.code(), reserved: [0; 7] };
                write(KIND_LOG, &[body.as_bytes(), log.text.as_bytes()])
            }
            Self::GuestStopped(stopped) => {
                write(KIND_GUEST_STOPPED, &[GuestStoppedBody::from(stopped).as_bytes(), stopped.report.as_bytes()])
            }
            Self::Promoted(promoted) => write(KIND_PROMOTED, &[PromotedBody::from(promoted).as_bytes()]),
            Self::Stopped(stopped) => {
                let body = StoppedBody {
                    prefix: Prefix::of::<StoppedBody>(),
                    reason: stopped.reason.code(),
                    reserved: [0; 7],
                };
                write(KIND_STOPPED, &[body.as_bytes(), stopped.text.as_bytes()])
            }
            Self::Touched(touched) => write(KIND_TOUCHED, &[TouchedBody::from(touched).as_bytes(), touched.bytes]),
            Self::TouchedEnd(end) => write(KIND_TOUCHED_END, &[TouchedEndBody::from(end).as_bytes()]),
            Self::LinkFresh { link_session } => write(KIND_LINK_FRESH, &[Number::of(*link_session).as_bytes()]),
            Self::PairingRequest(request) => {
                write(KIND_PAIRING_REQUEST, &[ArbiterRequestBody::from(request).as_bytes()])
            }
            Self::JoinFailed => write(KIND_JOIN_FAILED, &[Empty::BODY.as_bytes()]),
            Self::Copied(copied) => write(KIND_COPIED, &[CopiedBody::from(copied).as_bytes()]),
            Self::Pages(pages) => write(KIND_CAPTURED_PAGES, &[Empty::BODY.as_bytes(), pages.records]),
            Self::State(state) => write(KIND_CAPTURED_STATE, &[StateBody::from(state).as_bytes(), state.state]),
            Self::PagesHeld { messages } => write(KIND_RESTORED_PAGES_HELD, &[Number::of(*messages).as_bytes()]),
            Self::CaptureFailed => write(KIND_CAPTURE_FAILED, &[Empty::BODY.as_bytes()]),
            Self::DisksChanged(changed) => {
                let (last, more) = (changed.last.into(), changed.more.into());
                let body = DisksChangedBody { prefix: Prefix::of::<DisksChangedBody>(), last, more, reserved: [0; 6] };
                write(KIND_DISKS_CHANGED, &[body.as_bytes(), changed.ranges])
            }
            Self::Record(record) => {
                write(KIND_RECORD, &[storage::LogRecordBody::from(record).as_bytes(), record.start.events])
            }
            Self::LogEnd(end) => write(KIND_LOG_END, &[storage::LogEndBody::from(end).as_bytes()]),
            Self::Replayed(replayed) => write(KIND_REPLAYED, &[storage::ReplayedBody::from(replayed).as_bytes()]),
        }
    }

    /// Reads the payload of a frame.
    ///
    /// # Errors
    /// What the first fault of the payload is.
    pub fn decode(kind: u16, payload: &'a [u8]) -> Result<Self, MessageError> {
        match kind {
            KIND_READY => body::fixed(kind, payload).map(|body| Self::Ready(ready(body))),
            KIND_STATUS => body::fixed(kind, payload).and_then(status).map(Self::Status),
            KIND_ARBITER_REQUEST => {
                body::fixed(kind, payload).and_then(|body| arbiter_request(kind, body)).map(Self::ArbiterRequest)
            }
            KIND_CONSOLE => {
                let (body, bytes) = body::with_bulk::<ConsoleBody>(kind, payload)?;
                Ok(Self::Console(Console { stream_offset_bytes: body.stream_offset_bytes.get(), bytes }))
            }
            KIND_LOG => log(payload).map(Self::Log),
            KIND_GUEST_STOPPED => guest_stopped(payload).map(Self::GuestStopped),
            KIND_PROMOTED => body::fixed(kind, payload).map(|body| Self::Promoted(promoted(body))),
            KIND_STOPPED => stopped(payload).map(Self::Stopped),
            KIND_TOUCHED => {
                let (body, bytes) = body::with_bulk::<TouchedBody>(kind, payload)?;
                let (epoch, page_offset) = (body.epoch.get(), body.page_offset.get());
                Ok(Self::Touched(Touched { epoch, page_offset, bytes }))
            }
            KIND_TOUCHED_END => body::fixed(kind, payload).and_then(touched_end).map(Self::TouchedEnd),
            KIND_LINK_FRESH => body::number(kind, payload).map(|link_session| Self::LinkFresh { link_session }),
            KIND_PAIRING_REQUEST => {
                body::fixed(kind, payload).and_then(|body| arbiter_request(kind, body)).map(Self::PairingRequest)
            }
            KIND_JOIN_FAILED => body::empty(kind, payload).map(|()| Self::JoinFailed),
            KIND_COPIED => body::fixed(kind, payload).map(|body| Self::Copied(copied(body))),
            KIND_CAPTURED_PAGES => body::bulk(kind, payload).map(|records| Self::Pages(Pages { records })),
            KIND_CAPTURED_STATE => join_state(kind, payload).map(Self::State),
            KIND_RESTORED_PAGES_HELD => body::number(kind, payload).map(|messages| Self::PagesHeld { messages }),
            KIND_CAPTURE_FAILED => body::empty(kind, payload).map(|()| Self::CaptureFailed),
            KIND_DISKS_CHANGED => disks_changed(payload).map(Self::DisksChanged),
            KIND_RECORD => storage::log_record(kind, payload).map(Self::Record),
            KIND_LOG_END => body::fixed(kind, payload).map(|body| Self::LogEnd(storage::log_end(body))),
            KIND_REPLAYED => body::fixed(kind, payload).and_then(storage::replayed).map(Self::Replayed),
            got => Err(MessageError::UnknownKind { got }),
        }
    }
}

impl<'a> ToShim<'a> {
    encode!(ToShim);

    fn with_parts<R>(&self, write: impl FnOnce(u16, &[&[u8]]) -> R) -> R {
        match self {
            Self::Config(config) => {
                write(KIND_CONFIG, &[ConfigBody::from(config).as_bytes(), config.arguments.as_bytes()])
            }
            Self::ArbiterReply(reply) => write(KIND_ARBITER_REPLY, &[ArbiterReplyBody::from(reply).as_bytes()]),
            Self::PeerDead => write(KIND_PEER_DEAD, &[Empty::BODY.as_bytes()]),
            Self::LinkCut => write(KIND_LINK_CUT, &[Empty::BODY.as_bytes()]),
            Self::Superseded { generation } => write(KIND_SUPERSEDED, &[Number::of(*generation).as_bytes()]),
            Self::Time { realtime_ns } => write(KIND_TIME, &[Number::of(*realtime_ns).as_bytes()]),
            Self::ConsoleInput { bytes } => write(KIND_CONSOLE_INPUT, &[Empty::BODY.as_bytes(), bytes]),
            Self::Shutdown => write(KIND_SHUTDOWN, &[Empty::BODY.as_bytes()]),
            Self::Shown { pages } => write(KIND_SHOWN, &[Number::of(*pages).as_bytes()]),
            Self::PeerJoins { link_session } => write(KIND_PEER_JOINS, &[Number::of(*link_session).as_bytes()]),
            Self::HandOver => write(KIND_HAND_OVER, &[Empty::BODY.as_bytes()]),
            Self::Capture { since_epoch } => write(KIND_CAPTURE, &[Number::of(*since_epoch).as_bytes()]),
            Self::PagesHeld { messages } => write(KIND_CAPTURED_PAGES_HELD, &[Number::of(*messages).as_bytes()]),
            Self::Pages(pages) => write(KIND_RESTORED_PAGES, &[Empty::BODY.as_bytes(), pages.records]),
            Self::State(state) => write(KIND_RESTORED_STATE, &[StateBody::from(state).as_bytes(), state.state]),
            Self::WatchDisks => write(KIND_WATCH_DISKS, &[Empty::BODY.as_bytes()]),
            Self::TellDisks => write(KIND_TELL_DISKS, &[Empty::BODY.as_bytes()]),
            Self::DisksCopied => write(KIND_DISKS_COPIED, &[Empty::BODY.as_bytes()]),
            Self::Stored { through } => write(KIND_STORED, &[Number::of(*through).as_bytes()]),
            Self::StoreLog { on } => write(KIND_STORE_LOG, &[Number::of(u64::from(*on)).as_bytes()]),
            Self::Replay(record) => {
                write(KIND_REPLAY, &[storage::LogRecordBody::from(record).as_bytes(), record.start.events])
            }
            Self::ReplayEnd(end) => write(KIND_REPLAY_END, &[storage::ReplayEndBody::from(end).as_bytes()]),
        }
    }

    /// Reads the payload of a frame.
    ///
    /// # Errors
    /// What the first fault of the payload is.
    pub fn decode(kind: u16, payload: &'a [u8]) -> Result<Self, MessageError> {
        let empty = |message: Self| body::empty(kind, payload).map(|()| message);
        match kind {
            KIND_CONFIG => {
                let (body, arguments) = body::with_bulk(kind, payload)?;
                config(body, body::text(kind, arguments)?).map(Self::Config)
            }
            KIND_ARBITER_REPLY => body::fixed(kind, payload).and_then(arbiter_reply).map(Self::ArbiterReply),
            KIND_PEER_DEAD => empty(Self::PeerDead),
            KIND_LINK_CUT => empty(Self::LinkCut),
            KIND_SUPERSEDED => body::number(kind, payload).map(|generation| Self::Superseded { generation }),
            KIND_TIME => body::number(kind, payload).map(|realtime_ns| Self::Time { realtime_ns }),
            KIND_CONSOLE_INPUT => body::bulk(kind, payload).map(|bytes| Self::ConsoleInput { bytes }),
            KIND_SHUTDOWN => empty(Self::Shutdown),
            KIND_SHOWN => body::number(kind, payload).map(|pages| Self::Shown { pages }),
            KIND_PEER_JOINS => body::number(kind, payload).map(|link_session| Self::PeerJoins { link_session }),
            KIND_HAND_OVER => empty(Self::HandOver),
            KIND_WATCH_DISKS => empty(Self::WatchDisks),
            KIND_TELL_DISKS => empty(Self::TellDisks),
            KIND_DISKS_COPIED => empty(Self::DisksCopied),
            KIND_CAPTURE => body::number(kind, payload).map(|since_epoch| Self::Capture { since_epoch }),
            KIND_CAPTURED_PAGES_HELD => body::number(kind, payload).map(|messages| Self::PagesHeld { messages }),
            KIND_RESTORED_PAGES => body::bulk(kind, payload).map(|records| Self::Pages(Pages { records })),
            KIND_RESTORED_STATE => join_state(kind, payload).map(Self::State),
            KIND_STORED => body::number(kind, payload).map(|through| Self::Stored { through }),
            KIND_STORE_LOG => body::number(kind, payload)
                .and_then(|on| body::truth(kind, "on", on.min(2) as u8))
                .map(|on| Self::StoreLog { on }),
            KIND_REPLAY => storage::log_record(kind, payload).map(Self::Replay),
            KIND_REPLAY_END => body::fixed(kind, payload).and_then(storage::replay_end).map(Self::ReplayEnd),
            got => Err(MessageError::UnknownKind { got }),
        }
    }
}

#[cfg(test)]
mod tests;
