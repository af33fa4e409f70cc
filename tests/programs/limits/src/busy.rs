//! Threads that compute and never wait, beside one that answers.

use std::io::stdin;
use std::thread;

/// What a thread computes: with integers and floating-point numbers, which both must survive whatever happens between two
/// instructions; with memory of its own, which others allocate and free beside it.
pub fn compute(seed: u64, rounds: u64) -> (u64, u64) {
    let (mut word, mut sum, mut product) = (seed | 1, 0.0_f64, 1.0_f64);
    for round in 0..rounds {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        sum += (word >> 11) as f64 / (round + 1) as f64;
        product = (product * 1.000_000_1 + sum * 1e-18).fract() + 0.5;
        if round % 65_536 == 0 {
            let text = format!("{word:x}");
            word ^= text.len() as u64;
        }
    }
    (word, (sum + product).to_bits())
}

/// `threads` threads compute, and each line of standard input is answered meanwhile, until one says `end`.
pub fn run(threads: u64, rounds: u64) {
    let computing: Vec<_> = (0..threads)
        .map(|seed| {
            thread::Builder::new().name(format!("computer {seed}")).spawn(move || compute(seed, rounds)).unwrap()
        })
        .collect();
    let mut answered = 0;
    let mut meanwhile = 0;
    for line in stdin().lines() {
        let line = line.expect("a line");
        if line == "end" {
            break;
        }
        answered += 1;
        let left = computing.iter().filter(|thread| !thread.is_finished()).count();
        meanwhile += u32::from(left > 0);
        println!("answer {answered} to {line}, {left} threads compute");
    }
    for (seed, thread) in computing.into_iter().enumerate() {
        println!("computed by {seed}: {:x?}", thread.join().unwrap());
    }
    println!("answered meanwhile: {}", meanwhile > 0);
}
