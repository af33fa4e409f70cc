//! Ranges of sorted sets by rank, score and name. All of them become ranges of ranks, found in O(log n).

use super::context::Ctx;
use super::error::{Error, NOT_INTEGER, SYNTAX};
use super::lists::clamp;
use crate::base::{parse_i64, parse_score_bound, same_ignoring_case};
use crate::store::{Kind, Member, NEVER_MS, Zset, ordinal};

/// One end of a range of scores.
#[derive(Clone, Copy)]
struct Bound {
    order: u64,
    exclusive: bool,
}

impl Bound {
    fn parse(text: &[u8]) -> Result<Self, Error> {
        let (exclusive, number) = match text {
            [b'(', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        let score = parse_score_bound(number).ok_or(Error::Text("ERR min or max is not a float"))?;
        Ok(Self { order: ordinal(score), exclusive })
    }

    /// Whether a member lies before a range that starts here.
    fn is_after(&self, member: &Member) -> bool {
        let order = ordinal(member.score());
        order < self.order || self.exclusive && order == self.order
    }

    /// Whether a member does not lie behind a range that ends here.
    fn reaches(&self, member: &Member) -> bool {
        let order = ordinal(member.score());
        order < self.order || !self.exclusive && order == self.order
    }
}

/// One end of a range of names.
#[derive(Clone, Copy)]
enum NameBound<'a> {
    First,
    Last,
    At { name: &'a [u8], exclusive: bool },
}

impl<'a> NameBound<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, Error> {
        match text {
            b"-" => Ok(Self::First),
            b"+" => Ok(Self::Last),
            [b'(', name @ ..] => Ok(Self::At { name, exclusive: true }),
            [b'[', name @ ..] => Ok(Self::At { name, exclusive: false }),
            _ => Err(Error::Text("ERR min or max not valid string range item")),
        }
    }

    fn is_after(&self, member: &Member) -> bool {
        match self {
            Self::First => false,
            Self::Last => true,
            Self::At { name, exclusive } => member.name() < *name || *exclusive && member.name() == *name,
        }
    }

    fn reaches(&self, member: &Member) -> bool {
        match self {
            Self::First => false,
            Self::Last => true,
            Self::At { name, exclusive } => member.name() < *name || !*exclusive && member.name() == *name,
        }
    }
}

/// A range as a command gives it, lowest end first.
#[derive(Clone, Copy)]
enum Range<'a> {
    Ranks(i64, i64),
    Scores(Bound, Bound),
    Names(NameBound<'a>, NameBound<'a>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

impl<'a> Range<'a> {
    fn parse(by: By, first: &'a [u8], second: &'a [u8], reversed: bool) -> Result<Self, Error> {
        let (low, high) = if reversed && by != By::Rank { (second, first) } else { (first, second) };
        Ok(match by {
            By::Rank => Self::Ranks(parse_i64(low).ok_or(NOT_INTEGER)?, parse_i64(high).ok_or(NOT_INTEGER)?),
            By::Score => Self::Scores(Bound::parse(low)?, Bound::parse(high)?),
            By::Name => Self::Names(NameBound::parse(low)?, NameBound::parse(high)?),
        })
    }

    /// The ranks in the range, counted upwards from the lowest member; ranks are taken as counted from the end where
    /// `reversed`.
    fn ranks(&self, zset: &Zset, reversed: bool) -> (usize, usize) {
        let (from, to) = match *self {
            Self::Ranks(start, stop) => {
                let (first, count) = clamp(start, stop, zset.len()).unwrap_or((0, 0));
                let from = if reversed { zset.len() - first - count } else { first };
                (from, from + count)
            }
            Self::Scores(low, high) => (zset.partition(|m| low.is_after(m)), zset.partition(|m| high.reaches(m))),
            Self::Names(low, high) => (zset.partition(|m| low.is_after(m)), zset.partition(|m| high.reaches(m))),
        };
        (from, to.max(from))
    }
}

/// Everything that ZRANGE and its older forms can be asked for.
struct Query<'a> {
    range: Range<'a>,
    reversed: bool,
    scores: bool,
    offset: i64,
    limit: i64,
}

impl Query<'_> {
    /// Visits the members asked for in their order.
    fn run(&self, zset: &Zset, visit: impl FnMut(&Member)) {
        let (rank, count) = self.selected(zset);
        zset.for_ranks(rank, count, self.reversed, visit);
    }

    /// The rank to start at and how many members follow in the query's direction.
    fn selected(&self, zset: &Zset) -> (usize, usize) {
        let (from, to) = self.range.ranks(zset, self.reversed);
        let Ok(offset) = usize::try_from(self.offset) else { return (0, 0) };
        let left = (to - from).saturating_sub(offset);
        let count = usize::try_from(self.limit).map_or(left, |limit| left.min(limit));
        if count == 0 {
            return (0, 0);
        }
        (if self.reversed { to - 1 - offset } else { from + offset }, count)
    }
}

/// Parses from the key on: `key first second [options]`.
fn parse<'a>(ctx: &Ctx<'a>, key_at: usize, by: Option<By>, reversed: bool) -> Result<Query<'a>, Error> {
    let args = ctx.args;
    let modern = by.is_none();
    let (mut by, mut reversed, mut scores) = (by.unwrap_or(By::Rank), reversed, false);
    let (mut offset, mut limit, mut limited) = (0, -1, false);
    let mut at = key_at + 3;
    while at < args.len() {
        let word = args.at(at);
        match () {
            () if same_ignoring_case(word, "withscores") && by_allows_scores(key_at) => scores = true,
            () if same_ignoring_case(word, "limit") && at + 2 < args.len() => {
                (offset, limit, limited) = (ctx.integer(at + 1)?, ctx.integer(at + 2)?, true);
                at += 2;
            }
            () if modern && same_ignoring_case(word, "rev") => reversed = true,
            () if modern && same_ignoring_case(word, "byscore") => by = By::Score,
            () if modern && same_ignoring_case(word, "bylex") => by = By::Name,
            () => return Err(SYNTAX),
        }
        at += 1;
    }
    if limited && limit != -1 && by == By::Rank {
        return Err(Error::Text(
            "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
        ));
    }
    if scores && by == By::Name {
        return Err(Error::Text("ERR syntax error, WITHSCORES not supported in combination with BYLEX"));
    }
    let range = Range::parse(by, args.at(key_at + 1), args.at(key_at + 2), reversed)?;
    if by == By::Rank {
        (offset, limit) = (0, -1);
    }
    Ok(Query { range, reversed, scores, offset, limit })
}

/// ZRANGESTORE, whose source is its second key, takes no WITHSCORES.
fn by_allows_scores(key_at: usize) -> bool {
    key_at == 1
}

fn reply(ctx: &mut Ctx<'_>, by: Option<By>, reversed: bool) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let query = parse(ctx, 1, by, reversed)?;
    let (db, out) = ctx.parts();
    let Some(zset) = db.read::<Zset>(now_ms, key)? else {
        out.array(0);
        return Ok(());
    };
    out.array(query.selected(zset).1 * (1 + usize::from(query.scores)));
    query.run(zset, |member| {
        out.bulk(member.name());
        if query.scores {
            out.bulk_double(member.score());
        }
    });
    Ok(())
}

/// `ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]`
pub fn zrange(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, None, false)
}

/// `ZREVRANGE key start stop [WITHSCORES]`
pub fn zrevrange(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Some(By::Rank), true)
}

/// `ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]`
pub fn zrangebyscore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Some(By::Score), false)
}

/// `ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]`
pub fn zrevrangebyscore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Some(By::Score), true)
}

/// `ZRANGEBYLEX key min max [LIMIT offset count]`
pub fn zrangebylex(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Some(By::Name), false)
}

/// `ZREVRANGEBYLEX key max min [LIMIT offset count]`
pub fn zrevrangebylex(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Some(By::Name), true)
}

/// `ZRANGESTORE dst src start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count]`
pub fn zrangestore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, target, source) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let query = parse(ctx, 2, None, false)?;
    let size_bytes = ctx.db().read::<Zset>(now_ms, source)?.map_or(0, Zset::bytes);
    ctx.ensure_room(size_bytes)?;
    let db = ctx.db();
    let mut result = Zset::empty(db.seed());
    if let Some(zset) = db.read::<Zset>(now_ms, source)? {
        query.run(zset, |member| {
            result.set(member.name(), member.score());
        });
    }
    finish_store(ctx, target, result);
    Ok(())
}

fn count_in(ctx: &mut Ctx<'_>, by: By) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let range = Range::parse(by, ctx.args.at(2), ctx.args.at(3), false)?;
    let (from, to) = ctx.db().read::<Zset>(now_ms, key)?.map_or((0, 0), |zset| range.ranks(zset, false));
    ctx.out.count(to - from);
    Ok(())
}

/// `ZCOUNT key min max`
pub fn zcount(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    count_in(ctx, By::Score)
}

/// `ZLEXCOUNT key min max`
pub fn zlexcount(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    count_in(ctx, By::Name)
}

fn remove_in(ctx: &mut Ctx<'_>, by: By) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let range = Range::parse(by, ctx.args.at(2), ctx.args.at(3), false)?;
    let (db, _, journal) = ctx.server.db_rng_journal(ctx.peer.db);
    let change = |zset: &mut Zset| {
        let (from, to) = range.ranks(zset, false);
        for _ in from..to {
            if let Some(member) = zset.take_rank(from) {
                journal.removed(member.name());
            }
        }
        to - from
    };
    let removed = db.update(now_ms, key, false, change)?.unwrap_or(0);
    if removed > 0 {
        ctx.modified(key);
    }
    ctx.out.count(removed);
    Ok(())
}

/// `ZREMRANGEBYRANK key start stop`
pub fn zremrangebyrank(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    remove_in(ctx, By::Rank)
}

/// `ZREMRANGEBYSCORE key min max`
pub fn zremrangebyscore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    remove_in(ctx, By::Score)
}

/// `ZREMRANGEBYLEX key min max`
pub fn zremrangebylex(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    remove_in(ctx, By::Name)
}

/// Ends a store command: replaces `target` by `result`, or removes it if that is empty, and replies its length.
pub(super) fn finish_store(ctx: &mut Ctx<'_>, target: &[u8], result: Zset) {
    let now_ms = ctx.now_ms;
    let len = result.len();
    let db = ctx.db();
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
}
