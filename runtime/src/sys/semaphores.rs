//! Counting semaphores by hermit's names. What a `sem_t` holds is a pointer to one, or null when it was destroyed.

use alloc::rc::Rc;
use core::ptr;

use hermit_abi::{EAGAIN, EBUSY, EINVAL, EOVERFLOW, ETIMEDOUT, sem_t, timespec};

use super::NS_PER_S;
use super::descriptors::Result;
use super::io::returned;
use super::wait::block_on_until;
use crate::sync::Semaphore;
use crate::thread::Masked;
use crate::time::{self, Duration, Instant};

/// Most that a semaphore can hold (`SEM_VALUE_MAX`).
const MOST: u32 = i32::MAX as u32;

/// The semaphore at a place, which lives for as long as the caller has it. `EINVAL` when there is none.
///
/// # Safety
/// `sem` is null or holds what [`sys_sem_init`] or [`sys_sem_destroy`] has left.
unsafe fn semaphore(sem: *mut sem_t) -> Result<Rc<Semaphore>> {
    if sem.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: the caller's.
    let held = unsafe { sem.read() }.cast::<Semaphore>();
    if held.is_null() {
        return Err(EINVAL);
    }
    // SAFETY: `sys_sem_init` has made the pointer of a counted one, and the place counts for one.
    Ok(unsafe {
        Rc::increment_strong_count(held);
        Rc::from_raw(held)
    })
}

/// Makes a semaphore. `-EINVAL` for a null pointer, for one that processes are to share, of which there is one, and for more
/// than 2^31 - 1.
///
/// # Safety
/// `sem` is null or writable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_sem_init(sem: *mut sem_t, pshared: i32, value: u32) -> i32 {
    let _masked = Masked::new();
    if sem.is_null() || pshared != 0 || value > MOST {
        return returned(Err(EINVAL));
    }
    let made = Rc::into_raw(Rc::new(Semaphore::new(value as usize)));
    // SAFETY: the caller's.
    unsafe { sem.write(made.cast()) };
    0
}

/// Gives a semaphore's memory back. `-EINVAL` when there is none, `-EBUSY` while somebody waits for it.
///
/// # Safety
/// `sem` is null or holds what [`sys_sem_init`] or [`sys_sem_destroy`] has left.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_sem_destroy(sem: *mut sem_t) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    returned(unsafe { semaphore(sem) }.and_then(|held| {
        // Beside the place and this call, those who wait have it.
        if Rc::strong_count(&held) > 2 {
            return Err(EBUSY);
        }
        // SAFETY: the caller's, and the place counts for one, which it does not hold any more.
        unsafe {
            sem.write(ptr::null());
            Rc::decrement_strong_count(Rc::as_ptr(&held));
        }
        Ok(0)
    }))
}

/// Adds one: who has waited longest has it. `-EINVAL` when there is no semaphore, `-EOVERFLOW` when it holds as much as it can.
///
/// # Safety
/// `sem` is null or holds what [`sys_sem_init`] or [`sys_sem_destroy`] has left.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_sem_post(sem: *mut sem_t) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    returned(unsafe { semaphore(sem) }.and_then(|held| {
        if held.available() >= MOST as usize {
            return Err(EOVERFLOW);
        }
        held.release();
        Ok(0)
    }))
}

/// Takes one if there is one. `-EAGAIN` when there is none, `-EINVAL` when there is no semaphore.
///
/// # Safety
/// `sem` is null or holds what [`sys_sem_init`] or [`sys_sem_destroy`] has left.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_sem_trywait(sem: *mut sem_t) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    returned(unsafe { semaphore(sem) }.and_then(|held| {
        held.try_acquire().ok_or(EAGAIN)?.forget();
        Ok(0)
    }))
}

/// When it is so late by `CLOCK_REALTIME`. `EINVAL` for what is no time.
fn deadline(time: timespec) -> Result<Instant> {
    let ns = u64::try_from(time.tv_nsec).ok().filter(|ns| *ns < NS_PER_S).ok_or(EINVAL)?;
    // What lies before 1970 is over, too.
    let at_ns = u64::try_from(time.tv_sec).map_or(0, |seconds| seconds.saturating_mul(NS_PER_S).saturating_add(ns));
    Ok(Instant::now() + Duration::from_nanos(at_ns.saturating_sub(time::realtime_ns())))
}

/// Takes one, and waits for it until `CLOCK_REALTIME` says `abs_timeout`; for ever if that is null. `-ETIMEDOUT`; `-EINVAL` when
/// there is no semaphore, and for what is no time if one has to wait.
///
/// # Safety
/// `sem` is null or holds what [`sys_sem_init`] or [`sys_sem_destroy`] has left; `abs_timeout` is null or readable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_sem_timedwait(sem: *mut sem_t, abs_timeout: *const timespec) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    returned(unsafe { semaphore(sem) }.and_then(|held| {
        if let Some(permit) = held.try_acquire() {
            permit.forget();
            return Ok(0);
        }
        // SAFETY: the caller's.
        let deadline = unsafe { abs_timeout.as_ref() }.map(|time| deadline(*time)).transpose()?;
        block_on_until(deadline, held.acquire()).ok_or(ETIMEDOUT)?.forget();
        Ok(0)
    }))
}
