//! Hypercalls that a well-behaved guest never makes.

use alloc::format;
use alloc::string::String;

use hypercall::errno::{E2BIG, EFAULT, EINVAL, ENOSYS};
use hypercall::layout::{GUEST_BASE, MAX_ENTROPY_BYTES};
use hypercall::table::{FIRST_NUMBER, NUMBERS, Number, raw_hypercall};

/// Addresses that lie, or lead, outside guest memory: null, the shim, the direct map, devices, behind the end.
const OUTSIDE: [u64; 9] = [
    0,
    8,
    0x0010_0000,
    GUEST_BASE - 1,
    GUEST_BASE + (4 << 30),
    0xfeb0_0000,
    0xffff_8000_0000_0000,
    0xffff_8000_0010_0000,
    u64::MAX - 3,
];

/// Makes them all; answers `refused N` when each was refused with the right error number.
pub fn wild() -> String {
    let mut refused = 0;
    for number in [Number::ALL.len() as u64, NUMBERS - 1].map(|unknown| FIRST_NUMBER + unknown) {
        if let Some(wrong) = expect(number, [1, 2, 3, 4], -ENOSYS) {
            return wrong;
        }
        refused += 1;
    }
    let calls = [Number::Entropy as u64, Number::ConsoleWrite as u64];
    for address in OUTSIDE {
        for call in calls {
            if let Some(wrong) = expect(call, [address, 64, 0, 0], -EFAULT) {
                return wrong;
            }
            refused += 1;
        }
    }
    // Lengths that lead out of guest memory, or around the end of the address space.
    for bytes in [1 << 40, u64::MAX, u64::MAX - GUEST_BASE + 1] {
        if let Some(wrong) = expect(Number::ConsoleWrite as u64, [GUEST_BASE, bytes, 0, 0], -EFAULT) {
            return wrong;
        }
        if let Some(wrong) = expect(Number::Entropy as u64, [GUEST_BASE, bytes, 0, 0], -E2BIG) {
            return wrong;
        }
        refused += 2;
    }
    if let Some(wrong) = expect(Number::Entropy as u64, [GUEST_BASE, MAX_ENTROPY_BYTES + 1, 0, 0], -E2BIG) {
        return wrong;
    }
    // A block of upcalls outside, within code, or not aligned, and a handler outside.
    let code = wild as *const () as u64;
    let mut place = [0_u64; 8];
    let block = place.as_mut_ptr() as u64;
    for (block, handler, error) in [
        (0xfeb0_0000, code, EFAULT),
        (0xffff_8000_0010_0000, code, EFAULT),
        (code & !7, code, EFAULT),
        (block + 1, code, EINVAL),
        (block, 0x0010_0000, EFAULT),
        (block, 0x8000_0000_0000_0000, EFAULT),
    ] {
        if let Some(wrong) = expect(Number::Preempt as u64, [block, handler, 0, 0], -error) {
            return wrong;
        }
        refused += 1;
    }
    format!("refused {}", refused + 1)
}

/// Makes one hypercall; says so when it returns anything but `expected`.
fn expect(number: u64, arguments: [u64; 4], expected: i64) -> Option<String> {
    // SAFETY: every call here is one that the shim must refuse without touching memory; that is what is tested.
    let result = unsafe { raw_hypercall(number, arguments) };
    (result != expected).then(|| format!("hypercall {number} {arguments:x?} returned {result}, not {expected}"))
}
