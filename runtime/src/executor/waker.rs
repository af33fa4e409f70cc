//! Wakers that are numbers.

use core::ptr;
use core::task::{RawWaker, RawWakerVTable, Waker};

use super::EXECUTOR;
#[cfg(not(feature = "image"))]
use crate::local::WithMasked;

/// Bits of the pointer-sized waker data that hold the slot; the rest hold the generation.
const INDEX_BITS: u32 = usize::BITS / 2;
const INDEX_MASK: usize = (1 << INDEX_BITS) - 1;
/// Generations wrap at this.
pub(crate) const GENERATION_MASK: u32 = INDEX_MASK as u32;

/// Names a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TaskId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl TaskId {
    #[inline]
    fn to_data(self) -> *const () {
        ptr::without_provenance((self.generation as usize) << INDEX_BITS | self.index as usize)
    }

    #[inline]
    fn from_data(data: *const ()) -> Self {
        let bits = data.addr();
        Self { index: (bits & INDEX_MASK) as u32, generation: (bits >> INDEX_BITS) as u32 }
    }

    /// Puts the task into the ready queue unless it is there.
    #[inline]
    pub(crate) fn wake(self) {
        EXECUTOR.with_masked(|executor| executor.tables.borrow_mut().wake(self));
    }
}

static VTABLE: RawWakerVTable =
    RawWakerVTable::new(|data| RawWaker::new(data, &VTABLE), wake_by_data, wake_by_data, |_| {});

fn wake_by_data(data: *const ()) {
    TaskId::from_data(data).wake();
}

/// The waker of a task.
#[inline]
pub(super) fn of_task(id: TaskId) -> Waker {
    // SAFETY: the data is a plain number, so cloning copies it, dropping needs nothing, and waking looks it up in
    // the tables of the calling thread: sound from any thread.
    unsafe { Waker::new(id.to_data(), &VTABLE) }
}

/// A stored waker: a task of ours by its number, without the calls through a table that a [`Waker`] costs.
#[derive(Debug)]
pub(crate) enum Wake {
    /// A task of this executor.
    Task(TaskId),
    /// A waker made by somebody else, such as a combinator.
    Foreign(Waker),
}

impl Wake {
    #[inline]
    pub(crate) fn of(waker: &Waker) -> Self {
        if ptr::eq(waker.vtable(), &VTABLE) {
            Self::Task(TaskId::from_data(waker.data()))
        } else {
            Self::Foreign(waker.clone())
        }
    }

    /// Whether both wake the same task.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Task(one), Self::Task(two)) => one == two,
            (Self::Foreign(one), Self::Foreign(two)) => one.will_wake(two),
            _ => false,
        }
    }

    #[inline]
    pub(crate) fn wake(self) {
        match self {
            Self::Task(id) => id.wake(),
            Self::Foreign(waker) => waker.wake(),
        }
    }
}
