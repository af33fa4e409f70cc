//! The arbiter of a pair: the record of who is active, durable before anybody hears of a change.

use std::path::PathBuf;

use protocol::arbiter::{ArbiterRecord, Grant};
use protocol::{Generation, Mode, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::state::replace_durably;

/// The record as the file has it.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    generation: Generation,
    active: u8,
    mode: String,
}

/// Version of the file.
const VERSION: u32 = 1;

/// The arbiter kept in a file.
#[derive(Debug)]
pub struct Arbiter {
    path: PathBuf,
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
        let arbiter = Self { path, record };
        arbiter.store(&record)?;
        Ok(arbiter)
    }

    /// The record.
    pub fn record(&self) -> ArbiterRecord {
        self.record
    }

    /// `proposer` asks to go on alone. A change is on disk before this returns.
    ///
    /// # Errors
    /// The file cannot be written: the record is as it was, and nobody may be told anything.
    pub fn ask(&mut self, expect_generation: Generation, proposer: ReplicaId) -> Result<Grant> {
        let mut record = self.record;
        let grant = record.compare_and_set(expect_generation, proposer);
        if record != self.record {
            self.store(&record)?;
            self.record = record;
        }
        Ok(grant)
    }

    fn store(&self, record: &ArbiterRecord) -> Result<()> {
        let stored = Stored {
            version: VERSION,
            generation: record.generation,
            active: record.active.get(),
            mode: record.mode.name().to_owned(),
        };
        let line = crate::ctl::to_line(&stored)?;
        replace_durably(&self.path, line.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_on_disk_and_a_record_that_cannot_be_written_does_not_change() {
        let folder = std::env::temp_dir().join(format!("pollux-arbiter-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("arbiter.json");
        let mut arbiter = Arbiter::create(path.clone(), Mode::Paired).expect("written");
        assert!(arbiter.ask(1, ReplicaId::ONE).expect("written").granted);
        let stored: Stored = serde_json::from_slice(&std::fs::read(&path).expect("there")).expect("JSON");
        assert_eq!((stored.generation, stored.active, stored.mode.as_str()), (2, 1, "solo"));
        assert!(!arbiter.ask(1, ReplicaId::ZERO).expect("nothing to write").granted);

        let mut arbiter = Arbiter::create(path, Mode::Paired).expect("written");
        std::fs::remove_dir_all(&folder).expect("removed");
        arbiter.ask(1, ReplicaId::ONE).expect_err("the folder is gone");
        assert_eq!(arbiter.record(), ArbiterRecord::new_pair(ReplicaId::ZERO));
    }
}
