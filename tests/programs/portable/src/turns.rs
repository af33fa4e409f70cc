//! Threads that take turns although none of them ever waits.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use crate::check;

/// Whose turn it is.
static TURN: AtomicU32 = AtomicU32::new(0);

/// Takes every other turn of `turns`, and computes meanwhile.
fn take(first: u32, turns: u32) {
    for turn in (first..turns).step_by(2) {
        while TURN.load(SeqCst) != turn {
            spin_loop();
        }
        TURN.store(turn + 1, SeqCst);
    }
}

/// It ends only if each is interrupted while it computes.
pub fn run() {
    let other = thread::spawn(|| take(1, 10));
    take(0, 10);
    other.join().unwrap();
    check("threads that never wait take turns", TURN.load(SeqCst));
}
