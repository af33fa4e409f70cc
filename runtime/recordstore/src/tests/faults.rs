//! Devices that fail, fill up, lie, and change what they hold.

use super::crashes::BLOCKS;
use super::harness::{OPTIONS, Run, open};
use crate::batch::Batch;
use crate::error::{AppendError, OpenError};
use crate::model::{Crash, Faults, Mixer, ModelDevice, ModelError, run};
use crate::store::{Options, Sabotage, Store};
use std::vec::Vec;

fn filled(seed: u64, actions: u64) -> (ModelDevice, Run) {
    let device = ModelDevice::new(BLOCKS);
    let mut run = Run::open(&device, Sabotage::None).expect("a blank device");
    let mut rng = Mixer(seed);
    (0..actions).for_each(|_| run.act(&mut rng).expect("a good device"));
    (device, run)
}

/// A bit that flips anywhere in what is stored is either of no matter, or said; what is given out is never wrong, and
/// stable records are never dropped in silence unless nothing later says that they were stable.
#[test]
fn a_changed_block_is_never_given_out() {
    let (mut said, mut cut, mut harmless) = (0, 0, 0);
    for seed in 0..8 {
        let (device, mut run) = filled(seed, 60);
        run.abandon();
        run.sync().expect("a good device");
        // One more chunk, which says that all before were stable.
        let stable = run.expected.live.len();
        run.append(&[std::vec![5; 8]]).expect("a good device");
        let witness = run.expected.live.len() > stable;
        run.sync().expect("a good device");
        let image = device.after(Crash::KeepAll);
        for block in 0..BLOCKS {
            let after = image.after(Crash::KeepAll);
            after.flip(block, (block * 37 % 4096) as usize);
            match open(&after, Sabotage::None) {
                Err(OpenError::Corrupt { .. }) => said += 1,
                Err(error) => panic!("seed {seed}, block {block}: {error}"),
                Ok((_, _, found)) => {
                    assert_eq!(
                        found,
                        run.expected.live.get(..found.len()).unwrap_or(&[]),
                        "seed {seed}, block {block}"
                    );
                    assert!(found.len() >= stable || !witness, "seed {seed}, block {block}: silently lost");
                    if found.len() < run.expected.live.len() { cut += 1 } else { harmless += 1 }
                }
            }
        }
    }
    assert!(said > 100 && cut > 0 && harmless > 100, "said {said}, cut {cut}, harmless {harmless}");
}

/// A device that says it has flushed and has not: either a prefix comes back, or the loss is said.
#[test]
fn a_lost_flush_loses_no_more_than_it_lied_about_or_is_said() {
    let (mut said, mut prefixes) = (0, 0);
    for seed in 0..40 {
        let device = ModelDevice::new(BLOCKS);
        let lose_flush_at = Some(2 + seed % 12);
        device.set_faults(Faults { lose_flush_at, ..Faults::default() });
        let mut run = Run::open(&device, Sabotage::None).expect("a blank device");
        let mut rng = Mixer(seed);
        while device.flushes() < 16 {
            let records: Vec<_> = (0..3).map(|_| super::harness::record(&mut rng)).collect();
            run.append(&records).expect("a device that seems good");
            if run.full > 0 {
                break;
            }
            run.sync().expect("a device that seems good");
            if Some(device.flushes()) == lose_flush_at.map(|at| at + 1 + seed % 2) {
                break;
            }
        }
        match open(&device.after(Crash::Blocks(seed)), Sabotage::None) {
            Err(OpenError::Corrupt { .. }) => said += 1,
            Err(error) => panic!("seed {seed}: {error}"),
            Ok((_, _, found)) => {
                assert_eq!(found, run.expected.live.get(..found.len()).unwrap_or(&[]), "seed {seed}");
                prefixes += 1;
            }
        }
    }
    assert!(prefixes > 5, "said {said}, prefixes {prefixes}");
}

/// A lost flush whose loss a later chunk contradicts is said.
#[test]
fn a_flush_that_was_lost_before_others_that_were_not_is_said() {
    let device = ModelDevice::new(BLOCKS);
    let mut store = Run::open(&device, Sabotage::None).expect("a blank device");
    store.append(&[std::vec![1; 8]]).expect("a good device");
    let first = device.after(Crash::KeepAll);
    store.sync().expect("a good device");
    store.append(&[std::vec![2; 8]]).expect("a good device");
    store.sync().expect("a good device");
    let after = device.after(Crash::KeepAll);
    // As if the first chunk had never arrived.
    let blank = ModelDevice::new(BLOCKS);
    let chunk = (16..BLOCKS).find(|&block| first.block(block) != blank.block(block)).expect("the first chunk");
    after.set_block(chunk, blank.block(chunk));
    let error = open(&after, Sabotage::None).err();
    assert_eq!(error, Some(OpenError::Corrupt { chunk: 0, block: chunk, stable_chunks: 1 }));
}

/// What is damaged in the middle is refused, and cut off for good when that is asked for: what was before it is there, what
/// is appended then is there the next time, and nothing that was cut off comes back.
#[test]
fn a_damaged_log_is_cut_only_when_that_is_asked_for() {
    let cut = Options { cut_damaged: true, ..OPTIONS };
    let (mut lost_some, mut came_far) = (0, 0);
    for seed in 0..60 {
        let device = ModelDevice::new(BLOCKS);
        let mut run_of = Run::open(&device, Sabotage::None).expect("a blank device");
        let mut rng = Mixer(seed);
        for _ in 0..12 {
            let records: Vec<_> = (0..2).map(|_| super::harness::record(&mut rng)).collect();
            run_of.append(&records).expect("a good device");
            run_of.sync().expect("a good device");
        }
        let before = run_of.expected.live.clone();
        let damaged = device.after(Crash::KeepAll);
        let chunks: Vec<u64> = (16..BLOCKS).filter(|&block| damaged.block(block) != [0; 512]).collect();
        let victim = chunks[(rng.next() % chunks.len() as u64) as usize];
        let mut block = damaged.block(victim);
        block[9] ^= 0x40;
        damaged.set_block(victim, block);
        if !matches!(open(&damaged, Sabotage::None), Err(OpenError::Corrupt { .. })) {
            // Padding, or the last chunk, of which nobody says that it was stable.
            continue;
        }
        let mut found = Vec::new();
        let opened = run(Store::open(damaged.clone(), cut, |record| found.push(record.to_vec())), || ());
        let (mut store, replayed) = opened.expect("it was asked for");
        assert!(replayed.lost_chunks > 0, "seed {seed}");
        assert_eq!(found, before[..found.len()], "seed {seed}");
        lost_some += usize::from(found.len() < before.len());
        for round in 0..8_u8 {
            let mut batch = Batch::new();
            let record = std::vec![round; 40];
            batch.push(&record);
            run(store.append(&batch), || ()).expect("a good device");
            run(store.sync(), || ()).expect("a good device");
            found.push(record);
        }
        // Without asking for anything, at this opening and the next.
        for _ in 0..2 {
            let (_, replayed, again) = open(&damaged.after(Crash::KeepAll), Sabotage::None).expect("it is whole again");
            assert_eq!((again == found, replayed.lost_chunks), (true, 0), "seed {seed}");
        }
        came_far += 1;
    }
    assert!(lost_some > 20 && came_far > 20, "{lost_some}, {came_far}");
}

/// An operation that fails anywhere leaves what was stable; the log takes no more; a new log heals it.
#[test]
fn an_error_of_the_device_is_survived_everywhere_and_healed_by_a_new_log() {
    let (mut errors, mut broken, mut retried) = (0, 0, 0);
    for seed in 0..12 {
        let (device, _) = filled(seed, 60);
        for fail_at in 4..device.changes() {
            let device = ModelDevice::new(BLOCKS);
            device.set_faults(Faults { fail_at: Some(fail_at), ..Faults::default() });
            let mut run = Run::open(&device, Sabotage::None).expect("the first writes are good");
            let mut rng = Mixer(seed);
            let error = (0..60).find_map(|_| run.act(&mut rng).err());
            // A failed discard is nobody's error.
            let Some(error) = error else { continue };
            assert_eq!(error, AppendError::Device(ModelError::Io), "seed {seed}, operation {fail_at}");
            errors += 1;
            let (_, _, found) = open(&device.after(Crash::Blocks(fail_at)), Sabotage::None).expect("a store");
            run.expected.judge(&found).unwrap_or_else(|error| panic!("seed {seed}, operation {fail_at}: {error}"));
            if run.store.is_switching() {
                retried += 1;
                assert_eq!(run.append(&[std::vec![1]]).err(), Some(AppendError::Broken));
                run.switch().expect("the second time it works");
            } else if run.store.is_broken() {
                broken += 1;
                assert_eq!(run.sync().err(), Some(AppendError::Broken));
                run.begin().expect("room for a new log");
                if !run.store.has_next() {
                    continue;
                }
                run.append_next(&[std::vec![9; 100]]).expect("a good device");
                run.switch().expect("a good device");
            }
            run.append(&[std::vec![1; 10]]).expect("healed");
            run.sync().expect("healed");
            let (_, _, found) = open(&device.after(Crash::LoseAll), Sabotage::None).expect("a store");
            assert_eq!(run.expected.judge(&found), Ok(()), "seed {seed}, operation {fail_at}");
        }
    }
    assert!(errors > 300 && broken > 100 && retried > 10, "errors {errors}, broken {broken}, retried {retried}");
}

#[test]
fn a_full_store_loses_nothing_and_leaves_room_for_a_successor() {
    let device = ModelDevice::new(BLOCKS);
    let mut run = Run::open(&device, Sabotage::None).expect("a blank device");
    while run.full == 0 {
        run.append(&[std::vec![3; 700]]).expect("a good device");
    }
    run.sync().expect("a good device");
    let usage = run.store.usage();
    assert_eq!(usage.live_bytes / usage.segment_bytes + 1, usage.live_limit as u64);
    let (_, _, found) = open(&device.after(Crash::LoseAll), Sabotage::None).expect("a store");
    assert_eq!((found.len(), run.expected.judge(&found)), (run.expected.live.len(), Ok(())));
    run.begin().expect("room");
    for _ in 0..run.expected.live.len() / 3 {
        run.append_next(&[std::vec![4; 700]]).expect("a good device");
    }
    assert!(run.store.has_next(), "half of a full log fits beside it");
    run.switch().expect("a good device");
    run.full = 0;
    run.append(&[std::vec![3; 700]]).expect("a good device");
    assert_eq!(run.full, 0);
}

#[test]
fn a_failing_read_is_an_error_of_the_device() {
    let (device, _) = filled(3, 40);
    let image = device.after(Crash::KeepAll);
    let mut failed = 0;
    for number in 0..40 {
        let after = image.after(Crash::KeepAll);
        after.set_faults(Faults { fail_read_at: Some(number), ..Faults::default() });
        match open(&after, Sabotage::None) {
            Err(error) => {
                assert_eq!(error, OpenError::Device(ModelError::Io));
                failed += 1;
            }
            Ok(_) => assert!(number > 3, "read {number}"),
        }
    }
    assert!(failed > 3);
}
