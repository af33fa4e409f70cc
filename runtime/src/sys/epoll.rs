//! Waiting for many descriptors at a cost that does not grow with them: Linux's epoll(7).
//!
//! An epoll is told of every change of what it watches (`Watch`) and keeps a queue of those that may be ready, in the order
//! in which they became so. A wait looks at the queue alone. What is watched for levels goes to the end of the queue again,
//! as long as it is ready; what is watched for edges leaves it until the next change.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::Poll;

use hermit_abi::{EBADF, EEXIST, EINVAL, ELOOP, ENOENT, EPERM, O_RDWR, POLLIN, stat};

use super::descriptors::{self, Open, Result, Status, stat_of};
use super::signal::{ALWAYS, Events, Signal, Watch};
use super::wait::block_on_until;
use crate::executor::waker::Wake;
use crate::thread;
use crate::time::Instant;

/// What is to be told of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// What it is to be ready for.
    pub events: Events,
    /// Told once for each change, not as long as it lasts (`EPOLLET`).
    pub edge: bool,
    /// Told once, and then not until the interest is changed (`EPOLLONESHOT`).
    pub once: bool,
    /// The caller's, handed back with what is told.
    pub data: u64,
}

/// A descriptor that is watched.
struct Watched {
    epoll: Weak<Epoll>,
    object: Weak<dyn Open>,
    interest: Cell<Interest>,
    /// It was told, and is to be told once.
    spent: Cell<bool>,
    /// It is in the queue.
    queued: Cell<bool>,
    /// Itself, to be put into the queue.
    itself: Weak<Watched>,
}

impl Watched {
    /// What it is ready for, of what is to be told.
    fn readiness(&self) -> Events {
        let interest = self.interest.get();
        if self.spent.get() {
            return 0;
        }
        self.object.upgrade().map_or(0, |object| object.readiness() & (interest.events | ALWAYS))
    }

    /// Puts it into the queue, if it is not there.
    fn enqueue(&self, wake: &mut dyn FnMut(Wake)) {
        let (Some(epoll), Some(itself)) = (self.epoll.upgrade(), self.itself.upgrade()) else { return };
        if !self.queued.replace(true) {
            epoll.queue.borrow_mut().push_back(itself);
            epoll.signal.fire(POLLIN, wake);
        }
    }
}

impl Watch for Watched {
    fn changed(&self, events: Events, wake: &mut dyn FnMut(Wake)) {
        if !self.spent.get() && (self.interest.get().events | ALWAYS) & events != 0 {
            self.enqueue(wake);
        }
    }
}

/// Watches descriptors.
pub struct Epoll {
    status: Status,
    /// By descriptor.
    watched: RefCell<BTreeMap<i32, Rc<Watched>>>,
    /// Those that may be ready, longest first.
    queue: RefCell<VecDeque<Rc<Watched>>>,
    signal: Signal,
}

impl Epoll {
    /// One that watches nothing.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            status: Status::new(O_RDWR),
            watched: RefCell::default(),
            queue: RefCell::default(),
            signal: Signal::new(),
        })
    }

    /// The one that watches this very object by this descriptor.
    fn find(&self, descriptor: i32, object: &Rc<dyn Open>) -> Option<Rc<Watched>> {
        let watched = self.watched.borrow().get(&descriptor).cloned()?;
        Weak::ptr_eq(&watched.object, &Rc::downgrade(object)).then_some(watched)
    }

    /// Begins to watch a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EEXIST`, `EPERM` for what is always ready, `EINVAL` for itself, `ELOOP` for another epoll.
    pub fn add(self: &Rc<Self>, descriptor: i32, interest: Interest) -> Result<()> {
        let object = descriptors::get(descriptor)?;
        if Rc::as_ptr(&object).addr() == Rc::as_ptr(self).addr() {
            return Err(EINVAL);
        }
        if descriptors::get_as::<Self>(descriptor, EBADF).is_ok() {
            return Err(ELOOP);
        }
        let signal = object.signal().ok_or(EPERM)?;
        if self.find(descriptor, &object).is_some() {
            return Err(EEXIST);
        }
        let watched = Rc::new_cyclic(|itself: &Weak<Watched>| Watched {
            epoll: Rc::downgrade(self),
            object: Rc::downgrade(&object),
            interest: Cell::new(interest),
            spent: Cell::new(false),
            queued: Cell::new(false),
            itself: Weak::clone(itself),
        });
        let watch: Rc<dyn Watch> = watched.clone();
        signal.watch(&watch);
        self.watched.borrow_mut().insert(descriptor, Rc::clone(&watched));
        self.look_at(&watched);
        Ok(())
    }

    /// Changes what is to be told of a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `ENOENT`.
    pub fn change(&self, descriptor: i32, interest: Interest) -> Result<()> {
        let object = descriptors::get(descriptor)?;
        let watched = self.find(descriptor, &object).ok_or(ENOENT)?;
        watched.interest.set(interest);
        watched.spent.set(false);
        self.look_at(&watched);
        Ok(())
    }

    /// Ends to watch a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `ENOENT`.
    pub fn remove(&self, descriptor: i32) -> Result<()> {
        let object = descriptors::get(descriptor)?;
        let watched = self.find(descriptor, &object).ok_or(ENOENT)?;
        self.watched.borrow_mut().remove(&descriptor);
        // Should it be in the queue, it is told no more.
        watched.spent.set(true);
        if let Some(signal) = object.signal() {
            let watch: Rc<dyn Watch> = watched;
            signal.unwatch(&watch);
        }
        Ok(())
    }

    /// Queues one that is ready already.
    fn look_at(&self, watched: &Watched) {
        if watched.readiness() == 0 {
            return;
        }
        let mut foreign = Vec::new();
        watched.enqueue(&mut |wake| match wake {
            Wake::Task(id) => id.wake(),
            other => foreign.push(other),
        });
        foreign.into_iter().for_each(Wake::wake);
    }

    /// Tells `each` of up to `most` that are ready: how many were told.
    fn tell(&self, most: usize, each: &mut dyn FnMut(Events, u64)) -> usize {
        let mut told = 0;
        // Each once: what is still ready goes to the end.
        let mut left = self.queue.borrow().len();
        while left > 0 && told < most {
            left -= 1;
            let Some(watched) = self.queue.borrow_mut().pop_front() else { break };
            watched.queued.set(false);
            let events = watched.readiness();
            if events == 0 {
                if watched.object.strong_count() == 0 {
                    self.forget(&watched);
                }
                continue;
            }
            let interest = watched.interest.get();
            told += 1;
            if interest.once {
                watched.spent.set(true);
            } else if !interest.edge {
                watched.queued.set(true);
                self.queue.borrow_mut().push_back(watched);
            }
            each(events, interest.data);
        }
        told
    }

    /// Forgets one whose object is gone.
    fn forget(&self, watched: &Rc<Watched>) {
        self.watched.borrow_mut().retain(|_, known| !Rc::ptr_eq(known, watched));
    }

    /// Waits until something is ready or the deadline has come, and tells `each` of up to `most`, with the data of its
    /// interest: how many were told.
    ///
    /// # Errors
    /// `EINVAL` when nothing may be told.
    pub fn wait(&self, most: usize, deadline: Option<Instant>, each: &mut dyn FnMut(Events, u64)) -> Result<usize> {
        if most == 0 {
            return Err(EINVAL);
        }
        let told = self.tell(most, each);
        if told > 0 {
            return Ok(told);
        }
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            thread::look_in_vain();
            return Ok(0);
        }
        let some = poll_fn(|context| match self.tell(most, each) {
            0 => {
                self.signal.register(context.waker(), POLLIN);
                Poll::Pending
            }
            told => Poll::Ready(told),
        });
        Ok(block_on_until(deadline, some).unwrap_or(0))
    }
}

impl Open for Epoll {
    fn status(&self) -> &Status {
        &self.status
    }

    fn stat(&self) -> Result<stat> {
        Ok(stat_of(0))
    }

    fn readiness(&self) -> Events {
        if self.queue.borrow().iter().any(|watched| watched.readiness() != 0) { POLLIN } else { 0 }
    }

    fn signal(&self) -> Option<&Signal> {
        Some(&self.signal)
    }
}
