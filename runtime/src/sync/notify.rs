//! Wakes tasks without telling them anything.

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::waitlist::wake_all;
use super::{Ticket, WaitList};

/// A bell. [`notify_one`](Self::notify_one) without a waiting task is remembered, once, for the next one.
#[derive(Debug, Default)]
pub struct Notify {
    remembered: Cell<bool>,
    /// Counts calls of `notify_all`, so that whoever waited before one knows.
    rounds: Cell<u64>,
    waiting: RefCell<WaitList>,
}

impl Notify {
    /// A bell that has not rung.
    pub const fn new() -> Self {
        Self { remembered: Cell::new(false), rounds: Cell::new(0), waiting: RefCell::new(WaitList::new()) }
    }

    /// Wakes the task that has waited longest, or else the next one to wait.
    pub fn notify_one(&self) {
        let next = self.waiting.borrow_mut().pop();
        match next {
            Some(next) => next.wake(),
            None => self.remembered.set(true),
        }
    }

    /// Wakes all tasks that wait now.
    pub fn notify_all(&self) {
        self.rounds.set(self.rounds.get() + 1);
        let all = self.waiting.borrow_mut().pop_all();
        wake_all(all);
    }

    /// Waits for the bell.
    pub fn notified(&self) -> Notified<'_> {
        Notified { notify: self, ticket: Ticket::new(), round: self.rounds.get() }
    }
}

/// The future of [`Notify::notified`].
#[derive(Debug)]
#[must_use = "a bell is heard by awaiting"]
pub struct Notified<'a> {
    notify: &'a Notify,
    ticket: Ticket,
    round: u64,
}

impl Future for Notified<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let notify = self.notify;
        let mut waiting = notify.waiting.borrow_mut();
        let rung = self.round != notify.rounds.get() || waiting.was_served(&self.ticket);
        if rung || notify.remembered.replace(false) {
            self.ticket = Ticket::new();
            return Poll::Ready(());
        }
        waiting.wait(&mut self.ticket, context.waker());
        Poll::Pending
    }
}

impl Drop for Notified<'_> {
    fn drop(&mut self) {
        let was_served = self.notify.waiting.borrow_mut().leave(&mut self.ticket);
        // What `notify_all` rang for everybody needs no heir.
        if was_served && self.round == self.notify.rounds.get() {
            self.notify.notify_one();
        }
    }
}
