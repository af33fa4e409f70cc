//! Keeps the store within what the heap really has.
//!
//! The store limits itself by an estimate. What the allocator adds to it (size classes, blocks in part use, holes too
//! small for a large value, the network's own buffers) depends on the data, so the heap has the last word.
//!
//! Two reserves keep an allocation that cannot be refused from failing. A command that may store something runs only
//! while an eighth of the heap is free and a piece of a twelfth with it, which is more than the largest value takes
//! while it grows. A reply buffer or a command that comes in parts may grow only while it leaves a sixteenth, for what
//! is small and belongs to everybody.

use runtime::heap;

/// What commands that store something leave free: one part in this of the heap.
const STORE_RESERVE: usize = 8;
/// What must be free in one piece for them.
const STORE_PIECE: usize = 12;
/// What growing buffers leave free.
const BUFFER_RESERVE: usize = 16;
/// Buffers up to this many bytes grow without asking.
const SMALL_BUFFER_BYTES: usize = 4096;

/// Whether commands that may store something must be refused now.
#[inline]
pub(crate) fn is_short() -> bool {
    let stats = heap::stats();
    let total_bytes = stats.total_bytes;
    total_bytes - stats.held_bytes < total_bytes / STORE_RESERVE || !heap::has_room(total_bytes / STORE_PIECE)
}

/// Whether a buffer may grow to this many bytes.
#[inline]
pub(crate) fn may_grow_to(bytes: usize) -> bool {
    if bytes <= SMALL_BUFFER_BYTES {
        return true;
    }
    let stats = heap::stats();
    // Without a heap of its own the program has the host's.
    stats.total_bytes == 0
        || (stats.total_bytes - stats.held_bytes >= bytes + stats.total_bytes / BUFFER_RESERVE && heap::has_room(bytes))
}
