//! What mirrored disks cost and what they keep.
//!
//! What they cost: a guest that streams and that commits, as a pair against the same image bare. Both mirrors of the pair
//! lie on the device that the bare machine's disk lies on, so the pair's share of the device is half. What they keep:
//! [`kills`] of primaries during writes, [`lives`] of a store whose machines are both killed, and, of that store, how long
//! a [`rewrite`] of a large log keeps it from answering.

mod kills;
mod lives;
mod rewrite;

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::paper::run::undisturbed;
use super::scratch::ScratchDisk;
use super::{Promise, median, process};
use crate::build::Image;
use crate::ctl::RoleName;
use crate::error::{Context, Error, Result};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec, Tuning};
pub use kills::Kills;
pub use lives::Lives;
pub use rewrite::Rewrite;

/// Rounds in a full run and in a quick one. In each round both systems have their turn.
const ROUNDS: usize = 7;
const QUICK_ROUNDS: usize = 1;
/// Primaries that are killed during writes, and pairs whose machines are both killed.
const KILLS: usize = 50;
const QUICK_KILLS: usize = 4;
const DOUBLE_KILLS: usize = 20;
const QUICK_DOUBLE_KILLS: usize = 3;
/// Operations after which mirrors must be equal, with failovers and resyncs between them.
const OPERATIONS: u64 = 1_000;
/// Elements of the store whose log is replaced.
const ELEMENTS: usize = 1_000_000;
const QUICK_ELEMENTS: usize = 100_000;
/// How long a replica may say nothing.
const FAILURE_TIMEOUT_MS: u64 = 5_000;
/// Where the probe takes commands.
const PROBE_PORT: u16 = 7000;
/// Size of the disk, and how much is written to it and read from it in pieces of 64 KiB, so many at a time.
const DISK_BYTES: u64 = 64 << 20;
const STREAM_BYTES: u64 = 512 << 20;
const QUEUE: u64 = 16;
/// Writes of 4 KiB, each flushed before the next.
const COMMITS: u64 = 400;
/// They are done for so long before they are measured: the supervisor looks twice a second at where machines had better run.
const WARM_UP: Duration = Duration::from_secs(2);

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
    /// Primaries killed during writes.
    pub kills: Kills,
    /// Pairs whose machines were both killed.
    pub lives: Lives,
    /// A log replaced while the store serves.
    pub rewrite: Rewrite,
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

/// The programs that are measured.
#[derive(Debug)]
pub struct DiskImages {
    /// The probe, which uses a disk as it is told.
    pub probe: Image,
    /// The store.
    pub store: Image,
}

/// Measures with disks in this folder; random choices start from `seed`.
///
/// # Errors
/// A system does not start, or a disk fails.
pub fn run(
    images: &DiskImages,
    folder: &Path,
    quick: bool,
    seed: u64,
    mut note: impl FnMut(&str),
) -> Result<DiskReport> {
    let of = |full: usize, short: usize| if quick { short } else { full };
    let rounds = of(ROUNDS, QUICK_ROUNDS);
    let mut samples = Vec::new();
    for round in 1..=rounds {
        for run in [RunName::Bare, RunName::Pair] {
            note(&format!("round {round} of {rounds}: {run:?}"));
            samples.push(sample(&images.probe, folder, run)?);
        }
    }
    let rewrite = rewrite::run(&images.store, folder, of(ELEMENTS, QUICK_ELEMENTS), &mut note)?;
    let kills = kills::run(&images.probe, folder, of(KILLS, QUICK_KILLS), OPERATIONS, seed, &mut note)?;
    let lives = lives::run(&images.store, folder, of(DOUBLE_KILLS, QUICK_DOUBLE_KILLS), seed, &mut note)?;
    let folder = folder.to_owned();
    let mut report = DiskReport { folder, rounds, samples, kills, lives, rewrite, promises: Vec::new() };
    report.promises = promises(&report);
    Ok(report)
}

/// A guest with a disk, on a host that may be busy: silence is borne longer than otherwise. A machine that is killed is
/// noticed by the end of its process, and one that is merely slow is not to be taken for dead.
fn spec(image: &Image, run: RunName, port: u16, disk: &ScratchDisk) -> Result<Spec> {
    let spec = Spec::new(format!("bench-{}", std::process::id()), image.clone())?.staying_alone().publishing(port);
    let tuning = Tuning { failure_timeout_ms: FAILURE_TIMEOUT_MS, ..spec.tuning };
    Ok(Spec { run, disks: vec![disk.spec()], tuning, ..spec })
}

fn sample(image: &Image, folder: &Path, run: RunName) -> Result<DiskSample> {
    let disk = ScratchDisk::new(folder, "disk", DISK_BYTES);
    let mut pair = Running::start(&spec(image, run, PROBE_PORT, &disk)?)?;
    let mut probe = Probe::connect(&pair)?;
    // The files get their blocks and the translator sees the code.
    probe.ask_ns(&format!("disk data stream 1 {DISK_BYTES} {QUEUE}"))?;
    probe.ask_ns(&format!("disk data stream 0 {DISK_BYTES} {QUEUE}"))?;
    let status = pair.status()?;
    let pid = |role| status.replica(role).map(|replica| replica.pid);
    let primary = pid(RoleName::Primary).ok_or_else(|| Error::Start("there is no primary".to_owned()))?;
    let spent = || -> Result<[u64; 2]> {
        Ok([process::vcpu_ns(primary)?, pid(RoleName::Backup).map_or(Ok(0), process::vcpu_ns)?])
    };
    let before = spent()?;
    let write_ns = probe.ask_ns(&format!("disk data stream 1 {STREAM_BYTES} {QUEUE}"))?;
    let read_ns = probe.ask_ns(&format!("disk data stream 0 {STREAM_BYTES} {QUEUE}"))?;
    // Processes that are gone have no time to tell.
    undisturbed(&pair.status()?)?;
    let after = spent()?;
    let commit = format!("disk data commit {COMMITS}");
    let started = Instant::now();
    while started.elapsed() < WARM_UP {
        probe.ask_ns(&commit)?;
    }
    let commits = probe.ask_ns(&commit)?;
    undisturbed(&pair.status()?)?;
    pair.down()?;
    drop(disk);
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
    let (kills, lives) = (&report.kills, &report.lives);
    let slice_ms = report.rewrite.longest_slice_ms();
    let none = |name: String, count: u64| Promise::at_most(name, count as f64, 0.0);
    vec![
        Promise::at_least(
            "sequential write, 64 KiB, queue 16, pair / bare",
            report.ratio(|s| s.write_bytes_per_s),
            0.6,
        ),
        Promise::at_least("sequential read, 64 KiB, queue 16, pair / bare", report.ratio(|s| s.read_bytes_per_s), 0.6),
        Promise::at_most("vCPU time a byte, pair / bare", report.ratio(|s| s.vcpu_ns_per_byte), 1.2),
        Promise::at_most("random 4 KiB write + flush, p50, pair / bare", report.ratio(|s| s.commit_p50_us), 2.0),
        Promise::at_most("longest slice of a rewrite, least disturbed round, guest's clock, ms", slice_ms, 10.0),
        none(format!("{} kills of the primary during writes: blocks lost or reordered", kills.kills), kills.lost),
        none("the same: blocks torn, or with what nobody has written".to_owned(), kills.torn + kills.unasked),
        none("the same: connections broken, wrong answers".to_owned(), kills.broken_connections as u64),
        none(
            format!("mirrors that differ after {} operations, failovers, resyncs", kills.operations),
            u64::from(!kills.mirrors_equal),
        ),
        none(format!("{} kills of both machines: acknowledged writes lost", lives.kills), lives.lost),
        none("the same: writes that nobody has asked for".to_owned(), lives.invented),
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
    out.push_str(&describe_rest(report));
    out.extend(report.promises.iter().map(Promise::describe));
    out
}

/// What is no comparison of rounds.
fn describe_rest(report: &DiskReport) -> String {
    let (rewrite, kills, lives) = (&report.rewrite, &report.kills, &report.lives);
    let mut out = format!(
        "a log of {} elements replaced {} times, medians: in {:.0} ms, longest slice {:.2} ms; a client waits p50 {:.2} ms, \
         longest {:.2} ms; before it p50 {:.2} ms, longest {:.2} ms\n",
        rewrite.elements,
        rewrite.rounds.len(),
        rewrite.middle(|round| round.took_ms),
        rewrite.middle(|round| round.longest_slice_ms),
        rewrite.middle(|round| round.wait_p50_ms),
        rewrite.middle(|round| round.wait_longest_ms),
        rewrite.calm_wait_p50_ms,
        rewrite.calm_wait_longest_ms
    );
    out.push_str(&format!(
        "{} primaries killed (seed {}): {} operations answered, {} blocks judged, {} bytes of the mirrors compared\n",
        kills.kills, kills.seed, kills.operations, kills.blocks_judged, kills.compared_bytes
    ));
    out.push_str(&format!(
        "both machines killed {} times (seed {}): {} writes acknowledged\n",
        lives.kills, lives.seed, lives.acknowledged
    ));
    for complaint in kills.complaints.iter().chain(&lives.complaints).take(10) {
        out.push_str(&format!("  ! {complaint}\n"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::rewrite::Round;
    use super::*;

    fn sample(pair: bool, factor: f64) -> DiskSample {
        DiskSample {
            pair,
            write_bytes_per_s: 1e8 / factor,
            read_bytes_per_s: 1e8 / factor,
            vcpu_ns_per_byte: factor,
            backup_vcpu_ns_per_byte: 0.0,
            commit_p50_us: factor,
        }
    }

    fn report() -> DiskReport {
        let kills = Kills { kills: 3, operations: 1_000, mirrors_equal: true, ..Kills::default() };
        let rewrite = Rewrite {
            elements: 4,
            rounds: [2.0, 30.0]
                .map(|longest_slice_ms| Round {
                    took_ms: 1.0,
                    longest_slice_ms,
                    wait_p50_ms: 1.0,
                    wait_longest_ms: 1.0,
                })
                .to_vec(),
            calm_wait_p50_ms: 1.0,
            calm_wait_longest_ms: 1.0,
        };
        DiskReport {
            folder: PathBuf::new(),
            rounds: 1,
            samples: vec![sample(false, 1.0), sample(true, 1.1)],
            kills,
            lives: Lives { kills: 2, ..Lives::default() },
            rewrite,
            promises: Vec::new(),
        }
    }

    #[test]
    fn each_thing_that_goes_wrong_breaks_a_promise_of_its_own() {
        let missed = |change: fn(&mut DiskReport)| {
            let mut report = report();
            change(&mut report);
            promises(&report)
                .iter()
                .filter(|promise| !promise.kept)
                .map(|promise| promise.name.clone())
                .collect::<Vec<_>>()
        };
        assert!(missed(|_| ()).is_empty(), "{:?}", missed(|_| ()));
        type Change = fn(&mut DiskReport);
        let changes: [(Change, &str); 9] = [
            (|report| report.kills.lost = 1, "lost or reordered"),
            (|report| report.kills.torn = 1, "torn"),
            (|report| report.kills.unasked = 1, "nobody has written"),
            (|report| report.kills.broken_connections = 1, "connections broken"),
            (|report| report.kills.mirrors_equal = false, "mirrors that differ"),
            (|report| report.lives.lost = 1, "acknowledged writes lost"),
            (|report| report.lives.invented = 1, "nobody has asked for"),
            (|report| report.rewrite.rounds[0].longest_slice_ms = 11.0, "longest slice"),
            (|report| report.samples[1].commit_p50_us = 2.1, "4 KiB write + flush"),
        ];
        for (change, name) in changes {
            let missed = missed(change);
            assert!(missed.len() == 1 && missed[0].contains(name), "{name}: {missed:?}");
        }
    }

    #[test]
    fn what_was_wrong_is_told() {
        let mut report = report();
        report.lives.complaints.push("count:3 is 4, not 5 to 6".to_owned());
        report.promises = promises(&report);
        let text = describe(&report);
        assert!(text.contains("! count:3 is 4") && text.contains("1000 operations answered"), "{text}");
    }
}
