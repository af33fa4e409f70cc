//! The messages of stable storage and of replays on the wire.

use zerocopy::little_endian::U64;

use super::{KIND_REPLAY_END, KIND_REPLAYED};
use crate::Clocks;
use crate::control::{LogEnd, LogRecord, ReplayEnd, Replayed};
use crate::event::EventReader;
use crate::frame::MessageError;
use crate::frame::body::{self, Prefix, bodies};
use crate::link::EpochStart;

bodies! {
    pub(super) LogRecordBody {
        generation: U64,
        epoch: U64,
        prev_digest: U64,
        monotonic_ns: U64,
        realtime_ns: U64,
        released_through: U64,
        sent_ns: U64,
    }
    pub(super) LogEndBody {
        epoch: U64,
        digest: U64,
    }
    pub(super) ReplayEndBody {
        digest: U64,
        is_known: u8,
        reserved: [u8; 7],
    }
    pub(super) ReplayedBody {
        epoch: U64,
        digest: U64,
        instruction_address: U64,
        frames_out: U64,
        complete: u8,
        reserved: [u8; 7],
    }
}

impl From<&LogRecord<'_>> for LogRecordBody {
    fn from(record: &LogRecord<'_>) -> Self {
        let start = &record.start;
        Self {
            prefix: Prefix::of::<Self>(),
            generation: U64::new(record.generation),
            epoch: U64::new(start.epoch),
            prev_digest: U64::new(start.prev_digest),
            monotonic_ns: U64::new(start.clocks.monotonic_ns),
            realtime_ns: U64::new(start.clocks.realtime_ns),
            released_through: U64::new(start.released_through),
            sent_ns: U64::new(start.sent_ns),
        }
    }
}

/// Reads a record; its events are checked, as on the link.
pub(super) fn log_record(kind: u16, payload: &[u8]) -> Result<LogRecord<'_>, MessageError> {
    let (body, events) = body::with_bulk::<LogRecordBody>(kind, payload)?;
    EventReader::validate(events)?;
    Ok(LogRecord {
        generation: body.generation.get(),
        start: EpochStart {
            epoch: body.epoch.get(),
            prev_digest: body.prev_digest.get(),
            clocks: Clocks { monotonic_ns: body.monotonic_ns.get(), realtime_ns: body.realtime_ns.get() },
            released_through: body.released_through.get(),
            sent_ns: body.sent_ns.get(),
            events,
        },
    })
}

impl From<&LogEnd> for LogEndBody {
    fn from(end: &LogEnd) -> Self {
        Self { prefix: Prefix::of::<Self>(), epoch: U64::new(end.epoch), digest: U64::new(end.digest) }
    }
}

pub(super) fn log_end(body: &LogEndBody) -> LogEnd {
    LogEnd { epoch: body.epoch.get(), digest: body.digest.get() }
}

impl From<&ReplayEnd> for ReplayEndBody {
    fn from(end: &ReplayEnd) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            digest: U64::new(end.digest.unwrap_or(0)),
            is_known: end.digest.is_some().into(),
            reserved: [0; 7],
        }
    }
}

pub(super) fn replay_end(body: &ReplayEndBody) -> Result<ReplayEnd, MessageError> {
    body::unused(KIND_REPLAY_END, &body.reserved)?;
    let is_known = body::truth(KIND_REPLAY_END, "is_known", body.is_known)?;
    if !is_known {
        body::unused(KIND_REPLAY_END, &body.digest.to_bytes())?;
    }
    Ok(ReplayEnd { digest: is_known.then_some(body.digest.get()) })
}

impl From<&Replayed> for ReplayedBody {
    fn from(replayed: &Replayed) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            epoch: U64::new(replayed.epoch),
            digest: U64::new(replayed.digest),
            instruction_address: U64::new(replayed.instruction_address),
            frames_out: U64::new(replayed.frames_out),
            complete: replayed.complete.into(),
            reserved: [0; 7],
        }
    }
}

pub(super) fn replayed(body: &ReplayedBody) -> Result<Replayed, MessageError> {
    body::unused(KIND_REPLAYED, &body.reserved)?;
    Ok(Replayed {
        epoch: body.epoch.get(),
        digest: body.digest.get(),
        instruction_address: body.instruction_address.get(),
        frames_out: body.frames_out.get(),
        complete: body::truth(KIND_REPLAYED, "complete", body.complete)?,
    })
}
