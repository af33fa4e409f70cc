//! Computations beside the other tasks, and what might go wrong there.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::hint::black_box;

use runtime::compute::spawn;

use crate::{loops, measure, processor};

/// Stack of a computation, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// Computes so many rounds, or tries what the word says.
pub async fn run(what: &str) -> String {
    if let Ok(rounds) = what.parse() {
        return format!("computed {:x}", spawn(STACK_BYTES, move || measure::compute(rounds)).await);
    }
    if let Some(kind) = what.strip_prefix("loop ") {
        let kind = String::from(kind);
        return spawn(STACK_BYTES, move || loops::go_round(&kind)).await.into();
    }
    if let Some(rounds) = what.strip_prefix("floats ").and_then(|rounds| rounds.parse().ok()) {
        return format!("floats {:x}", spawn(STACK_BYTES, move || measure::floats(rounds)).await);
    }
    if let Some(rounds) = what.strip_prefix("registers ").and_then(|rounds| rounds.parse().ok()) {
        return format!("kept {}", spawn(STACK_BYTES, move || processor::registers_are_kept(rounds)).await);
    }
    match what {
        "allocate" => format!("allocated {}", spawn(STACK_BYTES, || churn(500_000)).await),
        "panic" => spawn(STACK_BYTES, || crate::outer_caller(1)).await,
        "spawn" => {
            spawn(STACK_BYTES, || drop(runtime::spawn(async {}))).await;
            "a computation has started a task".into()
        }
        "overflow" => format!("descended {}", spawn(0, || descend(100)).await),
        _ => format!("unknown computation {what:?}"),
    }
}

/// Takes memory and gives it back, over and over, and looks whether it is its own alone. Returns how many pieces it had.
fn churn(rounds: u64) -> u64 {
    let mut held: Vec<(u8, Box<[u8]>)> = Vec::new();
    let mut state = 1_u64;
    for round in 0..rounds {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let fill = round as u8;
        held.push((fill, alloc::vec![fill; (state >> 54) as usize].into_boxed_slice()));
        if held.len() > 64 {
            let (fill, piece) = held.swap_remove((state >> 40) as usize % 64);
            assert!(piece.iter().all(|&byte| byte == fill), "memory of a computation was written to by somebody else");
        }
    }
    rounds
}

/// Uses more stack than there is, but not without end.
#[inline(never)]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 { 0 } else { descend(depth - 1) + 1 + (frame[(depth % 64) as usize] - depth) }
}
