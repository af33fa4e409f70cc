//! The wire format of the messages of the replication link: the only place that encodes and decodes them.

use alloc::vec::Vec;
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

use super::state::{StateBody, join_state};
use super::{
    Ack, Divergence, EpochStart, Goodbye, GoodbyeReason, Heartbeat, Hello, Identity, IdentityField, Message, Mismatch,
    Pages,
};
use crate::event::EventReader;
use crate::frame::body::{self, Empty, Number, Prefix, bodies};
use crate::frame::{EncodeError, FrameWriter, MessageError};
use crate::{Clocks, Discipline, ReplicaId, Role};

/// Frame kind of [`Message::Hello`].
pub const KIND_HELLO: u16 = 0x0101;
/// Frame kind of [`Message::Refuse`].
pub const KIND_REFUSE: u16 = 0x0102;
/// Frame kind of [`Message::EpochStart`].
pub const KIND_EPOCH_START: u16 = 0x0103;
/// Frame kind of [`Message::Ack`].
pub const KIND_ACK: u16 = 0x0104;
/// Frame kind of [`Message::Heartbeat`].
pub const KIND_HEARTBEAT: u16 = 0x0105;
/// Frame kind of [`Message::Diverged`].
pub const KIND_DIVERGED: u16 = 0x0106;
/// Frame kind of [`Message::Goodbye`].
pub const KIND_GOODBYE: u16 = 0x0107;
/// Frame kind of [`Message::Pages`].
pub const KIND_PAGES: u16 = 0x0108;
/// Frame kind of [`Message::PagesHeld`].
pub const KIND_PAGES_HELD: u16 = 0x0109;
/// Frame kind of [`Message::State`].
pub const KIND_STATE: u16 = 0x010a;
/// Frame kind of [`Message::Joined`].
pub const KIND_JOINED: u16 = 0x010b;

/// Bytes of an [`EpochStart`]'s payload besides its events. A reader that must take epochs of up to N bytes of events
/// accepts payloads of N plus this; beside it only [`Message::Pages`] and [`Message::State`] are longer than this plus 512
/// bytes, and their senders keep them within N.
pub const EPOCH_START_FIXED_BYTES: usize = size_of::<EpochStartBody>();

bodies! {
    HelloBody {
        abi_version: U32,
        protocol_version: U32,
        image: [u8; 32],
        cpu: [u8; 32],
        guest_config: [u8; 32],
        guest_memory_bytes: U64,
        generation: U64,
        epoch_source: U32,
        max_epoch_events_bytes: U32,
        discipline: u8,
        replica: u8,
        role: u8,
        reserved: [u8; 5],
    }
    RefuseBody {
        ours: U64,
        theirs: U64,
        field: u8,
        reserved: [u8; 7],
    }
    EpochStartBody {
        epoch: U64,
        prev_digest: U64,
        monotonic_ns: U64,
        realtime_ns: U64,
        released_through: U64,
        sent_ns: U64,
    }
    AckBody {
        received_through: U64,
        executed_through: U64,
        disks_done_below: U64,
        echo_ns: U64,
    }
    HeartbeatBody {
        ended_epoch: U64,
        ended_digest: U64,
        released_through: U64,
        sent_ns: U64,
    }
    DivergedBody {
        epoch: U64,
        ours: U64,
        theirs: U64,
    }
    GoodbyeBody {
        generation: U64,
        reason: u8,
        reserved: [u8; 7],
    }
}

impl<'a> Message<'a> {
    /// The kind of the frame that carries this message.
    #[must_use]
    pub const fn kind(&self) -> u16 {
        match self {
            Self::Hello(_) => KIND_HELLO,
            Self::Refuse(_) => KIND_REFUSE,
            Self::EpochStart(_) => KIND_EPOCH_START,
            Self::Ack(_) => KIND_ACK,
            Self::Heartbeat(_) => KIND_HEARTBEAT,
            Self::Diverged(_) => KIND_DIVERGED,
            Self::Goodbye(_) => KIND_GOODBYE,
            Self::Pages(_) => KIND_PAGES,
            Self::PagesHeld { .. } => KIND_PAGES_HELD,
            Self::State(_) => KIND_STATE,
            Self::Joined { .. } => KIND_JOINED,
        }
    }

    /// Appends the message as a frame to `out` and returns the frame's length in bytes.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] when the events do not fit in a frame.
    pub fn encode_into(&self, writer: &mut FrameWriter, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        self.with_parts(|kind, parts| writer.encode_into(out, kind, parts))
    }

    /// Writes the message as a frame to the start of `out` and returns the frame's length in bytes.
    ///
    /// # Errors
    /// [`EncodeError::TooLong`] and [`EncodeError::BufferTooSmall`].
    pub fn encode_into_slice(&self, writer: &mut FrameWriter, out: &mut [u8]) -> Result<usize, EncodeError> {
        self.with_parts(|kind, parts| writer.encode_into_slice(out, kind, parts))
    }

    fn with_parts<R>(&self, write: impl FnOnce(u16, &[&[u8]]) -> R) -> R {
        let kind = self.kind();
        match self {
            Self::Hello(hello) => write(kind, &[HelloBody::from(hello).as_bytes()]),
            Self::Refuse(mismatch) => write(kind, &[RefuseBody::from(mismatch).as_bytes()]),
            Self::EpochStart(start) => write(kind, &[EpochStartBody::from(start).as_bytes(), start.events]),
            Self::Ack(ack) => write(kind, &[AckBody::from(ack).as_bytes()]),
            Self::Heartbeat(heartbeat) => write(kind, &[HeartbeatBody::from(heartbeat).as_bytes()]),
            Self::Diverged(divergence) => write(kind, &[DivergedBody::from(divergence).as_bytes()]),
            Self::Goodbye(goodbye) => write(kind, &[GoodbyeBody::from(goodbye).as_bytes()]),
            Self::Pages(pages) => write(kind, &[Empty::BODY.as_bytes(), pages.records]),
            Self::PagesHeld { messages } => write(kind, &[Number::of(*messages).as_bytes()]),
            Self::State(state) => write(kind, &[StateBody::from(state).as_bytes(), state.state]),
            Self::Joined { generation } => write(kind, &[Number::of(*generation).as_bytes()]),
        }
    }

    /// Reads the payload of a frame. Everything is checked, the events of an epoch included: what this accepts can be
    /// handed on as it is.
    ///
    /// # Errors
    /// What the first fault of the payload is.
    pub fn decode(kind: u16, payload: &'a [u8]) -> Result<Self, MessageError> {
        match kind {
            KIND_HELLO => body::fixed(kind, payload).and_then(hello).map(Self::Hello),
            KIND_REFUSE => body::fixed(kind, payload).and_then(refuse).map(Self::Refuse),
            KIND_EPOCH_START => {
                let (body, events) = body::with_bulk(kind, payload)?;
                EventReader::validate(events)?;
                Ok(Self::EpochStart(epoch_start(body, events)))
            }
            KIND_ACK => body::fixed(kind, payload).map(|body| Self::Ack(ack(body))),
            KIND_HEARTBEAT => body::fixed(kind, payload).map(|body| Self::Heartbeat(heartbeat(body))),
            KIND_DIVERGED => body::fixed(kind, payload).map(|body| Self::Diverged(diverged(body))),
            KIND_GOODBYE => body::fixed(kind, payload).and_then(goodbye).map(Self::Goodbye),
            KIND_PAGES => body::bulk(kind, payload).map(|records| Self::Pages(Pages { records })),
            KIND_PAGES_HELD => body::number(kind, payload).map(|messages| Self::PagesHeld { messages }),
            KIND_STATE => join_state(kind, payload).map(Self::State),
            KIND_JOINED => body::number(kind, payload).map(|generation| Self::Joined { generation }),
            got => Err(MessageError::UnknownKind { got }),
        }
    }
}

impl From<&Hello> for HelloBody {
    fn from(hello: &Hello) -> Self {
        let identity = &hello.identity;
        Self {
            prefix: Prefix::of::<Self>(),
            abi_version: U32::new(identity.abi_version),
            protocol_version: U32::new(identity.protocol_version),
            image: identity.image,
            cpu: identity.cpu,
            guest_config: identity.guest_config,
            guest_memory_bytes: U64::new(identity.guest_memory_bytes),
            generation: U64::new(hello.generation),
            epoch_source: U32::new(identity.epoch_source),
            max_epoch_events_bytes: U32::new(hello.max_epoch_events_bytes),
            discipline: identity.discipline.code(),
            replica: hello.replica.get(),
            role: hello.role.code(),
            reserved: [0; 5],
        }
    }
}

fn hello(body: &HelloBody) -> Result<Hello, MessageError> {
    let kind = KIND_HELLO;
    body::unused(kind, &body.reserved)?;
    Ok(Hello {
        identity: Identity {
            abi_version: body.abi_version.get(),
            protocol_version: body.protocol_version.get(),
            image: body.image,
            guest_memory_bytes: body.guest_memory_bytes.get(),
            cpu: body.cpu,
            guest_config: body.guest_config,
            epoch_source: body.epoch_source.get(),
            discipline: body::field(kind, "discipline", body.discipline, Discipline::from_code)?,
        },
        replica: body::field(kind, "replica", body.replica, ReplicaId::new)?,
        role: body::field(kind, "role", body.role, Role::from_code)?,
        generation: body.generation.get(),
        max_epoch_events_bytes: body.max_epoch_events_bytes.get(),
    })
}

impl From<&Mismatch> for RefuseBody {
    fn from(mismatch: &Mismatch) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            ours: U64::new(mismatch.ours),
            theirs: U64::new(mismatch.theirs),
            field: mismatch.field.code(),
            reserved: [0; 7],
        }
    }
}

fn refuse(body: &RefuseBody) -> Result<Mismatch, MessageError> {
    body::unused(KIND_REFUSE, &body.reserved)?;
    Ok(Mismatch {
        field: body::field(KIND_REFUSE, "field", body.field, IdentityField::from_code)?,
        ours: body.ours.get(),
        theirs: body.theirs.get(),
    })
}

impl From<&EpochStart<'_>> for EpochStartBody {
    fn from(start: &EpochStart<'_>) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            epoch: U64::new(start.epoch),
            prev_digest: U64::new(start.prev_digest),
            monotonic_ns: U64::new(start.clocks.monotonic_ns),
            realtime_ns: U64::new(start.clocks.realtime_ns),
            released_through: U64::new(start.released_through),
            sent_ns: U64::new(start.sent_ns),
        }
    }
}

fn epoch_start<'a>(body: &EpochStartBody, events: &'a [u8]) -> EpochStart<'a> {
    EpochStart {
        epoch: body.epoch.get(),
        prev_digest: body.prev_digest.get(),
        clocks: Clocks { monotonic_ns: body.monotonic_ns.get(), realtime_ns: body.realtime_ns.get() },
        released_through: body.released_through.get(),
        sent_ns: body.sent_ns.get(),
        events,
    }
}

impl From<&Ack> for AckBody {
    fn from(ack: &Ack) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            received_through: U64::new(ack.received_through),
            executed_through: U64::new(ack.executed_through),
            disks_done_below: U64::new(ack.disks_done_below),
            echo_ns: U64::new(ack.echo_ns),
        }
    }
}

fn ack(body: &AckBody) -> Ack {
    Ack {
        received_through: body.received_through.get(),
        executed_through: body.executed_through.get(),
        disks_done_below: body.disks_done_below.get(),
        echo_ns: body.echo_ns.get(),
    }
}

impl From<&Heartbeat> for HeartbeatBody {
    fn from(heartbeat: &Heartbeat) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            ended_epoch: U64::new(heartbeat.ended_epoch),
            ended_digest: U64::new(heartbeat.ended_digest),
            released_through: U64::new(heartbeat.released_through),
            sent_ns: U64::new(heartbeat.sent_ns),
        }
    }
}

fn heartbeat(body: &HeartbeatBody) -> Heartbeat {
    Heartbeat {
        ended_epoch: body.ended_epoch.get(),
        ended_digest: body.ended_digest.get(),
        released_through: body.released_through.get(),
        sent_ns: body.sent_ns.get(),
    }
}

impl From<&Divergence> for DivergedBody {
    fn from(divergence: &Divergence) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            epoch: U64::new(divergence.epoch),
            ours: U64::new(divergence.ours),
            theirs: U64::new(divergence.theirs),
        }
    }
}

fn diverged(body: &DivergedBody) -> Divergence {
    Divergence { epoch: body.epoch.get(), ours: body.ours.get(), theirs: body.theirs.get() }
}

impl From<&Goodbye> for GoodbyeBody {
    fn from(goodbye: &Goodbye) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            generation: U64::new(goodbye.generation),
            reason: goodbye.reason.code(),
            reserved: [0; 7],
        }
    }
}

fn goodbye(body: &GoodbyeBody) -> Result<Goodbye, MessageError> {
    body::unused(KIND_GOODBYE, &body.reserved)?;
    Ok(Goodbye {
        reason: body::field(KIND_GOODBYE, "reason", body.reason, GoodbyeReason::from_code)?,
        generation: body.generation.get(),
    })
}

#[cfg(test)]
mod tests;
