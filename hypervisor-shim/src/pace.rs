//! A clock made of ticks that may come at any speed.
//!
//! Where instructions are counted the time stamp counter runs with the work done, several times too fast or too slow,
//! and only a halted machine's time passes as everybody's does. The supervisor then says every few milliseconds what
//! time it is, and the clock follows, at a speed that changes but never goes back.

const SHIFT: u32 = 32;
/// A clock that has lost more than this does not catch up: somebody has set the other one.
const MAX_ERROR_NS: u64 = 1_000_000_000;
/// The fastest that a clock runs to catch up: 2 ns a tick.
const MAX_MULTIPLIER: u64 = 2 << SHIFT;
/// The slowest: it never stands still, or what waits for a time would wait for ever.
const MIN_MULTIPLIER: u64 = (1 << SHIFT) / 64;
/// A clock that has been told once goes on by itself for so long; then it slows down to the slowest, because nobody knows
/// how fast its ticks come now.
const ALONE_NS: u64 = 60_000_000;

/// Readings of which the tightest counts.
const READINGS: usize = 8;

/// Reads two clocks at one moment, the first of them before and after the other: whoever reads may be interrupted for many
/// milliseconds in between, which would set a clock that is made of them wrong by a factor. So the closest of some readings
/// counts. Returns the first clock's in the middle, and the other's.
pub fn read_together(mut first: impl FnMut() -> u64, mut other: impl FnMut() -> u32) -> (u64, u32) {
    let (mut closest, mut reading) = (u64::MAX, (0, 0));
    for _ in 0..READINGS {
        let before = first();
        let value = other();
        let distance = first().saturating_sub(before);
        if distance < closest {
            (closest, reading) = (distance, (before + distance / 2, value));
        }
    }
    reading
}

/// Nanoseconds by ticks.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The ticks and the clock when the multiplier was set.
    start: u64,
    start_ns: u64,
    /// Nanoseconds per tick, times 2^32.
    multiplier: u64,
    /// The time that was last told and this clock's reading that belongs to it.
    told: Option<(u64, u64)>,
}

impl Pace {
    /// A clock that shows 0 at `start` ticks, of which `ticks` took `elapsed_ns`.
    pub fn new(start: u64, ticks: u64, elapsed_ns: u64) -> Self {
        Self { start, start_ns: 0, multiplier: (elapsed_ns << SHIFT) / ticks.max(1), told: None }
    }

    /// What the clock shows at `ticks`, in nanoseconds. It never goes back as long as the ticks do not.
    #[inline]
    pub fn at(&self, ticks: u64) -> u64 {
        let passed = ticks.saturating_sub(self.start);
        let passed_ns = ((u128::from(passed) * u128::from(self.multiplier)) >> SHIFT) as u64;
        if passed_ns <= ALONE_NS || self.told.is_none() {
            return self.start_ns + passed_ns;
        }
        self.start_ns + ALONE_NS + (passed_ns - ALONE_NS) / 64
    }

    /// Everybody else's clock shows `real_ns` now. From here on this one runs so that it would show the right time after
    /// as many ticks as passed since it was told last.
    pub fn follow(&mut self, ticks: u64, real_ns: u64) {
        let now_ns = self.at(ticks);
        let (told_ns, due_ns) = self.told.unwrap_or((real_ns, now_ns));
        let passed_ns = real_ns.saturating_sub(told_ns);
        let due_ns = due_ns.saturating_add(passed_ns);
        if due_ns.abs_diff(now_ns) >= MAX_ERROR_NS {
            *self = Self { start: ticks, start_ns: now_ns, told: Some((real_ns, now_ns)), ..*self };
            return;
        }
        self.told = Some((real_ns, due_ns));
        if passed_ns == 0 {
            return;
        }
        // By the end of a stretch like the last one, as much time will have passed again.
        let wanted_ns = (due_ns + passed_ns).saturating_sub(now_ns);
        let multiplier = multiplier(ticks.saturating_sub(self.start), wanted_ns);
        *self = Self { start: ticks, start_ns: now_ns, multiplier, told: self.told };
    }
}

/// With which `ticks` ticks take `wanted_ns`, within bounds.
fn multiplier(ticks: u64, wanted_ns: u64) -> u64 {
    let multiplier = (u128::from(wanted_ns) << SHIFT) / u128::from(ticks.max(1));
    multiplier.clamp(u128::from(MIN_MULTIPLIER), u128::from(MAX_MULTIPLIER)) as u64
}

#[cfg(test)]
mod tests {
    use core::cell::Cell;

    use super::*;

    #[test]
    fn a_reading_that_was_interrupted_does_not_count() {
        for calm in 0..READINGS {
            let (now, turn) = (Cell::new(0_u64), Cell::new(0));
            let first = || {
                now.set(now.get() + 10);
                now.get()
            };
            let other = || {
                // All readings but one are interrupted for 20 ms, before or behind the other clock's.
                let pause = if turn.replace(turn.get() + 1) == calm { 0 } else { 20_000_000 };
                now.set(now.get() + pause * (turn.get() as u64 % 2));
                let value = now.get() as u32;
                now.set(now.get() + pause * (1 - turn.get() as u64 % 2));
                value
            };
            let (ticks, value) = read_together(first, other);
            assert!(ticks.abs_diff(u64::from(value)) <= 10, "{ticks} and {value} with reading {calm} alone in peace");
        }
    }

    const TOLD_EVERY_NS: u64 = 20_000_000;

    /// Runs a clock whose ticks last `ns_per_tick(stretch)` and returns the greatest error when it was told, in ns, after
    /// the first few times.
    fn worst_error(ns_per_tick: impl Fn(u64) -> f64) -> u64 {
        let mut pace = Pace::new(1_000, 1_000, 1_000);
        let (mut ticks, mut last_ns, mut worst_ns) = (1_000_u64, 0, 0);
        pace.follow(ticks, 0);
        for stretch in 1..1_000 {
            for _ in 0..10 {
                ticks += (TOLD_EVERY_NS as f64 / 10.0 / ns_per_tick(stretch)) as u64;
                assert!(pace.at(ticks) >= last_ns, "it went back");
                last_ns = pace.at(ticks);
            }
            if stretch > 5 {
                worst_ns = worst_ns.max(last_ns.abs_diff(stretch * TOLD_EVERY_NS));
            }
            pace.follow(ticks, stretch * TOLD_EVERY_NS);
        }
        worst_ns
    }

    #[test]
    fn a_steady_clock_is_followed_closely() {
        for ns_per_tick in [0.2, 1.0, 1.5] {
            let worst_ns = worst_error(|_| ns_per_tick);
            assert!(worst_ns < TOLD_EVERY_NS / 1_000, "{worst_ns} ns off at {ns_per_tick} ns a tick");
        }
    }

    #[test]
    fn a_clock_that_changes_its_speed_is_off_by_the_stretch_of_the_change_at_most() {
        // Work and rest in turns.
        let worst_ns = worst_error(|stretch| if stretch % 7 < 3 { 0.4 } else { 1.0 });
        assert!(worst_ns < 3 * TOLD_EVERY_NS, "{worst_ns} ns off");
    }

    #[test]
    fn a_clock_that_was_set_is_not_run_after() {
        let mut pace = Pace::new(0, 1, 1);
        pace.follow(0, 0);
        pace.follow(TOLD_EVERY_NS, TOLD_EVERY_NS);
        pace.follow(2 * TOLD_EVERY_NS, 3_600_000_000_000);
        assert_eq!(pace.at(3 * TOLD_EVERY_NS), 3 * TOLD_EVERY_NS);
        pace.follow(3 * TOLD_EVERY_NS, 3_600_000_000_000 + TOLD_EVERY_NS);
        assert_eq!(pace.at(4 * TOLD_EVERY_NS), 4 * TOLD_EVERY_NS);
    }

    #[test]
    fn a_clock_that_nobody_tells_anything_slows_down_and_catches_up() {
        let mut pace = Pace::new(0, 1, 1);
        pace.follow(0, 0);
        pace.follow(TOLD_EVERY_NS, TOLD_EVERY_NS);
        // Half a second of everybody's time, in which four times as many ticks came.
        let (mut real_ns, mut ticks) = (520_000_000, 2_020_000_000);
        assert!(pace.at(ticks) < real_ns, "{}", pace.at(ticks));
        let mut last_ns = pace.at(ticks);
        for _ in 0..100 {
            pace.follow(ticks, real_ns);
            (real_ns, ticks) = (real_ns + TOLD_EVERY_NS, ticks + TOLD_EVERY_NS);
            assert!(pace.at(ticks) > last_ns);
            last_ns = pace.at(ticks);
        }
        assert!(last_ns.abs_diff(real_ns) < TOLD_EVERY_NS, "{last_ns} at {real_ns}");
    }

    #[test]
    fn a_clock_that_is_told_several_times_at_once_does_not_race() {
        let mut pace = Pace::new(0, 1, 1);
        pace.follow(0, 0);
        for told in 1..=5 {
            pace.follow(1_000 + told, told * TOLD_EVERY_NS);
        }
        assert!(pace.at(2_000) <= 2 * 2_000);
    }
}
