//! Stable storage: what the supervisor does with the records of the active replica.
//!
//! Records come over the control channel in their order, wait while others are written, and are then written together. The
//! disk may be slow, and may not work at all for a while. What a dead machine had not yet handed over is lost with it.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use protocol::replica::Record;
use protocol::{Epoch, ReplicaId};

use super::Canary;
use super::checker::Verdict;
use super::faults::Moment;
use super::marks::Mark;
use super::node::Control;
use super::world::{Event, HEAL_NS, World};

/// A record as storage knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stored {
    /// Its epoch.
    pub epoch: Epoch,
    /// All that the guest gets of it.
    pub content: u64,
}

impl Stored {
    /// What is stored of a record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        // The same in every run of one build: its keys are fixed.
        let mut hasher = DefaultHasher::new();
        (record.epoch, record.prev_digest, record.clocks, &record.events).hash(&mut hasher);
        Self { epoch: record.epoch, content: hasher.finish() }
    }
}

/// The log on the disk and what is on its way to it.
#[derive(Default, Debug)]
pub struct StableLog {
    /// By epoch, from 1 on.
    history: Vec<Stored>,
    waiting: VecDeque<(ReplicaId, Stored)>,
    /// So many of the waiting ones are being written.
    writing: usize,
    /// When the last message of each replica arrives.
    last_ns: [u64; 2],
    /// What the client may have seen: the content of the records that it follows from.
    released: BTreeMap<Epoch, u64>,
}

impl StableLog {
    /// Puts a record in its place: one that is the same changes nothing, another one takes its place and that of all behind.
    fn put(&mut self, stored: Stored) -> Result<bool, String> {
        let index = stored.epoch as usize - 1;
        if index > self.history.len() {
            return Err(format!("the log has epochs up to {}, and epoch {} comes", self.history.len(), stored.epoch));
        }
        if self.history.get(index) == Some(&stored) {
            return Ok(false);
        }
        let replaces = index < self.history.len();
        if let Some((&epoch, _)) = self.released.range(stored.epoch..).next() {
            return Err(format!("the log forgets epoch {epoch}, whose outputs were released"));
        }
        self.history.truncate(index);
        self.history.push(stored);
        Ok(replaces)
    }

    /// Outputs of this epoch leave. `ran`: the records that the replica's guest has run.
    fn releases(&mut self, replica: ReplicaId, epoch: Epoch, ran: &BTreeMap<Epoch, u64>) -> Verdict {
        for (&epoch, &content) in ran.range(..=epoch).rev() {
            if self.released.get(&epoch) == Some(&content) {
                // So are all before it.
                break;
            }
            if self.history.get(epoch as usize - 1).map(|stored| stored.content) != Some(content) {
                return Err(format!(
                    "replica {replica} releases what follows from its record of epoch {epoch}, which the log lacks"
                ));
            }
            self.released.insert(epoch, content);
        }
        Ok(())
    }
}

impl World {
    /// The shim hands records over.
    pub(super) fn store(&mut self, id: ReplicaId, from: Epoch) {
        let records: Vec<_> = self.nodes[id.index()].replica.records_from(from).map(Stored::of).collect();
        if records.len() > 1 {
            self.marks.set(Mark::StoredAgain);
        }
        for stored in records {
            let (least_ns, greatest_ns) = self.settings.control_delay_ns;
            let delay_ns = self.rng.between(least_ns, greatest_ns);
            let at_ns = (self.now_ns + delay_ns).max(self.log.last_ns[id.index()]);
            self.log.last_ns[id.index()] = at_ns;
            self.at(at_ns, Event::Record(id, stored));
        }
        self.moment(id, Moment::Store);
    }

    /// What a machine that has died had handed over is read, or lost from some message on.
    pub(super) fn lose_records(&mut self, dead: ReplicaId) {
        if self.rng.chance(50) {
            let until_ns = self.now_ns + self.rng.below(self.settings.control_delay_ns.1 + 1);
            self.retain_records(|id, at_ns| id != dead || at_ns <= until_ns);
        }
    }

    /// A record reaches the supervisor.
    pub(super) fn record_arrives(&mut self, from: ReplicaId, stored: Stored) {
        if self.arbiter.active != from {
            return;
        }
        self.log.waiting.push_back((from, stored));
        if self.canary == Some(Canary::StoredTooSoon) {
            self.control(from, Control::Stored(stored.epoch));
        }
        self.write_log();
    }

    fn write_log(&mut self) {
        if self.log.writing > 0 || self.log.waiting.is_empty() {
            return;
        }
        self.log.writing = self.log.waiting.len();
        let (least_ns, greatest_ns) = self.settings.store_delay_ns.unwrap_or_default();
        let mut at_ns = self.now_ns + self.rng.between(least_ns, greatest_ns);
        if let Some((from_ns, to_ns)) = self.settings.store_outage_ns
            && (from_ns..to_ns.min(HEAL_NS)).contains(&at_ns)
        {
            self.marks.set(Mark::StorageFailed);
            at_ns = to_ns.min(HEAL_NS);
        }
        self.at(at_ns, Event::LogWritten);
    }

    /// Everything that was being written is on the disk.
    pub(super) fn log_written(&mut self) {
        let mut through = [None, None];
        for _ in 0..std::mem::take(&mut self.log.writing) {
            let Some((from, stored)) = self.log.waiting.pop_front() else { break };
            match self.log.put(stored) {
                Ok(true) => self.marks.set(Mark::LogReplaced),
                Ok(false) => {}
                Err(text) => return self.judge_by(Err(text)),
            }
            through[from.index()] = Some(stored.epoch);
        }
        let epochs = self.log.history.len();
        self.note(|| format!("the log holds {epochs} epochs"));
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            if let Some(through) = through[id.index()] {
                self.control(id, Control::Stored(through));
            }
        }
        self.write_log();
    }

    /// No released output depends on a record that the log lacks.
    pub(super) fn judge_stored(&mut self, id: ReplicaId, epoch: Epoch) {
        if self.settings.store_delay_ns.is_some() {
            let ran = std::mem::take(&mut self.node(id).ran);
            let verdict = self.log.releases(id, epoch, &ran);
            self.node(id).ran = ran;
            self.judge_by(verdict);
        }
    }
}
