//! What the operator tells the program: one text, by custom words like `port=6379`, and environment variables.

use core::slice;
use core::str;

use crate::platform;

/// Stands between the arguments and the variables, and between variables.
const VARIABLE_SEPARATOR: char = '\0';
/// Stands before each argument of those that were given one by one, because they may hold spaces.
const ARGUMENT_SEPARATOR: char = '\u{1f}';

/// All that the shim passes on; empty when there is nothing or when it is not UTF-8.
fn text() -> &'static str {
    let Some(boot) = platform::boot() else { return "" };
    if boot.arguments_bytes == 0 {
        return "";
    }
    // SAFETY: the shim keeps the text mapped read-only for as long as the guest runs.
    let bytes = unsafe { slice::from_raw_parts(boot.arguments as *const u8, boot.arguments_bytes as usize) };
    str::from_utf8(bytes).unwrap_or_default()
}

/// The whole argument text; empty when there is none.
pub fn arguments() -> &'static str {
    text().split(VARIABLE_SEPARATOR).next().unwrap_or_default()
}

/// The words of the argument text; or the arguments, if they were given one by one.
pub fn words() -> impl Iterator<Item = &'static str> {
    words_of(arguments())
}

fn words_of(text: &str) -> impl Iterator<Item = &str> {
    let one_by_one = text.strip_prefix(ARGUMENT_SEPARATOR);
    let words = if one_by_one.is_some() { "" } else { text };
    one_by_one.into_iter().flat_map(|text| text.split(ARGUMENT_SEPARATOR)).chain(words.split_ascii_whitespace())
}

/// The environment variables, `NAME=VALUE` each, as they were given.
pub fn variables() -> impl Iterator<Item = &'static str> {
    text().split(VARIABLE_SEPARATOR).skip(1)
}

/// The value of the last word `name=value`.
pub fn value(name: &str) -> Option<&'static str> {
    words().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).last()
}

/// Bytes of heap that the machine gives the program.
pub fn heap_bytes() -> usize {
    platform::boot().map_or(0, |boot| boot.heap_bytes as usize)
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn words_are_separated_by_spaces_or_were_given_one_by_one() {
        let words = |text| words_of(text).collect::<Vec<_>>();
        assert_eq!(words(" port=1  b "), ["port=1", "b"]);
        assert_eq!(words("\u{1f}one two\u{1f}\u{1f}three"), ["one two", "", "three"]);
        assert!(words("").is_empty());
        assert_eq!(words("\u{1f}"), [""]);
    }
}
