//! A channel for one value.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use crate::executor::waker::Wake;

struct Shared<T> {
    value: RefCell<Option<T>>,
    closed: Cell<bool>,
    receiver: Cell<Option<Wake>>,
}

/// A channel for one value.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared { value: RefCell::new(None), closed: Cell::new(false), receiver: Cell::new(None) });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared })
}

/// The sender was dropped without a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the sender is gone and has sent nothing")
    }
}

impl core::error::Error for Closed {}

/// Sends the value.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Sends the value.
    ///
    /// # Errors
    /// Gives it back when the receiver is gone.
    pub fn send(self, value: T) -> Result<(), T> {
        if self.shared.closed.get() {
            return Err(value);
        }
        *self.shared.value.borrow_mut() = Some(value);
        Ok(())
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.get()
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        if let Some(receiver) = self.shared.receiver.take() {
            receiver.wake();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("closed", &self.is_closed()).finish()
    }
}

/// Awaits the value.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Future for Receiver<T> {
    type Output = Result<T, Closed>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(value) = self.shared.value.borrow_mut().take() {
            return Poll::Ready(Ok(value));
        }
        if self.shared.closed.get() {
            return Poll::Ready(Err(Closed));
        }
        self.shared.receiver.set(Some(Wake::of(context.waker())));
        Poll::Pending
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.closed.set(true);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("closed", &self.shared.closed.get()).finish()
    }
}
