//! Intersection, union and difference of sets.

use super::context::Ctx;
use super::error::{Error, SYNTAX};
use crate::base::{parse_i64, same_ignoring_case};
use crate::resp::Args;
use crate::store::{Db, Kind, NEVER_MS, Set};
use alloc::vec::Vec;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Intersection,
    Union,
    Difference,
}

/// The sets at `keys`, `None` where there is none.
fn operands<'d>(db: &'d mut Db, now_ms: i64, keys: Args<'_>) -> Result<Vec<Option<&'d Set>>, Error> {
    // First all lookups that may remove an expired key, then all borrows.
    keys.iter().for_each(|key| {
        db.find(now_ms, key);
    });
    let db = &*db;
    keys.iter().map(|key| Ok(db.peek::<Set>(key)?)).collect()
}

/// Visits the members that all sets have, until `visit` says it has had enough.
fn intersect(sets: &[Option<&Set>], mut visit: impl FnMut(&[u8]) -> bool) {
    let Some(smallest) = sets.iter().min_by_key(|set| set.map_or(0, Set::len)) else { return };
    let Some(smallest) = smallest else { return };
    for member in smallest.iter() {
        let everywhere = sets.iter().flatten().all(|set| core::ptr::eq(*set, *smallest) || set.contains(member));
        if everywhere && !visit(member) {
            return;
        }
    }
}

fn evaluate(operation: Operation, sets: &[Option<&Set>], db_seed: crate::base::Seed) -> Set {
    let mut result = Set::empty(db_seed);
    match operation {
        Operation::Intersection => intersect(sets, |member| {
            result.insert(member);
            true
        }),
        Operation::Union => sets.iter().flatten().flat_map(|set| set.iter()).for_each(|member| {
            result.insert(member);
        }),
        Operation::Difference => {
            if let Some((Some(first), rest)) = sets.split_first() {
                for member in first.iter().filter(|member| !rest.iter().flatten().any(|set| set.contains(member))) {
                    result.insert(member);
                }
            }
        }
    }
    result
}

fn reply(ctx: &mut Ctx<'_>, operation: Operation) -> Result<(), Error> {
    let (now_ms, keys) = (ctx.now_ms, ctx.args.from(1));
    let (db, out) = ctx.parts();
    let seed = db.seed();
    let sets = operands(db, now_ms, keys)?;
    if operation == Operation::Union {
        // Only a union must remember what it has given out.
        let result = evaluate(operation, &sets, seed);
        out.array(result.len());
        result.iter().for_each(|member| out.bulk(member));
        return Ok(());
    }
    let mark = out.mark();
    let mut count = 0;
    let mut emit = |member: &[u8]| {
        out.bulk(member);
        count += 1;
        true
    };
    if operation == Operation::Intersection {
        intersect(&sets, emit);
    } else if let Some((Some(first), rest)) = sets.split_first() {
        for member in first.iter().filter(|member| !rest.iter().flatten().any(|set| set.contains(member))) {
            emit(member);
        }
    }
    out.insert_array(mark, count);
    Ok(())
}

fn store(ctx: &mut Ctx<'_>, operation: Operation) -> Result<(), Error> {
    let (now_ms, target, keys) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let db = ctx.db();
    let seed = db.seed();
    let sets = operands(db, now_ms, keys)?;
    let most_bytes = match operation {
        Operation::Union => sets.iter().flatten().map(|set| set.bytes()).sum(),
        _ => sets.first().copied().flatten().map_or(0, Set::bytes),
    };
    ctx.ensure_room(most_bytes)?;
    let db = ctx.db();
    let result = evaluate(operation, &operands(db, now_ms, keys)?, seed);
    let len = result.len();
    let changed = if len == 0 {
        db.remove_key(now_ms, target).is_some()
    } else {
        db.put(now_ms, target, result.into_value(), NEVER_MS);
        true
    };
    if changed {
        ctx.modified(target);
    }
    ctx.out.count(len);
    Ok(())
}

/// `SINTER key [key ...]`
pub fn sinter(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Operation::Intersection)
}

/// `SUNION key [key ...]`
pub fn sunion(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Operation::Union)
}

/// `SDIFF key [key ...]`
pub fn sdiff(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Operation::Difference)
}

/// `SINTERSTORE destination key [key ...]`
pub fn sinterstore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    store(ctx, Operation::Intersection)
}

/// `SUNIONSTORE destination key [key ...]`
pub fn sunionstore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    store(ctx, Operation::Union)
}

/// `SDIFFSTORE destination key [key ...]`
pub fn sdiffstore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    store(ctx, Operation::Difference)
}

/// `SINTERCARD numkeys key [key ...] [LIMIT limit]`
pub fn sintercard(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let now_ms = ctx.now_ms;
    const FEW: Error = Error::Text("ERR numkeys should be greater than 0");
    let count = parse_i64(ctx.args.at(1)).and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0).ok_or(FEW)?;
    if count > ctx.args.len() - 2 {
        return Err(Error::Text("ERR Number of keys can't be greater than number of args"));
    }
    let mut limit = 0;
    for at in (2 + count..ctx.args.len()).step_by(2) {
        if !same_ignoring_case(ctx.args.at(at), "limit") || at + 1 >= ctx.args.len() {
            return Err(SYNTAX);
        }
        limit = parse_i64(ctx.args.at(at + 1))
            .and_then(|n| usize::try_from(n).ok())
            .ok_or(Error::Text("ERR LIMIT can't be negative"))?;
    }
    let keys = ctx.args.from(2).take(count);
    let (db, out) = ctx.parts();
    let mut found = 0;
    intersect(&operands(db, now_ms, keys)?, |_| {
        found += 1;
        found != limit
    });
    out.count(found);
    Ok(())
}
