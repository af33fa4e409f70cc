//! Promotion, in every order of events within small bounds.

use pollux_tests::model::{Bounds, Pair};
use protocol::Discipline;
use stateright::{Checker, Model};

/// Long histories, one suspicion at a time: who is not told of a failure does not guess.
const LONG: Bounds = Bounds {
    discipline: Discipline::Revised,
    epochs: 3,
    crashes: 1,
    cuts: 1,
    repeats: 1,
    idle_ticks: 0,
    denial_ignored: false,
};

/// Short histories in which both replicas may also suspect each other without a reason.
const SUSPICIOUS: Bounds = Bounds { epochs: 1, repeats: 0, idle_ticks: 1, ..LONG };

fn check(bounds: Bounds) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = Pair(bounds).checker().threads(threads).spawn_bfs().join();
    println!("{bounds:?}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

#[test]
fn model_revised_long() {
    check(LONG);
}

#[test]
fn model_revised_suspicious() {
    check(SUSPICIOUS);
}

#[test]
fn model_original_long() {
    check(Bounds { discipline: Discipline::Original, ..LONG });
}

/// A model that finds nothing in a broken pair would prove nothing about a sound one.
#[test]
fn model_finds_a_denial_ignored() {
    let bounds = Bounds { denial_ignored: true, crashes: 0, ..LONG };
    let checker = Pair(bounds).checker().spawn_bfs().join();
    let path = checker.discovery("no judge objects").expect("two active replicas are found");
    println!("{} steps to two active replicas", path.into_actions().len());
}
