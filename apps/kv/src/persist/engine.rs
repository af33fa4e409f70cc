//! Moves what the journal has gathered to the device.

use super::journal::Failure;
use super::replay::Replayer;
use crate::server::Server;
use core::cell::RefCell;
use core::fmt;
use recordstore::{AppendError, Batch, BlockDevice, OpenError, Options, Store};

/// Bytes of a slice of a new log: what one step may write out of the keyspace before others run. Writing it out takes
/// some 0.1 ms natively and ten times that under emulation.
const SLICE_BYTES: usize = 16 * 1024;
/// How long after a failure the log is not tried again.
const RETRY_MS: i64 = 1000;
/// How long a log that has only grown is left alone after a new one could not be finished: to fail once a second would
/// keep the device busy for nothing.
const GROWTH_RETRY_MS: i64 = 60_000;

/// Why persistence could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineError<E> {
    /// The record store did not open.
    Open(OpenError<E>),
    /// A record that is whole and not understood, counted from 0: another program's, or a later version's.
    Record(u64),
    /// The data does not fit into the memory.
    Memory,
}

impl<E: fmt::Debug> fmt::Display for EngineError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(error @ OpenError::Corrupt { .. }) => {
                write!(f, "{error}: start with aof-repair=yes, and what the log says from there on is lost")
            }
            Self::Open(error) => error.fmt(f),
            Self::Record(number) => {
                write!(f, "record {number} of the log is not one of this store's: use the disk of this store")
            }
            Self::Memory => f.write_str("the data on the disk does not fit into memory: give the machine more"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for EngineError<E> {}

/// What was found when persistence was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Records replayed.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether what had not been stable was found behind them and dropped.
    pub torn: bool,
    /// Pieces of the log that had been stable and were cut off because of damage.
    pub lost_chunks: u64,
}

/// Writes the journal of one server to one device. One task calls [`step`](Self::step), again and again.
pub struct Engine<D> {
    store: Store<D>,
    /// What is being written: two batches that change places with those of the journal.
    live: Batch,
    next: Batch,
    base_bytes: u64,
    /// Something was appended and not made stable.
    unsynced: bool,
    /// Until when the log is not tried again.
    retry_at_ms: i64,
    /// Until when growth alone is no reason to begin a new log.
    growth_at_ms: i64,
}

impl<D: BlockDevice> Engine<D> {
    /// Opens the log on `device`, replays it into `server`, which must be empty, and turns its journal on. `new_key` is
    /// a random number for a device that is blank.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start(device: D, server: &mut Server, new_key: u64) -> Result<(Self, Loaded), EngineError<D::Error>> {
        Self::open(device, server, Options { new_key, ..Options::default() }).await
    }

    /// As [`start`](Self::start), of a log that is damaged in the middle: it ends there from now on. What followed is lost.
    ///
    /// # Errors
    /// See [`EngineError`].
    pub async fn start_cut(
        device: D,
        server: &mut Server,
        new_key: u64,
    ) -> Result<(Self, Loaded), EngineError<D::Error>> {
        Self::open(device, server, Options { new_key, cut_damaged: true, ..Options::default() }).await
    }

    async fn open(device: D, server: &mut Server, options: Options) -> Result<(Self, Loaded), EngineError<D::Error>> {
        let (mut number, mut wrong, mut out_of_memory) = (0, None, false);
        let mut replayer = Replayer::new(server);
        let visit = |record: &[u8]| {
            out_of_memory |= replayer.is_out_of_memory();
            if wrong.is_none() && !out_of_memory && !replayer.apply(record) {
                wrong = Some(number);
            }
            number += 1;
        };
        let (store, replayed) = Store::open(device, options, visit).await.map_err(EngineError::Open)?;
        drop(replayer);
        if out_of_memory {
            return Err(EngineError::Memory);
        }
        if let Some(number) = wrong {
            return Err(EngineError::Record(number));
        }
        let base_bytes = store.usage().live_bytes;
        server.end_replay();
        server.journal.status.replayed = replayed.records;
        server.journal.status.torn = replayed.torn;
        server.journal.status.lost_chunks = replayed.lost_chunks;
        let engine = Self {
            store,
            live: Batch::new(),
            next: Batch::new(),
            base_bytes,
            unsynced: false,
            retry_at_ms: i64::MIN,
            growth_at_ms: i64::MIN,
        };
        engine.report(server);
        let recordstore::Replayed { records, bytes, torn, lost_chunks, .. } = replayed;
        Ok((engine, Loaded { records, bytes, torn, lost_chunks }))
    }

    /// Whether the next step has more to do than to write what commands leave.
    pub fn is_busy(&self, server: &Server) -> bool {
        server.journal.is_rewriting()
    }

    /// Writes what the journal holds, a slice of a new log with it if one is being written, and makes it stable if `sync`
    /// says so. Commands may run while it waits for the device. What became of it is in the journal.
    pub async fn step(&mut self, server: &RefCell<Server>, now_ms: i64, sync: bool) {
        if self.store.is_switching() {
            // Nothing else is possible until it is known which log a crash would leave. What was gathered since waits.
            let result = self.store.switch().await;
            self.ended(server, now_ms, 0, result);
            return;
        }
        let (position, complete) = {
            let mut server = server.borrow_mut();
            self.manage_rewrite(&mut server, now_ms);
            let complete = server.snapshot_slice(SLICE_BYTES);
            (server.take_effects(&mut self.live, &mut self.next), complete)
        };
        if server.borrow().journal.failure().is_none() {
            let result = self.write_live(sync).await;
            let mut server = server.borrow_mut();
            match result {
                Ok(true) => server.journal.stable_up_to(position),
                Ok(false) => {}
                Err(failure) => self.failed(&mut server, now_ms, failure),
            }
        }
        self.write_next(server, now_ms, position, complete).await;
        self.report(&mut server.borrow_mut());
    }

    /// Appends to the live log; gives whether all is stable.
    async fn write_live(&mut self, sync: bool) -> Result<bool, Failure> {
        if !self.live.is_empty() {
            self.store.append(&self.live).await.map_err(failure)?;
            self.unsynced = true;
        }
        if sync && self.unsynced {
            self.store.sync().await.map_err(failure)?;
            self.unsynced = false;
        }
        Ok(sync)
    }

    /// Appends to the new log, and switches to it when it is complete.
    async fn write_next(&mut self, server: &RefCell<Server>, now_ms: i64, position: u64, complete: bool) {
        if !server.borrow().journal.is_rewriting() {
            // Given up by a command while the device was busy.
            self.store.abandon();
            return;
        }
        if !self.next.is_empty()
            && let Err(error) = self.store.append_next(&self.next).await
        {
            self.give_up(&mut server.borrow_mut(), now_ms, failure(error));
            return;
        }
        if complete {
            let result = self.store.switch().await;
            self.ended(server, now_ms, position, result);
        }
    }

    /// Takes note of how a switch has ended.
    fn ended(
        &mut self,
        server: &RefCell<Server>,
        now_ms: i64,
        position: u64,
        result: Result<(), AppendError<D::Error>>,
    ) {
        let mut server = server.borrow_mut();
        match result {
            Ok(()) => {
                self.base_bytes = self.store.usage().live_bytes;
                self.unsynced = false;
                self.growth_at_ms = i64::MIN;
                server.journal.switched();
                server.journal.stable_up_to(position);
                server.journal.status.rewrites += 1;
                server.journal.status.rewrite_failed = false;
            }
            Err(error) if self.store.is_switching() => self.failed(&mut server, now_ms, failure(error)),
            Err(error) => self.give_up(&mut server, now_ms, failure(error)),
        }
        self.report(&mut server);
    }

    /// Begins a new log where one is wanted.
    fn manage_rewrite(&mut self, server: &mut Server, now_ms: i64) {
        if server.journal.is_rewriting() {
            return;
        }
        self.store.abandon();
        let failed = server.journal.failure().is_some() && now_ms >= self.retry_at_ms;
        if !(failed || server.journal.rewrite_wanted || self.has_grown(server, now_ms)) {
            return;
        }
        match self.store.begin() {
            Ok(()) => server.begin_snapshot(),
            Err(error) => self.give_up(server, now_ms, failure(error)),
        }
    }

    /// Whether the log has grown so much that a new one is due, as redis reckons; or takes so much of the device that it
    /// should not wait for that.
    fn has_grown(&self, server: &Server, now_ms: i64) -> bool {
        let config = &server.config;
        let usage = self.store.usage();
        let (bytes, base) = (usage.live_bytes, self.base_bytes.max(1));
        let growth_percent = bytes.saturating_sub(base).saturating_mul(100) / base;
        let by_growth = config.rewrite_percentage > 0
            && bytes >= config.rewrite_min_bytes
            && growth_percent >= config.rewrite_percentage;
        let limit_bytes = usage.segment_bytes * usage.live_limit as u64;
        let by_room = bytes > limit_bytes / 2 && growth_percent >= 25;
        now_ms >= self.growth_at_ms && (by_growth || by_room)
    }

    /// The live log cannot be trusted to hold what the memory does.
    fn failed(&mut self, server: &mut Server, now_ms: i64, failure: Failure) {
        server.journal.failed(failure);
        // A new log is begun at once, and after that in a while: the first may find the device well.
        if self.retry_at_ms < now_ms.saturating_sub(RETRY_MS) {
            self.retry_at_ms = now_ms;
        }
    }

    /// The new log cannot be finished.
    fn give_up(&mut self, server: &mut Server, now_ms: i64, failure: Failure) {
        self.store.abandon();
        server.journal.drop_snapshot();
        server.journal.rewrite_wanted = false;
        server.journal.status.rewrite_failed = true;
        self.retry_at_ms = now_ms.saturating_add(RETRY_MS);
        self.growth_at_ms = now_ms.saturating_add(GROWTH_RETRY_MS);
        // A device that failed may have taken the live log along.
        if self.store.is_broken() && server.journal.failure().is_none() {
            server.journal.failed(failure);
        }
    }

    fn report(&self, server: &mut Server) {
        server.journal.status.log_bytes = self.store.usage().live_bytes;
        server.journal.status.base_bytes = self.base_bytes;
    }

    /// The record store, for tests and measurements.
    pub fn store(&self) -> &Store<D> {
        &self.store
    }
}

fn failure<E>(error: AppendError<E>) -> Failure {
    match error {
        AppendError::Full { .. } => Failure::Full,
        AppendError::Device(_) | AppendError::Broken | AppendError::NotBegun => Failure::Device,
    }
}
