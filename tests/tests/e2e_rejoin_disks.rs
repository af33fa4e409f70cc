//! A new replica for a guest with disks: its mirrors are made equal while clients write, whatever dies meanwhile.
//!
//! Run with `cargo test -p pollux-tests --test e2e_rejoin_disks`. `POLLUX_E2E_MOMENTS=20` tries that many rounds and moments,
//! `POLLUX_SEED` repeats a run.

use std::process::Child;

use pollux_tests::blocks::{Ledger, Mirror, Promise, Writers};
use pollux_tests::disks::{BLOCKS, DISK_CODE, Files, WRITERS, check_through_guest, connect, reason_of_end};
use pollux_tests::guests::ask;
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::{Role, Status};
use pollux_tests::workbench::{moments, seed, send_signal, wait_for_end};
use rustix::process::Signal;

fn print_round(status: &Status) {
    let copy = status.rejoin.copy.as_ref().expect("there was one");
    let disks = status.rejoin.disks.as_ref().map_or_else(String::new, |disks| {
        format!("; disks: {} rounds, {} bytes written", disks.rounds, disks.written_bytes)
    });
    println!(
        "{} pages in {} rounds, {} of them in a pause of {:.0} us{disks}; protected after {:.0} ms",
        copy.pages, copy.rounds, copy.last_pages, copy.pause_us, status.rejoin.protected_ms
    );
}

/// What lies in a mirror's file.
fn check_file(files: &Files, replica: u8, ledger: &mut Ledger, promise: Promise) {
    let mirror = Mirror::open(&files.stem(), replica).expect("it is there");
    ledger.check(promise, |seed, block| mirror.version(seed, block)).expect("what was promised is there");
}

fn assert_equal(files: &Files) {
    let (code, text) = files.command("check", &[]);
    assert_eq!(code, 0, "{text}");
    let compared = pollux_tests::blocks::compare(&files.stem()).expect("equal, as a second program sees it");
    assert!(compared > 0);
}

/// What the mirrors say of themselves: generation, and whether it is the better of two equals.
fn identities(files: &Files) -> [(u64, bool); 2] {
    let (code, text) = files.command("inspect", &["--json"]);
    assert_eq!(code, 0, "{text}");
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    [0, 1].map(|replica| {
        let (generation, leads) = (&shown[replica]["generation"], &shown[replica]["leads"]);
        (generation.as_u64().expect("a generation"), leads.as_bool().expect("true or false"))
    })
}

fn begin_rejoin(pair: &Pair) -> Child {
    let mut rejoin = pair.command(&["rejoin", "--name", "e2e"]);
    rejoin.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    rejoin.spawn().expect("the command starts")
}

/// Kill one, bring in a new one, kill the other, and so on, all under the same writers.
fn rounds(name: &str, options: &str, arguments: &[&str], rounds: u64) {
    let seed = seed(name);
    let mut rng = Rng::new(seed);
    let files = Files::new(&name.replace([' ', ','], "-"));
    let mut pair = Pair::up(&files.options(options, arguments).alone());
    let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
    for round in 0..rounds {
        writers.wait_for_answers(rng.between(1, 200));
        let role = if rng.chance(75) { Role::Primary } else { Role::Backup };
        pair.kill(role, "KILL");
        pair.wait_for_survivor(2 * round + 2);
        writers.wait_for_answers(rng.between(1, 100));
        pair.must(&["rejoin"]);
        let status = pair.wait_for_pair(2 * round + 3);
        assert_eq!((status.rejoin.joined, status.rejoin.failed), (round + 1, 0), "{:#?}", status.events);
        assert_eq!(status.disks[0].stale, None, "both mirrors are good");
        print_round(&status);
    }
    writers.wait_for_answers(200);
    let mut ledger = writers.finish(false);
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    assert_eq!(pair.status().hub["connections_reset"], 0, "no connection was reset");
    pair.down();
    if options.contains("shared") {
        let disk = Mirror::shared(&files.stem()).expect("it is there");
        ledger.check(Promise::Written, |seed, block| disk.version(seed, block)).expect("what was promised is there");
    } else {
        assert_equal(&files);
        check_file(&files, 0, &mut ledger, Promise::Written);
        check_file(&files, 1, &mut ledger, Promise::Written);
        // They count as equal: the next start asks for nothing.
        files.up("").down();
    }
}

#[test]
fn each_is_killed_and_replaced_in_turn_under_writes() {
    rounds("mirrors replaced", ",size=1M", &[], moments(6));
}

#[test]
fn a_large_disk_of_which_little_is_used_is_replaced_under_writes() {
    rounds("large mirrors replaced", ",size=128M", &[], 2);
}

#[test]
fn the_original_protocol_and_exact_epochs_take_a_new_replica_with_a_disk_in() {
    rounds("mirrors replaced, original protocol", ",size=1M", &["--protocol", "original"], 2);
    rounds("mirrors replaced, exact epochs", ",size=1M", &["--epoch", "exact:20000"], 2);
}

/// All that the guest writes to is compared after each epoch: also what the shim has written for it.
#[test]
fn a_new_replica_with_a_disk_has_the_same_memory() {
    rounds("mirrors replaced, memory compared", ",size=1M", &["--check-determinism"], 2);
}

#[test]
fn replicas_that_share_a_disk_are_killed_and_replaced_in_turn() {
    rounds("shared disk replaced", ",shared,size=1M", &[], moments(4));
}

/// The newcomer dies at each stage: the survivor goes on, its mirror is the good one, and takes the next one in.
#[test]
fn a_newcomer_with_a_disk_that_dies_is_not_missed() {
    let seed = seed("newcomer with a disk killed");
    let mut rng = Rng::new(seed);
    let files = Files::new("newcomer");
    let mut pair = Pair::up(&files.options(",size=1M", &["--memory-mib", "256"]).alone());
    let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
    writers.wait_for_answers(50);
    pair.kill(Role::Backup, "KILL");
    pair.wait_for_survivor(2);
    for failed in 0..moments(4) {
        let mut rejoin = begin_rejoin(&pair);
        // Somewhere between its start and the end of the copy.
        pair.wait_until("a newcomer", |status| status.replica(Role::Backup).map(|_| ()));
        writers.wait_for_answers(rng.below(60));
        pair.kill(Role::Backup, "KILL");
        assert!(!rejoin.wait().expect("it ends").success(), "it says that it has failed");
        let status = pair.wait_for_survivor(2);
        assert_eq!((status.rejoin.joined, status.rejoin.failed), (0, failed + 1), "{:#?}", status.events);
        assert_eq!(status.disks[0].stale, Some(1), "its mirror is none");
        writers.wait_for_answers(20);
    }
    assert_eq!(identities(&files)[1].0, 0, "whoever reads it must not take it for a mirror");
    pair.must(&["rejoin"]);
    pair.wait_for_pair(3);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(4);
    writers.wait_for_answers(50);
    let mut ledger = writers.finish(false);
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    pair.down();
    check_file(&files, 1, &mut ledger, Promise::Written);
}

/// The survivor dies while the newcomer's mirrors are copied, or its memory: the survivor's mirror is the good one.
#[test]
fn a_survivor_that_dies_leaves_one_good_mirror() {
    let first = seed("survivor killed");
    for seed in first..first + moments(4) {
        let mut rng = Rng::new(seed);
        let files = Files::new("survivor");
        let mut pair = Pair::up(&files.options(",size=1M", &["--memory-mib", "128"]).alone());
        let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
        writers.wait_for_answers(100);
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_survivor(2);
        let mut rejoin = begin_rejoin(&pair);
        let copies = rng.chance(50);
        pair.wait_until("the copy", |status| {
            let at_it = status.rejoin.disks.is_some() && (copies || status.replica(Role::Backup).is_some());
            at_it.then_some(())
        });
        writers.wait_for_answers(rng.below(30));
        let pids: Vec<_> = pair.status().replicas.iter().map(|replica| replica.pid).collect();
        // All of them: one that is complete meanwhile would go on.
        pids.iter().for_each(|&pid| send_signal(pid, Signal::KILL));
        pids.iter().for_each(|&pid| assert!(wait_for_end(pid, DEADLINE)));
        rejoin.kill().expect("it runs or has ended");
        rejoin.wait().expect("it has ended");
        let mut ledger = writers.finish(true);
        pair.down();
        let [zero, one] = identities(&files);
        println!("seed {seed}: {zero:?} {one:?}");
        assert!(one > zero, "replica 1 was the primary");
        check_file(&files, 1, &mut ledger, Promise::Written);
        let failure = Pair::refused(&files.options("", &[]));
        assert_eq!(failure.code, DISK_CODE, "{}", failure.text);
        let (code, text) = files.command("resync", &[]);
        assert_eq!(code, 0, "{text}");
        assert_equal(&files);
        check_file(&files, 0, &mut ledger, Promise::Written);
    }
}

/// Both die as soon as the pair is complete again: the mirror that the primary had is taken, and it lacks nothing.
#[test]
fn both_die_as_soon_as_the_pair_is_complete() {
    let first = seed("both killed at the pairing");
    for seed in first..first + moments(3) {
        let files = Files::new("both");
        let mut pair = Pair::up(&files.options(",size=1M", &[]).alone());
        let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
        writers.wait_for_answers(100);
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_survivor(2);
        writers.wait_for_answers(50);
        pair.must(&["rejoin"]);
        let pids: Vec<_> = pair.status().replicas.iter().map(|replica| replica.pid).collect();
        pids.iter().for_each(|&pid| send_signal(pid, Signal::KILL));
        pids.iter().for_each(|&pid| assert!(wait_for_end(pid, DEADLINE)));
        let mut ledger = writers.finish(true);
        pair.down();
        let [zero, one] = identities(&files);
        println!("seed {seed}: {zero:?} {one:?}");
        let newest = u8::from(one > zero);
        check_file(&files, newest, &mut ledger, Promise::Stable);
        let mut pair = Pair::up(&files.options(",resync", &[]));
        check_through_guest(&mut pair, &mut ledger, Promise::Stable);
        pair.down();
        assert_equal(&files);
    }
}

#[test]
fn roles_change_as_planned_under_writes() {
    for options in [",size=1M", ",shared,size=1M"] {
        let seed = seed("switchover with a disk");
        let files = Files::new("switchover");
        let mut pair = Pair::up(&files.options(options, &[]).alone());
        let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
        for round in 0..2 {
            writers.wait_for_answers(50);
            let before = pair.status().replica(Role::Primary).expect("one").replica;
            pair.must(&["switchover"]);
            let status = pair.wait_for_pair(2 * round + 3);
            assert_ne!(status.replica(Role::Primary).expect("one").replica, before, "the roles have changed");
        }
        writers.wait_for_answers(50);
        let mut ledger = writers.finish(false);
        check_through_guest(&mut pair, &mut ledger, Promise::Written);
        pair.down();
    }
}

#[test]
fn both_machines_are_renewed_under_writes() {
    let seed = seed("migrate with a disk");
    let files = Files::new("migrate");
    let mut pair = Pair::up(&files.options(",size=1M", &[]).alone());
    let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
    writers.wait_for_answers(50);
    pair.must(&["migrate", "--cpu", "0"]);
    pair.wait_for_pair(5);
    writers.wait_for_answers(50);
    let mut ledger = writers.finish(false);
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    pair.down();
    assert_equal(&files);
}

/// A mirror that somebody has removed is made anew.
#[test]
fn a_mirror_that_is_gone_is_made_anew() {
    let files = Files::new("gone");
    let mut pair = files.up(",size=1M");
    let mut client = connect(&mut pair);
    assert_eq!(ask(&mut client, "disk data write 0 64 1 1"), "done");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    std::fs::remove_file(files.folder().join("disk.0")).expect("removed");
    pair.must(&["rejoin"]);
    pair.wait_for_pair(3);
    assert_eq!(ask(&mut client, "disk data write 100 64 1 2"), "done");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(4);
    assert_eq!(ask(&mut client, "disk data verify 0 64 1 1"), "same");
    assert_eq!(ask(&mut client, "disk data verify 100 64 1 2"), "same");
    pair.down();
}

/// The newcomer's disk fails: it is not brought in, and the survivor goes on.
#[test]
fn a_newcomer_whose_disk_cannot_be_written_is_not_brought_in() {
    let files = Files::new("unwritable");
    let mut pair = files.up(",size=1M");
    let mut client = connect(&mut pair);
    assert_eq!(ask(&mut client, "disk data write 0 64 1 1"), "done");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    let path = files.folder().join("disk.0");
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("a folder in its place");
    let output = pair.run(&["rejoin"]);
    assert!(!output.status.success());
    let status = pair.status();
    assert_eq!((status.rejoin.joined, status.rejoin.failed), (0, 1), "{:#?}", status.events);
    assert!(status.event("the disks cannot be copied").is_some(), "{:#?}", status.events);
    assert_eq!(ask(&mut client, "disk data verify 0 64 1 1"), "same", "the survivor goes on");
    std::fs::remove_dir(&path).expect("removed");
    pair.must(&["rejoin"]);
    pair.wait_for_pair(3);
    pair.down();
    assert_equal(&files);
}

/// The disk of the only replica fails; its guest hears of that. A newcomer takes the guest over the next time.
#[test]
fn a_survivor_whose_disk_fails_leaves_the_guest_to_the_new_replica() {
    let files = Files::new("survivor-fails");
    let mut pair = Pair::up(&files.options(",size=1M", &["--disk-fault", "1:data:write:100"]));
    let mut client = connect(&mut pair);
    assert_eq!(ask(&mut client, "disk data write 0 64 1 1"), "done");
    assert_eq!(ask(&mut client, "disk data flush"), "done");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    assert_eq!(ask(&mut client, "disk data write 96 8 1 2"), "EIO", "there is nobody else");
    pair.must(&["rejoin"]);
    pair.wait_for_pair(3);
    assert_eq!(ask(&mut client, "disk data write 96 8 1 3"), "done", "the other one's disk is well");
    pair.wait_for_survivor(4);
    let reason = reason_of_end(&mut pair, 1);
    assert!(reason.starts_with("disk-failed: disk data failed: Write at block 96"), "{reason}");
    assert_eq!(ask(&mut client, "disk data verify 96 8 1 3"), "same");
    assert_eq!(ask(&mut client, "disk data verify 0 64 1 1"), "same");
    pair.down();
    let mirror = Mirror::open(&files.stem(), 0).expect("it is there");
    assert_eq!([0, 63, 96, 103].map(|block| mirror.version(1, block)), [Ok(1), Ok(1), Ok(3), Ok(3)]);
}

/// The newcomer's disk fails at work: it leaves again, and nobody notices.
#[test]
fn a_new_replica_whose_disk_fails_leaves_again() {
    let files = Files::new("newcomer-fails");
    let mut pair = Pair::up(&files.options(",size=1M", &["--disk-fault", "0:data:write:100"]));
    let mut client = connect(&mut pair);
    for round in 1..=2 {
        assert_eq!(ask(&mut client, &format!("disk data write 96 8 1 {round}")), "done");
        assert_eq!(ask(&mut client, &format!("disk data verify 96 8 1 {round}")), "same");
        pair.wait_for_survivor(2 * round);
        let reason = reason_of_end(&mut pair, 0);
        assert!(reason.starts_with("disk-failed: disk data failed: Write at block 96"), "{reason}");
        pair.must(&["rejoin"]);
        pair.wait_for_pair(2 * round + 1);
    }
    assert_eq!(ask(&mut client, "disk data verify 96 8 1 2"), "same");
    pair.down();
    assert_equal(&files);
}

/// The store on a disk, killed and replaced in turn, and in the end both at once: everything acknowledged is there.
#[test]
fn a_store_on_a_disk_is_killed_and_replaced_in_turn() {
    let seed = seed("store on a disk replaced");
    let mut rng = Rng::new(seed);
    let files = Files::new("store");
    let disk = format!("data={},size=64M", files.stem().display());
    let arguments = ["--disk", &disk, "--args", "appendonly=yes appendfsync=always", "--failure-timeout-ms", "10000"];
    let mut pair = Pair::up(&Options::new("kv").with(&arguments).alone());
    let load = Load::start(pair.address(6379), 8, seed);
    let rounds = moments(4);
    for round in 0..rounds {
        load.wait_for_answers(rng.between(1, 200));
        pair.kill(if rng.chance(75) { Role::Primary } else { Role::Backup }, "KILL");
        pair.wait_for_survivor(2 * round + 2);
        load.wait_for_answers(rng.between(1, 50));
        pair.must(&["rejoin"]);
        print_round(&pair.wait_for_pair(2 * round + 3));
    }
    load.wait_for_answers(100);
    let summary = load.finish();
    println!("seed {seed}: {rounds} rounds, {} requests, longest wait {:?}", summary.answered, summary.longest_wait);
    assert_eq!(pair.status().hub["connections_reset"], 0, "no connection was reset");
    pair.down();
    assert_equal(&files);
}
