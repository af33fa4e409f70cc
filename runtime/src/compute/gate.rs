//! Whether what runs may be interrupted: the block that runtime and shim share.
//!
//! A computation runs *armed*. What it calls of the runtime is *masked* for as long as tables are in disorder that others
//! use too: heap, console, executor. Everything else, the executor first of all, runs disarmed.
//!
//! A thread of an ordinary program runs armed too, as long as it is in the program's own code. All that it calls of the C
//! library is [`Masked`] from its first instruction to its last. That this is so need not be believed: tables of the runtime
//! refuse whoever could be interrupted ([`assert_disarmed`]), at every access.
//!
//! The shim changes the block between two instructions, as a signal handler would. So its words are atomic, and compiler
//! fences keep what must not be interrupted on its side of the change.

use core::mem::offset_of;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicU64, compiler_fence};

use hypercall::layout::{PREEMPTION_ARMED, PREEMPTION_DUE, PREEMPTION_MASKED, PREEMPTION_OFF, Preemption};

/// [`Preemption`] as this side uses it, and behind it what the handler needs.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Block {
    pub(crate) state: AtomicU64,
    /// The executor's stack pointer while a computation runs.
    pub(crate) stack: AtomicU64,
    pub(crate) wake_ns: AtomicU64,
    pub(crate) saved_instruction: AtomicU64,
    pub(crate) saved_stack: AtomicU64,
    pub(crate) saved_flags: AtomicU64,
    /// Address of the save area of the computation that runs.
    pub(crate) area: AtomicU64,
    /// The handler's only spare place.
    pub(crate) scratch: AtomicU64,
}

const _: () = {
    assert!(offset_of!(Block, state) == offset_of!(Preemption, state));
    assert!(offset_of!(Block, stack) == offset_of!(Preemption, stack));
    assert!(offset_of!(Block, wake_ns) == offset_of!(Preemption, wake_ns));
    assert!(offset_of!(Block, saved_instruction) == offset_of!(Preemption, saved_instruction));
    assert!(offset_of!(Block, saved_stack) == offset_of!(Preemption, saved_stack));
    assert!(offset_of!(Block, saved_flags) == offset_of!(Preemption, saved_flags));
    assert!(offset_of!(Block, area) >= size_of::<Preemption>());
};

impl Block {
    const fn new() -> Self {
        Self {
            state: AtomicU64::new(PREEMPTION_OFF),
            stack: AtomicU64::new(0),
            wake_ns: AtomicU64::new(0),
            saved_instruction: AtomicU64::new(0),
            saved_stack: AtomicU64::new(0),
            saved_flags: AtomicU64::new(0),
            area: AtomicU64::new(0),
            scratch: AtomicU64::new(0),
        }
    }
}

/// Not by `local!`, whose values may only be used disarmed.
#[cfg(feature = "image")]
pub(super) static BLOCK: Block = Block::new();

#[cfg(not(feature = "image"))]
std::thread_local! {
    static BLOCK: Block = const { Block::new() };
}

/// Calls `f` with the block of this guest.
#[inline(always)]
pub(crate) fn with_block<R>(f: impl FnOnce(&Block) -> R) -> R {
    #[cfg(feature = "image")]
    return f(&BLOCK);
    #[cfg(not(feature = "image"))]
    BLOCK.with(f)
}

#[inline(always)]
fn state() -> u64 {
    with_block(|block| block.state.load(Relaxed))
}

fn set_state(state: u64) {
    compiler_fence(SeqCst);
    with_block(|block| block.state.store(state, Relaxed));
    compiler_fence(SeqCst);
}

/// Whether a computation runs that may be interrupted now.
#[inline(always)]
pub(crate) fn is_armed() -> bool {
    state() == PREEMPTION_ARMED
}

/// Whether a computation or thread runs that may be interrupted later.
pub(crate) fn is_masked() -> bool {
    matches!(state(), PREEMPTION_MASKED | PREEMPTION_DUE)
}

/// From now on the computation or thread that runs may be interrupted.
pub(crate) fn arm() {
    set_state(PREEMPTION_ARMED);
}

/// From now on nothing is interrupted.
pub(crate) fn disarm() {
    set_state(PREEMPTION_OFF);
}

/// From now on what runs may be interrupted later.
pub(crate) fn mask() {
    set_state(PREEMPTION_MASKED);
}

/// The computation is to give way when it is not masked any more.
pub(super) fn note_due() {
    set_state(PREEMPTION_DUE);
}

/// Calls `f` so that it is not interrupted, by whomever this is called. What was due meanwhile is made up for.
#[inline(always)]
pub(crate) fn masked<R>(f: impl FnOnce() -> R) -> R {
    let armed = is_armed();
    if armed {
        set_state(PREEMPTION_MASKED);
    }
    let result = f();
    if armed {
        unmask();
    }
    result
}

#[cold]
fn unmask() {
    unmask_now();
}

/// By one instruction, so that nothing can become due unseen.
#[inline(always)]
fn unmask_now() {
    compiler_fence(SeqCst);
    let before = with_block(|block| block.state.swap(PREEMPTION_ARMED, SeqCst));
    if before == PREEMPTION_DUE {
        make_up();
    }
}

/// Gives way, as an interruption would have had it.
#[cold]
fn make_up() {
    disarm();
    if crate::thread::is_thread() {
        crate::thread::yield_now();
    } else {
        super::give_way_disarmed();
    }
    arm();
}

/// Keeps the thread that has made it from being interrupted for as long as it lives. What was due meanwhile is made up for at
/// its end. For whoever could not be interrupted anyway it does nothing.
#[derive(Debug)]
#[must_use = "it acts for as long as it lives"]
pub struct Masked {
    was_armed: bool,
}

impl Masked {
    /// From here on.
    #[inline(always)]
    #[expect(clippy::new_without_default, reason = "it changes how things stand")]
    pub fn new() -> Self {
        let was_armed = is_armed();
        if was_armed {
            mask();
        }
        Self { was_armed }
    }
}

impl Drop for Masked {
    #[inline(always)]
    fn drop(&mut self) {
        if self.was_armed {
            // What was called may have given others something to do: the next cut is theirs.
            with_block(|block| block.wake_ns.store(0, Relaxed));
            unmask_now();
        }
    }
}

/// Refuses what a computation must not do.
///
/// # Panics
/// If a computation runs, and does not do this within something of the runtime that masks it.
#[inline(always)]
pub(crate) fn assert_disarmed() {
    if is_armed() {
        refuse();
    }
}

#[cold]
#[inline(never)]
fn refuse() -> ! {
    disarm();
    assert!(
        !crate::thread::is_thread(),
        "what a thread calls of the C library has to be masked, and this is not: an error in runtime/libc"
    );
    panic!("a computation may compute, allocate, print, wake tasks and tell the time; the rest is for tasks");
}
