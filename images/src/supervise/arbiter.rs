//! The arbiter of a pair: the record of who is active, in a file before anybody hears of a change.
//!
//! The record must outlive what can fail while a replica lives: this process, not this host, on which both replicas run
//! and with which both end. So a change is one write, in a file that has its size already, and no flush: clients wait
//! meanwhile, and a flush was seen to take 40 ms on a disk that others write to. The file holds two slots of fixed
//! length, written in turn. A write that is torn by a crash spoils the slot that it was to replace, and the other one
//! still holds the record before.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use protocol::arbiter::{ArbiterRecord, Grant};
use protocol::digest::digest_of;
use protocol::{Generation, Mode, ReplicaId};
use serde::{Deserialize, Serialize};

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

/// The arbiter kept in a file.
#[derive(Debug)]
pub struct Arbiter {
    path: PathBuf,
    file: File,
    record: ArbiterRecord,
}

impl Arbiter {
    /// A record for a new pair, or for a new replica alone.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: PathBuf, mode: Mode) -> Result<Self> {
        let record = match mode {
            Mode::Paired => ArbiterRecord::new_pair(ReplicaId::ZERO),
            Mode::Solo => ArbiterRecord::new_solo(ReplicaId::ZERO),
        };
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.context(|| format!("cannot write {}", path.display()))?;
        let arbiter = Self { path, file, record };
        // Both slots, so that no later write makes the file longer.
        for slot in 0..2 {
            arbiter.write_slot(slot, &record)?;
        }
        Ok(arbiter)
    }

    /// The record.
    pub fn record(&self) -> ArbiterRecord {
        self.record
    }

    /// `proposer` asks to go on alone. A change is in the file before this returns.
    ///
    /// # Errors
    /// The file cannot be written: the record is as it was, and nobody may be told anything.
    pub fn ask(&mut self, expect_generation: Generation, proposer: ReplicaId) -> Result<Grant> {
        let mut record = self.record;
        let grant = record.compare_and_set(expect_generation, proposer);
        if record != self.record {
            self.write_slot(record.generation % 2, &record)?;
            self.record = record;
        }
        Ok(grant)
    }

    /// The solo replica `proposer` asks to be paired with a newcomer, which must be there. A change is in the file before
    /// this returns.
    ///
    /// # Errors
    /// The file cannot be written: the record is as it was, and nobody may be told anything.
    pub fn ask_pairing(
        &mut self,
        expect_generation: Generation,
        proposer: ReplicaId,
        newcomer_is_there: bool,
    ) -> Result<Grant> {
        let mut record = self.record;
        let grant = record.pair_request(expect_generation, proposer);
        if record != self.record {
            if !newcomer_is_there {
                return Ok(Grant { granted: false, record: self.record });
            }
            self.write_slot(record.generation % 2, &record)?;
            self.record = record;
        }
        Ok(grant)
    }

    fn write_slot(&self, slot: u64, record: &ArbiterRecord) -> Result<()> {
        let mut line = crate::ctl::to_line(&Slot::new(record))?.into_bytes();
        let end = line.len() - 1;
        line.splice(end..end, std::iter::repeat_n(b' ', SLOT_BYTES.saturating_sub(line.len())));
        let written = self.file.write_all_at(&line, slot * SLOT_BYTES as u64);
        written.context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pollux-arbiter-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_grant_is_in_the_file() {
        let path = path("grant");
        let mut arbiter = Arbiter::create(path.clone(), Mode::Paired).expect("written");
        assert_eq!(read(&path), Some(ArbiterRecord::new_pair(ReplicaId::ZERO)));
        assert!(arbiter.ask(1, ReplicaId::ONE).expect("written").granted);
        assert!(!arbiter.ask(1, ReplicaId::ZERO).expect("nothing to write").granted);
        let expected = ArbiterRecord { generation: 2, active: ReplicaId::ONE, mode: Mode::Solo };
        assert_eq!((read(&path), arbiter.record()), (Some(expected), expected));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_pairing_is_in_the_file_and_needs_a_newcomer() {
        let path = path("pairing");
        let mut arbiter = Arbiter::create(path.clone(), Mode::Paired).expect("written");
        arbiter.ask(1, ReplicaId::ONE).expect("written");
        assert!(!arbiter.ask_pairing(2, ReplicaId::ONE, false).expect("nothing to write").granted);
        assert!(arbiter.ask_pairing(2, ReplicaId::ONE, true).expect("written").granted);
        // Said again after the newcomer has gone, it is the same answer: the record is paired.
        assert!(arbiter.ask_pairing(2, ReplicaId::ONE, false).expect("nothing to write").granted);
        let expected = ArbiterRecord { generation: 3, active: ReplicaId::ONE, mode: Mode::Paired };
        assert_eq!((read(&path), arbiter.record()), (Some(expected), expected));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_torn_write_leaves_the_record_before() {
        let path = path("torn");
        let mut arbiter = Arbiter::create(path.clone(), Mode::Paired).expect("written");
        arbiter.ask(1, ReplicaId::ONE).expect("written");
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

    #[test]
    fn a_record_that_cannot_be_written_does_not_change() {
        let path = path("full");
        let mut arbiter = Arbiter::create(path.clone(), Mode::Paired).expect("written");
        arbiter.file = File::open(&path).expect("read-only");
        arbiter.ask(1, ReplicaId::ONE).expect_err("the file cannot be written");
        assert_eq!(arbiter.record(), ArbiterRecord::new_pair(ReplicaId::ZERO));
        std::fs::remove_file(path).expect("removed");
    }
}
