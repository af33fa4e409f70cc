//! The cooperative executor.
//!
//! Tasks run in the order in which they were woken, one at a time, on the guest's only thread: a fact of the program
//! and its input alone, so both replicas run them alike. A waker is a number (slot and generation of its task), so
//! waking costs a table lookup and a queue entry; nothing is counted, cloned or allocated, and a waker that
//! outlived its task wakes nobody.
//!
//! The executor also decides when the epoch ends: when no task is ready, or when the tasks have used up the epoch's
//! work budget, so that a program that never waits still lets its output leave and its input arrive.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::pin::Pin;
use core::task::Context;

pub mod join;
pub mod timers;
pub(crate) mod waker;

mod driver;
#[cfg(test)]
mod tests;

pub use driver::block_on;
pub(crate) use driver::wait_in_place;
pub use join::{Aborted, JoinHandle};

use timers::Timers;
use waker::TaskId;

type BoxedFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Work that one epoch may do, in units of about one byte received or sent.
const EPOCH_BUDGET: u32 = 128 * 1024;
/// Units that polling a task costs whatever it does.
const POLL_COST: u32 = 256;

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not in the ready queue.
    Idle,
    /// In the ready queue.
    Queued,
    /// Being polled, and not woken since.
    Running,
    /// Being polled, and woken since: it goes back into the queue.
    RunningWoken,
    /// Being polled, and aborted since: it is dropped afterwards.
    RunningAborted,
    /// No task.
    Vacant,
}

struct Slot {
    generation: u32,
    state: State,
    future: Option<BoxedFuture>,
}

/// Tables of the executor. No borrow of them is ever held while a task or a foreign waker runs.
struct Tables {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    ready: VecDeque<u32>,
    timers: Timers,
}

/// The executor of this guest.
struct Executor {
    tables: RefCell<Tables>,
    /// Units of work left in this epoch.
    budget: Cell<u32>,
    polls: Cell<u64>,
    /// A thread was interrupted: an epoch has begun, whose events nobody has seen yet.
    interrupted: Cell<bool>,
    /// When the network wants to go on.
    network_ns: Cell<u64>,
}

local! {
    static EXECUTOR: Executor = Executor::new();
}

impl Executor {
    const fn new() -> Self {
        Self {
            tables: RefCell::new(Tables::new()),
            budget: Cell::new(EPOCH_BUDGET),
            polls: Cell::new(0),
            interrupted: Cell::new(false),
            network_ns: Cell::new(u64::MAX),
        }
    }

    /// Polls ready tasks until there are none or the epoch's budget is spent.
    fn run_ready(&self) {
        // Output is sent after the tasks have run; a ring that is filling up has to be emptied by the epoch's end.
        while self.budget.get() > 0 {
            let Some((id, mut future)) = self.tables.borrow_mut().take_ready() else { return };
            self.charge(POLL_COST);
            self.polls.set(self.polls.get() + 1);
            let waker = waker::of_task(id);
            let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
            let leftover = self.tables.borrow_mut().put_back(id, future, done);
            // Dropping what a task owned may wake others, so it happens outside the borrow.
            drop(leftover);
            if self.interrupted.get() {
                return;
            }
        }
    }

    #[inline]
    fn charge(&self, units: u32) {
        self.budget.set(self.budget.get().saturating_sub(units));
    }
}

impl Tables {
    const fn new() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new(), ready: VecDeque::new(), timers: Timers::new() }
    }

    fn insert(&mut self, future: BoxedFuture) -> TaskId {
        let index = self.vacant.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 tasks fit in memory");
            self.slots.push(Slot { generation: 0, state: State::Vacant, future: None });
            index
        });
        let slot = &mut self.slots[index as usize];
        slot.future = Some(future);
        slot.state = State::Queued;
        self.ready.push_back(index);
        TaskId { index, generation: slot.generation }
    }

    fn slot(&mut self, id: TaskId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)
    }

    #[inline]
    fn wake(&mut self, id: TaskId) {
        let Some(slot) = self.slot(id) else { return };
        match slot.state {
            State::Idle => {
                slot.state = State::Queued;
                self.ready.push_back(id.index);
            }
            State::Running => slot.state = State::RunningWoken,
            State::Queued | State::RunningWoken | State::RunningAborted | State::Vacant => {}
        }
    }

    #[inline]
    fn take_ready(&mut self) -> Option<(TaskId, BoxedFuture)> {
        loop {
            let index = self.ready.pop_front()?;
            let slot = &mut self.slots[index as usize];
            // A task that was aborted while it waited in the queue has left an empty entry behind.
            if slot.state == State::Queued
                && let Some(future) = slot.future.take()
            {
                slot.state = State::Running;
                return Some((TaskId { index, generation: slot.generation }, future));
            }
        }
    }

    /// Ends a poll. Returns the future if it is to be dropped.
    #[inline]
    fn put_back(&mut self, id: TaskId, future: BoxedFuture, done: bool) -> Option<BoxedFuture> {
        let slot = &mut self.slots[id.index as usize];
        if done || slot.state == State::RunningAborted {
            self.vacate(id.index);
            return Some(future);
        }
        slot.future = Some(future);
        if slot.state == State::RunningWoken {
            slot.state = State::Queued;
            self.ready.push_back(id.index);
        } else {
            slot.state = State::Idle;
        }
        None
    }

    fn vacate(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        slot.state = State::Vacant;
        slot.generation = slot.generation.wrapping_add(1) & waker::GENERATION_MASK;
        self.vacant.push(index);
    }

    /// Aborts a task. Returns its future, to be dropped, unless the task is the running one.
    fn abort(&mut self, id: TaskId) -> Option<BoxedFuture> {
        let slot = self.slot(id)?;
        match slot.state {
            State::Vacant => None,
            State::Running | State::RunningWoken | State::RunningAborted => {
                slot.state = State::RunningAborted;
                None
            }
            State::Queued => {
                let future = slot.future.take();
                // Its queue entry would otherwise run the slot's next task out of turn.
                self.ready.retain(|&queued| queued != id.index);
                self.vacate(id.index);
                future
            }
            State::Idle => {
                let future = slot.future.take();
                self.vacate(id.index);
                future
            }
        }
    }
}

/// Starts a task. It first runs after the running task has given way, and goes on without its handle.
///
/// # Panics
/// When a computation ([`crate::compute`]) calls it.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    crate::compute::gate::assert_disarmed();
    let shared = Rc::new(join::Shared::new());
    let task = join::run(future, Rc::clone(&shared));
    let id = EXECUTOR.with(|executor| executor.tables.borrow_mut().insert(Box::pin(task)));
    JoinHandle::new(id, shared)
}

/// Puts the running task behind all that are ready now.
pub async fn yield_now() {
    let mut given_way = false;
    core::future::poll_fn(|context| {
        if given_way {
            return core::task::Poll::Ready(());
        }
        given_way = true;
        context.waker().wake_by_ref();
        core::task::Poll::Pending
    })
    .await;
}

/// A thread was interrupted because an epoch has begun: it is looked after before anybody else runs.
pub(crate) fn note_interruption() {
    EXECUTOR.with(|executor| executor.interrupted.set(true));
}

/// When others than the task that runs want to run, in nanoseconds by the clock: 0 for at once, `u64::MAX` for never.
pub(crate) fn next_ns() -> u64 {
    EXECUTOR.with(|executor| {
        let tables = executor.tables.borrow();
        if tables.ready.is_empty() { tables.timers.next_ns().min(executor.network_ns.get()) } else { 0 }
    })
}

/// Tells the executor about work that polls do not show, in units of about one byte copied: when the epoch's budget
/// is spent the epoch ends before the next task runs.
#[inline]
pub fn charge(units: u32) {
    EXECUTOR.with(|executor| executor.charge(units));
}

/// How many tasks exist.
pub fn tasks() -> usize {
    EXECUTOR.with(|executor| {
        let tables = executor.tables.borrow();
        tables.slots.len() - tables.vacant.len()
    })
}

/// How many times tasks were polled since the start.
pub fn polls() -> u64 {
    EXECUTOR.with(|executor| executor.polls.get())
}

fn abort(id: TaskId) {
    let future = EXECUTOR.with(|executor| executor.tables.borrow_mut().abort(id));
    drop(future);
}

/// Drops every task and timer: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn reset() {
    // Dropping a task may wake or spawn others; go on until nothing is left.
    loop {
        let index = EXECUTOR.with(|executor| {
            let tables = executor.tables.borrow();
            tables
                .slots
                .iter()
                .position(|slot| slot.future.is_some())
                .map(|index| (index, tables.slots[index].generation))
        });
        let Some((index, generation)) = index else { break };
        abort(TaskId { index: index as u32, generation });
    }
    crate::compute::reset();
    crate::thread::reset();
    crate::sys::descriptors::reset();
    crate::sys::sockets::reset();
    EXECUTOR.with(|executor| {
        drop(executor.tables.replace(Tables::new()));
        executor.polls.set(0);
        executor.interrupted.set(false);
        executor.network_ns.set(u64::MAX);
    });
}
