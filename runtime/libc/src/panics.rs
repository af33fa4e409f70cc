//! Where a program has panicked: the end of its first thread by a panic is reported like an abort.
//!
//! When `main` has panicked, its stack is unwound and gone before it is known that nobody catches the panic. So the calls
//! that have led to a panic are noted where unwinding begins, for each thread.

use core::arch::global_asm;
use core::cell::Cell;
use core::ffi::c_int;

use runtime::thread::{self, Masked};

use crate::{io, tls, unwind};

/// The status of a program whose `main` has panicked; `std` gives it to nothing else by itself.
const PANICKED: c_int = 101;

/// Most calls that are noted.
const FRAMES: usize = 40;

/// The calls that have led to a thread's newest panic, innermost first; zeros behind them.
pub(crate) struct Trace(Cell<[usize; FRAMES]>);

impl Trace {
    pub(crate) const fn new() -> Self {
        Self(Cell::new([0; FRAMES]))
    }
}

// What the linker puts in place of `_Unwind_RaiseException`: notes the calls that have led here, and goes on with the
// unwinder, whose name is then this. A jump, so that there is no frame between the panic and the unwinder.
global_asm!(
    ".pushsection .text.__wrap__Unwind_RaiseException, \"ax\", @progbits",
    ".globl __wrap__Unwind_RaiseException",
    ".type __wrap__Unwind_RaiseException, @function",
    "__wrap__Unwind_RaiseException:",
    "push rdi",
    "call {note}",
    "pop rdi",
    "jmp __real__Unwind_RaiseException",
    ".size __wrap__Unwind_RaiseException, . - __wrap__Unwind_RaiseException",
    ".popsection",
    note = sym note,
);

/// Notes the calls that have led to the caller.
extern "C" fn note() {
    let _masked = Masked::new();
    let start: usize;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) start, options(nomem, nostack, preserves_flags)) };
    let mut frames = [0; FRAMES];
    let mut used = 0;
    if let Some(stack) = thread::current_stack() {
        unwind::follow(start, &stack, |address| {
            frames[used] = address;
            used += 1;
            used < FRAMES
        });
    }
    tls::with_control(|control| control.panicked.0.set(frames));
}

/// To be called with the status that `main` has returned: ends the program with a report if that is because it has panicked.
pub(crate) fn end_if_panicked(status: c_int) {
    let frames = tls::with_control(|control| control.panicked.0.get());
    if status != PANICKED || frames[0] == 0 {
        return;
    }
    let used = frames.iter().position(|address| *address == 0).unwrap_or(FRAMES);
    // What was written before the end is there afterwards, as with any process that ends.
    runtime::fs::finish();
    io::with_last_words(|words| {
        let words = str::from_utf8(words).unwrap_or_default().trim_end();
        runtime::exit::abort_at(format_args!("the program has panicked; its last words:\n{words}"), &frames[..used])
    })
}
