//! Disks on PA-RISC: the same rules as on x86-64, under another driver of the same devices.
//!
//! Run with `cargo test -p pollux-tests --test e2e_hppa_disks`. `POLLUX_E2E_MOMENTS=10` tries that many moments of each kind
//! of kill, `POLLUX_SEED` repeats a run.

use std::sync::atomic::{AtomicU64, Ordering};

use pollux_tests::blocks::{Ledger, Mirror, Promise, Writers};
use pollux_tests::counts::{Count, check, count_on};
use pollux_tests::disks::{
    BLOCKS, Files, WRITERS, assert_equal, check_through_guest, connect, kill_both_in_each_life, kill_one_under_writes,
    one_disk_fails, work,
};
use pollux_tests::guests::{ask, send};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, seed};

const PROBE: &str = "probe.hppa";
/// Clients that count in the store.
const COUNTERS: usize = 4;

#[test]
fn a_disk_works_alone_in_pairs_and_shared_and_is_there_the_next_time() {
    let machines: [(&str, &str, &[&str]); 4] = [
        (",size=1M", "", &["--bare"]),
        (",size=1M", "", &[]),
        (",size=1M", "", &["--epoch", "exact:50000"]),
        (",shared,size=1M", ",shared", &["--protocol", "original"]),
    ];
    for (first, again, arguments) in machines {
        println!("{first} {arguments:?}");
        let files = Files::of(PROBE, "hppa-works");
        let mut pair = Pair::up(&files.options(first, arguments));
        work(&mut connect(&mut pair));
        pair.down();
        if first == ",size=1M" && !arguments.contains(&"--bare") {
            assert_equal(&files);
        }
        let mut pair = Pair::up(&files.options(again, arguments));
        assert_eq!(ask(&mut connect(&mut pair), "disk data verify 5 1 5 9"), "same");
        pair.down();
    }
}

#[test]
fn the_primary_is_killed_during_writes_and_flushes_and_the_mirrors_are_made_equal() {
    let first = seed("primary killed under writes on PA-RISC");
    for seed in first..first + moments(2) {
        kill_one_under_writes(&Files::of(PROBE, "hppa-kill"), Role::Primary, seed);
    }
}

#[test]
fn both_are_killed_during_writes_and_what_was_flushed_is_there() {
    let first = seed("both killed under writes on PA-RISC");
    kill_both_in_each_life(&Files::of(PROBE, "hppa-both"), first..first + moments(2));
}

/// Requests that are outstanding on a shared disk when the primary dies are uncertain, and are repeated in their order.
#[test]
fn operations_in_flight_on_a_shared_disk_are_repeated() {
    let first = seed("primary killed under a shared disk on PA-RISC");
    let mut uncertain = false;
    for seed in first..first + moments(2) {
        println!("moment of seed {seed}");
        let mut rng = Rng::new(seed);
        let files = Files::of(PROBE, "hppa-shared");
        // The primary's way to the disk is slow: something is outstanding whenever it dies.
        let mut pair = Pair::up(&files.options(",shared,size=1M", &["--disk-fault", "0:data:slow:4096"]));
        let mut client = connect(&mut pair);
        let mut watch = connect(&mut pair);
        let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
        writers.wait_for_answers(rng.between(1, 30));
        send(&mut client, "disk data overlap 1000 1000");
        for _ in 0..rng.between(1, 20) {
            assert_eq!(ask(&mut watch, "hello"), "hello");
        }
        pair.kill(Role::Primary, "KILL");
        assert_eq!(client.line().expect("an answer"), "in order 2000 of 2000");
        uncertain |= pair.wait_for_solo(2).count("requests to shared disks are uncertain") > 0;
        let mut ledger = writers.finish(false);
        check_through_guest(&mut pair, &mut ledger, Promise::Written);
        pair.down();
        let disk = Mirror::shared(&files.stem()).expect("it is there");
        ledger.check(Promise::Written, |seed, block| disk.version(seed, block)).expect("what was promised is there");
    }
    assert!(uncertain, "not one kill came while something was outstanding: nothing was tried");
}

#[test]
fn a_disk_that_fails_takes_its_replica_with_it_and_a_new_one_gets_a_new_mirror() {
    one_disk_fails(&Files::of(PROBE, "hppa-fails"), 0, "write");
    let files = Files::of(PROBE, "hppa-rejoin");
    let seed = seed("a new replica under writes on PA-RISC");
    let mut pair = files.up(",size=1M");
    let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
    writers.wait_for_answers(30);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    pair.must(&["rejoin"]);
    assert_eq!(pair.wait_for_pair(3).disks[0].stale, None, "both mirrors are good");
    writers.wait_for_answers(30);
    // What the newcomer has is all that is left.
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(4);
    let mut ledger = writers.finish(false);
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    pair.down();
}

#[test]
fn a_store_keeps_what_it_has_acknowledged_when_both_machines_die() {
    let mut rng = Rng::new(seed("both machines die on PA-RISC"));
    let files = Files::of(PROBE, "hppa-store");
    let disk = format!("data={},size=8M,resync", files.stem().display());
    let options = Options::new("kv.hppa").with(&[
        "--disk",
        &disk,
        "--args",
        "appendonly=yes appendfsync=always",
        "--failure-timeout-ms",
        "10000",
    ]);
    let counts: Vec<Count> = (0..COUNTERS).map(|_| Count::default()).collect();
    for life in 0..2 {
        let mut pair = Pair::up(&options);
        let address = pair.address(6379);
        check(address, &counts, life);
        let (all, goal) = (AtomicU64::new(0), rng.between(50, 300));
        std::thread::scope(|scope| {
            for (index, count) in counts.iter().enumerate() {
                let all = &all;
                scope.spawn(move || count_on(address, &format!("count:{index}"), count, all));
            }
            let mut client =
                pollux_tests::client::Client::connect(address).expect("a published port takes connections");
            while all.load(Ordering::SeqCst) < goal && client.ask(&[b"BGREWRITEAOF"]).is_ok() {}
            pair.kill_machines();
        });
    }
    assert!(counts.iter().all(|count| count.told.load(Ordering::SeqCst) > 0), "{counts:?}");
    let mut pair = Pair::up(&options);
    check(pair.address(6379), &counts, 2);
    pair.down();
}
