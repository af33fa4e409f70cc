//! What a guest may not do.

use alloc::format;
use alloc::string::String;
use core::hint::black_box;

use crate::processor;

/// Commits the fault of this name: `null`, `read-shim`, `read-device`, `write-device`, `stack`, `invalid`, or one that only
/// some processors know ([`processor::fault`]). Returns only if nobody minded.
pub fn commit(kind: &str) -> String {
    match kind {
        "null" => processor::read(0),
        "read-shim" => processor::read(processor::SHIM),
        "read-device" => processor::read(processor::DEVICE),
        "write-device" => processor::write(processor::DEVICE),
        "stack" => drop(black_box(descend(1))),
        "invalid" => processor::invalid(),
        _ if processor::fault(kind) => {}
        _ => return format!("unknown fault {kind:?}"),
    }
    format!("the fault {kind:?} went unnoticed")
}

/// Uses the stack up.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the point")]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    descend(depth + 1) + frame[(depth % 64) as usize]
}
