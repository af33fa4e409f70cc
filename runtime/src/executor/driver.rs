//! The main loop: what happens in an epoch, in which order, and when it ends.

use alloc::rc::Rc;
use core::cell::Cell;
use core::future::Future;
use core::pin::pin;
use core::task::{Context, Poll, Waker};

use super::{EPOCH_BUDGET, EXECUTOR, spawn};
use crate::compute::{self, Turn};
use crate::{block, net, platform, time};

/// Runs `main` and everything it spawns until `main` is done, and returns its result. Other tasks that still exist
/// then do not run any further.
///
/// An epoch is: take in what arrived, wake who waited for it or for a time that has come, run the ready tasks
/// within the budget, send what they left to send, and give the epoch back to the shim. So a burst of requests is
/// read, answered and sent in one go, with one hypercall. What is left of an epoch belongs to the computations, if there
/// are any ([`crate::compute`]).
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
        net::receive(spend);
        wake_due_timers();
        let (turn, deadline_ns) = loop {
            let deadline_ns = run_tasks();
            if let Some(output) = result.take() {
                return output;
            }
            if EXECUTOR.with(|executor| executor.interrupted.take()) {
                // A thread's interruption is the beginning of an epoch, as a computation's is.
                break (Turn::Interrupted, 0);
            }
            let turn = compute::turn(deadline_ns);
            // What has waited for a computation's end runs in the same epoch if it has budget left.
            if turn != Turn::Ended || !has_budget() {
                break (turn, deadline_ns);
            }
        };
        match turn {
            Turn::Nobody => platform::wait(deadline_ns),
            // What has interrupted it is the beginning of an epoch.
            Turn::Interrupted => {}
            Turn::GaveWay | Turn::Ended => platform::wait(0),
        }
    }
}

/// Awaits a future within a call of a task: ends epochs until it is done. No other task runs meanwhile, but what arrives is
/// taken in, and what is due is sent.
pub(crate) fn wait_in_place<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        // Nobody need be woken: it is asked in each epoch.
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
        let sent = net::send();
        block::send();
        let at_once = net::has_arrived() || sent.backlog;
        platform::wait(if at_once { 0 } else { sent.deadline_ns.min(next_timer_ns()) });
        net::receive(|_| true);
        wake_due_timers();
    }
}

/// Runs the ready tasks within the budget and sends what they left to send. Returns when to go on although nothing has
/// arrived: a time in nanoseconds, 0 for at once, `u64::MAX` for never.
fn run_tasks() -> u64 {
    let sent = loop {
        EXECUTOR.with(|executor| executor.run_ready());
        let sent = net::send();
        EXECUTOR.with(|executor| executor.network_ns.set(sent.deadline_ns));
        // Sending may have told tasks of closed connections; they run in the same epoch if it has budget left.
        if sent.crowded || !has_work() || !has_budget() || was_interrupted() {
            break sent;
        }
    };
    block::send();
    let at_once = net::has_arrived() || sent.backlog || has_work();
    if at_once { 0 } else { sent.deadline_ns.min(next_timer_ns()) }
}

/// Takes from the epoch's budget. Returns whether any is left.
fn spend(units: u32) -> bool {
    EXECUTOR.with(|executor| executor.charge(units));
    has_budget()
}

fn has_budget() -> bool {
    EXECUTOR.with(|executor| executor.budget.get() > 0)
}

fn was_interrupted() -> bool {
    EXECUTOR.with(|executor| executor.interrupted.get())
}

fn has_work() -> bool {
    EXECUTOR.with(|executor| !executor.tables.borrow().ready.is_empty())
}

fn wake_due_timers() {
    let now_ns = time::monotonic_ns();
    while let Some(wake) = EXECUTOR.with(|executor| executor.tables.borrow_mut().timers.pop_due(now_ns)) {
        wake.wake();
    }
}

fn next_timer_ns() -> u64 {
    EXECUTOR.with(|executor| executor.tables.borrow().timers.next_ns())
}
