//! The heap as the program's global allocator.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::RefCell;
use core::ptr;

use super::{Heap, Stats};

local! {
    static HEAP: RefCell<Heap> = RefCell::new(Heap::empty());
}

/// Makes a range of memory the heap.
///
/// # Safety
/// The range is free memory that nobody else uses, and this is called once, before anything is allocated.
pub(crate) unsafe fn install(base: usize, bytes: usize) {
    let start = ptr::with_exposed_provenance_mut(base);
    // SAFETY: the caller vouches for the range.
    HEAP.with(|heap| unsafe { heap.borrow_mut().init(start, bytes) });
}

/// How full the heap is.
pub fn stats() -> Stats {
    HEAP.with_masked(|heap| heap.borrow().stats())
}

/// Whether an allocation of this many bytes in one piece would succeed now.
pub fn has_room(bytes: usize) -> bool {
    HEAP.with_masked(|heap| heap.borrow_mut().has_room(bytes))
}

struct Global;

#[global_allocator]
static GLOBAL: Global = Global;

// SAFETY: `Heap` hands out each byte once until it is given back, and never unwinds.
unsafe impl GlobalAlloc for Global {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.with_masked(|heap| heap.borrow_mut().allocate(layout))
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller gives back what `alloc` gave for this layout.
        HEAP.with_masked(|heap| unsafe { heap.borrow_mut().deallocate(pointer, layout) });
    }

    unsafe fn realloc(&self, pointer: *mut u8, old: Layout, bytes: usize) -> *mut u8 {
        if Heap::fits_in_place(old, bytes) {
            return pointer;
        }
        let Ok(new) = Layout::from_size_align(bytes, old.align()) else { return ptr::null_mut() };
        // SAFETY: `new` has a size above zero, by the caller's contract.
        let place = unsafe { self.alloc(new) };
        if !place.is_null() {
            // SAFETY: both are at least this long and do not overlap; the old one is given back as it was taken.
            unsafe {
                ptr::copy_nonoverlapping(pointer, place, old.size().min(bytes));
                self.dealloc(pointer, old);
            }
        }
        place
    }
}
