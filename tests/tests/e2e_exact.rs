//! Epochs that the machine ends after an exact number of instructions, whatever the guest does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use pollux_tests::client::Client;
use pollux_tests::guests::{
    self, ask, computed, epochs_alike, found_out_in_the_first_full_epoch, full_epochs_of,
    refused_where_the_machine_counts_otherwise, say_hello, survives_its_primary_while_computing,
};
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::{Role, Status};
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
        survives_its_primary_while_computing(&Options::new("dhrystone"), 4_000_000, rng.between(1, 4_000));
    }
}

/// The counter's own numbers are measured on each machine; one whose instructions take another time is found out.
#[test]
fn a_machine_that_counts_otherwise_is_refused() {
    refused_where_the_machine_counts_otherwise(&Options::new("probe").with(&["--epoch", LENGTH]));
}

/// What no boundary can go below is measured on a machine that is cut and goes on at once.
#[test]
fn a_machine_that_is_cut_and_nothing_else_computes_the_same() {
    const ROUNDS: u64 = 3_000_000;
    let mut machine = Pair::up(&Options::new("probe").with(&["--cut", "--epoch", LENGTH]));
    let mut client = Client::connect(machine.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut client, &format!("compute {ROUNDS}")), computed(ROUNDS));
    let many = |status: &Status| (full_epochs_of(status, Role::Primary) > ROUNDS / 10_000).then(|| status.mode.clone());
    assert_eq!(machine.wait_until("the guest is cut", many), "cut");
    machine.down();
    let failure = Pair::refused(&Options::new("probe").with(&["--cut"]));
    assert!(failure.text.contains("run mode cut needs exact epochs"), "{}", failure.text);
}

/// The evaluation says how long a primary waits for its backup, and how long outputs do.
#[test]
fn waiting_for_acknowledgements_is_counted() {
    let seed = seed("clients that are kept waiting");
    let heard = |arguments: &[&str], waits: [&str; 2]| {
        let mut pair = Pair::up(&Options::new("probe").with(arguments));
        let (address, over) = (pair.address(7000), AtomicBool::new(false));
        thread::scope(|scope| {
            for lane in 0..3 {
                let over = &over;
                scope.spawn(move || say_hello(address, &mut Rng::new(seed + lane), over));
            }
            let mut client = Client::connect(address).expect("a published port takes connections");
            let told = |status: &Status| {
                let counters = &status.replica(Role::Primary)?.counters;
                let [times, ns] = waits.map(|name| counters[name]);
                let held = counters["output_waits"] > 100 && counters["output_wait_ns"] > counters["output_waits"];
                (times > 10 && ns > times && held).then_some(())
            };
            let until = Instant::now() + DEADLINE;
            let mut counted = false;
            while !counted && Instant::now() < until {
                assert_eq!(ask(&mut client, "compute 100000"), computed(100_000));
                counted = told(&pair.status()).is_some();
            }
            over.store(true, Ordering::Relaxed);
            assert!(counted, "{arguments:?}: {waits:?} of {:?}", pair.status().replicas);
        });
        pair.down();
    };
    heard(&["--epoch", LENGTH, "--protocol", "original"], ["gate_waits", "gate_wait_ns"]);
    heard(&[], ["company_waits", "company_wait_ns"]);
}

#[test]
fn a_source_that_cannot_be_had_is_refused_with_the_reason() {
    let cases: [(&[&str], &str); 5] = [
        (&["--epoch", "exact:10000", "--accel", "kvm"], "KVM cannot stop a guest after an exact number"),
        (&["--epoch", "exact:99"], "exact:INSTRUCTIONS (100 to"),
        (&["--epoch", "counted:9"], "counted:TICKS (10 to"),
        (&["--epoch", "sometimes"], "exact:INSTRUCTIONS"),
        (&["--epoch", "exact:"], "exact:INSTRUCTIONS"),
    ];
    for (arguments, expected) in cases {
        let failure = Pair::refused(&Options::new("probe").with(arguments));
        assert_eq!(failure.code, 2, "{arguments:?}: {}", failure.text);
        assert!(failure.text.contains(expected), "{arguments:?}: {}", failure.text);
    }
}
