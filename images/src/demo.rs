//! `cargo pollux demo`: what this project is for, in a minute.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::build::{self, Target, Workspace};
use crate::error::{Error, Result};
use crate::failover::{self, Failover, PROMISED_P99_MS, Plan, Series};
use crate::load::Verdict;
use crate::setup::{self, Need};
use crate::supervise::spec::Spec;

/// Replies before the kill, and after it: some seconds under an emulator.
const REPLIES: u64 = 20_000;
/// The same of each kill, where there are several.
const REPLIES_OF_EACH: u64 = 4_000;

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

/// What is shown.
#[derive(Debug, Clone, Copy)]
pub struct Show {
    /// How many clients write.
    pub connections: usize,
    /// The machine to show it on.
    pub target: Target,
    /// How many primaries are killed.
    pub kills: usize,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Shown {
    /// Of one failover.
    Once(Failover),
    /// Of several of one pair.
    Series(Series),
}

/// Runs the demonstration and returns what came of it.
///
/// # Errors
/// Something is missing, does not build or does not start.
pub fn run(show: Show, yes: bool) -> Result<Shown> {
    setup::ensure(Need::Run, yes)?;
    if show.target == Target::Hppa {
        setup::ensure_for(Some(Target::Hppa), yes)?;
    }
    eprintln!("pollux: building the image of the key-value store (the first build takes a minute or two)");
    let image = build::build_for(&Workspace::find()?, "kv", show.target, true)?;
    let spec = Spec::new(format!("demo-{}", std::process::id()), image)?.patient();
    let replies = if show.kills == 1 { REPLIES } else { REPLIES_OF_EACH };
    let plan = Plan { connections: show.connections, replies_before: replies, replies_after: replies };
    let bar = progress();
    let note = |text: &str| bar.set_message(text.to_owned());
    let shown = if show.kills == 1 {
        failover::run(spec.staying_alone(), plan, note).map(Shown::Once)
    } else {
        failover::run_series(spec, plan, show.kills, note).map(Shown::Series)
    };
    bar.finish_and_clear();
    shown
}

/// The report for people.
pub fn describe(shown: &Shown) -> String {
    let (mut out, verdict) = match shown {
        Shown::Once(demo) => (describe_once(demo), &demo.verdict),
        Shown::Series(series) => (describe_series(series), &series.verdict),
    };
    out.push_str(&describe_verdict(verdict));
    out
}

fn describe_series(series: &Series) -> String {
    let mut out = format!(
        "A Redis-compatible store in two virtual machines; the primary is killed with SIGKILL under load, {} times, and a new \
         replica is brought in after each.\n\n",
        series.kills.len()
    );
    for kill in &series.kills {
        out.push_str(&format!(
            "  {:>9.3} s  kill -9 {}: outage {:.1} ms, a complete pair again after {:.0} ms\n",
            kill.at_ms / 1e3,
            kill.pid,
            kill.outage_ms,
            kill.protected_ms
        ));
    }
    out.push_str(&format!(
        "\n  outage seen by a client      p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms; otherwise the longest wait was {:.1} ms\n",
        series.outage_p50_ms, series.outage_p99_ms, series.outage_max_ms, series.verdict.longest_before_ms
    ));
    out
}

fn describe_once(demo: &Failover) -> String {
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
    out
}

fn describe_verdict(verdict: &Verdict) -> String {
    let mut out = format!("  connections broken           {} of {}\n", verdict.broken_connections, verdict.connections);
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

/// An error if clients suffered anything but a wait, or, where there were several failovers, too long a one.
///
/// # Errors
/// [`Error::CheckFailed`].
pub fn judge(shown: &Shown) -> Result<()> {
    let (Shown::Once(Failover { verdict, .. }) | Shown::Series(Series { verdict, .. })) = shown;
    if !verdict.is_clean() {
        return Err(Error::CheckFailed("a failover was not clean: see the report".to_owned()));
    }
    match shown {
        Shown::Series(series) if series.outage_p99_ms > PROMISED_P99_MS => Err(Error::CheckFailed(format!(
            "the outage p99 is {:.0} ms, which should be {PROMISED_P99_MS} ms at most; is this machine busy?",
            series.outage_p99_ms
        ))),
        _ => Ok(()),
    }
}
