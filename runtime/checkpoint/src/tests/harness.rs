//! A small program with something of each kind to save.

use std::vec::Vec;

use recordstore::model;
use serde::{Deserialize, Serialize};

use crate::{Checkpoints, Region, Value};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ledger {
    pub(super) transfers: u64,
    pub(super) names: Vec<std::string::String>,
}

/// Two regions, one with scratch in it, and a value.
pub(super) struct Program {
    pub(super) checkpoints: Checkpoints,
    pub(super) table: Region,
    pub(super) odd: Region,
    pub(super) ledger: Value<Ledger>,
}

pub(super) const TABLE_BYTES: usize = 10 * crate::BLOCK_BYTES;
pub(super) const ODD_BYTES: usize = 3 * crate::BLOCK_BYTES + 77;
/// In the middle of a block, over a boundary, and a whole block.
pub(super) const SCRATCH: [core::ops::Range<usize>; 3] = [100..200, 4000..4200, 8192..12288];

impl Program {
    pub(super) fn new() -> Self {
        Self::of("program", 1)
    }

    pub(super) fn of(name: &str, version: u32) -> Self {
        let checkpoints = Checkpoints::new(name);
        let table = checkpoints.region("table", std::vec![0; TABLE_BYTES], &[]).expect("a new name");
        let odd = checkpoints.region("odd", std::vec![1; ODD_BYTES], &SCRATCH).expect("a new name");
        let ledger = Ledger { transfers: 0, names: Vec::new() };
        let ledger = checkpoints.value("ledger", version, ledger).expect("a new name");
        Self { checkpoints, table, odd, ledger }
    }

    /// Everything that is saved.
    pub(super) fn saved(&self) -> (Vec<u8>, Vec<u8>, Ledger) {
        let odd = self.odd.with(|bytes| {
            let saved = |(at, _): &(usize, &u8)| !SCRATCH.iter().any(|range| range.contains(at));
            bytes.iter().enumerate().filter(saved).map(|(_, byte)| *byte).collect()
        });
        (self.table.with(<[u8]>::to_vec), odd, self.ledger.with(Clone::clone))
    }

    /// Changes something here and there, as the number says.
    pub(super) fn change(&self, number: u64) {
        let mut mixer = model::Mixer(number);
        for _ in 0..3 {
            let at = mixer.below(TABLE_BYTES as u64 - 100) as usize;
            self.table.change(at..at + 100, |bytes| bytes.fill(mixer.next() as u8));
        }
        let at = mixer.below(ODD_BYTES as u64) as usize;
        self.odd.change(at..at + 1, |bytes| bytes[0] ^= 0x55);
        if mixer.below(2) == 0 {
            self.ledger.change(|ledger| {
                ledger.transfers += 1;
                ledger.names.push(std::format!("transfer {number}"));
            });
        }
    }
}

/// Runs a future that only ever lets others run.
pub(super) fn run<F: Future>(future: F) -> F::Output {
    model::run(future, || ())
}
