//! Waiting for a task's end.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::waker::{TaskId, Wake};

/// What a task and its handle share.
pub(super) struct Shared<T> {
    result: RefCell<Option<T>>,
    ended: Cell<bool>,
    waiter: Cell<Option<Wake>>,
}

impl<T> Shared<T> {
    pub(super) fn new() -> Self {
        Self { result: RefCell::new(None), ended: Cell::new(false), waiter: Cell::new(None) }
    }
}

/// Marks the task as ended however it ends.
struct Ending<T>(Rc<Shared<T>>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.ended.set(true);
        if let Some(waiter) = self.0.waiter.take() {
            waiter.wake();
        }
    }
}

/// Runs a future and leaves its result for the handle.
pub(super) fn run<F: Future>(future: F, shared: Rc<Shared<F::Output>>) -> impl Future<Output = ()> {
    let ending = Ending(shared);
    async move {
        let result = future.await;
        *ending.0.result.borrow_mut() = Some(result);
    }
}

/// The task was aborted before it had a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task was aborted before it had a result")
    }
}

impl core::error::Error for Aborted {}

/// Awaits the result of a task. Dropping the handle lets the task go on by itself.
pub struct JoinHandle<T> {
    id: TaskId,
    shared: Rc<Shared<T>>,
}

impl<T> JoinHandle<T> {
    pub(super) fn new(id: TaskId, shared: Rc<Shared<T>>) -> Self {
        Self { id, shared }
    }

    /// Drops the task at its next point of waiting, which is at once unless it is the running one.
    pub fn abort(&self) {
        super::abort(self.id);
    }

    /// Whether the task has ended, by itself or by [`abort`](Self::abort).
    pub fn is_finished(&self) -> bool {
        self.shared.ended.get()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle").field("task", &self.id).field("finished", &self.is_finished()).finish()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Aborted>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.shared.ended.get() {
            return Poll::Ready(self.shared.result.borrow_mut().take().ok_or(Aborted));
        }
        self.shared.waiter.set(Some(Wake::of(context.waker())));
        Poll::Pending
    }
}
