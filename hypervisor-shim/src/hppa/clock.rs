//! The monotonic clock: the interval timer, which as a rule takes 4 ns a step.

use super::native;
use crate::pace::Pace;

/// Nanoseconds that the interval timer takes for one step.
pub const TICK_NS: u64 = 4;

/// Nanoseconds since the clock was made. The timer has 32 bits and wraps after 17 seconds: it is read far more often than
/// that.
#[derive(Debug)]
pub struct Clock {
    /// The timer's last reading.
    ticks: u32,
    /// What had passed by the timer then.
    passed_ns: u64,
    pace: Pace,
}

impl Clock {
    /// A clock that shows 0.
    pub fn new() -> Self {
        Self { ticks: native::ticks(), passed_ns: 0, pace: Pace::new(0, 1, 1) }
    }

    fn passed_ns(&mut self) -> u64 {
        let ticks = native::ticks();
        self.passed_ns += u64::from(ticks.wrapping_sub(self.ticks)) * TICK_NS;
        self.ticks = ticks;
        self.passed_ns
    }

    /// Nanoseconds since it was made.
    pub fn now_ns(&mut self) -> u64 {
        let passed_ns = self.passed_ns();
        self.pace.at(passed_ns)
    }

    /// Everybody else's clock shows `real_ns` now. To be called only where the timer counts instructions.
    pub fn follow(&mut self, real_ns: u64) {
        let passed_ns = self.passed_ns();
        self.pace.follow(passed_ns, real_ns);
    }
}
