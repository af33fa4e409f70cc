//! What `std` needs of an unwinder: the return addresses for a backtrace.
//!
//! A panic ends the program, so nothing is ever unwound. Frames are followed by frame pointers, which `std` has as the
//! toolchain brings it and everybody else by the flags of the build. The words on the stack are checked to lie in the
//! running thread's stack, each above the one before.

use core::ffi::{c_int, c_void};

/// What `_Unwind_Backtrace` shows of a frame.
#[derive(Debug)]
pub struct Frame {
    /// The return address.
    address: usize,
    /// Where the frame lies.
    frame: usize,
}

/// All went well, and the end of the stack (`_URC_END_OF_STACK`).
const END_OF_STACK: c_int = 5;
/// `_URC_NO_REASON`: go on.
const GO_ON: c_int = 0;

type Each = extern "C" fn(*mut Frame, *mut c_void) -> c_int;

/// The frames from `start` on that lie in `stack`.
fn follow(start: usize, stack: &core::ops::Range<u64>, mut each: impl FnMut(&mut Frame) -> c_int) {
    let mut frame = start;
    while stack.contains(&(frame as u64)) && frame as u64 + 16 <= stack.end && frame.is_multiple_of(8) {
        // SAFETY: both words lie in the running thread's stack, which is mapped.
        let (next, address) = unsafe { (*(frame as *const usize), *((frame + 8) as *const usize)) };
        if address == 0 || each(&mut Frame { address, frame }) != GO_ON || next <= frame {
            return;
        }
        frame = next;
    }
}

c_functions! {
    /// Calls `each` for the frames of the callers, innermost first, until it does not want more.
    fn _Unwind_Backtrace(each: Each, data: *mut c_void) -> c_int {
        let start: usize;
        // SAFETY: reads a register.
        unsafe { core::arch::asm!("mov {}, rbp", out(reg) start, options(nomem, nostack, preserves_flags)) };
        if let Some(stack) = runtime::thread::current_stack() {
            follow(start, &stack, |frame| each(frame, data));
        }
        END_OF_STACK
    }

    /// A frame's return address.
    fn _Unwind_GetIP(frame: *mut Frame) -> usize {
        // SAFETY: the caller's: it was given one.
        unsafe { (*frame).address }
    }

    /// As [`_Unwind_GetIP`]; it is an address behind a call.
    fn _Unwind_GetIPInfo(frame: *mut Frame, before: *mut c_int) -> usize {
        // SAFETY: the caller's: it was given one.
        unsafe {
            before.write(0);
            (*frame).address
        }
    }

    /// Where a frame lies.
    fn _Unwind_GetCFA(frame: *mut Frame) -> usize {
        // SAFETY: the caller's: it was given one.
        unsafe { (*frame).frame }
    }

    /// The beginning of a function cannot be told without tables: the address itself.
    fn _Unwind_FindEnclosingFunction(address: *mut c_void) -> *mut c_void {
        address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_followed_as_far_as_they_lie_in_the_stack_in_order() {
        let mut words = [0_usize; 16];
        let base = words.as_ptr().addr();
        let at = |index: usize| base + index * 8;
        let stack = base as u64..(base + size_of_val(&words)) as u64;
        let addresses = |words: &[usize; 16]| {
            let mut seen = alloc::vec::Vec::new();
            core::hint::black_box(words);
            follow(at(0), &stack, |frame| {
                seen.push(frame.address);
                GO_ON
            });
            seen
        };
        (words[0], words[1], words[4], words[5], words[8], words[9]) = (at(4), 1, at(8), 2, 0, 3);
        assert_eq!(addresses(&words), [1, 2, 3]);
        words[4] = at(0);
        assert_eq!(addresses(&words), [1, 2], "a chain that turns back");
        words[4] = at(15);
        assert_eq!(addresses(&words), [1, 2], "a frame of which half lies outside");
        words[4] = at(7) + 3;
        assert_eq!(addresses(&words), [1, 2], "a frame that is not aligned");
    }
}
