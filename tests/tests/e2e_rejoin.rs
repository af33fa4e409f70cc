//! A new replica for one that has gone: the survivor brings it in while clients go on, whatever dies meanwhile.
//!
//! Run with `cargo test -p pollux-tests --test e2e_rejoin`. `POLLUX_E2E_MOMENTS=20` tries that many rounds and moments,
//! `POLLUX_SEED` repeats a run.

use pollux_tests::client::{Client, Reply};
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::{Role, Status};
use pollux_tests::workbench::{image, moments, seed, wait_for_end};

/// Clients under load: enough that every epoch has several requests in flight.
const CLIENTS: usize = 8;
/// No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "5000"];

fn print_copy(status: &Status) {
    let copy = status.rejoin.copy.as_ref().expect("there was one");
    println!(
        "{} pages and {} zero ones in {} rounds and {:.0} ms, {} of them in a pause of {:.0} us; protected after {:.0} ms",
        copy.pages,
        copy.zero_pages,
        copy.rounds,
        copy.took_ms,
        copy.last_pages,
        copy.pause_us,
        status.rejoin.protected_ms
    );
}

/// Kill one, bring in a new one, kill the other, and so on, all under the same clients.
fn rounds(seed: u64, rounds: u64, arguments: &[&str]) {
    rounds_of("kv", seed, rounds, arguments);
}

fn rounds_of(app: &str, seed: u64, rounds: u64, arguments: &[&str]) {
    let mut rng = Rng::new(seed);
    let mut pair = Pair::up(&Options::new(app).with(&PATIENT).with(arguments).alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    for round in 0..rounds {
        load.wait_for_answers(rng.between(1, 200));
        let role = if rng.chance(75) { Role::Primary } else { Role::Backup };
        let killed = pair.kill(role, "KILL");
        let alone = pair.wait_for_survivor(2 * round + 2);
        assert_ne!(alone.replicas[0].pid, killed);
        load.wait_for_answers(rng.between(1, 50));
        pair.must(&["rejoin"]);
        let status = pair.wait_for_pair(2 * round + 3);
        assert_eq!((status.rejoin.joined, status.rejoin.failed), (round + 1, 0), "{:#?}", status.events);
        print_copy(&status);
    }
    load.wait_for_answers(100);
    let summary = load.finish();
    println!("seed {seed}: {rounds} rounds, {} requests, longest wait {:?}", summary.answered, summary.longest_wait);
    assert_eq!(pair.status().hub["connections_reset"], 0, "no connection was reset");
    pair.down();
}

#[test]
fn each_is_killed_and_replaced_in_turn_under_load() {
    rounds(seed("killed and replaced"), moments(6), &[]);
}

#[test]
fn the_original_protocol_takes_a_new_replica_in() {
    rounds(seed("killed and replaced, original protocol"), 2, &["--protocol", "original"]);
}

#[test]
fn exact_epochs_go_on_at_a_new_replica() {
    rounds(seed("killed and replaced, exact epochs"), 2, &["--epoch", "exact:20000"]);
}

#[test]
fn counted_epochs_go_on_at_a_new_replica() {
    rounds_of("kv.counted", seed("killed and replaced, counted epochs"), 2, &["--epoch", "counted:5000"]);
}

/// All that the guest writes to is compared after each epoch: a page that the copy lacks is found out when it is used.
#[test]
fn a_new_replica_has_the_same_memory() {
    rounds(seed("killed and replaced, memory compared"), 2, &["--check-determinism"]);
}

#[test]
fn a_new_replica_comes_by_itself_if_that_is_wanted() {
    let seed = seed("replaced by itself");
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).with(&["--rejoin", "auto"]).alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    for round in 0..2 {
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_pair(2 * round + 3);
        load.wait_for_answers(20);
    }
    load.finish();
    assert_eq!(pair.status().hub["connections_reset"], 0);
    pair.down();
}

#[test]
fn a_new_replica_comes_by_itself_unless_told_otherwise() {
    let mut pair = Pair::nothing();
    let image = image("echo").display().to_string();
    pair.must(&["up", "--image", &image, "--publish", "0:7"]);
    assert_eq!(pair.status().rejoin.policy, "auto");
    pair.kill(Role::Backup, "KILL");
    pair.wait_for_pair(3);
    pair.down();
}

/// Newcomers that keep dying are tried later and later, one at a time; whoever asks for one gets it at once.
#[test]
fn newcomers_that_keep_dying_are_not_tried_for_ever_at_once() {
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).with(&["--rejoin", "auto", "--memory-mib", "256"]));
    pair.kill(Role::Backup, "KILL");
    for (failed, pause) in [(1, "1 s"), (2, "2 s"), (3, "4 s")] {
        pair.wait_until("a newcomer", |status| {
            assert!(status.replicas.len() <= 2);
            status.replica(Role::Backup).filter(|_| status.rejoin.failed == failed - 1).map(|_| ())
        });
        pair.kill(Role::Backup, "KILL");
        let status = pair.wait_until("its end", |status| {
            (status.rejoin.failed == failed && status.replicas.len() == 1).then(|| status.clone())
        });
        let expected = format!("the next one is started in {pause}");
        let newest = status.events.iter().rev().find(|event| event.text.contains("no new replica"));
        assert!(newest.is_some_and(|event| event.text.contains(&expected)), "{failed}: {:#?}", status.events);
    }
    pair.must(&["rejoin"]);
    pair.wait_for_pair(3);
    pair.down();
}

/// The arguments of a process, and on which processors it may run.
fn machine_of(pid: i32) -> (String, String) {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).expect("it runs");
    let arguments = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
    let status = String::from_utf8_lossy(&read("status")).into_owned();
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    (arguments, allowed.expect("the system says so").trim().to_owned())
}

#[test]
fn both_machines_are_renewed_under_load() {
    let seed = seed("migrate");
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    load.wait_for_answers(50);
    let before: Vec<_> = pair.status().replicas.iter().map(|replica| replica.pid).collect();
    pair.must(&["migrate", "--qemu-arg", "-msg", "--qemu-arg", "timestamp=on", "--cpu", "0"]);
    let status = pair.wait_for_pair(5);
    assert_eq!((status.rejoin.joined, status.rejoin.failed), (2, 0), "{:#?}", status.events);
    for replica in &status.replicas {
        assert!(!before.contains(&replica.pid), "a machine of before: {before:?}");
        let (arguments, allowed) = machine_of(replica.pid);
        assert!(arguments.contains("-msg timestamp=on"), "{arguments}");
        assert_eq!(allowed, "0");
    }
    load.wait_for_answers(50);
    // And back, also when the survivor of a failure is alone.
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(6);
    pair.must(&["migrate"]);
    let status = pair.wait_for_pair(9);
    for replica in &status.replicas {
        assert!(!machine_of(replica.pid).0.contains("-msg"));
    }
    load.wait_for_answers(50);
    let summary = load.finish();
    println!("longest wait {:?}", summary.longest_wait);
    assert_eq!(pair.status().hub["connections_reset"], 0);
    pair.down();
}

#[test]
fn a_machine_that_cannot_be_leaves_the_pair_as_it_was() {
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT));
    let mut client = Client::connect(pair.address(6379)).expect("a connection");
    assert!(client.must("SET answer 42").is_ok());
    // No program, a QEMU that does not start, and one whose processor is another.
    let cases: [&[&str]; 3] = [
        &["migrate", "--qemu", "/nowhere/qemu"],
        &["migrate", "--qemu-arg", "-nonsense"],
        &["migrate", "--qemu-arg", "-cpu", "--qemu-arg", "max"],
    ];
    for (case, generation) in cases.into_iter().zip([3, 5, 7]) {
        let output = pair.run(case);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("the old ones hold"), "{case:?}: {text}");
        let status = pair.wait_for_pair(generation);
        assert!(status.replicas.iter().all(|replica| !machine_of(replica.pid).0.contains("nonsense")));
    }
    let refused = pair.run(&["migrate", "--cpu", "1000"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("processor 1000 may not be used"));
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the same connection goes on");
    pair.down();
}

#[test]
fn a_frozen_replica_is_ended_before_it_is_replaced() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = Client::connect(pair.address(6379)).expect("a connection");
    assert!(client.must("SET answer 42").is_ok());
    let frozen = pair.kill(Role::Primary, "STOP");
    pair.wait_for_solo(2);
    pair.must(&["rejoin"]);
    assert!(wait_for_end(frozen, DEADLINE), "two replicas of one number would be one too many");
    pair.wait_for_pair(3);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(4);
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the same connection goes on");
    pair.down();
}

/// The newcomer dies at each stage: the survivor goes on, and takes the next one in.
#[test]
fn a_newcomer_that_dies_is_not_missed() {
    let seed = seed("newcomer killed");
    let mut rng = Rng::new(seed);
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).with(&["--memory-mib", "256"]).alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    pair.kill(Role::Backup, "KILL");
    pair.wait_for_survivor(2);
    let (mut joined, mut failed) = (0, 0);
    for _ in 0..moments(4) {
        let mut rejoin = pair.command(&["rejoin", "--name", "e2e"]).spawn().expect("the command starts");
        // Somewhere between its start and the end of the copy.
        pair.wait_until("a newcomer", |status| status.replica(Role::Backup).map(|_| ()));
        load.wait_for_answers(rng.below(60));
        pair.kill(Role::Backup, "KILL");
        let succeeded = rejoin.wait().expect("it ends").success();
        // A newcomer that was quicker than the kill has made the pair complete: then a backup has died.
        let sum = joined + failed + 1;
        let status = pair.wait_until("its end", |status| {
            let is_counted = status.rejoin.joined + status.rejoin.failed == sum;
            (is_counted && status.generation == 2 + 2 * status.rejoin.joined).then(|| status.clone())
        });
        assert!(status.rejoin.joined > joined || !succeeded, "it says that it has failed");
        (joined, failed) = (status.rejoin.joined, status.rejoin.failed);
        load.wait_for_answers(20);
    }
    assert!(failed > 0, "every newcomer was paired before it could be killed");
    let generation = 2 + 2 * joined;
    pair.must(&["rejoin"]);
    pair.wait_for_pair(generation + 1);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(generation + 2);
    load.wait_for_answers(50);
    load.finish();
    assert_eq!(pair.status().hub["connections_reset"], 0);
    pair.down();
}

/// The survivor dies as soon as the record is paired: the newcomer has everything.
#[test]
fn a_newcomer_takes_over_as_soon_as_the_record_is_paired() {
    let first = seed("primary killed at the pairing");
    for seed in first..first + moments(3) {
        let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).alone());
        let load = Load::start(pair.address(6379), CLIENTS, seed);
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_survivor(2);
        pair.must(&["rejoin"]);
        pair.kill(Role::Primary, "KILL");
        let status = pair.wait_for_survivor(4);
        assert_eq!(status.replicas[0].replica, 0, "the newcomer");
        load.wait_for_answers(50);
        load.finish();
        pair.down();
    }
}

/// Before that, the pair ends with its only member, and says so.
#[test]
fn a_newcomer_without_the_state_does_not_serve() {
    let mut pair = Pair::up(&Options::new("kv").with(&["--memory-mib", "512"]));
    let mut client = Client::connect(pair.address(6379)).expect("a connection");
    assert!(client.must("SET answer 42").is_ok());
    pair.kill(Role::Backup, "KILL");
    pair.wait_for_survivor(2);
    let mut rejoin = pair.command(&["rejoin", "--name", "e2e"]).spawn().expect("the command starts");
    pair.wait_until("a newcomer", |status| status.replica(Role::Backup).map(|_| ()));
    pair.kill(Role::Primary, "KILL");
    let status = pair.wait_until("the end of both", |status| status.replicas.is_empty().then(|| status.clone()));
    assert!(!status.serving);
    assert_eq!((status.generation, status.mode.as_str()), (2, "solo"));
    rejoin.kill().expect("it runs or has ended");
    rejoin.wait().expect("it has ended");
    pair.down();
}

#[test]
fn roles_change_as_planned_under_load() {
    let seed = seed("switchover");
    let mut pair = Pair::up(&Options::new("kv").with(&PATIENT).alone());
    let load = Load::start(pair.address(6379), CLIENTS, seed);
    for round in 0..2 {
        load.wait_for_answers(50);
        let before = pair.status().replica(Role::Primary).expect("one").replica;
        pair.must(&["switchover"]);
        let status = pair.wait_for_pair(2 * round + 3);
        assert_ne!(status.replica(Role::Primary).expect("one").replica, before, "the roles have changed");
        assert!(status.event("has handed over").is_some(), "{:#?}", status.events);
    }
    load.wait_for_answers(50);
    let summary = load.finish();
    println!("longest wait {:?}", summary.longest_wait);
    assert_eq!(pair.status().hub["connections_reset"], 0);
    pair.down();
}

#[test]
fn what_cannot_be_done_is_refused() {
    let mut pair = Pair::up(&Options::new("kv"));
    let refused = |pair: &Pair, command: &str| {
        let output = pair.run(&[command]);
        assert_eq!(output.status.code(), Some(12), "`{command}` is refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(refused(&pair, "rejoin").contains("the pair is complete"));
    pair.fault(&["cut-link"]);
    pair.wait_for_survivor(2);
    assert!(refused(&pair, "rejoin").contains("link was cut"));
    assert!(refused(&pair, "switchover").contains("no backup"));
    pair.down();
}
