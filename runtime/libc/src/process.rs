//! The one process: how it ends, who it is.

use core::ffi::{c_char, c_int};

use runtime::sys::{self, resolve::HOST_NAME};

use crate::text::put;
use crate::{io, threads};

/// Ends the program in good order: what the calling thread has left to do at its end is done first, as the C library of
/// Linux does it.
pub(crate) fn leave(status: c_int) -> ! {
    threads::run_destructors();
    sys::sys_exit(status)
}

c_functions! {
    /// Ends the program, with the destructors of the calling thread.
    fn exit(status: c_int) -> ! {
        leave(status)
    }

    /// Ends the program at once.
    fn _exit(status: c_int) -> ! {
        sys::sys_exit(status)
    }

    /// Ends the program with a report: what it has said on standard error last, and the calls that have led here. `std`
    /// calls this after a panic.
    fn abort() -> ! {
        // What was written before the end is there afterwards, as with any process that ends.
        runtime::fs::finish();
        io::with_last_words(|words| {
            let words = core::str::from_utf8(words).unwrap_or_default().trim_end();
            if words.is_empty() {
                runtime::exit::abort(format_args!("the program has called abort"))
            } else {
                runtime::exit::abort(format_args!("the program has aborted; its last words:\n{words}"))
            }
        })
    }

    /// The one process.
    fn getpid() -> libc::pid_t {
        sys::sys_getpid()
    }

    /// It has no parent.
    fn getppid() -> libc::pid_t {
        0
    }

    /// It may do all that can be done.
    fn getuid() -> libc::uid_t {
        0
    }

    /// As `getuid`.
    fn geteuid() -> libc::uid_t {
        0
    }

    /// The name of the machine. `ENAMETOOLONG` when it does not fit.
    fn gethostname(place: *mut c_char, bytes: usize) -> c_int {
        // SAFETY: the caller's.
        if unsafe { put(place, bytes, &[HOST_NAME.as_bytes()]) } { 0 } else { crate::errno::fail(libc::ENAMETOOLONG) }
    }
}
