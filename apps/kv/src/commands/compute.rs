//! `DEBUG COMPUTE rounds | CHECKPOINT | RESTORE`: what takes long, and is done while the store answers others.

use super::context::Ctx;
use super::error::{Error, NOT_INTEGER};

/// Something that a connection has asked for and waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Computes so many rounds, to see whether the store answers meanwhile.
    Compute(u64),
    /// Saves all databases by the user-level checkpoints of the runtime.
    Checkpoint,
    /// Goes back to what was saved.
    Restore,
}

impl Work {
    /// Stack that a computation needs, in bytes.
    pub const STACK_BYTES: usize = 32 * 1024;

    /// Computes. Takes a few instructions a round and touches nothing; an xorshift generator, so that every round needs the
    /// one before.
    pub fn rounds(rounds: u64) -> u64 {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..rounds {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        state
    }
}

/// Notes what is to be done; the reply follows when it is.
pub fn work(ctx: &mut Ctx<'_>, what: Option<Work>) -> Result<(), Error> {
    if !ctx.server.config.debug {
        return Err(Error::Text(
            "ERR DEBUG COMPUTE, CHECKPOINT and RESTORE not allowed: start the store with debug=yes",
        ));
    }
    if ctx.peer.in_exec {
        return Err(Error::Text("ERR DEBUG COMPUTE, CHECKPOINT and RESTORE are not allowed in transactions"));
    }
    let rounds = |ctx: &mut Ctx<'_>| u64::try_from(ctx.integer(2)?).map_err(|_| NOT_INTEGER);
    ctx.peer.work = Some(match what {
        Some(work) => work,
        None => Work::Compute(rounds(ctx)?),
    });
    Ok(())
}
