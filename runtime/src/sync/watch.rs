//! A value that one side changes and others watch.

use alloc::rc::Rc;
use core::cell::{Cell, Ref, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use super::waitlist::wake_all;
use super::{Ticket, WaitList};

struct Shared<T> {
    value: RefCell<T>,
    version: Cell<u64>,
    sender_gone: Cell<bool>,
    waiting: RefCell<WaitList>,
}

impl<T> Shared<T> {
    fn wake(&self) {
        let all = self.waiting.borrow_mut().pop_all();
        wake_all(all);
    }
}

/// A watched value. Receivers count the first value as seen.
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        value: RefCell::new(value),
        version: Cell::new(0),
        sender_gone: Cell::new(false),
        waiting: RefCell::new(WaitList::new()),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared, seen: 0 })
}

/// The sender is gone: the value will not change any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sender is gone: the value will not change any more")
    }
}

impl core::error::Error for Closed {}

/// Changes the value.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Replaces the value and returns the old one.
    pub fn send(&self, value: T) -> T {
        let old = self.shared.value.replace(value);
        self.shared.version.set(self.shared.version.get() + 1);
        self.shared.wake();
        old
    }

    /// Another watcher, which counts the present value as seen.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { shared: Rc::clone(&self.shared), seen: self.shared.version.get() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.sender_gone.set(true);
        self.shared.wake();
    }
}

impl<T: fmt::Debug> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("value", &self.shared.value).finish()
    }
}

/// Watches the value.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
    seen: u64,
}

impl<T> Receiver<T> {
    /// The value. The borrow must not live across a point of waiting.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.value.borrow()
    }

    /// Waits until the value differs from the one last seen, and counts it as seen.
    ///
    /// # Errors
    /// [`Closed`] when the last change was seen and the sender is gone.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        let mut place = Place { shared: &self.shared, ticket: Ticket::new() };
        let seen = self.seen;
        let version = poll_fn(|context| {
            let version = place.shared.version.get();
            if version != seen {
                return Poll::Ready(Ok(version));
            }
            if place.shared.sender_gone.get() {
                return Poll::Ready(Err(Closed));
            }
            place.shared.waiting.borrow_mut().wait(&mut place.ticket, context.waker());
            Poll::Pending
        })
        .await?;
        drop(place);
        self.seen = version;
        Ok(())
    }
}

/// Leaves the wait list when the future is dropped.
struct Place<'a, T> {
    shared: &'a Shared<T>,
    ticket: Ticket,
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        self.shared.waiting.borrow_mut().leave(&mut self.ticket);
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { shared: Rc::clone(&self.shared), seen: self.seen }
    }
}

impl<T: fmt::Debug> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("value", &self.shared.value).field("seen", &self.seen).finish()
    }
}
