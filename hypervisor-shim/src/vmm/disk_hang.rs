//! A disk that says nothing: neither that it has done a request nor that it has failed.
//!
//! The active replica leaves the pair when its own mirror has not done for [`PATIENCE_NS`] what the backup's has done, as it
//! does when its disk fails. A fault that both have does not end it, nor one of a shared disk, which the other replica would
//! find there as well: then, and where there is no other, the guest waits, and the supervisor is told.

use alloc::format;

use protocol::control::{Level, StoppedReason};

use super::Vmm;
use super::disks::PATIENCE_NS;
use crate::machine::Machine;

/// Between two looks that lie further apart this replica itself did not run, and its disks may not have either.
const GAP_NS: u64 = 1_000_000_000;

/// The oldest request that is under way, and since when it is.
#[derive(Debug, Default)]
pub(super) struct Watch {
    oldest: Option<u64>,
    since_ns: u64,
    seen_ns: u64,
    told: bool,
}

impl Watch {
    /// Notes which request is the oldest under way. Returns whether it has been that for too long.
    fn look(&mut self, now_ns: u64, oldest: Option<u64>) -> bool {
        let is_other = self.oldest != oldest;
        if is_other || now_ns.saturating_sub(self.seen_ns) > GAP_NS {
            self.since_ns = now_ns;
            self.told &= !is_other;
        }
        (self.oldest, self.seen_ns) = (oldest, now_ns);
        oldest.is_some() && now_ns.saturating_sub(self.since_ns) >= PATIENCE_NS
    }

    /// Whether somebody is to be told of it: once for each request.
    fn tells(&mut self) -> bool {
        !core::mem::replace(&mut self.told, true)
    }
}

impl<M: Machine> Vmm<M> {
    /// Looks whether a disk hangs, and leaves if the other replica's does not.
    pub(super) fn judge_hang(&mut self, now_ns: u64) {
        let oldest = self.guest.disks().oldest_under_way();
        if !self.hang.look(now_ns, oldest) {
            return;
        }
        let Some(number) = oldest else { return };
        let text = format!(
            "disk {} has not done request {number} for {} s",
            self.guest.disks().name_of(number),
            PATIENCE_NS / 1_000_000_000
        );
        let gives_way = self.replica.as_ref().is_some_and(|replica| replica.gives_way(number));
        if gives_way && !self.guest.disks().is_shared(number) {
            self.stop(StoppedReason::DiskFailed, &format!("{text}, and the other replica's has"));
        }
        if self.hang.tells() {
            self.log(Level::Warn, format_args!("{text}; the guest waits"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    /// When a request that stays the oldest from 0 on is found to hang, looked at twice a second.
    fn found_at(watch: &mut Watch, mut oldest: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        (0..60).map(|half| half * SECOND_NS / 2).find(|&now_ns| watch.look(now_ns, oldest(now_ns)))
    }

    #[test]
    fn one_that_stays_hangs_and_those_that_go_on_do_not() {
        let mut watch = Watch::default();
        assert_eq!(found_at(&mut watch, |_| Some(7)), Some(PATIENCE_NS));
        assert!(watch.tells() && !watch.tells(), "told once");
        let after = PATIENCE_NS + SECOND_NS;
        assert!(!watch.look(after, Some(8)) && watch.tells(), "another one is told of, too");
        assert_eq!(found_at(&mut Watch::default(), |_| None), None);
        // Slow, but it goes on.
        assert_eq!(found_at(&mut Watch::default(), |now_ns| Some(now_ns / (4 * SECOND_NS))), None);
    }

    #[test]
    fn time_in_which_this_replica_stood_still_does_not_count() {
        let mut watch = Watch::default();
        assert!(!watch.look(0, Some(7)));
        assert!(!watch.look(60 * SECOND_NS, Some(7)), "nobody has looked for a minute");
        let mut now_ns = 60 * SECOND_NS;
        while !watch.look(now_ns, Some(7)) {
            now_ns += SECOND_NS / 2;
        }
        assert_eq!(now_ns, 60 * SECOND_NS + PATIENCE_NS);
    }
}
