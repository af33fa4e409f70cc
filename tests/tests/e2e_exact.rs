//! Epochs that the machine ends after an exact number of instructions, whatever the guest does.

use pollux_tests::client::Client;
use pollux_tests::guests::{epoch_of, epochs_alike, found_out_in_the_first_full_epoch, say_hello};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::seed;

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
    epochs_alike(&mut pair, seed, EPOCHS, say_hello);
    pair.down();
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
    for _ in 0..3 {
        let mut pair = Pair::up(&Options::new("dhrystone").with(&["--epoch", "exact:50000", "--args", "serve"]));
        let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
        let before = epoch_of(&pair.status(), Role::Backup);
        client.send(b"run 1000000\n").expect("the connection stands");
        let moment = before + rng.between(1, 4_000);
        pair.wait_until("the chosen epoch", |status| (epoch_of(status, Role::Backup) >= moment).then_some(()));
        pair.kill(Role::Primary, "KILL");
        assert_eq!(client.line().expect("the connection lives on"), "dhrystone: runs=1000000 ok");
        pair.wait_for_solo(2);
        pair.down();
    }
}

/// The counter's own numbers are measured on each machine; one whose instructions take another time is found out.
#[test]
fn a_machine_that_counts_otherwise_is_refused() {
    let other = ["--backup-qemu-arg=-icount", "--backup-qemu-arg=shift=4,sleep=on"];
    let mut pair = Pair::up(&Options::new("probe").with(&["--epoch", LENGTH]).with(&other));
    let status = pair.wait_until("the end of the backup", |status| (status.ended.len() == 1).then(|| status.clone()));
    assert!(status.ended[0].reason.contains("exact epochs cannot be had"), "{}", status.ended[0].reason);
    pair.down();
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
