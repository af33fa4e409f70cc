//! Hashes.

use super::context::Ctx;
use super::error::{Error, OVERFLOW, SYNTAX};
use super::float;
use crate::base::{DecimalBuf, parse_f64, parse_i64, same_ignoring_case, write_i64};
use crate::store::{Field, Hash};

fn set_fields(ctx: &mut Ctx<'_>) -> Result<usize, Error> {
    let (now_ms, key, pairs) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    if !pairs.len().is_multiple_of(2) {
        return Err(Error::Arity);
    }
    let change = |hash: &mut Hash| {
        let indices = (0..pairs.len()).step_by(2);
        indices.filter(|&at| hash.set(pairs.at(at), pairs.at(at + 1))).count()
    };
    let added = ctx.db().update(now_ms, key, true, change)?.unwrap_or(0);
    ctx.modified(key);
    Ok(added)
}

/// `HSET key field value [field value ...]`
pub fn hset(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let added = set_fields(ctx)?;
    ctx.out.count(added);
    Ok(())
}

/// `HMSET key field value [field value ...]`
pub fn hmset(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    set_fields(ctx)?;
    ctx.out.ok();
    Ok(())
}

/// `HSETNX key field value`
pub fn hsetnx(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, name, value) = (ctx.now_ms, ctx.key(), ctx.args.at(2), ctx.args.at(3));
    let change = |hash: &mut Hash| hash.get(name).is_none() && hash.set(name, value);
    let added = ctx.db().update(now_ms, key, true, change)?.unwrap_or(false);
    if added {
        ctx.modified(key);
    }
    ctx.out.integer(i64::from(added));
    Ok(())
}

/// `HGET key field`
pub fn hget(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, name) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let (db, out) = ctx.parts();
    match db.read::<Hash>(now_ms, key)?.and_then(|hash| hash.get(name)) {
        Some(value) => out.bulk(value),
        None => out.null(),
    }
    Ok(())
}

/// `HMGET key field [field ...]`
pub fn hmget(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, names) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let (db, out) = ctx.parts();
    let hash = db.read::<Hash>(now_ms, key)?;
    out.array(names.len());
    for name in names.iter() {
        match hash.and_then(|hash| hash.get(name)) {
            Some(value) => out.bulk(value),
            None => out.null(),
        }
        if out.overflowed() {
            break;
        }
    }
    Ok(())
}

fn all(ctx: &mut Ctx<'_>, names: bool, values: bool) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (db, out) = ctx.parts();
    let Some(hash) = db.read::<Hash>(now_ms, key)? else {
        out.array(0);
        return Ok(());
    };
    out.array(hash.len() * (usize::from(names) + usize::from(values)));
    for field in hash.iter() {
        if names {
            out.bulk(field.name());
        }
        if values {
            out.bulk(field.value());
        }
    }
    Ok(())
}

/// `HGETALL key`
pub fn hgetall(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    all(ctx, true, true)
}

/// `HKEYS key`
pub fn hkeys(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    all(ctx, true, false)
}

/// `HVALS key`
pub fn hvals(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    all(ctx, false, true)
}

/// `HDEL key field [field ...]`
pub fn hdel(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, names) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let change = |hash: &mut Hash| names.iter().filter(|name| hash.remove(name)).count();
    let removed = ctx.db().update(now_ms, key, false, change)?.unwrap_or(0);
    if removed > 0 {
        ctx.modified(key);
    }
    ctx.out.count(removed);
    Ok(())
}

/// `HEXISTS key field`
pub fn hexists(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, name) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let found = ctx.db().read::<Hash>(now_ms, key)?.is_some_and(|hash| hash.get(name).is_some());
    ctx.out.integer(i64::from(found));
    Ok(())
}

/// `HLEN key`
pub fn hlen(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let len = ctx.db().read::<Hash>(now_ms, key)?.map_or(0, Hash::len);
    ctx.out.count(len);
    Ok(())
}

/// `HSTRLEN key field`
pub fn hstrlen(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, name) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let len = ctx.db().read::<Hash>(now_ms, key)?.and_then(|hash| hash.get(name)).map_or(0, <[u8]>::len);
    ctx.out.count(len);
    Ok(())
}

/// `HINCRBY key field increment`
pub fn hincrby(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, name) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let delta = ctx.integer(3)?;
    let change = |hash: &mut Hash| {
        let old = match hash.get(name) {
            Some(text) => parse_i64(text).ok_or(Error::Text("ERR hash value is not an integer"))?,
            None => 0,
        };
        let new = old.checked_add(delta).ok_or(OVERFLOW)?;
        hash.set(name, write_i64(new, &mut [0; 20]));
        Ok::<_, Error>(new)
    };
    let new = ctx.db().update(now_ms, key, true, change)?.unwrap_or(Ok(0))?;
    ctx.modified(key);
    ctx.out.integer(new);
    Ok(())
}

/// `HINCRBYFLOAT key field increment`
pub fn hincrbyfloat(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, name, by) = (ctx.now_ms, ctx.key(), ctx.args.at(2), ctx.args.at(3));
    let increment = ctx.float(3)?;
    if increment.is_infinite() {
        return Err(Error::Text("ERR value is NaN or Infinity"));
    }
    debug_assert!(parse_f64(by).is_some());
    let mut sum = DecimalBuf::new();
    let change = |hash: &mut Hash| {
        let old = hash.get(name).unwrap_or(b"0");
        float::add(old, Error::Text("ERR hash value is not a float"), by, &mut sum)?;
        hash.set(name, sum.as_slice());
        Ok::<_, Error>(())
    };
    ctx.db().update(now_ms, key, true, change)?.unwrap_or(Ok(()))?;
    ctx.modified(key);
    ctx.out.bulk(sum.as_slice());
    Ok(())
}

/// `HRANDFIELD key [count [WITHVALUES]]`
pub fn hrandfield(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let choice = match ctx.args.len() {
        2 => None,
        3 => Some(super::sets::random_count(ctx, false)?),
        4 if same_ignoring_case(ctx.args.at(3), "withvalues") => Some(super::sets::random_count(ctx, true)?),
        _ => return Err(SYNTAX),
    };
    let with_values = ctx.args.len() == 4;
    let Ctx { server, peer, out, .. } = ctx;
    let (db, rng) = server.db_and_rng(peer.db);
    match (db.read::<Hash>(now_ms, key)?, choice) {
        (None, None) => out.null(),
        (None, Some(_)) => out.array(0),
        (Some(hash), None) => out.bulk(hash.at(rng.below(hash.len())).map_or(&[], Field::name)),
        (Some(hash), Some(choice)) => {
            out.array(choice.len(hash.len()).saturating_mul(1 + usize::from(with_values)));
            choice.each(hash.len(), rng, |index| {
                let Some(field) = hash.at(index) else { return false };
                out.bulk(field.name());
                if with_values {
                    out.bulk(field.value());
                }
                !out.overflowed()
            });
        }
    }
    Ok(())
}
