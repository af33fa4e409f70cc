//! Inline commands: a line of words as a person types it into a terminal, with quotes and escapes.

use super::args::Span;
use alloc::vec::Vec;

/// Splits `line` into words, unescaped into `scratch`; false if quotes do not balance.
///
/// `"..."` knows `\n \r \t \b \a \xHH` and backslash for any other byte, `'...'` knows `\'` only, and a closing quote
/// must end its word.
pub fn split_words(line: &[u8], scratch: &mut Vec<u8>, spans: &mut Vec<Span>) -> bool {
    scratch.clear();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|&c| is_space(c)) {
            at += 1;
        }
        if at >= line.len() || line.get(at) == Some(&0) {
            return true;
        }
        let start = scratch.len() as u32;
        match word(line, at, scratch) {
            Some(next) => at = next,
            None => return false,
        }
        spans.push(Span { start, end: scratch.len() as u32 });
    }
}

fn is_space(c: u8) -> bool {
    matches!(c, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Unescapes one word from `at` on and gives where it ended, or nothing if a quote is open or glued to more text.
fn word(line: &[u8], mut at: usize, out: &mut Vec<u8>) -> Option<usize> {
    loop {
        match line.get(at) {
            None | Some(0) => return Some(at),
            Some(&c) if is_space(c) => return Some(at),
            Some(&quote @ (b'"' | b'\'')) => {
                let next = quoted(line, at + 1, quote, out)?;
                return line.get(next).is_none_or(|&c| is_space(c)).then_some(next);
            }
            Some(&c) => {
                out.push(c);
                at += 1;
            }
        }
    }
}

/// Unescapes from just behind the opening quote; gives where the closing one ends.
fn quoted(line: &[u8], mut at: usize, quote: u8, out: &mut Vec<u8>) -> Option<usize> {
    loop {
        let c = *line.get(at)?;
        at += 1;
        match (c, line.get(at)) {
            (0, _) => return None,
            (c, _) if c == quote => return Some(at),
            (b'\\', Some(b'x')) if quote == b'"' && hex(line, at + 1).is_some() => {
                out.push(hex(line, at + 1)?);
                at += 3;
            }
            (b'\\', Some(&escaped)) if quote == b'"' => {
                out.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                at += 1;
            }
            (b'\\', Some(b'\'')) if quote == b'\'' => {
                out.push(b'\'');
                at += 1;
            }
            (c, _) => out.push(c),
        }
    }
}

/// The byte that two hexadecimal digits at `at` spell.
fn hex(line: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| char::from(*line.get(at)?).to_digit(16);
    Some((digit(at)? * 16 + digit(at + 1)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Option<Vec<Vec<u8>>> {
        let (mut scratch, mut spans) = (Vec::new(), Vec::new());
        split_words(line.as_bytes(), &mut scratch, &mut spans)
            .then(|| spans.iter().map(|s| scratch[s.start as usize..s.end as usize].to_vec()).collect())
    }

    #[test]
    fn quotes_and_escapes() {
        for (line, expected) in [
            ("set  a b ", Some(&["set", "a", "b"][..])),
            ("", Some(&[])),
            (r#"set "a b" 'c "d'"#, Some(&["set", "a b", "c \"d"])),
            (r#""\x41\n\q" '\'\n'"#, Some(&["A\nq", "'\\n"])),
            (r#""\xzz""#, Some(&["xzz"])),
            (r#"a"b c""#, Some(&["ab c"])),
            (r#""a"b"#, None),
            (r#""a"#, None),
            ("'a", None),
        ] {
            let expected = expected.map(|e| e.iter().map(|w| w.as_bytes().to_vec()).collect());
            assert_eq!(words(line), expected, "{line}");
        }
    }
}
