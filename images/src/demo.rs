//! `cargo pollux demo`: what this project is for, in a minute.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::build::{self, Target, Workspace};
use crate::error::{Error, Result};
use crate::failover::{self, Failover, Plan};
use crate::setup::{self, Need};
use crate::supervise::spec::Spec;

/// Replies before the kill, and after it: some seconds under an emulator.
const REPLIES: u64 = 20_000;

/// A spinner on stderr with what is being done; silent where stderr is no terminal.
pub fn progress() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}  {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A bar on stderr of so many steps, with what is being done; silent where stderr is no terminal.
pub fn progress_of(steps: usize) -> ProgressBar {
    let bar = ProgressBar::new(steps as u64);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len}  {elapsed} of about {duration}\n{msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

/// Runs the demonstration and returns what came of it.
///
/// # Errors
/// Something is missing, does not build or does not start.
pub fn run(connections: usize, target: Target, yes: bool) -> Result<Failover> {
    setup::ensure(Need::Run, yes)?;
    eprintln!("pollux: building the image of the key-value store (the first build takes a minute or two)");
    let image = build::build_for(&Workspace::find()?, "kv", target, true)?;
    let plan = Plan { connections, replies_before: REPLIES, replies_after: REPLIES };
    let bar = progress();
    let spec = Spec::new(format!("demo-{}", std::process::id()), image)?.staying_alone();
    let result = failover::run(spec, plan, |text| bar.set_message(text.to_owned()));
    bar.finish_and_clear();
    result
}

/// The report for people.
pub fn describe(demo: &Failover) -> String {
    let verdict = &demo.verdict;
    let mut out = String::from(
        "A Redis-compatible store in two virtual machines; the primary is killed with SIGKILL under load.\n\n",
    );
    let mut line = |at_ms: f64, text: &str| out.push_str(&format!("  {:>9.3} s  {text}\n", at_ms / 1e3));
    line(0.0, "start");
    line(
        demo.start_ms as f64,
        &format!("paired and serving: primary is process {}, backup {}", demo.pids[0], demo.pids[1]),
    );
    line(demo.load_at_ms, &format!("{} connections write, count up and read back", verdict.connections));
    line(demo.kill_at_ms, &format!("{} replies so far; kill -9 {}", demo.replies_before, demo.pids[0]));
    for event in &demo.events {
        line(event.at_ms, &format!("  {} (kill + {:.1} ms)", event.text, event.at_ms - demo.kill_at_ms));
    }
    line(demo.end_at_ms, &format!("{} replies in all; every key read and checked", verdict.replies));
    out.push_str(&format!(
        "\n  outage seen by the clients   {:.1} ms, the longest wait for a reply (before the kill: {:.1} ms)\n",
        verdict.outage_ms(),
        verdict.longest_before_ms
    ));
    out.push_str(&format!(
        "  connections broken           {} of {}\n",
        verdict.broken_connections, verdict.connections
    ));
    out.push_str(&format!(
        "  acknowledged writes          {}, lost {}; {} keys checked at the end\n",
        verdict.acknowledged_writes, verdict.lost_writes, verdict.checked_keys
    ));
    out.push_str(&format!(
        "  INCR repeated / skipped      {} / {}\n",
        verdict.repeated_increments, verdict.skipped_increments
    ));
    for complaint in verdict.complaints.iter().take(10) {
        out.push_str(&format!("  ! {complaint}\n"));
    }
    out
}

/// An error if clients suffered anything but a wait.
///
/// # Errors
/// [`Error::CheckFailed`].
pub fn judge(demo: &Failover) -> Result<()> {
    if demo.verdict.is_clean() {
        return Ok(());
    }
    Err(Error::CheckFailed("the failover was not clean: see the report".to_owned()))
}
