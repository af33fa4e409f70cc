//! `DEBUG COMPUTE rounds`: a computation that takes long, to see whether the store answers meanwhile.

use super::context::Ctx;
use super::error::{Error, NOT_INTEGER};

/// A computation that a connection has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    rounds: u64,
}

impl Work {
    /// Stack that it needs, in bytes.
    pub const STACK_BYTES: usize = 32 * 1024;

    /// Does it. Takes a few instructions a round and touches nothing; an xorshift generator, so that every round needs the
    /// one before.
    pub fn run(self) -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..self.rounds {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        state
    }
}

/// Notes what is to be computed; the reply follows when it is done.
pub fn compute(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    if !ctx.server.config.debug {
        return Err(Error::Text("ERR DEBUG COMPUTE not allowed: start the store with debug=yes"));
    }
    if ctx.peer.in_exec {
        return Err(Error::Text("ERR DEBUG COMPUTE is not allowed in transactions"));
    }
    let rounds = u64::try_from(ctx.integer(2)?).map_err(|_| NOT_INTEGER)?;
    ctx.peer.work = Some(Work { rounds });
    Ok(())
}
