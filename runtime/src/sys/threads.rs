//! Threads and futexes.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

use hermit_abi::{EAGAIN, EDEADLK, EFAULT, EINVAL, ENOMEM, ESRCH, ETIMEDOUT, FUTEX_RELATIVE_TIMEOUT, Tid, timespec};

use super::NS_PER_S;
use crate::thread::futex::{Waited, wait, wake};
use crate::thread::{self, JoinError};
use crate::time::{Duration, Instant};

/// Stack of a thread that does not say how large it shall be.
const STACK_BYTES: usize = 256 * 1024;

fn start(func: extern "C" fn(usize), arg: usize, stack_bytes: usize) -> Option<Tid> {
    thread::spawn(stack_bytes, move || func(arg)).ok()
}

/// Starts a thread and leaves its number at `id`. Priority and processor are of no account: there is one processor, and
/// threads take turns. `-ENOMEM` when there is no memory for its stack, `-EFAULT` for a null pointer.
///
/// # Safety
/// `id` is null or points to writable memory; `func` may be called with `arg`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_spawn(
    id: *mut Tid,
    func: extern "C" fn(usize),
    arg: usize,
    _prio: u8,
    _core_id: isize,
) -> i32 {
    if id.is_null() {
        return -EFAULT;
    }
    let Some(started) = start(func, arg, STACK_BYTES) else { return -ENOMEM };
    // SAFETY: the caller vouches for the pointer.
    unsafe { id.write(started) };
    0
}

/// Starts a thread with a stack of `stack_size` bytes, 0 for the usual size, and returns its number; 0 when there is no
/// memory for its stack.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_spawn2(
    func: extern "C" fn(usize),
    arg: usize,
    _prio: u8,
    stack_size: usize,
    _core_id: isize,
) -> Tid {
    let stack_bytes = if stack_size == 0 { STACK_BYTES } else { stack_size };
    start(func, arg, stack_bytes).unwrap_or(0)
}

/// Waits for the end of a thread. `-ESRCH` when there is none of that number, `-EINVAL` when somebody else waits for it,
/// `-EDEADLK` for the caller itself.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_join(id: Tid) -> i32 {
    match thread::join(id) {
        Ok(()) => 0,
        Err(JoinError::Unknown) => -ESRCH,
        Err(JoinError::Taken) => -EINVAL,
        Err(JoinError::Itself) => -EDEADLK,
    }
}

/// When a wait is over: `timeout` from now on if `flags` has `FUTEX_RELATIVE_TIMEOUT`, else by the monotonic clock.
fn deadline(timeout: timespec, flags: u32) -> Option<Instant> {
    let (seconds, ns) = (u64::try_from(timeout.tv_sec).ok()?, u64::try_from(timeout.tv_nsec).ok()?);
    if ns >= NS_PER_S {
        return None;
    }
    let duration = Duration::from_nanos(seconds.saturating_mul(NS_PER_S).saturating_add(ns));
    let start = if flags & FUTEX_RELATIVE_TIMEOUT != 0 { Instant::now() } else { Instant::from_nanos(0) };
    Some(start + duration)
}

/// Waits at `address` while it holds `expected`, until it is woken. `-EAGAIN` when it holds something else, `-ETIMEDOUT`
/// when the time is over, `-EFAULT` for a null or unaligned pointer, `-EINVAL` for a time that is none or a flag that does
/// not exist.
///
/// # Panics
/// If a task calls it, not a thread.
///
/// # Safety
/// `address` is null or points to readable memory, `timeout` as well.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_futex_wait(address: *mut u32, expected: u32, timeout: *const timespec, flags: u32) -> i32 {
    if address.is_null() || !address.is_aligned() {
        return -EFAULT;
    }
    if flags & !FUTEX_RELATIVE_TIMEOUT != 0 {
        return -EINVAL;
    }
    let deadline = if timeout.is_null() {
        None
    } else {
        // SAFETY: the caller vouches for the pointer.
        let Some(deadline) = deadline(unsafe { timeout.read() }, flags) else { return -EINVAL };
        Some(deadline)
    };
    // SAFETY: the caller vouches for the word; others access it atomically, too.
    if unsafe { AtomicU32::from_ptr(address) }.load(SeqCst) != expected {
        return -EAGAIN;
    }
    match wait(address.addr(), deadline) {
        Waited::Woken => 0,
        Waited::TimedOut => -ETIMEDOUT,
    }
}

/// Wakes up to `count` of those who wait at `address`, all for a negative one: how many there were. `-EFAULT` for a null
/// pointer.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_futex_wake(address: *mut u32, count: i32) -> i32 {
    if address.is_null() {
        return -EFAULT;
    }
    wake(address.addr(), usize::try_from(count).unwrap_or(usize::MAX)) as i32
}
