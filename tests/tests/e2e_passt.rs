//! A pair whose clients come through passt. Without passt the tests say that they are skipped.

use std::process::{Command, Stdio};

use pollux_tests::client::{Client, Reply};
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::status::Role;
use pollux_tests::workbench::{command_line, seed, send_signal, skip, wait_for_end};
use rustix::process::Signal;

/// The store's port.
const PORT: u16 = 6379;
const CLIENTS: usize = 8;

/// Whether passt is installed; says so if it is not.
fn has_passt() -> bool {
    let mut command = Command::new("passt");
    let command = command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let installed = command.status().is_ok();
    if !installed {
        skip("it takes passt (Debian: passt)");
    }
    installed
}

fn store() -> Options {
    Options::new("kv").with(&["--net", "passt"])
}

/// The process of passt, as `status --json` shows it.
fn passt_pid(pair: &Pair) -> i32 {
    let status: serde_json::Value = serde_json::from_str(&pair.must(&["status", "--json"])).expect("JSON");
    assert_eq!(status["net"]["uplink"], "passt");
    let pid = status["net"]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("passt's process");
    assert!(command_line(pid).contains("passt"), "{}", command_line(pid));
    pid
}

#[test]
fn clients_behind_passt_do_not_notice_that_the_primary_is_killed() {
    if !has_passt() {
        return;
    }
    let seed = seed("killed behind passt");
    let mut pair = Pair::up(&store().alone());
    let passt = passt_pid(&pair);
    let address = pair.address(PORT);
    let mut idle = Client::connect(address).expect("a published port takes connections");
    assert!(idle.must("SET greeting hello").is_ok());

    let load = Load::start(address, CLIENTS, seed);
    load.wait_for_answers(100);
    pair.kill(Role::Primary, "KILL");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 1, "the backup is the one that goes on");
    load.wait_for_answers(100);
    let summary = load.finish();
    println!("seed {seed}: {} requests, longest wait {:?}", summary.answered, summary.longest_wait);

    assert_eq!(idle.must("GET greeting"), Reply::bulk("hello"), "the idle connection goes on too");
    let mut new = Client::connect(address).expect("new ones are taken");
    assert_eq!(new.must("GET greeting"), Reply::bulk("hello"));
    assert_eq!(pair.status().hub["frames_dropped_by_passt"], 0);
    pair.down();
    assert!(wait_for_end(passt, DEADLINE), "passt has gone with its supervisor");
}

#[test]
fn the_end_of_passt_is_told_of() {
    if !has_passt() {
        return;
    }
    let mut pair = Pair::up(&store().with(&["--solo"]));
    let passt = passt_pid(&pair);
    send_signal(passt, Signal::KILL);
    pair.wait_for_event(&format!("passt (process {passt}) is gone"));
    assert!(!pair.status().serving, "a guest that cannot be reached does not serve");
    pair.down();
}

#[test]
fn passt_ends_with_a_supervisor_that_is_killed() {
    if !has_passt() {
        return;
    }
    let mut pair = Pair::up(&store().with(&["--solo"]));
    let passt = passt_pid(&pair);
    send_signal(pair.status().supervisor_pid, Signal::KILL);
    assert!(wait_for_end(passt, DEADLINE), "passt has outlived its supervisor");
}

#[test]
fn what_passt_cannot_publish_is_refused() {
    let failure = Pair::refused(&store().unpublished().with(&["--publish", "[::1]:0:6379"]));
    assert!(failure.text.contains("IPv6"), "{}", failure.text);
    assert_eq!(failure.code, 2, "wrong usage");
}
