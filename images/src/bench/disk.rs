//! What mirroring costs: a guest that streams and that commits, as a pair against the same image bare.
//!
//! Both mirrors of the pair lie on the device that the bare machine's disk lies on, so the pair's share of the device is half.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{Promise, median, process};
use crate::build::Image;
use crate::ctl::RoleName;
use crate::disk::{DiskSpec, Kind, mirror_path};
use crate::error::{Context, Error, Result};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec};
use protocol::ReplicaId;

/// Rounds in a full run and in a quick one. In each round both systems have their turn.
const ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 1;
/// Where the probe takes commands.
const PROBE_PORT: u16 = 7000;
/// Size of the disk, and how much is written to it and read from it in pieces of 64 KiB, so many at a time.
const DISK_BYTES: u64 = 64 << 20;
const STREAM_BYTES: u64 = 512 << 20;
const QUEUE: u64 = 16;
/// Writes of 4 KiB, each flushed before the next.
const COMMITS: u64 = 400;

/// One round of one system.
#[derive(Debug, Clone, Serialize)]
pub struct DiskSample {
    /// Two replicas, or bare.
    pub pair: bool,
    /// Sequential writes, in bytes a second.
    pub write_bytes_per_s: f64,
    /// Sequential reads.
    pub read_bytes_per_s: f64,
    /// Processor time of the active replica's vCPU, in nanoseconds a byte written or read.
    pub vcpu_ns_per_byte: f64,
    /// The backup's; 0 without one.
    pub backup_vcpu_ns_per_byte: f64,
    /// Middle time of a random write of 4 KiB and its flush, in microseconds.
    pub commit_p50_us: f64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct DiskReport {
    /// Where the disks lay.
    pub folder: PathBuf,
    /// Rounds.
    pub rounds: usize,
    /// Every round of both systems, bare first.
    pub samples: Vec<DiskSample>,
    /// What must be reached.
    pub promises: Vec<Promise>,
}

impl DiskReport {
    fn of(&self, pair: bool, measure: fn(&DiskSample) -> f64) -> Vec<f64> {
        self.samples.iter().filter(|sample| sample.pair == pair).map(measure).collect()
    }

    /// The middle of the ratios of pair to bare, each taken within one round.
    fn ratio(&self, measure: fn(&DiskSample) -> f64) -> f64 {
        let ratios = self.of(true, measure).into_iter().zip(self.of(false, measure)).map(|(pair, bare)| pair / bare);
        median(&ratios.collect::<Vec<_>>())
    }
}

/// Measures with disks in this folder; `image` is the probe's.
///
/// # Errors
/// A system does not start, or a disk fails.
pub fn run(image: &Image, folder: &Path, quick: bool, mut note: impl FnMut(&str)) -> Result<DiskReport> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for run in [RunName::Bare, RunName::Pair] {
            note(&format!("round {round} of {rounds}: {run:?}"));
            samples.push(sample(image, folder, run)?);
        }
    }
    let mut report = DiskReport { folder: folder.to_owned(), rounds, samples, promises: Vec::new() };
    report.promises = promises(&report);
    Ok(report)
}

fn sample(image: &Image, folder: &Path, run: RunName) -> Result<DiskSample> {
    let stem = folder.join(format!("pollux-bench-disk-{}", std::process::id()));
    let disk =
        DiskSpec { name: "data".to_owned(), stem, kind: Kind::Mirrored, size_bytes: Some(DISK_BYTES), resync: false };
    let files = Files(disk.stem.clone());
    let name = format!("bench-{}", std::process::id());
    let spec = Spec { run, disks: vec![disk], ..Spec::new(name, image.clone())?.publishing(PROBE_PORT) };
    let mut pair = Running::start(&spec)?;
    let mut probe = Probe::connect(&pair)?;
    // The files get their blocks and the translator sees the code.
    probe.ask_ns(&format!("disk data stream 1 {DISK_BYTES} {QUEUE}"))?;
    probe.ask_ns(&format!("disk data stream 0 {DISK_BYTES} {QUEUE}"))?;
    probe.ask_ns("disk data commit 10")?;
    let status = pair.status()?;
    let pid = |role| status.replica(role).map(|replica| replica.pid);
    let primary = pid(RoleName::Primary).ok_or_else(|| Error::Start("there is no primary".to_owned()))?;
    let spent = || -> Result<[u64; 2]> {
        Ok([process::vcpu_ns(primary)?, pid(RoleName::Backup).map_or(Ok(0), process::vcpu_ns)?])
    };
    let before = spent()?;
    let write_ns = probe.ask_ns(&format!("disk data stream 1 {STREAM_BYTES} {QUEUE}"))?;
    let read_ns = probe.ask_ns(&format!("disk data stream 0 {STREAM_BYTES} {QUEUE}"))?;
    let after = spent()?;
    let commits = probe.ask_ns(&format!("disk data commit {COMMITS}"))?;
    let end = pair.status()?;
    if end.generation != 1 {
        return Err(Error::CheckFailed(format!("a failover disturbed the measurement: {:?}", end.events.last())));
    }
    pair.down()?;
    drop(files);
    let per_s = |took: &[f64]| STREAM_BYTES as f64 * 1e9 / took.iter().sum::<f64>().max(1.0);
    let per_byte = |index: usize| (after[index] - before[index]) as f64 / (2 * STREAM_BYTES) as f64;
    Ok(DiskSample {
        pair: run == RunName::Pair,
        write_bytes_per_s: per_s(&write_ns),
        read_bytes_per_s: per_s(&read_ns),
        vcpu_ns_per_byte: per_byte(0),
        backup_vcpu_ns_per_byte: per_byte(1),
        commit_p50_us: median(&commits) / 1e3,
    })
}

/// A disk's files, removed when dropped.
struct Files(PathBuf);

impl Drop for Files {
    fn drop(&mut self) {
        for replica in [ReplicaId::ZERO, ReplicaId::ONE] {
            // Bare there is only one.
            let _ = std::fs::remove_file(mirror_path(&self.0, replica));
        }
    }
}

/// A connection to the probe.
struct Probe {
    stream: BufReader<TcpStream>,
}

impl Probe {
    fn connect(pair: &Running) -> Result<Self> {
        let stream = TcpStream::connect(pair.address(PROBE_PORT)?).context(|| "cannot connect to the probe")?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Asks for something that takes time; returns the times that the probe has taken, in nanoseconds.
    fn ask_ns(&mut self, command: &str) -> Result<Vec<f64>> {
        let mut line = String::new();
        let sent = self.stream.get_mut().write_all(format!("{command}\n").as_bytes());
        sent.and_then(|()| self.stream.read_line(&mut line)).context(|| "the probe is gone")?;
        let words = line.trim().strip_prefix("took ").map(|times| times.trim_end_matches(" ns").split(' '));
        let times: Option<Vec<f64>> = words.and_then(|words| words.map(|word| word.parse().ok()).collect());
        times.ok_or_else(|| Error::CheckFailed(format!("{command}: the probe answers {line:?}")))
    }
}

fn promises(report: &DiskReport) -> Vec<Promise> {
    vec![
        Promise::at_least(
            "sequential write, 64 KiB, queue 16, pair / bare",
            report.ratio(|s| s.write_bytes_per_s),
            0.6,
        ),
        Promise::at_least("sequential read, 64 KiB, queue 16, pair / bare", report.ratio(|s| s.read_bytes_per_s), 0.6),
        Promise::at_most("vCPU time a byte, pair / bare", report.ratio(|s| s.vcpu_ns_per_byte), 1.2),
        Promise::at_most("random 4 KiB write + flush, p50, pair / bare", report.ratio(|s| s.commit_p50_us), 2.0),
    ]
}

/// The report for people.
pub fn describe(report: &DiskReport) -> String {
    let mut out = format!(
        "{} rounds, disks in {}, medians\n  {:8}{:>14}{:>14}{:>16}{:>18}{:>18}\n",
        report.rounds,
        report.folder.display(),
        "system",
        "write MB/s",
        "read MB/s",
        "vCPU ns/byte",
        "backup ns/byte",
        "commit p50 us"
    );
    for (pair, name) in [(false, "bare"), (true, "pair")] {
        let middle = |measure| median(&report.of(pair, measure));
        out.push_str(&format!(
            "  {name:8}{:>14.0}{:>14.0}{:>16.3}{:>18.3}{:>18.0}\n",
            middle(|s| s.write_bytes_per_s) / 1e6,
            middle(|s| s.read_bytes_per_s) / 1e6,
            middle(|s| s.vcpu_ns_per_byte),
            middle(|s| s.backup_vcpu_ns_per_byte),
            middle(|s| s.commit_p50_us)
        ));
    }
    out.extend(report.promises.iter().map(Promise::describe));
    out
}
