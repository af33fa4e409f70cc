//! What stable storage costs, how long a restart with a log takes, and whether a recording ends as it was recorded.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Promise, median};
use crate::ctl::ReplayStatus;
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;
use crate::load::{Load, Verdict};
use crate::running::{self, Running};
use crate::supervise::net::Net;
use crate::supervise::replaying;
use crate::supervise::spec::{Every, LogName, ReplaySpec, RunName, Spec, StorageSpec};

/// Clients during each measurement.
const CONNECTIONS: usize = 8;
/// Replies that show that the load runs.
const WARM_REPLIES: u64 = 2_000;
const PATIENCE: Duration = Duration::from_secs(60);
/// Far apart: the log is what a restart has to run.
const EVERY_MS: u64 = 3_600_000;

/// A recording and its replay.
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// How long was recorded, in seconds.
    pub recorded_s: f64,
    /// Bytes of the recording: the checkpoint and the log.
    pub bytes: u64,
    /// Replies that clients had in that time.
    pub replies: u64,
    /// What came of it.
    pub status: ReplayStatus,
}

/// A restart from the checkpoint at the start and the log of all that followed.
#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    /// Epochs in the log.
    pub epochs: u64,
    /// From the command to serving, in milliseconds.
    pub took_ms: f64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct DurableReport {
    /// Replies a second with a durable log by replies a second of a pair without, round by round.
    pub throughput_ratios: Vec<f64>,
    /// The longest wait of a client with a durable log, in milliseconds.
    pub gap_ms: f64,
    /// Restarts.
    pub restarts: Vec<Restart>,
    /// The recording.
    pub replay: Replay,
}

/// A folder that is removed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("pollux-bench-{}-{name}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Measures pairs of the store that are started like this one.
///
/// # Errors
/// A pair does not start, or something that is measured cannot be done.
pub fn run(spec: &Spec, quick: bool, all: &mut Verdict, note: &mut impl FnMut(&str)) -> Result<DurableReport> {
    let rounds = if quick { 3 } else { 10 };
    let folder = Scratch::new("stable");
    let storage = StorageSpec { folder: folder.0.clone(), every: Every::Time(EVERY_MS), log: LogName::Durable };
    let durable_spec = Spec { name: format!("{}-durable", spec.name), storage: Some(storage), ..spec.clone() };
    let mut durable = Running::start(&durable_spec)?;
    let mut plain = Running::start(spec)?;
    let (mut throughput_ratios, mut gap_ms) = (Vec::new(), 0_f64);
    for round in 1..=rounds {
        note(&format!("two seconds with and two without a durable log, {round} of {rounds}"));
        let (with, longest_ms) = replies_a_second(&durable, all)?;
        let (without, _) = replies_a_second(&plain, all)?;
        throughput_ratios.push(with / without.max(1.0));
        gap_ms = gap_ms.max(longest_ms);
    }
    let last_epoch = durable.status()?.storage.map_or(0, |storage| storage.stored_through);
    durable.down()?;
    let mut restarts = Vec::new();
    for round in 1..=rounds {
        note(&format!("restart with a log, {round} of {rounds}"));
        let started = Instant::now();
        let pair = Running::start(&Spec { restore: Some(folder.0.clone()), ..durable_spec.clone() })?;
        restarts.push(Restart { epochs: last_epoch, took_ms: started.elapsed().as_secs_f64() * 1e3 });
        pair.down()?;
    }
    let replay = record_and_replay(&mut plain, if quick { 10 } else { 60 }, all, note)?;
    plain.down()?;
    Ok(DurableReport { throughput_ratios, gap_ms, restarts, replay })
}

fn load(pair: &Running) -> Result<Load> {
    let address = pair.address(STORE_PORT)?;
    Load::forget(address, CONNECTIONS).context(|| "cannot prepare the store")?;
    let load = Load::start(address, CONNECTIONS);
    if !load.wait_for(PATIENCE, |load| load.replies() >= WARM_REPLIES) {
        return Err(Error::CheckFailed("the store does not answer".to_owned()));
    }
    load.mark_fault();
    Ok(load)
}

fn replies_a_second(pair: &Running, all: &mut Verdict) -> Result<(f64, f64)> {
    let load = load(pair)?;
    let (from, before) = (Instant::now(), load.replies());
    load.wait_for(Duration::from_secs(2), |_| from.elapsed() >= Duration::from_secs(2));
    let rate = (load.replies() - before) as f64 / from.elapsed().as_secs_f64();
    let verdict = load.finish();
    let gap_ms = verdict.outage_ms();
    all.add(verdict);
    Ok((rate, gap_ms))
}

fn record_and_replay(
    pair: &mut Running,
    seconds: u64,
    all: &mut Verdict,
    note: &mut impl FnMut(&str),
) -> Result<Replay> {
    note(&format!("recording {seconds} s"));
    let folder = Scratch::new("recording");
    let load = load(pair)?;
    pair.client().record(folder.0.clone())?;
    let (from, before) = (Instant::now(), load.replies());
    load.wait_for(Duration::from_secs(seconds), |_| from.elapsed() >= Duration::from_secs(seconds));
    let replies = load.replies() - before;
    pair.client().stop_recording()?;
    let recorded_s = from.elapsed().as_secs_f64();
    all.add(load.finish());
    note("replaying it");
    let status = replay(&folder.0)?;
    Ok(Replay { recorded_s, bytes: bytes_in(&folder.0)?, replies, status })
}

/// Runs a recording again.
fn replay(folder: &Path) -> Result<ReplayStatus> {
    let spec = replaying::settings(folder)?;
    let spec = Spec {
        name: format!("{}-replay", spec.name),
        run: RunName::Solo,
        net: Net::Forward,
        publish: Vec::new(),
        storage: None,
        replay: Some(ReplaySpec { folder: folder.to_owned(), checkpoint: None, until: None, gdb: false }),
        ..spec
    };
    let mut came = None;
    running::replay(&spec, |status| {
        came = Some(status.clone());
        Ok(())
    })?;
    came.ok_or_else(|| Error::CheckFailed("nothing was heard of the replay".to_owned()))
}

fn bytes_in(folder: &Path) -> Result<u64> {
    let context = || format!("cannot read {}", folder.display());
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).context(context)? {
        bytes += entry.and_then(|entry| entry.metadata()).context(context)?.len();
    }
    Ok(bytes)
}

/// What must be reached.
pub fn promises(report: &DurableReport) -> Vec<Promise> {
    let status = &report.replay.status;
    let same = status.divergence.is_none() && status.recorded_digest.as_ref() == Some(&status.digest);
    vec![Promise::at_most(
        "replay of a recording: ends in another digest",
        f64::from(u8::from(!same || status.epoch != status.recorded_through)),
        0.0,
    )]
}

/// The report for people.
pub fn describe(report: &DurableReport) -> String {
    let replay = &report.replay;
    let restarts: Vec<_> = report.restarts.iter().map(|restart| restart.took_ms).collect();
    format!(
        "durable log: {:.2} of the replies a second without (p50), longest wait of a client {:.1} ms\n\
         restart with a log of {} epochs: {:.0} ms to serving (p50)\n\
         recording of {:.1} s, {} replies, {} bytes: {} epochs run again in {:.0} ms, digest {} ({} recorded)\n",
        median(&report.throughput_ratios),
        report.gap_ms,
        report.restarts.first().map_or(0, |restart| restart.epochs),
        median(&restarts),
        replay.recorded_s,
        replay.replies,
        replay.bytes,
        replay.status.epoch - replay.status.from_epoch,
        replay.status.took_ms,
        replay.status.digest,
        replay.status.recorded_digest.as_deref().unwrap_or("not"),
    )
}
