//! List commands that search, and those that move elements between lists.

use super::context::Ctx;
use super::error::{Error, NOT_INTEGER, SYNTAX};
use crate::base::{SmallBytes, parse_i64, same, same_ignoring_case};
use crate::resp::Output;
use crate::store::List;

struct Search {
    rank: i64,
    count: Option<usize>,
    max_len: usize,
}

fn search(ctx: &Ctx<'_>) -> Result<Search, Error> {
    let mut found = Search { rank: 1, count: None, max_len: 0 };
    for at in (3..ctx.args.len()).step_by(2) {
        let word = ctx.args.at(at);
        if at + 1 >= ctx.args.len() {
            return Err(SYNTAX);
        }
        let number = |message| {
            let number = parse_i64(ctx.args.at(at + 1)).ok_or(NOT_INTEGER)?;
            usize::try_from(number).map_err(|_| Error::Text(message))
        };
        if same_ignoring_case(word, "rank") {
            found.rank = ctx.integer(at + 1)?;
            if found.rank == 0 {
                return Err(Error::Text(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use \
                     negative to start from the end of the list",
                ));
            }
            if found.rank == i64::MIN {
                return Err(super::error::OUT_OF_RANGE);
            }
        } else if same_ignoring_case(word, "count") {
            found.count = Some(number("ERR COUNT can't be negative")?);
        } else if same_ignoring_case(word, "maxlen") {
            found.max_len = number("ERR MAXLEN can't be negative")?;
        } else {
            return Err(SYNTAX);
        }
    }
    Ok(found)
}

impl Search {
    /// Writes the positions found: an array if a count was asked for, else one.
    fn run(&self, list: &List, element: &[u8], out: &mut Output) {
        let mark = out.mark();
        let limit = if self.max_len == 0 { list.len() } else { self.max_len };
        let wanted = match self.count {
            None => 1,
            Some(0) => usize::MAX,
            Some(count) => count,
        };
        let skip = self.rank.unsigned_abs() as usize - 1;
        let mut written = 0;
        let mut emit = |at: usize| {
            out.count(at);
            written += 1;
        };
        let matches = |(at, e): (usize, &[u8])| same(e, element).then_some(at);
        if self.rank > 0 {
            list.iter().enumerate().take(limit).filter_map(matches).skip(skip).take(wanted).for_each(&mut emit);
        } else {
            let last = list.len().wrapping_sub(1);
            let backwards = list.iter().rev().enumerate().take(limit).filter_map(matches);
            backwards.skip(skip).take(wanted).for_each(|at| emit(last - at));
        }
        match (self.count, written) {
            (Some(_), _) => out.insert_array(mark, written),
            (None, 0) => out.null(),
            (None, _) => {}
        }
    }
}

/// `LPOS key element [RANK rank] [COUNT count] [MAXLEN len]`
pub fn lpos(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key, element) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let search = search(ctx)?;
    let (db, out) = ctx.parts();
    match db.read::<List>(now_ms, key)? {
        Some(list) => search.run(list, element, out),
        None if search.count.is_some() => out.array(0),
        None => out.null(),
    }
    Ok(())
}

fn move_element(ctx: &mut Ctx<'_>, from_front: bool, to_front: bool) -> Result<(), Error> {
    let (now_ms, from, to) = (ctx.now_ms, ctx.key(), ctx.args.at(2));
    let db = ctx.db();
    if db.read::<List>(now_ms, from)?.is_none() {
        ctx.out.null();
        return Ok(());
    }
    db.read::<List>(now_ms, to)?;
    let taken: Option<Option<SmallBytes>> = if from == to {
        // One list: turned in place, so that a list of one element does not vanish on the way.
        db.update(now_ms, from, false, |list: &mut List| {
            let element = if from_front { list.pop_front() } else { list.pop_back() };
            if let Some(element) = &element {
                if to_front { list.push_front(element.as_slice()) } else { list.push_back(element.as_slice()) }
            }
            element
        })?
    } else {
        let take = |list: &mut List| if from_front { list.pop_front() } else { list.pop_back() };
        let taken = db.update(now_ms, from, false, take)?;
        if let Some(Some(element)) = &taken {
            db.update(now_ms, to, true, |list: &mut List| {
                if to_front { list.push_front(element.as_slice()) } else { list.push_back(element.as_slice()) }
            })?;
        }
        taken
    };
    match taken.flatten() {
        Some(element) => {
            ctx.modified(from);
            ctx.modified(to);
            ctx.out.bulk(element.as_slice());
        }
        None => ctx.out.null(),
    }
    Ok(())
}

/// `RPOPLPUSH source destination`
pub fn rpoplpush(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    move_element(ctx, false, true)
}

/// `LMOVE source destination LEFT | RIGHT LEFT | RIGHT`
pub fn lmove(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let side = |at: usize| match ctx.args.at(at) {
        word if same_ignoring_case(word, "left") => Ok(true),
        word if same_ignoring_case(word, "right") => Ok(false),
        _ => Err(SYNTAX),
    };
    let (from_front, to_front) = (side(3)?, side(4)?);
    move_element(ctx, from_front, to_front)
}
