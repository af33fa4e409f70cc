//! The heap of an image.
use core::alloc::{GlobalAlloc, Layout};
use core::cell::RefCell;
use core::ptr::{NonNull, null_mut};
use linked_list_allocator::Heap;

local! {
    static HEAP: RefCell<Heap> = RefCell::new(Heap::empty());
}

/// Makes a range of memory the heap.
///
/// # Safety
/// The range is free memory that nobody else uses, and this is called once.
pub(crate) unsafe fn install(base: usize, bytes: usize) {
    // SAFETY: the caller vouches for the range.
    HEAP.with(|heap| unsafe { heap.borrow_mut().init(base as *mut u8, bytes) });
}

struct Global;

#[cfg(feature = "image")]
#[global_allocator]
static GLOBAL: Global = Global;

// SAFETY: blocks come from `Heap`, which hands out each range once until it is given back.
unsafe impl GlobalAlloc for Global {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.with(|heap| heap.borrow_mut().allocate_first_fit(layout).map_or(null_mut(), NonNull::as_ptr))
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the caller passes what `alloc` gave for this layout.
            HEAP.with(|heap| unsafe { heap.borrow_mut().deallocate(pointer, layout) });
        }
    }
}
