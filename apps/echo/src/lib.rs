//! The smallest useful Pollux program.
#![no_std]

use runtime::println;
use runtime::time::{Duration, interval};

/// Prints a line every second.
pub async fn main() {
    println!("echo: up");
    let mut clock = interval(Duration::from_secs(1));
    loop {
        let due = clock.tick().await;
        println!("echo: tick at {due}");
    }
}
