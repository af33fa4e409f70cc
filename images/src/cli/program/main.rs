//! Counts, and goes on counting when its machine dies: `cargo pollux kill primary`.

use std::collections::HashMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

fn main() {
    let start = Instant::now();
    let mut seen: HashMap<u64, Duration> = HashMap::new();
    for count in 0.. {
        seen.insert(count, start.elapsed());
        println!("{count} after {:?}, {} so far", seen[&count], seen.len());
        sleep(Duration::from_secs(1));
    }
}
