//! Threads that are blocked until another one names them, as hermit's `block_current_task` and `wakeup_task` have it.
//!
//! A thread first says that it is to be blocked, looks at what it may have to wait for, and then yields: whoever wakes it in
//! between is not missed.

use alloc::collections::BTreeMap;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use super::{ThreadId, block_on, current};
use crate::time::{self, Instant};

/// A thread that is blocked, or will be when it yields.
struct Blocked {
    deadline: Option<Instant>,
    /// There when it has yielded.
    waker: Option<Waker>,
}

local! {
    static BLOCKED: RefCell<BTreeMap<ThreadId, Blocked>> = RefCell::new(BTreeMap::new());
}

/// Notes that the running thread is to be blocked, until the deadline at most, when it next yields. For tasks it does nothing.
pub fn block(deadline: Option<Instant>) {
    let id = current();
    if id != 0 {
        BLOCKED.with(|all| all.borrow_mut().insert(id, Blocked { deadline, waker: None }));
    }
}

/// Wakes a thread that is blocked, or takes back that it is to be: whether it was.
pub fn wake(id: ThreadId) -> bool {
    let blocked = BLOCKED.with(|all| all.borrow_mut().remove(&id));
    let is_blocked = blocked.is_some();
    if let Some(waker) = blocked.and_then(|blocked| blocked.waker) {
        waker.wake();
    }
    is_blocked
}

/// When the running thread's blocking ends by itself, if it is to be blocked.
fn deadline() -> Option<Option<Instant>> {
    BLOCKED.with(|all| {
        let all = all.borrow();
        // Most programs block nobody, and yield often.
        if all.is_empty() { None } else { all.get(&current()).map(|blocked| blocked.deadline) }
    })
}

/// Lets everybody run who is ready; and if the running thread is to be blocked, waits until it is woken.
pub fn yield_now() {
    let Some(deadline) = deadline() else { return super::yield_now() };
    let id = current();
    let woken = poll_fn(|context| {
        BLOCKED.with(|all| match all.borrow_mut().get_mut(&id) {
            Some(blocked) => {
                blocked.waker = Some(context.waker().clone());
                Poll::Pending
            }
            None => Poll::Ready(()),
        })
    });
    match deadline {
        None => block_on(woken),
        // Whether it was woken or the time has come is all the same to the caller.
        Some(deadline) => drop(block_on(time::timeout(deadline.duration_since(Instant::now()), woken))),
    }
    wake(id);
}

#[cfg(not(feature = "image"))]
pub(super) fn reset() {
    BLOCKED.with(|all| all.borrow_mut().clear());
}
