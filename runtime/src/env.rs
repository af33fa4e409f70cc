//! What the operator tells the program: one text, by custom words like `port=6379`.

use core::slice;
use core::str;

use crate::platform;

/// The whole argument text; empty when there is none or when it is not UTF-8.
pub fn arguments() -> &'static str {
    let Some(boot) = platform::boot() else { return "" };
    if boot.arguments_bytes == 0 {
        return "";
    }
    // SAFETY: the shim keeps the text mapped read-only for as long as the guest runs.
    let bytes = unsafe { slice::from_raw_parts(boot.arguments as *const u8, boot.arguments_bytes as usize) };
    str::from_utf8(bytes).unwrap_or_default()
}

/// The words of the argument text.
pub fn words() -> impl Iterator<Item = &'static str> {
    arguments().split_ascii_whitespace()
}

/// The value of the last word `name=value`.
pub fn value(name: &str) -> Option<&'static str> {
    words().filter_map(|word| word.strip_prefix(name)?.strip_prefix('=')).last()
}

/// Bytes of heap that the machine gives the program.
pub fn heap_bytes() -> usize {
    platform::boot().map_or(0, |boot| boot.heap_bytes as usize)
}
