//! Both machines killed at once, again and again: what the store has acknowledged under `appendfsync=always` must be there
//! at the next start.
//!
//! Each connection counts on a key of its own, so what it was told and what it has asked for bound what may be there: a
//! number below the first is a lost write, one above the second an invented one.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use blockcheck::Rng;
use serde::Serialize;

use super::spec;
use crate::bench::process;
use crate::bench::scratch::ScratchDisk;
use crate::build::Image;
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;
use crate::resp::{Client, Reply};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec};

/// Clients that count.
const CONNECTIONS: usize = 8;
/// Replies that all of them have had when the machines are killed, at least and at most.
const REPLIES: (u64, u64) = (200, 1_700);
/// Size of the disk.
const DISK_BYTES: u64 = 16 << 20;
/// Something is wrong when it takes longer.
const PATIENCE: Duration = Duration::from_secs(40);

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Lives {
    /// Times that both machines were killed.
    pub kills: usize,
    /// What random choices started from.
    pub seed: u64,
    /// Writes that were acknowledged, over all lives.
    pub acknowledged: u64,
    /// Acknowledged writes that were not there.
    pub lost: u64,
    /// Writes that were there and that nobody has asked for.
    pub invented: u64,
    /// What was wrong, in words.
    pub complaints: Vec<String>,
}

/// What one connection has asked for and was told.
#[derive(Debug, Default)]
struct Count {
    asked: AtomicU64,
    told: AtomicU64,
}

impl Count {
    /// Counts until the connection breaks.
    fn grow(&self, address: SocketAddr, key: &str, all: &AtomicU64) {
        let Ok(mut client) = Client::connect(address, PATIENCE) else { return };
        loop {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match client.command(&[b"INCR", key.as_bytes()]) {
                Ok(Reply::Integer(told)) => self.told.store(told as u64, Ordering::SeqCst),
                _ => return,
            }
            all.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Kills both machines so many times, and starts them again on what their disks hold.
///
/// # Errors
/// They do not start, or do not serve.
pub fn run(image: &Image, folder: &Path, kills: usize, seed: u64, mut note: impl FnMut(&str)) -> Result<Lives> {
    let disk = ScratchDisk::new(folder, "lives", DISK_BYTES);
    let counts: Vec<Count> = (0..CONNECTIONS).map(|_| Count::default()).collect();
    let mut rng = Rng::new(seed);
    let mut lives = Lives { kills, seed, ..Lives::default() };
    for life in 1..=kills {
        note(&format!("kill {life} of {kills} of both machines, seed {seed}"));
        let pair = start(image, &disk)?;
        lives.judge(pair.address(STORE_PORT)?, &counts)?;
        lives.acknowledged += live(pair, &counts, rng.between(REPLIES.0, REPLIES.1))?;
    }
    let pair = start(image, &disk)?;
    lives.judge(pair.address(STORE_PORT)?, &counts)?;
    pair.down()?;
    Ok(lives)
}

fn start(image: &Image, disk: &ScratchDisk) -> Result<Running> {
    let arguments = "appendonly=yes appendfsync=always".to_owned();
    Running::start(&Spec { arguments, ..spec(image, RunName::Pair, STORE_PORT, disk)? })
}

impl Lives {
    /// Compares what is there with what was told. What is there is the truth from now on.
    fn judge(&mut self, address: SocketAddr, counts: &[Count]) -> Result<()> {
        let mut reader = Client::connect(address, PATIENCE).context(|| "cannot connect to the store")?;
        for (index, count) in counts.iter().enumerate() {
            let key = format!("count:{index}");
            let found = match reader.command(&[b"GET", key.as_bytes()]).context(|| "the store does not answer")? {
                Reply::Bulk(None) => Some(0),
                Reply::Bulk(Some(text)) => std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()),
                _ => None,
            };
            let found: u64 = found.ok_or_else(|| Error::CheckFailed(format!("{key} holds no number")))?;
            let (told, asked) = (count.told.load(Ordering::SeqCst), count.asked.load(Ordering::SeqCst));
            if !(told..=asked).contains(&found) {
                self.lost += told.saturating_sub(found);
                self.invented += found.saturating_sub(asked);
                self.complaints.push(format!("{key} is {found}, not {told} to {asked}"));
            }
            count.asked.store(found, Ordering::SeqCst);
            count.told.store(found, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// One life: clients count and the log is replaced again and again, until both machines are killed. Returns how many
/// writes were acknowledged.
fn live(mut pair: Running, counts: &[Count], replies: u64) -> Result<u64> {
    let address = pair.address(STORE_PORT)?;
    let all = AtomicU64::new(0);
    let supervisor = pair.status()?.supervisor_pid;
    std::thread::scope(|scope| {
        for (index, count) in counts.iter().enumerate() {
            let all = &all;
            scope.spawn(move || count.grow(address, &format!("count:{index}"), all));
        }
        let rewritten = rewrite_until(address, || all.load(Ordering::SeqCst) >= replies);
        // Killed in any case: the clients end with it.
        let killed = kill_all(&mut pair);
        rewritten.and(killed)
    })?;
    // It may have seen already that nobody is left.
    drop(pair);
    process::wait_for_end(supervisor, PATIENCE)?;
    Ok(all.load(Ordering::SeqCst))
}

fn rewrite_until(address: SocketAddr, done: impl Fn() -> bool) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut client = Client::connect(address, PATIENCE).context(|| "cannot connect to the store")?;
    while !done() {
        client.command(&[b"BGREWRITEAOF"]).context(|| "the store does not answer")?;
        if Instant::now() > until {
            return Err(Error::CheckFailed("the store stands still".to_owned()));
        }
    }
    Ok(())
}

fn kill_all(pair: &mut Running) -> Result<()> {
    let pids: Vec<i32> = pair.status()?.replicas.iter().map(|replica| replica.pid).collect();
    if pids.len() != 2 {
        return Err(Error::CheckFailed(format!("{} machines ran when both were to be killed", pids.len())));
    }
    pids.iter().try_for_each(|&pid| process::kill(pid))?;
    pids.iter().try_for_each(|&pid| process::wait_for_end(pid, PATIENCE))
}
