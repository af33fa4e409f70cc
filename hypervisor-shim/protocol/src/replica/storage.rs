//! Stable storage: the log that outlives both replicas.
//!
//! With [`super::Config::stores_log`] the active replica hands each of its records to its caller
//! ([`Command::Store`](super::Command::Store)), who has them written where they survive the loss of both machines and says
//! how far that is done ([`super::Input::Stored`]). Output commit then has a second condition: the outputs of an epoch leave
//! when the epoch has ended, the backup (if there is one) holds its record, *and* stable storage holds it.
//!
//! # Failover
//! The storage may lack records that the dead primary had sent to its backup. So a backup keeps the records that it has run
//! until the primary says that their outputs are released, which says that they are stored. Promoted, it stores those that it
//! keeps again before anything of its own. Whoever writes the log takes a record that differs from the one that it has of
//! that epoch as the end of what it knew from there on: outputs that followed from that were never released, because the
//! backup did not hold the records. One that is the same changes nothing: what is behind it may have been released.
//!
//! # A newcomer
//! It knows no record before the state that it was given, and needs none: the primary asks the arbiter to pair only when
//! everything up to that state is released, and therefore stored.
//!
//! # Replay
//! A solo replica that was put into the state of a checkpoint ([`Replica::resume`]) runs the records that storage holds
//! ([`Replica::replay`], [`Replica::replayed`]) before it begins an epoch of its own. Each digest is compared with the
//! recorded one. Nothing is released meanwhile.

use alloc::collections::VecDeque;
use core::fmt;

use super::{Command, Commands, Guest, Record, Replica};
use crate::link::{Divergence, EpochStart};
use crate::{Epoch, Mode, Role};

/// What a record needs beside its events on its way to storage, in bytes; counted against
/// [`super::Config::max_unstored_bytes`].
pub const STORED_RECORD_BYTES: u64 = 128;

/// The most bytes of event records in one epoch while the log is stored: with everything else that may be on its way to the
/// supervisor a record must fit into the buffers of one socket.
pub const MAX_STORED_EVENTS_BYTES: u32 = 32 * 1024;

/// What a replica knows of stable storage.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Storage {
    /// The log is stored.
    pub(super) on: bool,
    /// Active replica: everything up to this epoch is stored.
    stored_through: Epoch,
    /// Active replica: sizes of the records after that, oldest first.
    waiting: VecDeque<u64>,
    waiting_bytes: u64,
    /// Records run by a backup whose outputs may not be released, oldest first; at its promotion, those to be stored again.
    kept: VecDeque<Record>,
    /// No record of this epoch or of one before is known here.
    unknown_through: Epoch,
}

/// Why a record cannot be replayed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ReplayFault {
    /// This is no replica that has taken up a state and begun nothing since, or an epoch runs.
    NotReplaying,
    /// The records are not consecutive.
    Gap {
        /// The epoch that should have come.
        expected: Epoch,
        /// The epoch that came.
        got: Epoch,
    },
    /// The guest has not done what it did when the record was made.
    Diverged(Divergence),
    /// The guest has ended, and there are more records.
    Ended {
        /// The last epoch of the guest here.
        epoch: Epoch,
    },
}

impl fmt::Display for ReplayFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotReplaying => f.write_str("only a replica that has just taken up a checkpoint replays a log"),
            Self::Gap { expected, got } => write!(f, "expected the record of epoch {expected}, got epoch {got}"),
            Self::Diverged(Divergence { epoch, ours, theirs }) => write!(
                f,
                "the replay differs from the recording in epoch {epoch}: digest {ours:016x} here, {theirs:016x} recorded"
            ),
            Self::Ended { epoch } => {
                write!(f, "the guest ended in epoch {epoch} here, and went on when it was recorded")
            }
        }
    }
}

impl core::error::Error for ReplayFault {}

impl Replica {
    /// The records that are kept from this epoch on, oldest first: what [`Command::Store`] asks to be stored.
    pub fn records_from(&self, epoch: Epoch) -> impl Iterator<Item = &Record> {
        let newest = (self.record.epoch > self.storage.unknown_through).then_some(&self.record);
        self.storage.kept.iter().chain(newest).filter(move |record| record.epoch >= epoch)
    }

    /// Whether the log is stored.
    pub fn stores_log(&self) -> bool {
        self.storage.on
    }

    /// The digest of the last epoch that has ended, and its number: what no record tells when none follows.
    pub fn last_end(&self) -> (Epoch, u64) {
        (self.ended_through, self.last_digest)
    }

    /// How far outputs may leave as far as storage is concerned.
    pub(super) fn stored_through(&self) -> Epoch {
        if self.storage.on { self.storage.stored_through } else { Epoch::MAX }
    }

    /// Whether so much is on its way to storage that no epoch may begin.
    pub(super) fn storage_lags(&self) -> bool {
        self.storage.on
            && (self.storage.waiting_bytes >= self.config.max_unstored_bytes
                || self.storage.waiting.len() >= self.config.max_outstanding_epochs as usize)
    }

    /// Has the record of the epoch that begins stored.
    pub(super) fn store_record(&mut self, out: &mut impl Commands) {
        while let Some(record) = self.storage.kept.pop_front() {
            self.pool.put(record.events);
        }
        if self.storage.on {
            self.storage.waits(self.record.events.len());
            out.push(Command::Store { from: self.record.epoch });
        }
    }

    /// Takes the place of the record that was run last.
    pub(super) fn replace_record(&mut self, record: Record) {
        let previous = core::mem::replace(&mut self.record, record);
        let is_kept = self.storage.on
            && self.role == Role::Backup
            && previous.epoch > self.storage.unknown_through
            && previous.epoch > self.backup.released_claim;
        if is_kept {
            self.storage.kept.push_back(previous);
        } else {
            self.pool.put(previous.events);
        }
    }

    /// The outputs up to the primary's claim are released: what they follow from is stored.
    pub(super) fn forget_stored(&mut self) {
        let released_claim = self.backup.released_claim;
        while let Some(record) = self.storage.kept.pop_front_if(|record| record.epoch <= released_claim) {
            self.pool.put(record.events);
        }
    }

    /// The state of the end of this epoch has come, and no record before it.
    pub(super) fn knows_none_through(&mut self, epoch: Epoch) {
        self.storage.unknown_through = epoch;
        self.storage.stored_through = epoch;
    }

    /// A promoted backup has what may not be stored stored, before anything of its own.
    pub(super) fn store_kept(&mut self, out: &mut impl Commands) {
        if !self.storage.on {
            return;
        }
        let from = self.backup.released_claim.max(self.storage.unknown_through) + 1;
        self.storage.stored_through = from - 1;
        let known = self.record.epoch > self.storage.unknown_through && self.record.epoch >= from;
        if !known {
            self.storage.stored_through = self.ended_through;
            return;
        }
        for index in 0..self.storage.kept.len() {
            let bytes = self.storage.kept[index].events.len();
            self.storage.waits(bytes);
        }
        self.storage.waits(self.record.events.len());
        out.push(Command::Store { from });
    }

    /// Storage holds everything up to this epoch.
    pub(super) fn on_stored(&mut self, now_ns: u64, through: Epoch, out: &mut impl Commands) {
        if self.role != Role::Primary || !self.storage.on {
            return;
        }
        self.storage.holds(through.min(self.record.epoch));
        self.release_committed(now_ns, out);
        if self.stopped.is_none() {
            self.pair_if_settled(now_ns, out);
        }
    }

    /// The log is stored from the next record on, or no longer.
    pub(super) fn on_store_log(&mut self, now_ns: u64, on: bool, out: &mut impl Commands) {
        if on == self.storage.on {
            return;
        }
        self.storage = Storage { on, stored_through: self.record.epoch, ..Storage::default() };
        self.storage.unknown_through = match self.role {
            Role::Primary => self.record.epoch,
            // What was sent before may be longer than a record that can be stored.
            Role::Backup => self.backup.received_through,
        };
        if !on && self.role == Role::Primary {
            self.release_committed(now_ns, out);
        }
    }

    /// Replays the next record of a stored log: the guest is to run it ([`Self::record`] has it), then comes
    /// [`Self::replayed`].
    ///
    /// # Errors
    /// [`ReplayFault`]; nothing has changed then.
    pub fn replay(&mut self, start: &EpochStart<'_>) -> Result<(), ReplayFault> {
        let resumed = self.role == Role::Primary && self.mode == Mode::Solo && self.active.uncertain_due.is_some();
        if !resumed || self.stopped.is_some() || self.guest == Guest::Running || self.ended_through == 0 {
            return Err(ReplayFault::NotReplaying);
        }
        let expected = self.ended_through + 1;
        if start.epoch != expected {
            return Err(ReplayFault::Gap { expected, got: start.epoch });
        }
        self.compare_replayed(start.prev_digest)?;
        if self.guest == Guest::Stopped {
            return Err(ReplayFault::Ended { epoch: self.ended_through });
        }
        let mut events = self.take_buffer();
        events.extend_from_slice(start.events);
        let record = Record {
            epoch: start.epoch,
            prev_digest: start.prev_digest,
            clocks: start.clocks,
            released_through: start.released_through,
            sent_ns: start.sent_ns,
            events,
        };
        let previous = core::mem::replace(&mut self.record, record);
        self.pool.put(previous.events);
        self.guest = Guest::Running;
        Ok(())
    }

    /// The last epoch that was replayed ended with this digest when it was recorded.
    ///
    /// # Errors
    /// [`ReplayFault::Diverged`] if it did not so here.
    pub fn compare_replayed(&self, recorded: u64) -> Result<(), ReplayFault> {
        if recorded == self.last_digest {
            return Ok(());
        }
        let divergence = Divergence { epoch: self.ended_through, ours: self.last_digest, theirs: recorded };
        Err(ReplayFault::Diverged(divergence))
    }

    /// The guest has reached the end of a replayed epoch, and its own end with `stopped`. Its outputs are nobody's: they were
    /// released or not when they were first made.
    ///
    /// # Panics
    /// If no epoch is replayed: an error of the caller.
    pub fn replayed(&mut self, digest: u64, stopped: bool) {
        assert!(self.guest == Guest::Running, "an epoch was replayed, but none was running");
        self.guest = if stopped { Guest::Stopped } else { Guest::AtBoundary };
        self.last_digest = digest;
        self.holds_all_through(self.record.epoch);
    }

    /// A state with everything before it done: nothing is outstanding anywhere.
    pub(super) fn holds_all_through(&mut self, epoch: Epoch) {
        self.ended_through = epoch;
        self.active.received_through = epoch;
        self.active.executed_through = epoch;
        self.active.released_through = epoch;
        self.active.commanded_through = epoch;
        self.active.confirmed_through = epoch;
        self.knows_none_through(epoch);
    }
}

impl Storage {
    pub(super) fn new(on: bool) -> Self {
        Self { on, ..Self::default() }
    }

    fn waits(&mut self, events_bytes: usize) {
        let bytes = events_bytes as u64 + STORED_RECORD_BYTES;
        self.waiting.push_back(bytes);
        self.waiting_bytes += bytes;
    }

    fn holds(&mut self, through: Epoch) {
        while self.stored_through < through {
            self.stored_through += 1;
            self.waiting_bytes -= self.waiting.pop_front().unwrap_or(0);
        }
    }
}
