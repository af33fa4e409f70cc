//! Algorithm 1: periodic checkpoints at the interval that minimises expected loss.
//!
//! A checkpoint costs C; failures come once in M on average, and each loses what was done since the last checkpoint, half an
//! interval T on average. So of each interval the part C/T goes for checkpoints and T/2M for failures. The sum is least at
//!
//! ```text
//! T = sqrt(2 C M)                                              (Young 1974)
//! T = sqrt(2 C M) (1 + 1/3 sqrt(C/2M) + 1/9 (C/2M)) - C        (Daly 2006, for C < 2M; else T = M)
//! ```
//!
//! Daly's series knows that failures also hit during checkpoints and more than once in an interval. In integers, as
//! sqrt(2CM) sqrt(C/2M) = C, it is sqrt(2CM) + sqrt(2CM) C/18M - 2C/3. Times are nanoseconds.

use runtime::checkpoint::{Checkpoints, Entry, Error, Target};
use runtime::time::{Duration, Instant, sleep};

/// Young's interval for checkpoints that cost `cost_ns` and a mean time between failures of `mean_failure_ns`.
pub fn young_ns(cost_ns: u64, mean_failure_ns: u64) -> u64 {
    let square = (u128::from(cost_ns) * u128::from(mean_failure_ns)).saturating_mul(2);
    u64::try_from(square.isqrt()).unwrap_or(u64::MAX)
}

/// Daly's.
pub fn daly_ns(cost_ns: u64, mean_failure_ns: u64) -> u64 {
    if cost_ns >= mean_failure_ns.saturating_mul(2) {
        return mean_failure_ns;
    }
    let (root, cost, mean) = (u128::from(young_ns(cost_ns, mean_failure_ns)), u128::from(cost_ns), mean_failure_ns);
    let interval = root + root * cost / (18 * u128::from(mean.max(1)));
    u64::try_from(interval.saturating_sub(2 * cost / 3)).unwrap_or(u64::MAX).max(1)
}

/// When to take the next checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Periodic {
    /// Mean time between failures, as the operator expects it.
    pub mean_failure_ns: u64,
    /// What a checkpoint costs: a running mean over the last ones.
    pub cost_ns: u64,
}

impl Periodic {
    /// Time from the end of one checkpoint to the start of the next.
    pub fn interval_ns(&self) -> u64 {
        daly_ns(self.cost_ns, self.mean_failure_ns)
    }

    /// Takes a measured cost into account: an eighth of it, as TCP does with round trips.
    pub fn note_cost(&mut self, measured_ns: u64) {
        self.cost_ns = self.cost_ns - self.cost_ns / 8 + measured_ns / 8;
    }

    /// Takes a checkpoint when it is time. The clock stands still within an epoch, so what a checkpoint costs is measured
    /// where it counts: in the epochs that went by.
    ///
    /// # Errors
    /// Those of a checkpoint.
    pub async fn next<T: Target>(
        &mut self,
        checkpoints: &Checkpoints,
        name: &str,
        target: T,
    ) -> Result<Entry, Error<T::Error>> {
        sleep(Duration::from_nanos(self.interval_ns())).await;
        let started = Instant::now();
        let entry = checkpoints.full(name, target)?.commit().await?;
        self.note_cost(started.elapsed().as_nanos() as u64);
        Ok(entry)
    }
}
