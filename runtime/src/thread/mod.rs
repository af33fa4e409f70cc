//! Threads: functions on stacks of their own that wait by giving way.
//!
//! A program that was written for an operating system blocks where it stands. Here each of its threads is a stack and a
//! task that runs it: the executor polls the task, which goes on with the stack; where the thread has to wait, for any
//! future at all ([`block_on`]), it leaves its stack and the task is pending. So threads are scheduled by the executor,
//! in the order in which they were woken, the same in both replicas, beside tasks and timers, and nothing that a task can
//! wait for needs a second implementation.
//!
//! Threads are not interrupted. One that computes lets nobody else run until it waits, yields, or looks at the clock very
//! often (see [`look_at_clock`]).
//!
//! A stack has no guard page below it: words at its end are looked at whenever its thread waits, and one that has grown
//! over them ends the program with a panic that says so.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use core::future::Future;
use core::ops::Range;
use core::pin::{Pin, pin};
use core::task::{Context, Poll, Waker};

use crate::compute::stack::Stack;
use crate::compute::switch;
use crate::{executor, platform, time};

pub mod futex;
mod table;
#[cfg(test)]
mod tests;

pub use table::{JoinError, current, detach, join};

/// Names a thread; the first one, which runs `main`, has 1.
pub type ThreadId = u32;

/// How often a thread may look at the clock in one epoch before the epoch ends for it.
const CLOCK_LOOKS: u32 = 200;
/// How often it may look in vain whether something has arrived.
const VAIN_LOOKS: u32 = 10_000;

/// A thread, while it exists.
struct Thread {
    id: ThreadId,
    stack: Stack,
    /// Stack pointer with which it goes on.
    pointer: Cell<u64>,
    /// What it keeps in the processor's thread pointer.
    thread_pointer: Cell<u64>,
    /// What it runs, until it starts.
    body: Cell<Option<Box<dyn FnOnce()>>>,
    ended: Cell<bool>,
    /// Of the task that runs it, while it runs.
    waker: RefCell<Option<Waker>>,
}

/// What belongs to all threads.
struct Threads {
    /// The one that runs.
    running: RefCell<Option<Rc<Thread>>>,
    /// Where the executor has left its stack.
    executor: Cell<u64>,
    /// What the processor's thread pointer holds.
    thread_pointer: Cell<u64>,
    /// The epoch in which somebody looked last, and how often since it began: at the clock, and in vain for other things.
    looks: Cell<(u64, [u32; 2])>,
}

local! {
    static THREADS: Threads = Threads {
        running: RefCell::new(None),
        executor: Cell::new(0),
        thread_pointer: Cell::new(0),
        looks: Cell::new((0, [0; 2])),
    };
}

/// Why there is no new thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnError {
    /// There is no memory for its stack.
    Memory {
        /// How large the stack was to be.
        stack_bytes: usize,
    },
    /// This machine cannot change stacks.
    Unavailable,
}

/// Starts a thread on a stack of at least `stack_bytes`. It first runs when its turn comes.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(stack_bytes: usize, body: impl FnOnce() + 'static) -> Result<ThreadId, SpawnError> {
    if !switch::AVAILABLE {
        return Err(SpawnError::Unavailable);
    }
    let stack = Stack::try_new(stack_bytes).ok_or(SpawnError::Memory { stack_bytes })?;
    // SAFETY: the stack is this thread's own and longer than that; its top is aligned.
    let pointer = unsafe { switch::prepare(stack.top(), begin) };
    let id = table::enter();
    let thread = Thread {
        id,
        stack,
        pointer: Cell::new(pointer),
        thread_pointer: Cell::new(0),
        body: Cell::new(Some(Box::new(body))),
        ended: Cell::new(false),
        waker: RefCell::new(None),
    };
    // The handle is not needed: the table knows when it has ended.
    drop(executor::spawn(Running(Rc::new(thread))));
    Ok(id)
}

/// The task that runs a thread.
struct Running(Rc<Thread>);

impl Future for Running {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let thread = &self.0;
        thread.waker.replace(Some(context.waker().clone()));
        THREADS.with(|all| all.running.replace(Some(Rc::clone(thread))));
        load_thread_pointer(thread.thread_pointer.get());
        let place = THREADS.with(|all| all.executor.as_ptr());
        // SAFETY: the thread's stack pointer was left by `wait` or made by `prepare`, it has not been gone on with since,
        // and its stack lives as long as the thread. The place is a static's.
        unsafe { switch::switch(place, thread.pointer.get()) };
        THREADS.with(|all| all.running.replace(None));
        thread.waker.replace(None);
        if thread.ended.get() {
            thread.stack.check(None);
            table::leave(thread.id);
            return Poll::Ready(());
        }
        thread.stack.check(Some(thread.pointer.get()));
        Poll::Pending
    }
}

/// Where every thread starts.
extern "C" fn begin() -> ! {
    if let Some(thread) = running() {
        if let Some(body) = thread.body.take() {
            body();
        }
        thread.ended.set(true);
    }
    loop {
        // One that has ended is not gone on with.
        give_way();
    }
}

/// The thread that runs.
fn running() -> Option<Rc<Thread>> {
    THREADS.with(|all| all.running.borrow().clone())
}

/// Goes on with the executor, until the thread's task is polled again.
fn give_way() {
    let Some(place) = THREADS.with(|all| all.running.borrow().as_ref().map(|thread| thread.pointer.as_ptr())) else {
        return;
    };
    let executor = THREADS.with(|all| all.executor.get());
    // SAFETY: the executor waits in `Running::poll`, where it has left its stack pointer just before it went on with this
    // thread. The place belongs to the thread, which its task keeps.
    unsafe { switch::switch(place, executor) };
}

/// Whether a thread runs, rather than a task.
pub fn is_thread() -> bool {
    THREADS.with(|all| all.running.borrow().is_some())
}

/// Waits on the running thread's stack until `future` is done. Other threads and tasks run meanwhile.
///
/// # Panics
/// If no thread runs: a task awaits.
pub fn block_on<F: Future>(future: F) -> F::Output {
    let thread = running().expect("only a thread waits in a call; a task awaits");
    let waker = thread.waker.borrow().clone().unwrap_or_else(|| Waker::noop().clone());
    drop(thread);
    let mut future = pin!(future);
    loop {
        // The waker is the number of the thread's task, which does not change.
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        give_way();
    }
}

/// Lets everybody run who is ready.
pub fn yield_now() {
    if is_thread() {
        block_on(executor::yield_now());
    }
}

/// To be called where a thread looks at the clock. The clock stands still during an epoch, so a thread that waits for a time
/// by looking again and again has to let the epoch end.
pub fn look_at_clock() {
    look(0, CLOCK_LOOKS);
}

/// To be called where a thread that does not want to wait is told that nothing is there yet: nothing arrives during an epoch.
pub fn look_in_vain() {
    look(1, VAIN_LOOKS);
}

fn look(at: usize, most: u32) {
    let epoch = time::epoch();
    let looks = THREADS.with(|all| {
        let (last, mut looks) = all.looks.get();
        if last != epoch {
            looks = [0; 2];
        }
        looks[at] += 1;
        all.looks.set((epoch, looks));
        looks[at]
    });
    if looks < most {
        return;
    }
    if is_thread() {
        // Whoever is ready runs first; then the epoch ends, because a timer wants the next one.
        block_on(time::sleep(time::Duration::from_nanos(1)));
    } else {
        platform::wait(0);
    }
}

/// Gives the running thread this thread pointer, an address of its own memory.
///
/// # Panics
/// If the machine refuses: it has no such register, or the address is not one of the guest.
pub fn set_pointer(address: u64) {
    if let Some(thread) = running() {
        thread.thread_pointer.set(address);
    }
    load_thread_pointer(address);
}

fn load_thread_pointer(address: u64) {
    let loaded = THREADS.with(|all| all.thread_pointer.replace(address));
    if loaded != address {
        let result = platform::thread_pointer(address);
        assert!(result == 0, "the machine does not take {address:#x} as thread pointer: error {}", -result);
    }
}

/// Where the running thread's stack lies.
pub fn current_stack() -> Option<Range<u64>> {
    THREADS.with(|all| all.running.borrow().as_ref().map(|thread| thread.stack.range()))
}

/// Forgets all threads: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn reset() {
    THREADS.with(|all| {
        all.running.replace(None);
        all.thread_pointer.set(0);
        all.looks.set((0, [0; 2]));
    });
    table::reset();
    futex::reset();
}
