//! What tells those who wait for an open object that it may have become ready.
//!
//! Readiness is a set of bits, [`Events`], with the values of hermit's `POLL` constants, which are those of Linux, too. Who
//! waits is a thread in a call (woken once, [`Signal::register`]) or an object that collects changes of many others
//! (`Watch`: an epoll). They are told in the order in which they came, so the order is a function of the record.

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::task::Waker;

use hermit_abi::{POLLERR, POLLHUP};

use crate::executor::waker::Wake;

/// What an object is ready for: `POLLIN`, `POLLOUT`, `POLLRDHUP`, `POLLHUP`, `POLLERR` and so on.
pub type Events = i16;

/// What everybody is told, asked for or not.
pub const ALWAYS: Events = POLLERR | POLLHUP;

/// Somebody who is told of every change of an object.
pub(crate) trait Watch {
    /// The object may have become ready for `events`. Wakers that are due are handed to `wake`, because something of the
    /// object may be borrowed meanwhile.
    fn changed(&self, events: Events, wake: &mut dyn FnMut(Wake));
}

struct Waiting {
    events: Events,
    wake: Wake,
}

#[derive(Default)]
struct Told {
    waiting: Vec<Waiting>,
    watching: Vec<Weak<dyn Watch>>,
}

/// Who is to be told of an object's changes. The object calls [`notify`](Self::notify) whenever it may have become ready for
/// something, also if it was before: that is what edge-triggered waiting relies on.
#[derive(Default)]
pub struct Signal(RefCell<Told>);

impl Signal {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self(RefCell::new(Told { waiting: Vec::new(), watching: Vec::new() }))
    }

    /// Has a task woken, once, when the object may have become ready for one of `events`, or has an error or an end.
    pub fn register(&self, waker: &Waker, events: Events) {
        let wake = Wake::of(waker);
        let waiting = &mut self.0.borrow_mut().waiting;
        match waiting.iter_mut().find(|waiting| waiting.wake.is_same(&wake)) {
            Some(known) => known.events |= events,
            None => waiting.push(Waiting { events, wake }),
        }
    }

    /// Tells `watch` of all changes from now on, as long as it exists.
    pub(crate) fn watch(&self, watch: &Rc<dyn Watch>) {
        self.0.borrow_mut().watching.push(Rc::downgrade(watch));
    }

    /// Tells it no more.
    pub(crate) fn unwatch(&self, watch: &Rc<dyn Watch>) {
        let unwanted = Rc::downgrade(watch);
        self.0.borrow_mut().watching.retain(|known| !Weak::ptr_eq(known, &unwanted) && known.strong_count() > 0);
    }

    /// The object may have become ready for `events`: wakes who waits for one of them.
    pub fn notify(&self, events: Events) {
        let mut foreign = Vec::new();
        self.fire(events, &mut |wake| match wake {
            Wake::Task(id) => id.wake(),
            other => foreign.push(other),
        });
        foreign.into_iter().for_each(Wake::wake);
    }

    /// As [`notify`](Self::notify), handing out the wakers.
    pub(crate) fn fire(&self, events: Events, wake: &mut dyn FnMut(Wake)) {
        let mut told = self.0.borrow_mut();
        for woken in told.waiting.extract_if(.., |waiting| (waiting.events | ALWAYS) & events != 0) {
            wake(woken.wake);
        }
        for watching in &told.watching {
            if let Some(watching) = watching.upgrade() {
                watching.changed(events, wake);
            }
        }
    }
}
