//! What all connections share: the databases, the register of connections, and the account of memory.

use crate::base::{Rng, Seed, SmallBytes};
use crate::commands::Config;
use crate::persist::Journal;
use crate::store::{Db, Record};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

/// Number of databases.
pub const DATABASES: usize = 16;

/// Counters since the start or CONFIG RESETSTAT.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Commands run.
    pub commands: u64,
    /// Error replies.
    pub errors: u64,
    /// Writes that changed something.
    pub changes: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Connections refused for being too many.
    pub rejected: u64,
    /// Bytes of commands taken in.
    pub input_bytes: u64,
}

/// What the server knows of a connection.
pub struct ClientInfo {
    /// Number of the connection, never used twice.
    pub id: u64,
    /// The peer's address as text.
    pub address: Box<str>,
    pub(crate) name: SmallBytes,
    pub(crate) lib_name: SmallBytes,
    pub(crate) lib_version: SmallBytes,
    pub(crate) since_ms: i64,
    pub(crate) last_ms: i64,
    pub(crate) db: usize,
    pub(crate) in_multi: bool,
    pub(crate) queued: usize,
    pub(crate) last_command: &'static str,
    pub(crate) input_bytes: usize,
    pub(crate) output_bytes: usize,
    pub(crate) bytes: usize,
    pub(crate) killed: bool,
}

/// The shared state; one for all [`Session`](crate::Session)s.
pub struct Server {
    /// Limits; CONFIG SET changes some of them.
    pub config: Config,
    /// Counters.
    pub stats: Stats,
    /// What commands have done and the device does not have yet; off unless there is one.
    pub journal: Journal,
    pub(crate) rng: Rng,
    pub(crate) started_ms: i64,
    dbs: [Db; DATABASES],
    data_bytes: usize,
    /// What each database has in that sum.
    counted_bytes: [usize; DATABASES],
    clients: Vec<Option<ClientInfo>>,
    free_slots: Vec<usize>,
    connected: usize,
    clients_bytes: usize,
    next_id: u64,
    killed: Vec<u64>,
    run_id: String,
}

impl Server {
    /// An empty server whose life starts at the Unix time `now_ms`.
    pub fn new(config: Config, now_ms: i64) -> Self {
        let mut rng = Rng::new(config.random_seed);
        let mut run_id = String::new();
        for _ in 0..40 {
            run_id.push(char::from_digit(rng.below(16) as u32, 16).unwrap_or('0'));
        }
        Self {
            config,
            stats: Stats::default(),
            journal: Journal::default(),
            rng,
            started_ms: now_ms,
            dbs: core::array::from_fn(|_| Db::new(Seed::new(config.hash_seed))),
            data_bytes: 0,
            counted_bytes: [0; DATABASES],
            clients: Vec::new(),
            free_slots: Vec::new(),
            connected: 0,
            clients_bytes: 0,
            next_id: 1,
            killed: Vec::new(),
            run_id,
        }
    }

    /// Does housekeeping: removes at most `budget` expired keys. Gives the Unix time in ms at which there is more to
    /// do (which may have passed, if the budget did not suffice), or nothing if no key expires.
    pub fn tick(&mut self, now_ms: i64, budget: usize) -> Option<i64> {
        let mut left = budget;
        for db in &mut self.dbs {
            left -= db.expire_some(now_ms, left);
        }
        self.recount();
        // A key is there for the whole millisecond of its expiry.
        self.dbs.iter().filter_map(Db::next_expiry_ms).min().map(|expiry_ms| expiry_ms.saturating_add(1))
    }

    /// The id of a connection that CLIENT KILL has ended and that must be closed now, if there is one.
    pub fn take_killed(&mut self) -> Option<u64> {
        self.killed.pop()
    }

    /// Keys, values and connection buffers, in bytes by the counting estimate.
    #[inline]
    pub fn used_bytes(&self) -> usize {
        self.data_bytes + self.clients_bytes
    }

    /// Keys and values, in bytes by the counting estimate.
    #[inline]
    pub fn data_bytes(&self) -> usize {
        self.data_bytes
    }

    /// Buffers of connections, in bytes.
    pub fn clients_bytes(&self) -> usize {
        self.clients_bytes
    }

    /// Number of keys in all databases.
    pub fn keys(&self) -> usize {
        self.dbs.iter().map(Db::len).sum()
    }

    /// The keys of database `index` with their values, expired ones that nobody noticed yet included.
    pub fn records(&self, index: usize) -> impl Iterator<Item = &Record> {
        self.dbs.get(index).into_iter().flat_map(Db::iter)
    }

    /// Number of connections.
    pub fn connected(&self) -> usize {
        self.connected
    }

    #[inline]
    pub(crate) fn is_out_of_memory(&self) -> bool {
        (self.config.max_memory_bytes != 0 && self.used_bytes() > self.config.max_memory_bytes)
            || crate::service::memory::is_short()
    }

    /// Database `index`, which is below [`DATABASES`].
    #[inline]
    pub(crate) fn db(&mut self, index: usize) -> &mut Db {
        &mut self.dbs[index % DATABASES]
    }

    pub(crate) fn db_and_rng(&mut self, index: usize) -> (&mut Db, &mut Rng) {
        (&mut self.dbs[index % DATABASES], &mut self.rng)
    }

    pub(crate) fn db_rng_journal(&mut self, index: usize) -> (&mut Db, &mut Rng, &mut Journal) {
        (&mut self.dbs[index % DATABASES], &mut self.rng, &mut self.journal)
    }

    pub(crate) fn journal_parts(&mut self) -> (&mut [Db], &mut Journal) {
        (&mut self.dbs, &mut self.journal)
    }

    pub(crate) fn swap_dbs(&mut self, first: usize, second: usize) {
        if let Ok([first, second]) = self.dbs.get_disjoint_mut([first, second]) {
            first.swap(second);
        }
    }

    /// Takes what a database's memory has become into the sum.
    #[inline]
    pub(crate) fn account(&mut self, index: usize) {
        let index = index % DATABASES;
        let bytes = self.dbs[index].bytes();
        self.data_bytes = self.data_bytes + bytes - core::mem::replace(&mut self.counted_bytes[index], bytes);
    }

    /// Takes what the memory of all databases has become into the sum, after a command that may have changed any.
    pub(crate) fn recount(&mut self) {
        (0..DATABASES).for_each(|index| self.account(index));
    }

    pub(crate) fn modified(&mut self, db: usize, key: &[u8]) {
        self.stats.changes += 1;
        self.db(db).watches.touch(key);
    }

    pub(crate) fn run_id(&self) -> &str {
        &self.run_id
    }

    pub(crate) fn reset_stats(&mut self) {
        self.stats = Stats::default();
        self.dbs.iter_mut().for_each(|db| db.expired_keys = 0);
    }

    /// Takes a connection into the register and gives its id and slot, or nothing if there are too many.
    pub(crate) fn register(&mut self, now_ms: i64, address: &str) -> Option<(u64, usize)> {
        if self.connected >= self.config.max_clients {
            self.stats.rejected += 1;
            return None;
        }
        self.stats.connections += 1;
        self.connected += 1;
        let id = self.next_id;
        self.next_id += 1;
        let info = ClientInfo {
            id,
            address: address.into(),
            name: SmallBytes::new(b""),
            lib_name: SmallBytes::new(b""),
            lib_version: SmallBytes::new(b""),
            since_ms: now_ms,
            last_ms: now_ms,
            db: 0,
            in_multi: false,
            queued: 0,
            last_command: "NULL",
            input_bytes: 0,
            output_bytes: 0,
            bytes: 0,
            killed: false,
        };
        let slot = self.free_slots.pop().unwrap_or(self.clients.len());
        match self.clients.get_mut(slot) {
            Some(place) => *place = Some(info),
            None => self.clients.push(Some(info)),
        }
        Some((id, slot))
    }

    pub(crate) fn unregister(&mut self, slot: usize) {
        if let Some(client) = self.clients.get_mut(slot).and_then(Option::take) {
            self.killed.retain(|&id| id != client.id);
            self.clients_bytes -= client.bytes;
            self.connected -= 1;
            self.free_slots.push(slot);
        }
    }

    pub(crate) fn client(&self, slot: usize) -> Option<&ClientInfo> {
        self.clients.get(slot)?.as_ref()
    }

    pub(crate) fn client_mut(&mut self, slot: usize) -> Option<&mut ClientInfo> {
        self.clients.get_mut(slot)?.as_mut()
    }

    /// All connections.
    pub fn clients(&self) -> impl Iterator<Item = &ClientInfo> {
        self.clients.iter().flatten()
    }

    /// Notes how much memory a connection holds.
    pub(crate) fn account_client(&mut self, slot: usize, bytes: usize) {
        if let Some(Some(client)) = self.clients.get_mut(slot) {
            self.clients_bytes = self.clients_bytes + bytes - client.bytes;
            client.bytes = bytes;
        }
    }

    pub(crate) fn kill(&mut self, id: u64) {
        if let Some(client) = self.clients.iter_mut().flatten().find(|client| client.id == id && !client.killed) {
            client.killed = true;
            self.killed.push(id);
        }
    }
}
