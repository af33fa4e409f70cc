//! The benchmark between two readings of the guest's clock.

use core::fmt;

use runtime::time::{Duration, Instant, sleep};
use runtime::yield_now;

use crate::benchmark::Benchmark;
use crate::check::Mismatch;

/// What came out, as two lines of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many runs.
    pub runs: i32,
    /// Whether the final values are right.
    pub outcome: Result<(), Mismatch>,
    /// The clock before the first run.
    pub start: Instant,
    /// The clock after the last run.
    pub end: Instant,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(()) => writeln!(f, "dhrystone: runs={} ok", self.runs)?,
            Err(mismatch) => writeln!(f, "dhrystone: runs={} WRONG: {mismatch}", self.runs)?,
        }
        let (start_ns, end_ns) = (self.start.as_nanos(), self.end.as_nanos());
        let elapsed_ns = end_ns - start_ns;
        writeln!(f, "dhrystone: elapsed_ns={elapsed_ns} start_ns={start_ns} end_ns={end_ns}")
    }
}

/// Runs the benchmark and checks its final values.
pub async fn measure(runs: i32, yield_after: Option<i32>) -> Report {
    let mut benchmark = Benchmark::new();
    let start = fresh_clock().await;
    run(&mut benchmark, runs, yield_after).await;
    let end = fresh_clock().await;
    Report { runs, outcome: benchmark.check(), start, end }
}

/// Gives way after every `yield_after` runs, if it is to give way at all.
async fn run(benchmark: &mut Benchmark, runs: i32, yield_after: Option<i32>) {
    let Some(stretch) = yield_after else { return benchmark.run(runs) };
    let mut left = runs;
    while left > stretch {
        benchmark.run(stretch);
        left -= stretch;
        yield_now().await;
    }
    benchmark.run(left);
}

/// The clock stands still during an epoch: waits for the next, and reads it there.
async fn fresh_clock() -> Instant {
    sleep(Duration::from_nanos(1)).await;
    Instant::now()
}
