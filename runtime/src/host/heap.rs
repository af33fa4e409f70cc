//! What [`crate::heap`] says on a host, where the heap is the host's: as much room as anyone wants, unless a test gives
//! the program a heap of its own and says so here.

use std::cell::Cell;

use crate::heap::Stats;

/// How to ask the heap that a test has set up.
#[derive(Debug, Clone, Copy)]
pub struct Probe {
    /// How full it is.
    pub stats: fn() -> Stats,
    /// Whether so many bytes in one piece could be allocated.
    pub has_room: fn(usize) -> bool,
}

std::thread_local! {
    static PROBE: Cell<Option<Probe>> = const { Cell::new(None) };
}

/// Lets the program of this thread ask this heap.
pub fn install(probe: Probe) {
    PROBE.set(Some(probe));
}

/// How full the heap is; all zeros without a heap of its own.
pub fn stats() -> Stats {
    PROBE.get().map_or(Stats::default(), |probe| (probe.stats)())
}

/// Whether an allocation of this many bytes in one piece would succeed now.
pub fn has_room(bytes: usize) -> bool {
    PROBE.get().is_none_or(|probe| (probe.has_room)(bytes))
}
