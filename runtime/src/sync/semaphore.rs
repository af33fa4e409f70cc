//! A counting semaphore, fair.

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use super::waitlist::wake_all;
use super::{Ticket, WaitList};

/// A number of permits that tasks acquire and give back.
#[derive(Debug)]
pub struct Semaphore {
    permits: Cell<usize>,
    waiting: RefCell<WaitList>,
}

impl Semaphore {
    /// A semaphore with this many permits.
    pub const fn new(permits: usize) -> Self {
        Self { permits: Cell::new(permits), waiting: RefCell::new(WaitList::new()) }
    }

    /// Permits that are free now.
    pub fn available(&self) -> usize {
        self.permits.get()
    }

    /// Waits for a permit.
    pub fn acquire(&self) -> Acquire<'_> {
        Acquire { semaphore: self, ticket: Ticket::new() }
    }

    /// Takes a permit if one is free.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.take().then(|| Permit { semaphore: self })
    }

    fn take(&self) -> bool {
        let free = self.permits.get();
        self.permits.set(free.saturating_sub(1));
        free > 0
    }

    /// Adds a permit: the task that has waited longest has it, and nobody can take it from under it.
    pub fn release(&self) {
        let next = self.waiting.borrow_mut().pop();
        match next {
            Some(next) => next.wake(),
            None => self.permits.set(self.permits.get() + 1),
        }
    }

    /// Serves everybody who waits and whoever comes.
    pub(super) fn open(&self) {
        self.permits.set(usize::MAX / 2);
        let all = self.waiting.borrow_mut().pop_all();
        wake_all(all);
    }
}

/// The future of [`Semaphore::acquire`].
#[derive(Debug)]
#[must_use = "a permit is acquired by awaiting"]
pub struct Acquire<'a> {
    semaphore: &'a Semaphore,
    ticket: Ticket,
}

impl<'a> Future for Acquire<'a> {
    type Output = Permit<'a>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit<'a>> {
        let semaphore = self.semaphore;
        let mut waiting = semaphore.waiting.borrow_mut();
        if waiting.was_served(&self.ticket) || semaphore.take() {
            self.ticket = Ticket::new();
            return Poll::Ready(Permit { semaphore });
        }
        waiting.wait(&mut self.ticket, context.waker());
        Poll::Pending
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        let was_served = self.semaphore.waiting.borrow_mut().leave(&mut self.ticket);
        if was_served {
            self.semaphore.release();
        }
    }
}

/// A permit; dropping it gives it back.
#[derive(Debug)]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

impl Permit<'_> {
    /// Keeps the permit for good: the semaphore has one less.
    pub fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.release();
    }
}
