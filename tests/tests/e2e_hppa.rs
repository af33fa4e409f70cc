//! The same pair on PA-RISC: the same apps, the same protocol, another machine.
//!
//! Run with `cargo test -p pollux-tests --test e2e_hppa`. `POLLUX_E2E_MOMENTS=10` kills that many primaries under load,
//! `POLLUX_E2E_EPOCHS=10000` compares that many exact epochs, `POLLUX_SEED` repeats a run.

use std::collections::BTreeSet;
use std::path::Path;

use pollux_tests::client::{Client, Reply};
use pollux_tests::guests::{
    end_of, epochs_alike, found_out_in_the_first_full_epoch, refused_where_the_machine_counts_otherwise, say_hello,
    survives_its_primary_while_computing,
};
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{Permit, epochs, image, moments, seed, wait_for_end};

/// Clients under load: enough that every epoch has several requests in flight.
const CLIENTS: usize = 8;
/// Exact epochs of full length that are compared unless told otherwise.
const EPOCHS: u64 = 10_000;
/// Exit code of a guest that a fault ended.
const FAULT_CODE: i64 = 139;

/// A store whose replicas bear silence for longer than on x86-64: this machine is emulated several times as slowly, and a
/// replica that the host does not run for a while must not be taken for a dead one. A process that dies is noticed at once
/// all the same.
fn store() -> Options {
    patient("kv.hppa")
}

fn patient(app: &str) -> Options {
    Options::new(app).with(&["--failure-timeout-ms", "2000"])
}

fn connect(pair: &mut Pair, port: u16) -> Client {
    Client::connect(pair.address(port)).expect("a published port takes connections")
}

#[test]
fn echo_runs_alone_and_gives_back_what_it_gets() {
    let mut pair = Pair::up(&Options::new("echo.hppa").with(&["--bare"]));
    let mut client = connect(&mut pair, 7);
    for length in [1usize, 100, 1500, 20_000] {
        let line: String = (0..length).map(|index| char::from(b'a' + (index % 26) as u8)).collect();
        client.send(format!("{line}\n").as_bytes()).expect("the connection stands");
        assert_eq!(client.line().expect("the echo answers"), line);
    }
    pair.down();
}

#[test]
fn a_store_survives_its_primary_with_its_connections() {
    let mut pair = Pair::up(&store());
    let mut client = connect(&mut pair, 6379);
    assert!(client.must("SET answer 42").is_ok());
    let killed = pair.kill(Role::Primary, "KILL");
    let status = pair.wait_for_survivor(2);
    assert!(wait_for_end(killed, DEADLINE), "the killed process is gone");
    assert_eq!(status.replicas[0].replica, 1, "the backup is the one that goes on");
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the same connection goes on");
    assert_eq!(connect(&mut pair, 6379).must("GET answer"), Reply::bulk("43"), "and new ones are taken");
    pair.down();
}

#[test]
fn the_primary_is_killed_under_load() {
    let first = seed("killed under load on PA-RISC");
    for seed in first..first + moments(3) {
        println!("moment of seed {seed}");
        let mut rng = Rng::new(seed);
        let mut pair = Pair::up(&store().alone());
        let load = Load::start(pair.address(6379), CLIENTS, seed);
        load.wait_for_answers(rng.between(1, 200));
        pair.kill(Role::Primary, "KILL");
        let status = pair.wait_for_solo(2);
        assert_eq!(status.replicas[0].replica, 1);
        load.wait_for_answers(100);
        let summary = load.finish();
        println!("seed {seed}: {} requests, longest wait {:?}", summary.answered, summary.longest_wait);
        assert_eq!(pair.status().hub["connections_reset"], 0, "no connection was reset");
        pair.down();
    }
}

/// Several primaries of one pair, each replaced, under the same connections: what users are shown.
#[test]
fn the_demonstration_kills_several_primaries_of_one_pair() {
    // Built here, so that the demonstration need not.
    image("kv.hppa");
    let _all = Permit::take(u32::MAX);
    let pair = Pair::nothing();
    let shown = pair.command(&["demo", "--target", "hppa", "--kills", "3", "--json"]).output().expect("it starts");
    let errors = String::from_utf8_lossy(&shown.stderr);
    let report: serde_json::Value =
        serde_json::from_slice(&shown.stdout).unwrap_or_else(|error| panic!("{error}: {errors}"));
    let verdict = &report["verdict"];
    for nothing in ["broken_connections", "lost_writes", "repeated_increments", "skipped_increments"] {
        assert_eq!(verdict[nothing], 0, "{nothing}: {report:#}");
    }
    assert!(verdict["acknowledged_writes"].as_u64().is_some_and(|count| count > 0), "{report:#}");
    let kills = report["kills"].as_array().expect("each of them");
    let pids: BTreeSet<_> = kills.iter().map(|kill| kill["pid"].as_i64().expect("a process id")).collect();
    assert_eq!((kills.len(), pids.len()), (3, 3), "three machines: {report:#}");
    let outages = verdict["outages_ms"].as_array().expect("of each connection").len() as u64;
    assert_eq!(Some(outages), verdict["connections"].as_u64().map(|connections| 3 * connections));
}

#[test]
fn two_architectures_are_no_pair() {
    let twin = image("echo");
    let twin = twin.to_str().expect("a path of this machine");
    let failure = Pair::refused(&Options::new("echo.hppa").with(&["--backup-image", twin]));
    assert!(failure.text.contains("is for PA-RISC") && failure.text.contains("for x86-64"), "{}", failure.text);
}

/// A checkpoint and a recording of one architecture's echo, and the image of the other one's, with what is said of both.
fn refused_by_the_other(app: &str, other: &str, is_of: &str, is_for: &str) {
    let pair = Pair::up(&patient(app).with(&["--solo"]));
    let (file, recording) = (pair.root().join("echo.ckpt"), pair.root().join("recording"));
    pair.must(&["checkpoint", text(&file)]);
    record(&pair, &recording);
    pair.must(&["down"]);
    let other = image(other);
    for arguments in
        [["restore", text(&file), "--image", text(&other)], ["replay", text(&recording), "--image", text(&other)]]
    {
        let output = pair.command(&arguments).output().expect("the pollux command starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(is_of) && said.contains(is_for), "{arguments:?}: {said}");
        assert!(!output.status.success(), "{arguments:?}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this machine")
}

fn record(pair: &Pair, folder: &Path) {
    let recorded = pair.command(&["record", "e2e", text(folder)]).output().expect("the pollux command starts");
    assert!(recorded.status.success(), "{}", String::from_utf8_lossy(&recorded.stderr));
}

#[test]
fn a_checkpoint_is_of_one_architecture() {
    refused_by_the_other("echo.hppa", "echo", "is of a guest on PA-RISC", "is for x86-64");
    refused_by_the_other("echo", "echo.hppa", "is of a guest on x86-64", "is for PA-RISC");
}

/// A recording is run again to the same end, over the death of the primary; a checkpoint brings the pair back, and the
/// restored pair survives a primary, too.
#[test]
fn a_pair_is_recorded_replayed_and_restored() {
    let mut pair = Pair::up(&store());
    let mut client = connect(&mut pair, 6379);
    assert!(client.must("SET answer 41").is_ok());
    let (recording, file) = (pair.root().join("recording"), pair.root().join("one.ckpt"));
    record(&pair, &recording);
    for _ in 0..20 {
        client.must("INCR counted");
    }
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    assert_eq!(client.must("INCR counted"), Reply::Integer(21));
    pair.must(&["checkpoint", text(&file)]);
    assert_eq!(client.must("INCR answer"), Reply::Integer(42));
    pair.must(&["down"]);

    let replayed = pair.command(&["replay", "--json", text(&recording)]).output().expect("the pollux command starts");
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let replayed: serde_json::Value = serde_json::from_slice(&replayed.stdout).expect("JSON");
    assert_eq!(replayed["digest"], replayed["recorded_digest"], "{replayed}");
    assert_eq!(replayed["epoch"], replayed["recorded_through"], "{replayed}");

    pair.restore(&file, &[]);
    let mut client = connect(&mut pair, 6379);
    assert_eq!(client.must("INCR answer"), Reply::Integer(42), "what came after the checkpoint is gone");
    pair.wait_until("a complete pair", |status| {
        let runs = |role| status.replica(role).is_some_and(|r| r.state == "running" || r.state == "waiting");
        (status.mode == "paired" && runs(Role::Primary) && runs(Role::Backup)).then_some(())
    });
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(3);
    assert_eq!(client.must("GET counted"), Reply::bulk("21"), "the same connection goes on");
    pair.down();
}

/// Registers, status, floating-point registers and the count of instructions are in the digest of each epoch.
#[test]
fn exact_epochs_end_at_the_same_instruction_whatever_comes_in() {
    let seed = seed("random traffic at exact epochs on PA-RISC");
    let mut pair = Pair::up(&patient("probe.hppa").alone().with(&["--epoch", "exact:50000"]));
    epochs_alike(&mut pair, seed, epochs(EPOCHS), say_hello);
    pair.down();
}

#[test]
fn a_replica_cut_one_instruction_late_is_found_out_in_that_epoch() {
    found_out_in_the_first_full_epoch(&patient("probe.hppa").with(&["--epoch", "exact:5000000"]), 300_000);
}

/// The counter's own numbers are measured on each machine; one whose instructions take another time is found out.
#[test]
fn a_machine_that_counts_otherwise_is_refused() {
    refused_where_the_machine_counts_otherwise(&patient("probe.hppa").with(&["--epoch", "exact:50000"]));
}

#[test]
fn ticks_are_refused_with_the_reason() {
    let failure = Pair::refused(&Options::new("echo.hppa").with(&["--epoch", "counted:1000"]));
    assert!(failure.text.contains("count") && failure.text.contains("exact"), "{}", failure.text);
}

/// A guest reaches its own memory and nothing else; whatever it tries ends it with the same report at both replicas, and the
/// shims live to tell.
#[test]
fn wild_accesses_and_instructions_are_reported() {
    let cases = [
        ("null", "page fault", "at address 0x3"),
        ("read-shim", "page fault", "at address 0xffefffff"),
        ("read-device", "page fault", "at address 0x7ffff"),
        ("write-device", "page fault", "at address 0x7ffff"),
        ("stack", "page fault", "at address"),
        ("invalid", "break instruction", ""),
    ];
    for (index, (kind, name, detail)) in cases.into_iter().enumerate() {
        // Some of them where instructions are counted, others where they are not.
        let epoch = if index % 2 == 0 { "exact:50000" } else { "cooperative" };
        let stopped = end_of(&patient("probe.hppa").with(&["--epoch", epoch]), &format!("fault {kind}"));
        assert_eq!((stopped.kind.as_str(), stopped.code), ("fault", FAULT_CODE), "{kind}: {}", stopped.report);
        assert!(stopped.report.starts_with(name) && stopped.report.contains(detail), "{kind}: {}", stopped.report);
    }
}

/// A computation that never gives way has no moment of its own at which a backup could take over.
#[test]
fn a_computation_that_never_waits_survives_its_primary() {
    let mut rng = Rng::new(seed("a kill within a computation on PA-RISC"));
    survives_its_primary_while_computing(&patient("dhrystone.hppa"), 200_000, rng.between(1, 1_000));
}
