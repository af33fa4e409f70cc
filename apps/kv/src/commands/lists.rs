//! Lists.

use super::context::Ctx;
use super::error::{Error, NO_SUCH_KEY, SYNTAX};
use crate::base::{parse_i64, same, same_ignoring_case};
use crate::store::List;

/// Turns the bounds of a range command, negative from the end and inclusive, into a first index and a count.
pub fn clamp(start: i64, end: i64, len: usize) -> Option<(usize, usize)> {
    let len = len as i64;
    let start = if start < 0 { start.saturating_add(len).max(0) } else { start };
    let end = if end < 0 { end.saturating_add(len) } else { end }.min(len - 1);
    (start <= end && start < len).then(|| (start as usize, (end - start + 1) as usize))
}

/// The index that a possibly negative one means in a list of `len` elements.
fn position(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < len)
}

fn push(ctx: &mut Ctx<'_>, front: bool, create: bool) -> Result<(), Error> {
    let (now_ms, key, elements) = (ctx.now_ms, ctx.key(), ctx.args.from(2));
    let change = |list: &mut List| {
        for element in elements.iter() {
            if front { list.push_front(element) } else { list.push_back(element) }
        }
        list.len()
    };
    let len = ctx.db().update(now_ms, key, create, change)?;
    if len.is_some() {
        ctx.modified(key);
    }
    ctx.out.count(len.unwrap_or(0));
    Ok(())
}

/// `LPUSH key element [element ...]`
pub fn lpush(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    push(ctx, true, true)
}

/// `RPUSH key element [element ...]`
pub fn rpush(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    push(ctx, false, true)
}

/// `LPUSHX key element [element ...]`
pub fn lpushx(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    push(ctx, true, false)
}

/// `RPUSHX key element [element ...]`
pub fn rpushx(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    push(ctx, false, false)
}

fn pop(ctx: &mut Ctx<'_>, front: bool) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let count = match ctx.args.len() {
        2 => None,
        3 => Some(ctx.positive(2)?),
        _ => return Err(Error::Arity),
    };
    let (db, out) = ctx.parts();
    let change = |list: &mut List| {
        let wanted = count.unwrap_or(1).min(list.len());
        if count.is_some() {
            out.array(wanted);
        }
        for _ in 0..wanted {
            if let Some(element) = if front { list.pop_front() } else { list.pop_back() } {
                out.bulk(element.as_slice());
            }
        }
        wanted
    };
    match db.update(now_ms, key, false, change)? {
        Some(0) => {}
        Some(_) => ctx.modified(key),
        None if count.is_some() => out.null_array(),
        None => out.null(),
    }
    Ok(())
}

/// `LPOP key [count]`
pub fn lpop(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    pop(ctx, true)
}

/// `RPOP key [count]`
pub fn rpop(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    pop(ctx, false)
}

/// `LLEN key`
pub fn llen(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let len = ctx.db().read::<List>(now_ms, key)?.map_or(0, List::len);
    ctx.out.count(len);
    Ok(())
}

/// `LRANGE key start stop`
pub fn lrange(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (start, stop) = (ctx.integer(2)?, ctx.integer(3)?);
    let (db, out) = ctx.parts();
    let list = db.read::<List>(now_ms, key)?;
    match list.and_then(|list| Some((list, clamp(start, stop, list.len())?))) {
        Some((list, (from, count))) => {
            out.array(count);
            list.for_range(from, count, |element| out.bulk(element));
        }
        None => out.array(0),
    }
    Ok(())
}

/// `LINDEX key index`
pub fn lindex(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let text = ctx.args.at(2);
    let (db, out) = ctx.parts();
    let Some(list) = db.read::<List>(now_ms, key)? else {
        out.null();
        return Ok(());
    };
    let index = parse_i64(text).ok_or(super::error::NOT_INTEGER)?;
    match position(index, list.len()).and_then(|at| list.get(at)) {
        Some(element) => out.bulk(element),
        None => out.null(),
    }
    Ok(())
}

/// `LSET key index element`
pub fn lset(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (text, element) = (ctx.args.at(2), ctx.args.at(3));
    let change = |list: &mut List| {
        let index = parse_i64(text).ok_or(super::error::NOT_INTEGER)?;
        let at = position(index, list.len()).ok_or(Error::Text("ERR index out of range"))?;
        list.set(at, element);
        Ok::<_, Error>(())
    };
    ctx.db().update(now_ms, key, false, change)?.ok_or(NO_SUCH_KEY)??;
    ctx.modified(key);
    ctx.out.ok();
    Ok(())
}

/// `LREM key count element`
pub fn lrem(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, element) = (ctx.now_ms, ctx.key(), ctx.args.at(3));
    let count = ctx.integer(2)?;
    let limit = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let change = |list: &mut List| list.remove_equal(element, limit, count < 0);
    let removed = ctx.db().update(now_ms, key, false, change)?.unwrap_or(0);
    if removed > 0 {
        ctx.modified(key);
    }
    ctx.out.count(removed);
    Ok(())
}

/// `LTRIM key start stop`
pub fn ltrim(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (start, stop) = (ctx.integer(2)?, ctx.integer(3)?);
    let change = |list: &mut List| {
        let (from, count) = clamp(start, stop, list.len()).unwrap_or((0, 0));
        list.trim(from, count);
    };
    if ctx.db().update(now_ms, key, false, change)?.is_some() {
        ctx.modified(key);
    }
    ctx.out.ok();
    Ok(())
}

/// `LINSERT key BEFORE | AFTER pivot element`
pub fn linsert(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let (place, pivot, element) = (ctx.args.at(2), ctx.args.at(3), ctx.args.at(4));
    let after = same_ignoring_case(place, "after");
    if !after && !same_ignoring_case(place, "before") {
        return Err(SYNTAX);
    }
    let change = |list: &mut List| {
        let at = list.iter().position(|e| same(e, pivot))?;
        list.insert(at + usize::from(after), element);
        Some(list.len())
    };
    match ctx.db().update(now_ms, key, false, change)? {
        None => ctx.out.integer(0),
        Some(None) => ctx.out.integer(-1),
        Some(Some(len)) => {
            ctx.modified(key);
            ctx.out.count(len);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_clamp_as_in_redis() {
        for (start, end, len, expected) in [
            (0, -1, 5, Some((0, 5))),
            (-3, -2, 5, Some((2, 2))),
            (-100, 100, 5, Some((0, 5))),
            (3, 1, 5, None),
            (5, 9, 5, None),
            (0, -6, 5, None),
            (i64::MIN, i64::MAX, 1, Some((0, 1))),
            (0, 0, 0, None),
            (i64::MIN, i64::MIN, 3, None),
            (5, i64::MIN, 3, None),
        ] {
            assert_eq!(clamp(start, end, len), expected, "{start} {end} {len}");
        }
    }
}
