//! The power goes at any moment, and writes are torn: what was committed is there, all of it or nothing of it.

use std::collections::BTreeMap;
use std::vec::Vec;

use recordstore::model::{Crash, Faults, Mixer, ModelDevice};

use super::harness::{Ledger, Program, run};
use crate::target::Sabotage;
use crate::{Archive, Error, Target};

const DEVICE_BLOCKS: u64 = 32 + 330;

type Saved = (Vec<u8>, Vec<u8>, Ledger);

/// What may be found on the device: entries by their numbers. The first is what the program believes; the others are what
/// operations that failed may have made of it.
struct Expected(Vec<BTreeMap<u64, Saved>>);

impl Expected {
    fn new() -> Self {
        Self(std::vec![BTreeMap::new()])
    }

    fn believed(&self) -> BTreeMap<u64, Saved> {
        self.0.first().cloned().unwrap_or_default()
    }
}

/// One life of a program: opens the device, restores, and takes checkpoints.
struct Life {
    program: Program,
    mixer: Mixer,
    sabotage: Sabotage,
    /// Operations of the archive that it does.
    operations: u64,
}

impl Life {
    /// Checks what is found. Returns how many entries were restored.
    async fn find(&self, archive: &Archive<ModelDevice>, expected: &mut Expected) -> Result<usize, &'static str> {
        let numbers: Vec<u64> = archive.entries().iter().map(|entry| entry.sequence).collect();
        let found = expected.0.iter().find(|map| map.keys().copied().eq(numbers.iter().copied()));
        let found = found.ok_or("neither the old entries nor the new ones are there")?.clone();
        for (number, saved) in &found {
            let other = Program::new();
            other.checkpoints.restore(archive, *number).await.map_err(|_| "an entry is damaged")?;
            if other.saved() != *saved {
                return Err("an entry holds something else");
            }
        }
        expected.0 = std::vec![found];
        Ok(numbers.len())
    }

    /// Takes or removes checkpoints. Returns whether the device failed.
    async fn act(&mut self, archive: &Archive<ModelDevice>, expected: &mut Expected) -> bool {
        self.program.change(self.mixer.next());
        let name = ["a", "b"][self.mixer.below(2) as usize];
        let of_name: Vec<u64> =
            archive.entries().iter().filter(|entry| entry.name == name).map(|entry| entry.sequence).collect();
        let checkpoints = &self.program.checkpoints;
        let (mut after, saved) = (expected.believed(), self.program.saved());
        let result = if self.mixer.below(8) == 0 {
            after.retain(|number, _| !of_name.contains(number));
            expected.0.push(after);
            archive.remove(&of_name).await
        } else {
            let incremental = (self.mixer.below(2) == 0).then(|| checkpoints.incremental(name, archive).ok()).flatten();
            let draft = match incremental {
                Some(draft) => draft,
                None => {
                    after.retain(|number, _| !of_name.contains(number));
                    checkpoints.full(name, archive).expect("nothing else is being taken")
                }
            };
            after.insert(draft.sequence(), saved);
            expected.0.push(after);
            draft.commit().await.map(|_| ())
        };
        match result {
            Ok(()) => expected.0 = expected.0.pop().into_iter().collect(),
            Err(Error::Full { .. } | Error::TooMany { .. }) => drop(expected.0.pop()),
            Err(_) => return true,
        }
        false
    }

    async fn live(&mut self, device: &ModelDevice, expected: &mut Expected) -> Result<usize, &'static str> {
        // An opening only reads.
        let archive = Archive::open(device.clone()).await.map_err(|_| "it cannot be opened")?;
        archive.sabotage.set(self.sabotage);
        let found = self.find(&archive, expected).await?;
        if let Some(newest) = archive.entries().last() {
            self.program.checkpoints.restore(&archive, newest.sequence).await.map_err(|_| "it cannot be restored")?;
        }
        // The program goes on after an error, too.
        for _ in 0..self.operations {
            self.act(&archive, expected).await;
        }
        Ok(found)
    }
}

/// Several lives on one device, each cut short. Returns how many entries were restored in all.
fn lives(seed: u64, sabotage: Sabotage) -> Result<usize, &'static str> {
    let mut mixer = Mixer(seed);
    let (mut device, mut expected, mut found) = (ModelDevice::new(DEVICE_BLOCKS), Expected::new(), 0);
    for _ in 0..5 {
        let power_off_after = Some(mixer.below(40));
        device.set_faults(Faults { power_off_after, give_way: true, ..Faults::default() });
        let (program, operations) = (Program::new(), 2 + mixer.below(6));
        let mut life = Life { program, mixer: Mixer(mixer.next()), sabotage, operations };
        found += run(life.live(&device, &mut expected))?;
        device = device.after(match mixer.below(4) {
            0 => Crash::LoseAll,
            1 => Crash::KeepAll,
            2 => Crash::Blocks(mixer.next()),
            _ => Crash::Bytes(mixer.next()),
        });
    }
    Ok(found)
}

/// So many runs of several lives.
fn seeds() -> u64 {
    std::env::var("POLLUX_CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

#[test]
fn committed_checkpoints_survive_crashes() {
    let mut found = 0;
    for seed in 0..seeds() {
        found += lives(seed, Sabotage::None).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    assert!(found as u64 > seeds(), "{found} entries in {} runs: the runs are too short", seeds());
}

#[test]
fn each_mistake_is_found() {
    for sabotage in [Sabotage::CatalogueBeforeFlush, Sabotage::SamePlace, Sabotage::FreeEarly] {
        let caught = (0..10 * seeds()).find(|&seed| lives(seed, sabotage).is_err());
        assert!(caught.is_some(), "{sabotage:?} was not noticed");
        std::println!("{sabotage:?}: seed {caught:?}");
    }
}

/// A catalogue whose write failed may be there or not; what it names must not be written over.
#[test]
fn an_error_of_the_device_leaves_no_doubt_behind() {
    let trial = |seed: u64, sabotage: Sabotage| -> Result<bool, &'static str> {
        let mut mixer = Mixer(seed);
        let device = ModelDevice::new(DEVICE_BLOCKS);
        let archive = run(Archive::open(device.clone())).map_err(|_| "it cannot be opened")?;
        archive.sabotage.set(sabotage);
        let mut expected = Expected::new();
        let mut life = Life { program: Program::new(), mixer: Mixer(mixer.next()), sabotage, operations: 0 };
        for _ in 0..4 {
            run(life.act(&archive, &mut expected));
        }
        let fail_at = Some(device.changes() + mixer.below(8));
        device.set_faults(Faults { fail_at, ..Faults::default() });
        let failed = (0..12).any(|_| run(life.act(&archive, &mut expected)));
        device.set_faults(Faults { power_off_after: Some(device.changes() + mixer.below(12)), ..Faults::default() });
        for _ in 0..3 {
            run(life.act(&archive, &mut expected));
        }
        let archive =
            run(Archive::open(device.after(Crash::Bytes(mixer.next())))).map_err(|_| "it cannot be opened")?;
        run(life.find(&archive, &mut expected)).map(|_| failed)
    };
    let mut failures = 0;
    for seed in 0..seeds() {
        failures += u64::from(trial(seed, Sabotage::None).unwrap_or_else(|error| panic!("seed {seed}: {error}")));
    }
    assert!(failures > seeds() / 2, "{failures} of {} runs had an error", seeds());
    let caught = (0..60 * seeds()).find(|&seed| trial(seed, Sabotage::StayDoubtful).is_err());
    assert!(caught.is_some(), "what stays in doubt was not noticed");
}
