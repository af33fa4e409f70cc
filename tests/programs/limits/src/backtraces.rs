//! What `std` prints of stacks: of threads that panic, of panics that are caught, of stacks that are asked for. The same twice, with a
//! line of standard input between; then a destructor panics while a panic unwinds, which is the end.

use std::backtrace::Backtrace;
use std::hint::black_box;
use std::io::stdin;
use std::panic::catch_unwind;
use std::thread;

/// Panics when it is dropped.
struct Careless;

impl Drop for Careless {
    fn drop(&mut self) {
        culprit("dropped");
    }
}

#[inline(never)]
fn culprit(why: &str) {
    if black_box(true) {
        panic!("{why}");
    }
}

/// Goes down so many calls, and does not come back.
#[inline(never)]
fn fall(depth: u32) -> u32 {
    if depth == 0 {
        culprit("fallen");
    }
    fall(black_box(depth - 1)) + 1
}

#[inline(never)]
fn captured() -> Backtrace {
    // Used behind the call, or it would be a jump, and this function not on the stack.
    black_box(Backtrace::force_capture())
}

pub fn run() {
    // The same calls both times, not two of them.
    for number in 1..=black_box(2) {
        round();
        println!("round {number} is over");
        if number == 1 {
            stdin().read_line(&mut String::new()).expect("a line or the end");
        }
    }
    let _careless = Careless;
    culprit("the end");
}

#[inline(never)]
fn round() {
    let thread = thread::Builder::new().name("climber".to_owned());
    let joined = thread.spawn(|| fall(3)).expect("there is room for it").join();
    println!("a thread has panicked: {}", joined.is_err());
    println!("out of a deep stack: {}", catch_unwind(|| fall(300)).is_err());
    println!("in a destructor: {}", catch_unwind(|| drop(Careless)).is_err());
    println!("captured:\n{}", captured());
    println!("captured: {:?}", captured());
}
