//! Computations: plain functions on stacks of their own, beside the tasks.
//!
//! A task gives way only where it waits. What computes for long had better not be one:
//!
//! ```
//! # use std::{cell::RefCell, rc::Rc};
//! # use runtime::host::{Boundary, Setup, World, run};
//! # struct Nobody;
//! # impl World for Nobody {
//! #     fn boundary(&mut self, boundary: &mut Boundary<'_>) {
//! #         boundary.set_now_ns(boundary.deadline_ns());
//! #     }
//! # }
//! # let outcome = run(&Setup::default(), &Rc::new(RefCell::new(Nobody)), || async {
//! let sum = runtime::compute::spawn(64 * 1024, || (0..1_000_000_u64).sum::<u64>()).await;
//! # sum });
//! # assert_eq!(outcome.end, runtime::host::End::Returned(499_999_500_000));
//! ```
//!
//! # When tasks run meanwhile
//!
//! Tasks come first: a computation runs when none is ready, or when they have used up the epoch's budget of work.
//!
//! *With exact or counted epochs* (`pollux up --epoch exact:N` or `counted:N`) it runs until an epoch begins that brings an
//! event, or in whose time a timer is due, or in which other computations want their turn. There it is interrupted, between
//! any two instructions, the same two in both replicas, and goes on when the tasks have nothing more to do. An epoch so is
//! the longest time that a task has to wait.
//!
//! *With cooperative epochs*, the default, and with `--bare`, nothing interrupts it: it runs to its end, or until it calls
//! [`yield_now`], and no task does anything before then.
//!
//! # What a computation may do
//!
//! It computes on what it owns ([`Send`], because tasks run while it is in the middle of anything), allocates, prints,
//! wakes tasks by their [`Waker`](core::task::Waker)s, draws random numbers, tells the time. Whatever else it asks of this
//! crate, network, timers or [`spawn`](crate::spawn), panics in an image: that is for tasks. The `sys_` functions that wait
//! make everybody wait.
//!
//! It cannot be stopped from outside; one whose handle is dropped goes on to its end.
//!
//! # When it panics
//!
//! A panic of a task ends the program: images do not unwind, and below the task on its stack is the executor. A computation
//! has a stack of its own, so it can be given up where it is. One that [`spawn_contained`] has started is: nothing of it runs
//! again, its handle gives [`Panicked`], and everybody else goes on. The panic is at the same instruction in both replicas, so
//! that is as deterministic as all else.
//!
//! What lay on its stack is not dropped, and the stack is not given back: what it owned is lost, memory included (the stack
//! and whatever the function had allocated or been given; look at [`contained_bytes`] when that may happen often). So nothing
//! that others rely on may depend on its end: what it was given by value is gone, and has to come from elsewhere, a
//! [checkpoint](crate::checkpoint) say. Nobody can have seen a part of what it did to data of its own, because it could not
//! share any but by atomics. A panic within something of the runtime (when memory is out in the midst of printing) still ends
//! the program, and so do faults: a wild pointer, a stack overflow. So does every panic in an image of a machine on which stacks
//! cannot be changed (not x86-64).
//!
//! # Its stack
//!
//! There is no guard page below it. Words at its end are looked at whenever it gives way, and a stack that has grown over
//! them ends the program with a panic that says so; what lay below has been overwritten by then. Give it room: a panic's
//! report alone takes 10 KiB of the stack that it happens on, and [`MIN_STACK_BYTES`] is the least that one gets.
//! Where epochs are counted, the end of one takes half a KiB of the stack that runs then.
//!
//! On a host, under [`crate::host`], nothing is interrupted; where the host is no Unix on x86-64, [`yield_now`] does not
//! give way either.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::rc::Rc;
use core::any::Any;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;
use core::task::{Context, Poll};

use crate::executor::waker::Wake;

pub(crate) mod gate;
mod panicked;
mod stack;
#[cfg_attr(not(all(target_arch = "x86_64", unix)), path = "in_place.rs")]
pub(crate) mod switch;
#[cfg(test)]
mod tests;

use stack::Stack;
use switch::SaveArea;

pub use panicked::{MAX_MESSAGE_BYTES, Panicked};
pub use stack::MIN_STACK_BYTES;

/// What a computation's function panicked with; only on a host.
type Panic = Box<dyn Any + Send>;

/// A function with its stack.
struct Computation {
    stack: Stack,
    /// Stack pointer with which it goes on when it has given way by itself.
    pointer: u64,
    /// Its registers when it was interrupted.
    area: SaveArea,
    /// It was interrupted, and goes on by `area`.
    interrupted: bool,
    /// What it runs, until it starts.
    body: Option<Box<dyn FnOnce() -> Result<(), Panic>>>,
    /// How it ended, when it has.
    ended: Option<Result<(), Panic>>,
    /// What becomes of a panic, if it is contained.
    on_panic: Option<Box<dyn FnOnce(Panicked)>>,
    /// The message of a panic that was contained.
    panicked: Option<Panicked>,
}

/// The computations of this guest.
struct Computations {
    /// Those that do not run now, in the order of their turns.
    queue: RefCell<VecDeque<Box<Computation>>>,
    /// The one that runs, or null.
    current: Cell<*mut Computation>,
    /// The shim knows about the block.
    registered: Cell<bool>,
    /// Bytes of stacks that were given up.
    contained_bytes: Cell<usize>,
}

local! {
    static COMPUTATIONS: Computations = Computations {
        queue: RefCell::new(VecDeque::new()),
        current: Cell::new(ptr::null_mut()),
        registered: Cell::new(false),
        contained_bytes: Cell::new(0),
    };
}

/// What became of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// There is no computation.
    Nobody,
    /// It was interrupted: a new epoch has begun.
    Interrupted,
    /// It has given way by itself.
    GaveWay,
    /// It has ended.
    Ended,
}

/// What a computation and its handle share. Touched only disarmed.
struct Shared<T> {
    result: RefCell<Option<T>>,
    waiter: Cell<Option<Wake>>,
}

/// Awaits the result of a computation. Dropping it lets the computation go on by itself.
#[must_use = "a computation's result is had by awaiting it"]
pub struct Computing<T> {
    shared: Rc<Shared<T>>,
}

impl<T> fmt::Debug for Computing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Computing").finish_non_exhaustive()
    }
}

impl<T> Future for Computing<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        if let Some(result) = self.shared.result.borrow_mut().take() {
            return Poll::Ready(result);
        }
        self.shared.waiter.set(Some(Wake::of(context.waker())));
        Poll::Pending
    }
}

/// Starts a computation on a stack of `stack_bytes` (at least [`MIN_STACK_BYTES`]), and gives the handle that its result is
/// awaited by. It first runs when the tasks that are ready have run. See the [module](self) for when it is interrupted and
/// what it may do.
///
/// # Panics
/// When there is no memory for the stack, or when a computation calls it.
pub fn spawn<F, T>(stack_bytes: usize, function: F) -> Computing<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    gate::assert_disarmed();
    let shared = Rc::new(Shared { result: RefCell::new(None), waiter: Cell::new(None) });
    let place = Rc::clone(&shared);
    let body = move || {
        // What is shared is touched before and afterwards only.
        place.put(run_armed(function)?);
        Ok(())
    };
    start(stack_bytes, Box::new(body), None);
    Computing { shared }
}

/// As [`spawn`], and a panic of the function is its result instead of the end of the program; see the [module](self) for
/// what is lost then. The panic's report is printed.
///
/// # Panics
/// As [`spawn`].
pub fn spawn_contained<F, T>(stack_bytes: usize, function: F) -> Computing<Result<T, Panicked>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    gate::assert_disarmed();
    let shared = Rc::new(Shared { result: RefCell::new(None), waiter: Cell::new(None) });
    let (place, panic_place) = (Rc::clone(&shared), Rc::clone(&shared));
    let body = move || {
        let result = run_armed(function).map_err(|panic| message_of(&panic));
        place.put(result);
        Ok(())
    };
    let on_panic = Box::new(move |panicked| panic_place.put(Err(panicked)));
    start(stack_bytes, Box::new(body), Some(on_panic));
    Computing { shared }
}

/// Bytes of stacks that contained panics have cost so far; what the functions had allocated comes on top.
pub fn contained_bytes() -> usize {
    COMPUTATIONS.with(|all| all.contained_bytes.get())
}

impl<T> Shared<T> {
    /// Leaves the result for the handle.
    fn put(&self, result: T) {
        *self.result.borrow_mut() = Some(result);
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

/// What a panic said; on a host, where it unwinds.
fn message_of(panic: &Panic) -> Panicked {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<alloc::string::String>().map(|text| &**text));
    Panicked::new(format_args!("{}", text.unwrap_or("(no text)")))
}

/// Puts a computation into the queue.
fn start(
    stack_bytes: usize,
    body: Box<dyn FnOnce() -> Result<(), Panic>>,
    on_panic: Option<Box<dyn FnOnce(Panicked)>>,
) {
    let stack = Stack::new(stack_bytes);
    // SAFETY: the stack is this computation's own and longer than that; its top is aligned.
    let pointer = unsafe { switch::prepare(stack.top(), begin) };
    let computation = Computation {
        stack,
        pointer,
        area: SaveArea::new(),
        interrupted: false,
        body: Some(body),
        ended: None,
        on_panic,
        panicked: None,
    };
    COMPUTATIONS.with(|all| all.queue.borrow_mut().push_back(Box::new(computation)));
}

/// Leaves the computation that runs for good. To be called by the panic handler, on that computation's stack, disarmed, when
/// its panics [are contained](is_contained) and this one was not within something of the runtime.
#[cfg(feature = "image")]
pub(crate) fn contain(message: fmt::Arguments<'_>) -> ! {
    let current = COMPUTATIONS.with(|all| all.current.get());
    let panicked = Panicked::new(message);
    // SAFETY: it is the computation that runs, which the executor does not touch meanwhile.
    unsafe { (*current).panicked = Some(panicked) };
    loop {
        // The executor does not go on with it.
        to_executor();
    }
}

/// Whether a computation runs whose panics are contained: none where stacks cannot be changed.
#[cfg(feature = "image")]
pub(crate) fn is_contained() -> bool {
    let current = COMPUTATIONS.with(|all| all.current.get());
    // SAFETY: the executor has set it to the computation that runs, or to null.
    switch::AVAILABLE && unsafe { current.as_ref() }.is_some_and(|computation| computation.on_panic.is_some())
}

/// Lets tasks and other computations run, and the epoch end. Outside a computation it does nothing; within something of the
/// runtime's that must not be interrupted (a formatter that the console runs) it takes effect at the end of that.
pub fn yield_now() {
    if gate::is_armed() {
        give_way();
    } else if gate::is_masked() {
        gate::note_due();
    }
}

/// Calls the function of a computation so that it may be interrupted.
fn run_armed<T>(function: impl FnOnce() -> T) -> Result<T, Panic> {
    gate::arm();
    #[cfg(feature = "image")]
    let result = Ok(function());
    #[cfg(not(feature = "image"))]
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(function));
    gate::disarm();
    result
}

/// Where every computation starts.
extern "C" fn begin() -> ! {
    let current = COMPUTATIONS.with(|all| all.current.get());
    // SAFETY: the executor has set it to the computation whose stack this is, and does not touch it while that runs.
    unsafe {
        if let Some(body) = (*current).body.take() {
            (*current).ended = Some(body());
        }
    }
    loop {
        // One that has ended is not gone on with.
        to_executor();
    }
}

/// Leaves the computation that runs; returns when it is its turn again.
fn give_way() {
    gate::disarm();
    give_way_disarmed();
    gate::arm();
}

/// As [`give_way`], for whoever arms and disarms himself.
fn give_way_disarmed() {
    if switch::AVAILABLE {
        to_executor();
    }
}

/// Goes on with the executor. To be called on a computation's stack, disarmed.
fn to_executor() {
    let current = COMPUTATIONS.with(|all| all.current.get());
    let executor = gate::with_block(|block| block.stack.load(Relaxed));
    // SAFETY: the executor waits in `enter` where it has left its stack pointer, once for each time that it has gone on with
    // a computation, and does not touch this one before it is back on its own stack.
    unsafe { switch::switch(&raw mut (*current).pointer, executor) };
}

/// Gives the computation whose turn it is a slice. It is interrupted at the first cut at which something has happened or
/// the clock has reached `wake_ns` (nanoseconds; 0: at the first, `u64::MAX`: time does not matter).
pub(crate) fn turn(wake_ns: u64) -> Turn {
    let next = COMPUTATIONS.with(|all| {
        let mut queue = all.queue.borrow_mut();
        let next = queue.pop_front()?;
        Some((next, !queue.is_empty()))
    });
    let Some((computation, others)) = next else { return Turn::Nobody };
    let current = Box::into_raw(computation);
    register();
    COMPUTATIONS.with(|all| all.current.set(current));
    // SAFETY: it is a computation out of the queue, so it does not run and has not ended.
    let interrupted = unsafe { enter(current, if others { 0 } else { wake_ns }) };
    COMPUTATIONS.with(|all| all.current.set(ptr::null_mut()));
    // SAFETY: it came from a box above, and nobody uses it while it does not run.
    let mut computation = unsafe { Box::from_raw(current) };
    computation.interrupted = interrupted;
    if let Some(panicked) = computation.panicked.take() {
        give_up(computation, panicked);
        return Turn::Ended;
    }
    match computation.ended.take() {
        Some(ended) => {
            computation.stack.check(None);
            drop(computation);
            hand_on(ended);
            Turn::Ended
        }
        None => {
            computation.stack.check(Some(computation.left_at()));
            COMPUTATIONS.with(|all| all.queue.borrow_mut().push_back(computation));
            if interrupted { Turn::Interrupted } else { Turn::GaveWay }
        }
    }
}

/// Forgets a computation that has panicked. What lies on its stack is never dropped, so its memory must not be given back:
/// something may rely on being dropped before.
fn give_up(mut computation: Box<Computation>, panicked: Panicked) {
    computation.stack.check(None);
    let range = computation.stack.range();
    COMPUTATIONS.with(|all| all.contained_bytes.set(all.contained_bytes.get() + (range.end - range.start) as usize));
    let on_panic = computation.on_panic.take();
    core::mem::forget(computation);
    if let Some(on_panic) = on_panic {
        on_panic(panicked);
    }
}

/// Runs a computation until it is interrupted (true), gives way or ends.
///
/// # Safety
/// It exists, does not run, and has not ended.
unsafe fn enter(computation: *mut Computation, wake_ns: u64) -> bool {
    if !switch::AVAILABLE {
        begin_in_place(computation);
        return false;
    }
    let stack = gate::with_block(|block| {
        block.wake_ns.store(wake_ns, Relaxed);
        // SAFETY: the caller's.
        block.area.store(unsafe { &raw mut (*computation).area } as u64, Relaxed);
        block.stack.as_ptr()
    });
    // SAFETY: the caller's; `pointer` and `area` are what `prepare`, `switch` or the last upcall has left, as `interrupted`
    // says, and `check` has found room on the stack.
    unsafe {
        #[cfg(feature = "image")]
        if (*computation).interrupted {
            return switch::resume(&raw const (*computation).area);
        }
        switch::switch(stack, (*computation).pointer)
    }
}

/// Runs a computation where stacks cannot be changed.
fn begin_in_place(computation: *mut Computation) {
    // SAFETY: as for `begin`; the body has not run.
    unsafe {
        if let Some(body) = (*computation).body.take() {
            (*computation).ended = Some(body());
        }
    }
}

/// A panic goes on where the executor runs.
fn hand_on(ended: Result<(), Panic>) {
    #[cfg(feature = "image")]
    let _ = ended;
    #[cfg(not(feature = "image"))]
    if let Err(panic) = ended {
        std::panic::resume_unwind(panic);
    }
}

/// Tells the shim about the block, once.
pub(crate) fn register() {
    if !COMPUTATIONS.with(|all| all.registered.replace(true)) {
        let block = gate::with_block(|block| ptr::from_ref(block) as u64);
        let result = crate::platform::preempt(block, switch::handler());
        assert_eq!(result, 0, "the shim takes a block of this program's own memory");
    }
}

impl Computation {
    /// Its stack pointer while it does not run.
    fn left_at(&self) -> u64 {
        #[cfg(feature = "image")]
        if self.interrupted {
            return self.area.stack();
        }
        self.pointer
    }
}

/// The stack of the computation that runs, if one does.
#[cfg(all(feature = "image", target_arch = "x86_64"))]
pub(crate) fn current_stack() -> Option<core::ops::Range<u64>> {
    let current = COMPUTATIONS.with(|all| all.current.get());
    // SAFETY: the executor has set it to the computation that runs, or to null.
    unsafe { current.as_ref() }.map(|computation| computation.stack.range())
}

/// Forgets all computations: the end of a machine on a host.
#[cfg(not(feature = "image"))]
pub(crate) fn reset() {
    gate::disarm();
    let queue = COMPUTATIONS.with(|all| {
        all.current.set(ptr::null_mut());
        all.registered.set(false);
        core::mem::take(&mut *all.queue.borrow_mut())
    });
    for computation in queue {
        // What lies on the stack of one that has begun is never dropped, so its memory must not be given back: something
        // may rely on being dropped before.
        if computation.body.is_none() {
            core::mem::forget(computation);
        }
    }
}
