//! Queues of waiting threads, by which `std` for hermit made its condition variables before it used futexes. `hermit-abi` still
//! declares them, hidden. A queue is named by the address of a word that holds a pointer to it, or null.

use alloc::rc::Rc;
use core::cell::Cell;
use core::ptr;

use hermit_abi::{EBUSY, EINVAL, ENOSYS};

use super::descriptors::Result;
use super::io::returned;
use super::wait::block_on;
use crate::sync::Semaphore;
use crate::thread::Masked;

/// A queue.
struct Queue {
    /// Who has been added and not notified since.
    added: Cell<usize>,
    /// One for each who was notified and has not waited since.
    notified: Semaphore,
}

/// The word that names a queue. `EINVAL` for an address that no word has.
fn place(id: usize) -> Result<*mut *const Queue> {
    let place: *mut *const Queue = ptr::with_exposed_provenance_mut(id);
    if place.is_null() || !place.is_aligned() { Err(EINVAL) } else { Ok(place) }
}

/// The queue of that name. `EINVAL` when there is none.
///
/// # Safety
/// `id` is 0 or the address of a word that nobody but these functions writes to, and that was null at first.
unsafe fn queue(id: usize) -> Result<Rc<Queue>> {
    let place = place(id)?;
    // SAFETY: the caller's: the word holds null, or what `sys_init_queue` has made of a counted one, and counts for one.
    unsafe {
        let held = place.read();
        if held.is_null() {
            return Err(EINVAL);
        }
        Rc::increment_strong_count(held);
        Ok(Rc::from_raw(held))
    }
}

/// Makes a queue, whatever the word held before. `-EINVAL` for an address that no word has.
///
/// # Safety
/// `id` is 0 or the address of a word that nobody but these functions writes to from then on.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_init_queue(id: usize) -> i32 {
    let _masked = Masked::new();
    returned(place(id).map(|place| {
        let made = Rc::into_raw(Rc::new(Queue { added: Cell::new(0), notified: Semaphore::new(0) }));
        // SAFETY: the caller's.
        unsafe { place.write(made) };
        0
    }))
}

/// Gives a queue's memory back; without a queue there is nothing to do. `-EBUSY` while somebody waits.
///
/// # Safety
/// `id` is 0 or the address of a word that nobody but these functions writes to, and that was null at first.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_destroy_queue(id: usize) -> i32 {
    let _masked = Masked::new();
    returned(place(id).and_then(|place| {
        // SAFETY: the caller's.
        let Ok(held) = (unsafe { queue(id) }) else { return Ok(0) };
        // Beside the word and this call, those who wait have it.
        if Rc::strong_count(&held) > 2 {
            return Err(EBUSY);
        }
        // SAFETY: as in `queue`; the word does not count any more.
        unsafe {
            place.write(ptr::null());
            Rc::decrement_strong_count(Rc::as_ptr(&held));
        }
        Ok(0)
    }))
}

/// Adds the caller to those who will wait; makes the queue if there is none. `-ENOSYS` for a time limit, which hermit does not
/// have here either.
///
/// # Safety
/// `id` is 0 or the address of a word that nobody but these functions writes to, and that was null at first.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_add_queue(id: usize, timeout_ns: i64) -> i32 {
    let _masked = Masked::new();
    if timeout_ns > 0 {
        return returned(Err(ENOSYS));
    }
    // SAFETY: the caller's.
    returned(unsafe {
        if queue(id).is_err() && sys_init_queue(id) != 0 {
            return returned(Err(EINVAL));
        }
        queue(id).map(|queue| {
            queue.added.set(queue.added.get() + 1);
            0
        })
    })
}

/// Waits until it was notified as often as others have waited before. `-EINVAL` when there is no queue.
///
/// # Safety
/// `id` is 0 or the address of a word that nobody but these functions writes to, and that was null at first.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_wait(id: usize) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    returned(unsafe { queue(id) }.map(|queue| {
        block_on(queue.notified.acquire()).forget();
        0
    }))
}

/// Notifies `count` of those who were added, or all for a negative one. `-EINVAL` when there is no queue.
///
/// # Safety
/// `id` is 0 or the address of a word that nobody but these functions writes to, and that was null at first.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_notify(id: usize, count: i32) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    returned(unsafe { queue(id) }.map(|queue| {
        let notified = usize::try_from(count).unwrap_or(usize::MAX).min(queue.added.get());
        queue.added.set(queue.added.get() - notified);
        for _ in 0..notified {
            queue.notified.release();
        }
        0
    }))
}
