//! Very many short epochs under random traffic, every digest compared.
//!
//! The digest of an epoch is over registers, the number of instructions, and outputs. The backup compares that of every
//! epoch that it has run with the primary's; when they differ the pair is a pair no more. So a pair that is still one,
//! in its first generation, has not differed in any epoch that its backup has run.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::plan::{Configuration, System};
use super::run::{Images, undisturbed};
use super::stats::random;
use super::workload::Workload;
use crate::ctl::{PairStatus, Request, RoleName};
use crate::error::{Error, Result};
use crate::resp::{Client, Reply};
use crate::running::Running;
use crate::supervise::spec::{EpochSpec, ProtocolName};

/// Connections with traffic on them.
const CONNECTIONS: u64 = 6;
/// Most commands sent before a reply is read.
const MOST_COMMANDS: u64 = 48;
/// Keys of a connection, and the longest value in bytes.
const KEYS: u64 = 100;
const LONGEST_VALUE: u64 = 600;
/// One batch in so many is followed by a pause of at most so many microseconds.
const PAUSE_ONE_IN: u64 = 8;
const LONGEST_PAUSE_US: u64 = 3_000;
/// Longest text typed at the console at once, in bytes, and longest pause between two, in milliseconds.
const LONGEST_TYPED: u64 = 200;
const LONGEST_TYPING_PAUSE_MS: u64 = 20;
/// Something is wrong when a reply takes longer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);
/// Something is wrong when fewer epochs than these are run in a second.
const LEAST_EPOCHS_PER_S: u64 = 200;

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Exactness {
    /// Epochs of the full length that were to be compared.
    pub wanted: u64,
    /// Epochs that the backup has run and compared.
    pub compared: u64,
    /// How many of them were of the full length, at least.
    pub full: u64,
    /// Their greatest length, in instructions.
    pub length: u64,
    /// How long it took, in seconds.
    pub elapsed_s: f64,
    /// Commands answered.
    pub commands: u64,
    /// Bytes typed at the console.
    pub typed_bytes: u64,
    /// What went wrong.
    pub complaints: Vec<String>,
}

impl Exactness {
    /// It could not begin.
    pub fn failed((wanted, length): (u64, u64), error: &Error) -> Self {
        Self {
            wanted,
            compared: 0,
            full: 0,
            length,
            elapsed_s: 0.0,
            commands: 0,
            typed_bytes: 0,
            complaints: vec![error.to_string()],
        }
    }
}

/// What the connections share.
#[derive(Default)]
struct Traffic {
    stop: AtomicBool,
    commands: AtomicU64,
}

/// Runs a pair until its backup has compared `wanted` epochs of the full `length`.
///
/// # Errors
/// The pair does not start. What goes wrong later is in the result.
pub fn run(images: &Images, (wanted, length): (u64, u64), seed: u64) -> Result<Exactness> {
    let configuration = Configuration {
        workload: Workload::Store,
        epoch: EpochSpec::Exact(length),
        system: System::Pair(ProtocolName::Revised),
    };
    let mut pair = Running::start(&images.spec(configuration)?)?;
    let address = pair.address(configuration.workload.port())?;
    let began = Instant::now();
    let traffic = Traffic::default();
    let mut complaints = Vec::new();
    let typed = std::thread::scope(|scope| {
        let start = |number| {
            let traffic = &traffic;
            scope.spawn(move || converse(address, number, random(seed, number), traffic))
        };
        let clients: Vec<_> = (1..=CONNECTIONS).map(start).collect();
        let typed = type_until(&mut pair, wanted, random(seed, 0));
        traffic.stop.store(true, Ordering::Relaxed);
        for client in clients {
            let ended = client.join().unwrap_or_else(|_| Err("a client of ours panicked".to_owned()));
            complaints.extend(ended.err());
        }
        typed
    });
    let elapsed_s = began.elapsed().as_secs_f64();
    let typed_bytes = typed.unwrap_or_else(|error| {
        complaints.push(error.to_string());
        0
    });
    let last = pair.status()?;
    complaints.extend(undisturbed(&last).err().map(|error| error.to_string()));
    pair.down()?;
    Ok(Exactness {
        wanted,
        compared: Compared::read(&last).epochs,
        full: Compared::read(&last).full,
        length,
        elapsed_s,
        commands: traffic.commands.load(Ordering::Relaxed),
        typed_bytes,
        complaints,
    })
}

/// Epochs that the backup has compared.
struct Compared {
    /// All.
    epochs: u64,
    /// Those of the full length, at least: the guest ends an epoch before by a hypercall.
    full: u64,
}

impl Compared {
    /// As the backup has told. The digest of the newest epoch comes with the next record.
    fn read(status: &PairStatus) -> Self {
        let backup = status.replica(RoleName::Backup);
        let counter = |name| backup.and_then(|replica| replica.counters.get(name)).copied().unwrap_or(0);
        let epochs = counter("epochs").saturating_sub(1);
        Self { epochs, full: epochs.saturating_sub(counter("hypercalls")) }
    }
}

/// Types at the console at random moments until the backup has run its epochs. Returns how many bytes.
fn type_until(pair: &mut Running, epochs: u64, mut random: fastrand::Rng) -> Result<u64> {
    let mut typed = 0;
    let until = Instant::now() + Duration::from_secs(30 + epochs / LEAST_EPOCHS_PER_S);
    loop {
        let status = pair.status()?;
        undisturbed(&status)?;
        let full = Compared::read(&status).full;
        if full >= epochs {
            return Ok(typed);
        }
        if Instant::now() > until {
            return Err(Error::CheckFailed(format!("only {full} of {epochs} epochs in time")));
        }
        let text: String =
            (0..=random.u64(..LONGEST_TYPED)).map(|_| char::from(b' ' + random.u64(..95) as u8)).collect();
        typed += text.len() as u64;
        pair.ask(&Request::ConsoleInput { text })?;
        std::thread::sleep(Duration::from_millis(1 + random.u64(..LONGEST_TYPING_PAUSE_MS)));
    }
}

/// One connection: batches of random commands, now and then a pause. Its counter says whether the store counts right.
fn converse(address: SocketAddr, number: u64, mut random: fastrand::Rng, traffic: &Traffic) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("connection {number} broke: {error}");
    let mut client = Client::connect(address, REPLY_TIMEOUT).map_err(broken)?;
    let mut counted = 0;
    while !traffic.stop.load(Ordering::Relaxed) {
        let commands = 1 + random.u64(..MOST_COMMANDS);
        let counts: Vec<bool> = (0..commands).map(|_| queue(&mut client, number, &mut random)).collect();
        client.send().map_err(broken)?;
        for counts in counts {
            let reply = client.receive().map_err(broken)?;
            counted += i64::from(counts);
            match reply {
                Reply::Error(text) => return Err(format!("connection {number}: the store says {text}")),
                reply if counts && reply != Reply::Integer(counted) => {
                    return Err(format!("connection {number}: {reply:?} instead of {counted}"));
                }
                _ => {}
            }
        }
        traffic.commands.fetch_add(commands, Ordering::Relaxed);
        if random.u64(..PAUSE_ONE_IN) == 0 {
            std::thread::sleep(Duration::from_micros(random.u64(..LONGEST_PAUSE_US)));
        }
    }
    Ok(())
}

/// Queues a random command; returns whether it counts the connection's counter up.
fn queue(client: &mut Client, number: u64, random: &mut fastrand::Rng) -> bool {
    let key = format!("key:{number}:{}", random.u64(..KEYS));
    let key = key.as_bytes();
    match random.u64(..5) {
        0 => client.queue(&[b"SET", key, &vec![b'a' + random.u64(..26) as u8; random.u64(..LONGEST_VALUE) as usize]]),
        1 => client.queue(&[b"APPEND", key, b"+"]),
        2 => client.queue(&[b"GET", key]),
        3 => client.queue(&[b"DEL", key]),
        _ => {
            client.queue(&[b"INCR", format!("counter:{number}").as_bytes()]);
            return true;
        }
    }
    false
}
