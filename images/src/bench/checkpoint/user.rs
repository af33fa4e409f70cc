//! The same store saved on both levels: by the shim, which saves the machine, and by the program itself, which saves what
//! it knows is worth it (`DEBUG CHECKPOINT`, the primitives of `runtime::checkpoint`).

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{CONNECTIONS, Scratch, VALUE_BYTES, copy_of, finish, load};
use crate::bench::median;
use crate::bench::scratch::ScratchDisk;
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;
use crate::load::Verdict;
use crate::resp;
use crate::running::Running;
use crate::supervise::spec::Spec;

/// Values of a hundred kilobytes: few enough for the program to keep an encoding of them all beside them.
const VALUES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(60);
/// Room on the disk for two checkpoints.
const DISK_BYTES: u64 = 48 << 20;

/// The lines that the program needs for it, counted here so that nobody has to.
const SOURCES: [&str; 2] = [
    include_str!("../../../../apps/kv/src/service/checkpoint.rs"),
    include_str!("../../../../apps/kv/src/persist/whole.rs"),
];

/// One way to save the store; times in milliseconds, medians, under the load of some clients.
#[derive(Debug, Clone, Serialize)]
pub struct Way {
    /// Its name.
    pub name: &'static str,
    /// Bytes of the checkpoint.
    pub bytes: u64,
    /// The longest wait of any client for a reply meanwhile: for how long the program was kept from its work.
    pub gap_ms: f64,
    /// From the request until it is stable.
    pub total_ms: f64,
    /// From the request to go back until the store answers with what it had.
    pub restore_ms: f64,
    /// Lines of code in the program.
    pub lines: usize,
    /// What it survives.
    pub survives: &'static str,
}

/// The comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Levels {
    /// Bytes of keys and values in the store.
    pub content_bytes: usize,
    /// Clients meanwhile.
    pub connections: usize,
    /// All ways.
    pub ways: Vec<Way>,
}

/// What the rounds of one way gave.
#[derive(Default)]
struct Rounds {
    bytes: u64,
    gap_ms: Vec<f64>,
    total_ms: Vec<f64>,
    restore_ms: Vec<f64>,
}

impl Rounds {
    fn way(&self, name: &'static str, lines: usize, survives: &'static str) -> Way {
        let [gap_ms, total_ms, restore_ms] =
            [&self.gap_ms, &self.total_ms, &self.restore_ms].map(|values| median(values));
        Way { name, bytes: self.bytes, gap_ms, total_ms, restore_ms, lines, survives }
    }
}

fn client(pair: &Running) -> Result<resp::Client> {
    let connected = resp::Client::connect(pair.address(STORE_PORT)?, PATIENCE);
    connected.context(|| "cannot connect to the store")
}

/// Sends a command whose answer is a number.
fn number(client: &mut resp::Client, words: &[&[u8]]) -> Result<u64> {
    let answer = client.command(words).context(|| "cannot ask the store")?;
    match answer {
        resp::Reply::Integer(number) => Ok(number as u64),
        other => Err(Error::CheckFailed(format!("the store answers {other:?} instead of a number"))),
    }
}

/// Measures `rounds` checkpoints each way, of stores that hold the same.
pub(super) fn measure(spec: &Spec, rounds: usize, all: &mut Verdict, note: &mut impl FnMut(&str)) -> Result<Levels> {
    let file = Scratch(std::env::temp_dir().join(format!("pollux-bench-levels-{}.ckpt", std::process::id())));
    let disk = ScratchDisk::new(&std::env::temp_dir(), "levels", DISK_BYTES);
    let spec = Spec { arguments: "debug=yes".to_owned(), restore: None, ..spec.clone() };
    note("saving the store by the shim");
    let system = system_level(&spec, &file.0, rounds, all)?;
    note("saving the store by itself, in memory");
    let memory = user_level(&spec, rounds, all)?;
    note("saving the store by itself, on a disk");
    let on_disk = user_level(&Spec { disks: vec![disk.spec()], ..spec }, rounds, all)?;
    let lines = SOURCES.iter().flat_map(|source| source.lines()).filter(|line| is_code(line)).count();
    let ways = vec![
        system.way("system-level, to a file", 0, "the death of both"),
        memory.way("user-level, in memory", lines, "the death of the primary"),
        on_disk.way("user-level, on a mirrored disk", lines, "the death of both"),
    ];
    Ok(Levels { content_bytes: VALUES * VALUE_BYTES, connections: CONNECTIONS, ways })
}

fn is_code(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with("//")
}

fn start(spec: &Spec) -> Result<Running> {
    let pair = Running::start(spec)?;
    super::fill(&pair, VALUES)?;
    Ok(pair)
}

fn system_level(spec: &Spec, file: &Path, rounds: usize, all: &mut Verdict) -> Result<Rounds> {
    let mut measured = Rounds::default();
    let mut pair = start(spec)?;
    for _ in 0..rounds {
        let load = load(&pair)?;
        let started = Instant::now();
        let taken = pair.client().checkpoint(file.to_owned(), None)?;
        measured.total_ms.push(started.elapsed().as_secs_f64() * 1e3);
        measured.gap_ms.push(finish(load, all));
        measured.bytes = taken.bytes;
        copy_of(pair.status()?.checkpoints.copy)?;
    }
    pair.down()?;
    for _ in 0..rounds {
        let spec = Spec { restore: Some(file.to_owned()), ..spec.clone() };
        let started = Instant::now();
        let pair = Running::start(&spec)?;
        number(&mut client(&pair)?, &[b"DBSIZE"])?;
        measured.restore_ms.push(started.elapsed().as_secs_f64() * 1e3);
        pair.down()?;
    }
    Ok(measured)
}

fn user_level(spec: &Spec, rounds: usize, all: &mut Verdict) -> Result<Rounds> {
    let mut measured = Rounds::default();
    let pair = start(spec)?;
    let mut client = client(&pair)?;
    for _ in 0..rounds {
        let load = load(&pair)?;
        let started = Instant::now();
        measured.bytes = number(&mut client, &[b"DEBUG", b"CHECKPOINT"])?;
        measured.total_ms.push(started.elapsed().as_secs_f64() * 1e3);
        measured.gap_ms.push(finish(load, all));
    }
    for _ in 0..rounds {
        let started = Instant::now();
        let keys = number(&mut client, &[b"DEBUG", b"RESTORE"])?;
        measured.restore_ms.push(started.elapsed().as_secs_f64() * 1e3);
        if keys < VALUES as u64 {
            return Err(Error::CheckFailed(format!("the store came back with {keys} keys of {VALUES}")));
        }
    }
    pair.down()?;
    Ok(measured)
}

/// The comparison as a table in Markdown, as `docs/checkpointing.md` has it.
pub(super) fn describe(levels: &Levels) -> String {
    let mut out = format!(
        "{:.1} MB in {VALUES} values, {} clients meanwhile, medians:\n\n| | bytes | longest gap of a client, ms | until \
         stable, ms | restored, ms | lines in the program | survives |\n|---|---|---|---|---|---|---|\n",
        levels.content_bytes as f64 / 1e6,
        levels.connections
    );
    for way in &levels.ways {
        out.push_str(&format!(
            "| {} | {} | {:.1} | {:.0} | {:.0} | {} | {} |\n",
            way.name, way.bytes, way.gap_ms, way.total_ms, way.restore_ms, way.lines, way.survives
        ));
    }
    out
}
