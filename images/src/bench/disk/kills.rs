//! Primaries killed while clients write to a disk and flush. What lies in the survivor's file is read by a checker that
//! shares nothing with those who have written it; at the end both mirrors are compared.

use std::path::Path;
use std::time::Duration;

use blockcheck::{Ledger, Mirror, Promise, Rng, Writers, compare};
use serde::Serialize;

use super::{PROBE_PORT, spec};
use crate::bench::scratch::ScratchDisk;
use crate::build::Image;
use crate::ctl::{RoleName, SignalName};
use crate::error::{Context, Error, Result};
use crate::running::Running;
use crate::supervise::spec::RunName;

/// Clients, and the blocks that they share.
const CLIENTS: u64 = 4;
const BLOCKS: u64 = 1024;
/// Size of the disk.
const DISK_BYTES: u64 = 1 << 20;
/// A kill comes after at most so many answers.
const MOST_ANSWERS_BEFORE: u64 = 300;
/// Answers by the survivor.
const ANSWERS_AFTER: u64 = 100;
/// Something is wrong when a survivor takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Kills {
    /// Primaries that were killed.
    pub kills: usize,
    /// What random choices started from.
    pub seed: u64,
    /// Writes, reads and flushes that were answered.
    pub operations: u64,
    /// Blocks that were judged, over all kills and at the end.
    pub blocks_judged: u64,
    /// Blocks older than what was acknowledged: lost, or an older write came last.
    pub lost: u64,
    /// Blocks that hold no whole write.
    pub torn: u64,
    /// Blocks with something that nobody has asked for.
    pub unasked: u64,
    /// Connections that broke, and answers that were wrong.
    pub broken_connections: usize,
    /// Bytes in which the mirrors were compared at the end.
    pub compared_bytes: u64,
    /// Whether they were equal.
    pub mirrors_equal: bool,
    /// What was wrong, in words.
    pub complaints: Vec<String>,
}

impl Kills {
    /// Takes note of what a mirror holds, when nothing is under way.
    fn judge(&mut self, ledger: &mut Ledger, stem: &Path, replica: u8) -> Result<()> {
        let mirror = Mirror::open(stem, replica).context(|| format!("cannot read mirror {replica}"))?;
        let verdict = ledger.judge(Promise::Written, |seed, block| mirror.version(seed, block));
        self.blocks_judged += verdict.blocks;
        self.lost += verdict.lost;
        self.torn += verdict.torn;
        self.unasked += verdict.unasked;
        self.complaints.extend(verdict.complaints);
        Ok(())
    }

    fn end(&mut self, writers: Writers) -> Ledger {
        self.operations += writers.answers();
        let (ledger, complaints) = writers.end();
        self.broken_connections += complaints.len();
        self.complaints.extend(complaints);
        ledger
    }
}

/// Kills so many primaries, one pair after the other on the same disk, each of which first makes the stale mirror anew;
/// goes on until at least `operations` were answered, and compares the mirrors.
///
/// # Errors
/// A pair does not start, or does not survive.
pub fn run(
    image: &Image,
    folder: &Path,
    kills: usize,
    operations: u64,
    seed: u64,
    mut note: impl FnMut(&str),
) -> Result<Kills> {
    let disk = ScratchDisk::new(folder, "kills", DISK_BYTES);
    let mut rng = Rng::new(seed);
    let mut report = Kills { kills, seed, ..Kills::default() };
    let mut ledger = Ledger::new(seed, BLOCKS);
    for kill in 1..=kills {
        note(&format!("kill {kill} of {kills} primaries during writes, seed {seed}"));
        let mut pair = start(image, &disk)?;
        let writers = begin(&pair, rng.between(0, u64::from(u32::MAX)), ledger)?;
        wait(&writers, rng.between(1, MOST_ANSWERS_BEFORE))?;
        pair.kill(RoleName::Primary, SignalName::Kill)?;
        // Clients that stand still or have lost their connections count; they do not end the measurement.
        report.complaints.extend(writers.try_wait_for_answers(ANSWERS_AFTER).err());
        ledger = report.end(writers);
        let status = pair.wait_until(PATIENCE, |status| status.generation == 2 && status.replicas.len() == 1)?;
        let survivor = status.replica(RoleName::Primary).map(|replica| replica.replica);
        let survivor = survivor.ok_or_else(|| Error::CheckFailed("no primary has survived".to_owned()))?;
        pair.down()?;
        report.judge(&mut ledger, disk.stem(), survivor)?;
    }
    note("the last life of this disk");
    let pair = start(image, &disk)?;
    let writers = begin(&pair, rng.between(0, u64::from(u32::MAX)), ledger)?;
    wait(&writers, operations.saturating_sub(report.operations).max(ANSWERS_AFTER))?;
    ledger = report.end(writers);
    pair.down()?;
    for replica in 0..2 {
        report.judge(&mut ledger, disk.stem(), replica)?;
    }
    match compare(disk.stem()) {
        Ok(bytes) => (report.compared_bytes, report.mirrors_equal) = (bytes, true),
        Err(text) => report.complaints.push(text),
    }
    Ok(report)
}

fn start(image: &Image, disk: &ScratchDisk) -> Result<Running> {
    Running::start(&spec(image, RunName::Pair, PROBE_PORT, disk)?)
}

/// The ledger keeps the seed that contents are made from; this one decides what the clients do.
fn begin(pair: &Running, seed: u64, ledger: Ledger) -> Result<Writers> {
    Writers::try_start(pair.address(PROBE_PORT)?, CLIENTS, seed, ledger).context(|| "cannot connect to the probe")
}

fn wait(writers: &Writers, answers: u64) -> Result<()> {
    writers.try_wait_for_answers(answers).map_err(Error::CheckFailed)
}
