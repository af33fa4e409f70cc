//! BGREWRITEAOF, and what is said when the device fails.

use super::context::Ctx;
use super::error::Error;
use super::table::Command;
use super::transactions;
use crate::persist::Failure;
use alloc::string::ToString;

/// `BGREWRITEAOF`
pub fn bgrewriteaof(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let journal = &mut ctx.server.journal;
    if !journal.is_on() {
        return Err(Error::Text("ERR this server has no append only file; start it with appendonly=yes"));
    }
    if journal.is_rewriting() || journal.rewrite_wanted {
        return Err(Error::Text("ERR Background append only file rewriting already in progress"));
    }
    journal.rewrite_wanted = true;
    ctx.out.simple("Background append only file rewriting started");
    Ok(())
}

/// Refuses a command that writes: it could not be made to last.
#[cold]
pub fn refuse(ctx: &mut Ctx<'_>, command: &Command) {
    debug_assert!(command.is_write());
    transactions::break_open(ctx.peer);
    ctx.server.stats.errors += 1;
    let Some(failure) = ctx.server.journal.failure() else { return };
    ctx.out.error(&[b"MISCONF Errors writing to the AOF file: ", failure.to_string().as_bytes()]);
}

/// Refuses a transaction with such commands in it.
#[cold]
pub fn refuse_exec(ctx: &mut Ctx<'_>, failure: Failure) {
    ctx.server.stats.errors += 1;
    let reason = failure.to_string();
    ctx.out.error(&[
        b"EXECABORT Transaction discarded because of: MISCONF Errors writing to the AOF file: ",
        reason.as_bytes(),
    ]);
}
