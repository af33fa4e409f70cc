//! The messages' fields on the wire, but for those of the configuration.

use zerocopy::little_endian::{I64, U32, U64};

use super::{
    ArbiterReplyBody, ArbiterRequestBody, CopiedBody, DisksChangedBody, GuestStoppedBody, KIND_ARBITER_REPLY,
    KIND_DISKS_CHANGED, KIND_GUEST_STOPPED, KIND_LOG, KIND_STATUS, KIND_STOPPED, KIND_TOUCHED_END, LogBody,
    PromotedBody, ReadyBody, StatusBody, StoppedBody, TouchedBody, TouchedEndBody,
};
use crate::arbiter::ArbiterRecord;
use crate::control::{
    ArbiterReply, ArbiterRequest, Copied, Counters, DisksChanged, GuestStopped, Level, Log, Promoted, Ready, State,
    Status, StopKind, Stopped, StoppedReason, Touched, TouchedEnd,
};
use crate::frame::MessageError;
use crate::frame::body::{self, Prefix};
use crate::{Mode, ReplicaId, Role};

impl From<&Ready> for ReadyBody {
    fn from(ready: &Ready) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            abi_version: U32::new(ready.abi_version),
            protocol_version: U32::new(ready.protocol_version),
            image: ready.image,
            cpu: ready.cpu,
            guest_memory_bytes: U64::new(ready.guest_memory_bytes),
            boot_ns: U64::new(ready.boot_ns),
        }
    }
}

pub(super) fn ready(body: &ReadyBody) -> Ready {
    Ready {
        abi_version: body.abi_version.get(),
        protocol_version: body.protocol_version.get(),
        image: body.image,
        cpu: body.cpu,
        guest_memory_bytes: body.guest_memory_bytes.get(),
        boot_ns: body.boot_ns.get(),
    }
}

impl From<&Status> for StatusBody {
    fn from(status: &Status) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            role: status.role.code(),
            state: status.state.code(),
            mode: status.mode.code(),
            reserved: [0; 5],
            generation: U64::new(status.generation),
            epoch: U64::new(status.epoch),
            executed_by_peer: U64::new(status.executed_by_peer),
            lag_epochs: U64::new(status.lag_epochs),
            lag_ns: U64::new(status.lag_ns),
            link_rtt_ns: U64::new(status.link_rtt_ns),
            uptime_ns: U64::new(status.uptime_ns),
            counters: status.counters.0.map(U64::new),
        }
    }
}

pub(super) fn status(body: &StatusBody) -> Result<Status, MessageError> {
    body::unused(KIND_STATUS, &body.reserved)?;
    Ok(Status {
        role: body::field(KIND_STATUS, "role", body.role, Role::from_code)?,
        state: body::field(KIND_STATUS, "state", body.state, State::from_code)?,
        mode: body::field(KIND_STATUS, "mode", body.mode, Mode::from_code)?,
        generation: body.generation.get(),
        epoch: body.epoch.get(),
        executed_by_peer: body.executed_by_peer.get(),
        lag_epochs: body.lag_epochs.get(),
        lag_ns: body.lag_ns.get(),
        link_rtt_ns: body.link_rtt_ns.get(),
        uptime_ns: body.uptime_ns.get(),
        counters: Counters(body.counters.map(U64::get)),
    })
}

impl From<&ArbiterRequest> for ArbiterRequestBody {
    fn from(request: &ArbiterRequest) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            request_id: U64::new(request.request_id),
            expect_generation: U64::new(request.expect_generation),
            proposer: request.proposer.get(),
            reserved: [0; 7],
        }
    }
}

pub(super) fn arbiter_request(kind: u16, body: &ArbiterRequestBody) -> Result<ArbiterRequest, MessageError> {
    body::unused(kind, &body.reserved)?;
    Ok(ArbiterRequest {
        request_id: body.request_id.get(),
        expect_generation: body.expect_generation.get(),
        proposer: body::field(kind, "proposer", body.proposer, ReplicaId::new)?,
    })
}

pub(super) fn log(payload: &[u8]) -> Result<Log<'_>, MessageError> {
    let (body, text) = body::with_bulk::<LogBody>(KIND_LOG, payload)?;
    body::unused(KIND_LOG, &body.reserved)?;
    Ok(Log { level: body::field(KIND_LOG, "level", body.level, Level::from_code)?, text: body::text(KIND_LOG, text)? })
}

impl From<&GuestStopped<'_>> for GuestStoppedBody {
    fn from(stopped: &GuestStopped<'_>) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            code: I64::new(stopped.code),
            epoch: U64::new(stopped.epoch),
            kind: stopped.kind.code(),
            reserved: [0; 7],
        }
    }
}

pub(super) fn guest_stopped(payload: &[u8]) -> Result<GuestStopped<'_>, MessageError> {
    let (body, report) = body::with_bulk::<GuestStoppedBody>(KIND_GUEST_STOPPED, payload)?;
    body::unused(KIND_GUEST_STOPPED, &body.reserved)?;
    Ok(GuestStopped {
        kind: body::field(KIND_GUEST_STOPPED, "kind", body.kind, StopKind::from_code)?,
        code: body.code.get(),
        epoch: body.epoch.get(),
        report: body::text(KIND_GUEST_STOPPED, report)?,
    })
}

impl From<&Promoted> for PromotedBody {
    fn from(promoted: &Promoted) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            generation: U64::new(promoted.generation),
            epoch: U64::new(promoted.epoch),
            next_input_frame: U64::new(promoted.next_input_frame),
        }
    }
}

pub(super) fn promoted(body: &PromotedBody) -> Promoted {
    Promoted {
        generation: body.generation.get(),
        epoch: body.epoch.get(),
        next_input_frame: body.next_input_frame.get(),
    }
}

pub(super) fn stopped(payload: &[u8]) -> Result<Stopped<'_>, MessageError> {
    let (body, text) = body::with_bulk::<StoppedBody>(KIND_STOPPED, payload)?;
    body::unused(KIND_STOPPED, &body.reserved)?;
    Ok(Stopped {
        reason: body::field(KIND_STOPPED, "reason", body.reason, StoppedReason::from_code)?,
        text: body::text(KIND_STOPPED, text)?,
    })
}

impl From<&Touched<'_>> for TouchedBody {
    fn from(touched: &Touched<'_>) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            epoch: U64::new(touched.epoch),
            page_offset: U64::new(touched.page_offset),
        }
    }
}

impl From<&TouchedEnd> for TouchedEndBody {
    fn from(end: &TouchedEnd) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            epoch: U64::new(end.epoch),
            pages: U64::new(end.pages),
            complete: end.complete.into(),
            reserved: [0; 7],
        }
    }
}

pub(super) fn touched_end(body: &TouchedEndBody) -> Result<TouchedEnd, MessageError> {
    body::unused(KIND_TOUCHED_END, &body.reserved)?;
    Ok(TouchedEnd {
        epoch: body.epoch.get(),
        pages: body.pages.get(),
        complete: body::truth(KIND_TOUCHED_END, "complete", body.complete)?,
    })
}

impl From<&Copied> for CopiedBody {
    fn from(copied: &Copied) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            epoch: U64::new(copied.epoch),
            pages: U64::new(copied.pages),
            zero_pages: U64::new(copied.zero_pages),
            last_pages: U64::new(copied.last_pages),
            rounds: U64::new(copied.rounds),
            pause_ns: U64::new(copied.pause_ns),
            took_ns: U64::new(copied.took_ns),
        }
    }
}

pub(super) fn copied(body: &CopiedBody) -> Copied {
    Copied {
        epoch: body.epoch.get(),
        pages: body.pages.get(),
        zero_pages: body.zero_pages.get(),
        last_pages: body.last_pages.get(),
        rounds: body.rounds.get(),
        pause_ns: body.pause_ns.get(),
        took_ns: body.took_ns.get(),
    }
}

pub(super) fn disks_changed(payload: &[u8]) -> Result<DisksChanged<'_>, MessageError> {
    let (body, ranges) = body::with_bulk::<DisksChangedBody>(KIND_DISKS_CHANGED, payload)?;
    body::unused(KIND_DISKS_CHANGED, &body.reserved)?;
    Ok(DisksChanged {
        last: body::truth(KIND_DISKS_CHANGED, "last", body.last)?,
        more: body::truth(KIND_DISKS_CHANGED, "more", body.more)?,
        ranges,
    })
}

impl From<&ArbiterReply> for ArbiterReplyBody {
    fn from(reply: &ArbiterReply) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            request_id: U64::new(reply.request_id),
            generation: U64::new(reply.record.generation),
            granted: reply.granted.into(),
            active: reply.record.active.get(),
            mode: reply.record.mode.code(),
            reserved: [0; 5],
        }
    }
}

pub(super) fn arbiter_reply(body: &ArbiterReplyBody) -> Result<ArbiterReply, MessageError> {
    let kind = KIND_ARBITER_REPLY;
    body::unused(kind, &body.reserved)?;
    Ok(ArbiterReply {
        request_id: body.request_id.get(),
        granted: body::truth(kind, "granted", body.granted)?,
        record: ArbiterRecord {
            generation: body.generation.get(),
            active: body::field(kind, "active", body.active, ReplicaId::new)?,
            mode: body::field(kind, "mode", body.mode, Mode::from_code)?,
        },
    })
}
