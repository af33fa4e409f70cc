//! What travels when a guest is copied: pages, state, figures.

use zerocopy::little_endian::U64;

use super::{CopiedBody, CountBody, EmptyBody, LinkSessionBody, StateBody};
use crate::Clocks;
use crate::control::Copied;
use crate::frame::MessageError;
use crate::frame::body::{self, Prefix};
use crate::link::{JoinState, Pages};

pub(super) fn count_body(count: u64) -> CountBody {
    CountBody { prefix: Prefix::of::<CountBody>(), count: U64::new(count) }
}

pub(super) fn count(kind: u16, payload: &[u8]) -> Result<u64, MessageError> {
    body::fixed::<CountBody>(kind, payload).map(|body| body.count.get())
}

pub(super) fn pages(kind: u16, payload: &[u8]) -> Result<Pages<'_>, MessageError> {
    body::with_bulk::<EmptyBody>(kind, payload).map(|(_, records)| Pages { records })
}

impl From<&JoinState<'_>> for StateBody {
    fn from(state: &JoinState<'_>) -> Self {
        Self {
            prefix: Prefix::of::<Self>(),
            epoch: U64::new(state.epoch),
            digest: U64::new(state.digest),
            monotonic_ns: U64::new(state.clocks.monotonic_ns),
            realtime_ns: U64::new(state.clocks.realtime_ns),
            released_through: U64::new(state.released_through),
        }
    }
}

pub(super) fn join_state<'a>(body: &StateBody, state: &'a [u8]) -> JoinState<'a> {
    JoinState {
        epoch: body.epoch.get(),
        digest: body.digest.get(),
        clocks: Clocks { monotonic_ns: body.monotonic_ns.get(), realtime_ns: body.realtime_ns.get() },
        released_through: body.released_through.get(),
        state,
    }
}

pub(super) fn link_session_body(link_session: u64) -> LinkSessionBody {
    LinkSessionBody { prefix: Prefix::of::<LinkSessionBody>(), link_session: U64::new(link_session) }
}

pub(super) fn link_session(kind: u16, payload: &[u8]) -> Result<u64, MessageError> {
    body::fixed::<LinkSessionBody>(kind, payload).map(|body| body.link_session.get())
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
