//! Keeps the store within what the heap really has.
//!
//! The store limits itself by an estimate. What the allocator adds to it (size classes, blocks in part use, the
//! network's own buffers) depends on the data, so the heap has the last word: when what is free at once sinks below a
//! reserve, writes are refused as if `maxmemory` were reached, until it has risen again.

use crate::Server;

/// The reserve: one part in this of the heap.
#[cfg(feature = "image")]
const RESERVE_FRACTION: usize = 8;

/// Looks at the heap before commands run.
#[cfg(feature = "image")]
pub(super) fn watch(server: &mut Server) {
    let stats = runtime::heap::stats();
    server.set_heap_short(stats.total_bytes - stats.held_bytes < stats.total_bytes / RESERVE_FRACTION);
}

/// On a host the heap is the host's.
#[cfg(not(feature = "image"))]
pub(super) fn watch(_server: &mut Server) {}
