//! Commands on keys of any type.

use super::connection::database;
use super::context::Ctx;
use super::error::{Error, NO_SUCH_KEY, NOT_INTEGER, SYNTAX};
use super::subcommands;
use crate::base::{glob_match, same_ignoring_case};
use crate::server::DATABASES;
use crate::store::Value;

/// `DEL key [key ...]` and `UNLINK key [key ...]`
pub fn del(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let now_ms = ctx.now_ms;
    let mut removed = 0;
    for key in ctx.args.from(1).iter() {
        if ctx.db().remove_key(now_ms, key).is_some() {
            ctx.modified(key);
            removed += 1;
        }
    }
    ctx.out.count(removed);
    Ok(())
}

/// `EXISTS key [key ...]` and `TOUCH key [key ...]`
pub fn exists(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, keys) = (ctx.now_ms, ctx.args.from(1));
    let found = keys.iter().filter(|key| ctx.db().find(now_ms, key).is_some()).count();
    ctx.out.count(found);
    Ok(())
}

/// `TYPE key`
pub fn type_of(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (db, out) = ctx.parts();
    out.simple(db.get(now_ms, key).map_or("none", Value::type_name));
    Ok(())
}

/// `KEYS pattern`
pub fn keys(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, pattern) = (ctx.now_ms, ctx.args.at(1));
    let (db, out) = ctx.parts();
    let mark = out.mark();
    let mut count = 0;
    for record in db.iter().filter(|record| record.expire_at_ms() >= now_ms) {
        if glob_match(pattern, record.key()) {
            out.bulk(record.key());
            count += 1;
        }
    }
    out.insert_array(mark, count);
    Ok(())
}

/// `DBSIZE`
pub fn dbsize(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let len = ctx.db().len();
    ctx.out.count(len);
    Ok(())
}

/// `RANDOMKEY`
pub fn randomkey(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let now_ms = ctx.now_ms;
    loop {
        let len = ctx.db().len();
        let index = ctx.server.rng.below(len);
        let (db, out) = ctx.parts();
        match db.at(index) {
            None => out.null(),
            Some(record) if record.expire_at_ms() < now_ms => {
                db.remove_expired(now_ms, index);
                continue;
            }
            Some(record) => out.bulk(record.key()),
        }
        return Ok(());
    }
}

fn rename_to(ctx: &mut Ctx<'_>, only_new: bool) -> Result<(), Error> {
    let (now_ms, from, to) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let db = ctx.db();
    let at = db.find(now_ms, from).ok_or(NO_SUCH_KEY)?;
    let renamed = from != to && !(only_new && db.find(now_ms, to).is_some());
    if renamed {
        // The second lookup may have removed an expired key and moved this one.
        let at = if only_new { db.find(now_ms, from).unwrap_or(at) } else { at };
        if let Some(record) = db.remove(at) {
            let expire_at_ms = record.expire_at_ms();
            db.put(now_ms, to, record.into_value(), expire_at_ms);
        }
        ctx.modified(from);
        ctx.modified(to);
    }
    match only_new {
        true => ctx.out.integer(i64::from(renamed)),
        false => ctx.out.ok(),
    }
    Ok(())
}

/// `RENAME key newkey`
pub fn rename(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    rename_to(ctx, false)
}

/// `RENAMENX key newkey`
pub fn renamenx(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    rename_to(ctx, true)
}

/// `COPY source destination [DB index] [REPLACE]`
pub fn copy(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, from, to) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let (mut target, mut replace, mut at) = (ctx.peer.db, false, 3);
    while at < ctx.args.len() {
        if same_ignoring_case(ctx.args.at(at), "replace") {
            replace = true;
        } else if same_ignoring_case(ctx.args.at(at), "db") && at + 1 < ctx.args.len() {
            at += 1;
            target = database(ctx, at, NOT_INTEGER)?;
        } else {
            return Err(SYNTAX);
        }
        at += 1;
    }
    if target == ctx.peer.db && from == to {
        return Err(Error::Text("ERR source and destination objects are the same"));
    }
    let blocked = ctx.server.db(target).find(now_ms, to).is_some() && !replace;
    let db = ctx.db();
    let source = db.find(now_ms, from).and_then(|at| db.record(at)).filter(|_| !blocked);
    let size_bytes = source.map_or(0, |record| record.value().heap_bytes());
    ctx.ensure_room(size_bytes)?;
    let db = ctx.db();
    let source = db.find(now_ms, from).and_then(|at| db.record(at)).filter(|_| !blocked);
    let copied = source.map(|record| (record.value().duplicate(), record.expire_at_ms()));
    ctx.out.integer(i64::from(copied.is_some()));
    if let Some((value, expire_at_ms)) = copied {
        ctx.server.db(target).put(now_ms, to, value, expire_at_ms);
        ctx.server.modified(target, to);
    }
    Ok(())
}

/// `MOVE key db`
pub fn move_key(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let target = database(ctx, 2, NOT_INTEGER)?;
    if target == ctx.peer.db {
        return Err(Error::Text("ERR source and destination objects are the same"));
    }
    let free = ctx.server.db(target).find(now_ms, key).is_none();
    let moved = if free { ctx.db().remove_key(now_ms, key) } else { None };
    ctx.out.integer(i64::from(moved.is_some()));
    if let Some(record) = moved {
        let expire_at_ms = record.expire_at_ms();
        ctx.server.db(target).put(now_ms, key, record.into_value(), expire_at_ms);
        ctx.modified(key);
        ctx.server.modified(target, key);
    }
    Ok(())
}

/// `SWAPDB index1 index2`
pub fn swapdb(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let first = database(ctx, 1, Error::Text("ERR invalid first DB index"))?;
    let second = database(ctx, 2, Error::Text("ERR invalid second DB index"))?;
    ctx.server.swap_dbs(first, second);
    ctx.server.stats.changes += 1;
    ctx.out.ok();
    Ok(())
}

/// Accepts the ASYNC or SYNC of a flush; all flushes are at once.
fn flush_mode(ctx: &Ctx<'_>) -> Result<(), Error> {
    match ctx.args.len() {
        1 => Ok(()),
        2 if ["async", "sync"].iter().any(|mode| same_ignoring_case(ctx.args.at(1), mode)) => Ok(()),
        _ => Err(SYNTAX),
    }
}

/// `FLUSHDB [ASYNC | SYNC]`
pub fn flushdb(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    flush_mode(ctx)?;
    ctx.db().clear();
    ctx.server.stats.changes += 1;
    ctx.out.ok();
    Ok(())
}

/// `FLUSHALL [ASYNC | SYNC]`
pub fn flushall(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    flush_mode(ctx)?;
    (0..DATABASES).for_each(|db| ctx.server.db(db).clear());
    ctx.server.stats.changes += 1;
    ctx.out.ok();
    Ok(())
}

/// `OBJECT ENCODING | REFCOUNT | IDLETIME | FREQ key`, `OBJECT HELP`
pub fn object(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.args.at(2));
    let name = subcommands::resolve(subcommands::OBJECT, ctx.args)?;
    if name == "help" {
        super::introspect::help(ctx, &OBJECT_HELP);
        return Ok(());
    }
    let (db, out) = ctx.parts();
    match (db.get(now_ms, key), name) {
        (None, _) => out.null(),
        (Some(value), "encoding") => out.bulk(value.encoding().as_bytes()),
        (Some(_), "refcount") => out.integer(1),
        // No access times are kept, so every key is as fresh as the question.
        (Some(_), "idletime") => out.integer(0),
        (Some(_), _) => {
            return Err(Error::Text(
                "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                 switching between policies at runtime LRU and LFU data will take some time to adjust.",
            ));
        }
    }
    Ok(())
}

const OBJECT_HELP: [&str; 7] = [
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    Return the kind of internal representation redis would use.",
    "REFCOUNT <key>",
    "    Return 1.",
    "HELP",
    "    Print this help.",
];
