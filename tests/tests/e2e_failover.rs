//! Replicas die, freeze and lose each other; clients must not notice.
//!
//! Run with `cargo test -p pollux-tests --test e2e_failover`. At most `POLLUX_E2E_PAIRS` pairs (2) run at once,
//! however many threads the test runner has; tests under load run alone. `POLLUX_E2E_MOMENTS=300` tries that many
//! moments of each kind, `POLLUX_SEED` repeats a run.

use std::io::ErrorKind;
use std::time::Instant;

use pollux_tests::client::{Client, Reply};
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, seed, wait_for_end};

/// Clients under load: enough that every epoch has several requests in flight.
const CLIENTS: usize = 8;

fn kv() -> Pair {
    Pair::up(&Options::new("kv"))
}

fn connect(pair: &mut Pair) -> Client {
    Client::connect(pair.address(6379)).expect("a published port takes connections")
}

#[test]
fn the_primary_is_killed_while_nothing_happens() {
    let mut pair = kv();
    let mut client = connect(&mut pair);
    assert!(client.must("SET answer 42").is_ok());
    let killed = pair.kill(Role::Primary, "KILL");
    let status = pair.wait_for_survivor(2);
    assert!(wait_for_end(killed, DEADLINE), "the killed process is gone");
    assert_eq!(status.replicas.len(), 1, "{:?}", status.replicas);
    assert_eq!(status.replicas[0].replica, 1, "the backup is the one that goes on");
    assert!(status.ended.iter().any(|ended| ended.pid == killed), "{:?}", status.ended);
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the same connection goes on");
    assert_eq!(connect(&mut pair).must("GET answer"), Reply::bulk("43"), "and new ones are taken");
    pair.down();
}

/// One kill of the primary under load, after a number of answers that the seed decides.
fn kill_primary_under_load(seed: u64, arguments: &[&str]) {
    println!("moment of seed {seed}");
    let mut rng = Rng::new(seed);
    let mut pair = Pair::up(&Options::new("kv").with(arguments).alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    load.wait_for_answers(rng.between(1, 200));
    pair.kill(Role::Primary, "KILL");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 1);
    load.wait_for_answers(100);
    let summary = load.finish();
    let status = pair.status();
    println!(
        "seed {seed}: {} requests, longest wait {:?}, {} frames handed over, {} and {} lost",
        summary.answered,
        summary.longest_wait,
        status.hub["frames_in_resent"],
        status.hub["frames_in_lost"],
        status.hub["frames_out_lost"]
    );
    assert_eq!(status.hub["connections_reset"], 0, "no connection was reset");
    pair.down();
}

#[test]
fn the_primary_is_killed_under_load_at_many_moments() {
    let first = seed("killed under load");
    for seed in first..first + moments(20) {
        kill_primary_under_load(seed, &[]);
    }
}

#[test]
fn the_primary_is_killed_under_load_in_the_original_protocol() {
    let first = seed("killed under load, original protocol");
    for seed in first..first + moments(5) {
        kill_primary_under_load(seed, &["--protocol", "original"]);
    }
}

#[test]
fn the_primary_is_killed_under_load_at_exact_epochs() {
    let first = seed("killed under load, exact epochs");
    for seed in first..first + moments(3) {
        kill_primary_under_load(seed, &["--epoch", "exact:5000"]);
        kill_primary_under_load(seed, &["--epoch", "exact:200000", "--protocol", "original"]);
    }
}

#[test]
fn the_backup_is_killed_while_nothing_happens() {
    let mut pair = kv();
    let mut client = connect(&mut pair);
    assert!(client.must("SET answer 42").is_ok());
    let killed = pair.kill(Role::Backup, "KILL");
    let status = pair.wait_for_survivor(2);
    assert_eq!(status.replicas.len(), 1);
    assert_eq!(status.replicas[0].replica, 0, "the primary goes on");
    assert!(status.ended.iter().any(|ended| ended.pid == killed), "{:?}", status.ended);
    assert_eq!(client.must("INCR answer"), Reply::Integer(43));
    pair.down();
}

#[test]
fn the_backup_is_killed_under_load() {
    let seed = seed("backup killed under load");
    let mut pair = Pair::up(&Options::new("kv").alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    load.wait_for_answers(Rng::new(seed).between(1, 200));
    pair.kill(Role::Backup, "KILL");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 0);
    load.wait_for_answers(100);
    load.finish();
    assert_eq!(pair.status().hub["connections_reset"], 0);
    pair.down();
}

#[test]
fn a_frozen_primary_is_replaced_and_thawed_it_releases_nothing_and_stops() {
    let seed = seed("primary frozen under load");
    let mut pair = Pair::up(&Options::new("kv").alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    load.wait_for_answers(Rng::new(seed).between(1, 200));
    let frozen = pair.kill(Role::Primary, "STOP");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 1, "the backup took over");
    load.wait_for_answers(100);
    // It is called the backup now. It still runs, frozen; nobody has killed what can do no harm.
    let status = pair.status();
    let old = status.replica(Role::Backup).expect("the frozen process is still there").clone();
    assert_eq!(old.pid, frozen);
    let taken_of_old = status.hub["batches_taken_of_replica_0"];
    assert!(taken_of_old > 0, "it was heard while it was the primary: {:?}", status.hub);
    assert_eq!(pair.kill(Role::Backup, "CONT"), frozen);
    assert!(wait_for_end(frozen, DEADLINE), "thawed, it stops by itself");
    let reason = pair.wait_until("the end of the old primary", |status| {
        status.ended.iter().find(|ended| ended.pid == frozen).map(|ended| ended.reason.clone())
    });
    assert!(reason.contains("superseded"), "it says why: {reason}");
    load.wait_for_answers(100);
    load.finish();
    let hub = pair.status().hub;
    println!("{} packets of the old primary came after its time", hub["stale_packets"]);
    assert_eq!(hub["batches_taken_of_replica_0"], taken_of_old, "and none of them was let out: {hub:?}");
    assert_eq!(hub["frames_out_lost"], 0, "nor is one missing that the new primary knew of: {hub:?}");
    pair.down();
}

#[test]
fn a_frozen_backup_is_left_behind_and_thawed_it_stops() {
    let seed = seed("backup frozen under load");
    let mut pair = Pair::up(&Options::new("kv").alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    let frozen = pair.kill(Role::Backup, "STOP");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 0, "the primary goes on");
    load.wait_for_answers(100);
    assert_eq!(pair.kill(Role::Backup, "CONT"), frozen);
    assert!(wait_for_end(frozen, DEADLINE), "thawed, it stops by itself");
    let reason = pair.wait_until("the end of the backup", |status| {
        status.ended.iter().find(|ended| ended.pid == frozen).map(|ended| ended.reason.clone())
    });
    assert!(reason.contains("superseded"), "it says why: {reason}");
    load.finish();
    pair.down();
}

#[test]
fn frozen_replicas_are_taken_down_too() {
    for frozen in [&[Role::Primary][..], &[Role::Backup], &[Role::Backup, Role::Primary]] {
        let pair = kv();
        let pids: Vec<_> = frozen.iter().map(|&role| pair.kill(role, "STOP")).collect();
        pair.must(&["down"]);
        for pid in pids {
            assert!(wait_for_end(pid, DEADLINE), "{frozen:?}: a frozen process is left");
        }
    }
}

/// Nothing is asked of the pair while its primary is frozen: silence alone must be noticed.
#[test]
fn an_idle_primary_that_freezes_is_replaced() {
    let mut pair = kv();
    let mut client = connect(&mut pair);
    assert!(client.must("SET answer 42").is_ok());
    let frozen = pair.kill(Role::Primary, "STOP");
    pair.wait_for_solo(2);
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the same connection goes on");
    pair.kill(Role::Backup, "CONT");
    assert!(wait_for_end(frozen, DEADLINE), "thawed, it stops by itself");
    assert_eq!(client.must("INCR answer"), Reply::Integer(44));
    pair.down();
}

#[test]
fn the_link_is_cut_and_exactly_one_goes_on() {
    let seed = seed("link cut under load");
    let mut pair = Pair::up(&Options::new("kv").alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    load.wait_for_answers(Rng::new(seed).between(1, 200));
    pair.fault(&["cut-link"]);
    pair.wait_for_solo(2);
    let status = pair.wait_until("the end of the loser", |status| (status.ended.len() == 1).then(|| status.clone()));
    assert_eq!(status.replicas.len(), 1, "{:?}", status.replicas);
    assert_eq!(status.count(": granted"), 1, "the arbiter grants one generation to one: {:#?}", status.events);
    load.wait_for_answers(100);
    load.finish();
    assert_eq!(pair.status().hub["connections_reset"], 0);
    pair.down();
}

/// What is no message is never taken for one: the link counts as failed, and the arbiter decides.
#[test]
fn garbage_on_the_link_is_a_failure_of_the_link_and_nothing_more() {
    let seed = seed("garbage on the link");
    for role in [Role::Backup, Role::Primary] {
        let mut pair = Pair::up(&Options::new("kv").alone());
        let load = Load::start(pair.address(6379), CLIENTS, seed);
        pair.fault(&["garbage-on-link", role.name()]);
        pair.wait_for_solo(2);
        let status = pair.wait_until("the end of one", |status| (status.ended.len() == 1).then(|| status.clone()));
        assert!(status.event("the link counts as failed").is_some(), "{:#?}", status.events);
        assert_eq!(status.count(": granted"), 1, "{:#?}", status.events);
        load.wait_for_answers(100);
        load.finish();
        pair.down();
    }
}

/// Whatever a replica has sent already, or half of it, or nearly it: the stream has one next message, and this is not it.
/// The reader is frozen while its bytes are captured, so that there are some.
#[test]
fn replayed_and_damaged_messages_are_a_failure_of_the_link_and_nothing_more() {
    let seed = seed("replayed messages on the link");
    let kinds: [(&[&str], &str); 3] =
        [(&[], "has number"), (&["--damage", "flip"], "has checksum"), (&["--damage", "truncate"], "has checksum")];
    for (role, (damage, fault)) in
        [Role::Backup, Role::Primary].into_iter().flat_map(|role| kinds.map(|kind| (role, kind)))
    {
        println!("{} gets them, {damage:?}", role.name());
        // Nobody is to conclude anything from the silence of the one that is frozen.
        let mut pair = Pair::up(&Options::new("kv").alone().with(&["--failure-timeout-ms", "20000"]));
        let load = Load::start(pair.address(6379), CLIENTS, seed);
        load.wait_for_answers(50);
        pair.kill(role, "STOP");
        let fault_command = [&["fault", "--name", "e2e", "replay-on-link", role.name()], damage].concat();
        let injected = || pair.command(&fault_command).output().expect("the pollux command starts").status.success();
        let deadline = Instant::now() + DEADLINE;
        while !injected() {
            assert!(Instant::now() < deadline, "nothing is on its way to the {}", role.name());
        }
        pair.kill(role, "CONT");
        pair.wait_for_solo(2);
        let status = pair.wait_until("the end of one", |status| (status.ended.len() == 1).then(|| status.clone()));
        let noticed = status.event("the link counts as failed").unwrap_or_else(|| panic!("{:#?}", status.events));
        // What the other one has said between taking the bytes out and putting them back comes too early.
        let early = noticed.text.contains("has number");
        assert!(noticed.text.contains(fault) || early, "{fault}: {}", noticed.text);
        assert_eq!(status.count(": granted"), 1, "{:#?}", status.events);
        assert!(status.event("diverge").is_none(), "{:#?}", status.events);
        load.wait_for_answers(100);
        load.finish();
        assert_eq!(pair.status().hub["connections_reset"], 0);
        pair.down();
    }
}

#[test]
fn both_are_killed_and_the_status_says_so() {
    let mut pair = kv();
    let mut client = connect(&mut pair);
    pair.kill(Role::Backup, "KILL");
    pair.wait_for_solo(2);
    pair.kill(Role::Primary, "KILL");
    let status = pair.wait_until("the end of both", |status| (status.ended.len() == 2).then(|| status.clone()));
    assert!(!status.serving, "nobody serves");
    assert!(status.replicas.is_empty());
    let error = client.ask(&[b"PING"]).expect_err("nobody answers");
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "told, not left waiting: {error}"
    );
    assert!(pair.must(&["status"]).contains("NOT serving"));
    pair.down();
}
