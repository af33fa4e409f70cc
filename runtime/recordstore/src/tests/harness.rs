//! Runs a workload against the model device, and knows what a crash may leave.

use crate::batch::Batch;
use crate::error::AppendError;
use crate::model::{Mixer, ModelDevice, ModelError, run};
use crate::store::{Options, Replayed, Sabotage, Store};
use std::vec::Vec;

pub type Record = Vec<u8>;
pub type OpenError = crate::OpenError<ModelError>;

pub const OPTIONS: Options = Options { new_key: 0x5eed, cut_damaged: false, most_record_bytes: None };

/// What a crash may leave.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// Records appended to the live log, in order; the last of them may be missing.
    pub live: Vec<Record>,
    /// So many of them may not.
    pub stable: usize,
    /// Records of the next log.
    pub next: Vec<Record>,
    /// A switch is under way: the next log, whole, may be there instead.
    pub switching: bool,
}

impl Expected {
    /// Says what is wrong with records that a crash has left.
    pub fn judge(&self, found: &[Record]) -> Result<(), std::string::String> {
        if self.switching && found == self.next {
            return Ok(());
        }
        if found.len() < self.stable {
            return Err(std::format!("{} records left of {} that were stable", found.len(), self.stable));
        }
        match found.iter().zip(&self.live).position(|(found, appended)| found != appended) {
            Some(at) => Err(std::format!("record {at} is not what was appended")),
            None if found.len() > self.live.len() => {
                Err(std::format!("{} records found and {} appended", found.len(), self.live.len()))
            }
            None => Ok(()),
        }
    }

    fn switched(&mut self) {
        self.live = core::mem::take(&mut self.next);
        self.stable = self.live.len();
        self.switching = false;
    }
}

pub fn open(
    device: &ModelDevice,
    sabotage: Sabotage,
) -> Result<(Store<ModelDevice>, Replayed, Vec<Record>), OpenError> {
    let mut found = Vec::new();
    let mut visit = |record: &[u8]| found.push(record.to_vec());
    let opened = run(Store::open_with(device.clone(), OPTIONS, &mut visit, |store| store.sabotage = sabotage), || ());
    opened.map(|(store, replayed)| (store, replayed, found))
}

/// A random record. Contents repeat, so that what an earlier lap has left looks like what is appended now.
pub fn record(rng: &mut Mixer) -> Record {
    let len = match rng.below(12) {
        0 => 1000 + rng.below(3000),
        1 => 1 + rng.below(900),
        _ => 8,
    };
    std::vec![rng.below(3) as u8; len as usize]
}

fn batch_of(records: &[Record]) -> Batch {
    let mut batch = Batch::new();
    records.iter().for_each(|record| batch.push(record));
    batch
}

/// A store with its account.
pub struct Run {
    pub store: Store<ModelDevice>,
    pub expected: Expected,
    /// Actions that found the store full.
    pub full: usize,
    /// Logs replaced.
    pub switches: usize,
}

impl Run {
    pub fn open(device: &ModelDevice, sabotage: Sabotage) -> Result<Self, OpenError> {
        let (store, _, live) = open(device, sabotage)?;
        let stable = live.len();
        Ok(Self { store, expected: Expected { live, stable, ..Expected::default() }, full: 0, switches: 0 })
    }

    /// Appends to the live log; a full store is noted and changes nothing.
    pub fn append(&mut self, records: &[Record]) -> Result<(), AppendError<ModelError>> {
        let before = self.expected.live.len();
        self.expected.live.extend_from_slice(records);
        match run(self.store.append(&batch_of(records)), || ()) {
            Ok(count) => {
                assert_eq!(count, self.expected.live.len() as u64);
                Ok(())
            }
            Err(AppendError::Full { .. }) => {
                self.expected.live.truncate(before);
                self.full += 1;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub fn append_next(&mut self, records: &[Record]) -> Result<(), AppendError<ModelError>> {
        match run(self.store.append_next(&batch_of(records)), || ()) {
            Ok(_) => {
                self.expected.next.extend_from_slice(records);
                Ok(())
            }
            Err(AppendError::Full { .. }) => {
                self.full += 1;
                self.abandon();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    pub fn sync(&mut self) -> Result<(), AppendError<ModelError>> {
        run(self.store.sync(), || ())?;
        self.expected.stable = self.expected.live.len();
        Ok(())
    }

    pub fn begin(&mut self) -> Result<(), AppendError<ModelError>> {
        self.abandon();
        match self.store.begin() {
            Err(AppendError::Full { .. }) => self.full += 1,
            other => other?,
        }
        Ok(())
    }

    pub fn abandon(&mut self) {
        self.store.abandon();
        self.expected.next.clear();
    }

    pub fn switch(&mut self) -> Result<(), AppendError<ModelError>> {
        self.expected.switching = true;
        run(self.store.switch(), || ())?;
        self.expected.switched();
        self.switches += 1;
        Ok(())
    }

    /// One random action.
    pub fn act(&mut self, rng: &mut Mixer) -> Result<(), AppendError<ModelError>> {
        let count = 1 + rng.below(4);
        let records: Vec<Record> = (0..count).map(|_| record(rng)).collect();
        match rng.below(16) {
            0..6 => self.append(&records),
            6..10 => self.sync(),
            10 if !self.store.has_next() => self.begin(),
            10..14 if self.store.has_next() => self.append_next(&records),
            14 if self.store.has_next() => self.switch(),
            15 if rng.below(8) == 0 => {
                self.abandon();
                Ok(())
            }
            _ => self.append(&records),
        }
    }
}
