//! Recordings: run again bit for bit, to their end or to any epoch, also into a debugger.
//!
//! Run with `cargo test -p pollux-tests --test e2e_replay`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pollux_tests::client::{Client, Reply};
use pollux_tests::guests::{ask, send};
use pollux_tests::load::Load;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::Role;
use pollux_tests::workbench::{image, seed};
use serde_json::Value;

/// The exit codes for a check that failed, and for what is no checkpoint or not one that fits.
const CHECK_FAILED: i32 = 13;
const NOT_A_CHECKPOINT: i32 = 16;

fn recording(pair: &Pair) -> PathBuf {
    pair.root().join("recording")
}

fn record(pair: &Pair) -> PathBuf {
    let path = recording(pair);
    // The name stands in front, for people; the fixture's is the only one there.
    let output = pair.command(&["record", "e2e"]).arg(&path).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    path
}

fn stop(pair: &Pair) {
    let output = pair.command(&["record", "e2e", "--stop"]).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn run(pair: &Pair, from: &Path, arguments: &[&str]) -> Output {
    pair.command(&["replay", "--json"]).arg(from).args(arguments).output().expect("it runs")
}

fn replay(pair: &Pair, from: &Path, arguments: &[&str]) -> Value {
    let output = run(pair, from, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn files(folder: &Path, front: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(front));
    let mut files: Vec<_> = all.filter(begins).collect();
    files.sort();
    files
}

/// Under load, over the death of the primary and a new backup: one recording, one history.
fn recorded_under_load(arguments: &[&str]) {
    let seed = seed("recording");
    let patient = ["--failure-timeout-ms", "5000"];
    let mut pair = Pair::up(&Options::new("kv").with(&patient).with(arguments).alone());
    let load = Load::start(pair.address(6379), 4, seed);
    load.wait_for_answers(30);
    let path = record(&pair);
    load.wait_for_answers(40);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    load.wait_for_answers(40);
    pair.must(&["rejoin"]);
    load.wait_for_answers(40);
    stop(&pair);
    assert!(pair.status().storage.is_none());
    load.wait_for_answers(20);
    load.finish();
    pair.must(&["down"]);

    let whole = replay(&pair, &path, &[]);
    println!("{whole}");
    let number = |key: &str| whole[key].as_u64().expect("a number");
    assert!(number("from_epoch") + 50 < number("epoch"));
    assert_eq!(number("epoch"), number("recorded_through"));
    assert_eq!(whole["digest"], whole["recorded_digest"], "the end is as recorded");
    // Anywhere in the middle it is as recorded, too, and twice the same.
    let middle = (number("from_epoch") + number("epoch")) / 2;
    let until = replay(&pair, &path, &["--until", &middle.to_string()]);
    assert_eq!(until["epoch"].as_u64(), Some(middle));
    assert_eq!(until["digest"], until["recorded_digest"]);
    let checkpoint = files(&path, "checkpoint-").remove(0);
    assert_eq!(replay(&pair, &checkpoint, &[])["digest"], whole["digest"], "begun with the checkpoint named");
    let beyond = run(&pair, &path, &["--until", "999999999"]);
    assert!(String::from_utf8_lossy(&beyond.stderr).contains("was not recorded"), "{beyond:?}");
}

#[test]
fn a_recording_ends_in_the_same_digest() {
    recorded_under_load(&[]);
}

#[test]
fn a_recording_of_exact_epochs_ends_in_the_same_digest() {
    recorded_under_load(&["--epoch", "exact:50000"]);
}

/// What a guest computes from the processor's own random numbers is another thing each time.
#[test]
fn a_guest_that_is_not_deterministic_is_found_out() {
    let mut pair = Pair::up(&Options::new("probe").with(&["--solo", "--qemu-arg=-cpu", "--qemu-arg=max"]));
    let path = record(&pair);
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut client, "hello"), "hello");
    let before = pair.status().replica(Role::Primary).expect("one").epoch;
    ask(&mut client, "rdrand");
    assert_eq!(ask(&mut client, "hello"), "hello");
    stop(&pair);
    pair.must(&["down"]);
    let output = run(&pair, &path, &[]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(CHECK_FAILED), "{text}");
    let (_, epoch) = text.split_once("differs from the recording in epoch ").expect("it names the epoch");
    let epoch: u64 = epoch.split(':').next().and_then(|digits| digits.parse().ok()).expect("a number");
    assert!(epoch >= before, "epoch {epoch}, and nothing was drawn before epoch {before}");
    // Up to there it is the same.
    let until = replay(&pair, &path, &["--until", &(epoch - 1).to_string()]);
    assert_eq!(until["digest"], until["recorded_digest"]);
}

/// A recording of a guest that panics, and the report of it.
fn panicked() -> (Pair, PathBuf, String) {
    let mut pair = Pair::up(&Options::new("probe").with(&["--solo"]));
    let path = record(&pair);
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut client, "hello"), "hello");
    send(&mut client, "panic");
    let report = pair.wait_until("the panic", |status| status.guest_stopped.clone().map(|stopped| stopped.report));
    pair.must(&["down"]);
    (pair, path, report)
}

#[test]
fn a_panic_is_reached_again_with_the_same_report() {
    let (pair, path, report) = panicked();
    let status = replay(&pair, &path, &[]);
    assert_eq!(status["guest_stopped"]["kind"], "panic", "{status}");
    assert_eq!(status["guest_stopped"]["report"].as_str(), Some(report.as_str()));
    assert_eq!(status["digest"], status["recorded_digest"]);
    // Of another program it is no recording.
    let foreign = image("echo");
    let output = run(&pair, &path, &["--image", foreign.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(NOT_A_CHECKPOINT), "{output:?}");
}

/// gdb finds the guest in front of its end, and a breakpoint in the program is reached.
#[test]
fn a_debugger_reaches_the_panic() {
    let (pair, path, _) = panicked();
    let mut replay = pair
        .command(&["replay", "--json", "--gdb"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(replay.stdout.take().expect("piped")).lines();
    let first: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    assert_eq!(first["epoch"].as_u64().map(|epoch| epoch + 1), first["recorded_through"].as_u64(), "{first}");
    let command = first["gdb"].as_str().expect("a command");
    let batch = format!(
        "{command} -batch -nx -ex 'break probe::innermost_culprit' -ex continue -ex backtrace -ex delete -ex detach"
    );
    let gdb = Command::new("sh").args(["-c", &batch]).stdin(Stdio::null()).output().expect("gdb runs");
    let text = String::from_utf8_lossy(&gdb.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&gdb.stderr));
    for name in ["Breakpoint 1, ", "probe::outer_caller", "runtime::executor"] {
        assert!(text.contains(name), "{name} is not in what gdb says");
    }
    // Let go, the guest comes to the same end.
    let last: Value = serde_json::from_str(&lines.next().expect("a line").expect("read")).expect("JSON");
    assert_eq!(last["guest_stopped"]["kind"], "panic", "{last}");
    assert_eq!(last["digest"], last["recorded_digest"]);
    replay.kill().expect("it waits");
    replay.wait().expect("it has ended");
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let mut pair = Pair::up(&Options::new("echo").with(&["--bare"]));
    let output = pair.command(&["record", "e2e"]).arg(recording(&pair)).output().expect("it runs");
    assert_eq!(output.status.code(), Some(12), "{output:?}");
    pair.must(&["down"]);
    drop(pair);

    pair = Pair::up(&Options::new("kv").with(&["--solo"]));
    let output = pair.command(&["record", "e2e", "--stop"]).output().expect("it runs");
    assert!(String::from_utf8_lossy(&output.stderr).contains("nothing is being recorded"), "{output:?}");
    let path = record(&pair);
    let again = pair.command(&["record", "e2e"]).arg(pair.root().join("other")).output().expect("it runs");
    assert!(String::from_utf8_lossy(&again.stderr).contains("already"), "{again:?}");
    let busy = run(&pair, &path, &[]);
    assert!(String::from_utf8_lossy(&busy.stderr).contains("is in use"), "{busy:?}");
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    assert!(client.must("SET a b").is_ok());
    assert_eq!(client.must("GET a"), Reply::bulk("b"));
    pair.must(&["down"]);
    assert_eq!(replay(&pair, &path, &[])["divergence"], Value::Null, "`down` ends a recording as well");
}
