//! Kills primaries under load and looks at what clients notice.

use serde::Serialize;

use super::Promise;
use crate::build::{Image, Target};
use crate::error::Result;
use crate::failover::{self, Plan};
use crate::load::{Verdict, percentile};
use crate::supervise::net::Net;
use crate::supervise::spec::Spec;

/// Kills in a full run and in a quick one.
const KILLS: usize = 30;
const QUICK_KILLS: usize = 5;
/// The load around each kill.
const PLAN: Plan = Plan { connections: 8, replies_before: 4_000, replies_after: 4_000 };

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct FailoverReport {
    /// The uplink.
    pub net: Net,
    /// How many primaries were killed.
    pub kills: usize,
    /// Connections in each run.
    pub connections: usize,
    /// Outage of a connection, over all connections of all kills: the longest wait for a reply that ended after the
    /// kill, in milliseconds.
    pub outage_p50_ms: f64,
    /// The same.
    pub outage_p99_ms: f64,
    /// The same.
    pub outage_max_ms: f64,
    /// The longest outage of each kill, in milliseconds.
    pub worst_of_each_kill_ms: Vec<f64>,
    /// From `up` to serving, for each pair, in milliseconds.
    pub start_ms: Vec<f64>,
    /// Frames that survivors were given again, over all kills.
    pub frames_resent: u64,
    /// Frames of survivors that had been let out already, over all kills.
    pub duplicates_dropped: u64,
    /// What the clients saw.
    pub verdict: Verdict,
    /// What must be reached.
    pub promises: Vec<Promise>,
}

/// Kills primaries, each of a fresh pair with that uplink, which must be one with published ports.
///
/// # Errors
/// A pair does not start.
pub fn run(image: &Image, net: &Net, quick: bool, mut note: impl FnMut(&str)) -> Result<FailoverReport> {
    let kills = if quick { QUICK_KILLS } else { KILLS };
    let mut verdict = Verdict::default();
    let (mut worst, mut start_ms) = (Vec::new(), Vec::new());
    let (mut frames_resent, mut duplicates_dropped) = (0, 0);
    for kill in 1..=kills {
        note(&format!("kill {kill} of {kills}"));
        let name = format!("bench-{}", std::process::id());
        let spec = Spec { net: net.clone(), ..Spec::new(name, image.clone())?.staying_alone().patient() };
        let one = failover::run(spec, PLAN, |_| {})?;
        worst.push(one.verdict.outage_ms());
        start_ms.push(one.start_ms as f64);
        frames_resent += one.frames_resent;
        duplicates_dropped += one.duplicates_dropped;
        verdict.add(one.verdict);
    }
    let (p50, p99) = (percentile(&verdict.outages_ms, 0.50), percentile(&verdict.outages_ms, 0.99));
    Ok(FailoverReport {
        net: net.clone(),
        kills,
        connections: PLAN.connections,
        outage_p50_ms: p50,
        outage_p99_ms: p99,
        outage_max_ms: verdict.outage_ms(),
        worst_of_each_kill_ms: worst,
        start_ms,
        frames_resent,
        duplicates_dropped,
        promises: promises(image.target, &verdict, p50, p99),
        verdict,
    })
}

fn promises(target: Target, verdict: &Verdict, p50_ms: f64, p99_ms: f64) -> Vec<Promise> {
    let count = |name: &str, value: u64| Promise::at_most(name, value as f64, 0.0);
    // PA-RISC is emulated several times as slowly.
    let (most_p50_ms, most_p99_ms) = match target {
        Target::X86_64 | Target::Hermit => (30.0, 150.0),
        Target::Hppa => (failover::PROMISED_P99_MS, failover::PROMISED_P99_MS),
    };
    vec![
        Promise::at_most("outage at kill -9 under load, p50, ms", p50_ms, most_p50_ms),
        Promise::at_most("outage at kill -9 under load, p99, ms", p99_ms, most_p99_ms),
        count("broken connections", verdict.broken_connections),
        count("lost acknowledged writes", verdict.lost_writes),
        count("INCR repeated", verdict.repeated_increments),
        count("INCR skipped", verdict.skipped_increments),
    ]
}

/// The report for people.
pub fn describe(report: &FailoverReport) -> String {
    let mut out = format!(
        "{} kills, uplink {}, {} connections each, {} acknowledged writes; outage of a connection: p50 {:.1} ms, \
         p99 {:.1} ms, longest {:.1} ms\n",
        report.kills,
        report.net.name(),
        report.connections,
        report.verdict.acknowledged_writes,
        report.outage_p50_ms,
        report.outage_p99_ms,
        report.outage_max_ms
    );
    out.extend(report.promises.iter().map(Promise::describe));
    for complaint in report.verdict.complaints.iter().take(10) {
        out.push_str(&format!("  ! {complaint}\n"));
    }
    out
}
