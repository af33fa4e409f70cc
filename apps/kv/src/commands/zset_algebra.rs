//! Union, intersection and difference of sorted sets and sets.

use super::context::Ctx;
use super::error::{Error, SYNTAX};
use super::zset_range::finish_store;
use crate::base::{parse_f64, parse_i64, same_ignoring_case};
use crate::resp::Args;
use crate::store::{Db, Kind, Set, Value, Zset};
use alloc::vec::Vec;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            // Infinities of both signs add up to nothing, as redis has it.
            Self::Sum if (a + b).is_nan() => 0.0,
            Self::Sum => a + b,
            Self::Min => {
                if b < a {
                    b
                } else {
                    a
                }
            }
            Self::Max => {
                if b > a {
                    b
                } else {
                    a
                }
            }
        }
    }
}

/// A set counts as a sorted set with scores of 1.
#[derive(Clone, Copy)]
enum Operand<'d> {
    Missing,
    Set(&'d Set),
    Zset(&'d Zset),
}

impl<'d> Operand<'d> {
    fn len(self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Set(set) => set.len(),
            Self::Zset(zset) => zset.len(),
        }
    }

    fn bytes(self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Set(set) => set.bytes() * 2,
            Self::Zset(zset) => zset.bytes(),
        }
    }

    fn score(self, name: &[u8]) -> Option<f64> {
        match self {
            Self::Missing => None,
            Self::Set(set) => set.contains(name).then_some(1.0),
            Self::Zset(zset) => zset.score(name),
        }
    }

    fn each(self, mut visit: impl FnMut(&[u8], f64)) {
        match self {
            Self::Missing => {}
            Self::Set(set) => set.iter().for_each(|name| visit(name, 1.0)),
            Self::Zset(zset) => zset.iter().for_each(|member| visit(member.name(), member.score())),
        }
    }
}

struct Query<'a> {
    operation: Operation,
    keys: Args<'a>,
    weights: Vec<f64>,
    aggregate: Aggregate,
    scores: bool,
}

fn parse<'a>(ctx: &mut Ctx<'a>, operation: Operation, count_at: usize, storing: bool) -> Result<Query<'a>, Error> {
    let args = ctx.args;
    let count = parse_i64(args.at(count_at)).ok_or(super::error::NOT_INTEGER)?;
    let count = usize::try_from(count).unwrap_or(0);
    if count < 1 {
        return Err(Error::NoInputKeys);
    }
    if count > args.len() - count_at - 1 {
        return Err(SYNTAX);
    }
    let keys = args.from(count_at + 1).take(count);
    // A wrong type comes before a wrong option, as in redis.
    operands(ctx.server.db(ctx.peer.db), ctx.now_ms, keys)?;
    let mut query = Query { operation, keys, weights: Vec::new(), aggregate: Aggregate::Sum, scores: false };
    let combining = operation != Operation::Difference;
    let mut at = count_at + 1 + count;
    while at < args.len() {
        let word = args.at(at);
        if combining && same_ignoring_case(word, "weights") && args.len() - at > count {
            let weights = args.from(at + 1).take(count).iter().map(parse_f64);
            query.weights = weights.collect::<Option<_>>().ok_or(Error::Text("ERR weight value is not a float"))?;
            at += count + 1;
        } else if combining && same_ignoring_case(word, "aggregate") && at + 1 < args.len() {
            query.aggregate = match args.at(at + 1) {
                word if same_ignoring_case(word, "sum") => Aggregate::Sum,
                word if same_ignoring_case(word, "min") => Aggregate::Min,
                word if same_ignoring_case(word, "max") => Aggregate::Max,
                _ => return Err(SYNTAX),
            };
            at += 2;
        } else if !storing && same_ignoring_case(word, "withscores") {
            query.scores = true;
            at += 1;
        } else {
            return Err(SYNTAX);
        }
    }
    Ok(query)
}

fn operands<'d>(db: &'d mut Db, now_ms: i64, keys: Args<'_>) -> Result<Vec<Operand<'d>>, Error> {
    // First all lookups that may remove an expired key, then all borrows.
    keys.iter().for_each(|key| {
        db.find(now_ms, key);
    });
    let db = &*db;
    let operand = |key| match db.peek_any(key) {
        None => Ok(Operand::Missing),
        Some(Value::Set(set)) => Ok(Operand::Set(set)),
        Some(Value::Zset(zset)) => Ok(Operand::Zset(zset)),
        Some(_) => Err(Error::WrongType),
    };
    keys.iter().map(operand).collect()
}

impl Query<'_> {
    fn weigh(&self, operand: usize, score: f64) -> f64 {
        match self.weights.get(operand) {
            // Zero times infinity is nothing, as redis has it.
            Some(weight) if (weight * score).is_nan() => 0.0,
            Some(weight) => weight * score,
            None => score,
        }
    }

    fn evaluate(&self, operands: &[Operand<'_>], mut result: Zset) -> Zset {
        match self.operation {
            Operation::Union => {
                for (at, operand) in operands.iter().enumerate() {
                    operand.each(|name, score| {
                        let score = self.weigh(at, score);
                        let old = result.score(name);
                        result.set(name, old.map_or(score, |old| self.aggregate.apply(old, score)));
                    });
                }
            }
            Operation::Intersection => {
                let smallest = operands.iter().min_by_key(|operand| operand.len()).copied();
                smallest.unwrap_or(Operand::Missing).each(|name, _| {
                    let mut scores = operands.iter().enumerate().map(|(at, o)| Some(self.weigh(at, o.score(name)?)));
                    let first = scores.next().flatten();
                    let total = scores.fold(first, |sum, score| Some(self.aggregate.apply(sum?, score?)));
                    if let Some(total) = total {
                        result.set(name, total);
                    }
                });
            }
            Operation::Difference => {
                if let Some((first, rest)) = operands.split_first() {
                    first.each(|name, score| {
                        if rest.iter().all(|operand| operand.score(name).is_none()) {
                            result.set(name, score);
                        }
                    });
                }
            }
        }
        result
    }
}

fn compute(ctx: &mut Ctx<'_>, query: &Query<'_>) -> Result<Zset, Error> {
    let now_ms = ctx.now_ms;
    let size_bytes = operands(ctx.db(), now_ms, query.keys)?.iter().map(|operand| operand.bytes()).sum();
    ctx.ensure_room(size_bytes)?;
    let db = ctx.db();
    let empty = Zset::empty(db.seed());
    Ok(query.evaluate(&operands(db, now_ms, query.keys)?, empty))
}

fn store(ctx: &mut Ctx<'_>, operation: Operation) -> Result<(), Error> {
    let target = ctx.key();
    let query = parse(ctx, operation, 2, true)?;
    let result = compute(ctx, &query)?;
    finish_store(ctx, target, result);
    Ok(())
}

fn reply(ctx: &mut Ctx<'_>, operation: Operation) -> Result<(), Error> {
    let query = parse(ctx, operation, 1, false)?;
    let result = compute(ctx, &query)?;
    ctx.out.array(result.len() * (1 + usize::from(query.scores)));
    result.for_ranks(0, result.len(), false, |member| {
        ctx.out.bulk(member.name());
        if query.scores {
            ctx.out.bulk_double(member.score());
        }
    });
    Ok(())
}

/// `ZUNIONSTORE destination numkeys key [key ...] [WEIGHTS w ...] [AGGREGATE SUM | MIN | MAX]`
pub fn zunionstore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    store(ctx, Operation::Union)
}

/// `ZINTERSTORE destination numkeys key [key ...] [WEIGHTS w ...] [AGGREGATE SUM | MIN | MAX]`
pub fn zinterstore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    store(ctx, Operation::Intersection)
}

/// `ZDIFFSTORE destination numkeys key [key ...]`
pub fn zdiffstore(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    store(ctx, Operation::Difference)
}

/// `ZUNION numkeys key [key ...] [WEIGHTS w ...] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]`
pub fn zunion(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Operation::Union)
}

/// `ZINTER numkeys key [key ...] [WEIGHTS w ...] [AGGREGATE SUM | MIN | MAX] [WITHSCORES]`
pub fn zinter(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Operation::Intersection)
}

/// `ZDIFF numkeys key [key ...] [WITHSCORES]`
pub fn zdiff(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    reply(ctx, Operation::Difference)
}
