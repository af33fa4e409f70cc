//! String commands on one key.

use super::context::Ctx;
use super::error::{Error, NOT_INTEGER, OVERFLOW, STRING_TOO_LONG, SYNTAX};
use super::expire::{Unit, deadline};
use super::float;
use crate::base::{DecimalBuf, parse_i64, same_ignoring_case};
use crate::store::{NEVER_MS, Str, Value};

/// `GET key`
pub fn get(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (db, out) = ctx.parts();
    match db.read::<Str>(now_ms, key)? {
        Some(value) => out.bulk(value.text(&mut [0; 20])),
        None => out.null(),
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Always,
    IfAbsent,
    IfPresent,
}

struct SetOptions {
    condition: Condition,
    get: bool,
    keep_ttl: bool,
    expire_at_ms: i64,
}

fn set_options(ctx: &Ctx<'_>) -> Result<SetOptions, Error> {
    let mut options = SetOptions { condition: Condition::Always, get: false, keep_ttl: false, expire_at_ms: NEVER_MS };
    let mut expiry: Option<(Unit, usize)> = None;
    let mut at = 3;
    while at < ctx.args.len() {
        let word = ctx.args.at(at);
        let condition = match () {
            () if same_ignoring_case(word, "nx") => Some(Condition::IfAbsent),
            () if same_ignoring_case(word, "xx") => Some(Condition::IfPresent),
            () => None,
        };
        if let Some(condition) = condition {
            if options.condition != Condition::Always && options.condition != condition {
                return Err(SYNTAX);
            }
            options.condition = condition;
        } else if same_ignoring_case(word, "get") {
            options.get = true;
        } else if same_ignoring_case(word, "keepttl") && expiry.is_none() {
            options.keep_ttl = true;
        } else if let Some(unit) = Unit::of_option(word)
            && expiry.is_none()
            && !options.keep_ttl
            && at + 1 < ctx.args.len()
        {
            at += 1;
            expiry = Some((unit, at));
        } else {
            return Err(SYNTAX);
        }
        at += 1;
    }
    if let Some((unit, at)) = expiry {
        options.expire_at_ms = positive_deadline(ctx, at, unit)?;
    }
    Ok(options)
}

/// A deadline from an argument that must be positive.
fn positive_deadline(ctx: &Ctx<'_>, at: usize, unit: Unit) -> Result<i64, Error> {
    let amount = ctx.integer(at)?;
    if amount <= 0 { Err(Error::InvalidExpire) } else { deadline(amount, unit, ctx.now_ms) }
}

/// `SET key value [NX | XX] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub fn set(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    if ctx.args.len() == 3 {
        let value = ctx.args.at(2);
        ctx.db().set_string(now_ms, key, value);
        ctx.modified(key);
        ctx.out.ok();
        return Ok(());
    }
    let options = set_options(ctx)?;
    let value = ctx.args.at(2);
    let (db, out) = ctx.parts();
    let found = db.find(now_ms, key);
    let mark = out.mark();
    if options.get {
        match db.read::<Str>(now_ms, key)? {
            Some(old) => out.bulk(old.text(&mut [0; 20])),
            None => out.null(),
        }
    }
    let blocked = match options.condition {
        Condition::Always => false,
        Condition::IfAbsent => found.is_some(),
        Condition::IfPresent => found.is_none(),
    };
    if blocked {
        if !options.get {
            out.rewind(mark);
            out.null();
        }
        return Ok(());
    }
    let kept_ms = found.and_then(|at| db.record(at)).filter(|_| options.keep_ttl).map(|r| r.expire_at_ms());
    db.put(now_ms, key, Value::Str(Str::new(value)), kept_ms.unwrap_or(options.expire_at_ms));
    if !options.get {
        out.ok();
    }
    ctx.modified(key);
    Ok(())
}

/// `SETNX key value`
pub fn setnx(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, value) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let absent = ctx.db().find(now_ms, key).is_none();
    if absent {
        ctx.db().set_string(now_ms, key, value);
        ctx.modified(key);
    }
    ctx.out.integer(i64::from(absent));
    Ok(())
}

fn set_for(ctx: &mut Ctx<'_>, unit: Unit) -> Result<(), Error> {
    let (now_ms, key, value) = (ctx.now_ms, ctx.key(), ctx.args.at(3));
    let expire_at_ms = positive_deadline(ctx, 2, unit)?;
    ctx.db().put(now_ms, key, Value::Str(Str::new(value)), expire_at_ms);
    ctx.modified(key);
    ctx.out.ok();
    Ok(())
}

/// `SETEX key seconds value`
pub fn setex(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    set_for(ctx, Unit::Seconds)
}

/// `PSETEX key milliseconds value`
pub fn psetex(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    set_for(ctx, Unit::Millis)
}

/// `GETSET key value`
pub fn getset(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    get(ctx)?;
    let (now_ms, key, value) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    ctx.db().set_string(now_ms, key, value);
    ctx.modified(key);
    Ok(())
}

/// `GETDEL key`
pub fn getdel(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    get(ctx)?;
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    if ctx.db().remove_key(now_ms, key).is_some() {
        ctx.modified(key);
    }
    Ok(())
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub fn getex(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let expiry = match ctx.args.len() {
        2 => None,
        3 if same_ignoring_case(ctx.args.at(2), "persist") => Some(None),
        4 => Some(Some(Unit::of_option(ctx.args.at(2)).ok_or(SYNTAX)?)),
        _ => return Err(SYNTAX),
    };
    let Some(at) = ctx.db().find(now_ms, key) else {
        ctx.out.null();
        return Ok(());
    };
    ctx.db().read::<Str>(now_ms, key)?;
    let expire_at_ms = match expiry {
        Some(Some(unit)) => Some(positive_deadline(ctx, 3, unit)?),
        Some(None) => Some(NEVER_MS),
        None => None,
    };
    get(ctx)?;
    let Some(expire_at_ms) = expire_at_ms else { return Ok(()) };
    if expire_at_ms <= now_ms {
        ctx.db().remove(at);
        ctx.modified(key);
    } else if ctx.db().record(at).is_some_and(|r| r.expire_at_ms() != expire_at_ms) {
        ctx.db().set_expiry(at, expire_at_ms);
        ctx.modified(key);
    }
    Ok(())
}

/// `STRLEN key`
pub fn strlen(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let len = ctx.db().read::<Str>(now_ms, key)?.map_or(0, Str::len);
    ctx.out.count(len);
    Ok(())
}

/// `APPEND key value`
pub fn append(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, more) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let old = ctx.db().read::<Str>(now_ms, key)?.map_or(0, Str::len);
    check_length(ctx, old, old + more.len())?;
    let change = |value: &mut Str| {
        if value.is_empty() {
            value.set(more)
        } else {
            value.append(more)
        }
        value.len()
    };
    let len = ctx.db().update(now_ms, key, true, change)?.unwrap_or(0);
    ctx.modified(key);
    ctx.out.count(len);
    Ok(())
}

/// Fails if a string may not grow from `old_bytes` to `new_bytes`.
pub fn check_length(ctx: &Ctx<'_>, old_bytes: usize, new_bytes: usize) -> Result<(), Error> {
    if new_bytes > ctx.server.config.bulk_bytes {
        return Err(STRING_TOO_LONG);
    }
    ctx.ensure_room(if new_bytes > old_bytes { new_bytes } else { 0 })
}

/// `SETRANGE key offset value`
pub fn setrange(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, patch) = (ctx.now_ms, ctx.key(), ctx.args.at(3));
    let offset = usize::try_from(ctx.integer(2)?).map_err(|_| Error::Text("ERR offset is out of range"))?;
    let old = ctx.db().read::<Str>(now_ms, key)?.map(Str::len);
    if patch.is_empty() {
        ctx.out.count(old.unwrap_or(0));
        return Ok(());
    }
    let end = offset.saturating_add(patch.len());
    check_length(ctx, old.unwrap_or(0), end)?;
    let change = |value: &mut Str| {
        if let Some(place) = value.grown(end).get_mut(offset..end) {
            place.copy_from_slice(patch);
        }
        value.len()
    };
    let len = ctx.db().update(now_ms, key, true, change)?.unwrap_or(0);
    ctx.modified(key);
    ctx.out.count(len);
    Ok(())
}

/// The first index and the count that the bounds of a range of bytes or bits mean. Unlike those of lists, an end before
/// the first one means the first one.
pub fn byte_range(start: i64, end: i64, len: usize) -> Option<(usize, usize)> {
    if start < 0 && end < 0 && start > end {
        return None;
    }
    let end = if end < 0 { end.saturating_add(len as i64).max(0) } else { end };
    super::lists::clamp(start, end, len)
}

/// `GETRANGE key start end`
pub fn getrange(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (start, end) = (ctx.integer(2)?, ctx.integer(3)?);
    let (db, out) = ctx.parts();
    let mut digits = [0; 20];
    let text = db.read::<Str>(now_ms, key)?.map_or(&[][..], |value| value.text(&mut digits));
    let part = byte_range(start, end, text.len());
    out.bulk(part.and_then(|(from, count)| text.get(from..from + count)).unwrap_or(&[]));
    Ok(())
}

fn increment(ctx: &mut Ctx<'_>, delta: i64) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    if let Some(Value::Str(Str::Int(value))) = ctx.db().inline_mut(key) {
        let new = value.checked_add(delta).ok_or(OVERFLOW)?;
        *value = new;
        ctx.modified(key);
        ctx.out.integer(new);
        return Ok(());
    }
    let change = |value: &mut Str| {
        let new = value.integer().ok_or(NOT_INTEGER)?.checked_add(delta).ok_or(OVERFLOW)?;
        *value = Str::Int(new);
        Ok::<_, Error>(new)
    };
    let new = match ctx.db().update(now_ms, key, false, change)? {
        Some(result) => result?,
        None => {
            ctx.db().put(now_ms, key, Value::Str(Str::Int(delta)), NEVER_MS);
            delta
        }
    };
    ctx.modified(key);
    ctx.out.integer(new);
    Ok(())
}

/// `INCR key`
pub fn incr(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    increment(ctx, 1)
}

/// `DECR key`
pub fn decr(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    increment(ctx, -1)
}

/// `INCRBY key increment`
pub fn incrby(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    increment(ctx, ctx.integer(2)?)
}

/// `DECRBY key decrement`
pub fn decrby(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let delta = parse_i64(ctx.args.at(2)).ok_or(NOT_INTEGER)?;
    increment(ctx, delta.checked_neg().ok_or(Error::Text("ERR decrement would overflow"))?)
}

/// `INCRBYFLOAT key increment`
pub fn incrbyfloat(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, by) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let mut sum = DecimalBuf::new();
    let change = |value: &mut Str| {
        float::add(value.text(&mut [0; 20]), super::error::NOT_FLOAT, by, &mut sum)?;
        value.set(sum.as_slice());
        Ok::<_, Error>(())
    };
    match ctx.db().update(now_ms, key, false, change)? {
        Some(result) => result?,
        None => {
            float::add(b"0", super::error::NOT_FLOAT, by, &mut sum)?;
            ctx.db().set_string(now_ms, key, sum.as_slice());
        }
    }
    ctx.modified(key);
    ctx.out.bulk(sum.as_slice());
    Ok(())
}
