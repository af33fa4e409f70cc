//! String commands on several keys.

use super::context::Ctx;
use super::error::Error;
use crate::store::Value;

/// `MGET key [key ...]`
pub fn mget(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, keys) = (ctx.now_ms, ctx.args.from(1));
    let (db, out) = ctx.parts();
    out.array(keys.len());
    for key in keys.iter() {
        match db.get(now_ms, key) {
            Some(Value::Str(value)) => out.bulk(value.text(&mut [0; 20])),
            _ => out.null(),
        }
        if out.overflowed() {
            break;
        }
    }
    Ok(())
}

fn set_pairs(ctx: &mut Ctx<'_>) {
    let (now_ms, args) = (ctx.now_ms, ctx.args);
    for at in (1..args.len()).step_by(2) {
        let key = args.at(at);
        ctx.db().set_string(now_ms, key, args.at(at + 1));
        ctx.modified(key);
    }
}

/// `MSET key value [key value ...]`
pub fn mset(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    if ctx.args.len().is_multiple_of(2) {
        return Err(Error::Arity);
    }
    set_pairs(ctx);
    ctx.out.ok();
    Ok(())
}

/// `MSETNX key value [key value ...]`
pub fn msetnx(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    if ctx.args.len().is_multiple_of(2) {
        return Err(Error::Arity);
    }
    let (now_ms, pairs) = (ctx.now_ms, ctx.args.from(1));
    let free = pairs.iter().step_by(2).all(|key| ctx.db().find(now_ms, key).is_none());
    if free {
        set_pairs(ctx);
    }
    ctx.out.integer(i64::from(free));
    Ok(())
}
