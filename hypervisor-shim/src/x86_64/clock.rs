//! The monotonic clock: the time stamp counter, calibrated against the local APIC's timer.

use super::apic;
use crate::pace::{Pace, read_together};

/// How long to calibrate. The error is about a microsecond of scheduling noise in this.
const CALIBRATION_NS: u32 = 2_000_000;

/// Nanoseconds since the clock was calibrated.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    pace: Pace,
}

/// Reads the time stamp counter.
#[inline]
pub fn time_stamp() -> u64 {
    // SAFETY: ring 0 may always execute rdtsc.
    unsafe { core::arch::x86_64::_rdtsc() }
}

impl Clock {
    /// Measures how fast the time stamp counter runs. The local APIC must be on.
    pub fn calibrate() -> Self {
        apic::arm_timer(u32::MAX);
        let (first, first_left) = read_together(time_stamp, apic::timer_left);
        while first_left - apic::timer_left() < CALIBRATION_NS {
            core::hint::spin_loop();
        }
        let (stamp, left) = read_together(time_stamp, apic::timer_left);
        Self { pace: Pace::new(first, stamp - first, u64::from(first_left - left)) }
    }

    /// Nanoseconds since the calibration.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        self.pace.at(time_stamp())
    }

    /// Everybody else's clock shows `real_ns` now.
    pub fn follow(&mut self, real_ns: u64) {
        self.pace.follow(time_stamp(), real_ns);
    }
}
