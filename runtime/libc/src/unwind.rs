//! Unwinding, and the return addresses for reports.
//!
//! A panic unwinds as on Linux, unless the program's profile says `panic = "abort"`: `catch_unwind`, `JoinHandle::join` that
//! gives `Err`, destructors on the way. The unwinder is the crate `unwinding`; all that it needs of a system is where the
//! tables are that the compiler has made for the program, which the linker says. It keeps nothing beside the stack that it
//! runs on, so it may be interrupted, and is the same in both replicas.
//!
//! Reports of a program's end follow frame pointers, which need no tables, and work where those are damaged.

#[cfg(any(feature = "image", test))]
/// Calls `each` with the return addresses of the frames from `start` on that lie in `stack`, until it does not want more.
/// The words on the stack are checked to lie there, each above the one before.
pub(crate) fn follow(start: usize, stack: &core::ops::Range<u64>, mut each: impl FnMut(usize) -> bool) {
    let mut frame = start;
    while stack.contains(&(frame as u64)) && frame as u64 + 16 <= stack.end && frame.is_multiple_of(8) {
        // SAFETY: both words lie in the running thread's stack, which is mapped.
        let (next, address) = unsafe { (*(frame as *const usize), *((frame + 8) as *const usize)) };
        if address == 0 || !each(address) || next <= frame {
            return;
        }
        frame = next;
    }
}

#[cfg(feature = "image")]
mod tables {
    use unwinding::custom_eh_frame_finder::{EhFrameFinder, FrameInfo, FrameInfoKind, set_custom_eh_frame_finder};

    unsafe extern "C" {
        // From the linker script.
        static __text_start: u8;
        static __text_end: u8;
        static __eh_frame_hdr: u8;
    }

    /// The program's tables: there is one program, linked as one.
    struct Tables;

    // SAFETY: the linker script puts the index of the tables at that address, and they cover nothing but this code.
    unsafe impl EhFrameFinder for Tables {
        fn find(&self, address: usize) -> Option<FrameInfo> {
            let start = (&raw const __text_start).addr();
            let kind = FrameInfoKind::EhFrameHdr((&raw const __eh_frame_hdr).addr());
            let inside = (start..(&raw const __text_end).addr()).contains(&address);
            inside.then_some(FrameInfo { text_base: Some(start), kind })
        }
    }

    /// Shows the unwinder where the tables are. To be called once, before the program runs.
    pub(crate) fn install() {
        if set_custom_eh_frame_finder(&Tables).is_err() {
            runtime::exit::abort(format_args!("the unwinder has tables before the program has started"));
        }
    }
}

#[cfg(feature = "image")]
pub(crate) use tables::install;

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
            follow(at(0), &stack, |address| {
                seen.push(address);
                true
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
