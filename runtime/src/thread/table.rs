//! Which threads exist, and who waits for their end.

use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry::Vacant;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use super::{THREADS, ThreadId, block_on, blocking};

/// What others know of a thread.
#[derive(Default)]
struct Entry {
    ended: bool,
    /// Nobody will ask for it: it goes when it ends.
    detached: bool,
    joiner: Option<Waker>,
    /// What was chosen for it. Nobody looks at it but who asks: threads take turns.
    priority: u8,
}

struct Table {
    entries: BTreeMap<ThreadId, Entry>,
    last: ThreadId,
}

local! {
    static TABLE: RefCell<Table> = RefCell::new(Table { entries: BTreeMap::new(), last: 0 });
}

/// Why a thread cannot be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinError {
    /// There is none of that number, or it was waited for already.
    Unknown,
    /// It is detached, or somebody waits for it.
    Taken,
    /// It is the caller itself.
    Itself,
}

impl fmt::Display for JoinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "there is no such thread",
            Self::Taken => "the thread is detached, or waited for by another",
            Self::Itself => "a thread cannot wait for itself",
        })
    }
}

impl core::error::Error for JoinError {}

/// A new thread's number.
pub(super) fn enter() -> ThreadId {
    TABLE.with(|table| {
        let mut table = table.borrow_mut();
        loop {
            table.last = table.last.checked_add(1).unwrap_or(1);
            let id = table.last;
            if let Vacant(place) = table.entries.entry(id) {
                place.insert(Entry::default());
                return id;
            }
        }
    })
}

/// A thread has ended.
pub(super) fn leave(id: ThreadId) {
    blocking::wake(id);
    let joiner = TABLE.with(|table| {
        let entries = &mut table.borrow_mut().entries;
        let entry = entries.get_mut(&id)?;
        entry.ended = true;
        let joiner = entry.joiner.take();
        if entry.detached {
            entries.remove(&id);
        }
        joiner
    });
    if let Some(joiner) = joiner {
        joiner.wake();
    }
}

/// The number of the running thread; 0 outside threads.
pub fn current() -> ThreadId {
    THREADS.with(|all| all.running.borrow().as_ref().map_or(0, |thread| thread.id))
}

/// What was chosen by [`set_priority`] for the running thread: 0 unless something was, and for tasks.
pub fn priority() -> u8 {
    let id = current();
    TABLE.with(|table| table.borrow().entries.get(&id).map_or(0, |entry| entry.priority))
}

/// Keeps a number for a thread that exists. It changes nothing: threads take turns.
pub fn set_priority(id: ThreadId, priority: u8) {
    TABLE.with(|table| {
        if let Some(entry) = table.borrow_mut().entries.get_mut(&id) {
            entry.priority = priority;
        }
    });
}

/// Waits until a thread has ended, and forgets it.
///
/// # Errors
/// [`JoinError`], at once.
pub fn join(id: ThreadId) -> Result<(), JoinError> {
    if id == current() {
        return Err(JoinError::Itself);
    }
    TABLE.with(|table| {
        let table = table.borrow();
        let entry = table.entries.get(&id).ok_or(JoinError::Unknown)?;
        if entry.detached || entry.joiner.is_some() { Err(JoinError::Taken) } else { Ok(()) }
    })?;
    block_on(poll_fn(|context| {
        TABLE.with(|table| {
            let entries = &mut table.borrow_mut().entries;
            match entries.get_mut(&id) {
                Some(entry) if !entry.ended => {
                    entry.joiner = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => {
                    entries.remove(&id);
                    Poll::Ready(())
                }
            }
        })
    }));
    Ok(())
}

/// Lets a thread be forgotten when it ends.
///
/// # Errors
/// [`JoinError`] when nobody could.
pub fn detach(id: ThreadId) -> Result<(), JoinError> {
    TABLE.with(|table| {
        let entries = &mut table.borrow_mut().entries;
        let entry = entries.get_mut(&id).ok_or(JoinError::Unknown)?;
        if entry.detached || entry.joiner.is_some() {
            return Err(JoinError::Taken);
        }
        entry.detached = true;
        if entry.ended {
            entries.remove(&id);
        }
        Ok(())
    })
}

#[cfg(not(feature = "image"))]
pub(super) fn reset() {
    TABLE.with(|table| *table.borrow_mut() = Table { entries: BTreeMap::new(), last: 0 });
}
