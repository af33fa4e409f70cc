//! The main loop: what happens in an epoch, in which order, and when it ends.

use alloc::rc::Rc;
use core::cell::Cell;
use core::future::Future;

use super::{EPOCH_BUDGET, EXECUTOR, spawn};
use crate::{platform, time};

/// Runs `main` and everything it spawns until `main` is done, and returns its result. Other tasks that still exist
/// then do not run any further.
///
/// An epoch is: take in what arrived, wake who waited for it or for a time that has come, run the ready tasks
/// within the budget, send what they left to send, and give the epoch back to the shim. So a burst of requests is
/// read, answered and sent in one go, with one hypercall.
pub fn block_on<F>(main: F) -> F::Output
where
    F: Future + 'static,
    F::Output: 'static,
{
    let result = Rc::new(Cell::new(None));
    let place = Rc::clone(&result);
    spawn(async move { place.set(Some(main.await)) });
    loop {
        EXECUTOR.with(|executor| executor.budget.set(EPOCH_BUDGET));
        wake_due_timers();
        EXECUTOR.with(|executor| executor.run_ready());
        if let Some(output) = result.take() {
            return output;
        }
        platform::wait(deadline_ns());
    }
}

fn wake_due_timers() {
    let now_ns = time::monotonic_ns();
    while let Some(wake) = EXECUTOR.with(|executor| executor.tables.borrow_mut().timers.pop_due(now_ns)) {
        wake.wake();
    }
}

/// Until when the shim may wait for events.
fn deadline_ns() -> u64 {
    EXECUTOR.with(|executor| {
        let tables = executor.tables.borrow();
        if tables.ready.is_empty() { tables.timers.next_ns() } else { 0 }
    })
}
