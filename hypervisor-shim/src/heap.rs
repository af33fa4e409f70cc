//! The shim's own heap: control structures, page tables and DMA buffers. Nothing is allocated on the hot path.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap;

/// First-fit heap for a program without threads and without interrupts that allocate.
pub struct ShimHeap(UnsafeCell<Heap>);

// SAFETY: the shim has one thread, and interrupt handlers in ring 0 do not allocate.
unsafe impl Sync for ShimHeap {}

impl ShimHeap {
    /// A heap without memory.
    pub const fn empty() -> Self {
        Self(UnsafeCell::new(Heap::empty()))
    }

    /// Gives the heap its memory.
    ///
    /// # Safety
    /// The range is usable memory that belongs to nobody else; to be called once.
    pub unsafe fn initialise(&self, start: *mut u8, bytes: usize) {
        // SAFETY: no other reference exists (one thread, no reentrance); the caller vouches for the range.
        unsafe { (*self.0.get()).init(start, bytes) }
    }

    /// Gives the heap the memory that follows what it has.
    ///
    /// # Safety
    /// That memory is usable and belongs to nobody else any more.
    pub unsafe fn extend(&self, bytes: usize) {
        // SAFETY: one thread, no reentrance; the caller vouches for the memory.
        unsafe { (*self.0.get()).extend(bytes) }
    }
}

// SAFETY: the inner heap hands out disjoint, aligned ranges; there is no concurrency.
unsafe impl GlobalAlloc for ShimHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread, no reentrance.
        let heap = unsafe { &mut *self.0.get() };
        heap.allocate_first_fit(layout).map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: one thread, no reentrance.
        let heap = unsafe { &mut *self.0.get() };
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller passes what `alloc` returned for this layout.
            unsafe { heap.deallocate(pointer, layout) }
        }
    }
}
