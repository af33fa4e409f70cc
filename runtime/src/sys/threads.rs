//! Threads and futexes.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

use hermit_abi::{EAGAIN, EDEADLK, EFAULT, EINVAL, ENOMEM, ESRCH, ETIMEDOUT, FUTEX_RELATIVE_TIMEOUT, Tid, timespec};

use super::NS_PER_S;
use super::errno::noted;
use super::io::returned;
use crate::thread::futex::{Waited, wait, wake};
use crate::thread::{self, JoinError, Masked};
use crate::time::{Duration, Instant};

/// Stack of a thread that does not say how large it shall be.
const STACK_BYTES: usize = 256 * 1024;

fn start(func: extern "C" fn(usize), arg: usize, priority: u8, stack_bytes: usize) -> Option<Tid> {
    let started = thread::spawn_or_say(stack_bytes, move || func(arg)).ok()?;
    thread::set_priority(started, priority);
    Some(started)
}

/// Starts a thread and leaves its number at `id`. Its priority is kept and of no account, like its processor: there is one, and
/// threads take turns. `-ENOMEM` when there is no memory for its stack, `-EFAULT` for a null pointer.
///
/// # Safety
/// `id` is null or points to writable memory; `func` may be called with `arg`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_spawn(
    id: *mut Tid,
    func: extern "C" fn(usize),
    arg: usize,
    prio: u8,
    _core_id: isize,
) -> i32 {
    let _masked = Masked::new();
    if id.is_null() {
        return returned(Err(EFAULT));
    }
    returned(start(func, arg, prio, STACK_BYTES).ok_or(ENOMEM).map(|started| {
        // SAFETY: the caller vouches for the pointer.
        unsafe { id.write(started) };
        0
    }))
}

/// Starts a thread with a stack of `stack_size` bytes, 0 for the usual size, and returns its number; 0 when there is no
/// memory for its stack.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_spawn2(
    func: extern "C" fn(usize),
    arg: usize,
    prio: u8,
    stack_size: usize,
    _core_id: isize,
) -> Tid {
    let _masked = Masked::new();
    let stack_bytes = if stack_size == 0 { STACK_BYTES } else { stack_size };
    start(func, arg, prio, stack_bytes).unwrap_or_else(|| {
        noted(-ENOMEM);
        0
    })
}

/// Waits for the end of a thread. `-ESRCH` when there is none of that number, `-EINVAL` when somebody else waits for it,
/// `-EDEADLK` for the caller itself.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_join(id: Tid) -> i32 {
    let _masked = Masked::new();
    let joined = thread::join(id).map_err(|error| match error {
        JoinError::Unknown => ESRCH,
        JoinError::Taken => EINVAL,
        JoinError::Itself => EDEADLK,
    });
    returned(joined.map(|()| 0))
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
/// when the time is over, `-EINVAL` for a null or unaligned pointer, a time that is none, or a flag that does not exist.
///
/// # Panics
/// If a task calls it, not a thread.
///
/// # Safety
/// `address` is null or points to readable memory, `timeout` as well.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_futex_wait(address: *mut u32, expected: u32, timeout: *const timespec, flags: u32) -> i32 {
    let _masked = Masked::new();
    let wait_there = || {
        if address.is_null() || !address.is_aligned() || flags & !FUTEX_RELATIVE_TIMEOUT != 0 {
            return Err(EINVAL);
        }
        let deadline = if timeout.is_null() {
            None
        } else {
            // SAFETY: the caller vouches for the pointer.
            Some(deadline(unsafe { timeout.read() }, flags).ok_or(EINVAL)?)
        };
        // SAFETY: the caller vouches for the word; others access it atomically, too.
        if unsafe { AtomicU32::from_ptr(address) }.load(SeqCst) != expected {
            return Err(EAGAIN);
        }
        match wait(address.addr(), deadline) {
            Waited::Woken => Ok(0),
            Waited::TimedOut => Err(ETIMEDOUT),
        }
    };
    returned(wait_there())
}

/// Wakes up to `count` of those who wait at `address`: how many there were. `-EINVAL` for a null pointer or a negative count.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_futex_wake(address: *mut u32, count: i32) -> i32 {
    let _masked = Masked::new();
    let count = usize::try_from(count).ok().filter(|_| !address.is_null());
    returned(count.ok_or(EINVAL).map(|count| wake(address.addr(), count) as i32))
}

/// The priority that the calling thread has been given; 0 for a task.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_get_priority() -> u8 {
    let _masked = Masked::new();
    thread::priority()
}

/// Gives a thread a priority, which is kept and changes nothing. For a number that no thread has it does nothing.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_set_priority(tid: Tid, prio: u8) {
    let _masked = Masked::new();
    thread::set_priority(tid, prio);
}

/// Notes that the calling thread is to be blocked: its next [`sys_yield`](super::sys_yield) comes back when another has woken
/// it ([`sys_wakeup_taskt`]), at once if that has happened in between. For threads; a task is never blocked.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_block_current_task() {
    let _masked = Masked::new();
    thread::blocking::block(None);
}

/// As [`sys_block_current_task`], for `timeout` milliseconds at most from now on.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_block_current_task_with_timeout(timeout: u64) {
    let _masked = Masked::new();
    thread::blocking::block(Some(Instant::now() + Duration::from_millis(timeout)));
}

/// Wakes a thread that is blocked, or is to be. For any other it does nothing. (The name is the one that `hermit-abi` asks
/// the linker for.)
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_wakeup_taskt(tid: Tid) {
    let _masked = Masked::new();
    thread::blocking::wake(tid);
}
