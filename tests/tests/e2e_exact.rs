//! Epochs that the machine ends after an exact number of instructions, whatever the guest does.

use pollux_tests::guests::{
    self, epochs_alike, found_out_in_the_first_full_epoch, refused_where_the_machine_counts_otherwise, say_hello,
    survives_its_primary_while_computing,
};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::workbench::{epochs, moments, seed};

/// Instructions of an epoch.
const LENGTH: &str = "exact:10000";
/// Epochs of full length that both replicas must have run alike.
const EPOCHS: u64 = 10_000;

/// The digest of an epoch covers registers, flags, vector registers and the count of instructions, so a replica that
/// was cut one instruction earlier or later than its peer is found out in that epoch.
#[test]
fn both_replicas_are_cut_at_the_same_instruction_whatever_comes_in() {
    let seed = seed("random traffic at exact epochs");
    let mut pair = Pair::up(&Options::new("probe").alone().with(&["--epoch", LENGTH]));
    epochs_alike(&mut pair, seed, epochs(EPOCHS), say_hello);
    pair.down();
}

#[test]
fn every_shape_of_loop_is_cut() {
    guests::every_shape_of_loop_is_cut(&Options::new("probe").with(&["--epoch", "exact:20000"]));
}

#[test]
fn a_replica_cut_one_instruction_late_is_found_out_in_that_epoch() {
    found_out_in_the_first_full_epoch(&Options::new("probe").with(&["--epoch", "exact:5000000"]), 3_000_000);
}

/// A computation that never gives way has no moment of its own at which a backup could take over.
#[test]
fn a_computation_that_never_waits_survives_its_primary() {
    let seed = seed("a kill within a computation");
    let mut rng = Rng::new(seed);
    for _ in 0..moments(3) {
        survives_its_primary_while_computing(&Options::new("dhrystone"), 1_000_000, rng.between(1, 4_000));
    }
}

/// The counter's own numbers are measured on each machine; one whose instructions take another time is found out.
#[test]
fn a_machine_that_counts_otherwise_is_refused() {
    refused_where_the_machine_counts_otherwise(&Options::new("probe").with(&["--epoch", LENGTH]));
}

#[test]
fn a_source_that_cannot_be_had_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 4] = [
        (&["--epoch", "exact:10000", "--accel", "kvm"], "KVM cannot stop a guest after an exact number"),
        (&["--epoch", "exact:7"], "exact:INSTRUCTIONS"),
        (&["--epoch", "sometimes"], "exact:INSTRUCTIONS"),
        (&["--epoch", "exact:"], "exact:INSTRUCTIONS"),
    ];
    for (arguments, expected) in cases {
        let failure = Pair::refused(&Options::new("probe").with(arguments));
        assert_eq!(failure.code, 2, "{arguments:?}: {}", failure.text);
        assert!(failure.text.contains(expected), "{arguments:?}: {}", failure.text);
    }
}
