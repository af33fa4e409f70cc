//! Disks that both replicas share: whoever takes over repeats what was under way, nothing that was promised is lost, and a
//! replica that lost writes nothing any more, whether it was killed, stopped, or only cut off.
//!
//! Run with `cargo test -p pollux-tests --test e2e_shared`. `POLLUX_E2E_MOMENTS=50` tries that many moments of each kind of
//! kill, `POLLUX_SEED` repeats a run.

use pollux_tests::blocks::{Ledger, Mirror, Promise, Writers};
use pollux_tests::contend::Contenders;
use pollux_tests::disks::{
    BLOCKS, DISK_CODE, Files, WRITERS, check_through_guest, connect, kill_both_under_writes, works_on_every_machine,
};
use pollux_tests::guests::{ask, send};
use pollux_tests::pair::{DEADLINE, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, seed, wait_for_end};

fn up(files: &Files) -> Pair {
    files.up(",shared,size=1M")
}

/// What lies in the file.
fn check_file(files: &Files, ledger: &mut Ledger, promise: Promise) {
    let disk = Mirror::shared(&files.stem()).expect("it is there");
    ledger.check(promise, |seed, block| disk.version(seed, block)).expect("what was promised is there");
}

#[test]
fn a_shared_disk_works_on_every_machine() {
    works_on_every_machine("shared-works", ",shared,size=1M", ",shared", |files, mut pair, _| {
        assert_eq!(pair.status().disks[0].kind, "shared");
        pair.down();
        let (code, text) = files.command("inspect", &[]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(", shared, 1048576 bytes") && text.contains("clean"), "{text}");
        assert!(!files.folder().join("disk.0").exists());
    });
}

/// A replica gets a signal while clients write and flush. The other one goes on with all that was said to be written; the
/// one that got it is gone before that.
fn strike_under_writes(role: Role, signal: &str, seed: u64) {
    println!("{role:?} gets {signal} at the moment of seed {seed}");
    let mut rng = Rng::new(seed);
    let files = Files::new(&format!("shared-strike-{role:?}-{signal}"));
    // A stopped process is only known by its silence.
    let timeout = if signal == "STOP" { "1000" } else { "10000" };
    let mut pair = Pair::up(&files.options(",shared,size=1M", &["--failure-timeout-ms", timeout]));
    let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
    writers.wait_for_answers(rng.between(1, 300));
    let struck = pair.status().replicas.iter().find(|replica| replica.role == role).expect("both run").pid;
    pair.kill(role, signal);
    pair.wait_for_solo(2);
    assert!(wait_for_end(struck, DEADLINE), "who lost is gone, and cannot come back");
    writers.wait_for_answers(100);
    let mut ledger = writers.finish(false);
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    pair.down();
    check_file(&files, &mut ledger, Promise::Written);
    let mut pair = up(&files);
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    pair.down();
}

#[test]
fn the_primary_is_killed_while_clients_write() {
    let first = seed("primary killed under writes to a shared disk");
    for seed in first..first + moments(6) {
        strike_under_writes(Role::Primary, "KILL", seed);
    }
}

#[test]
fn the_backup_is_killed_while_clients_write() {
    let first = seed("backup killed under writes to a shared disk");
    for seed in first..first + moments(2) {
        strike_under_writes(Role::Backup, "KILL", seed);
    }
}

#[test]
fn a_primary_that_is_stopped_under_writes_is_ended_before_the_backup_goes_on() {
    let first = seed("primary stopped under writes to a shared disk");
    for seed in first..first + moments(3) {
        strike_under_writes(Role::Primary, "STOP", seed);
    }
}

#[test]
fn both_are_killed_while_clients_write_and_what_was_flushed_is_there() {
    let first = seed("both killed under writes to a shared disk");
    let files = Files::new("shared-both");
    let mut ledger = Ledger::new(first, BLOCKS);
    for seed in first..first + moments(3) {
        ledger = kill_both_under_writes(up(&files), seed, ledger);
        // One file and one page cache: all that was said to be written survives a host that does.
        check_file(&files, &mut ledger, Promise::Written);
    }
    let mut pair = up(&files);
    check_through_guest(&mut pair, &mut ledger, Promise::Stable);
    pair.down();
}

#[test]
fn operations_in_flight_are_repeated_in_their_order() {
    let first = seed("primary killed under overlapping operations");
    let mut uncertain = false;
    for seed in first..first + moments(3) {
        println!("moment of seed {seed}");
        let mut rng = Rng::new(seed);
        let files = Files::new("shared-order");
        // The primary's way to the disk is slow: something is outstanding whenever it dies.
        let mut pair = Pair::up(&files.options(",shared,size=1M", &["--disk-fault", "0:data:slow:4096"]));
        let mut client = connect(&mut pair);
        let mut watch = connect(&mut pair);
        send(&mut client, "disk data overlap 1000 3000");
        for _ in 0..rng.between(1, 20) {
            assert_eq!(ask(&mut watch, "hello"), "hello");
        }
        pair.kill(Role::Primary, "KILL");
        assert_eq!(client.line().expect("an answer"), "in order 6000 of 6000");
        uncertain |= pair.wait_for_solo(2).count("requests to shared disks are uncertain") > 0;
        pair.down();
    }
    assert!(uncertain, "not one kill came while something was outstanding: nothing was tried");
}

#[test]
fn clients_that_contend_for_blocks_see_one_order_whoever_serves() {
    let first = seed("primary killed while clients contend");
    for (kind, options) in [("shared", ",shared,size=1M"), ("mirrored", ",size=1M")] {
        for seed in first..first + moments(3) {
            println!("{kind}, moment of seed {seed}");
            let mut rng = Rng::new(seed);
            let files = Files::new(&format!("contend-{kind}"));
            let mut pair = files.up(options);
            let clients = Contenders::start(pair.address(7000), WRITERS, seed);
            clients.wait_for_answers(rng.between(1, 200));
            pair.kill(Role::Primary, "KILL");
            clients.wait_for_answers(100);
            println!("{} operations", clients.finish());
            pair.down();
        }
    }
}

#[test]
fn a_fault_of_the_one_disk_is_told_to_the_guest_and_ends_no_replica() {
    for arguments in [&[][..], &["--bare"], &["--solo"]] {
        let files = Files::new("shared-fails");
        let faults = ["write", "read", "flush"].map(|kind| format!("0:data:{kind}:100"));
        let faults: Vec<_> = faults.iter().flat_map(|fault| ["--disk-fault", fault]).collect();
        let mut pair = Pair::up(&files.options(",shared,size=1M", &[arguments, &faults].concat()));
        let mut client = connect(&mut pair);
        assert_eq!(ask(&mut client, "disk data write 96 8 1 2"), "EIO", "{arguments:?}");
        assert_eq!(ask(&mut client, "disk data verify 96 8 1 2"), "EIO");
        assert_eq!(ask(&mut client, "disk data flush"), "EIO");
        assert_eq!(ask(&mut client, "disk data write 104 8 1 2"), "done");
        if arguments.is_empty() {
            assert_eq!(pair.status().mode, "paired");
            // The other one's way to the disk is in order, and so is what it knows.
            pair.kill(Role::Primary, "KILL");
            assert_eq!(ask(&mut client, "disk data write 96 8 1 3"), "done");
            assert_eq!(ask(&mut client, "disk data verify 96 8 1 3"), "same");
        }
        pair.down();
    }
}

#[test]
fn disks_that_do_not_belong_are_refused_and_there_is_nothing_to_compare() {
    let files = Files::new("shared-refused");
    let refused = |options: &str, code: i32, text: &str| {
        let failure = Pair::refused(&files.options(options, &[]));
        assert_eq!(failure.code, code, "{}", failure.text);
        assert!(failure.text.contains(text), "{options:?}: {}", failure.text);
    };
    refused(",shared", DISK_CODE, "add size=64M");
    refused(",shared,resync", 2, "nothing to make anew");
    let pair = up(&files);
    refused(",shared", DISK_CODE, "in use");
    pair.down();
    refused(",size=1M", DISK_CODE, "is a shared disk, not a mirror");
    for command in ["check", "resync"] {
        let (code, text) = files.command(command, &[]);
        assert_eq!(code, DISK_CODE, "{text}");
        assert!(text.contains("nothing to compare"), "{text}");
    }
    std::fs::remove_file(files.stem()).expect("it is there");
    Pair::up(&files.options(",size=1M", &[])).down();
    refused(",shared,size=1M", DISK_CODE, "is a mirror of a disk of that name");
}
