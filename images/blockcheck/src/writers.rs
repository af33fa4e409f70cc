//! Clients that write, read back and flush, and note what they were told.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Ledger, Rng};

/// What takes longer never happens: generous, because the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(40);
/// A connection that says nothing for so long is broken: far beyond every outage that a failover may cause.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// The most blocks of one write.
const MOST_BLOCKS: u64 = 24;

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

/// Clients that write to disjoint parts of a disk, read back and flush now and then, until they are told to stop or their
/// connections end.
#[derive(Debug)]
pub struct Writers {
    ledger: Arc<Mutex<Ledger>>,
    stop: Arc<AtomicBool>,
    answers: Arc<Answers>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

/// Versions are unique in a process, so that one of an earlier run is told from one of this.
static NEXT_VERSION: AtomicU64 = AtomicU64::new(1);

impl Writers {
    /// Starts so many clients of a probe's disk `data`, which share the blocks of the ledger evenly.
    ///
    /// # Panics
    /// When they cannot connect.
    pub fn start(address: SocketAddr, clients: u64, seed: u64, ledger: Ledger) -> Self {
        Self::try_start(address, clients, seed, ledger).expect("a published port takes connections")
    }

    /// As [`start`](Self::start).
    ///
    /// # Errors
    /// They cannot connect.
    pub fn try_start(address: SocketAddr, clients: u64, seed: u64, ledger: Ledger) -> io::Result<Self> {
        let share = ledger.blocks.len() as u64 / clients;
        let connections = (0..clients).map(|_| connect(address)).collect::<io::Result<Vec<_>>>()?;
        let ledger = Arc::new(Mutex::new(ledger));
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(Answers::default()));
        let threads = (0..).zip(connections).map(|(index, stream)| {
            let writer = Writer {
                stream,
                rng: Rng::new(seed.wrapping_mul(1000).wrapping_add(index)),
                first: index * share,
                blocks: share,
                ledger: Arc::clone(&ledger),
            };
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            std::thread::spawn(move || writer.run(&stop, &answers))
        });
        let threads = threads.collect();
        Ok(Self { ledger, stop, answers, threads })
    }

    /// Answers that all clients together have had.
    pub fn answers(&self) -> u64 {
        lock(&self.answers.counted).0
    }

    /// Waits for so many more answers, by all clients together.
    ///
    /// # Panics
    /// When they do not come within the deadline, or a client has ended.
    pub fn wait_for_answers(&self, more: u64) {
        self.try_wait_for_answers(more).unwrap_or_else(|text| panic!("{text}"));
    }

    /// As [`wait_for_answers`](Self::wait_for_answers).
    ///
    /// # Errors
    /// They do not come within the deadline, or a client has ended.
    pub fn try_wait_for_answers(&self, more: u64) -> Result<(), String> {
        let deadline = Instant::now() + DEADLINE;
        let mut counted = lock(&self.answers.counted);
        let goal = counted.0 + more;
        while counted.0 < goal {
            if counted.1 > 0 {
                return Err(format!("a writer has ended after {} answers", counted.0));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(format!("writers stand still: {} answers, wanted {goal}", counted.0));
            }
            counted = self.answers.changed.wait_timeout(counted, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }

    /// Ends the clients. They must not have lost their connections, unless `may_break`.
    ///
    /// # Panics
    /// When one was told something wrong, or has lost its connection.
    pub fn finish(self, may_break: bool) -> Ledger {
        let (ledger, complaints) = self.end();
        assert!(may_break || complaints.is_empty(), "{}", complaints.join("; "));
        ledger
    }

    /// Ends the clients. Returns what they know, and what they were told wrongly or how their connections broke.
    pub fn end(self) -> (Ledger, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| thread.join().expect("a writer does not panic"));
        let complaints = ended.filter_map(Result::err).collect();
        let ledger = Arc::into_inner(self.ledger).expect("the writers have ended");
        (ledger.into_inner().unwrap_or_else(PoisonError::into_inner), complaints)
    }
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, SILENCE_LIMIT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    stream.set_write_timeout(Some(SILENCE_LIMIT))?;
    Ok(BufReader::new(stream))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Writer {
    stream: BufReader<TcpStream>,
    rng: Rng,
    first: u64,
    blocks: u64,
    ledger: Arc<Mutex<Ledger>>,
}

impl Writer {
    fn run(mut self, stop: &AtomicBool, answers: &Answers) -> Result<(), String> {
        let mut result = Ok(());
        while result.is_ok() && !stop.load(Ordering::Relaxed) {
            result = self.step();
            answers.note(u64::from(result.is_ok()), u64::from(result.is_err()));
        }
        result
    }

    fn step(&mut self) -> Result<(), String> {
        match self.rng.between(0, 7) {
            0 | 1 => self.flush(),
            2 => self.read(),
            _ => self.write(),
        }
    }

    fn write(&mut self) -> Result<(), String> {
        let blocks = self.rng.between(1, MOST_BLOCKS).min(self.blocks);
        let first = self.first + self.rng.between(0, self.blocks - blocks);
        let version = NEXT_VERSION.fetch_add(1, Ordering::Relaxed);
        let seed = {
            let mut ledger = lock(&self.ledger);
            ledger.ask(first, blocks, version);
            ledger.seed
        };
        self.ask(&format!("disk data write {first} {blocks} {seed} {version}"), "done")?;
        lock(&self.ledger).note_written(first, blocks, version);
        Ok(())
    }

    /// Nobody else writes to these blocks, and this client waits for nothing: there is only one right answer.
    fn read(&mut self) -> Result<(), String> {
        let block = self.first + self.rng.between(0, self.blocks - 1);
        let version = lock(&self.ledger).expected(block);
        self.ask(&format!("disk data version {block}"), &format!("version {version}"))
    }

    fn flush(&mut self) -> Result<(), String> {
        let (from, to) = (self.first as usize, (self.first + self.blocks) as usize);
        // Only what was said to be written before the flush was asked for.
        let before: Vec<_> = lock(&self.ledger).blocks[from..to].to_vec();
        self.ask("disk data flush", "done")?;
        for (known, before) in lock(&self.ledger).blocks[from..to].iter_mut().zip(before) {
            known.stable = known.stable.max(before.written);
        }
        Ok(())
    }

    /// Sends a command, whose answer must be this one.
    fn ask(&mut self, command: &str, expected: &str) -> Result<(), String> {
        let mut line = String::new();
        let sent = self.stream.get_mut().write_all(format!("{command}\n").as_bytes());
        match sent.and_then(|()| self.stream.read_line(&mut line)) {
            Ok(0) => Err(format!("{command}: the connection was closed")),
            Ok(_) if line.trim_end() == expected => Ok(()),
            Ok(_) => Err(format!("{command}: the answer is {:?}, not {expected:?}", line.trim_end())),
            Err(error) => Err(format!("{command}: {error}")),
        }
    }
}
