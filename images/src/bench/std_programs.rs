//! Ordinary programs: how large a small one is, how soon it says something, and how long it takes from a new project to a
//! program that runs.

mod project;
mod start;

use serde::Serialize;

use super::{Promise, median};
use crate::build::Image;
use crate::error::Result;

/// Starts in a full run and in a quick one.
const ROUNDS: usize = 9;
const QUICK_ROUNDS: usize = 3;

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct StdReport {
    /// Starts of the small program.
    pub rounds: usize,
    /// Bytes of its image.
    pub image_bytes: u64,
    /// From the start of its supervisor to its first line, bare, in milliseconds: each start.
    pub first_line_ms: Vec<f64>,
    /// From `cargo pollux new` to the first line of the new program as a pair, in seconds. Building counts.
    pub project_s: f64,
    /// What must be reached.
    pub promises: Vec<Promise>,
}

/// Measures. `hello` is the image of a program that prints a line.
///
/// # Errors
/// Something does not start, or says nothing.
pub fn run(hello: &Image, quick: bool, mut note: impl FnMut(&str)) -> Result<StdReport> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let mut first_line_ms = Vec::new();
    for round in 1..=rounds {
        note(&format!("start {round} of {rounds}"));
        first_line_ms.push(start::first_line_ms(hello)?);
    }
    note("a new project");
    let project_s = project::new_to_first_line_s()?;
    let promises = vec![
        Promise::at_most("image of a program that prints a line, MiB", hello.image_bytes as f64 / 1_048_576.0, 1.5),
        Promise::at_most("start to its first line, bare, median, ms", median(&first_line_ms), 150.0),
        Promise::at_most("`new` to the first line of a pair, s", project_s, 30.0),
    ];
    Ok(StdReport { rounds, image_bytes: hello.image_bytes, first_line_ms, project_s, promises })
}

/// What people read.
pub fn describe(report: &StdReport) -> String {
    let mut out = format!("ordinary programs, {} starts:\n", report.rounds);
    report.promises.iter().for_each(|promise| out.push_str(&promise.describe()));
    out
}
