//! Waiting in a call.

use core::future::{Future, poll_fn};
use core::task::Poll;

use hermit_abi::EAGAIN;

use super::descriptors::{Open, Result};
use super::signal::Events;
use crate::time::{self, Instant};
use crate::{executor, thread};

/// Awaits a future in a call: on the running thread's stack, while others run; if a task has called, on the executor's, and
/// nobody else runs meanwhile.
pub fn block_on<F: Future>(future: F) -> F::Output {
    if thread::is_thread() { thread::block_on(future) } else { executor::wait_in_place(future) }
}

/// As [`block_on`], until a time at most: `None` when that has come first.
pub fn block_on_until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        None => Some(block_on(future)),
        Some(deadline) => block_on(time::timeout(deadline.duration_since(Instant::now()), future)).ok(),
    }
}

/// Tries an operation on an object until it says something else than `EAGAIN`: again whenever the object may have become
/// ready for `events`. If the object is not to wait, or the deadline has come, `EAGAIN` is the answer.
///
/// # Errors
/// What the operation says.
pub fn until<T>(
    object: &(impl Open + ?Sized),
    events: Events,
    deadline: Option<Instant>,
    mut operation: impl FnMut() -> Result<T>,
) -> Result<T> {
    match operation() {
        Err(EAGAIN) => {}
        other => return other,
    }
    if object.status().is_nonblocking() {
        thread::look_in_vain();
        return Err(EAGAIN);
    }
    let Some(signal) = object.signal() else { return Err(EAGAIN) };
    let done = poll_fn(|context| match operation() {
        Err(EAGAIN) => {
            signal.register(context.waker(), events);
            Poll::Pending
        }
        other => Poll::Ready(other),
    });
    block_on_until(deadline, done).unwrap_or(Err(EAGAIN))
}
