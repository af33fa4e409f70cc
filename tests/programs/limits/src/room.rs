//! Stacks and memory until there is no more.

use std::hint::black_box;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{Builder, JoinHandle};

/// Never comes back: the stack ends first.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is what it is for")]
pub fn dive(depth: u64) -> u64 {
    let room = black_box([depth; 16]);
    dive(depth + 1) + room[3]
}

pub fn overflow_of_a_thread() {
    let diver = Builder::new().name("diver".to_owned()).spawn(|| dive(0)).unwrap();
    println!("{:?}", diver.join().is_ok());
}

/// A large piece is refused as an error; what is taken without asking ends the program.
pub fn memory() {
    let mut vector: Vec<u8> = Vec::new();
    println!("a piece that is too large: {}", vector.try_reserve_exact(1 << 40).is_err());
    println!("one that is not: {}", vector.try_reserve_exact(1 << 20).is_ok());
    let mut pieces = Vec::new();
    loop {
        pieces.push(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Starts threads that all wait, as many as there can be up to `wanted`; then all of them end.
pub fn threads(wanted: usize) {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let start = |number: usize| {
        let gate = Arc::clone(&gate);
        Builder::new().stack_size(16 * 1024).spawn(move || {
            drop(gate.1.wait_while(gate.0.lock().unwrap(), |open| !*open).unwrap());
            number
        })
    };
    let mut waiting: Vec<JoinHandle<usize>> = Vec::new();
    let refused = (0..wanted).find_map(|number| match start(number) {
        Ok(thread) => {
            waiting.push(thread);
            None
        }
        Err(error) => Some(error),
    });
    match refused {
        Some(error) => println!("after {} threads: {:?}: {error}", waiting.len(), error.kind()),
        None => println!("{} threads wait", waiting.len()),
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    let sum: usize = waiting.into_iter().map(|thread| thread.join().unwrap()).sum();
    println!("joined, sum {sum}");
    println!("and another one: {:?}", start(7).map(|thread| thread.join().unwrap()).map_err(|error| error.kind()));
}
