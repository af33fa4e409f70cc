//! Commands about the connection itself.

use super::context::{Ctx, ReplyMode};
use super::error::{Error, NOT_INTEGER};
use super::info::VERSION;
use super::transactions;
use crate::base::{parse_i64, same_ignoring_case};
use crate::server::DATABASES;

/// `PING [message]`
pub fn ping(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    match ctx.args.len() {
        1 => ctx.out.raw(b"+PONG\r\n"),
        2 => ctx.out.bulk(ctx.args.at(1)),
        _ => return Err(Error::Arity),
    }
    Ok(())
}

/// `ECHO message`
pub fn echo(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    ctx.out.bulk(ctx.args.at(1));
    Ok(())
}

/// Reads the number of a database.
pub fn database(ctx: &Ctx<'_>, index: usize, not_integer: Error) -> Result<usize, Error> {
    let db = parse_i64(ctx.args.at(index)).ok_or(not_integer)?;
    usize::try_from(db).ok().filter(|&db| db < DATABASES).ok_or(Error::Text("ERR DB index is out of range"))
}

/// `SELECT index`
pub fn select(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    ctx.peer.db = database(ctx, 1, NOT_INTEGER)?;
    ctx.out.ok();
    Ok(())
}

/// `QUIT`
pub fn quit(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    ctx.out.ok();
    ctx.peer.closing = true;
    Ok(())
}

/// `AUTH [username] password`; there are no passwords here.
pub fn auth(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    match ctx.args.len() {
        2 => Err(Error::Text(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?",
        )),
        3 if ctx.args.at(1) == b"default" => {
            ctx.out.ok();
            Ok(())
        }
        3 => Err(Error::Text("WRONGPASS invalid username-password pair or user is disabled.")),
        _ => Err(super::error::SYNTAX),
    }
}

const NO_PROTOCOL: Error = Error::Text("NOPROTO unsupported protocol version");

/// `HELLO [2 [AUTH username password] [SETNAME name]]`
pub fn hello(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let mut wanted = 2;
    if ctx.args.len() > 1 {
        let version =
            parse_i64(ctx.args.at(1)).ok_or(Error::Text("ERR Protocol version is not an integer or out of range"))?;
        if !(2..=3).contains(&version) {
            return Err(NO_PROTOCOL);
        }
        // Version 3 is known but not spoken; its options are still checked first.
        wanted = version;
    }
    let mut at = 2;
    let mut name = None;
    while at < ctx.args.len() {
        let left = ctx.args.len() - at - 1;
        if same_ignoring_case(ctx.args.at(at), "auth") && left >= 2 {
            if ctx.args.at(at + 1) != b"default" {
                return Err(Error::Text("WRONGPASS invalid username-password pair or user is disabled."));
            }
            at += 3;
        } else if same_ignoring_case(ctx.args.at(at), "setname") && left >= 1 {
            name = Some(ctx.args.at(at + 1));
            at += 2;
        } else {
            ctx.out.error(&[b"ERR Syntax error in HELLO option '", ctx.args.at(at), b"'"]);
            return Ok(());
        }
    }
    if wanted != 2 {
        return Err(NO_PROTOCOL);
    }
    if let Some(name) = name {
        super::client::set_name(ctx, name)?;
    }
    let id = ctx.peer.id as i64;
    let out = &mut *ctx.out;
    out.array(14);
    for (field, value) in [("server", "redis"), ("version", VERSION)] {
        out.bulk(field.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"proto");
    out.integer(2);
    out.bulk(b"id");
    out.integer(id);
    for (field, value) in [("mode", "standalone"), ("role", "master")] {
        out.bulk(field.as_bytes());
        out.bulk(value.as_bytes());
    }
    out.bulk(b"modules");
    out.array(0);
    Ok(())
}

/// `RESET`
pub fn reset(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    ctx.peer.multi = None;
    transactions::end_watches(ctx.server, ctx.peer);
    ctx.peer.db = 0;
    ctx.peer.reply = ReplyMode::On;
    super::client::set_name(ctx, b"")?;
    ctx.out.raw(b"+RESET\r\n");
    Ok(())
}
