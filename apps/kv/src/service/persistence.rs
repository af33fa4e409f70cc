//! Persistence as a task: it gathers what the connections of a round have done, writes it once, flushes once, and lets
//! their replies go.
//!
//! Under `always` no reply leaves while anything that was done before it is not stable: not the reply to a write, and not
//! that to a read, which may have seen one. So whatever a client has seen is there after a crash. A connection waits with
//! its replies unsent, hence they stay in order. The task is woken by the first connection that waits, and runs after
//! those that are ready by then, so one flush serves them all; while it waits for the device the next round gathers.

use super::Shared;
use crate::Server;
use crate::persist::{Engine, EngineError, Failure, Fsync, Ticket};
use alloc::rc::Rc;
use runtime::block::{Disk, Errno};
use runtime::sync::Notify;
use runtime::time::{Duration, Instant, timeout};
use runtime::{println, yield_now};

/// Between two flushes under `everysec`, and two writes under `no`.
const INTERVAL: Duration = Duration::from_secs(1);
/// Effects that are written without waiting for more, in bytes.
const WRITE_BYTES: usize = 64 * 1024;
/// Effects that wait for a slow device before those who cause them wait as well, in bytes.
const MOST_PENDING_BYTES: usize = 256 * 1024;

/// How connections and the task that writes meet.
#[derive(Default)]
pub(super) struct Gate {
    /// There is something to write.
    work: Notify,
    /// Something has been written, or has failed.
    progress: Notify,
}

/// What is to be waited for before replies may leave; nothing without persistence.
pub(super) fn ticket(server: &Server) -> Option<Ticket> {
    server.journal.is_on().then(|| server.journal.ticket())
}

impl Shared {
    /// Waits until replies may leave.
    ///
    /// # Errors
    /// When what they say can never be made stable: they must not leave.
    pub(super) async fn settle(&self, ticket: Ticket) -> Result<(), Failure> {
        loop {
            // Before the look, so that no progress is missed.
            let progress = self.gate.progress.notified();
            let (policy, checked, pending_bytes, rewrite_wanted) = {
                let server = self.server.borrow();
                let journal = &server.journal;
                (server.config.append_fsync, journal.check(ticket), journal.pending_bytes(), journal.rewrite_wanted)
            };
            let must_wait = match policy {
                Fsync::Always => !checked?,
                Fsync::EverySec | Fsync::No => pending_bytes > MOST_PENDING_BYTES,
            };
            if policy == Fsync::Always && must_wait || pending_bytes > WRITE_BYTES || rewrite_wanted {
                self.gate.work.notify_one();
            }
            if !must_wait {
                return Ok(());
            }
            progress.await;
        }
    }
}

/// Opens the disk of this name and replays what it holds into the server.
///
/// A log that is damaged in the middle is refused, or, with `repairs`, ends there from now on.
///
/// Whoever chooses keys and values must not know `new_key`, or could make a value that looks like a part of the log.
pub(super) async fn start(
    server: &mut Server,
    name: &str,
    new_key: u64,
    repairs: bool,
) -> Result<Engine<Disk>, EngineError<Errno>> {
    let open = |error| EngineError::Open(recordstore::OpenError::Device(error));
    let disk = Disk::open(name).map_err(open)?;
    let began = Instant::now();
    let (engine, loaded) = if repairs {
        Engine::start_cut(disk, server, new_key).await?
    } else {
        Engine::start(disk, server, new_key).await?
    };
    if loaded.lost_chunks > 0 {
        println!(
            "kv: the log on disk {name} was damaged; {} pieces of it from there on, which had been stable, are lost as \
             aof-repair=yes asks",
            loaded.lost_chunks
        );
    }
    println!(
        "kv: replayed {} records ({} bytes) from disk {name} in {} ms: {} keys{}",
        loaded.records,
        loaded.bytes,
        began.elapsed().as_millis(),
        server.keys(),
        if loaded.torn { "; dropped what was not stable at the end" } else { "" },
    );
    Ok(engine)
}

/// Writes for ever.
pub(super) async fn keep(shared: Rc<Shared>, mut engine: Engine<Disk>) {
    let mut last = Instant::now();
    let mut failed = false;
    loop {
        if !engine.is_busy(&shared.server.borrow()) {
            let rest = INTERVAL.saturating_sub(last.elapsed());
            // Woken or not, there is a look to be taken.
            let _ = timeout(rest, shared.gate.work.notified()).await;
        }
        let policy = shared.server.borrow().config.append_fsync;
        let due = last.elapsed() >= INTERVAL;
        if due {
            last = Instant::now();
        }
        let sync = match policy {
            Fsync::Always => true,
            Fsync::EverySec => due,
            Fsync::No => false,
        };
        let (began, was_rewriting) = (Instant::now(), engine.is_busy(&shared.server.borrow()));
        engine.step(&shared.server, super::now_ms(), sync).await;
        note_slice(&mut shared.server.borrow_mut(), began, was_rewriting, sync);
        shared.gate.progress.notify_all();
        let failure = shared.server.borrow().journal.failure();
        if failure.is_some() != failed {
            failed = failure.is_some();
            match failure {
                Some(failure) => println!("kv: cannot write to the disk ({failure}): writes are refused"),
                None => println!("kv: the disk holds everything again: writes are served"),
            }
        }
        // A device that is done at once must not keep the others waiting while a log is replaced.
        yield_now().await;
    }
}

/// Keeps the longest time of a slice of the newest log for INFO. The clock stands still while the slice is made; it is read
/// again when the disk has taken it, so what is kept is a little more than the slice. One that ends a log, or that waited
/// for a flush too, says nothing.
fn note_slice(server: &mut Server, began: Instant, was_rewriting: bool, synced: bool) {
    if !server.journal.is_rewriting() {
        return;
    }
    let longest_ns = &mut server.journal.status.longest_slice_ns;
    if !was_rewriting {
        *longest_ns = 0;
    }
    if !synced {
        *longest_ns = (*longest_ns).max(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}
