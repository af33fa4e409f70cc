//! SCAN, SSCAN, HSCAN, ZSCAN. A small collection is returned at once, as redis does, a large one in steps.

use super::context::Ctx;
use super::error::{Error, NOT_INTEGER, SYNTAX};
use crate::base::{Digits, glob_match, parse_i64, same_ignoring_case, write_u64};
use crate::resp::Output;
use crate::store::{Field, Hash, Kind, Member, Set, Zset};

struct Options<'a> {
    cursor: u64,
    pattern: Option<&'a [u8]>,
    count: usize,
    type_name: Option<&'a [u8]>,
}

fn cursor(text: &[u8]) -> Result<u64, Error> {
    let digits = text.iter().all(u8::is_ascii_digit);
    core::str::from_utf8(text)
        .ok()
        .filter(|_| digits)
        .and_then(|t| t.parse().ok())
        .ok_or(Error::Text("ERR invalid cursor"))
}

fn options<'a>(ctx: &Ctx<'a>, cursor_at: usize, with_type: bool) -> Result<Options<'a>, Error> {
    let mut options = Options { cursor: cursor(ctx.args.at(cursor_at))?, pattern: None, count: 10, type_name: None };
    let mut at = cursor_at + 1;
    while at < ctx.args.len() {
        let word = ctx.args.at(at);
        if at + 1 >= ctx.args.len() {
            return Err(SYNTAX);
        }
        let value = ctx.args.at(at + 1);
        if same_ignoring_case(word, "match") {
            options.pattern = (value != b"*").then_some(value);
        } else if same_ignoring_case(word, "count") {
            let count = parse_i64(value).ok_or(NOT_INTEGER)?;
            options.count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(SYNTAX)?;
        } else if with_type && same_ignoring_case(word, "type") {
            options.type_name = Some(value);
        } else {
            return Err(SYNTAX);
        }
        at += 2;
    }
    Ok(options)
}

impl Options<'_> {
    fn matches(&self, key: &[u8]) -> bool {
        self.pattern.is_none_or(|pattern| glob_match(pattern, key))
    }

    /// Runs steps until about `count` elements were visited or the end is reached. Steps that find little are bounded
    /// as in redis, at ten times the count.
    fn steps(&self, mut step: impl FnMut(u64, &mut usize) -> u64) -> u64 {
        let (mut at, mut visited) = (self.cursor, 0);
        for _ in 0..self.count.saturating_mul(10) {
            at = step(at, &mut visited);
            if at == 0 || visited >= self.count {
                break;
            }
        }
        at
    }
}

/// Writes `[cursor, [element, ...]]` where `fill` writes the elements and gives their number and the cursor.
fn reply(out: &mut Output, fill: impl FnOnce(&mut Output) -> (usize, u64)) {
    let mark = out.mark();
    let (count, cursor) = fill(out);
    out.insert_array(mark, count);
    // The cursor goes before the elements, so it is put there in the same way as the header.
    let end = out.mark();
    let mut digits: Digits = [0; 20];
    out.bulk(write_u64(cursor, &mut digits));
    out.move_before(mark, end);
    out.insert_array(mark, 2);
}

/// `SCAN cursor [MATCH pattern] [COUNT count] [TYPE type]`
pub fn scan(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let now_ms = ctx.now_ms;
    let options = options(ctx, 1, true)?;
    let (db, out) = ctx.parts();
    reply(out, |out| {
        let mut written = 0;
        let cursor = options.steps(|at, visited| {
            db.scan(at, |record| {
                *visited += 1;
                let typed = options.type_name.is_none_or(|name| same_ignoring_case(name, record.value().type_name()));
                if typed && record.expire_at_ms() >= now_ms && options.matches(record.key()) {
                    out.bulk(record.key());
                    written += 1;
                }
            })
        });
        (written, cursor)
    });
    Ok(())
}

/// The options of a scan in a collection; nothing if that is not there, which is answered. The order of the checks is
/// that of redis: cursor, key, options.
fn options_of<'a, K: Kind>(ctx: &mut Ctx<'a>) -> Result<Option<Options<'a>>, Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    cursor(ctx.args.at(2))?;
    if ctx.db().read::<K>(now_ms, key)?.is_none() {
        ctx.out.raw(NOTHING);
        return Ok(None);
    }
    options(ctx, 2, false).map(Some)
}

/// The reply for a key that is not there.
const NOTHING: &[u8] = b"*2\r\n$1\r\n0\r\n*0\r\n";

/// `SSCAN key cursor [MATCH pattern] [COUNT count]`
pub fn sscan(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let Some(options) = options_of::<Set>(ctx)? else { return Ok(()) };
    let (db, out) = ctx.parts();
    let Some(set) = db.read::<Set>(now_ms, key)? else { return Ok(()) };
    reply(out, |out| {
        let mut written = 0;
        let mut visit = |member: &[u8]| {
            if options.matches(member) {
                out.bulk(member);
                written += 1;
            }
        };
        let mut cursor = 0;
        if set.is_large() {
            cursor = options.steps(|at, visited| {
                set.scan(at, |member| {
                    *visited += 1;
                    visit(member);
                })
            });
        } else {
            set.iter().for_each(visit);
        }
        (written, cursor)
    });
    Ok(())
}

/// `HSCAN key cursor [MATCH pattern] [COUNT count]`
pub fn hscan(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let Some(options) = options_of::<Hash>(ctx)? else { return Ok(()) };
    let (db, out) = ctx.parts();
    let Some(hash) = db.read::<Hash>(now_ms, key)? else { return Ok(()) };
    reply(out, |out| {
        let mut written = 0;
        let mut visit = |field: &Field| {
            if options.matches(field.name()) {
                out.bulk(field.name());
                out.bulk(field.value());
                written += 2;
            }
        };
        let mut cursor = 0;
        if hash.is_large() {
            cursor = options.steps(|at, visited| {
                hash.scan(at, |field| {
                    *visited += 1;
                    visit(field);
                })
            });
        } else {
            hash.iter().for_each(visit);
        }
        (written, cursor)
    });
    Ok(())
}

/// `ZSCAN key cursor [MATCH pattern] [COUNT count]`
pub fn zscan(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let Some(options) = options_of::<Zset>(ctx)? else { return Ok(()) };
    let (db, out) = ctx.parts();
    let Some(zset) = db.read::<Zset>(now_ms, key)? else { return Ok(()) };
    reply(out, |out| {
        let mut written = 0;
        let mut visit = |member: &Member| {
            if options.matches(member.name()) {
                out.bulk(member.name());
                out.bulk_double(member.score());
                written += 2;
            }
        };
        let mut cursor = 0;
        if zset.is_large() {
            cursor = options.steps(|at, visited| {
                zset.scan(at, |member| {
                    *visited += 1;
                    visit(member);
                })
            });
        } else {
            zset.for_ranks(0, zset.len(), false, visit);
        }
        (written, cursor)
    });
    Ok(())
}
