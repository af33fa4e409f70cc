//! A bounded queue from many tasks to one.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::poll_fn;
use core::task::Poll;

use super::{Semaphore, semaphore::Permit};
use crate::executor::waker::Wake;

struct Shared<T> {
    queue: RefCell<VecDeque<T>>,
    /// One permit for each free place.
    room: Semaphore,
    senders: Cell<usize>,
    receiver_gone: Cell<bool>,
    receiver: Cell<Option<Wake>>,
}

impl<T> Shared<T> {
    fn push(&self, value: T, place: Permit<'_>) {
        place.forget();
        self.queue.borrow_mut().push_back(value);
        self.wake_receiver();
    }

    fn wake_receiver(&self) {
        if let Some(receiver) = self.receiver.take() {
            receiver.wake();
        }
    }
}

/// A queue of at most `capacity` values; at least one.
pub fn channel<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let shared = Rc::new(Shared {
        queue: RefCell::new(VecDeque::new()),
        room: Semaphore::new(capacity.max(1)),
        senders: Cell::new(1),
        receiver_gone: Cell::new(false),
        receiver: Cell::new(None),
    });
    (Sender { shared: Rc::clone(&shared) }, Receiver { shared })
}

/// Why a value was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrySendError<T> {
    /// The queue is full, or others wait to send.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// The receiver is gone; this is the value that was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendError<T>(pub T);

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the receiver is gone")
    }
}

impl<T: fmt::Debug> core::error::Error for SendError<T> {}

/// Sends into the queue.
pub struct Sender<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Waits for room and sends.
    ///
    /// # Errors
    /// Gives the value back when the receiver is gone.
    pub async fn send(&self, value: T) -> Result<(), SendError<T>> {
        let place = self.shared.room.acquire().await;
        if self.shared.receiver_gone.get() {
            return Err(SendError(value));
        }
        self.shared.push(value, place);
        Ok(())
    }

    /// Sends if there is room at once.
    ///
    /// # Errors
    /// Gives the value back when there is none, or when the receiver is gone.
    pub fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        if self.shared.receiver_gone.get() {
            return Err(TrySendError::Closed(value));
        }
        match self.shared.room.try_acquire() {
            Some(place) => {
                self.shared.push(value, place);
                Ok(())
            }
            None => Err(TrySendError::Full(value)),
        }
    }

    /// Whether the receiver is gone.
    pub fn is_closed(&self) -> bool {
        self.shared.receiver_gone.get()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.set(self.shared.senders.get() + 1);
        Self { shared: Rc::clone(&self.shared) }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.shared.senders.set(self.shared.senders.get() - 1);
        if self.shared.senders.get() == 0 {
            self.shared.wake_receiver();
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("room", &self.shared.room.available()).finish()
    }
}

/// Receives from the queue.
pub struct Receiver<T> {
    shared: Rc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Waits for the next value; `None` when all senders are gone and the queue is empty.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|context| {
            if let Some(value) = self.try_recv() {
                return Poll::Ready(Some(value));
            }
            if self.shared.senders.get() == 0 {
                return Poll::Ready(None);
            }
            self.shared.receiver.set(Some(Wake::of(context.waker())));
            Poll::Pending
        })
        .await
    }

    /// Takes the next value if there is one.
    pub fn try_recv(&mut self) -> Option<T> {
        let value = self.shared.queue.borrow_mut().pop_front()?;
        self.shared.room.release();
        Some(value)
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receiver_gone.set(true);
        // Waiting senders go on and learn that the receiver is gone.
        self.shared.room.open();
        let queued = core::mem::take(&mut *self.shared.queue.borrow_mut());
        drop(queued);
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("queued", &self.shared.queue.borrow().len()).finish()
    }
}
