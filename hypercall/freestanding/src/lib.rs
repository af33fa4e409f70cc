//! What the prebuilt `core` and `alloc` expect of a C library, for images that have none.
//!
//! Shim and guest are linked without libc, so the memory functions that the compiler calls come from here. They
//! are written for an emulator: under TCG general registers are host registers and vector registers are memory, so
//! short copies are overlapping words and long ones an unrolled loop of words.
//!
//! With the feature `symbols` the functions carry their C names; without it (on a host) they can be tested beside
//! the host's own.
#![no_std]
// Otherwise the optimiser recognises these loops as memcpy and lets memcpy call itself.
#![no_builtins]

use core::ptr;

/// Reads eight bytes, wherever they lie.
///
/// # Safety
/// The eight bytes from `address` on can be read.
#[inline(always)]
unsafe fn load(address: *const u8) -> u64 {
    // SAFETY: the caller vouches for the eight bytes; they need not be aligned.
    unsafe { ptr::read_unaligned(address.cast()) }
}

/// Writes eight bytes, wherever they lie.
///
/// # Safety
/// The eight bytes from `address` on can be written to, and nobody holds a reference to them.
#[inline(always)]
unsafe fn store(address: *mut u8, word: u64) {
    // SAFETY: the caller vouches for the eight bytes; they need not be aligned.
    unsafe { ptr::write_unaligned(address.cast(), word) }
}

/// Copies less than 16 bytes, reading everything before writing anything: overlap does not matter.
///
/// # Safety
/// `bytes`, less than 16, can be read from `from` on and written from `to` on.
#[inline(always)]
unsafe fn copy_short(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: every access lies in the first `bytes` bytes of either range.
    unsafe {
        if bytes >= 8 {
            let (first, last) = (load(from), load(from.add(bytes - 8)));
            store(to, first);
            store(to.add(bytes - 8), last);
        } else if bytes >= 4 {
            let first = ptr::read_unaligned(from.cast::<u32>());
            let last = ptr::read_unaligned(from.add(bytes - 4).cast::<u32>());
            ptr::write_unaligned(to.cast(), first);
            ptr::write_unaligned(to.add(bytes - 4).cast(), last);
        } else if bytes > 0 {
            let (first, middle, last) = (*from, *from.add(bytes / 2), *from.add(bytes - 1));
            *to = first;
            *to.add(bytes / 2) = middle;
            *to.add(bytes - 1) = last;
        }
    }
}

/// Copies whole blocks of 32 bytes upwards; returns how many bytes that were.
///
/// In assembly on x86-64: left to itself the compiler merges the words into vector registers, and under TCG a vector
/// register is memory: measured, 0.50 ns a byte instead of 0.19 (`rep movs`: 0.25).
///
/// # Safety
/// `bytes` can be read from `from` on and written from `to` on; if the ranges overlap, `to` is the lower one.
#[inline(always)]
unsafe fn copy_blocks_up(to: *mut u8, from: *const u8, bytes: usize) -> usize {
    let blocks = bytes & !31;
    if blocks == 0 {
        return 0;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for `bytes` bytes of either range, and `blocks` is not more and not zero.
    unsafe {
        core::arch::asm!(
            // In one page, see `copy_and_sum`.
            ".p2align 6",
            "2:",
            "mov {word}, [{from}]",
            "mov [{to}], {word}",
            "mov {word}, [{from} + 8]",
            "mov [{to} + 8], {word}",
            "mov {word}, [{from} + 16]",
            "mov [{to} + 16], {word}",
            "mov {word}, [{from} + 24]",
            "mov [{to} + 24], {word}",
            "add {from}, 32",
            "add {to}, 32",
            "sub {left}, 32",
            "jnz 2b",
            word = out(reg) _,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) blocks => _,
            options(nostack),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for offset in (0..blocks).step_by(8) {
        // SAFETY: as above.
        unsafe { store(to.add(offset), load(from.add(offset))) };
    }
    blocks
}

/// Bytes of a block of [`copy_and_sum`].
pub const SUMMED_BLOCK_BYTES: usize = 64;

/// Copies `blocks` blocks of [`SUMMED_BLOCK_BYTES`] and adds their words, little-endian, to two sums: each word to the
/// first, and the first, after each word, to the second, which is rotated left by one bit before. Returns both.
///
/// In assembly on x86-64, because the compiler makes a call of `memcpy` and a second pass of it, and under TCG an access to
/// memory costs as much as ten additions. What changes between two accesses is also written to memory by the translator:
/// so four words are read, then four written, then all four added. The loop does not cross a border of pages, where
/// translated code is not linked to itself: one that does takes twice as long.
///
/// # Safety
/// Both ranges are valid for that many bytes, and do not overlap.
#[inline(never)]
pub unsafe fn copy_and_sum(to: *mut u8, from: *const u8, blocks: usize, sums: (u64, u64)) -> (u64, u64) {
    let (mut sum, mut sum_of_sums) = sums;
    if blocks == 0 {
        return sums;
    }
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller vouches for `blocks` blocks of either range, and that is not zero.
    unsafe {
        core::arch::asm!(
            ".p2align 8",
            "2:",
            "mov {a}, [{from}]",
            "mov {b}, [{from} + 8]",
            "mov {c}, [{from} + 16]",
            "mov {d}, [{from} + 24]",
            "mov [{to}], {a}",
            "mov [{to} + 8], {b}",
            "mov [{to} + 16], {c}",
            "mov [{to} + 24], {d}",
            "add {sum}, {a}",
            "rol {sums}",
            "add {sums}, {sum}",
            "add {sum}, {b}",
            "rol {sums}",
            "add {sums}, {sum}",
            "add {sum}, {c}",
            "rol {sums}",
            "add {sums}, {sum}",
            "add {sum}, {d}",
            "rol {sums}",
            "add {sums}, {sum}",
            "mov {a}, [{from} + 32]",
            "mov {b}, [{from} + 40]",
            "mov {c}, [{from} + 48]",
            "mov {d}, [{from} + 56]",
            "mov [{to} + 32], {a}",
            "mov [{to} + 40], {b}",
            "mov [{to} + 48], {c}",
            "mov [{to} + 56], {d}",
            "add {sum}, {a}",
            "rol {sums}",
            "add {sums}, {sum}",
            "add {sum}, {b}",
            "rol {sums}",
            "add {sums}, {sum}",
            "add {sum}, {c}",
            "rol {sums}",
            "add {sums}, {sum}",
            "add {sum}, {d}",
            "rol {sums}",
            "add {sums}, {sum}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {left}",
            "jnz 2b",
            a = out(reg) _,
            b = out(reg) _,
            c = out(reg) _,
            d = out(reg) _,
            sum = inout(reg) sum,
            sums = inout(reg) sum_of_sums,
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) blocks => _,
            options(nostack),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for offset in (0..blocks * SUMMED_BLOCK_BYTES).step_by(8) {
        // SAFETY: as above.
        let word = unsafe {
            let word = load(from.add(offset));
            store(to.add(offset), word);
            word
        };
        sum = sum.wrapping_add(u64::from_le(word));
        sum_of_sums = sum_of_sums.rotate_left(1).wrapping_add(sum);
    }
    (sum, sum_of_sums)
}

/// Copies less than 32 bytes, at least 16, reading everything before writing anything.
///
/// # Safety
/// `bytes`, 16 to 31, can be read from `from` on and written from `to` on; the ranges may overlap.
#[inline(always)]
unsafe fn copy_medium(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: every access lies in the first `bytes` bytes of either range.
    unsafe {
        let first = (load(from), load(from.add(8)));
        let last = (load(from.add(bytes - 16)), load(from.add(bytes - 8)));
        store(to, first.0);
        store(to.add(8), first.1);
        store(to.add(bytes - 16), last.0);
        store(to.add(bytes - 8), last.1);
    }
}

/// C's `memcpy`.
///
/// # Safety
/// As in C: both ranges are valid for `bytes` and do not overlap.
#[cfg_attr(feature = "symbols", unsafe(no_mangle))]
pub unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: every access lies in the first `bytes` bytes of either range.
    unsafe {
        let done = copy_blocks_up(to, from, bytes);
        let (rest_to, rest_from, rest) = (to.add(done), from.add(done), bytes - done);
        if rest >= 16 {
            copy_medium(rest_to, rest_from, rest);
        } else {
            copy_short(rest_to, rest_from, rest);
        }
    }
    to
}

/// C's `memmove`.
///
/// # Safety
/// As in C: both ranges are valid for `bytes`; they may overlap.
#[cfg_attr(feature = "symbols", unsafe(no_mangle))]
pub unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8 {
    // SAFETY: every access lies in the first `bytes` bytes; each step reads before it writes, and goes in the
    // direction in which it overwrites only what was read already.
    unsafe {
        if (to as usize).wrapping_sub(from as usize) >= bytes {
            // `to` lies below `from`, or the ranges do not overlap: upwards, word by word in this order.
            return memcpy(to, from, bytes);
        }
        let mut left = bytes;
        while left >= 8 {
            left -= 8;
            store(to.add(left), load(from.add(left)));
        }
        copy_short(to, from, left);
    }
    to
}

/// C's `memset`.
///
/// # Safety
/// As in C: the range is valid for `bytes`.
#[cfg_attr(feature = "symbols", unsafe(no_mangle))]
pub unsafe extern "C" fn memset(to: *mut u8, value: i32, bytes: usize) -> *mut u8 {
    let word = u64::from(value as u8) * 0x0101_0101_0101_0101;
    // SAFETY: every access lies in the first `bytes` bytes.
    unsafe {
        if bytes < 8 {
            let mut done = 0;
            while done < bytes {
                *to.add(done) = value as u8;
                done += 1;
            }
            return to;
        }
        let mut done = 0;
        while done + 32 <= bytes {
            store(to.add(done), word);
            store(to.add(done + 8), word);
            store(to.add(done + 16), word);
            store(to.add(done + 24), word);
            done += 32;
        }
        while done + 8 <= bytes {
            store(to.add(done), word);
            done += 8;
        }
        store(to.add(bytes - 8), word);
    }
    to
}

/// C's `memcmp`.
///
/// # Safety
/// As in C: both ranges are valid for `bytes`.
#[cfg_attr(feature = "symbols", unsafe(no_mangle))]
pub unsafe extern "C" fn memcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: every access lies in the first `bytes` bytes.
    unsafe {
        let mut done = 0;
        while done + 8 <= bytes {
            let (a, b) = (load(left.add(done)), load(right.add(done)));
            if a != b {
                return if u64::from_be(a) < u64::from_be(b) { -1 } else { 1 };
            }
            done += 8;
        }
        while done < bytes {
            let (a, b) = (*left.add(done), *right.add(done));
            if a != b {
                return i32::from(a) - i32::from(b);
            }
            done += 1;
        }
    }
    0
}

/// C's `bcmp`.
///
/// # Safety
/// As for [`memcmp`].
#[cfg_attr(feature = "symbols", unsafe(no_mangle))]
pub unsafe extern "C" fn bcmp(left: *const u8, right: *const u8, bytes: usize) -> i32 {
    // SAFETY: same contract.
    unsafe { memcmp(left, right, bytes) }
}

/// C's `strlen`.
///
/// # Safety
/// As in C: `text` points to bytes of which one is zero.
#[cfg_attr(feature = "symbols", unsafe(no_mangle))]
pub unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut bytes = 0;
    // SAFETY: no byte beyond the first zero is read.
    while unsafe { *text.add(bytes) } != 0 {
        bytes += 1;
    }
    bytes
}

// The prebuilt `core` and `alloc` refer to the unwinder because they were built for programs that unwind; images abort on
// panic, so neither symbol is ever used. Weak, because a program with `std` brings its own `rust_eh_personality`.
#[cfg(all(feature = "symbols", target_arch = "x86_64"))]
core::arch::global_asm!(
    ".pushsection .text.unwinding, \"ax\", @progbits",
    ".weak _Unwind_Resume",
    ".type _Unwind_Resume, @function",
    "_Unwind_Resume:",
    "ud2",
    ".size _Unwind_Resume, . - _Unwind_Resume",
    ".weak rust_eh_personality",
    ".type rust_eh_personality, @function",
    "rust_eh_personality:",
    "ud2",
    ".size rust_eh_personality, . - rust_eh_personality",
    ".popsection",
);

// As above, where there are no weak symbols.
#[cfg(all(feature = "symbols", not(target_arch = "x86_64")))]
mod unwinding {
    #[unsafe(no_mangle)]
    extern "C" fn _Unwind_Resume() -> ! {
        loop {
            core::hint::spin_loop();
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    const SPAN: usize = 200;

    fn pattern() -> Vec<u8> {
        (0..3 * SPAN).map(|index| (index * 7 + 3) as u8).collect()
    }

    #[test]
    fn copies_of_every_length_and_overlap_agree_with_core() {
        for bytes in 0..SPAN {
            for (to, from) in [(0, SPAN), (SPAN, 0), (100, 101), (101, 100), (100, 108), (117, 100), (50, 50)] {
                let (mut ours, mut theirs) = (pattern(), pattern());
                theirs.copy_within(from..from + bytes, to);
                let base = ours.as_mut_ptr();
                // SAFETY: both ranges lie in the vector.
                unsafe { super::memmove(base.add(to), base.add(from), bytes) };
                assert_eq!(ours, theirs, "memmove of {bytes} from {from} to {to}");
                if to.abs_diff(from) >= bytes {
                    let mut copied = pattern();
                    let base = copied.as_mut_ptr();
                    // SAFETY: as above, and the ranges do not overlap.
                    unsafe { super::memcpy(base.add(to), base.add(from), bytes) };
                    assert_eq!(copied, theirs, "memcpy of {bytes} from {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn what_is_summed_is_copied_and_every_word_is_in_both_sums() {
        for blocks in 0..6 {
            for shift in 0..9 {
                let bytes = blocks * super::SUMMED_BLOCK_BYTES;
                let from = pattern();
                let mut to = pattern();
                let mut expected = (1_u64 << 63, 77_u64);
                for word in from[shift..shift + bytes].as_chunks::<8>().0 {
                    expected.0 = expected.0.wrapping_add(u64::from_le_bytes(*word));
                    expected.1 = expected.1.rotate_left(1).wrapping_add(expected.0);
                }
                // SAFETY: both ranges lie in vectors of their own.
                let sums = unsafe {
                    super::copy_and_sum(to.as_mut_ptr().add(5), from.as_ptr().add(shift), blocks, (1 << 63, 77))
                };
                assert_eq!(sums, expected, "{blocks} blocks from {shift}");
                let mut copied = pattern();
                copied[5..5 + bytes].copy_from_slice(&from[shift..shift + bytes]);
                assert_eq!(to, copied, "{blocks} blocks from {shift}");
            }
        }
    }

    #[test]
    fn fills_exactly_the_range() {
        for bytes in 0..SPAN {
            let (mut ours, mut theirs) = (pattern(), pattern());
            theirs[5..5 + bytes].fill(0xe1);
            // SAFETY: the range lies in the vector.
            unsafe { super::memset(ours.as_mut_ptr().add(5), 0x1e1, bytes) };
            assert_eq!(ours, theirs, "memset of {bytes}");
        }
    }

    #[test]
    fn compares_like_core() {
        let base = pattern();
        for bytes in 0..64 {
            for changed in 0..bytes {
                for delta in [1u8, 0x80, 0xff] {
                    let mut other = base.clone();
                    other[changed] = other[changed].wrapping_add(delta);
                    // SAFETY: both ranges are longer than `bytes`.
                    let order = unsafe { super::memcmp(base.as_ptr(), other.as_ptr(), bytes) };
                    assert_eq!(order.cmp(&0), base[..bytes].cmp(&other[..bytes]), "{bytes} bytes, {changed} changed");
                }
            }
            // SAFETY: as above.
            assert_eq!(unsafe { super::bcmp(base.as_ptr(), base.as_ptr(), bytes) }, 0);
        }
        // SAFETY: the text ends in a zero.
        assert_eq!(unsafe { super::strlen(c"pollux".as_ptr().cast()) }, 6);
    }
}
