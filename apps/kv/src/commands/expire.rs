//! Expiry: setting it, asking for it, ending it.

use super::context::Ctx;
use super::error::Error;
use crate::base::same_ignoring_case;
use crate::store::NEVER_MS;

/// How a command gives a time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds from now.
    Seconds,
    /// Milliseconds from now.
    Millis,
    /// Unix time in seconds.
    AtSeconds,
    /// Unix time in milliseconds.
    AtMillis,
}

impl Unit {
    /// The unit that an option of SET or GETEX names.
    pub fn of_option(word: &[u8]) -> Option<Self> {
        [("ex", Self::Seconds), ("px", Self::Millis), ("exat", Self::AtSeconds), ("pxat", Self::AtMillis)]
            .into_iter()
            .find_map(|(name, unit)| same_ignoring_case(word, name).then_some(unit))
    }
}

/// The Unix time in ms that an amount means, which overflow makes an error.
pub fn deadline(amount: i64, unit: Unit, now_ms: i64) -> Result<i64, Error> {
    let amount_ms = match unit {
        Unit::Seconds | Unit::AtSeconds => amount.checked_mul(1000),
        Unit::Millis | Unit::AtMillis => Some(amount),
    };
    let at_ms = match unit {
        Unit::Seconds | Unit::Millis => amount_ms.and_then(|ms| ms.checked_add(now_ms)),
        Unit::AtSeconds | Unit::AtMillis => amount_ms,
    };
    // The last millisecond stands for "never".
    at_ms.filter(|&at_ms| at_ms < NEVER_MS).ok_or(Error::InvalidExpire)
}

#[derive(Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

fn conditions(ctx: &mut Ctx<'_>) -> Result<Option<Conditions>, Error> {
    let mut found = Conditions::default();
    for word in ctx.args.from(3).iter() {
        match () {
            () if same_ignoring_case(word, "nx") => found.nx = true,
            () if same_ignoring_case(word, "xx") => found.xx = true,
            () if same_ignoring_case(word, "gt") => found.gt = true,
            () if same_ignoring_case(word, "lt") => found.lt = true,
            () => {
                ctx.out.error(&[b"ERR Unsupported option ", word]);
                return Ok(None);
            }
        }
    }
    if found.nx && (found.xx || found.gt || found.lt) {
        return Err(Error::Text("ERR NX and XX, GT or LT options at the same time are not compatible"));
    }
    if found.gt && found.lt {
        return Err(Error::Text("ERR GT and LT options at the same time are not compatible"));
    }
    Ok(Some(found))
}

fn expire_in(ctx: &mut Ctx<'_>, unit: Unit) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let Some(wanted) = conditions(ctx)? else { return Ok(()) };
    let at_ms = deadline(ctx.integer(2)?, unit, now_ms)?;
    let Some(at) = ctx.db().find(now_ms, key) else {
        ctx.out.integer(0);
        return Ok(());
    };
    // Without an expiry a key lives for ever, and NEVER_MS is later than any time.
    let old_ms = ctx.db().record(at).map_or(NEVER_MS, |record| record.expire_at_ms());
    let refused = wanted.nx && old_ms != NEVER_MS
        || wanted.xx && old_ms == NEVER_MS
        || wanted.gt && at_ms <= old_ms
        || wanted.lt && at_ms >= old_ms;
    if !refused {
        if at_ms <= now_ms {
            ctx.db().remove(at);
        } else {
            ctx.db().set_expiry(at, at_ms);
        }
        ctx.modified(key);
    }
    ctx.out.integer(i64::from(!refused));
    Ok(())
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub fn expire(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    expire_in(ctx, Unit::Seconds)
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub fn pexpire(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    expire_in(ctx, Unit::Millis)
}

/// `EXPIREAT key unix-time-seconds [NX | XX | GT | LT]`
pub fn expireat(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    expire_in(ctx, Unit::AtSeconds)
}

/// `PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]`
pub fn pexpireat(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    expire_in(ctx, Unit::AtMillis)
}

fn remaining(ctx: &mut Ctx<'_>, unit: Unit) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let db = ctx.db();
    let at_ms = db.find(now_ms, key).and_then(|at| db.record(at)).map(|record| record.expire_at_ms());
    ctx.out.integer(match (at_ms, unit) {
        (None, _) => -2,
        (Some(NEVER_MS), _) => -1,
        (Some(at_ms), Unit::Seconds) => (at_ms - now_ms).saturating_add(500) / 1000,
        (Some(at_ms), Unit::Millis) => at_ms - now_ms,
        (Some(at_ms), Unit::AtSeconds) => at_ms.saturating_add(500) / 1000,
        (Some(at_ms), Unit::AtMillis) => at_ms,
    });
    Ok(())
}

/// `TTL key`
pub fn ttl(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    remaining(ctx, Unit::Seconds)
}

/// `PTTL key`
pub fn pttl(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    remaining(ctx, Unit::Millis)
}

/// `EXPIRETIME key`
pub fn expiretime(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    remaining(ctx, Unit::AtSeconds)
}

/// `PEXPIRETIME key`
pub fn pexpiretime(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    remaining(ctx, Unit::AtMillis)
}

/// `PERSIST key`
pub fn persist(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let db = ctx.db();
    let found = db.find(now_ms, key);
    let expiring = found.filter(|&at| db.record(at).is_some_and(|record| record.expire_at_ms() != NEVER_MS));
    if let Some(at) = expiring {
        db.set_expiry(at, NEVER_MS);
        ctx.modified(key);
    }
    ctx.out.integer(i64::from(expiring.is_some()));
    Ok(())
}
