//! Signals: there are none. What would be one (a wild pointer) stops the program with a report of the shim's.

use core::ffi::c_int;

use crate::errno::fail;

/// Whether Linux has a signal of that number.
fn exists(signal: c_int) -> bool {
    (1..=64).contains(&signal)
}

c_functions! {
    /// Says that every signal is ignored, and takes whatever is to be done with it: it never comes. `EINVAL` for one that
    /// does not exist.
    fn sigaction(signal: c_int, _new: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
        if !exists(signal) {
            return fail(libc::EINVAL);
        }
        if !old.is_null() {
            // SAFETY: the caller's; all zeros but the handler is a value.
            unsafe {
                old.write_bytes(0, 1);
                (*old).sa_sigaction = libc::SIG_IGN;
            }
        }
        0
    }

    /// As [`sigaction`].
    fn signal(signal: c_int, _handler: libc::sighandler_t) -> libc::sighandler_t {
        if exists(signal) {
            return libc::SIG_IGN;
        }
        fail::<c_int>(libc::EINVAL);
        libc::SIG_ERR
    }

    /// A stack for signals that never come.
    fn sigaltstack(_new: *const libc::stack_t, old: *mut libc::stack_t) -> c_int {
        if !old.is_null() {
            // SAFETY: the caller's.
            unsafe {
                old.write_bytes(0, 1);
                (*old).ss_flags = libc::SS_DISABLE;
            }
        }
        0
    }

    /// The first signal that programs may use as they like.
    fn __libc_current_sigrtmin() -> c_int {
        34
    }

    /// The last one.
    fn __libc_current_sigrtmax() -> c_int {
        64
    }

    /// A set without signals.
    fn sigemptyset(set: *mut libc::sigset_t) -> c_int {
        // SAFETY: the caller's.
        unsafe { set.write_bytes(0, 1) };
        0
    }

    /// Adds a signal to a set. `EINVAL` for one that does not exist.
    fn sigaddset(set: *mut libc::sigset_t, signal: c_int) -> c_int {
        if !exists(signal) {
            return fail(libc::EINVAL);
        }
        let bit = (signal - 1) as usize;
        // SAFETY: the caller's; a set is an array of words with a bit for each signal.
        unsafe { *set.cast::<u64>().add(bit / 64) |= 1 << (bit % 64) };
        0
    }

    /// Waits for a signal, for ever.
    fn pause() -> c_int {
        loop {
            runtime::sys::sys_usleep(u64::MAX);
        }
    }

    /// Sends a signal: to oneself, to see whether one is there. `ESRCH` otherwise.
    fn kill(process: libc::pid_t, signal: c_int) -> c_int {
        if process == runtime::sys::sys_getpid() && signal == 0 { 0 } else { fail(libc::ESRCH) }
    }
}
