//! Sets, one at a time.

use super::context::Ctx;
use super::error::{Error, OUT_OF_RANGE};
use super::random::Choice;
use crate::store::Set;

/// `SADD key member [member ...]`
pub fn sadd(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, members) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let change = |set: &mut Set| members.iter().filter(|member| set.insert(member)).count();
    let added = ctx.db().update(now_ms, key, true, change)?.unwrap_or(0);
    if added > 0 {
        ctx.modified(key);
    }
    ctx.out.count(added);
    Ok(())
}

/// `SREM key member [member ...]`
pub fn srem(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, members) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let change = |set: &mut Set| members.iter().filter(|member| set.remove(member)).count();
    let removed = ctx.db().update(now_ms, key, false, change)?.unwrap_or(0);
    if removed > 0 {
        ctx.modified(key);
    }
    ctx.out.count(removed);
    Ok(())
}

/// `SMEMBERS key`
pub fn smembers(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (db, out) = ctx.parts();
    match db.read::<Set>(now_ms, key)? {
        Some(set) => {
            out.array(set.len());
            set.iter().for_each(|member| out.bulk(member));
        }
        None => out.array(0),
    }
    Ok(())
}

/// `SISMEMBER key member`
pub fn sismember(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, member) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let found = ctx.db().read::<Set>(now_ms, key)?.is_some_and(|set| set.contains(member));
    ctx.out.integer(i64::from(found));
    Ok(())
}

/// `SMISMEMBER key member [member ...]`
pub fn smismember(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, members) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let (db, out) = ctx.parts();
    let set = db.read::<Set>(now_ms, key)?;
    out.array(members.len());
    for member in members.iter() {
        out.integer(i64::from(set.is_some_and(|set| set.contains(member))));
    }
    Ok(())
}

/// `SCARD key`
pub fn scard(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let len = ctx.db().read::<Set>(now_ms, key)?.map_or(0, Set::len);
    ctx.out.count(len);
    Ok(())
}

/// `SPOP key [count]`
pub fn spop(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let count = match ctx.args.len() {
        2 => None,
        3 => Some(ctx.positive(2)?),
        _ => return Err(super::error::SYNTAX),
    };
    let Ctx { server, peer, out, .. } = ctx;
    let (db, rng, journal) = server.db_rng_journal(peer.db);
    let change = |set: &mut Set| {
        let wanted = count.unwrap_or(1).min(set.len());
        if count.is_some() {
            out.array(wanted);
        }
        for _ in 0..wanted {
            if let Some(member) = set.remove_at(rng.below(set.len())) {
                out.bulk(member.as_slice());
                journal.removed(member.as_slice());
            }
        }
        wanted
    };
    match db.update(now_ms, key, false, change)? {
        Some(0) => {}
        Some(_) => ctx.modified(key),
        None if count.is_some() => out.array(0),
        None => out.null(),
    }
    Ok(())
}

/// `SRANDMEMBER key [count]`
pub fn srandmember(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let count = match ctx.args.len() {
        2 => None,
        3 => Some(random_count(ctx, false)?),
        _ => return Err(super::error::SYNTAX),
    };
    let Ctx { server, peer, out, .. } = ctx;
    let (db, rng) = server.db_and_rng(peer.db);
    match (db.read::<Set>(now_ms, key)?, count) {
        (None, None) => out.null(),
        (None, Some(_)) => out.array(0),
        (Some(set), None) => out.bulk(set.at(rng.below(set.len())).unwrap_or(&[])),
        (Some(set), Some(choice)) => {
            out.array(choice.len(set.len()));
            choice.each(set.len(), rng, |index| {
                out.bulk(set.at(index).unwrap_or(&[]));
                !out.overflowed()
            });
        }
    }
    Ok(())
}

/// The count argument of a random choice, the second after the command's name; `pairs` if every choice is written with
/// a value.
pub fn random_count(ctx: &Ctx<'_>, pairs: bool) -> Result<Choice, Error> {
    let count = ctx.integer(2)?;
    if count == i64::MIN {
        return Err(Error::Text(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ));
    }
    if pairs && count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
        return Err(OUT_OF_RANGE);
    }
    Ok(Choice::from_count(count))
}

/// `SMOVE source destination member`
pub fn smove(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, from, to, member) = (ctx.now_ms, ctx.key(), ctx.args.at(2), ctx.args.at(3));
    let db = ctx.db();
    let Some(source) = db.read::<Set>(now_ms, from)? else {
        ctx.out.integer(0);
        return Ok(());
    };
    let found = source.contains(member);
    db.read::<Set>(now_ms, to)?;
    if found && from != to {
        db.update(now_ms, from, false, |set: &mut Set| set.remove(member))?;
        db.update(now_ms, to, true, |set: &mut Set| set.insert(member))?;
        ctx.modified(from);
        ctx.modified(to);
    }
    ctx.out.integer(i64::from(found));
    Ok(())
}
