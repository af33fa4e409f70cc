//! The monotonic clock: the time stamp counter, calibrated against the local APIC's timer.

use super::apic;
use crate::pace::Pace;

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
        let (first_left, first) = (apic::timer_left(), time_stamp());
        let (mut left, mut stamp) = (first_left, first);
        while first_left - left < CALIBRATION_NS {
            core::hint::spin_loop();
            left = apic::timer_left();
            stamp = time_stamp();
        }
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
