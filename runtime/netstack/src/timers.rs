//! Deadlines of sockets, updated lazily.
//!
//! A busy connection moves its retransmission deadline with every segment, nearly always to later. Only the first
//! deadline is registered; when it is due, the owner looks at its true deadline and registers again if need be. So
//! the ordered set changes about once per deadline, not once per segment.

use alloc::collections::BTreeSet;

/// A deadline that never comes, in microseconds.
pub(crate) const NEVER_US: i64 = i64::MAX;

/// Registered deadlines: (microseconds, slot).
#[derive(Debug, Default)]
pub(crate) struct Timers {
    set: BTreeSet<(i64, u32)>,
}

impl Timers {
    /// Makes `slot` due at `deadline_us` or earlier. `registered_us` is the slot's own copy of what is registered.
    pub(crate) fn arm(&mut self, registered_us: &mut i64, slot: u32, deadline_us: i64) {
        if deadline_us >= *registered_us {
            return;
        }
        self.disarm(registered_us, slot);
        self.set.insert((deadline_us, slot));
        *registered_us = deadline_us;
    }

    /// Forgets the slot.
    pub(crate) fn disarm(&mut self, registered_us: &mut i64, slot: u32) {
        if *registered_us != NEVER_US {
            self.set.remove(&(*registered_us, slot));
            *registered_us = NEVER_US;
        }
    }

    /// Takes the earliest slot that is due. The caller resets that slot's copy.
    pub(crate) fn pop_due(&mut self, now_us: i64) -> Option<u32> {
        let &(at_us, slot) = self.set.first()?;
        if at_us > now_us {
            return None;
        }
        self.set.pop_first();
        Some(slot)
    }

    /// The earliest registered deadline.
    pub(crate) fn next_us(&self) -> i64 {
        self.set.first().map_or(NEVER_US, |&(at_us, _)| at_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_to_earlier_only() {
        let mut timers = Timers::default();
        let mut registered = NEVER_US;
        timers.arm(&mut registered, 7, 100);
        timers.arm(&mut registered, 7, 500);
        assert_eq!((registered, timers.next_us()), (100, 100));
        timers.arm(&mut registered, 7, 50);
        assert_eq!((registered, timers.next_us(), timers.set.len()), (50, 50, 1));
        assert_eq!(timers.pop_due(49), None);
        assert_eq!(timers.pop_due(50), Some(7));
        assert_eq!(timers.next_us(), NEVER_US);
    }

    #[test]
    fn disarm_forgets() {
        let mut timers = Timers::default();
        let (mut a, mut b) = (NEVER_US, NEVER_US);
        timers.arm(&mut a, 1, 10);
        timers.arm(&mut b, 2, 10);
        timers.disarm(&mut a, 1);
        assert_eq!(a, NEVER_US);
        assert_eq!(timers.pop_due(10), Some(2));
        assert_eq!(timers.pop_due(10), None);
    }
}
