//! The `sys_` functions of `hermit-abi` 0.5.3 that this version has, by the same names and with the same types.
//!
//! They are for code that was written against that surface; programs of their own use the modules of this crate.
//! A function that waits lets others run if a thread ([`crate::thread`]) calls it. If a task does, it ends epochs until its
//! time has come, and no other task runs meanwhile. Errors are returned as negated error numbers, and kept for each thread
//! ([`sys_get_errno`]).
//!
//! `runtime/hermit.txt` says of every name that `hermit-abi` asks the linker for what becomes of it; a test compares the list with
//! that crate's source and with what is exported here.
//!
//! A thread that calls one is not interrupted before it returns ([`thread::Masked`]), but for those that touch nothing but their
//! arguments or the heap, which masks itself.

use core::slice;

use hermit_abi::{CLOCK_MONOTONIC, CLOCK_REALTIME, EFAULT, EINVAL, EIO, clockid_t, pid_t, time_t, timespec};
use hypercall::layout::PAGE_BYTES;

use self::errno::noted;
use crate::thread::{self, Masked};
use crate::{exit, platform, random, time};

pub mod addrinfo;
mod console;
pub mod descriptors;
pub mod epoll;
mod errno;
pub mod events;
mod files;
mod io;
mod pages;
pub mod poll;
mod queues;
pub mod resolve;
mod semaphores;
pub mod signal;
pub mod sockets;
mod threads;
pub mod wait;

pub use addrinfo::{sys_freeaddrinfo, sys_getaddrinfo};
pub use errno::{sys_errno, sys_get_errno};
pub use events::sys_eventfd;
pub use files::{
    sys_fsync, sys_getdents64, sys_lstat, sys_mkdir, sys_open, sys_opendir, sys_rmdir, sys_stat, sys_unlink,
};
pub use io::{
    sys_close, sys_dup, sys_fcntl, sys_fstat, sys_ioctl, sys_lseek, sys_read, sys_readv, sys_write, sys_writev,
};
pub use pages::{sys_mmap, sys_mprotect, sys_munmap};
pub use poll::sys_poll;
pub use queues::{sys_add_queue, sys_destroy_queue, sys_init_queue, sys_notify, sys_wait};
pub use resolve::sys_getaddrbyname;
pub use semaphores::{sys_sem_destroy, sys_sem_init, sys_sem_post, sys_sem_timedwait, sys_sem_trywait};
pub use sockets::{
    sys_accept, sys_bind, sys_connect, sys_getpeername, sys_getsockname, sys_getsockopt, sys_listen, sys_recv,
    sys_recvfrom, sys_send, sys_sendto, sys_setsockopt, sys_shutdown, sys_shutdown_socket, sys_socket,
};
pub use threads::{
    sys_block_current_task, sys_block_current_task_with_timeout, sys_futex_wait, sys_futex_wake, sys_get_priority,
    sys_join, sys_set_priority, sys_spawn, sys_spawn2, sys_wakeup_taskt,
};

const NS_PER_S: u64 = 1_000_000_000;

/// Exit code of [`sys_abort`], as for a program killed by SIGABRT.
const ABORTED: i32 = 134;

/// Ends the program, when what it has written to files is stable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_exit(status: i32) -> ! {
    let _masked = Masked::new();
    crate::fs::finish();
    exit::exit(status)
}

/// Ends the program as failed, when what it has written to files is stable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_abort() -> ! {
    let _masked = Masked::new();
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

/// As [`sys_available_parallelism`].
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_get_processor_count() -> usize {
    sys_available_parallelism()
}

/// There is nothing to do: the network is there when it is first used.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_network_init() -> i32 {
    0
}

/// The time of `CLOCK_REALTIME` or `CLOCK_MONOTONIC` at the start of the epoch. `-EINVAL` for another clock,
/// `-EFAULT` for a null pointer.
///
/// # Safety
/// `tp` is null or points to a writable `timespec`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_clock_gettime(clockid: clockid_t, tp: *mut timespec) -> i32 {
    let _masked = Masked::new();
    thread::look_at_clock();
    let ns = match clockid {
        CLOCK_REALTIME => time::realtime_ns(),
        CLOCK_MONOTONIC => time::monotonic_ns(),
        _ => return noted(-EINVAL),
    };
    if tp.is_null() {
        return noted(-EFAULT);
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
    let _masked = Masked::new();
    if req.is_null() {
        return noted(-EFAULT);
    }
    // SAFETY: the caller vouches for the pointer.
    let timespec { tv_sec, tv_nsec } = unsafe { req.read() };
    let (Ok(seconds), Ok(ns)) = (u64::try_from(tv_sec), u64::try_from(tv_nsec)) else { return noted(-EINVAL) };
    if ns >= NS_PER_S {
        return noted(-EINVAL);
    }
    sleep_ns(seconds.saturating_mul(NS_PER_S).saturating_add(ns));
    0
}

/// Sleeps for at least this many microseconds.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_usleep(usecs: u64) {
    let _masked = Masked::new();
    sleep_ns(usecs.saturating_mul(1000));
}

/// Lets others run, if a thread calls it; otherwise it ends the epoch, so that output leaves and input arrives. A thread that is
/// to be blocked ([`sys_block_current_task`]) waits until it is woken.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_yield() {
    let _masked = Masked::new();
    if thread::is_thread() { thread::blocking::yield_now() } else { platform::wait(0) }
}

/// Fills memory with random bytes: how many. `-EINVAL` for a flag, of which there are none, `-EFAULT` for a null
/// pointer, `-EIO` when the shim refuses.
///
/// # Safety
/// `buf` is null or points to `len` writable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_read_entropy(buf: *mut u8, len: usize, flags: u32) -> isize {
    let _masked = Masked::new();
    if flags != 0 {
        return noted(-EINVAL as isize);
    }
    if len == 0 {
        return 0;
    }
    if buf.is_null() || isize::try_from(len).is_err() {
        return noted(-EFAULT as isize);
    }
    // SAFETY: the caller vouches for pointer and length; the bytes are read only after having been given a value.
    let buffer = unsafe {
        buf.write_bytes(0, len);
        slice::from_raw_parts_mut(buf, len)
    };
    match random::fill(buffer) {
        Ok(()) => len as isize,
        Err(_) => noted(-EIO as isize),
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
#[cfg(test)]
mod waiting_tests;
