//! Stacks and memory until there is no more.

use std::ffi::c_int;
use std::hint::black_box;
use std::ptr::null_mut;
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

unsafe extern "C" {
    fn mmap64(at: *mut u8, bytes: usize, protection: c_int, flags: c_int, file: c_int, offset: i64) -> *mut u8;
    fn mprotect(at: *mut u8, bytes: usize, protection: c_int) -> c_int;
}

const PAGE_BYTES: usize = 4096;
const READ_AND_WRITE: c_int = 3;
const PRIVATE_AND_ANONYMOUS: c_int = 0x22;

/// Reads a page that it has closed.
#[inline(never)]
pub fn look_behind() {
    // SAFETY: both pages are given out here; what it does to the closed one is what is to be seen.
    unsafe {
        let pages = mmap64(null_mut(), 2 * PAGE_BYTES, READ_AND_WRITE, PRIVATE_AND_ANONYMOUS, -1, 0);
        println!("closed: {}", mprotect(pages, PAGE_BYTES, 0));
        println!("the open one: {}", pages.add(PAGE_BYTES).read_volatile());
        println!("the closed one: {}", pages.read_volatile());
    }
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
