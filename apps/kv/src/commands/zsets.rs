//! Sorted sets, member by member.

use super::context::Ctx;
use super::error::{Error, SYNTAX};
use super::sets::random_count;
use crate::base::{parse_f64, same_ignoring_case};
use crate::resp::Args;
use crate::store::{Zset, ordinal};

const NOT_A_NUMBER: Error = Error::Text("ERR resulting score is not a number (NaN)");

#[derive(Default)]
struct AddOptions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    changed: bool,
    increment: bool,
}

fn add_options(args: Args<'_>) -> (AddOptions, usize) {
    let mut options = AddOptions::default();
    let mut at = 2;
    loop {
        let word = args.at(at);
        match () {
            () if same_ignoring_case(word, "nx") => options.nx = true,
            () if same_ignoring_case(word, "xx") => options.xx = true,
            () if same_ignoring_case(word, "gt") => options.gt = true,
            () if same_ignoring_case(word, "lt") => options.lt = true,
            () if same_ignoring_case(word, "ch") => options.changed = true,
            () if same_ignoring_case(word, "incr") => options.increment = true,
            () => return (options, at),
        }
        at += 1;
    }
}

/// What became of one pair of ZADD.
enum Outcome {
    Added(f64),
    Updated(f64),
    Same(f64),
    Refused,
}

impl AddOptions {
    fn apply(&self, zset: &mut Zset, name: &[u8], score: f64) -> Result<Outcome, Error> {
        let Some(old) = zset.score(name) else {
            if self.xx {
                return Ok(Outcome::Refused);
            }
            zset.set(name, score);
            return Ok(Outcome::Added(score));
        };
        if self.nx {
            return Ok(Outcome::Refused);
        }
        let new = if self.increment { old + score } else { score };
        if new.is_nan() {
            return Err(NOT_A_NUMBER);
        }
        let (old_order, new_order) = (ordinal(old), ordinal(new));
        if self.gt && new_order <= old_order || self.lt && new_order >= old_order {
            return Ok(Outcome::Refused);
        }
        if new_order == old_order {
            return Ok(Outcome::Same(new));
        }
        zset.set(name, new);
        Ok(Outcome::Updated(new))
    }
}

/// `ZADD key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]`
pub fn zadd(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (options, first) = add_options(ctx.args);
    add(ctx, &options, first)
}

/// `ZINCRBY key increment member`
pub fn zincrby(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    add(ctx, &AddOptions { increment: true, ..AddOptions::default() }, 2)
}

fn add(ctx: &mut Ctx<'_>, options: &AddOptions, first: usize) -> Result<(), Error> {
    let (now_ms, key, pairs) = (ctx.now_ms, ctx.key(), ctx.args.from(first));
    if pairs.len() == 0 || !pairs.len().is_multiple_of(2) {
        return Err(SYNTAX);
    }
    if options.nx && options.xx {
        return Err(Error::Text("ERR XX and NX options at the same time are not compatible"));
    }
    if [options.nx, options.gt, options.lt].into_iter().filter(|&set| set).count() > 1 {
        return Err(Error::Text("ERR GT, LT, and/or NX options at the same time are not compatible"));
    }
    if options.increment && pairs.len() > 2 {
        return Err(Error::Text("ERR INCR option supports a single increment-element pair"));
    }
    // All scores are checked before any is used.
    for at in (0..pairs.len()).step_by(2) {
        parse_f64(pairs.at(at)).ok_or(super::error::NOT_FLOAT)?;
    }
    let (mut added, mut updated, mut result) = (0, 0, None);
    let change = |zset: &mut Zset| {
        for at in (0..pairs.len()).step_by(2) {
            let score = parse_f64(pairs.at(at)).ok_or(super::error::NOT_FLOAT)?;
            match options.apply(zset, pairs.at(at + 1), score)? {
                Outcome::Added(score) => (added, result) = (added + 1, Some(score)),
                Outcome::Updated(score) => (updated, result) = (updated + 1, Some(score)),
                Outcome::Same(score) => result = Some(score),
                Outcome::Refused => {}
            }
        }
        Ok::<_, Error>(())
    };
    ctx.db().update(now_ms, key, !options.xx, change)?.unwrap_or(Ok(()))?;
    if added + updated > 0 {
        ctx.modified(key);
    }
    match (options.increment, result) {
        (true, Some(score)) => ctx.out.bulk_double(score),
        (true, None) => ctx.out.null(),
        (false, _) => ctx.out.count(if options.changed { added + updated } else { added }),
    }
    Ok(())
}

/// `ZREM key member [member ...]`
pub fn zrem(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, names) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let change = |zset: &mut Zset| names.iter().filter(|name| zset.remove(name)).count();
    let removed = ctx.db().update(now_ms, key, false, change)?.unwrap_or(0);
    if removed > 0 {
        ctx.modified(key);
    }
    ctx.out.count(removed);
    Ok(())
}

/// `ZSCORE key member`
pub fn zscore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, name) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let (db, out) = ctx.parts();
    match db.read::<Zset>(now_ms, key)?.and_then(|zset| zset.score(name)) {
        Some(score) => out.bulk_double(score),
        None => out.null(),
    }
    Ok(())
}

/// `ZMSCORE key member [member ...]`
pub fn zmscore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, names) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let (db, out) = ctx.parts();
    let zset = db.read::<Zset>(now_ms, key)?;
    out.array(names.len());
    for name in names.iter() {
        match zset.and_then(|zset| zset.score(name)) {
            Some(score) => out.bulk_double(score),
            None => out.null(),
        }
    }
    Ok(())
}

/// `ZCARD key`
pub fn zcard(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let len = ctx.db().read::<Zset>(now_ms, key)?.map_or(0, Zset::len);
    ctx.out.count(len);
    Ok(())
}

fn rank_of(ctx: &mut Ctx<'_>, backwards: bool) -> Result<(), Error> {
    let (now_ms, key, name) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let (db, out) = ctx.parts();
    match db.read::<Zset>(now_ms, key)?.and_then(|zset| Some((zset.rank(name)?, zset.len()))) {
        Some((rank, len)) => out.count(if backwards { len - 1 - rank } else { rank }),
        None => out.null(),
    }
    Ok(())
}

/// `ZRANK key member`
pub fn zrank(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    rank_of(ctx, false)
}

/// `ZREVRANK key member`
pub fn zrevrank(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    rank_of(ctx, true)
}

fn pop(ctx: &mut Ctx<'_>, largest: bool) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let count = match ctx.args.len() {
        2 => 1,
        3 => ctx.positive(2)?,
        _ => return Err(SYNTAX),
    };
    let Ctx { server, peer, out, .. } = ctx;
    let (db, _, journal) = server.db_rng_journal(peer.db);
    let change = |zset: &mut Zset| {
        let wanted = count.min(zset.len());
        out.array(wanted * 2);
        for _ in 0..wanted {
            let rank = if largest { zset.len() - 1 } else { 0 };
            if let Some(member) = zset.take_rank(rank) {
                out.bulk(member.name());
                out.bulk_double(member.score());
                journal.removed(member.name());
            }
        }
        wanted
    };
    match db.update(now_ms, key, false, change)? {
        Some(0) => {}
        Some(_) => ctx.modified(key),
        None => out.array(0),
    }
    Ok(())
}

/// `ZPOPMIN key [count]`
pub fn zpopmin(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    pop(ctx, false)
}

/// `ZPOPMAX key [count]`
pub fn zpopmax(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    pop(ctx, true)
}

/// `ZRANDMEMBER key [count [WITHSCORES]]`
pub fn zrandmember(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let choice = match ctx.args.len() {
        2 => None,
        3 => Some(random_count(ctx, false)?),
        4 if same_ignoring_case(ctx.args.at(3), "withscores") => Some(random_count(ctx, true)?),
        _ => return Err(SYNTAX),
    };
    let with_scores = ctx.args.len() == 4;
    let Ctx { server, peer, out, .. } = ctx;
    let (db, rng) = server.db_and_rng(peer.db);
    match (db.read::<Zset>(now_ms, key)?, choice) {
        (None, None) => out.null(),
        (None, Some(_)) => out.array(0),
        (Some(zset), None) => out.bulk(zset.at(rng.below(zset.len())).map_or(&[], |member| member.name())),
        (Some(zset), Some(choice)) => {
            out.array(choice.len(zset.len()).saturating_mul(1 + usize::from(with_scores)));
            choice.each(zset.len(), rng, |index| {
                let Some(member) = zset.at(index) else { return false };
                out.bulk(member.name());
                if with_scores {
                    out.bulk_double(member.score());
                }
                !out.overflowed()
            });
        }
    }
    Ok(())
}
