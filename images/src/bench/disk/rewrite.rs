//! How long replacing a large log keeps the store from answering.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::spec;
use crate::bench::median;
use crate::bench::scratch::ScratchDisk;
use crate::build::Image;
use crate::error::{Context, Error, Result};
use crate::failover::STORE_PORT;
use crate::load::percentile;
use crate::resp::{Client, Reply};
use crate::running::Running;
use crate::supervise::spec::{RunName, Spec};

/// Times that the log is replaced: every time the same slices, so what differs is the machine's doing.
const ROUNDS: usize = 5;
/// Elements of one command that fills the store.
const BATCH: usize = 250;
/// Memory of the guest, in MiB, and size of its disk.
const MEMORY_MIB: u32 = 256;
const DISK_BYTES: u64 = 256 << 20;
/// Requests between two looks at INFO.
const REQUESTS: usize = 50;
/// Requests without a rewrite, for comparison.
const CALM_REQUESTS: usize = 2_000;
/// Something is wrong when it takes longer.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Rewrite {
    /// Small elements in the store: a list, a set, a hash and a sorted set, a quarter each.
    pub elements: usize,
    /// Each time that the log was replaced.
    pub rounds: Vec<Round>,
    /// The waits of a client that asks one thing after the other, in milliseconds, without a rewrite: the median.
    pub calm_wait_p50_ms: f64,
    /// The longest of them.
    pub calm_wait_longest_ms: f64,
}

/// One replacement of the log.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    /// How long it took, in milliseconds of the host's clock.
    pub took_ms: f64,
    /// The longest slice, in milliseconds of the guest's clock, as INFO tells it.
    pub longest_slice_ms: f64,
    /// The waits of that client meanwhile: the median.
    pub wait_p50_ms: f64,
    /// The longest of them.
    pub wait_longest_ms: f64,
}

impl Rewrite {
    /// The longest slice in the round that the host has disturbed least, in milliseconds. Every round has the same slices,
    /// so none of them takes longer by itself.
    pub fn longest_slice_ms(&self) -> f64 {
        self.rounds.iter().map(|round| round.longest_slice_ms).fold(f64::INFINITY, f64::min)
    }

    /// The middle over all rounds.
    pub fn middle(&self, measure: fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(measure).collect::<Vec<_>>())
    }
}

/// Fills a store of a pair, has its log replaced several times, and asks it meanwhile.
///
/// # Errors
/// The pair does not start, or the store answers wrongly.
pub fn run(image: &Image, folder: &Path, elements: usize, mut note: impl FnMut(&str)) -> Result<Rewrite> {
    note(&format!("filling a store with {elements} elements"));
    let disk = ScratchDisk::new(folder, "rewrite", DISK_BYTES);
    // Without flushes, a slice is nothing but itself and its write.
    let arguments = "appendonly=yes appendfsync=no".to_owned();
    let spec = spec(image, RunName::Pair, STORE_PORT, &disk)?;
    let pair = Running::start(&Spec { memory_mib: MEMORY_MIB, arguments, ..spec })?;
    let mut store = Store::connect(pair.address(STORE_PORT)?)?;
    store.must(&[b"CONFIG", b"SET", b"auto-aof-rewrite-percentage", b"0"])?;
    store.fill(elements)?;
    note("replacing its log");
    let mut calm = Vec::new();
    while calm.len() < CALM_REQUESTS {
        calm.push(store.wait_ms()?);
    }
    let rounds = (0..ROUNDS).map(|_| store.rewrite()).collect::<Result<_>>()?;
    pair.down()?;
    Ok(Rewrite {
        elements,
        rounds,
        calm_wait_p50_ms: percentile(&calm, 0.5),
        calm_wait_longest_ms: percentile(&calm, 1.0),
    })
}

struct Store(Client);

impl Store {
    fn connect(address: SocketAddr) -> Result<Self> {
        Client::connect(address, PATIENCE).map(Self).context(|| "cannot connect to the store")
    }

    fn must(&mut self, words: &[&[u8]]) -> Result<Reply> {
        match self.0.command(words).context(|| "the store does not answer")? {
            Reply::Error(text) => {
                Err(Error::CheckFailed(format!("{}: {text}", String::from_utf8_lossy(&words.join(&b' ')))))
            }
            reply => Ok(reply),
        }
    }

    /// A quarter of the elements into each kind of collection.
    fn fill(&mut self, elements: usize) -> Result<()> {
        let texts: Vec<String> = (0..elements / 4).map(|number| number.to_string()).collect();
        for batch in texts.chunks(BATCH) {
            let once = batch.iter().map(String::as_bytes);
            let twice = batch.iter().flat_map(|text| [text.as_bytes(), text.as_bytes()]);
            for (name, key, arguments) in [
                ("RPUSH", "list", once.clone().collect::<Vec<_>>()),
                ("SADD", "set", once.collect()),
                ("HSET", "hash", twice.clone().collect()),
                ("ZADD", "zset", twice.collect()),
            ] {
                let words: Vec<&[u8]> = [name.as_bytes(), key.as_bytes()].into_iter().chain(arguments).collect();
                self.must(&words)?;
            }
        }
        Ok(())
    }

    /// Has the log replaced, and asks meanwhile.
    fn rewrite(&mut self) -> Result<Round> {
        let before = self.info("aof_rewrites")?;
        let began = Instant::now();
        self.must(&[b"BGREWRITEAOF"])?;
        let mut waits = Vec::new();
        while self.info("aof_rewrites")? == before {
            for _ in 0..REQUESTS {
                waits.push(self.wait_ms()?);
            }
            if began.elapsed() > PATIENCE {
                return Err(Error::CheckFailed("the log was not replaced".to_owned()));
            }
        }
        Ok(Round {
            took_ms: began.elapsed().as_secs_f64() * 1e3,
            longest_slice_ms: self.info("aof_rewrite_longest_slice_us")? as f64 / 1e3,
            wait_p50_ms: percentile(&waits, 0.5),
            wait_longest_ms: percentile(&waits, 1.0),
        })
    }

    /// How long the answer to a small question takes, in milliseconds.
    fn wait_ms(&mut self) -> Result<f64> {
        let began = Instant::now();
        self.must(&[b"HGET", b"hash", b"1"])?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }

    /// A number that INFO tells.
    fn info(&mut self, name: &str) -> Result<u64> {
        let text = match self.must(&[b"INFO", b"persistence"])? {
            Reply::Bulk(Some(text)) => String::from_utf8_lossy(&text).into_owned(),
            _ => String::new(),
        };
        number(&text, name).ok_or_else(|| Error::CheckFailed(format!("INFO tells no {name}: {text:?}")))
    }
}

/// The value of a line `name:value`.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let text = "# Persistence\r\naof_rewrites_x:1\r\naof_rewrites:7\r\nother:x\r\n";
        assert_eq!(number(text, "aof_rewrites"), Some(7));
        assert_eq!((number(text, "aof"), number(text, "other")), (None, None));
    }
}
