//! What an ordinary program may expect of `std` on a system that is no Unix: one line for each check, the same on Linux and in
//! an image with the `std` for hermit. What only that one prints begins with `hermit: `.
//!
//! The first argument says how many pieces are computed. The variable `FOLDER` names an empty folder that can be written to,
//! `PACKED` that of the packed files. It begins when it is given a line of standard input, or its end, and goes on when it has
//! computed and is given another one. Nothing that it prints depends on time, chance or place.

use std::env;
use std::fmt::Debug;
use std::io::stdin;
use std::path::PathBuf;

#[path = "../../files/src/bytes.rs"]
mod bytes;
#[path = "../../conformance/src/collections.rs"]
mod collections;
mod files;
#[cfg(target_os = "hermit")]
mod hermit;
#[path = "../../conformance/src/net.rs"]
mod net;
#[path = "../../parallel/src/main.rs"]
mod parallel;
#[path = "../../conformance/src/process.rs"]
mod process;
#[path = "../../conformance/src/sync.rs"]
mod sync;
#[path = "../../conformance/src/system.rs"]
mod system;
#[path = "../../conformance/src/threads.rs"]
mod threads;
#[path = "../../conformance/src/time.rs"]
mod time;
mod turns;
#[path = "../../conformance/src/values.rs"]
mod values;

pub use files::{done, why};

/// Prints the result of a check.
pub fn check(name: &str, result: impl Debug) {
    println!("{name}: {result:?}");
}

fn main() {
    let folder = |name: &str| PathBuf::from(env::var_os(name).unwrap_or_else(|| panic!("the variable {name} is set")));
    let (writable, packed) = (folder("FOLDER"), folder("PACKED"));
    parallel::main();
    // Meanwhile something may be done to the machine that it runs on.
    stdin().read_line(&mut String::new()).expect("a line or the end");
    turns::run();
    collections::run();
    values::run();
    time::run();
    threads::run();
    sync::run();
    system::run();
    net::run();
    process::run();
    files::run(&writable, &packed);
    #[cfg(target_os = "hermit")]
    hermit::run(&writable);
    println!("that was all");
}
