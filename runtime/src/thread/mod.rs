//! Threads: functions on stacks of their own that wait by giving way.
//!
//! A program that was written for an operating system blocks where it stands. Here each of its threads is a stack and a
//! task that runs it: the executor polls the task, which goes on with the stack; where the thread has to wait, for any
//! future at all ([`block_on`]), it leaves its stack and the task is pending. So threads are scheduled by the executor,
//! in the order in which they were woken, the same in both replicas, beside tasks and timers, and nothing that a task can
//! wait for needs a second implementation.
//!
//! Where epochs are cut, by the machine or by the program's own ticks, a thread that has allowed it ([`preemptible`]) is
//! interrupted between any two instructions, the same two in both replicas, when an epoch begins that brings an event, or
//! in whose time a timer is due, or when others are ready. It goes to the end of the queue of those who are ready, and so
//! nobody waits for it longer than for the epochs of those before him. What it calls of the C library is
//! [masked](crate::compute::gate::Masked). Other threads are not interrupted, and with cooperative epochs none is: one that
//! computes lets nobody else run until it waits, yields, or looks at the clock very often (see [`look_at_clock`]).

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::{Cell, RefCell, UnsafeCell};
use core::fmt;
use core::future::Future;
use core::ops::Range;
use core::pin::{Pin, pin};
use core::sync::atomic::Ordering::Relaxed;
use core::task::{Context, Poll, Waker};

use hypercall::layout::MAX_GUARDS;

pub use crate::compute::gate::Masked;

use crate::compute::gate;
use crate::compute::switch::{self, SaveArea};
use crate::{compute, executor, platform, time};

pub mod blocking;
pub mod futex;
mod stack;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use stack::ThreadStack;

pub use table::{JoinError, current, detach, join, priority, set_priority};

/// Names a thread; the first one, which runs `main`, has 1.
pub type ThreadId = u32;

/// How often a thread may look at the clock in one epoch before the epoch ends for it.
const CLOCK_LOOKS: u32 = 200;
/// How often it may look in vain whether something has arrived.
const VAIN_LOOKS: u32 = 10_000;

/// A thread, while it exists.
struct Thread {
    id: ThreadId,
    stack: ThreadStack,
    /// Stack pointer with which it goes on when it has given way by itself.
    pointer: Cell<u64>,
    /// Its registers when it was interrupted.
    area: UnsafeCell<SaveArea>,
    /// It was interrupted, and goes on by `area`.
    interrupted: Cell<bool>,
    /// What it keeps in the processor's thread pointer.
    thread_pointer: Cell<u64>,
    /// What it runs, until it starts.
    body: Cell<Option<Box<dyn FnOnce()>>>,
    ended: Cell<bool>,
    /// What its last failed call has said, for those who ask later.
    errno: Cell<i32>,
    /// Of the task that runs it, while it runs.
    waker: RefCell<Option<Waker>>,
}

/// What belongs to all threads.
struct Threads {
    /// The one that runs.
    running: RefCell<Option<Rc<Thread>>>,
    /// What the processor's thread pointer holds.
    thread_pointer: Cell<u64>,
    /// The epoch in which somebody looked last, and how often since it began: at the clock, and in vain for other things.
    looks: Cell<(u64, [u32; 2])>,
    /// The error number of the tasks, which share one.
    errno: Cell<i32>,
    /// Why there was no new thread has been said.
    said: Cell<bool>,
}

local! {
    static THREADS: Threads = Threads {
        running: RefCell::new(None),
        thread_pointer: Cell::new(0),
        looks: Cell::new((0, [0; 2])),
        errno: Cell::new(0),
        said: Cell::new(false),
    };
}

/// What every thread does first and last, on its own stack.
#[derive(Debug, Clone, Copy)]
pub struct Hooks {
    /// Before its function.
    pub enter: fn(),
    /// After it.
    pub leave: fn(),
    /// Its function touches nothing of the runtime but by what is [`Masked`], and may be interrupted ([`preemptible`]).
    pub preemptible: bool,
}

local! {
    static HOOKS: Cell<Option<Hooks>> = Cell::new(None);
}

/// Threads that start from now on run these, as long as nobody else calls this.
pub fn set_hooks(hooks: Option<Hooks>) {
    HOOKS.with(|place| place.set(hooks));
}

/// Why there is no new thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpawnError {
    /// There is no memory for its stack.
    Memory {
        /// How large the stack was to be.
        stack_bytes: usize,
    },
    /// There are as many threads as there can be guards of stacks ([`hypercall::layout::MAX_GUARDS`]).
    TooMany,
    /// This machine cannot change stacks.
    Unavailable,
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { stack_bytes } => write!(
                f,
                "there is no memory for a thread's stack of {stack_bytes} bytes ({} bytes of the heap of {} are in use); \
                 raise --memory-mib",
                crate::heap::stats().used_bytes,
                crate::heap::stats().total_bytes
            ),
            Self::TooMany => write!(f, "there can be no more than {MAX_GUARDS} threads"),
            Self::Unavailable => f.write_str("this machine has no threads"),
        }
    }
}

impl core::error::Error for SpawnError {}

/// Room that must be left beside a new thread's stack for what else it needs from the start.
const START_BYTES: usize = 32 * 1024;

/// Starts a thread on a stack of at least `stack_bytes`. It first runs when its turn comes.
///
/// # Errors
/// [`SpawnError`].
pub fn spawn(stack_bytes: usize, body: impl FnOnce() + 'static) -> Result<ThreadId, SpawnError> {
    if !switch::AVAILABLE {
        return Err(SpawnError::Unavailable);
    }
    if !crate::heap::has_room(stack_bytes.saturating_add(START_BYTES)) {
        return Err(SpawnError::Memory { stack_bytes });
    }
    let stack = ThreadStack::new(stack_bytes)?;
    // SAFETY: the stack is this thread's own and longer than that; its top is aligned.
    let pointer = unsafe { switch::prepare(stack.top(), begin) };
    let id = table::enter();
    stack.label(id, "");
    let thread = Thread {
        id,
        stack,
        pointer: Cell::new(pointer),
        area: UnsafeCell::new(SaveArea::new()),
        interrupted: Cell::new(false),
        thread_pointer: Cell::new(0),
        body: Cell::new(Some(Box::new(body))),
        ended: Cell::new(false),
        errno: Cell::new(0),
        waker: RefCell::new(None),
    };
    // The handle is not needed: the table knows when it has ended.
    drop(executor::spawn(Running(Rc::new(thread))));
    Ok(id)
}

/// As [`spawn`], for callers whose error numbers say little: the first time that there is no thread, the console says why.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_or_say(stack_bytes: usize, body: impl FnOnce() + 'static) -> Result<ThreadId, SpawnError> {
    let spawned = spawn(stack_bytes, body);
    if let Err(error) = &spawned
        && !THREADS.with(|all| all.said.replace(true))
    {
        crate::println!("pollux: no new thread: {error}");
    }
    spawned
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
        // SAFETY: the executor polls a thread's task only when the thread does not run, and not after its end.
        let interrupted = unsafe { thread.go_on() };
        THREADS.with(|all| all.running.replace(None));
        thread.waker.replace(None);
        thread.interrupted.set(interrupted);
        if thread.ended.get() {
            thread.stack.check(None);
            table::leave(thread.id);
            return Poll::Ready(());
        }
        thread.stack.check(Some(thread.left_at()));
        if interrupted {
            // Behind all that are ready, in the epoch that has just begun.
            context.waker().wake_by_ref();
            executor::note_interruption();
        }
        Poll::Pending
    }
}

impl Thread {
    /// Runs it until it is interrupted (true), gives way or ends.
    ///
    /// # Safety
    /// It does not run, and has not ended.
    unsafe fn go_on(&self) -> bool {
        let place = gate::with_block(|block| {
            block.wake_ns.store(executor::next_ns(), Relaxed);
            block.area.store(self.area.get() as u64, Relaxed);
            block.stack.as_ptr()
        });
        // SAFETY: the caller's; `pointer` and `area` are what `give_way` or `prepare`, or the last upcall has left, as
        // `interrupted` says, and have not been gone on with since. The stack lives as long as the thread; below the stack
        // pointer of one that was interrupted there is room, or the guard. The place is a static's.
        unsafe {
            #[cfg(feature = "image")]
            if self.interrupted.get() {
                return switch::resume(self.area.get());
            }
            switch::switch(place, self.pointer.get())
        }
    }

    /// Its stack pointer while it does not run.
    fn left_at(&self) -> u64 {
        #[cfg(feature = "image")]
        if self.interrupted.get() {
            // SAFETY: the shim's upcall has filled it, and nobody writes to it while the thread does not run.
            return unsafe { (*self.area.get()).stack() };
        }
        self.pointer.get()
    }
}

/// Where every thread starts.
extern "C" fn begin() -> ! {
    if let Some(thread) = running() {
        let hooks = HOOKS.with(Cell::get);
        if let Some(hooks) = hooks {
            (hooks.enter)();
        }
        if let Some(body) = thread.body.take() {
            if hooks.is_some_and(|hooks| hooks.preemptible) { preemptible(body) } else { body() }
        }
        if let Some(hooks) = hooks {
            (hooks.leave)();
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

/// Goes on with the executor, until the thread's task is polled again. A thread that is masked is masked again afterwards.
fn give_way() {
    let Some(place) = THREADS.with(|all| all.running.borrow().as_ref().map(|thread| thread.pointer.as_ptr())) else {
        return;
    };
    let masked = gate::is_masked();
    // Others run armed or not as they have left off; and what was due happens now.
    gate::disarm();
    let executor = gate::with_block(|block| block.stack.load(Relaxed));
    // SAFETY: the executor waits in `Thread::go_on`, where it has left its stack pointer just before it went on with this
    // thread. The place belongs to the thread, which its task keeps.
    unsafe { switch::switch(place, executor) };
    if masked {
        gate::mask();
    }
}

/// Calls `function` so that the running thread may be interrupted in it wherever it is not [`Masked`]. The function is code
/// that touches nothing of the runtime unmasked.
pub fn preemptible<R>(function: impl FnOnce() -> R) -> R {
    compute::register();
    gate::arm();
    let result = function();
    gate::disarm();
    result
}

/// Keeps the running thread's error number, or that of the tasks.
pub fn set_errno(errno: i32) {
    THREADS.with(|all| match &*all.running.borrow() {
        Some(thread) => thread.errno.set(errno),
        None => all.errno.set(errno),
    });
}

/// What was kept last; 0 at first.
pub fn errno() -> i32 {
    THREADS.with(|all| all.running.borrow().as_ref().map_or_else(|| all.errno.get(), |thread| thread.errno.get()))
}

/// Names the running thread in the report of an overflow of its stack.
pub fn set_name(name: &str) {
    if let Some(thread) = running() {
        thread.stack.label(thread.id, name);
    }
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
        all.errno.set(0);
        all.said.set(false);
    });
    set_hooks(None);
    table::reset();
    blocking::reset();
    futex::reset();
}
