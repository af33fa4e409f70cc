//! Work that is allowed, but a strain.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use runtime::time::epoch;

use crate::processor;

/// Reads the time stamp `count` times; answers whether it only ever grew, and its last value.
pub fn time_stamps(count: u64) -> String {
    let mut last = 0;
    for _ in 0..count {
        let Some(now) = processor::time_stamp() else { return NOT_HERE.into() };
        if now <= last {
            return format!("went from {last} to {now}");
        }
        last = now;
    }
    format!("grew to {last}")
}

/// What is answered where the processor has no such thing.
const NOT_HERE: &str = "this processor cannot do that";

/// A number of the processor's own random generator: different in two replicas.
pub fn processor_random() -> String {
    processor::random().map_or_else(|| NOT_HERE.into(), |number| format!("{number:016x}"))
}

/// Differs in two replicas once [`plant`] or [`plant_processor`] was called.
static PLANTED: AtomicU64 = AtomicU64::new(0);

/// Writes to so much memory and stores a number of the processor's own random generator. The number is left nowhere
/// else: neither in a register nor on the stack, nor do flags depend on it. Answers within which epochs that was.
pub fn plant(mib: usize) -> String {
    if mib > 0 {
        allocate(mib);
    }
    // SAFETY: the static's eight bytes can be written to at any time.
    between_epochs(|| unsafe { processor::store_random(PLANTED.as_ptr()) })
}

/// As [`plant`], with four letters of the processor's name: what replicas do not compare before they pair, because no
/// program can depend on it by accident.
pub fn plant_processor() -> String {
    // SAFETY: as above.
    between_epochs(|| unsafe { processor::store_name(PLANTED.as_ptr()) })
}

/// Does something and answers between which epochs: the same one, unless it is cut right there.
fn between_epochs(act: impl FnOnce() -> bool) -> String {
    let first = epoch();
    if !act() {
        return NOT_HERE.into();
    }
    format!("planted in {first} to {}", epoch())
}

/// The number that [`plant`] has stored.
pub fn planted() -> String {
    format!("{:016x}", PLANTED.load(Relaxed))
}

/// Arithmetic without an end of epoch.
pub fn compute(rounds: u64) -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for round in 0..rounds {
        state = black_box(state.rotate_left(7).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ round);
    }
    state
}

/// [`compute`], and the epochs in which it began and ended.
pub fn epochs(rounds: u64) -> String {
    let first = epoch();
    black_box(compute(rounds));
    format!("in {first} to {}", epoch())
}

/// Arithmetic that fills vector registers; a digest of its results.
pub fn floats(rounds: u64) -> u64 {
    let mut sums: [f64; 12] = core::array::from_fn(|index| 1.0 + index as f64);
    for round in 0..rounds {
        let step = round as f64 * 1e-3;
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = *sum * 0.999 + step / (1.0 + index as f64);
        }
    }
    sums.iter().fold(0_u64, |hash, sum| hash.rotate_left(5) ^ sum.to_bits())
}

/// Prints `lines` numbered lines of 64 bytes each.
pub fn flood(lines: u64) -> String {
    for line in 0..lines {
        runtime::println!("flood {line:08} {:-<48}", "");
    }
    format!("printed {lines}")
}

/// Random bytes from the shim, in hexadecimal.
pub fn entropy(count: usize) -> String {
    let mut bytes = Vec::new();
    if bytes.try_reserve_exact(count).is_err() {
        return "refused".into();
    }
    bytes.resize(count, 0);
    if let Err(error) = runtime::random::fill(&mut bytes) {
        return format!("{error}");
    }
    let mut text = String::with_capacity(2 * count);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Asks for memory and uses it.
pub fn allocate(mib: usize) -> String {
    let mut block: Vec<u8> = Vec::new();
    let bytes = mib.saturating_mul(1 << 20);
    if block.try_reserve_exact(bytes).is_err() {
        return "refused".into();
    }
    block.resize(bytes, 0xa5);
    format!("got {}", black_box(&block).len())
}
