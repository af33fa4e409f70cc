//! The arbiter of a pair: the record of who is active, and a file that tells of it.
//!
//! The record decides as it is in memory; the file follows at once, but an answer does not wait for it. It tells who comes
//! later how far the pair had come, and nobody acts on it: both replicas end with this process, so there is no one who
//! could hold an answer that the record does not know. A file system, on the other hand, may take seconds for a write
//! that others' flushes are in the way of, and clients would wait meanwhile. The file holds two slots of fixed length,
//! written in turn. A write that is torn by a crash spoils the slot that it was to replace, and the other one still holds
//! the record before.

use std::fs::File;
use std::path::Path;

use protocol::arbiter::{ArbiterRecord, Grant};
use protocol::digest::digest_of;
use protocol::{Generation, Mode, ReplicaId};
use serde::{Deserialize, Serialize};

use super::scribe::{Pen, Scribe};
use crate::error::{Context, Result};

/// Version of the file.
const VERSION: u32 = 1;
/// Bytes of a slot: a line of JSON, filled up with spaces. Much less than a disk's sector.
const SLOT_BYTES: usize = 256;
/// Seed of the slots' checksums.
const CHECKSUM_SEED: u64 = 0x6172_6269_7465_7231;

/// A slot of the file.
#[derive(Serialize, Deserialize)]
struct Slot {
    version: u32,
    generation: Generation,
    active: u8,
    mode: u8,
    checksum: u64,
}

impl Slot {
    fn new(record: &ArbiterRecord) -> Self {
        let mut slot = Self {
            version: VERSION,
            generation: record.generation,
            active: record.active.get(),
            mode: record.mode.code(),
            checksum: 0,
        };
        slot.checksum = slot.sum();
        slot
    }

    fn sum(&self) -> u64 {
        let words = [u64::from(self.version), self.generation, u64::from(self.active), u64::from(self.mode)];
        digest_of(CHECKSUM_SEED, &words.map(u64::to_le_bytes).concat())
    }

    /// The record, if the slot is whole.
    fn record(&self) -> Option<ArbiterRecord> {
        let whole = self.version == VERSION && self.checksum == self.sum();
        let (active, mode) = (ReplicaId::new(self.active)?, Mode::from_code(self.mode)?);
        whole.then_some(ArbiterRecord { generation: self.generation, active, mode })
    }
}

/// The record that a file holds: the newest whole slot.
pub fn read(path: &Path) -> Option<ArbiterRecord> {
    let bytes = std::fs::read(path).ok()?;
    let records = bytes.chunks(SLOT_BYTES).filter_map(|slot| serde_json::from_slice::<Slot>(slot).ok()?.record());
    records.max_by_key(|record| record.generation)
}

/// The arbiter.
#[derive(Debug)]
pub struct Arbiter {
    pen: Pen,
    record: ArbiterRecord,
}

impl Arbiter {
    /// A record for a new pair, or for a new replica alone.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, mode: Mode, scribe: &Scribe) -> Result<Self> {
        let record = match mode {
            Mode::Paired => ArbiterRecord::new_pair(ReplicaId::ZERO),
            Mode::Solo => ArbiterRecord::new_solo(ReplicaId::ZERO),
        };
        let file = File::create(path).context(|| format!("cannot write {}", path.display()))?;
        let arbiter = Self { pen: scribe.pen(file), record };
        // Both slots, so that no later write makes the file longer.
        arbiter.write_slot(0);
        arbiter.write_slot(1);
        Ok(arbiter)
    }

    /// The record.
    pub fn record(&self) -> ArbiterRecord {
        self.record
    }

    /// `proposer` asks to go on alone.
    pub fn ask(&mut self, expect_generation: Generation, proposer: ReplicaId) -> Grant {
        let mut record = self.record;
        let grant = record.compare_and_set(expect_generation, proposer);
        self.change(record);
        grant
    }

    /// The solo replica `proposer` asks to be paired with a newcomer, which must be there.
    pub fn ask_pairing(
        &mut self,
        expect_generation: Generation,
        proposer: ReplicaId,
        newcomer_is_there: bool,
    ) -> Grant {
        let mut record = self.record;
        let grant = record.pair_request(expect_generation, proposer);
        if record != self.record && !newcomer_is_there {
            return Grant { granted: false, record: self.record };
        }
        self.change(record);
        grant
    }

    fn change(&mut self, record: ArbiterRecord) {
        if record != self.record {
            self.record = record;
            self.write_slot(record.generation % 2);
        }
    }

    fn write_slot(&self, slot: u64) {
        // A slot holds nothing that JSON cannot say.
        let mut line = crate::ctl::to_line(&Slot::new(&self.record)).unwrap_or_default().into_bytes();
        let end = line.len().saturating_sub(1);
        line.splice(end..end, std::iter::repeat_n(b' ', SLOT_BYTES.saturating_sub(line.len())));
        self.pen.place(slot * SLOT_BYTES as u64, line);
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// A new pair's arbiter, its file, and who writes that.
    fn arbiter(name: &str) -> (Arbiter, PathBuf, Scribe) {
        let path = std::env::temp_dir().join(format!("pollux-arbiter-{name}-{}", std::process::id()));
        let scribe = Scribe::start().expect("a thread");
        let arbiter = Arbiter::create(&path, Mode::Paired, &scribe).expect("a file");
        scribe.finish();
        (arbiter, path, scribe)
    }

    #[test]
    fn a_grant_is_in_the_file() {
        let (mut arbiter, path, scribe) = arbiter("grant");
        assert_eq!(read(&path), Some(ArbiterRecord::new_pair(ReplicaId::ZERO)));
        assert!(arbiter.ask(1, ReplicaId::ONE).granted);
        assert!(!arbiter.ask(1, ReplicaId::ZERO).granted);
        scribe.finish();
        let expected = ArbiterRecord { generation: 2, active: ReplicaId::ONE, mode: Mode::Solo };
        assert_eq!((read(&path), arbiter.record()), (Some(expected), expected));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_pairing_is_in_the_file_and_needs_a_newcomer() {
        let (mut arbiter, path, scribe) = arbiter("pairing");
        arbiter.ask(1, ReplicaId::ONE);
        assert!(!arbiter.ask_pairing(2, ReplicaId::ONE, false).granted);
        assert!(arbiter.ask_pairing(2, ReplicaId::ONE, true).granted);
        // Said again after the newcomer has gone, it is the same answer: the record is paired.
        assert!(arbiter.ask_pairing(2, ReplicaId::ONE, false).granted);
        scribe.finish();
        let expected = ArbiterRecord { generation: 3, active: ReplicaId::ONE, mode: Mode::Paired };
        assert_eq!((read(&path), arbiter.record()), (Some(expected), expected));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_torn_write_leaves_the_record_before() {
        let (mut arbiter, path, scribe) = arbiter("torn");
        arbiter.ask(1, ReplicaId::ONE);
        scribe.finish();
        let good = std::fs::read(&path).expect("there");
        assert_eq!(good.len(), 2 * SLOT_BYTES);
        // Generation 2 lies in the first slot: the bytes up to any point are new, those behind it old, or garbage.
        let old = ArbiterRecord::new_pair(ReplicaId::ZERO);
        for torn in 0..SLOT_BYTES {
            let mut bytes = good.clone();
            bytes[torn..SLOT_BYTES].fill(0xee);
            std::fs::write(&path, &bytes).expect("written");
            assert_eq!(read(&path), Some(old), "torn at {torn}");
        }
        std::fs::remove_file(path).expect("removed");
    }
}
