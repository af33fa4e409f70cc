//! Guests that count their ticks (see [`TickNote`]): how their epochs are cut where the machine counts nothing.
//!
//! The counter lies in guest memory and belongs to the guest. The shim writes it at the start of an epoch and reads it at
//! the end, where it is part of the digest: a replica that has gone round a loop more often than its twin is found out
//! although its registers are the same.

use hypercall::layout::TickNote;
use protocol::digest::Digest64;

use super::{Guest, GuestMemory, Start};

/// The counter of a guest, if it has one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    /// Offset of the counter in guest memory: aligned, inside, and writable by the guest.
    counter: Option<usize>,
    /// What the counter is set to at the start of an epoch.
    start: i64,
}

impl Ticks {
    pub(super) fn of(start: &Start) -> Self {
        Self { counter: start.tick_counter, start: TickNote::NEVER }
    }

    /// Sets the counter for a new epoch.
    pub(super) fn wind(&self, memory: &GuestMemory) {
        if let Some(counter) = self.counter {
            memory.write_struct(counter, &self.start);
        }
    }

    /// Where the counter lies in guest memory.
    pub(super) fn place(&self) -> Option<usize> {
        self.counter
    }

    /// Adds what is left of the epoch's ticks to a digest.
    pub(super) fn digest(&self, memory: &GuestMemory, digest: &mut Digest64) {
        if let Some(counter) = self.counter {
            memory.digest(counter, size_of::<i64>(), digest);
        }
    }
}

impl Guest {
    /// Whether the guest counts its ticks.
    pub fn counts_ticks(&self) -> bool {
        self.ticks.counter.is_some()
    }

    /// From the next epoch on the guest is to end each after so many ticks; `u64::MAX`: never.
    pub fn set_epoch_ticks(&mut self, ticks: u64) {
        self.ticks.start = TickNote::start(ticks);
    }
}
