//! `cargo pollux bench`: the numbers that this project promises, measured on the machine at hand.
//!
//! Absolute times say something about the machine; ratios, taken from interleaved runs, say something about Pollux.

mod checkpoint;
mod cores;
mod disk;
mod durable;
mod failover;
mod neighbour;
pub mod paper;
mod process;
mod scratch;
mod std_programs;
mod throughput;

pub use checkpoint::{CheckpointReport, describe as describe_checkpoint, run as checkpoint};
pub use disk::{DiskImages, DiskReport, describe as describe_disk, run as disk};
pub use failover::{FailoverReport, describe as describe_failover, run as failover};
pub use std_programs::{StdReport, describe as describe_std, run as std_programs};
pub use throughput::{ThroughputReport, describe as describe_throughput, peer_folder, run as throughput};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::load::percentile;

/// One promise: what was measured and what it must reach.
#[derive(Debug, Clone, Serialize)]
pub struct Promise {
    /// What is promised.
    pub name: String,
    /// What was measured.
    pub measured: f64,
    /// `<=` or `>=`.
    pub relation: &'static str,
    /// The bound.
    pub bound: f64,
    /// Whether it is kept.
    pub kept: bool,
}

impl Promise {
    /// At most `bound`.
    fn at_most(name: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self { name: name.into(), measured, relation: "<=", bound, kept: measured <= bound }
    }

    /// At least `bound`.
    fn at_least(name: impl Into<String>, measured: f64, bound: f64) -> Self {
        Self { name: name.into(), measured, relation: ">=", bound, kept: measured >= bound }
    }

    fn describe(&self) -> String {
        let mark = if self.kept { "kept  " } else { "MISSED" };
        format!("  {mark} {:68} {:>10.3} {} {}\n", self.name, self.measured, self.relation, self.bound)
    }
}

/// An error if a promise is not kept.
///
/// # Errors
/// [`Error::CheckFailed`] that names them.
pub fn judge(promises: &[Promise]) -> Result<()> {
    let missed: Vec<_> = promises.iter().filter(|promise| !promise.kept).map(|promise| promise.name.as_str()).collect();
    if missed.is_empty() { Ok(()) } else { Err(Error::CheckFailed(format!("not kept: {}", missed.join("; ")))) }
}

/// The middle one of some measurements, or what lies halfway between the two in the middle; 0 when there are none.
fn median(values: &[f64]) -> f64 {
    // The lower one alone would be the better one, of two the best.
    let upper = -percentile(&values.iter().map(|value| -value).collect::<Vec<_>>(), 0.5);
    (percentile(values, 0.5) + upper) / 2.0
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_median_favours_neither_side() {
        for (values, median) in
            [(&[][..], 0.0), (&[3.0], 3.0), (&[4.0, 1.0], 2.5), (&[9.0, 1.0, 2.0], 2.0), (&[1.0, 2.0, 4.0, 9.0], 3.0)]
        {
            assert_eq!(super::median(values), median, "{values:?}");
        }
    }
}
