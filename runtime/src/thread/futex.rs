//! Waiting at an address, as Linux's futex(2) and hermit's `sys_futex_` functions do.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

use super::block_on;
use crate::time::{self, Instant};

/// Somebody who waits.
struct Waiting {
    woken: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

local! {
    /// Who waits at which address, longest first.
    static QUEUES: RefCell<BTreeMap<usize, VecDeque<Rc<Waiting>>>> = RefCell::new(BTreeMap::new());
}

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// By [`wake`].
    Woken,
    /// The deadline has come.
    TimedOut,
}

/// Takes a waiter that was not woken out of its queue.
struct Registered {
    address: usize,
    waiting: Rc<Waiting>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        if self.waiting.woken.get() {
            return;
        }
        QUEUES.with(|queues| {
            let mut queues = queues.borrow_mut();
            if let Some(queue) = queues.get_mut(&self.address) {
                queue.retain(|other| !Rc::ptr_eq(other, &self.waiting));
                if queue.is_empty() {
                    queues.remove(&self.address);
                }
            }
        });
    }
}

/// Lets the running thread wait at `address` until [`wake`] is called for it or the monotonic clock has reached
/// `deadline`. The caller has compared what lies there: nothing else runs between that and this.
///
/// # Panics
/// If no thread runs.
pub fn wait(address: usize, deadline: Option<Instant>) -> Waited {
    let waiting = Rc::new(Waiting { woken: Cell::new(false), waker: RefCell::new(None) });
    let registered = Registered { address, waiting: Rc::clone(&waiting) };
    QUEUES.with(|queues| queues.borrow_mut().entry(address).or_default().push_back(Rc::clone(&waiting)));
    let woken = poll_fn(|context| {
        if waiting.woken.get() {
            return Poll::Ready(());
        }
        *waiting.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    });
    match deadline {
        None => block_on(woken),
        // Whether it was woken is told below: both may happen in one epoch.
        Some(deadline) => drop(block_on(time::timeout(deadline.duration_since(Instant::now()), woken))),
    }
    drop(registered);
    if waiting.woken.get() { Waited::Woken } else { Waited::TimedOut }
}

/// Wakes up to `count` threads that wait at `address`, longest first: how many there were.
pub fn wake(address: usize, count: usize) -> usize {
    let mut woken = 0;
    while woken < count {
        let next = QUEUES.with(|queues| {
            let mut queues = queues.borrow_mut();
            let queue = queues.get_mut(&address)?;
            let next = queue.pop_front();
            if queue.is_empty() {
                queues.remove(&address);
            }
            next
        });
        let Some(next) = next else { break };
        next.woken.set(true);
        let waker = next.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
        woken += 1;
    }
    woken
}

#[cfg(not(feature = "image"))]
pub(super) fn reset() {
    QUEUES.with(|queues| queues.borrow_mut().clear());
}
