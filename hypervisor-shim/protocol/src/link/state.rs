//! The wire format of a guest's state, which travels to a newcomer on the link, and to and from checkpoints on the control
//! channel.

use zerocopy::little_endian::U64;

use super::JoinState;
use crate::Clocks;
use crate::frame::MessageError;
use crate::frame::body::{self, Prefix, bodies};

bodies! {
    pub(crate) StateBody {
        epoch: U64,
        digest: U64,
        monotonic_ns: U64,
        realtime_ns: U64,
        released_through: U64,
    }
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

pub(crate) fn join_state(kind: u16, payload: &[u8]) -> Result<JoinState<'_>, MessageError> {
    let (body, state) = body::with_bulk::<StateBody>(kind, payload)?;
    Ok(JoinState {
        epoch: body.epoch.get(),
        digest: body.digest.get(),
        clocks: Clocks { monotonic_ns: body.monotonic_ns.get(), realtime_ns: body.realtime_ns.get() },
        released_through: body.released_through.get(),
        state,
    })
}
