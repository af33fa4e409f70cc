//! Dhrystone 2.1 as a Pollux program: a guest that computes, and checks what it computed.
//!
//! The source is R. P. Weicker's synthetic benchmark in its version 2.1 of 1988 (published for Ada, C and Pascal; "Dhrystone:
//! A Synthetic Systems Programming Benchmark", Communications of the ACM 27(10), 1984, and "Dhrystone Benchmark:
//! Rationale for Version 2 and Measurement Rules", SIGPLAN Notices 23(8), 1988), written anew in Rust. Procedures,
//! functions and variables keep their published names, so that they can be compared.
//!
//! The rules: procedures are neither merged nor inlined, nor does one know what another is called with, as though
//! they were compiled apart ([`procedures`]). Pointers name records of a table, and arrays, variants and pointers are
//! checked, as in Ada and Pascal. At the end every variable must have its documented value. A run here takes another
//! number of instructions than a run in C, so numbers compare modes of this runtime, not processors.
//!
//! | argument | what it does |
//! |---|---|
//! | `runs=N` | N times through the loop, 1000000 unless given |
//! | `yield=K` | the task gives way after every K runs; 0, the default, never: one stretch without a hypercall |
//! | `serve` | listens on port 7000, and answers each line `run N` |
//!
//! The answer is two lines, on the console unless it serves:
//!
//! ```text
//! dhrystone: runs=N ok
//! dhrystone: elapsed_ns=E start_ns=S end_ns=T
//! ```
//!
//! or, in the first, `dhrystone: runs=N WRONG: <field> is X, expected Y`. The exit code is then 1. Giving way does not end
//! an epoch by itself: the executor ends it when the polls have used up the epoch's budget.
#![no_std]

extern crate alloc;

pub mod benchmark;
pub mod check;
pub mod measure;
pub mod procedures;
pub mod records;
mod serve;
pub mod settings;

use alloc::boxed::Box;
use core::error::Error;

use runtime::print;

use measure::measure;
use settings::Settings;

/// Does what the arguments say, and gives the exit code.
///
/// # Errors
/// When an argument is wrong, or when the port cannot be listened on.
pub async fn main() -> Result<i32, Box<dyn Error>> {
    let settings = Settings::parse(runtime::env::words())?;
    if settings.serve {
        return Ok(serve::serve(settings.yield_after).await?);
    }
    let report = measure(settings.runs, settings.yield_after).await;
    print!("{report}");
    Ok(report.outcome.is_err().into())
}
