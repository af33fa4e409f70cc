//! The stack of a thread, with a guard page below it.
//!
//! Whoever grows over the end of a stack touches the page below it, and is stopped there by the shim, whose report names the
//! thread: the text for it lies in the page itself, where only the shim reads it. (Compiled Rust touches every page of a
//! large frame in turn, so none is stepped over.) On a machine that has no guards, words at the stack's end are looked at
//! whenever the thread waits.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::fmt::{self, Write};
use core::ops::Range;
use core::ptr::NonNull;

use hypercall::errno::{ENOMEM, ENOSYS};
use hypercall::layout::{MAX_GUARD_TEXT_BYTES, PAGE_BYTES};

use super::{SpawnError, ThreadId};
use crate::platform;

/// The smallest stack, in bytes, guard excluded.
const MIN_STACK_BYTES: usize = 16 * 1024;
const PAGE: usize = PAGE_BYTES as usize;
/// Lies at the end of a stack that has no guard.
const CANARY: [u64; 8] = [0x7374_6163_6b20_656e; 8];
/// What must be left of a stack when its thread does not run: what going on takes below the stack pointer.
const SPARE_BYTES: u64 = 128 + 24;

/// Memory of a thread's own.
#[derive(Debug)]
pub(super) struct ThreadStack {
    /// The guard, or a page that is not used; the stack follows.
    base: NonNull<u8>,
    layout: Layout,
    guarded: bool,
}

impl ThreadStack {
    /// A stack of at least this many bytes, and its guard.
    pub(super) fn new(bytes: usize) -> Result<Self, SpawnError> {
        let no_memory = SpawnError::Memory { stack_bytes: bytes };
        let whole = bytes.max(MIN_STACK_BYTES).checked_next_multiple_of(PAGE).and_then(|bytes| bytes.checked_add(PAGE));
        let layout = whole.and_then(|whole| Layout::from_size_align(whole, PAGE).ok()).ok_or(no_memory)?;
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc(layout) }).ok_or(no_memory)?;
        let mut stack = Self { base, layout, guarded: false };
        // SAFETY: the memory is new, aligned, and longer than a page and that.
        unsafe { base.add(PAGE).cast::<[u64; CANARY.len()]>().write(CANARY) };
        match platform::guard(base.as_ptr() as u64, &[]) {
            0 => stack.guarded = true,
            refused if refused == -ENOSYS => {}
            refused if refused == -ENOMEM => return Err(SpawnError::TooMany),
            refused => panic!("the shim makes a guard of the program's own memory, not error {}", -refused),
        }
        Ok(stack)
    }

    /// Says in the guard whose stack it is.
    pub(super) fn label(&self, id: ThreadId, name: &str) {
        if !self.guarded {
            return;
        }
        let mut text = Label { bytes: [0; MAX_GUARD_TEXT_BYTES], used: 0 };
        // What does not fit is cut.
        let _ = write!(text, "thread {id}");
        if !name.is_empty() {
            let _ = write!(text, " ({name:?})");
        }
        let _ = write!(
            text,
            " has overflowed its stack of {} bytes; give it a larger one: std::thread::Builder::stack_size, or \
             --env RUST_MIN_STACK=BYTES for all that do not choose",
            self.bytes()
        );
        let labelled = platform::guard(self.base.as_ptr() as u64, &text.bytes[..text.used]);
        debug_assert_eq!(labelled, 0, "the page is guarded already");
    }

    /// Its size, without the guard.
    pub(super) fn bytes(&self) -> usize {
        self.layout.size() - PAGE
    }

    /// Behind its highest address; a multiple of a page.
    pub(super) fn top(&self) -> *mut u8 {
        // SAFETY: the end of the allocation.
        unsafe { self.base.as_ptr().add(self.layout.size()) }
    }

    /// Its addresses, without the guard.
    pub(super) fn range(&self) -> Range<u64> {
        self.base.as_ptr() as u64 + PAGE_BYTES..self.top() as u64
    }

    /// Looks for signs that it was too small, where there is no guard. `pointer` is where its thread has left it, if it
    /// goes on.
    ///
    /// # Panics
    /// If it was.
    pub(super) fn check(&self, pointer: Option<u64>) {
        if self.guarded {
            return;
        }
        // SAFETY: written by `new`, and by nothing but what overflows the stack since; words have no invalid values.
        // Volatile, because the compiler knows nothing of the latter.
        let canary = unsafe { self.base.add(PAGE).cast::<[u64; CANARY.len()]>().read_volatile() };
        let Range { start, end } = self.range();
        let lowest = start + size_of_val(&CANARY) as u64 + SPARE_BYTES;
        assert!(
            canary == CANARY && pointer.is_none_or(|pointer| (lowest..end).contains(&pointer)),
            "a thread has overflowed its stack of {} bytes: give it a larger one",
            self.bytes()
        );
    }
}

impl Drop for ThreadStack {
    fn drop(&mut self) {
        if self.guarded {
            let open = platform::unguard(self.base.as_ptr() as u64);
            assert_eq!(open, 0, "the shim gives back the guard of a stack");
        }
        // SAFETY: allocated with this layout; whoever drops a stack runs on another.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

/// A guard's text.
struct Label {
    bytes: [u8; MAX_GUARD_TEXT_BYTES],
    used: usize,
}

impl Write for Label {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let taken = text.floor_char_boundary(self.bytes.len() - self.used);
        self.bytes[self.used..self.used + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.used += taken;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_is_whole_pages_and_its_end_is_looked_at_where_there_is_no_guard() {
        let stack = ThreadStack::new(100_000).expect("memory");
        let Range { start, end } = stack.range();
        assert!(start.is_multiple_of(PAGE_BYTES) && end - start == 102_400, "{start:#x} to {end:#x}");
        stack.check(Some(end - 100));
        // SAFETY: the lowest word of the stack.
        unsafe { stack.base.add(PAGE).cast::<u64>().write(0) };
        assert!(std::panic::catch_unwind(core::panic::AssertUnwindSafe(|| stack.check(None))).is_err());
        assert_eq!(
            ThreadStack::new(usize::MAX).expect_err("too large"),
            SpawnError::Memory { stack_bytes: usize::MAX }
        );
    }
}
