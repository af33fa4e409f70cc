//! Tasks that wait for the same thing, first come, first served.

use alloc::collections::VecDeque;
use core::task::Waker;

use crate::executor::waker::Wake;

/// A place in a wait list. Empty until the task has waited for the first time.
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<u64>);

impl Ticket {
    pub(super) const fn new() -> Self {
        Self(None)
    }
}

/// The list.
#[derive(Debug, Default)]
pub(super) struct WaitList {
    /// Tickets ascend, so a ticket is found by bisection.
    waiting: VecDeque<(u64, Wake)>,
    issued: u64,
}

impl WaitList {
    pub(super) const fn new() -> Self {
        Self { waiting: VecDeque::new(), issued: 0 }
    }

    fn find(&self, number: u64) -> Result<usize, usize> {
        self.waiting.binary_search_by_key(&number, |(number, _)| *number)
    }

    /// Waits at the ticket's place, or at the end without one.
    pub(super) fn wait(&mut self, ticket: &mut Ticket, waker: &Waker) {
        let wake = Wake::of(waker);
        if let Some(number) = ticket.0
            && let Ok(place) = self.find(number)
        {
            self.waiting[place].1 = wake;
            return;
        }
        self.issued += 1;
        ticket.0 = Some(self.issued);
        self.waiting.push_back((self.issued, wake));
    }

    /// Whether the ticket has waited and was taken off the list: what it waited for is its own.
    pub(super) fn was_served(&self, ticket: &Ticket) -> bool {
        ticket.0.is_some_and(|number| self.find(number).is_err())
    }

    /// Gives up waiting. Returns whether the ticket had been served: then somebody else should be, in its stead.
    pub(super) fn leave(&mut self, ticket: &mut Ticket) -> bool {
        let Some(number) = ticket.0.take() else { return false };
        match self.find(number) {
            Ok(place) => {
                self.waiting.remove(place);
                false
            }
            Err(_) => true,
        }
    }

    /// The first waiting task is taken off the list, to be woken once nothing is borrowed.
    pub(super) fn pop(&mut self) -> Option<Wake> {
        self.waiting.pop_front().map(|(_, wake)| wake)
    }

    /// Takes everybody off the list.
    pub(super) fn pop_all(&mut self) -> VecDeque<(u64, Wake)> {
        core::mem::take(&mut self.waiting)
    }
}

/// Wakes a list that was taken off.
pub(super) fn wake_all(list: VecDeque<(u64, Wake)>) {
    for (_, wake) in list {
        wake.wake();
    }
}
