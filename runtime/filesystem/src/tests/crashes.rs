//! A crash at every moment: what was synced is there, and what is there was meant.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use recordstore::model::{Crash, Faults, ModelDevice};
use std::string::String;
use std::vec::Vec;

use super::reference::{Op, Reference, View, apply, op, view};
use super::{BLOCKS, OPTIONS, mounted, now};
use crate::FileSystem;
use crate::fs::Sabotage;
use crate::replay::Replay;

/// What may be there after a crash: the state of the last sync that has returned, and that of the one under way.
struct Allowed {
    states: Vec<View>,
}

/// A new device with a file system.
fn formatted() -> ModelDevice {
    let device = ModelDevice::new(BLOCKS);
    mounted(&device);
    device.after(Crash::KeepAll)
}

/// Runs operations until the power goes: what may be there then.
fn run_until_off(device: &ModelDevice, ops: &[Op], sabotage: Sabotage, power_off_after: Option<u64>) -> Allowed {
    let mut fs = mounted(device);
    fs.sabotage = sabotage;
    fs.space.eager = true;
    // Counted from here on: the mount itself has its own test.
    let power_off_after = power_off_after.map(|count| device.changes() + count);
    device.set_faults(Faults { power_off_after, ..Faults::default() });
    let mut reference = Reference::default();
    let mut states = Vec::from([reference.view()]);
    for op in ops {
        if matches!(op, Op::Sync) {
            states.push(reference.view());
        }
        let before = device.changes();
        let done = apply(&mut fs, op);
        let is_off = power_off_after.is_some_and(|count| device.changes() >= count) && done.is_err();
        if is_off {
            // Writing out early makes nothing stable, so it is not a state of its own.
            return Allowed { states };
        }
        let expected = reference.apply(op);
        assert_eq!(done.is_ok(), expected, "{op:?}: {done:?}, {} changes", device.changes() - before);
        if matches!(op, Op::Sync) {
            states = Vec::from([reference.view()]);
        }
    }
    assert_eq!(view(&mut fs).expect("it can be read"), reference.view(), "while it is mounted");
    Allowed { states }
}

/// Whether what is left after a crash is allowed; why not otherwise.
fn check_after(device: &ModelDevice, crash: Crash, allowed: &Allowed, sabotage: Sabotage) -> Result<(), String> {
    let device = device.after(crash);
    let mut replay = Replay::new(OPTIONS.metadata_bytes);
    replay.believe_halves = sabotage == Sabotage::BelieveHalves;
    let mount = now(FileSystem::mount_with(device.clone(), OPTIONS, &mut replay));
    let (mut fs, _) = mount.map_err(|error| std::format!("{crash:?}: it does not mount: {error}"))?;
    fs.sabotage = sabotage;
    let seen = view(&mut fs).map_err(|error| std::format!("{crash:?}: it cannot be read: {error}"))?;
    if !allowed.states.contains(&seen) {
        let shown = |(path, (bytes, names)): (&Vec<u8>, &(Vec<u8>, u32))| {
            (String::from_utf8_lossy(path).into_owned(), bytes.len(), *names)
        };
        let names = |view: &View| view.iter().map(shown).collect::<Vec<_>>();
        let expected: Vec<_> = allowed.states.iter().map(names).collect();
        return Err(std::format!("{crash:?}: found {:?}, expected one of {expected:?}", names(&seen)));
    }
    // It goes on from there.
    let mut reference_op = |op: &Op| apply(&mut fs, op);
    reference_op(&Op::Write { path: b"new".to_vec(), offset: 5, bytes: 5000, fill: 9 })
        .and_then(|()| reference_op(&Op::Sync))
        .map_err(|error| std::format!("{crash:?}: it does not go on: {error}"))?;
    let before = view(&mut fs).map_err(|error| std::format!("{error}"))?;
    let after = view(&mut mounted(&device.after(Crash::LoseAll))).map_err(|error| std::format!("{error}"))?;
    if before == after { Ok(()) } else { Err(std::format!("{crash:?}: the next sync has lost something")) }
}

/// Tries crashes at `points` moments, in all ways.
fn crash_everywhere(ops: &[Op], seed: u64, points: u64, sabotage: Sabotage) -> Result<(), String> {
    let device = formatted();
    let quiet = device.after(Crash::KeepAll);
    let before = {
        mounted(&quiet);
        quiet.changes()
    };
    let counted = device.after(Crash::KeepAll);
    run_until_off(&counted, ops, Sabotage::None, None);
    let changes = counted.changes().saturating_sub(before);
    let step = (changes / points).max(1);
    for at in (seed % step..=changes).step_by(step as usize) {
        let device = device.after(Crash::KeepAll);
        let allowed = run_until_off(&device, ops, sabotage, Some(at));
        for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Blocks(seed ^ at), Crash::Bytes(seed ^ at)] {
            check_after(&device, crash, &allowed, sabotage).map_err(|why| std::format!("after {at} changes: {why}"))?;
        }
    }
    Ok(())
}

fn cases() -> impl Strategy<Value = (Vec<Op>, u64)> {
    (prop::collection::vec(op(), 1..24), any::<u64>())
}

#[test]
fn what_was_synced_is_there_after_a_crash_at_any_moment() {
    let mut runner = TestRunner::new(Config { cases: 40, ..Config::default() });
    let outcome = runner
        .run(&cases(), |(ops, seed)| crash_everywhere(&ops, seed, 24, Sabotage::None).map_err(TestCaseError::fail));
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// A test that finds no mistake proves nothing: each of these must be found.
#[test]
fn mistakes_are_found() {
    for sabotage in [Sabotage::NoDataFlush, Sabotage::FreeAtOnce] {
        let mut runner = TestRunner::deterministic();
        let strategy = cases();
        let found = (0..200).any(|_| {
            let tree = strategy.new_tree(&mut runner).expect("a case");
            let (ops, seed) = proptest::strategy::ValueTree::current(&tree);
            crash_everywhere(&ops, seed, 24, sabotage).is_err()
        });
        assert!(found, "{sabotage:?} was not found");
    }
}

/// Crashes during a commit that is too long for one chunk of the log: how often a part of it was there alone.
fn halves(sabotage: Sabotage) -> usize {
    const FILES: usize = 200;
    let mut halves = 0;
    let device = formatted();
    for at in 0.. {
        let device = device.after(Crash::KeepAll);
        let mut fs = mounted(&device);
        for number in 0..FILES {
            fs.create_file(crate::ROOT, std::format!("{number}").as_bytes(), 0o644, 1).expect("made");
        }
        device.set_faults(Faults { power_off_after: Some(device.changes() + at), ..Faults::default() });
        let synced = now(fs.sync()).is_ok();
        for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Blocks(at), Crash::Bytes(at)] {
            let mut replay = Replay::new(OPTIONS.metadata_bytes);
            replay.believe_halves = sabotage == Sabotage::BelieveHalves;
            let mounted = now(FileSystem::mount_with(device.after(crash), OPTIONS, &mut replay));
            // What is believed by halves may make no sense at all.
            let Ok((mut fs, _)) = mounted else {
                halves += 1;
                continue;
            };
            let found = view(&mut fs).map_or(1, |view| view.len());
            halves += usize::from(found != 0 && found != FILES);
            assert!(!synced || found == FILES, "{crash:?} after the sync");
        }
        if synced {
            assert!(at >= 5, "there were several chunks: {at} changes");
            break;
        }
    }
    halves
}

#[test]
fn a_commit_of_several_chunks_is_there_as_a_whole_or_not_at_all() {
    assert_eq!(halves(Sabotage::None), 0);
    assert!(halves(Sabotage::BelieveHalves) > 0, "the test would not notice");
}

/// Formatting and mounting are interrupted, too.
#[test]
fn a_crash_while_it_is_made_leaves_a_device_that_can_be_made_anew() {
    let counted = ModelDevice::new(BLOCKS);
    mounted(&counted);
    for at in 0..=counted.changes() {
        for seed in 0..12 {
            let device = ModelDevice::new(BLOCKS);
            device.set_faults(Faults { power_off_after: Some(at), ..Faults::default() });
            let _ = super::mount(&device);
            let crash = if seed % 2 == 0 { Crash::Blocks(seed) } else { Crash::Bytes(seed) };
            let after = device.after(crash);
            assert!(view(&mut mounted(&after)).expect("readable").is_empty(), "after {at} changes, {crash:?}");
        }
    }
}
