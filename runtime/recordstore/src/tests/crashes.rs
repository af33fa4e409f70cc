//! The power goes at every write and flush of random workloads.

use super::harness::{Expected, Run, open, record};
use crate::model::{Crash, Faults, Mixer, ModelDevice};
use crate::store::Sabotage;
use proptest::prelude::*;
use std::vec::Vec;

/// 24 segments of 4 KiB: a workload goes through them several times.
pub const BLOCKS: u64 = 16 + 24 * 8;

/// What was seen on the way, so that a test which does not reach what it is for fails.
#[derive(Default, Debug)]
pub struct Seen {
    pub crash_points: u64,
    pub full: usize,
    pub switches: usize,
    pub torn: usize,
    pub in_switch: usize,
    pub lost_unsynced: usize,
}

/// Runs `actions` random actions until the power goes after `power_off_after` writes and flushes, on a device that has
/// been through `laps` such runs before. Gives the device and what a crash may leave on it.
fn run_until(
    seed: u64,
    actions: u64,
    power_off_after: Option<u64>,
    sabotage: Sabotage,
    seen: &mut Seen,
) -> (ModelDevice, Expected) {
    let device = ModelDevice::new(BLOCKS);
    device.set_faults(Faults { power_off_after, ..Faults::default() });
    let mut rng = Mixer(seed);
    let Ok(mut run) = Run::open(&device, sabotage) else { return (device, Expected::default()) };
    for _ in 0..actions {
        if run.act(&mut rng).is_err() {
            break;
        }
    }
    seen.full += run.full;
    seen.switches += run.switches;
    (device, run.expected)
}

/// Opens what a crash has left, judges it, goes on from there, crashes again, and judges that.
fn judge(
    device: &ModelDevice,
    expected: &Expected,
    crash: Crash,
    seed: u64,
    sabotage: Sabotage,
    seen: &mut Seen,
) -> Result<(), std::string::String> {
    let after = device.after(crash);
    let (store, replayed, found) = open(&after, sabotage).map_err(|error| std::format!("{crash:?}: {error}"))?;
    drop(store);
    expected.judge(&found).map_err(|error| std::format!("{crash:?}: {error}"))?;
    seen.crash_points += 1;
    seen.torn += usize::from(replayed.torn);
    seen.in_switch += usize::from(expected.switching);
    seen.lost_unsynced += usize::from(found.len() < expected.live.len());
    // A second life: it starts by appending what the first may have left behind the torn tail.
    let mut second = Run::open(&after, sabotage).map_err(|error| std::format!("{crash:?}, again: {error}"))?;
    if second.expected.live != found {
        return Err(std::format!("{crash:?}: opening twice gives different records"));
    }
    let lost: Vec<_> = expected.live.iter().skip(found.len()).take(1).cloned().collect();
    let mut rng = Mixer(seed);
    second.append(&lost).map_err(|error| std::format!("{error}"))?;
    for _ in 0..rng.below(6) {
        second.act(&mut rng).map_err(|error| std::format!("{error}"))?;
    }
    let again = after.after(Crash::Blocks(seed));
    let (_, _, found) = open(&again, sabotage).map_err(|error| std::format!("{crash:?}, second crash: {error}"))?;
    second.expected.judge(&found).map_err(|error| std::format!("{crash:?}, second crash: {error}"))
}

/// Crashes a workload everywhere; says what went wrong first.
pub fn crash_everywhere(
    seed: u64,
    actions: u64,
    sabotage: Sabotage,
    seen: &mut Seen,
) -> Result<(), std::string::String> {
    let (device, _) = run_until(seed, actions, None, sabotage, seen);
    for point in 0..=device.changes() {
        let (device, expected) = run_until(seed, actions, Some(point), sabotage, seen);
        let salt = seed.wrapping_mul(1 << 20).wrapping_add(point);
        for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Blocks(salt), Crash::Bytes(salt)] {
            judge(&device, &expected, crash, salt, sabotage, seen)
                .map_err(|error| std::format!("seed {seed}, power off after {point}: {error}"))?;
        }
    }
    Ok(())
}

#[test]
fn nothing_stable_is_lost_and_nothing_invented_wherever_the_power_goes() {
    let mut seen = Seen::default();
    for seed in 0..24 {
        if let Err(error) = crash_everywhere(seed, 90, Sabotage::None, &mut seen) {
            panic!("{error}");
        }
    }
    std::println!("{seen:?}");
    assert!(seen.crash_points > 5000, "{seen:?}");
    let reached = [seen.full, seen.switches, seen.torn, seen.in_switch, seen.lost_unsynced];
    assert!(reached.iter().all(|&count| count > 20), "{seen:?}");
}

/// A long life of many crashes: openings, laps through all segments, and no memory of any of it.
#[test]
fn a_store_lives_through_many_crashes() {
    for seed in 0..20 {
        let mut rng = Mixer(1000 + seed);
        let mut device = ModelDevice::new(BLOCKS);
        let mut expected = Expected::default();
        for life in 0..40 {
            let mut run = Run::open(&device, Sabotage::None).expect("a store");
            let found = run.expected.live.clone();
            expected.judge(&found).unwrap_or_else(|error| panic!("seed {seed}, life {life}: {error}"));
            let power_off_after = Some(device.changes() + rng.below(60));
            device.set_faults(Faults { power_off_after, ..Faults::default() });
            while run.act(&mut rng).is_ok() {}
            expected = run.expected;
            device = device.after([Crash::Blocks, Crash::Bytes][rng.below(2) as usize](rng.next()));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the sizes, what goes in comes out.
    #[test]
    fn records_of_any_length_come_back(seed: u64, lengths in prop::collection::vec(1usize..20_000, 1..12)) {
        let device = ModelDevice::new(16 + 64 * 64);
        let mut run = Run::open(&device, Sabotage::None).expect("a blank device");
        let mut rng = Mixer(seed);
        for length in lengths {
            let mut one = record(&mut rng);
            one.resize(length, 7);
            run.append(&[one]).expect("a good device");
        }
        run.sync().expect("a good device");
        let (_, replayed, found) = open(&device.after(Crash::LoseAll), Sabotage::None).expect("a store");
        prop_assert_eq!(run.expected.judge(&found), Ok(()));
        prop_assert_eq!(found.len(), run.expected.stable);
        prop_assert!(!replayed.torn);
    }
}
