//! Throughput, processor time a request, latency, start-up and memory, of the pair against the same image bare.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

use super::cores::{Cores, Effort};
use super::neighbour::Neighbour;
use super::{Promise, median, process};
use crate::build::Image;
use crate::ctl::RoleName;
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;
use crate::running::Running;
use crate::supervise::net::Net;
use crate::supervise::spec::{RunName, Spec};

/// Rounds in a full run and in a quick one. In each round every system has its turn.
const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 1;
/// What `redis-benchmark` is asked for.
const TESTS: &str = "set,get,incr";
pub(super) const TEST_COUNT: u64 = 3;
pub(super) const CLIENTS: &str = "50";
const PIPELINE: &str = "16";
/// Requests of each test: of the peer, plain and pipelined; at one connection.
const REQUESTS: u64 = 30_000;
const PIPELINED_REQUESTS: u64 = 300_000;
const SINGLE_REQUESTS: u64 = 3_000;
/// Requests of each test in a slice of ours, plain and pipelined, and how many slices there are.
const SLICE_REQUESTS: u64 = 4_000;
const PIPELINED_SLICE_REQUESTS: u64 = 40_000;
const EFFORT: Effort = Effort { enough: 4, most: 10, longest: Duration::from_secs(6) };
/// Requests before anything is counted, so that the translator has seen the code.
const WARM_UP_REQUESTS: u64 = 10_000;
/// Port of the peer's store on this host.
const PEER_PORT: u16 = 16_379;
/// How often the link's round trip is looked at. The shims tell it ten times a second.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);
/// Guest memory at which start-up and resident memory are promised.
const SMALL_MEMORY_MIB: u32 = 16;

/// The systems that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// The image without epochs.
    Bare,
    /// The same, beside a machine that has nothing to do with it and computes as much as the backup of a pair would.
    Beside,
    /// Two replicas.
    Pair,
    /// Linux and redis-server in one virtual machine.
    Peer,
}

/// One round of one system.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    /// Which system.
    pub system: System,
    /// Requests a second over all tests, 50 connections.
    pub rps: f64,
    /// The same, pipelined.
    pub pipelined_rps: f64,
    /// Middle latency at one connection, in microseconds.
    pub single_p50_us: f64,
    /// Processor time of the active replica's vCPU for one request, in microseconds.
    pub vcpu_us: f64,
    /// The same, pipelined.
    pub pipelined_vcpu_us: f64,
    /// The backup's.
    pub backup_vcpu_us: f64,
    /// The same, pipelined.
    pub backup_pipelined_vcpu_us: f64,
    /// The supervisor's, all in all, and that of passt if there is one.
    pub supervisor_us: f64,
    /// The same, pipelined.
    pub supervisor_pipelined_us: f64,
    /// Round trip of the replication link while one connection was at work, in microseconds.
    pub link_rtt_us: f64,
    /// Slices that were measured, plain and pipelined, and those of them that count: no core of the host was shared then, or there
    /// were no such slices.
    pub slices: usize,
    /// See above.
    pub slices_counted: usize,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct ThroughputReport {
    /// The uplink.
    pub net: Net,
    /// Rounds.
    pub rounds: usize,
    /// Every round of every system.
    pub samples: Vec<Sample>,
    /// Medians of the start of a bare image with 16 MiB, in milliseconds, from `up` to serving.
    pub start_ms: f64,
    /// Middle share of the time that the neighbour's processor was busy; a backup's is taken for the goal.
    pub neighbour_share: f64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Resident memory of one QEMU with a guest of 16 MiB, in MiB.
    pub resident_mib: f64,
    /// What must be reached.
    pub promises: Vec<Promise>,
}

impl ThroughputReport {
    /// The middle of a measure of a system.
    fn median(&self, system: System, measure: fn(&Sample) -> f64) -> f64 {
        let values: Vec<f64> = self.samples.iter().filter(|sample| sample.system == system).map(measure).collect();
        median(&values)
    }

    /// The middle of the ratios of two systems, each taken within one round.
    fn ratio(&self, over: System, under: System, measure: fn(&Sample) -> f64) -> f64 {
        let of = |system| self.samples.iter().filter(move |sample| sample.system == system).map(measure);
        let ratios: Vec<f64> = of(over).zip(of(under)).map(|(over, under)| over / under).collect();
        median(&ratios)
    }
}

/// Measures an image of the store, with an uplink that has published ports; the image `neighbour`, of the benchmark that
/// computes, keeps a processor busy beside it. `peer` is the script of the peer and the folder in which it was
/// prepared.
///
/// # Errors
/// A system does not start or `redis-benchmark` fails.
pub fn run(
    image: &Image,
    neighbour: &Image,
    net: &Net,
    quick: bool,
    peer: Option<(&Path, &Path)>,
    mut note: impl FnMut(&str),
) -> Result<ThroughputReport> {
    let rounds = if quick { QUICK_ROUNDS } else { ROUNDS };
    let (mut samples, mut shares, mut cores) = (Vec::new(), Vec::new(), Cores::new());
    for round in 1..=rounds {
        for (system, run) in [(System::Bare, RunName::Bare), (System::Pair, RunName::Pair)] {
            note(&format!("round {round} of {rounds}: {system:?}"));
            samples.push(sample(image, net, &mut cores, (system, run), None)?.0);
        }
        note(&format!("round {round} of {rounds}: Beside"));
        // The pair of this round: requests a second, times processor time a request.
        let share = samples.last().map_or(0.0, |pair| pair.rps * pair.backup_vcpu_us / 1e6);
        let neighbour = Some((Neighbour::start(neighbour)?, share));
        let (beside, reached) = sample(image, net, &mut cores, (System::Beside, RunName::Bare), neighbour)?;
        samples.push(beside);
        shares.push(reached);
        if let Some((script, folder)) = peer {
            note(&format!("round {round} of {rounds}: Peer"));
            samples.push(peer_sample(script, folder)?);
        }
    }
    note("start-up and memory");
    let (start_ms, resident_mib) = small(image, net, rounds)?;
    let mut report = ThroughputReport {
        net: net.clone(),
        rounds,
        samples,
        start_ms,
        image_bytes: image.image_bytes,
        resident_mib,
        neighbour_share: median(&shares),
        promises: Vec::new(),
    };
    report.promises = promises(&report, peer.is_some());
    Ok(report)
}

/// One round of one of ours, with the neighbour's share of a processor if there is one: it is there while 50 connections
/// ask without pipelining.
fn sample(
    image: &Image,
    net: &Net,
    cores: &mut Cores,
    (system, run): (System, RunName),
    neighbour: Option<(Neighbour, f64)>,
) -> Result<(Sample, f64)> {
    let name = format!("bench-{}", std::process::id());
    let spec = Spec { run, net: net.clone(), ..Spec::new(name, image.clone())?.staying_alone().publishing(STORE_PORT) };
    let mut pair = Running::start(&spec)?;
    let address = pair.address(STORE_PORT)?;
    let status = pair.status()?;
    let pid = |role| status.replica(role).map(|replica| replica.pid);
    let primary = pid(RoleName::Primary).ok_or_else(|| Error::Start("there is no primary".to_owned()))?;
    let watched =
        Watched { primary, backup: pid(RoleName::Backup), supervisor: status.supervisor_pid, uplink: status.net.pid };
    benchmark(address, WARM_UP_REQUESTS, &["-c", CLIENTS])?;
    let mut plain = || watched.in_slices(cores, address, SLICE_REQUESTS, &["-c", CLIENTS]);
    let (plain, reached) = match neighbour {
        Some((neighbour, share)) => neighbour.beside(share, plain)?,
        None => (plain()?, 0.0),
    };
    let pipelined = watched.in_slices(cores, address, PIPELINED_SLICE_REQUESTS, &["-c", CLIENTS, "-P", PIPELINE])?;
    let (single, rtt_us) = single_connection(address, &mut pair)?;
    let after = pair.status()?;
    if after.generation != 1 {
        return Err(Error::CheckFailed(format!("a failover disturbed the measurement: {:?}", after.events.last())));
    }
    pair.down()?;
    let sample = Sample {
        system,
        rps: plain.rps,
        pipelined_rps: pipelined.rps,
        single_p50_us: single.p50_us,
        vcpu_us: plain.primary_us,
        pipelined_vcpu_us: pipelined.primary_us,
        backup_vcpu_us: plain.backup_us,
        backup_pipelined_vcpu_us: pipelined.backup_us,
        supervisor_us: plain.supervisor_us,
        supervisor_pipelined_us: pipelined.supervisor_us,
        link_rtt_us: rtt_us,
        slices: plain.slices + pipelined.slices,
        slices_counted: plain.slices_counted + pipelined.slices_counted,
    };
    Ok((sample, reached))
}

/// Latency at one connection, and the middle of the link's round trips that the primary measured meanwhile, in
/// microseconds.
fn single_connection(address: SocketAddr, pair: &mut Running) -> Result<(Outcome, f64)> {
    std::thread::scope(|scope| {
        let load = scope.spawn(|| benchmark(address, SINGLE_REQUESTS, &["-c", "1"]));
        let mut round_trips = Vec::new();
        while !load.is_finished() {
            std::thread::sleep(STATUS_INTERVAL);
            round_trips.extend(pair.status()?.replica(RoleName::Primary).map(|replica| replica.link_rtt_us as f64));
        }
        round_trips.retain(|us| *us > 0.0);
        let outcome = load.join().map_err(|_| Error::CheckFailed("a thread of ours panicked".to_owned()))??;
        Ok((outcome, median(&round_trips)))
    })
}

/// The processes whose time is taken.
struct Watched {
    primary: i32,
    backup: Option<i32>,
    supervisor: i32,
    uplink: Option<i32>,
}

/// Processor time for one request, in microseconds, and requests a second: the middle of the slices that count.
struct Served {
    rps: f64,
    primary_us: f64,
    backup_us: f64,
    supervisor_us: f64,
    slices: usize,
    slices_counted: usize,
}

impl Watched {
    fn read(&self) -> Result<[u64; 3]> {
        let backup = self.backup.map_or(Ok(0), process::vcpu_ns)?;
        let uplink = self.uplink.map_or(Ok(0), process::total_ns)?;
        Ok([process::vcpu_ns(self.primary)?, backup, process::total_ns(self.supervisor)? + uplink])
    }

    /// Runs `redis-benchmark` with so many requests of each test, again and again, and says what it took.
    fn in_slices(&self, cores: &mut Cores, address: SocketAddr, requests: u64, options: &[&str]) -> Result<Served> {
        let slices = cores.slices(EFFORT, || {
            let before = self.read()?;
            let outcome = benchmark(address, requests, options)?;
            let after = self.read()?;
            let us = |index: usize| (after[index] - before[index]) as f64 / 1e3 / (requests * TEST_COUNT) as f64;
            Ok([outcome.rps, us(0), us(1), us(2)])
        })?;
        let counted = cores.those_that_count(&slices);
        let middle = |index: usize| median(&counted.iter().map(|slice| slice[index]).collect::<Vec<_>>());
        Ok(Served {
            rps: middle(0),
            primary_us: middle(1),
            backup_us: middle(2),
            supervisor_us: middle(3),
            slices: slices.len(),
            slices_counted: counted.len(),
        })
    }
}

/// What `redis-benchmark` says, over its tests.
pub(super) struct Outcome {
    /// Requests a second: requests in all by time in all.
    pub(super) rps: f64,
    /// Middle latency in microseconds.
    pub(super) p50_us: f64,
}

/// Runs `redis-benchmark`. The rate is the harmonic mean of the tests: requests in all by time in all.
pub(super) fn benchmark(address: SocketAddr, requests: u64, options: &[&str]) -> Result<Outcome> {
    let output = Command::new("redis-benchmark")
        .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string(), "-t", TESTS, "--csv"])
        .args(["-n", &requests.to_string()])
        .args(options)
        .stdin(Stdio::null())
        .output()
        .context(|| "cannot run redis-benchmark (`cargo pollux doctor` says what installs it)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rows: Vec<(f64, f64)> = text.lines().filter_map(row).collect();
    if !output.status.success() || rows.len() as u64 != TEST_COUNT {
        let errors = String::from_utf8_lossy(&output.stderr);
        return Err(Error::CheckFailed(format!("redis-benchmark failed ({}): {text}{errors}", output.status)));
    }
    let seconds_a_request: f64 = rows.iter().map(|(rps, _)| 1.0 / rps).sum::<f64>() / rows.len() as f64;
    let p50: Vec<f64> = rows.iter().map(|(_, p50_ms)| p50_ms * 1e3).collect();
    Ok(Outcome { rps: 1.0 / seconds_a_request, p50_us: median(&p50) })
}

/// Requests a second and middle latency in milliseconds of one line of CSV; `None` for its heading.
fn row(line: &str) -> Option<(f64, f64)> {
    let mut fields = line.split(',').map(|field| field.trim().trim_matches('"'));
    let rps = fields.nth(1)?.parse().ok()?;
    Some((rps, fields.nth(2)?.parse().ok()?))
}

/// Start-up and resident memory at the smallest promised size.
fn small(image: &Image, net: &Net, rounds: usize) -> Result<(f64, f64)> {
    let (mut starts, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(3) {
        let name = format!("bench-{}", std::process::id());
        let spec = Spec {
            run: RunName::Bare,
            net: net.clone(),
            memory_mib: SMALL_MEMORY_MIB,
            ..Spec::new(name, image.clone())?.staying_alone().publishing(STORE_PORT)
        };
        let pair = Running::start(&spec)?;
        starts.push(pair.first_status.start_ms as f64);
        benchmark(pair.address(STORE_PORT)?, WARM_UP_REQUESTS, &["-c", CLIENTS])?;
        let replica = pair.first_status.replica(RoleName::Primary);
        let pid = replica.map(|replica| replica.pid).ok_or_else(|| Error::Start("there is no primary".to_owned()))?;
        resident.push(process::resident_bytes(pid)? as f64 / (1024.0 * 1024.0));
        pair.down()?;
    }
    Ok((median(&starts), median(&resident)))
}

/// One round of the peer.
fn peer_sample(script: &Path, folder: &Path) -> Result<Sample> {
    let peer = |command: &str| {
        let mut process = Command::new(script);
        process.arg(command).arg(folder).stdin(Stdio::null()).stdout(Stdio::null());
        process
    };
    let status = peer("run").arg(PEER_PORT.to_string()).status().context(|| "cannot run the peer's script")?;
    if !status.success() {
        return Err(Error::CheckFailed(format!("{} run {} failed: {status}", script.display(), folder.display())));
    }
    let address = SocketAddr::from(([127, 0, 0, 1], PEER_PORT));
    let measured = benchmark(address, WARM_UP_REQUESTS, &["-c", CLIENTS]).and_then(|_| {
        let plain = benchmark(address, REQUESTS, &["-c", CLIENTS])?;
        let pipelined = benchmark(address, PIPELINED_REQUESTS, &["-c", CLIENTS, "-P", PIPELINE])?;
        Ok((plain, pipelined, benchmark(address, SINGLE_REQUESTS, &["-c", "1"])?))
    });
    let stopped = peer("stop").status();
    let (plain, pipelined, single) = measured?;
    stopped.context(|| "cannot stop the peer")?;
    Ok(Sample {
        system: System::Peer,
        rps: plain.rps,
        pipelined_rps: pipelined.rps,
        single_p50_us: single.p50_us,
        vcpu_us: 0.0,
        pipelined_vcpu_us: 0.0,
        backup_vcpu_us: 0.0,
        backup_pipelined_vcpu_us: 0.0,
        supervisor_us: 0.0,
        supervisor_pipelined_us: 0.0,
        link_rtt_us: 0.0,
        slices: 1,
        slices_counted: 1,
    })
}

fn promises(report: &ThroughputReport, peer: bool) -> Vec<Promise> {
    use System::{Bare, Pair, Peer};
    let backup = |backup: fn(&Sample) -> f64, primary: fn(&Sample) -> f64| {
        report.median(Pair, backup) / report.median(Pair, primary)
    };
    let added_us = report.median(Pair, |s| s.single_p50_us) - report.median(Bare, |s| s.single_p50_us);
    let round_trips = added_us / report.median(Pair, |s| s.link_rtt_us).max(1.0);
    let mut all = vec![
        Promise::at_most("vCPU time a request, pair / bare", report.ratio(Pair, Bare, |s| s.vcpu_us), 1.2),
        Promise::at_most(
            "vCPU time a request, pair / bare, -P 16",
            report.ratio(Pair, Bare, |s| s.pipelined_vcpu_us),
            1.2,
        ),
        Promise::at_most("vCPU time a request, backup / primary", backup(|s| s.backup_vcpu_us, |s| s.vcpu_us), 1.0),
        Promise::at_most(
            "vCPU time a request, backup / primary, -P 16",
            backup(|s| s.backup_pipelined_vcpu_us, |s| s.pipelined_vcpu_us),
            1.0,
        ),
        Promise::at_least("throughput, pair / bare", report.ratio(Pair, Bare, |s| s.rps), 0.6),
        Promise::at_least("throughput, pair / bare, -P 16", report.ratio(Pair, Bare, |s| s.pipelined_rps), 0.6),
        Promise::at_most("latency added at one connection, p50, link round trips", round_trips, 2.0),
        Promise::at_most("start to serving, bare, 16 MiB, ms", report.start_ms, 150.0),
        Promise::at_most("image, MiB", report.image_bytes as f64 / (1024.0 * 1024.0), 2.0),
        Promise::at_most("resident memory of one QEMU, 16 MiB guest, MiB", report.resident_mib, 80.0),
    ];
    if peer {
        all.push(Promise::at_least("throughput, bare / Linux+redis", report.ratio(Bare, Peer, |s| s.rps), 1.5));
        all.push(Promise::at_least("throughput, pair / Linux+redis", report.ratio(Pair, Peer, |s| s.rps), 1.0));
        let pipelined: fn(&Sample) -> f64 = |s| s.pipelined_rps;
        all.push(Promise::at_least("throughput, bare / Linux+redis, -P 16", report.ratio(Bare, Peer, pipelined), 1.5));
        all.push(Promise::at_least("throughput, pair / Linux+redis, -P 16", report.ratio(Pair, Peer, pipelined), 1.0));
    }
    all
}

/// The report for people.
pub fn describe(report: &ThroughputReport) -> String {
    let mut out = format!(
        "{} rounds, uplink {}, medians; redis-benchmark -t {TESTS} -c {CLIENTS}\n  \
         {:8}{:>12}{:>14}{:>14}{:>12}{:>12}{:>14}\n",
        report.rounds,
        report.net.name(),
        "system",
        "req/s",
        "req/s -P 16",
        "p50 us, c=1",
        "vCPU us",
        "backup us",
        "supervisor us"
    );
    for system in [System::Bare, System::Beside, System::Pair, System::Peer] {
        if !report.samples.iter().any(|sample| sample.system == system) {
            continue;
        }
        let middle = |measure| report.median(system, measure);
        out.push_str(&format!(
            "  {:8}{:>12.0}{:>14.0}{:>14.0}{:>12.2}{:>12.2}{:>14.2}\n",
            format!("{system:?}").to_lowercase(),
            middle(|s| s.rps),
            middle(|s| s.pipelined_rps),
            middle(|s| s.single_p50_us),
            middle(|s| s.vcpu_us),
            middle(|s| s.backup_vcpu_us),
            middle(|s| s.supervisor_us)
        ));
    }
    out.push_str(&format!(
        "  beside: bare, next to a machine that has nothing to do with it and keeps a processor busy for {:.0} % of the time,\n  \
         as a backup would; vCPU time a request, beside / bare: {:.3}, pair / beside: {:.3}\n",
        report.neighbour_share * 100.0,
        report.ratio(System::Beside, System::Bare, |s| s.vcpu_us),
        report.ratio(System::Pair, System::Beside, |s| s.vcpu_us),
    ));
    let slices = |count: fn(&Sample) -> usize| report.samples.iter().map(count).sum::<usize>();
    let (counted, all) = (slices(|sample| sample.slices_counted), slices(|sample| sample.slices));
    out.push_str(&format!(
        "  slices that count: {counted} of {all} (no core was shared with somebody else, as far as can be)\n"
    ));
    out.extend(report.promises.iter().map(Promise::describe));
    out
}

/// The folder of a peer that was prepared beside its script, unless one is named.
pub fn peer_folder(script: &Path) -> PathBuf {
    script.with_extension("prepared")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_csv_of_redis_benchmark_is_read() {
        let heading = r#""test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms""#;
        let line = r#""SET","33613.45","1.342","0.328","1.191","2.671","5.063","7.775""#;
        assert_eq!(row(heading), None);
        assert_eq!(row(line), Some((33613.45, 1.191)));
        assert_eq!(row(""), None);
    }
}
