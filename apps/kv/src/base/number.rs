//! Numbers to text and back, exactly as redis does it, without the formatting machinery where it matters.

use core::fmt::Write;

/// Parses a decimal integer as redis does: no sign but `-`, no leading zeros, no spaces, nothing after it.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &c in digits {
        let digit = c.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        // Nineteen digits stay below 10^19 and so below 2^64.
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
    }
    match negative {
        false => i64::try_from(value).ok(),
        true if value <= i64::MIN.unsigned_abs() => Some((value as i64).wrapping_neg()),
        true => None,
    }
}

/// Room for the longest 64-bit integer in decimal.
pub type Digits = [u8; 20];

/// The two digits of every number below 100.
const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut number = 0;
    while number < 100 {
        pairs[number] = [b'0' + (number / 10) as u8, b'0' + (number % 10) as u8];
        number += 1;
    }
    pairs
};

/// Writes `value` in decimal at the end of `digits` and returns the text.
#[inline]
pub fn write_u64(value: u64, digits: &mut Digits) -> &[u8] {
    let (mut at, mut rest) = (digits.len(), value);
    while rest >= 100 {
        let pair = PAIRS[(rest % 100) as usize];
        rest /= 100;
        at -= 2;
        [digits[at], digits[at + 1]] = pair;
    }
    let [tens, ones] = PAIRS[rest as usize];
    at -= 1;
    digits[at] = ones;
    if rest >= 10 {
        at -= 1;
        digits[at] = tens;
    }
    &digits[at..]
}

/// Writes `value` in decimal at the end of `digits` and returns the text.
#[inline]
pub fn write_i64(value: i64, digits: &mut Digits) -> &[u8] {
    let len = write_u64(value.unsigned_abs(), digits).len();
    let mut at = digits.len() - len;
    if value < 0 {
        at -= 1;
        digits[at] = b'-';
    }
    &digits[at..]
}

/// Parses a double as redis does for scores and increments; NaN is refused. Integers take no floating-point work.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    if text.len() <= 15
        && let Some(integer) = parse_i64(text)
    {
        return Some(integer as f64);
    }
    let value: f64 = core::str::from_utf8(text).ok()?.parse().ok()?;
    let digits = text.iter().any(u8::is_ascii_digit);
    // A decimal that overflows is an error; the infinity that a user spells out is not.
    if value.is_nan() || (value.is_infinite() && digits) { None } else { Some(value) }
}

/// Parses one end of a range of scores as redis does, which is more lenient there: nothing at all is 0, leading spaces do
/// not count, and what overflows is infinite.
pub fn parse_score_bound(text: &[u8]) -> Option<f64> {
    if text.is_empty() {
        return Some(0.0);
    }
    let value: f64 = core::str::from_utf8(text.trim_ascii_start()).ok()?.parse().ok()?;
    (!value.is_nan()).then_some(value)
}

/// A short text on the stack that numbers are formatted into.
pub struct DecimalBuf {
    bytes: [u8; 400],
    len: usize,
}

impl Default for DecimalBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl DecimalBuf {
    /// An empty text.
    pub const fn new() -> Self {
        Self { bytes: [0; 400], len: 0 }
    }

    /// The text written so far.
    pub fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn extend(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push(byte);
        }
    }

    fn zeros(&mut self, count: usize) {
        for _ in 0..count {
            self.push(b'0');
        }
    }
}

impl Write for DecimalBuf {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        self.extend(text.as_bytes());
        Ok(())
    }
}

/// Writes the cases that need no digits generated; false if `value` is not one of them.
fn format_plain(value: f64, out: &mut DecimalBuf) -> bool {
    if value.is_infinite() {
        out.extend(if value > 0.0 { b"inf" } else { b"-inf" });
        return true;
    }
    let integer = value as i64;
    if integer.unsigned_abs() < 1 << 53 && integer as f64 == value && !(integer == 0 && value.is_sign_negative()) {
        out.extend(write_i64(integer, &mut [0; 20]));
        return true;
    }
    false
}

/// Formats as C's `%.17g`, which is how redis 7.0 prints scores.
pub fn format_f64(value: f64, out: &mut DecimalBuf) {
    const PRECISION: i32 = 17;
    if format_plain(value, out) {
        return;
    }
    let mut scientific = DecimalBuf::new();
    // Formatting into this buffer cannot fail: it drops what does not fit, and 24 bytes do.
    let _ = write!(scientific, "{value:.16e}");
    let text = scientific.as_slice();
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        _ => (false, text),
    };
    let split = text.iter().position(|&c| c == b'e').unwrap_or(text.len());
    let exponent = parse_i64(text.get(split + 1..).unwrap_or(&[])).unwrap_or(0) as i32;
    let mut digits = [0; 20];
    let mut count = 0;
    for &c in text.iter().take(split).filter(|&&c| c != b'.').take(digits.len()) {
        digits[count] = c;
        count += 1;
    }
    while count > 1 && digits[count - 1] == b'0' {
        count -= 1;
    }
    if negative {
        out.push(b'-');
    }
    place_digits(&digits[..count], exponent, !(-4..PRECISION).contains(&exponent), out);
}

/// Writes `d.ddd * 10^exponent`, in scientific or in positional notation.
fn place_digits(digits: &[u8], exponent: i32, scientific: bool, out: &mut DecimalBuf) {
    let count = digits.len();
    if scientific {
        out.extend(&digits[..1]);
        if count > 1 {
            out.push(b'.');
            out.extend(&digits[1..]);
        }
        let _ = write!(out, "e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.unsigned_abs());
    } else if exponent < 0 {
        out.extend(b"0.");
        out.zeros(exponent.unsigned_abs() as usize - 1);
        out.extend(digits);
    } else {
        let whole = exponent as usize + 1;
        out.extend(&digits[..count.min(whole)]);
        out.zeros(whole.saturating_sub(count));
        if count > whole {
            out.push(b'.');
            out.extend(&digits[whole..]);
        }
    }
}

/// Formats as the shortest positional decimal that reads back as the same double.
pub fn format_shortest(value: f64, out: &mut DecimalBuf) {
    if !format_plain(value, out) {
        let _ = write!(out, "{value}");
    }
}

/// Digits after the point that [`decimal_add`] keeps, as redis's `%.17Lf` does.
const FRACTION_DIGITS: usize = 17;
const SCALE: i128 = 10i128.pow(FRACTION_DIGITS as u32);

/// Adds two decimal texts exactly (redis adds `long double`s, which for such texts is the same) and writes the sum;
/// false if one of them is no plain decimal of moderate size, where the caller adds doubles instead.
pub fn decimal_add(a: &[u8], b: &[u8], out: &mut DecimalBuf) -> bool {
    let (Some(a), Some(b)) = (parse_decimal(a), parse_decimal(b)) else { return false };
    let sum = a + b;
    if sum < 0 {
        out.push(b'-');
    }
    let magnitude = sum.unsigned_abs();
    let _ = write!(out, "{}", magnitude / SCALE.unsigned_abs());
    let mut fraction = magnitude % SCALE.unsigned_abs();
    if fraction != 0 {
        let mut width = FRACTION_DIGITS;
        while fraction.is_multiple_of(10) {
            fraction /= 10;
            width -= 1;
        }
        let _ = write!(out, ".{fraction:0width$}");
    }
    true
}

/// Parses `-ddd.ddd` of at most 20 digits before and 17 after the point into units of 10^-17.
fn parse_decimal(text: &[u8]) -> Option<i128> {
    let (negative, text) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (mut value, mut digits, mut fraction) = (0i128, 0, None);
    for &c in text {
        match (c, fraction) {
            (b'.', None) => fraction = Some(0),
            (b'0'..=b'9', _) => {
                value = value * 10 + i128::from(c - b'0');
                digits += 1;
                fraction = fraction.map(|n| n + 1);
            }
            _ => return None,
        }
        if digits > 20 + fraction.unwrap_or(0) || fraction > Some(FRACTION_DIGITS) {
            return None;
        }
    }
    if digits == 0 {
        return None;
    }
    value *= 10i128.pow((FRACTION_DIGITS - fraction.unwrap_or(0)) as u32);
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::String;

    fn g(value: f64) -> String {
        let mut out = DecimalBuf::new();
        format_f64(value, &mut out);
        String::from_utf8_lossy(out.as_slice()).into()
    }

    #[test]
    fn integers_parse_strictly() {
        for (text, expected) in [
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("-9223372036854775808", Some(i64::MIN)),
            ("-9223372036854775809", None),
            ("18446744073709551616", None),
            ("99999999999999999999", None),
            ("", None),
            ("-", None),
            ("-0", None),
            ("01", None),
            ("+1", None),
            (" 1", None),
            ("1 ", None),
            ("1a", None),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn integers_print() {
        for value in [0, 1, -1, 9, 10, 99, 100, 101, 999, -1000, 12_345, i64::MAX, i64::MIN] {
            assert_eq!(write_i64(value, &mut [0; 20]), alloc::format!("{value}").as_bytes());
        }
        assert_eq!(write_u64(u64::MAX, &mut [0; 20]), b"18446744073709551615");
    }

    #[test]
    fn doubles_print_as_percent_17g() {
        for (value, expected) in [
            (0.1, "0.10000000000000001"),
            (1.5, "1.5"),
            (-0.0, "-0"),
            (3.0, "3"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (1e20, "1e+20"),
            (1.5e300, "1.5000000000000001e+300"),
            (1e-5, "1.0000000000000001e-05"),
            (0.0001, "0.0001"),
            (-12345.678, "-12345.678"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (123456789012345678.0, "1.2345678901234568e+17"),
            (5e-324, "4.9406564584124654e-324"),
        ] {
            assert_eq!(g(value), expected);
        }
    }

    #[test]
    fn doubles_parse() {
        assert_eq!(parse_f64(b"1.5"), Some(1.5));
        assert_eq!(parse_f64(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"+inf"), Some(f64::INFINITY));
        assert_eq!(parse_f64(b"1e3"), Some(1000.0));
        for bad in ["nan", "", "a", "1 ", "1e999", "0x"] {
            assert_eq!(parse_f64(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn score_bounds_are_lenient() {
        for (text, expected) in
            [("", Some(0.0)), (" 1", Some(1.0)), ("1e999", Some(f64::INFINITY)), ("nan", None), ("1 ", None)]
        {
            assert_eq!(parse_score_bound(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn decimals_add_exactly() {
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5", "-5", "0"),
            ("-0.25", "0.1", "-0.15"),
            ("3", "1.00000000000000001", "4.00000000000000001"),
            ("999999999999999999", "1", "1000000000000000000"),
        ] {
            let mut out = DecimalBuf::new();
            assert!(decimal_add(a.as_bytes(), b.as_bytes(), &mut out));
            assert_eq!(String::from_utf8_lossy(out.as_slice()), expected);
        }
        for odd in ["5e3", "", ".", "1.2.3", "123456789012345678901", "0.123456789012345678"] {
            assert!(!decimal_add(odd.as_bytes(), b"1", &mut DecimalBuf::new()), "{odd}");
        }
    }
}
