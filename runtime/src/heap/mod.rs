//! The heap of a guest.
//!
//! Small allocations (up to [`SMALL_BYTES`]) come from *blocks*: aligned pieces of memory that each hold objects of
//! one size class, with the freed ones in a list. Allocating and freeing are a handful of instructions whatever else
//! is on the heap. Everything larger, and the blocks themselves, come from a first-fit list
//! (`linked_list_allocator`), whose cost grows with the number of holes, which the blocks keep small.
//!
//! A block whose last object is freed can serve any other class, or be joined with its neighbours for a large
//! allocation: memory is never lost to the class that first used it. No address depends on anything but the order of
//! calls, so both replicas have the same.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use linked_list_allocator::Heap as FirstFit;

mod classes;
#[cfg(feature = "image")]
mod global;
#[cfg(test)]
mod tests;

use classes::{CLASSES, bytes_of, class_of};

#[cfg(not(feature = "image"))]
pub use crate::host::heap::{has_room, stats};
pub use classes::SMALL_BYTES;
#[cfg(feature = "image")]
pub(crate) use global::install;
#[cfg(feature = "image")]
pub use global::{has_room, stats};

/// Bytes of a block; also its alignment.
pub const BLOCK_BYTES: usize = 16 * 1024;
/// Large allocations are multiples of this, so that their holes stay usable.
const LARGE_UNIT_BYTES: usize = 1024;
/// No block.
const NONE: u32 = u32::MAX;

const BLOCK_LAYOUT: Layout = match Layout::from_size_align(BLOCK_BYTES, BLOCK_BYTES) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// How full a heap is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that it manages.
    pub total_bytes: usize,
    /// Bytes of what is allocated, rounded up to classes and units.
    pub used_bytes: usize,
    /// Bytes that are not free for allocations of every size: `used_bytes`, and the free objects of blocks in use.
    pub held_bytes: usize,
}

/// A free object holds the address of the next.
#[derive(Debug)]
struct FreeObject {
    next: *mut FreeObject,
}

/// What is known about a block.
#[derive(Debug, Clone, Copy)]
struct Block {
    /// Freed objects.
    free: *mut FreeObject,
    /// Objects allocated now.
    used: u16,
    /// Objects that were ever allocated; those behind are untouched.
    carved: u16,
    /// Objects that fit.
    capacity: u16,
    /// In the list of its class, because it has room.
    listed: bool,
    /// In the list of spare blocks.
    spare: bool,
    /// Neighbours in either list.
    next: u32,
    previous: u32,
}

impl Block {
    const BLANK: Self = Self {
        free: ptr::null_mut(),
        used: 0,
        carved: 0,
        capacity: 0,
        listed: false,
        spare: false,
        next: NONE,
        previous: NONE,
    };
}

/// A heap over one range of memory.
pub struct Heap {
    first_fit: FirstFit,
    /// Start of the range, from which all pointers are derived.
    start: *mut u8,
    /// Address of block 0: the last block boundary not above `start`.
    base: usize,
    /// One entry for every block that the range touches.
    blocks: *mut Block,
    block_count: u32,
    /// For each class, the first block with room.
    partial: [u32; CLASSES],
    /// Blocks that hold nothing, ready for any class.
    spare: u32,
    spare_blocks: usize,
    total_bytes: usize,
    used_bytes: usize,
    /// Counts changes of the first-fit list.
    version: u64,
    /// The last question to `has_room`, the version it was asked at, and the answer.
    asked: (usize, u64, bool),
}

impl Heap {
    /// A heap without memory.
    pub const fn empty() -> Self {
        Self {
            first_fit: FirstFit::empty(),
            start: ptr::null_mut(),
            base: 0,
            blocks: ptr::null_mut(),
            block_count: 0,
            partial: [NONE; CLASSES],
            spare: NONE,
            spare_blocks: 0,
            total_bytes: 0,
            used_bytes: 0,
            version: 0,
            asked: (0, 0, false),
        }
    }

    /// Gives the heap its memory. A range too small to hold a block is left unused.
    ///
    /// # Safety
    /// The range is valid for reads and writes for as long as the heap is used, nobody else uses it, and the heap
    /// has had no memory before.
    pub unsafe fn init(&mut self, start: *mut u8, bytes: usize) {
        let end = start.addr() + bytes;
        let base = start.addr() - start.addr() % BLOCK_BYTES;
        let count = (end - base).div_ceil(BLOCK_BYTES);
        let table = start.addr().next_multiple_of(align_of::<Block>());
        let free = (table + count * size_of::<Block>()).next_multiple_of(64);
        if free + BLOCK_BYTES > end {
            return;
        }
        let blocks = start.with_addr(table).cast::<Block>();
        for index in 0..count {
            // SAFETY: the table lies in the range, aligned.
            unsafe { blocks.add(index).write(Block::BLANK) };
        }
        (self.start, self.base, self.blocks, self.block_count) = (start, base, blocks, count as u32);
        self.total_bytes = end - free;
        // SAFETY: what lies behind the table is free memory that the caller gives away.
        unsafe { self.first_fit.init(start.with_addr(free), end - free) };
    }

    /// How full it is.
    pub fn stats(&self) -> Stats {
        Stats {
            total_bytes: self.total_bytes,
            used_bytes: self.used_bytes,
            held_bytes: self.first_fit.used() - self.spare_blocks * BLOCK_BYTES,
        }
    }

    /// Whether an allocation of this many bytes in one piece would succeed. The answer is remembered, so asking again
    /// while no block or large allocation has come or gone costs nothing.
    #[inline]
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let (asked_bytes, version, answer) = self.asked;
        if asked_bytes == bytes && version == self.version { answer } else { self.try_room(bytes) }
    }

    #[cold]
    fn try_room(&mut self, bytes: usize) -> bool {
        let layout = Layout::from_size_align(bytes.max(SMALL_BYTES + 1), 16);
        let answer = layout.is_ok_and(|layout| {
            let place = self.allocate_large(layout);
            if !place.is_null() {
                // SAFETY: allocated just now with this layout.
                unsafe { self.deallocate_large(place, layout) };
            }
            !place.is_null()
        });
        self.asked = (bytes, self.version, answer);
        answer
    }

    /// Memory of this layout, or null when there is none.
    #[inline]
    pub fn allocate(&mut self, layout: Layout) -> *mut u8 {
        match class_of(layout) {
            Some(class) => self.allocate_small(class),
            None => self.allocate_large(layout),
        }
    }

    /// Takes memory back.
    ///
    /// # Safety
    /// `pointer` came from [`allocate`](Self::allocate) of this heap with this layout, and is not used any more.
    #[inline]
    pub unsafe fn deallocate(&mut self, pointer: *mut u8, layout: Layout) {
        match class_of(layout) {
            // SAFETY: the layout says that the object lies in a block of this class.
            Some(class) => unsafe { self.deallocate_small(pointer, class) },
            // SAFETY: the layout says that it came from the first-fit list.
            None => unsafe { self.deallocate_large(pointer, layout) },
        }
    }

    /// Whether memory of `old` already has room for `bytes` bytes, and not far too much.
    #[inline]
    pub fn fits_in_place(old: Layout, bytes: usize) -> bool {
        let Ok(new) = Layout::from_size_align(bytes, old.align()) else { return false };
        match (class_of(old), class_of(new)) {
            (Some(from), Some(to)) => from == to,
            (None, None) => match (large(old), large(new)) {
                (Some(from), Some(to)) => from == to,
                _ => false,
            },
            _ => false,
        }
    }

    #[inline]
    fn block(&mut self, index: u32) -> &mut Block {
        debug_assert!(index < self.block_count);
        // SAFETY: indices come from addresses of the heap's own objects or from links between blocks, and the table
        // has an entry for every block that the heap's memory touches.
        unsafe { &mut *self.blocks.add(index as usize) }
    }

    fn index_of(&self, address: usize) -> u32 {
        ((address - self.base) / BLOCK_BYTES) as u32
    }

    #[inline]
    fn allocate_small(&mut self, class: usize) -> *mut u8 {
        let mut index = self.partial[class];
        if index == NONE {
            index = self.start_block(class);
            if index == NONE {
                return ptr::null_mut();
            }
        }
        let bytes = bytes_of(class);
        self.used_bytes += bytes;
        let (start, block_address) = (self.start, self.base + index as usize * BLOCK_BYTES);
        let block = self.block(index);
        block.used += 1;
        let full = block.used == block.capacity;
        let object = if block.free.is_null() {
            let offset = usize::from(block.carved) * bytes;
            block.carved += 1;
            start.with_addr(block_address + offset)
        } else {
            let object = block.free;
            // SAFETY: a freed object lies in its block and holds the link that `deallocate_small` wrote.
            block.free = unsafe { (*object).next };
            object.cast()
        };
        if full {
            self.unlist(class, index);
        }
        object
    }

    /// # Safety
    /// As for [`deallocate`](Self::deallocate), with a layout of this class.
    #[inline]
    unsafe fn deallocate_small(&mut self, pointer: *mut u8, class: usize) {
        self.used_bytes -= bytes_of(class);
        let index = self.index_of(pointer.addr());
        let block = self.block(index);
        let object = pointer.cast::<FreeObject>();
        // SAFETY: the object is the heap's again, and every class is large and aligned enough for a link.
        unsafe { object.write(FreeObject { next: block.free }) };
        block.free = object;
        block.used -= 1;
        if !block.listed {
            self.list(class, index);
        } else if block.used == 0 && (block.next != NONE || block.previous != NONE) {
            // The only block of a class with room stays, so that an object that comes and goes moves no blocks.
            self.unlist(class, index);
            self.retire(index);
        }
    }

    /// Makes a block ready for a class. `NONE` when memory is short.
    #[cold]
    fn start_block(&mut self, class: usize) -> u32 {
        if self.spare == NONE
            && let Some(place) = self.first_fit(BLOCK_LAYOUT)
        {
            self.retire(self.index_of(place.as_ptr().addr()));
        }
        let index = self.spare;
        if index != NONE {
            self.spare = self.block(index).next;
            self.spare_blocks -= 1;
            *self.block(index) = Block { capacity: (BLOCK_BYTES / bytes_of(class)) as u16, ..Block::BLANK };
            self.list(class, index);
        }
        index
    }

    /// Puts a block into the list of its class.
    fn list(&mut self, class: usize, index: u32) {
        let next = self.partial[class];
        if next != NONE {
            self.block(next).previous = index;
        }
        let block = self.block(index);
        (block.listed, block.next, block.previous) = (true, next, NONE);
        self.partial[class] = index;
    }

    /// Takes a block out of the list of its class.
    fn unlist(&mut self, class: usize, index: u32) {
        let block = self.block(index);
        let (next, previous) = (block.next, block.previous);
        (block.listed, block.next, block.previous) = (false, NONE, NONE);
        if next != NONE {
            self.block(next).previous = previous;
        }
        if previous == NONE {
            self.partial[class] = next;
        } else {
            self.block(previous).next = next;
        }
    }

    /// Puts an empty block among the spare ones.
    fn retire(&mut self, index: u32) {
        let next = self.spare;
        *self.block(index) = Block { spare: true, next, ..Block::BLANK };
        self.spare = index;
        self.spare_blocks += 1;
    }

    /// Memory from the first-fit list, which gets all empty blocks back when it has none.
    fn first_fit(&mut self, layout: Layout) -> Option<NonNull<u8>> {
        self.version += 1;
        if let Ok(place) = self.first_fit.allocate_first_fit(layout) {
            return Some(place);
        }
        self.reclaim();
        self.first_fit.allocate_first_fit(layout).ok()
    }

    /// Gives all empty blocks back to the first-fit list, in the order of their addresses, so that neighbours join
    /// as they arrive.
    #[cold]
    fn reclaim(&mut self) {
        for class in 0..CLASSES {
            let index = self.partial[class];
            if index != NONE && self.block(index).used == 0 {
                self.unlist(class, index);
                self.retire(index);
            }
        }
        for index in 0..self.block_count {
            if !self.block(index).spare {
                continue;
            }
            *self.block(index) = Block::BLANK;
            let place = self.start.with_addr(self.base + index as usize * BLOCK_BYTES);
            if let Some(place) = NonNull::new(place) {
                // SAFETY: the block came from this list with this layout, and holds nothing.
                unsafe { self.first_fit.deallocate(place, BLOCK_LAYOUT) };
            }
        }
        (self.spare, self.spare_blocks) = (NONE, 0);
    }

    #[cold]
    fn allocate_large(&mut self, layout: Layout) -> *mut u8 {
        let Some(layout) = large(layout) else { return ptr::null_mut() };
        let Some(place) = self.first_fit(layout) else { return ptr::null_mut() };
        self.used_bytes += layout.size();
        place.as_ptr()
    }

    /// # Safety
    /// As for [`deallocate`](Self::deallocate), with a layout that has no class.
    #[cold]
    unsafe fn deallocate_large(&mut self, pointer: *mut u8, layout: Layout) {
        if let (Some(place), Some(layout)) = (NonNull::new(pointer), large(layout)) {
            self.used_bytes -= layout.size();
            self.version += 1;
            // SAFETY: `allocate_large` took it from this list with the same layout.
            unsafe { self.first_fit.deallocate(place, layout) };
        }
    }
}

impl core::fmt::Debug for Heap {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.stats().fmt(f)
    }
}

/// A large layout rounded up to units.
fn large(layout: Layout) -> Option<Layout> {
    let bytes = layout.size().checked_next_multiple_of(LARGE_UNIT_BYTES)?;
    Layout::from_size_align(bytes, layout.align()).ok()
}
