//! Ways of never coming to an end, one for each shape of loop that a compiler knows.

use core::hint::black_box;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

static GOES_ON: AtomicBool = AtomicBool::new(true);

/// Goes round for ever, or practically so; returns at once for an unknown kind.
pub fn go_round(kind: &str) -> &'static str {
    match kind {
        "empty" => empty(),
        "while" => wait_for_nobody(),
        "recursion" => drop(black_box(one_way(200))),
        "slice" => count_units(),
        "core" => repeat_for_ever(),
        "table" => state_machine(),
        _ => return "unknown loop",
    }
    "has ended"
}

#[inline(never)]
fn empty() {
    #[expect(clippy::empty_loop, reason = "this is what shall be cut")]
    loop {}
}

#[inline(never)]
fn wait_for_nobody() {
    #[expect(clippy::missing_spin_loop, reason = "this is what shall be cut")]
    while GOES_ON.load(Relaxed) {}
}

/// A loop of the standard library's.
#[inline(never)]
fn repeat_for_ever() {
    #[expect(clippy::infinite_iter, reason = "this is what shall be cut")]
    core::iter::repeat(()).for_each(black_box);
}

/// Two functions that call each other, twice each, and hold no loop: 2^200 calls on a stack of 200.
#[inline(never)]
fn one_way(depth: u64) -> u64 {
    if depth == 0 { 1 } else { other_way(black_box(depth) - 1).wrapping_add(other_way(black_box(depth) - 1)) }
}

#[inline(never)]
fn other_way(depth: u64) -> u64 {
    if depth == 0 { 2 } else { one_way(black_box(depth) - 1).wrapping_mul(one_way(black_box(depth) - 1)) }
}

/// A slice of which there are more elements than anybody counts.
#[inline(never)]
fn count_units() {
    let units = [(); usize::MAX];
    for unit in &units {
        black_box(unit);
    }
}

/// A loop that compilers make of jumps through a table.
#[inline(never)]
fn state_machine() {
    let mut state = 0_u32;
    loop {
        state = match black_box(state) {
            0 => black_box(5),
            1 => black_box(3) + 1,
            2 => black_box(6) - 2,
            3 => black_box(1),
            4 => black_box(0) * 2,
            5 => black_box(7) ^ 5,
            6 => return,
            _ => black_box(3),
        };
    }
}
