//! Thousands of simulated pairs, each from one seed.
//!
//! `POLLUX_SEED=… cargo test -p pollux-tests simulation` replays one seed with its trace; `POLLUX_SEEDS=…` changes how
//! many are run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::{panic, thread};

use pollux_tests::sim::{self, Canary, Mark, Marks};

/// Seeds of an ordinary run.
const SEEDS: u64 = 12_000;
/// Seeds within which each canary must be caught.
const CANARY_SEEDS: u64 = 1_500;

fn number(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

/// Replays one seed and panics with its trace if it fails.
fn replay(seed: u64) {
    println!("seed {seed}");
    let report = sim::run_traced(seed);
    for line in &report.trace {
        println!("{line}");
    }
    println!("{:#?}", report.settings);
    if let Err(text) = report.verdict {
        panic!("seed {seed} fails: {text}\nreplay it: POLLUX_SEED={seed} cargo test -p pollux-tests simulation");
    }
    println!("seed {seed} passes after {} steps", report.steps);
}

/// Runs the seeds on all processors; returns the marks and the lowest failing seed.
fn run_all(seeds: u64) -> (Marks, Option<u64>) {
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        let mut marks = Marks::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.min(failed.load(Ordering::Relaxed)) {
                return marks;
            }
            // An assertion of the code under test fails its seed like a judge does.
            match panic::catch_unwind(|| sim::run(seed)) {
                Ok(report) if report.verdict.is_ok() => marks.merge(report.marks),
                _ => {
                    failed.fetch_min(seed, Ordering::Relaxed);
                }
            }
        }
    };
    let marks = thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        handles.into_iter().fold(Marks::default(), |mut all, handle| {
            all.merge(handle.join().expect("a worker ends"));
            all
        })
    });
    let failed = failed.into_inner();
    (marks, (failed != u64::MAX).then_some(failed))
}

#[test]
fn simulation() {
    if let Some(seed) = number("POLLUX_SEED") {
        return replay(seed);
    }
    let seeds = number("POLLUX_SEEDS").unwrap_or(SEEDS);
    println!("seeds 0 to {}", seeds - 1);
    let (marks, failed) = run_all(seeds);
    if let Some(seed) = failed {
        replay(seed);
        panic!("seed {seed} failed and passes when it is replayed: something is not a function of the seed");
    }
    let missing: Vec<Mark> = marks.missing().collect();
    assert!(missing.is_empty() || seeds < SEEDS, "paths that no seed took: {missing:?}");
}

#[test]
fn simulation_is_a_function_of_the_seed() {
    for seed in 0..20 {
        let (once, again) = (sim::run_traced(seed), sim::run_traced(seed));
        assert_eq!(once.trace, again.trace, "seed {seed}");
        assert_eq!((once.steps, once.verdict, once.marks), (again.steps, again.verdict, again.marks), "seed {seed}");
    }
}

#[test]
fn simulation_catches_canaries() {
    for canary in [
        Canary::ReleaseBeforeAck,
        Canary::IgnoreDenial,
        Canary::ForgetHeldOutputs,
        Canary::FlushAlone,
        Canary::OvertakeDisk,
        Canary::ForgetState,
        Canary::ForgetChanges,
        Canary::KeepBadCopy,
        Canary::PairUnstable,
        Canary::LeaveUnpaired,
        Canary::PassFault,
        Canary::CopyBusyDisk,
        Canary::LeaveAtOnce,
        Canary::WriteBeforeCommit,
        Canary::OverwriteRead,
        Canary::NoFence,
        Canary::StoredTooSoon,
    ] {
        let caught = (0..CANARY_SEEDS).find_map(|seed| sim::run_with_canary(seed, canary).verdict.err());
        match caught {
            Some(text) => println!("{canary:?}: {text}"),
            None => panic!("no judge has caught {canary:?} within {CANARY_SEEDS} seeds"),
        }
    }
}
