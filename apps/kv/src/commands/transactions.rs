//! MULTI, EXEC, DISCARD, WATCH, UNWATCH.

use super::context::{Ctx, Multi, Peer, Queued};
use super::error::{Error, OUT_OF_MEMORY};
use super::run::call;
use super::table::Command;
use crate::resp::{Args, Span};
use crate::server::Server;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Keeps a command for EXEC.
pub fn queue(ctx: &mut Ctx<'_>, command: &'static Command) {
    if command.is_write() && ctx.server.journal.failure().is_some() {
        return super::persistence::refuse(ctx, command);
    }
    let Ctx { server, peer, args, out, .. } = ctx;
    let Some(multi) = &mut peer.multi else { return };
    let args_bytes: usize = args.iter().map(<[u8]>::len).sum();
    let bytes = args_bytes + args.len() * size_of::<Span>() + size_of::<Queued>();
    if multi.queued_bytes + bytes > server.config.client_bytes {
        multi.broken = true;
        OUT_OF_MEMORY.write(out, command.name, b"");
        return;
    }
    let mut queued = Queued { command, bytes: Vec::with_capacity(args_bytes), spans: Vec::with_capacity(args.len()) };
    for arg in args.iter() {
        let start = queued.bytes.len() as u32;
        queued.bytes.extend_from_slice(arg);
        queued.spans.push(Span { start, end: queued.bytes.len() as u32 });
    }
    multi.queued_bytes += bytes;
    multi.deny_oom |= command.denies_oom();
    multi.writes |= command.is_write();
    multi.queue.push(queued);
    out.raw(b"+QUEUED\r\n");
}

/// Makes the EXEC of an open transaction fail.
pub fn break_open(peer: &mut Peer) {
    if let Some(multi) = &mut peer.multi {
        multi.broken = true;
    }
}

/// `MULTI`
pub fn multi(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    if ctx.peer.multi.is_some() {
        return Err(Error::Text("ERR MULTI calls can not be nested"));
    }
    ctx.peer.multi = Some(Box::new(Multi::default()));
    ctx.out.ok();
    Ok(())
}

/// `DISCARD`
pub fn discard(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    if ctx.peer.multi.take().is_none() {
        return Err(Error::Text("ERR DISCARD without MULTI"));
    }
    end_watches(ctx.server, ctx.peer);
    ctx.out.ok();
    Ok(())
}

/// `EXEC`
pub fn exec(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let multi = ctx.peer.multi.take().ok_or(Error::Text("ERR EXEC without MULTI"))?;
    let touched = any_touched(ctx);
    end_watches(ctx.server, ctx.peer);
    if multi.broken {
        return Err(Error::Text("EXECABORT Transaction discarded because of previous errors."));
    }
    if touched {
        ctx.out.null_array();
        return Ok(());
    }
    if multi.deny_oom && ctx.server.is_out_of_memory() {
        return Err(Error::Text(
            "EXECABORT Transaction discarded because of: OOM command not allowed when used memory > 'maxmemory'.",
        ));
    }
    if multi.writes
        && let Some(failure) = ctx.server.journal.failure()
    {
        super::persistence::refuse_exec(ctx, failure);
        return Ok(());
    }
    ctx.out.array(multi.queue.len());
    ctx.peer.in_exec = true;
    for queued in &multi.queue {
        let args = Args::new(&queued.bytes, &queued.spans);
        let now_ms = ctx.now_ms;
        call(&mut Ctx { server: ctx.server, peer: ctx.peer, args, out: ctx.out, now_ms }, queued.command);
    }
    ctx.peer.in_exec = false;
    Ok(())
}

/// Whether a watched key changed; looking it up first makes one that has expired since count as changed.
fn any_touched(ctx: &mut Ctx<'_>) -> bool {
    let mut touched = false;
    for (db, key) in &ctx.peer.watched {
        let db = ctx.server.db(*db);
        db.find(ctx.now_ms, key);
        touched |= db.watches.is_touched(ctx.peer.id);
    }
    touched
}

/// `WATCH key [key ...]`
pub fn watch(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    if ctx.peer.multi.is_some() {
        return Err(Error::Text("ERR WATCH inside MULTI is not allowed"));
    }
    let (id, db) = (ctx.peer.id, ctx.peer.db);
    for key in ctx.args.from(1).iter() {
        // What has expired before the watch began is no change.
        ctx.server.db(db).find(ctx.now_ms, key);
        if ctx.server.db(db).watches.add(key, id) {
            ctx.peer.watched.push((db, key.into()));
        }
    }
    ctx.out.ok();
    Ok(())
}

/// `UNWATCH`
pub fn unwatch(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    end_watches(ctx.server, ctx.peer);
    ctx.out.ok();
    Ok(())
}

/// Ends all watches of a connection.
pub fn end_watches(server: &mut Server, peer: &mut Peer) {
    for (db, key) in core::mem::take(&mut peer.watched) {
        server.db(db).watches.remove(&key, peer.id);
    }
}
