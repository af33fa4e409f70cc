//! Locks of whole files, as flock(2) has them: for open files, not for threads or processes.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};

use hermit_abi::EAGAIN;

use super::Result;
use super::path::Place;
use crate::sync::Notify;
use crate::sys::wait::block_on;

/// Names an open file.
pub(super) type Opening = u64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// Others may share it.
    Shared,
    /// Nobody else has any.
    Exclusive,
    /// None.
    None,
}

/// Who holds a file.
#[derive(Default)]
struct Holders {
    exclusive: Cell<Option<Opening>>,
    shared: RefCell<BTreeSet<Opening>>,
    /// Rung when somebody lets go.
    free: Notify,
    /// How many wait for it.
    waiting: Cell<usize>,
}

local! {
    static LOCKS: RefCell<BTreeMap<Place, Rc<Holders>>> = RefCell::new(BTreeMap::new());
    static NEXT: Cell<Opening> = Cell::new(1);
}

/// A name for a file that was opened.
pub(super) fn new_opening() -> Opening {
    NEXT.with(|next| next.replace(next.get() + 1))
}

impl Holders {
    /// Takes the lock if it can be had. One that is held is given up for it, as everywhere.
    fn take(&self, opening: Opening, wanted: Lock) -> bool {
        self.give_up(opening);
        let mut shared = self.shared.borrow_mut();
        match wanted {
            _ if self.exclusive.get().is_some() => return false,
            Lock::Exclusive if !shared.is_empty() => return false,
            Lock::Exclusive => self.exclusive.set(Some(opening)),
            Lock::Shared => drop(shared.insert(opening)),
            Lock::None => {}
        }
        true
    }

    fn give_up(&self, opening: Opening) {
        let was_exclusive = self.exclusive.get() == Some(opening);
        if was_exclusive {
            self.exclusive.set(None);
        }
        if self.shared.borrow_mut().remove(&opening) || was_exclusive {
            self.free.notify_all();
        }
    }

    fn is_idle(&self) -> bool {
        self.exclusive.get().is_none() && self.shared.borrow().is_empty() && self.waiting.get() == 0
    }
}

fn forget_if_idle(place: Place) {
    LOCKS.with(|locks| {
        let mut locks = locks.borrow_mut();
        if locks.get(&place).is_some_and(|holders| holders.is_idle()) {
            locks.remove(&place);
        }
    });
}

/// Takes a lock, changes it, or gives it up; waits for others if `waits` says so.
///
/// # Errors
/// `EAGAIN` if others hold it and it is not to wait.
pub(super) fn set(place: Place, opening: Opening, wanted: Lock, waits: bool) -> Result<()> {
    if wanted == Lock::None {
        release(place, opening);
        return Ok(());
    }
    let holders = LOCKS.with(|locks| Rc::clone(locks.borrow_mut().entry(place).or_default()));
    let mut taken = holders.take(opening, wanted);
    if !taken && waits {
        holders.waiting.set(holders.waiting.get() + 1);
        block_on(async {
            while !taken {
                holders.free.notified().await;
                taken = holders.take(opening, wanted);
            }
        });
        holders.waiting.set(holders.waiting.get() - 1);
    }
    forget_if_idle(place);
    if taken { Ok(()) } else { Err(EAGAIN) }
}

/// An open file lets go of what it holds.
pub(super) fn release(place: Place, opening: Opening) {
    let holders = LOCKS.with(|locks| locks.borrow().get(&place).cloned());
    if let Some(holders) = holders {
        holders.give_up(opening);
        drop(holders);
        forget_if_idle(place);
    }
}

#[cfg(not(feature = "image"))]
pub(super) fn reset() {
    LOCKS.with(|locks| locks.borrow_mut().clear());
    NEXT.with(|next| next.set(1));
}
