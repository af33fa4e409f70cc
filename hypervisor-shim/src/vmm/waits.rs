//! How long a guest that wants to run is kept waiting for its backup.

use protocol::control::Counter;

use super::Vmm;
use crate::machine::Machine;

/// Why a guest that wants to run may not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The protocol's gate is closed, or too many outputs wait.
    Gate,
    /// The last epoch is not acknowledged, and more may come until it is.
    Company,
}

impl Reason {
    /// How often that was so, and for how long.
    fn counters(self) -> (Counter, Counter) {
        match self {
            Self::Gate => (Counter::GateWaits, Counter::GateWaitNs),
            Self::Company => (Counter::CompanyWaits, Counter::CompanyWaitNs),
        }
    }
}

/// A wait that has not ended.
#[derive(Debug, Clone, Copy)]
pub struct HeldUp {
    since_ns: u64,
    reason: Reason,
}

impl<M: Machine> Vmm<M> {
    /// The guest has to wait, or goes on waiting.
    pub(super) fn hold_up(&mut self, now_ns: u64, reason: Reason) {
        if !self.is_held_up_by(reason) {
            self.end_wait(now_ns);
            self.held_up = Some(HeldUp { since_ns: now_ns, reason });
        }
    }

    /// The guest waits for nobody any more.
    pub(super) fn end_wait(&mut self, now_ns: u64) {
        if let Some(HeldUp { since_ns, reason }) = self.held_up.take() {
            let (waits, wait_ns) = reason.counters();
            self.counters.add(waits, 1);
            self.counters.add(wait_ns, now_ns.saturating_sub(since_ns));
        }
    }

    pub(super) fn is_held_up_by(&self, reason: Reason) -> bool {
        self.held_up.is_some_and(|wait| wait.reason == reason)
    }
}
