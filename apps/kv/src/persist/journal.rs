//! The part of the server that gathers effects until they are written.

use super::effect::Effect;
use super::snapshot::Snapshot;
use crate::server::Server;
use crate::store::Db;
use alloc::vec::Vec;
use core::fmt;
use recordstore::Batch;

/// Memory that empty batches keep, in bytes.
const KEEP_BYTES: usize = 64 * 1024;

/// Why what was written cannot be made stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The device has no room.
    Full,
    /// The device failed.
    Device,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "No space left on device",
            Self::Device => "Input/output error",
        })
    }
}

/// What INFO says of persistence.
#[derive(Clone, Copy, Debug, Default)]
pub struct Status {
    /// Bytes that the log takes.
    pub log_bytes: u64,
    /// Bytes that it took when it was new, or when the store was opened.
    pub base_bytes: u64,
    /// Logs replaced since the start.
    pub rewrites: u64,
    /// The longest that a slice of the newest log took, from its start until the disk had it, in nanoseconds of the machine's
    /// clock: an upper bound of how long it kept others from running. Slices that waited for a flush too are left out.
    pub longest_slice_ns: u64,
    /// The last attempt to replace the log failed.
    pub rewrite_failed: bool,
    /// Records replayed at the start.
    pub replayed: u64,
    /// Whether the log had a torn tail then.
    pub torn: bool,
    /// Pieces of the log that had been stable and were cut off then, because that was asked for.
    pub lost_chunks: u64,
}

/// How far the journal was when something was done; see [`Journal::ticket`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    appended: u64,
    failures: u64,
}

/// Effects on their way to the device. Off, it costs a command one comparison.
#[derive(Default)]
pub struct Journal {
    on: bool,
    /// Effects that the live log does not have yet.
    pub(super) live: Batch,
    /// What its successor does not have yet.
    pub(super) next: Batch,
    pub(super) snapshot: Option<Snapshot>,
    pub(super) effect: Effect,
    /// What a command has removed, each with its length before it.
    removed: Vec<u8>,
    appended: u64,
    stable: u64,
    failure: Option<Failure>,
    failures: u64,
    /// BGREWRITEAOF.
    pub(crate) rewrite_wanted: bool,
    /// What INFO says.
    pub status: Status,
}

impl Journal {
    /// Whether effects are kept.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Whether a log is being replaced.
    pub fn is_rewriting(&self) -> bool {
        self.snapshot.is_some()
    }

    /// Whether effects must act on each element alone, because the new log holds only a part of the keyspace.
    pub(super) fn is_partial(&self) -> bool {
        self.snapshot.as_ref().is_some_and(|snapshot| !snapshot.is_complete())
    }

    /// Why writes must be refused.
    #[inline]
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// What has been done so far, to wait until it is stable.
    pub fn ticket(&self) -> Ticket {
        Ticket { appended: self.appended, failures: self.failures }
    }

    /// Whether what a ticket stands for is stable; an error if it will never be. While the device is failed, what was
    /// done before is answered for by those who waited then.
    pub fn check(&self, ticket: Ticket) -> Result<bool, Failure> {
        if self.stable >= ticket.appended {
            return Ok(true);
        }
        if self.failures == ticket.failures {
            return Ok(self.failure.is_some());
        }
        Err(self.failure.unwrap_or(Failure::Device))
    }

    /// Bytes that wait to be written.
    pub fn pending_bytes(&self) -> usize {
        self.live.bytes() + self.next.bytes()
    }

    /// Whether there is something to write.
    pub fn has_pending(&self) -> bool {
        !self.live.is_empty() || !self.next.is_empty()
    }

    /// Notes that the running command has removed a member.
    #[inline]
    pub(crate) fn removed(&mut self, member: &[u8]) {
        if self.on {
            self.removed.extend_from_slice(&(member.len() as u32).to_le_bytes());
            self.removed.extend_from_slice(member);
        }
    }

    /// Makes the noted members the arguments of `effect`; gives whether there were any.
    pub(super) fn take_removed(&mut self, effect: &mut Effect) -> bool {
        let mut rest = &self.removed[..];
        let any = !rest.is_empty();
        while let Some((len, after)) = rest.split_first_chunk::<4>() {
            let Some((member, after)) = after.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
            effect.arg(member);
            rest = after;
        }
        self.removed.clear();
        self.removed.shrink_to(KEEP_BYTES);
        any
    }

    /// Adds an effect on `db` to the open record. `name` and `keys` are the command's.
    pub(super) fn emit<'a>(
        &mut self,
        db: usize,
        effect: &Effect,
        name: &str,
        args: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        effect.encode(db, |bytes| self.live.extend(bytes));
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.follow(db, name, args, effect, &mut self.next);
        }
    }

    /// Ends the open record.
    pub(super) fn close(&mut self) {
        if !self.live.open_bytes().is_empty() {
            self.appended += 1;
        }
        self.live.close();
        self.next.close();
        self.effect.trim();
    }

    /// Begins to gather a new log.
    pub(super) fn begin_snapshot(&mut self) {
        self.next.clear(KEEP_BYTES);
        self.snapshot = Some(Snapshot::default());
        self.rewrite_wanted = false;
    }

    /// Gives the new log up for a command that it cannot follow; another is begun.
    pub(super) fn give_up_snapshot(&mut self) {
        self.drop_snapshot();
        self.rewrite_wanted = true;
    }

    /// Gives the new log up.
    pub(super) fn drop_snapshot(&mut self) {
        self.snapshot = None;
        self.next.clear(0);
    }

    /// Exchanges what has been gathered for two empty batches; gives how many records that was in all.
    pub(super) fn take(&mut self, live: &mut Batch, next: &mut Batch) -> u64 {
        live.clear(KEEP_BYTES);
        next.clear(KEEP_BYTES);
        core::mem::swap(&mut self.live, live);
        core::mem::swap(&mut self.next, next);
        self.appended
    }

    /// The new log is the live one now. What was gathered for it meanwhile is what the live log lacks.
    pub(super) fn switched(&mut self) {
        self.snapshot = None;
        self.live = core::mem::take(&mut self.next);
        self.failure = None;
    }

    /// The first `appended` records are stable.
    pub(super) fn stable_up_to(&mut self, appended: u64) {
        self.stable = self.stable.max(appended);
    }

    /// What was gathered so far is lost to the log.
    pub(super) fn failed(&mut self, failure: Failure) {
        self.failure = Some(failure);
        self.failures += 1;
    }

    /// DELs for the keys that have expired in each database, before anything else is said of them.
    pub(super) fn bury(&mut self, dbs: &mut [Db]) {
        for (index, db) in dbs.iter_mut().enumerate() {
            let Some(expired) = db.take_expired() else { continue };
            let mut effect = core::mem::take(&mut self.effect);
            for key in &expired {
                let key = key.as_slice();
                effect.begin("del").arg(key);
                self.emit(index, &effect, "del", core::iter::once(key));
            }
            self.effect = effect;
        }
    }
}

impl Server {
    /// Ends the replay: from now on, effects are kept.
    pub(super) fn end_replay(&mut self) {
        self.recount();
        self.stats = Default::default();
        let (dbs, journal) = self.journal_parts();
        dbs.iter_mut().for_each(Db::keep_expired);
        journal.on = true;
    }

    /// Begins to gather a new log.
    pub(super) fn begin_snapshot(&mut self) {
        let (dbs, journal) = self.journal_parts();
        // What has expired is said to the old log; the new one never hears of it.
        journal.bury(dbs);
        journal.close();
        journal.begin_snapshot();
    }

    /// Gathers about `slice_bytes` of the keyspace for the new log, if there is one; true when it is complete.
    pub(super) fn snapshot_slice(&mut self, slice_bytes: usize) -> bool {
        let (dbs, journal) = self.journal_parts();
        match &mut journal.snapshot {
            Some(snapshot) => snapshot.slice(dbs, &mut journal.next, slice_bytes),
            None => false,
        }
    }

    /// Exchanges the gathered effects for two empty batches; gives how many records there were so far in all.
    pub(super) fn take_effects(&mut self, live: &mut Batch, next: &mut Batch) -> u64 {
        let (dbs, journal) = self.journal_parts();
        journal.bury(dbs);
        journal.close();
        journal.take(live, next)
    }
}
