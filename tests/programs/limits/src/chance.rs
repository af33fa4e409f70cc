//! Where programs get chance from: the keys of hash tables, and `getrandom`.

use std::collections::HashSet;
use std::ffi::{c_uint, c_void};
use std::hash::{BuildHasher, RandomState};
use std::io::stdin;

unsafe extern "C" {
    fn getrandom(buffer: *mut c_void, bytes: usize, flags: c_uint) -> isize;
}

fn look() {
    // Its keys are new on each thread, and one more for each that is made.
    println!("chance: keys {:x}", RandomState::new().hash_one(1));
    // A set of its own, in the order in which it lies.
    let numbers: Vec<u32> = (0..64).collect::<HashSet<_>>().into_iter().collect();
    println!("chance: order {numbers:?}");
    let mut bytes = [0_u8; 32];
    // SAFETY: the buffer is of that size.
    let got = unsafe { getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(got, 32);
    println!("chance: bytes {bytes:02x?}");
}

pub fn run() {
    look();
    println!("once more");
    stdin().read_line(&mut String::new()).expect("a line");
    look();
}
