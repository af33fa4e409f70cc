//! Strings as bits.

use super::context::Ctx;
use super::error::{Error, SYNTAX};
use super::strings::byte_range;
use crate::base::{parse_i64, same_ignoring_case};
use crate::store::Str;

fn bit_offset(ctx: &Ctx<'_>) -> Result<usize, Error> {
    let offset = parse_i64(ctx.args.at(2)).and_then(|offset| usize::try_from(offset).ok());
    offset
        .filter(|offset| offset / 8 < ctx.server.config.bulk_bytes)
        .ok_or(Error::Text("ERR bit offset is not an integer or out of range"))
}

/// `SETBIT key offset value`
pub fn setbit(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let offset = bit_offset(ctx)?;
    let bit = match parse_i64(ctx.args.at(3)) {
        Some(bit @ 0..=1) => bit as u8,
        _ => return Err(Error::Text("ERR bit is not an integer or out of range")),
    };
    let old = ctx.db().read::<Str>(now_ms, key)?.map_or(0, Str::len);
    super::strings::check_length(ctx, old, offset / 8 + 1)?;
    let (byte, shift) = (offset / 8, 7 - offset % 8);
    let change = |value: &mut Str| match value.grown(byte + 1).get_mut(byte) {
        Some(place) => {
            let before = *place >> shift & 1;
            *place = *place & !(1 << shift) | bit << shift;
            before
        }
        None => 0,
    };
    let before = ctx.db().update(now_ms, key, true, change)?.unwrap_or(0);
    // A bit that was so already is no change, as redis 7 has it.
    if byte >= old || before != bit {
        ctx.modified(key);
    }
    ctx.out.integer(i64::from(before));
    Ok(())
}

/// `GETBIT key offset`
pub fn getbit(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    let offset = bit_offset(ctx)?;
    let value = ctx.db().read::<Str>(now_ms, key)?;
    let mut digits = [0; 20];
    let byte = value.and_then(|value| value.text(&mut digits).get(offset / 8).copied()).unwrap_or(0);
    ctx.out.integer(i64::from(byte >> (7 - offset % 8) & 1));
    Ok(())
}

/// `BITCOUNT key [start end [BYTE | BIT]]`
pub fn bitcount(ctx: &mut Ctx<'_>) -> Result<(), Error> {
    let (now_ms, key) = (ctx.now_ms, ctx.key());
    // A missing key, and a range that is empty by its signs, come before a wrong option, as in redis.
    if ctx.db().read::<Str>(now_ms, key)?.is_none() {
        ctx.out.integer(0);
        return Ok(());
    }
    let range = match ctx.args.len() {
        2 => None,
        4 | 5 => Some((ctx.integer(2)?, ctx.integer(3)?)),
        _ => return Err(SYNTAX),
    };
    if range.is_some_and(|(start, end)| start < 0 && end < 0 && start > end) {
        ctx.out.integer(0);
        return Ok(());
    }
    let by_bit = ctx.args.len() == 5 && same_ignoring_case(ctx.args.at(4), "bit");
    if ctx.args.len() == 5 && !by_bit && !same_ignoring_case(ctx.args.at(4), "byte") {
        return Err(SYNTAX);
    }
    let (db, out) = ctx.parts();
    let mut digits = [0; 20];
    let text = db.read::<Str>(now_ms, key)?.map_or(&[][..], |value| value.text(&mut digits));
    let units = if by_bit { text.len() * 8 } else { text.len() };
    let part = match range {
        None => Some((0, units)),
        Some((start, end)) => byte_range(start, end, units),
    };
    let (from, count) = part.unwrap_or((0, 0));
    out.count(if by_bit {
        count_bits(text, from, from + count)
    } else {
        count_bits(text, from * 8, (from + count) * 8)
    });
    Ok(())
}

/// Ones among the bits `from..to`.
fn count_bits(text: &[u8], from: usize, to: usize) -> usize {
    let ones = |bytes: &[u8]| -> usize { bytes.iter().map(|byte| byte.count_ones() as usize).sum() };
    let before = |bit: usize| {
        let behind = text.get(bit / 8).map_or(0, |byte| (byte << (bit % 8)).count_ones() as usize);
        ones(text.get(..(bit / 8 + 1).min(text.len())).unwrap_or(&[])) - behind
    };
    if to <= from { 0 } else { before(to) - before(from) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_bits_count_right() {
        let text = [0b1010_1111, 0, 0xff, 0b0000_0001];
        let bit = |at: usize| usize::from(text[at / 8] >> (7 - at % 8) & 1);
        for from in 0..=32 {
            for to in from..=32 {
                assert_eq!(count_bits(&text, from, to), (from..to).map(bit).sum(), "{from}..{to}");
            }
        }
    }
}
