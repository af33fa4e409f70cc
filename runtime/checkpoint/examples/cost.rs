//! What finding changes costs, and what going on while a checkpoint is written does: natively, medians of one interleaved
//! run. `cargo run --release -p user-checkpoint --example cost`

use std::time::Instant;

use recordstore::model::{Mixer, run};
use user_checkpoint::{BLOCK_BYTES, Checkpoints, Memory, Region, Target};

const REGION_BYTES: usize = 64 << 20;
const BLOCKS: usize = REGION_BYTES / BLOCK_BYTES;
const ROUNDS: usize = 15;

/// What is done to the region before a checkpoint, and what that shows.
const CASES: [(&str, usize, bool); 5] = [
    ("nothing is written to", 0, true),
    ("100 blocks are", 100, true),
    ("1,000 blocks are", 1_000, true),
    ("all are marked, 100 differ (hashes alone)", 100, false),
    ("all are marked, 1,000 differ (hashes alone)", 1_000, false),
];

fn change(region: &Region, count: usize, exactly: bool, round: u64) {
    let mut mixer = Mixer(round);
    let places: Vec<usize> = (0..count).map(|_| mixer.below(BLOCKS as u64) as usize * BLOCK_BYTES).collect();
    if exactly {
        places.iter().for_each(|&at| region.change(at..at + 8, |bytes| bytes.copy_from_slice(&round.to_le_bytes())));
    } else {
        region.change_all(|bytes| {
            places.iter().for_each(|&at| bytes[at..at + 8].copy_from_slice(&round.to_le_bytes()));
        });
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let checkpoints = Checkpoints::new("cost");
    let mut mixer = Mixer(1);
    let content: Vec<u8> = (0..REGION_BYTES / 8).flat_map(|_| mixer.next().to_le_bytes()).collect();
    let region = checkpoints.region("region", content, &[]).expect("registered");
    let memory = Memory::new(4 * REGION_BYTES as u64);
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let mut takes = vec![Vec::new(); CASES.len()];
    let mut totals = vec![Vec::new(); CASES.len()];
    let mut bytes = vec![0; CASES.len()];
    let (mut full_take, mut full_total, mut copies, mut forked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let started = Instant::now();
        let draft = checkpoints.full("cost", &memory).expect("taken");
        full_take.push(ms(started));
        run(draft.commit(), || ()).expect("committed");
        full_total.push(ms(started));
        for (case, &(_, count, exactly)) in CASES.iter().enumerate() {
            change(&region, count, exactly, 10 * round + case as u64 + 1);
            let started = Instant::now();
            let draft = checkpoints.incremental("cost", &memory).expect("taken");
            takes[case].push(ms(started));
            bytes[case] = run(draft.commit(), || ()).expect("committed").bytes;
            totals[case].push(ms(started));
        }
        let started = Instant::now();
        let copy = region.with(<[u8]>::to_vec);
        copies.push(ms(started));
        drop(copy);
        let draft = checkpoints.full("cost", &memory).expect("taken");
        let started = Instant::now();
        change(&region, 1_000, true, round + 100);
        forked.push(ms(started));
        drop(draft);
        let newest = memory.newest("cost").expect("there is one").sequence;
        assert!(newest > 0);
    }
    println!("a region of {} MiB, {ROUNDS} rounds, medians", REGION_BYTES >> 20);
    println!("full: taken in {:.3} ms, written in {:.1} ms", median(full_take), median(full_total));
    println!("for comparison, a copy of the region: {:.1} ms", median(copies));
    println!("1,000 first writes to blocks while it is being written: {:.2} ms", median(forked));
    for (case, (name, ..)) in CASES.iter().enumerate() {
        let (take, total) = (median(takes[case].clone()), median(totals[case].clone()));
        println!("incremental, {name}: taken in {take:.3} ms, written in {total:.2} ms, {} bytes", bytes[case]);
    }
}
