//! What checkpoints, new replicas and a durable log cost: pauses of the guest, gaps that clients see, times, sizes.

mod slope;
mod turns;
mod user;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::durable::{self, DurableReport};
use super::scratch::ScratchDisk;
use super::{Promise, median};
use crate::build::Image;
use crate::ctl::{CopyStatus, Request, RoleName, SignalName};
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;
use crate::load::{Load, Verdict, percentile};
use crate::resp;
use crate::running::Running;
use crate::supervise::net::Net;
use crate::supervise::spec::Spec;

/// Clients during each measurement.
const CONNECTIONS: usize = 8;
/// What the store holds: with its overhead, about half of a 64 MiB guest.
const VALUES: usize = 240;
const VALUE_BYTES: usize = 100_000;
/// Guest memory, in MiB.
const MEMORY_MIB: u32 = 64;
/// The disk of the store that has one.
const DISK_BYTES: u64 = 256 << 20;
/// Memory sizes over which the cost of a checkpoint of one and the same content is compared.
const SIZES_MIB: [u32; 4] = [16, 64, 256, 512];
/// Values of about a page each that are written between two checkpoints.
const CHANGES: [usize; 4] = [0, 500, 1_000, 4_000];
const CHANGED_BYTES: usize = 4_000;
/// Replies that show that the load runs.
const WARM_REPLIES: u64 = 2_000;
const FAILURE_TIMEOUT_MS: u64 = 5_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// A checkpoint or a replica brought in, and what the clients saw of it.
#[derive(Debug, Clone, Serialize)]
pub struct Copying {
    /// How the guest was copied.
    pub copy: CopyStatus,
    /// From the request to the file on the disk, or to the complete pair, in milliseconds.
    pub total_ms: f64,
    /// The longest wait of any client for a reply meanwhile, in milliseconds.
    pub gap_ms: f64,
    /// Bytes of the file; 0 for a replica.
    pub file_bytes: u64,
}

/// What a size of memory makes of a checkpoint.
#[derive(Debug, Clone, Serialize)]
pub struct BySize {
    /// Guest memory, in MiB.
    pub memory_mib: u32,
    /// Pages with content.
    pub pages: u64,
    /// From the first page to the end of the copy, in milliseconds; the median.
    pub took_ms: f64,
    /// Pause of the guest, in microseconds; the median.
    pub pause_us: f64,
    /// Pages of a checkpoint that builds upon the one before, when the guest has done next to nothing between them.
    pub changed_pages: u64,
    /// The same as `took_ms` of such a one.
    pub changed_took_ms: f64,
}

/// What writing makes of a checkpoint that builds upon the one before.
#[derive(Debug, Clone, Serialize)]
pub struct ByChanges {
    /// Values of a page's size written between the two.
    pub values: usize,
    /// Pages that it holds.
    pub pages: u64,
    /// From the first page to the end of the copy, in milliseconds; the median.
    pub took_ms: f64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct CheckpointReport {
    /// The uplink.
    pub net: Net,
    /// Checkpoints under load.
    pub checkpoints: Vec<Copying>,
    /// Replicas brought in under load, each after the primary was killed.
    pub rejoins: Vec<Copying>,
    /// The same for a store that keeps its log on a mirrored disk.
    pub rejoins_with_disk: Vec<Copying>,
    /// Both replicas killed and replaced in turn, under one load.
    pub turns: turns::Turns,
    /// Replies a second while a checkpoint of what has changed is taken every second, by replies a second in the windows between.
    pub throughput_ratio: f64,
    /// From the command to serving, of a guest restored from such a checkpoint, in milliseconds.
    pub restore_ms: Vec<f64>,
    /// The empty store at several sizes of memory.
    pub sizes: Vec<BySize>,
    /// Checkpoints that build upon another, by what was written between the two.
    pub changes: Vec<ByChanges>,
    /// What both say of the cost.
    pub slopes: slope::Slopes,
    /// The same store saved by the shim and by the program itself.
    pub levels: user::Levels,
    /// Stable storage and recordings.
    pub durable: DurableReport,
    /// What the clients saw in all.
    pub verdict: Verdict,
    /// What must be reached.
    pub promises: Vec<Promise>,
}

/// A file that is removed.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Measures on a fresh pair of the store with that uplink, which must be one with published ports.
///
/// # Errors
/// A pair does not start, or something that is measured cannot be done.
pub fn run(image: &Image, net: &Net, quick: bool, mut note: impl FnMut(&str)) -> Result<CheckpointReport> {
    let rounds = if quick { 3 } else { 20 };
    let name = format!("bench-{}", std::process::id());
    let file = Scratch(std::env::temp_dir().join(format!("pollux-{name}.ckpt")));
    let other = Scratch(file.0.with_extension("other.ckpt"));
    let files = [&*file.0, &*other.0];
    let spec = Spec { net: net.clone(), memory_mib: MEMORY_MIB, ..Spec::new(&name, image.clone())?.staying_alone() };
    let mut spec = spec.publishing(STORE_PORT);
    // No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
    spec.tuning.failure_timeout_ms = spec.tuning.failure_timeout_ms.max(FAILURE_TIMEOUT_MS);
    note("filling a store");
    let mut pair = Running::start(&spec)?;
    fill(&pair, VALUES)?;
    let mut verdict = Verdict::default();
    let (mut checkpoints, mut rejoins, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=rounds {
        note(&format!("checkpoint {round} of {rounds}"));
        checkpoints.push(checkpoint(&mut pair, &file.0, &mut verdict)?);
    }
    for round in 1..=rounds {
        note(&format!("a second with and one without a checkpoint, {round} of {rounds}"));
        ratios.push(throughput(&mut pair, files, &mut verdict)?);
    }
    for round in 1..=rounds {
        note(&format!("new replica {round} of {rounds}"));
        rejoins.push(rejoin(&mut pair, &mut verdict)?);
    }
    note("restoring");
    pair.client().checkpoint(file.0.clone(), None)?;
    pair.down()?;
    let mut restore_ms = Vec::new();
    for _ in 0..rounds {
        let spec = Spec { restore: Some(file.0.clone()), ..spec.clone() };
        let started = Instant::now();
        let pair = Running::start(&spec)?;
        restore_ms.push(started.elapsed().as_secs_f64() * 1e3);
        pair.down()?;
    }
    let rejoins_with_disk = rejoins_with_disk(&spec, rounds, &mut verdict, &mut note)?;
    let turns = turns::take(&spec, VALUES, rounds, &mut verdict, &mut note)?;
    let sizes = sizes(&spec, files, rounds, &mut note)?;
    let changes = changes(&spec, files, rounds, &mut note)?;
    let levels = user::measure(&spec, rounds, &mut verdict, &mut note)?;
    let throughput_ratio = median(&ratios);
    let durable = durable::run(&spec, quick, &mut verdict, &mut note)?;
    let mut promises = promises(&checkpoints, [&rejoins, &rejoins_with_disk], &restore_ms, throughput_ratio, &verdict);
    promises.extend(turns::promises(&turns));
    promises.extend(durable::promises(&durable));
    Ok(CheckpointReport {
        net: net.clone(),
        checkpoints,
        rejoins,
        rejoins_with_disk,
        turns,
        throughput_ratio,
        restore_ms,
        slopes: slope::Slopes::of(&sizes, &changes),
        sizes,
        changes,
        levels,
        durable,
        verdict,
        promises,
    })
}

fn fill(pair: &Running, values: usize) -> Result<()> {
    let connected = resp::Client::connect(pair.address(STORE_PORT)?, PATIENCE);
    let mut client = connected.context(|| "cannot connect to the store")?;
    let mut random = fastrand::Rng::with_seed(5);
    for index in 0..values {
        // Half as random as bytes can be: what programs keep can be compressed, but not to nothing.
        let value: Vec<u8> = (0..VALUE_BYTES).map(|_| random.alphanumeric() as u8).collect();
        let answered = client.command(&[b"SET", format!("filling:{index}").as_bytes(), &value]);
        answered.context(|| "cannot fill the store")?;
    }
    Ok(())
}

/// Clients that run, and whose waits count from now on.
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

/// Ends the clients and returns the longest wait.
fn finish(load: Load, all: &mut Verdict) -> f64 {
    let verdict = load.finish();
    let gap_ms = verdict.outage_ms();
    all.add(verdict);
    gap_ms
}

fn copy_of(copy: Option<CopyStatus>) -> Result<CopyStatus> {
    copy.ok_or_else(|| Error::CheckFailed("no figures of the copy came".to_owned()))
}

fn checkpoint(pair: &mut Running, file: &Path, all: &mut Verdict) -> Result<Copying> {
    let load = load(pair)?;
    let started = Instant::now();
    let taken = pair.client().checkpoint(file.to_owned(), None)?;
    let total_ms = started.elapsed().as_secs_f64() * 1e3;
    let gap_ms = finish(load, all);
    let copy = copy_of(pair.status()?.checkpoints.copy)?;
    Ok(Copying { copy, total_ms, gap_ms, file_bytes: taken.bytes })
}

/// Replies in a second that begins with a checkpoint of what the load has changed in the second before, by those in the
/// second after it.
fn throughput(pair: &mut Running, files: [&Path; 2], all: &mut Verdict) -> Result<f64> {
    pair.client().checkpoint(files[0].to_owned(), None)?;
    let load = load(pair)?;
    let second = |load: &Load, from: Instant| {
        let before = load.replies();
        load.wait_for(Duration::from_secs(1), |_| from.elapsed() >= Duration::from_secs(1));
        (load.replies() - before) as f64 / from.elapsed().as_secs_f64()
    };
    second(&load, Instant::now());
    let (began, before) = (Instant::now(), load.replies());
    pair.client().checkpoint(files[1].to_owned(), Some(files[0].to_owned()))?;
    load.wait_for(Duration::from_secs(1), |_| began.elapsed() >= Duration::from_secs(1));
    let with = (load.replies() - before) as f64 / began.elapsed().as_secs_f64();
    let without = second(&load, Instant::now());
    finish(load, all);
    Ok(with / without.max(1.0))
}

fn rejoin(pair: &mut Running, all: &mut Verdict) -> Result<Copying> {
    pair.kill(RoleName::Primary, SignalName::Kill)?;
    pair.wait_until(PATIENCE, |status| status.mode == "solo" && status.serving && status.replicas.len() == 1)?;
    // The outage of the failover is over: what comes is the newcomer's.
    let load = load(pair)?;
    let status = pair.client().rejoin(&Request::Rejoin, |_| ())?;
    let settled = load.replies() + WARM_REPLIES;
    load.wait_for(PATIENCE, |load| load.replies() >= settled);
    let gap_ms = finish(load, all);
    let copy = copy_of(status.rejoin.copy)?;
    Ok(Copying { copy, total_ms: status.rejoin.protected_ms, gap_ms, file_bytes: 0 })
}

/// Replicas brought in for a store of the same size on a disk.
fn rejoins_with_disk(
    spec: &Spec,
    rounds: usize,
    all: &mut Verdict,
    note: &mut impl FnMut(&str),
) -> Result<Vec<Copying>> {
    let disk = ScratchDisk::new(&std::env::temp_dir(), "rejoin", DISK_BYTES);
    let arguments = "appendonly=yes appendfsync=everysec".to_owned();
    let mut pair = Running::start(&Spec { disks: vec![disk.spec()], arguments, ..spec.clone() })?;
    fill(&pair, VALUES)?;
    let mut rejoins = Vec::new();
    for round in 1..=rounds {
        note(&format!("new replica with a disk {round} of {rounds}"));
        rejoins.push(rejoin(&mut pair, all)?);
    }
    pair.down()?;
    Ok(rejoins)
}

/// The same program with more and more memory that it does not use.
fn sizes(spec: &Spec, files: [&Path; 2], rounds: usize, note: &mut impl FnMut(&str)) -> Result<Vec<BySize>> {
    let mut all = Vec::new();
    for memory_mib in SIZES_MIB {
        note(&format!("{memory_mib} MiB of memory"));
        let mut pair = Running::start(&Spec { memory_mib, ..spec.clone() })?;
        let (mut took_ms, mut pause_us, mut pages) = (Vec::new(), Vec::new(), 0);
        let (mut changed_took_ms, mut changed_pages) = (Vec::new(), 0);
        for _ in 0..rounds {
            pages = pair.client().checkpoint(files[0].to_owned(), None)?.pages;
            let copy = copy_of(pair.status()?.checkpoints.copy)?;
            took_ms.push(copy.took_ms);
            pause_us.push(copy.pause_us);
            changed_pages = changed(&mut pair, files, &mut changed_took_ms)?;
        }
        all.push(BySize {
            memory_mib,
            pages,
            took_ms: median(&took_ms),
            pause_us: median(&pause_us),
            changed_pages,
            changed_took_ms: median(&changed_took_ms),
        });
        pair.down()?;
    }
    Ok(all)
}

/// A checkpoint in the second file that builds upon the one in the first; how many pages it holds.
fn changed(pair: &mut Running, files: [&Path; 2], took_ms: &mut Vec<f64>) -> Result<u64> {
    let taken = pair.client().checkpoint(files[1].to_owned(), Some(files[0].to_owned()))?;
    let copy = copy_of(pair.status()?.checkpoints.copy)?;
    took_ms.push(copy.took_ms);
    Ok(taken.pages)
}

/// More and more that was written since the checkpoint before.
fn changes(spec: &Spec, files: [&Path; 2], rounds: usize, note: &mut impl FnMut(&str)) -> Result<Vec<ByChanges>> {
    let mut pair = Running::start(spec)?;
    let connected = resp::Client::connect(pair.address(STORE_PORT)?, PATIENCE);
    let mut client = connected.context(|| "cannot connect to the store")?;
    let mut all = Vec::new();
    for values in CHANGES {
        note(&format!("{values} values written between two checkpoints"));
        let (mut took_ms, mut pages) = (Vec::new(), 0);
        for round in 0..rounds {
            pair.client().checkpoint(files[0].to_owned(), None)?;
            for index in 0..values {
                let value = vec![b'a' + (round % 26) as u8; CHANGED_BYTES];
                let answered = client.command(&[b"SET", format!("change:{index}").as_bytes(), &value]);
                answered.context(|| "cannot write to the store")?;
            }
            pages = changed(&mut pair, files, &mut took_ms)?;
        }
        all.push(ByChanges { values, pages, took_ms: median(&took_ms) });
    }
    pair.down()?;
    Ok(all)
}

fn values(all: &[Copying], value: impl Fn(&Copying) -> f64) -> Vec<f64> {
    all.iter().map(value).collect()
}

fn promises(
    checkpoints: &[Copying],
    rejoins: [&[Copying]; 2],
    restore_ms: &[f64],
    throughput_ratio: f64,
    verdict: &Verdict,
) -> Vec<Promise> {
    let pauses = values(checkpoints, |one| one.copy.pause_us / 1e3);
    let [plain, with_disk] = rejoins;
    vec![
        Promise::at_most("checkpoint under load: pause of the guest, p50, ms", median(&pauses), 2.0),
        Promise::at_most(
            "checkpoint under load: longest gap that a client sees, p50, ms",
            median(&values(checkpoints, |one| one.gap_ms)),
            20.0,
        ),
        Promise::at_least(
            "throughput with a checkpoint of what has changed every second, by without",
            throughput_ratio,
            0.9,
        ),
        Promise::at_most(
            "new replica under load: longest gap that a client sees, p50, ms",
            median(&values(plain, |one| one.gap_ms)),
            30.0,
        ),
        Promise::at_most(
            "new replica under load: protected again, p50, ms",
            median(&values(plain, |one| one.total_ms)),
            3_000.0,
        ),
        Promise::at_most(
            "new replica with a disk under load: longest gap that a client sees, p50, ms",
            median(&values(with_disk, |one| one.gap_ms)),
            30.0,
        ),
        Promise::at_most(
            "new replica with a disk under load: protected again, p50, ms",
            median(&values(with_disk, |one| one.total_ms)),
            3_000.0,
        ),
        Promise::at_most("restore to serving, p50, ms", median(restore_ms), 300.0),
        Promise::at_most("broken connections", verdict.broken_connections as f64, 0.0),
        Promise::at_most("lost acknowledged writes", verdict.lost_writes as f64, 0.0),
    ]
}

/// The report for people.
pub fn describe(report: &CheckpointReport) -> String {
    let mut out = String::new();
    let with_disk = ("new replicas with a disk", &report.rejoins_with_disk);
    for (name, all) in [("checkpoints", &report.checkpoints), ("new replicas", &report.rejoins), with_disk] {
        let of = |value: fn(&Copying) -> f64| values(all, value);
        let row = |values: &[f64]| format!("{:.2} / {:.2}", median(values), percentile(values, 1.0));
        out.push_str(&format!(
            "{} {name}, p50 / longest: pause of the guest {} ms for {:.0} pages; gap of a client {} ms; copied in {} \
             ms; done after {} ms\n",
            all.len(),
            row(&of(|one| one.copy.pause_us / 1e3)),
            median(&of(|one| one.copy.last_pages as f64)),
            row(&of(|one| one.gap_ms)),
            row(&of(|one| one.copy.took_ms)),
            row(&of(|one| one.total_ms)),
        ));
    }
    if let Some(one) = report.checkpoints.last() {
        out.push_str(&format!(
            "a checkpoint of {} pages and {} zero ones: {} bytes\n",
            one.copy.pages, one.copy.zero_pages, one.file_bytes
        ));
    }
    for size in &report.sizes {
        out.push_str(&format!(
            "{:4} MiB, {} pages with content: copied in {:.1} ms, pause {:.2} ms; what has changed, {} pages: {:.1} ms\n",
            size.memory_mib,
            size.pages,
            size.took_ms,
            size.pause_us / 1e3,
            size.changed_pages,
            size.changed_took_ms
        ));
    }
    for change in &report.changes {
        out.push_str(&format!(
            "{:4} values written between two: {} pages, copied in {:.1} ms\n",
            change.values, change.pages, change.took_ms
        ));
    }
    out.push_str(&report.slopes.describe());
    out.push_str(&turns::describe(&report.turns));
    out.push_str(&user::describe(&report.levels));
    out.push_str(&durable::describe(&report.durable));
    out.extend(report.promises.iter().map(Promise::describe));
    for complaint in report.verdict.complaints.iter().take(10) {
        out.push_str(&format!("  ! {complaint}\n"));
    }
    out
}
