//! The stack of a computation.

use alloc::alloc::{alloc, dealloc, handle_alloc_error};
use core::alloc::Layout;
use core::ptr::NonNull;

/// The smallest stack, in bytes: a panic's report fits on it.
pub const MIN_STACK_BYTES: usize = 16 * 1024;

const ALIGN_BYTES: usize = 16;
/// Lies at the lowest addresses of a stack, which a computation reaches last.
const CANARY: [u64; 8] = [0x7374_6163_6b20_656e; 8];
/// What must be left of a stack above the canary when its computation does not run: what a call and what going on may take
/// below the stack pointer.
const SPARE_BYTES: u64 = 128 + 24;

/// Memory of a computation's own.
#[derive(Debug)]
pub(super) struct Stack {
    base: NonNull<u8>,
    layout: Layout,
}

impl Stack {
    /// A stack of at least this many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes).expect("a stack is smaller than the address space");
        Self::of(layout).unwrap_or_else(|| handle_alloc_error(layout))
    }

    fn layout(bytes: usize) -> Option<Layout> {
        let bytes = bytes.max(MIN_STACK_BYTES).checked_next_multiple_of(ALIGN_BYTES)?;
        Layout::from_size_align(bytes, ALIGN_BYTES).ok()
    }

    fn of(layout: Layout) -> Option<Self> {
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc(layout) })?;
        // SAFETY: the memory is new, aligned, and longer than that.
        unsafe { base.cast::<[u64; CANARY.len()]>().write(CANARY) };
        Some(Self { base, layout })
    }

    /// Behind its highest address.
    pub(super) fn top(&self) -> *mut u8 {
        // SAFETY: the end of the allocation.
        unsafe { self.base.as_ptr().add(self.layout.size()) }
    }

    /// Its lowest address.
    #[cfg(test)]
    pub(super) fn base_for_tests(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Its addresses.
    pub(super) fn range(&self) -> core::ops::Range<u64> {
        self.base.as_ptr() as u64..self.top() as u64
    }

    /// Looks for signs that it was too small. `pointer` is where its computation has left it, if it goes on.
    ///
    /// # Panics
    /// If it was.
    pub(super) fn check(&self, pointer: Option<u64>) {
        // SAFETY: written by `new`, and by nothing but what overflows the stack since; words have no invalid values.
        // Volatile, because the compiler knows nothing of the latter.
        let canary = unsafe { self.base.cast::<[u64; CANARY.len()]>().read_volatile() };
        let lowest = self.range().start + size_of_val(&CANARY) as u64 + SPARE_BYTES;
        let inside = pointer.is_none_or(|pointer| (lowest..self.range().end).contains(&pointer));
        assert!(
            canary == CANARY && inside,
            "a computation has overflowed its stack of {} bytes: spawn it with a larger one",
            self.layout.size()
        );
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout; whoever drops a stack runs on another.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}
