//! Algorithms 1 and 2 against what they claim: the interval loses least, and chains are bounded.

use checkpoints::chain::{Chain, Length};
use checkpoints::periodic::{Periodic, daly_ns, young_ns};
use proptest::prelude::*;
use recordstore::model::{Mixer, run};
use runtime::checkpoint::{Checkpoints, Kind, Memory, Target};

/// Time that a program loses, as a part of the time that it works: failures come at random, once in `mean` on average (an
/// exponential distribution), and hit work and checkpoints alike.
fn simulated_loss(interval: f64, cost: f64, mean: f64, failures: u32, seed: u64) -> f64 {
    let mut mixer = Mixer(seed);
    let mut exponential = || -(1.0 - mixer.next() as f64 / 2_f64.powi(64)).ln() * mean;
    let (mut elapsed, mut worked) = (0.0, 0.0);
    for _ in 0..failures {
        let until = exponential();
        // Whole intervals with their checkpoints; the rest is lost.
        worked += (until / (interval + cost)).floor() * interval;
        elapsed += until;
    }
    elapsed / worked.max(f64::MIN_POSITIVE) - 1.0
}

/// The same, exactly: the mean time that an interval takes is mean (e^((interval + cost) / mean) - 1).
fn expected_loss(interval: f64, cost: f64, mean: f64) -> f64 {
    mean * (((interval + cost) / mean).exp() - 1.0) / interval - 1.0
}

/// The interval that loses least, by trying very many.
fn best(cost: f64, mean: f64) -> f64 {
    let tried = (1..40_000).map(|step| mean * f64::from(step) / 10_000.0);
    tried
        .min_by(|one, other| expected_loss(*one, cost, mean).total_cmp(&expected_loss(*other, cost, mean)))
        .expect("many")
}

const COSTS_BY_MEAN: [f64; 5] = [0.0001, 0.001, 0.01, 0.1, 0.5];
const MEAN_NS: u64 = 60_000_000_000;

#[test]
fn the_interval_is_the_one_that_loses_least() {
    for ratio in COSTS_BY_MEAN {
        let mean = MEAN_NS as f64;
        let cost = ratio * mean;
        let least = expected_loss(best(cost, mean), cost, mean);
        let [young, daly] =
            [young_ns, daly_ns].map(|interval| expected_loss(interval(cost as u64, MEAN_NS) as f64, cost, mean));
        println!("cost/mean {ratio}: least {least:.5}, Young {young:.5}, Daly {daly:.5}");
        assert!(daly < least * 1.002, "Daly loses {daly}, the best {least}");
        assert!(daly <= young && young < least * 1.2, "Young loses {young}");
    }
}

#[test]
fn the_formula_is_what_happens() {
    for ratio in COSTS_BY_MEAN {
        let mean = MEAN_NS as f64;
        let cost = ratio * mean;
        let interval = daly_ns(cost as u64, MEAN_NS) as f64;
        let loss = |factor: f64| simulated_loss(interval * factor, cost, mean, 100_000, 7);
        let (shorter, at, longer) = (loss(0.4), loss(1.0), loss(2.5));
        let expected = expected_loss(interval, cost, mean);
        println!("cost/mean {ratio}: {shorter:.4} {at:.4} {longer:.4}, expected {expected:.4}");
        assert!((at / expected - 1.0).abs() < 0.05, "simulated {at}, expected {expected}");
        assert!(at < shorter && at < longer, "{shorter} {at} {longer}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn intervals_are_always_sensible(cost in any::<u64>(), mean in any::<u64>()) {
        let interval = daly_ns(cost, mean);
        prop_assert!(interval <= mean.max(1) || interval <= young_ns(cost, mean).saturating_mul(2));
        let mut periodic = Periodic { mean_failure_ns: mean, cost_ns: cost };
        (0..600).for_each(|_| periodic.note_cost(8_000));
        prop_assert!(periodic.cost_ns < 9_000);
    }

    #[test]
    fn chains_are_bounded_whatever_is_changed(most_links in 0_usize..6, changes in proptest::collection::vec(0_usize..40, 1..40)) {
        let checkpoints = Checkpoints::new("chain");
        let region = checkpoints.region("region", vec![1; 20 * 4096], &[]).expect("registered");
        let (memory, chain) = (Memory::new(8 << 20), Chain { most_links });
        for (round, blocks) in changes.into_iter().enumerate() {
            for block in 0..blocks.min(20) {
                region.change(block * 4096..block * 4096 + 1, |byte| byte[0] = round as u8);
            }
            let before = Length::of(&memory, "c");
            let entry = run(chain.take(&checkpoints, "c", &memory), || ()).expect("there is room");
            let after = Length::of(&memory, "c");
            prop_assert!(after.links <= most_links);
            prop_assert_eq!(after.links + 1, memory.entries().len());
            // One link may be as large as all of the region.
            prop_assert!(after.links_bytes <= 2 * after.full_bytes + 1000, "{after:?}");
            let forced = before.links == most_links || before.links_bytes >= before.full_bytes;
            prop_assert_eq!(entry.kind(), if forced { Kind::Full } else { Kind::Incremental });
        }
    }
}
