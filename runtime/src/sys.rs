//! The `sys_` functions of `hermit-abi` 0.5.3 that this version has, by the same names and with the same types.
//!
//! They are for code that was written against that surface; programs of their own use the modules of this crate.
//! A function that waits lets others run if a thread ([`crate::thread`]) calls it. If a task does, it ends epochs until its
//! time has come, and no other task runs meanwhile. Errors are returned as negated error numbers.
//!
//! Not in this version: semaphores.

use core::slice;

use hermit_abi::{CLOCK_MONOTONIC, CLOCK_REALTIME, EFAULT, EINVAL, EIO, clockid_t, pid_t, time_t, timespec};
use hypercall::layout::PAGE_BYTES;

use crate::{exit, platform, random, thread, time};

mod console;
pub mod descriptors;
pub mod epoll;
pub mod events;
mod files;
mod io;
pub mod poll;
pub mod resolve;
pub mod signal;
pub mod sockets;
mod threads;
pub mod wait;

pub use events::sys_eventfd;
pub use files::{
    sys_fsync, sys_getdents64, sys_lstat, sys_mkdir, sys_open, sys_opendir, sys_rmdir, sys_stat, sys_unlink,
};
pub use io::{
    sys_close, sys_dup, sys_fcntl, sys_fstat, sys_ioctl, sys_lseek, sys_read, sys_readv, sys_write, sys_writev,
};
pub use poll::sys_poll;
pub use resolve::sys_getaddrbyname;
pub use sockets::{
    sys_accept, sys_bind, sys_connect, sys_getpeername, sys_getsockname, sys_getsockopt, sys_listen, sys_recv,
    sys_recvfrom, sys_send, sys_sendto, sys_setsockopt, sys_shutdown, sys_socket,
};
pub use threads::{sys_futex_wait, sys_futex_wake, sys_join, sys_spawn, sys_spawn2};

const NS_PER_S: u64 = 1_000_000_000;

/// Exit code of [`sys_abort`], as for a program killed by SIGABRT.
const ABORTED: i32 = 134;

/// Ends the program, when what it has written to files is stable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_exit(status: i32) -> ! {
    crate::fs::finish();
    exit::exit(status)
}

/// Ends the program as failed, when what it has written to files is stable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_abort() -> ! {
    crate::fs::finish();
    exit::exit(ABORTED)
}

/// The one process.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_getpid() -> pid_t {
    1
}

/// Bytes of a page.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_getpagesize() -> i32 {
    PAGE_BYTES as i32
}

/// The one virtual CPU.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_available_parallelism() -> usize {
    1
}

/// The time of `CLOCK_REALTIME` or `CLOCK_MONOTONIC` at the start of the epoch. `-EINVAL` for another clock,
/// `-EFAULT` for a null pointer.
///
/// # Safety
/// `tp` is null or points to a writable `timespec`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_clock_gettime(clockid: clockid_t, tp: *mut timespec) -> i32 {
    thread::look_at_clock();
    let ns = match clockid {
        CLOCK_REALTIME => time::realtime_ns(),
        CLOCK_MONOTONIC => time::monotonic_ns(),
        _ => return -EINVAL,
    };
    if tp.is_null() {
        return -EFAULT;
    }
    // SAFETY: the caller vouches for the pointer.
    unsafe { tp.write(timespec { tv_sec: (ns / NS_PER_S) as time_t, tv_nsec: (ns % NS_PER_S) as i32 }) };
    0
}

/// Waits until the clock has advanced by `ns`.
fn sleep_ns(ns: u64) {
    if thread::is_thread() {
        return thread::block_on(time::sleep(time::Duration::from_nanos(ns)));
    }
    let deadline_ns = time::monotonic_ns().saturating_add(ns);
    while time::monotonic_ns() < deadline_ns {
        platform::wait(deadline_ns);
    }
}

/// Sleeps. `-EINVAL` for a time that is none, `-EFAULT` for a null pointer.
///
/// # Safety
/// `req` is null or points to a readable `timespec`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_nanosleep(req: *const timespec) -> i32 {
    if req.is_null() {
        return -EFAULT;
    }
    // SAFETY: the caller vouches for the pointer.
    let timespec { tv_sec, tv_nsec } = unsafe { req.read() };
    let (Ok(seconds), Ok(ns)) = (u64::try_from(tv_sec), u64::try_from(tv_nsec)) else { return -EINVAL };
    if ns >= NS_PER_S {
        return -EINVAL;
    }
    sleep_ns(seconds.saturating_mul(NS_PER_S).saturating_add(ns));
    0
}

/// Sleeps for at least this many microseconds.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_usleep(usecs: u64) {
    sleep_ns(usecs.saturating_mul(1000));
}

/// Lets others run, if a thread calls it; otherwise it ends the epoch, so that output leaves and input arrives.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_yield() {
    if thread::is_thread() { thread::yield_now() } else { platform::wait(0) }
}

/// Fills memory with random bytes: how many. `-EINVAL` for a flag, of which there are none, `-EFAULT` for a null
/// pointer, `-EIO` when the shim refuses.
///
/// # Safety
/// `buf` is null or points to `len` writable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_read_entropy(buf: *mut u8, len: usize, flags: u32) -> isize {
    if flags != 0 {
        return -EINVAL as isize;
    }
    if len == 0 {
        return 0;
    }
    if buf.is_null() || isize::try_from(len).is_err() {
        return -EFAULT as isize;
    }
    // SAFETY: the caller vouches for pointer and length; the bytes are read only after having been given a value.
    let buffer = unsafe {
        buf.write_bytes(0, len);
        slice::from_raw_parts_mut(buf, len)
    };
    match random::fill(buffer) {
        Ok(()) => len as isize,
        Err(_) => -EIO as isize,
    }
}

mod memory {
    //! The heap by C names.

    use alloc::alloc::{alloc, alloc_zeroed, dealloc, realloc};
    use core::alloc::Layout;
    use core::ptr;

    fn with_layout(size: usize, align: usize, f: impl FnOnce(Layout) -> *mut u8) -> *mut u8 {
        match Layout::from_size_align(size, align) {
            Ok(layout) if size > 0 => f(layout),
            _ => ptr::null_mut(),
        }
    }

    /// Memory, or null.
    #[cfg_attr(feature = "image", unsafe(no_mangle))]
    pub extern "C" fn sys_alloc(size: usize, align: usize) -> *mut u8 {
        // SAFETY: the size is not zero.
        with_layout(size, align, |layout| unsafe { alloc(layout) })
    }

    /// As [`sys_alloc`], by the name that `std` for hermit uses.
    #[cfg_attr(feature = "image", unsafe(no_mangle))]
    pub extern "C" fn sys_malloc(size: usize, align: usize) -> *mut u8 {
        sys_alloc(size, align)
    }

    /// As [`sys_dealloc`], by the name that `std` for hermit uses.
    ///
    /// # Safety
    /// As for `sys_dealloc`.
    #[cfg_attr(feature = "image", unsafe(no_mangle))]
    pub unsafe extern "C" fn sys_free(ptr: *mut u8, size: usize, align: usize) {
        // SAFETY: the caller's.
        unsafe { sys_dealloc(ptr, size, align) }
    }

    /// Memory filled with zeros, or null.
    #[cfg_attr(feature = "image", unsafe(no_mangle))]
    pub extern "C" fn sys_alloc_zeroed(size: usize, align: usize) -> *mut u8 {
        // SAFETY: the size is not zero.
        with_layout(size, align, |layout| unsafe { alloc_zeroed(layout) })
    }

    /// Resizes memory; null, and nothing changed, when that is not possible.
    ///
    /// # Safety
    /// `ptr` came from `sys_alloc` with this size and alignment.
    #[cfg_attr(feature = "image", unsafe(no_mangle))]
    pub unsafe extern "C" fn sys_realloc(ptr: *mut u8, size: usize, align: usize, new_size: usize) -> *mut u8 {
        if new_size == 0 || Layout::from_size_align(new_size, align).is_err() {
            return ptr::null_mut();
        }
        // SAFETY: the caller vouches for the memory; the new size was checked.
        with_layout(size, align, |layout| unsafe { realloc(ptr, layout, new_size) })
    }

    /// Gives memory back.
    ///
    /// # Safety
    /// As for `sys_realloc`; the memory is not used any more.
    #[cfg_attr(feature = "image", unsafe(no_mangle))]
    pub unsafe extern "C" fn sys_dealloc(ptr: *mut u8, size: usize, align: usize) {
        with_layout(size, align, |layout| {
            if !ptr.is_null() {
                // SAFETY: the caller vouches for the memory.
                unsafe { dealloc(ptr, layout) };
            }
            ptr::null_mut()
        });
    }
}

pub use memory::{sys_alloc, sys_alloc_zeroed, sys_dealloc, sys_free, sys_malloc, sys_realloc};

#[cfg(test)]
mod tests;
