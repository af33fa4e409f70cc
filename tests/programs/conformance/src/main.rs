//! What an ordinary program may expect of `std`: one line for each check, the same on Linux and in an image.
//!
//! It begins when it is given a line, or the end, of standard input. Given the argument `panic` it ends that way instead.
//! Nothing that it prints depends on time, chance or place.

use std::fmt::Debug;

mod collections;
mod net;
mod panics;
mod process;
mod sync;
mod system;
mod threads;
mod time;
mod values;

/// Prints the result of a check.
pub fn check(name: &str, result: impl Debug) {
    println!("{name}: {result:?}");
}

fn main() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("a line or the end");
    match std::env::args().nth(1).as_deref() {
        Some("panic") => look_beyond(&[1, 2, 3], 7),
        _ => {
            collections::run();
            values::run();
            time::run();
            threads::run();
            sync::run();
            panics::run();
            system::run();
            net::run();
            process::run();
            println!("all done");
        }
    }
}

#[inline(never)]
fn look_beyond(words: &[u8], index: usize) {
    println!("{}", words[index]);
}
