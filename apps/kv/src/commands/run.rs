//! From arguments to reply: lookup, the checks that all commands share, transactions, and the account of memory.

use super::context::{Ctx, Peer, ReplyMode};
use super::error::{Error, OUT_OF_MEMORY, shown};
use super::table::{Command, command_of};
use super::{persistence, transactions};
use crate::base::same_ignoring_case;
use crate::resp::{Args, Output};
use crate::server::Server;

/// Runs one command and writes its reply.
pub fn execute(server: &mut Server, peer: &mut Peer, args: Args<'_>, out: &mut Output, now_ms: i64) {
    let mark = out.mark();
    let command = dispatch(&mut Ctx { server, peer, args, out, now_ms });
    if out.overflowed() {
        cut_reply(peer, command, out, mark);
    }
    if peer.reply != ReplyMode::On {
        // Nobody would hear the result.
        peer.work = None;
    }
    match peer.reply {
        ReplyMode::On => {}
        ReplyMode::Off => out.rewind(mark),
        ReplyMode::SkipThis => {
            out.rewind(mark);
            peer.reply = ReplyMode::On;
        }
        ReplyMode::SkipNext => {
            out.rewind(mark);
            peer.reply = ReplyMode::SkipThis;
        }
    }
}

/// Replaces a reply that passed the hard limit. The effect of a write stands although its reply is lost, which a client
/// has to treat as an unknown outcome: so the connection ends, as redis ends it at its output limit.
fn cut_reply(peer: &mut Peer, command: Option<&Command>, out: &mut Output, mark: usize) {
    out.rewind(mark);
    out.clear_overflow();
    out.error(&[b"ERR reply is larger than the output limit of this server"]);
    peer.closing |= command.is_none_or(|command| command.is_write() || command.is_immediate());
}

#[inline]
fn dispatch(ctx: &mut Ctx<'_>) -> Option<&'static Command> {
    let Some(command) = command_of(ctx.args) else {
        unknown(ctx);
        return None;
    };
    if !command.takes(ctx.args.len()) {
        reject(ctx, command, Error::Arity);
    } else if let Err(error) = command.check_subcommand(ctx.args) {
        reject(ctx, command, error);
    } else if command.denies_oom() && ctx.server.is_out_of_memory() {
        reject(ctx, command, OUT_OF_MEMORY);
    } else if ctx.peer.multi.is_some() && !command.is_immediate() {
        transactions::queue(ctx, command);
    } else {
        call(ctx, command);
    }
    Some(command)
}

/// Refuses a command before it runs; an open transaction is broken by it.
fn reject(ctx: &mut Ctx<'_>, command: &Command, error: Error) {
    transactions::break_open(ctx.peer);
    error.write(ctx.out, command.name, ctx.args.at(1));
    ctx.server.stats.errors += 1;
}

/// Runs the handler and keeps the account of memory; with persistence, keeps the command's effect too.
#[inline]
pub fn call(ctx: &mut Ctx<'_>, command: &'static Command) {
    // All that persistence costs where there is none.
    if ctx.server.journal.is_on() { call_and_note(ctx, command) } else { run(ctx, command) }
}

#[inline(never)]
fn call_and_note(ctx: &mut Ctx<'_>, command: &'static Command) {
    if command.is_write() && !ctx.peer.in_exec && ctx.server.journal.failure().is_some() {
        return persistence::refuse(ctx, command);
    }
    let (db, changes) = (ctx.peer.db, ctx.server.stats.changes);
    run(ctx, command);
    let changed = command.is_write() && ctx.server.stats.changes != changes;
    crate::persist::note(ctx, command, db, changed);
}

#[inline(always)]
fn run(ctx: &mut Ctx<'_>, command: &'static Command) {
    let db = ctx.peer.db;
    ctx.peer.last_command = command.name;
    if let Err(error) = (command.handler)(ctx) {
        error.write(ctx.out, command.name, ctx.args.at(1));
        ctx.server.stats.errors += 1;
    }
    ctx.server.stats.commands += 1;
    if command.is_global() { ctx.server.recount() } else { ctx.server.account(db) }
}

fn unknown(ctx: &mut Ctx<'_>) {
    let name = ctx.args.at(0);
    transactions::break_open(ctx.peer);
    ctx.server.stats.errors += 1;
    // A browser that was tricked into talking to this port; redis hangs up too, without a word.
    if same_ignoring_case(name, "post") || same_ignoring_case(name, "host:") {
        ctx.peer.closing = true;
        return;
    }
    let mut beginning = [0u8; 256];
    let mut len = 0;
    for arg in ctx.args.from(1).iter() {
        if len >= 128 {
            break;
        }
        let arg = shown(arg, 128 - len);
        for &byte in b"'".iter().chain(arg).chain(b"' ") {
            if let Some(place) = beginning.get_mut(len) {
                *place = byte;
                len += 1;
            }
        }
    }
    let name = shown(name, 128);
    let beginning = beginning.get(..len).unwrap_or(&[]);
    ctx.out.error(&[b"ERR unknown command '", name, b"', with args beginning with: ", beginning]);
}
