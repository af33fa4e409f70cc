//! What lies on a disk, judged by somebody who has not written it.
//!
//! The probe fills each block with what follows from a seed, the block's number and a version. A [`Ledger`] notes what the
//! probe was asked for and what it has said is done and is stable; afterwards every block is read, from the host's file
//! or through the guest, and must hold one whole version that is neither older than what was promised nor newer than what
//! was asked for.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::client::Client;
use crate::pair::DEADLINE;
use crate::sim::{Rng, mix};
use crate::workbench::lock;

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 512;
/// Where the guest's first block lies in a disk file.
const HEADER_BYTES: u64 = 4096;

/// What the probe writes to a block; version 0 is a block that was never written to.
pub fn content(seed: u64, block: u64, version: u64) -> [u8; BLOCK_BYTES] {
    let mut bytes = [0; BLOCK_BYTES];
    if version == 0 {
        return bytes;
    }
    let start = mix(seed ^ mix(block ^ mix(version)));
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value = if index == 0 { version } else { mix(start.wrapping_add(index as u64)) };
        word.copy_from_slice(&value.to_le_bytes());
    }
    bytes
}

/// A disk's file on the host.
#[derive(Debug)]
pub struct Mirror(File);

impl Mirror {
    /// Opens a replica's mirror for reading.
    ///
    /// # Errors
    /// The system's.
    pub fn open(stem: &Path, replica: u8) -> io::Result<Self> {
        let mut path = stem.as_os_str().to_owned();
        path.push(format!(".{replica}"));
        File::open(path).map(Self)
    }

    /// Opens a disk that both replicas share.
    ///
    /// # Errors
    /// The system's.
    pub fn shared(path: &Path) -> io::Result<Self> {
        File::open(path).map(Self)
    }

    /// The version of a block.
    ///
    /// # Errors
    /// A text that says what is wrong: the block holds no whole version.
    pub fn version(&self, seed: u64, block: u64) -> Result<u64, String> {
        let mut found = [0; BLOCK_BYTES];
        let offset = HEADER_BYTES + block * BLOCK_BYTES as u64;
        self.0.read_exact_at(&mut found, offset).map_err(|error| format!("block {block}: {error}"))?;
        let version = u64::from_le_bytes(*found.first_chunk().expect("eight bytes"));
        if found == content(seed, block, version) {
            return Ok(version);
        }
        Err(format!("block {block} is torn or foreign: it claims version {version}"))
    }
}

/// What is known of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    /// The newest version that was asked for.
    asked: u64,
    /// The newest that was said to be written.
    written: u64,
    /// The newest that was written before a flush that was said to be done.
    stable: u64,
}

/// What must still be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// All that was said to be written: a replica has survived.
    Written,
    /// All that was flushed: both replicas have died.
    Stable,
}

/// What clients have asked for and were told, of blocks from 0 on.
#[derive(Debug, Clone)]
pub struct Ledger {
    seed: u64,
    blocks: Vec<Known>,
}

impl Ledger {
    /// Nothing is known of so many blocks, all of them zeros.
    pub fn new(seed: u64, blocks: u64) -> Self {
        Self { seed, blocks: vec![Known::default(); blocks as usize] }
    }

    /// Checks every block by the version that `read` finds there. What is there counts as stable from now on: a checker
    /// that has seen it may see neither less nor more later, because nothing is under way when this is called.
    ///
    /// # Errors
    /// What is wrong, of the first blocks that are.
    pub fn check(&mut self, promise: Promise, read: impl Fn(u64, u64) -> Result<u64, String>) -> Result<(), String> {
        let mut wrong = Vec::new();
        for (block, known) in (0..).zip(&mut self.blocks) {
            let least = if promise == Promise::Written { known.written } else { known.stable };
            match read(self.seed, block) {
                Ok(version) if (least..=known.asked).contains(&version) => {
                    *known = Known { asked: version, written: version, stable: version };
                }
                Ok(version) => {
                    wrong.push(format!("block {block} holds version {version}, not {least} to {}", known.asked))
                }
                Err(text) => wrong.push(text),
            }
        }
        wrong.truncate(10);
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }

    /// How many blocks have a version that was flushed.
    pub fn stable_blocks(&self) -> usize {
        self.blocks.iter().filter(|known| known.stable > 0).count()
    }

    fn ask(&mut self, first: u64, blocks: u64, version: u64) {
        for known in &mut self.blocks[first as usize..(first + blocks) as usize] {
            known.asked = version;
        }
    }

    fn note_written(&mut self, first: u64, blocks: u64, version: u64) {
        for known in &mut self.blocks[first as usize..(first + blocks) as usize] {
            known.written = known.written.max(version);
        }
    }
}

/// How many answers all clients have had, and how many of them have ended.
#[derive(Debug, Default)]
struct Answers {
    counted: Mutex<(u64, u64)>,
    changed: Condvar,
}

impl Answers {
    fn note(&self, answers: u64, ended: u64) {
        let mut counted = lock(&self.counted);
        *counted = (counted.0 + answers, counted.1 + ended);
        self.changed.notify_all();
    }
}

/// Clients that write to disjoint parts of a disk and flush now and then, until they are told to stop or their connections
/// end.
#[derive(Debug)]
pub struct Writers {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    answers: Arc<Answers>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

/// Versions are unique in a test, so that one of an earlier run is told from one of this.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

impl Writers {
    /// Starts so many clients of a probe's disk `data`, which share the blocks of the ledger evenly.
    pub fn start(address: SocketAddr, clients: u64, seed: u64, ledger: Ledger) -> Self {
        let share = ledger.blocks.len() as u64 / clients;
        let ledger = Arc::new(Mutex::new(ledger));
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Answers::default()));
        let threads = (0..clients)
            .map(|index| {
                let mut writer = Writer {
                    client: Client::connect(address).expect("a published port takes connections"),
                    rng: Rng::new(seed.wrapping_mul(1000).wrapping_add(index)),
                    first: index * share,
                    blocks: share,
                    ledger: Arc::clone(&ledger),
                };
                let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
                std::thread::spawn(move || {
                    let mut result = Ok(());
                    while result.is_ok() && !stop.load(Ordering::Relaxed) {
                        result = writer.step();
                        answers.note(u64::from(result.is_ok()), u64::from(result.is_err()));
                    }
                    result
                })
            })
            .collect();
        Self { ledger, stop, answers, threads }
    }

    /// Waits for so many more answers, by all clients together.
    ///
    /// # Panics
    /// When they do not come within the deadline, or a client has ended.
    pub fn wait_for_answers(&self, more: u64) {
        let deadline = Instant::now() + DEADLINE;
        let mut counted = lock(&self.answers.counted);
        let goal = counted.0 + more;
        while counted.0 < goal {
            assert!(counted.1 == 0, "a writer has ended after {} answers", counted.0);
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "writers stand still: {} answers, wanted {goal}", counted.0);
            counted = self.answers.changed.wait_timeout(counted, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Ends the clients. They must not have lost their connections, unless `may_break`.
    ///
    /// # Panics
    /// When one was told something wrong, or has lost its connection.
    pub fn finish(self, may_break: bool) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if let Err(text) = thread.join().expect("a writer does not panic") {
                assert!(may_break, "{text}");
            }
        }
        let ledger = Arc::into_inner(self.ledger).expect("the writers have ended");
        ledger.into_inner().expect("no writer has panicked")
    }
}

struct Writer {
    client: Client,
    rng: Rng,
    first: u64,
    blocks: u64,
    ledger: Arc<Mutex<Ledger>>,
}

impl Writer {
    fn step(&mut self) -> Result<(), String> {
        if self.rng.between(0, 3) == 0 {
            return self.flush();
        }
        let blocks = self.rng.between(1, 24).min(self.blocks);
        let first = self.first + self.rng.between(0, self.blocks - blocks);
        let version = NEXT_VERSION.fetch_add(1, Ordering::Relaxed);
        self.lock().ask(first, blocks, version);
        let seed = self.lock().seed;
        self.ask(&format!("disk data write {first} {blocks} {seed} {version}"))?;
        self.lock().note_written(first, blocks, version);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        let (from, to) = (self.first as usize, (self.first + self.blocks) as usize);
        // Only what was said to be written before the flush was asked for.
        let before: Vec<_> = self.lock().blocks[from..to].to_vec();
        self.ask("disk data flush")?;
        for (known, before) in self.lock().blocks[from..to].iter_mut().zip(before) {
            known.stable = known.stable.max(before.written);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn ask(&mut self, command: &str) -> Result<(), String> {
        self.client.send(format!("{command}\n").as_bytes()).map_err(|error| format!("{command}: {error}"))?;
        match self.client.line() {
            Ok(answer) if answer == "done" => Ok(()),
            Ok(answer) => Err(format!("{command}: {answer}")),
            Err(error) => Err(format!("{command}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checker_that_always_agrees_would_be_found_out() {
        let mut ledger = Ledger::new(7, 4);
        ledger.ask(0, 2, 5);
        ledger.note_written(0, 1, 5);
        let holds = |versions: [u64; 4]| move |_: u64, block: u64| Ok(versions[block as usize]);
        assert!(
            ledger.check(Promise::Stable, holds([0, 5, 0, 0])).is_ok(),
            "a write that nobody heard of may be there"
        );
        let mut ledger = Ledger { seed: 7, blocks: vec![Known { asked: 5, written: 4, stable: 3 }; 1] };
        for (promise, version, good) in [
            (Promise::Stable, 2, false),
            (Promise::Written, 3, false),
            (Promise::Stable, 6, false),
            (Promise::Stable, 3, true),
            (Promise::Written, 5, true),
        ] {
            let mut copy = Ledger { seed: 7, blocks: ledger.blocks.clone() };
            assert_eq!(copy.check(promise, |_, _| Ok(version)).is_ok(), good, "{promise:?} {version}");
        }
        assert!(ledger.check(Promise::Stable, |_, _| Err("torn".to_owned())).is_err());
    }

    #[test]
    fn contents_tell_blocks_versions_and_seeds_apart() {
        let base = content(1, 2, 3);
        assert_eq!(u64::from_le_bytes(*base.first_chunk().expect("eight bytes")), 3);
        for other in [content(2, 2, 3), content(1, 3, 3), content(1, 2, 4)] {
            assert_ne!(base[8..], other[8..]);
        }
        assert_eq!(content(1, 2, 0), [0; BLOCK_BYTES]);
    }
}
