//! Both machines die, and what clients were told is there again: a store in memory alone, with a durable log.
//!
//! Each connection counts on a key of its own, so what it was told and what it has asked for bound what may be there: a
//! number below the first is a lost write, one above the second an invented one.
//!
//! Run with `cargo test -p pollux-tests --test e2e_durable`.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pollux_tests::client::{Client, Reply};
use pollux_tests::counts::{Count, check, count_on};
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::small::Small;
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, seed, send_signal, wait_for_end};
use rustix::process::Signal;

const CONNECTIONS: usize = 6;
/// The exit code for what is no checkpoint, or not one that fits.
const NOT_A_CHECKPOINT: i32 = 16;
/// No replica is to be taken for dead because the machine has other things to do.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "5000"];

/// A folder of its own, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pollux-e2e-durable-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }

    fn store(&self, every: &str, log: &str) -> Options {
        let storage = ["--checkpoint-dir", self.text(), "--checkpoint-every", every, "--log", log];
        Options::new("kv").with(&PATIENT).with(&storage)
    }

    /// Files whose names begin so, in their order.
    fn files(&self, front: &str) -> Vec<PathBuf> {
        let all = fs::read_dir(&self.0).expect("a folder").map(|entry| entry.expect("an entry").path());
        let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(front));
        let mut files: Vec<_> = all.filter(begins).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn qemu_pids(pair: &mut Pair) -> Vec<i32> {
    pair.status().replicas.iter().map(|replica| replica.pid).collect()
}

fn kill_all(pair: &mut Pair) {
    pair.kill_machines();
    pair.must(&["down"]);
}

/// The ways in which everything dies, in turn.
fn die(pair: &mut Pair, way: u64) {
    match way % 4 {
        0 => kill_all(pair),
        1 => {
            let pid = pair.status().supervisor_pid;
            let pids = qemu_pids(pair);
            send_signal(pid, Signal::KILL);
            pids.iter().for_each(|&pid| assert!(wait_for_end(pid, DEADLINE), "process {pid} is gone"));
            assert!(wait_for_end(pid, DEADLINE));
        }
        2 => {
            pair.kill(Role::Primary, "KILL");
            pair.wait_until("a survivor", |status| (status.mode == "solo").then_some(()));
            kill_all(pair);
        }
        _ => {
            pair.kill(Role::Backup, "KILL");
            pair.wait_until("a survivor", |status| (status.mode == "solo").then_some(()));
            pair.must(&["rejoin"]);
            kill_all(pair);
        }
    }
}

/// Lives that end by SIGKILL under load, with checkpoints so often that many a kill falls into one.
#[test]
fn nothing_acknowledged_is_lost_when_both_machines_die() {
    let mut rng = Rng::new(seed("both machines die"));
    let folder = Folder::new("lives");
    let counts: Vec<Count> = (0..CONNECTIONS).map(|_| Count::default()).collect();
    let mut pair = Pair::up(&folder.store("150ms", "durable").alone());
    for life in 0..moments(8) {
        let address = pair.address(6379);
        check(address, &counts, life);
        let (all, goal) = (AtomicU64::new(0), 100 + rng.below(900));
        thread::scope(|scope| {
            for (index, count) in counts.iter().enumerate() {
                let all = &all;
                scope.spawn(move || count_on(address, &format!("count:{index}"), count, all));
            }
            let mut client = Client::connect(address).expect("a published port takes connections");
            while all.load(Ordering::SeqCst) < goal {
                client.must("GET nothing");
            }
            die(&mut pair, life);
        });
        let before: Vec<_> = folder.files("").iter().map(|path| path.file_name().map(|name| name.to_owned())).collect();
        let status = pair.restore(&folder.0, &[]);
        println!("life {life}: {before:?}, {:?}", status.storage);
        assert_eq!(status.storage.expect("the log goes on").log, "durable");
        // The second one is brought in.
        pair.wait_until("a complete pair", |status| (status.mode == "paired").then_some(()));
    }
    check(pair.address(6379), &counts, u64::MAX);
    assert!(counts.iter().all(|count| count.told.load(Ordering::SeqCst) > 0), "{counts:?}");
    pair.down();
}

/// All commands of the load, and a failover in the middle: the log goes on with the promoted replica.
#[test]
fn the_log_goes_on_over_a_failover_under_load() {
    let seed = seed("durable load");
    let folder = Folder::new("load");
    let mut pair = Pair::up(&folder.store("500ms", "durable").alone());
    let load = Load::start(pair.address(6379), CONNECTIONS, seed);
    load.wait_for_answers(60);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    load.wait_for_answers(60);
    let summary = load.finish();
    println!("longest wait {:?}", summary.longest_wait);
    let contents = |pair: &mut Pair| {
        let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
        let Reply::Array(Some(mut keys)) = client.must("KEYS *") else { panic!("KEYS gives an array") };
        keys.sort_by_key(ToString::to_string);
        let values: Vec<_> = keys
            .iter()
            .map(|key| match key {
                Reply::Bulk(Some(key)) => client.ask(&[b"GET", key]).expect("an answer"),
                other => panic!("{other} is no key"),
            })
            .collect();
        (keys, values)
    };
    let before = contents(&mut pair);
    assert!(!before.0.is_empty());
    kill_all(&mut pair);
    pair.restore(&folder.0, &["--solo"]);
    assert!(contents(&mut pair) == before, "the restored store is another");
    pair.down();
}

/// A pair with something in it, down; and how many writes it has acknowledged.
fn written(folder: &Folder, log: &str) -> Pair {
    let mut pair = Pair::up(&folder.store("60s", log).with(&["--solo"]));
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    for number in 1..=50 {
        assert_eq!(client.must("INCR n"), Reply::Integer(number));
    }
    drop(client);
    kill_all(&mut pair);
    pair
}

fn number(pair: &mut Pair) -> i64 {
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    match client.must("GET n") {
        Reply::Bulk(Some(text)) => String::from_utf8_lossy(&text).parse().expect("a number"),
        _ => 0,
    }
}

#[test]
fn a_torn_log_ends_where_it_is_torn_and_a_damaged_one_is_refused() {
    let mut rng = Rng::new(seed("torn log"));
    let folder = Folder::new("torn");
    let mut pair = written(&folder, "durable");
    let last = folder.files("log-").pop().expect("a segment");
    let good = fs::read(&last).expect("read");
    let mut numbers = Vec::new();
    for _ in 0..4 {
        // Each life begins a segment of its own, which has to go again.
        let files = folder.files("");
        let cut = rng.between(0, good.len() as u64) as usize;
        fs::write(&last, &good[..cut]).expect("written");
        let kept = folder.files("log-").len();
        pair.restore(&folder.0, &["--solo"]);
        numbers.push((cut, number(&mut pair)));
        pair.must(&["down"]);
        folder.files("log-").split_off(kept).iter().for_each(|path| fs::remove_file(path).expect("removed"));
        folder.files("checkpoint-").iter().filter(|path| !files.contains(path)).for_each(|path| {
            fs::remove_file(path).expect("removed");
        });
    }
    numbers.sort_unstable();
    println!("cut at, counted to: {numbers:?}");
    assert!(numbers.is_sorted_by_key(|(_, number)| *number), "the longer the log, the more is there: {numbers:?}");

    let mut bad = good.clone();
    let place = good.len() / 2;
    bad[place] ^= 4;
    fs::write(&last, &bad).expect("written");
    let output = pair.run(&["restore", folder.text()]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(NOT_A_CHECKPOINT), "{text}");
    assert!(text.contains("damaged at byte") && text.contains(last.file_name().unwrap().to_str().unwrap()), "{text}");
    fs::write(&last, &good).expect("written");
    pair.restore(&folder.0, &["--solo"]);
    assert_eq!(number(&mut pair), 50, "whole again");
    pair.down();
}

#[test]
fn an_older_checkpoint_serves_when_the_newest_is_damaged() {
    let folder = Folder::new("older");
    let mut pair = Pair::up(&folder.store("100ms", "durable").with(&["--solo"]));
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    let mut told = 0;
    while pair.status().storage.is_none_or(|storage| storage.checkpoints < 4) {
        told += 1;
        assert_eq!(client.must("INCR n"), Reply::Integer(told));
    }
    kill_all(&mut pair);
    let newest = folder.files("checkpoint-").pop().expect("one");
    let mut bytes = fs::read(&newest).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).expect("written");
    pair.restore(&folder.0, &["--solo"]);
    assert_eq!(number(&mut pair), told);
    pair.down();
}

#[test]
fn without_a_log_the_loss_window_is_said_and_kept() {
    let folder = Folder::new("none");
    let mut pair = written(&folder, "none");
    assert!(folder.files("log-").is_empty());
    let output = pair.must(&["restore", folder.text(), "--publish", "0:6379", "--solo"]);
    assert!(output.contains("since the newest one is lost (up to 60s"), "{output}");
    assert!(number(&mut pair) <= 50);
    pair.down();
}

#[test]
fn a_folder_belongs_to_one_pair() {
    let folder = Folder::new("one");
    let pair = Pair::up(&folder.store("60s", "durable").with(&["--solo"]));
    let second = pair.command(&["restore", folder.text(), "--name", "second"]).output().expect("it runs");
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(second.status.code(), Some(NOT_A_CHECKPOINT), "{text}");
    assert!(text.contains("is in use"), "{text}");
    let third = Pair::refused(&folder.store("60s", "durable").under_permit());
    assert!(third.text.contains("is in use"), "{}", third.text);
    pair.must(&["down"]);
    let fourth = Pair::refused(&folder.store("60s", "durable").under_permit());
    assert!(fourth.text.contains("pollux restore"), "{}", fourth.text);
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let folder = Folder::new("refused");
    let disk = format!("data={},size=1M", folder.0.with_extension("disk").display());
    let with_disk = Pair::refused(&folder.store("1s", "none").with(&["--disk", &disk]));
    assert!(with_disk.code == 2 && with_disk.text.contains("--log durable"), "{}", with_disk.text);
    let bare = Pair::refused(&folder.store("1s", "durable").with(&["--bare"]));
    assert!(bare.code == 2 && bare.text.contains("bare"), "{}", bare.text);
    let alone = Pair::refused(&Options::new("kv").with(&["--log", "durable"]));
    assert!(alone.code == 2 && alone.text.contains("--checkpoint-dir"), "{}", alone.text);
    let often = Pair::refused(&folder.store("0s", "durable"));
    assert!(often.code == 2 && often.text.contains("10s"), "{}", often.text);
    assert!(!folder.0.exists(), "nothing was begun");
}

/// Outputs wait while the disk is full, and leave when it is not: nothing is acknowledged that is not stored.
#[test]
fn a_full_disk_stops_the_outputs_and_not_the_guest() {
    let folder = Folder::new("full");
    let small = Small::mount(&folder.0, "6m");
    let inner = Folder(folder.0.join("inner"));
    let mut pair = Pair::up(&inner.store("60s", "durable").with(&["--solo"]));
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    assert_eq!(client.must("INCR n"), Reply::Integer(1));
    let filler = small.fill();
    let value = vec![b'x'; 8192];
    client.send_command(&[b"SET", b"big", &value]).expect("sent");
    pair.wait_until("the failure", |status| status.storage.as_ref().and_then(|storage| storage.failure.clone()));
    assert!(!client.has_something().expect("the connection stands"), "nothing is acknowledged");
    assert!(pair.must(&["status"]).contains("NOT WRITTEN"), "status says so");
    assert!(pair.log().contains("outputs wait until it can be written"));
    fs::remove_file(&filler).expect("removed");
    assert!(client.receive().expect("an answer").is_ok(), "there is room again");
    pair.wait_until("recovery", |status| {
        status.storage.as_ref().is_some_and(|storage| storage.failure.is_none()).then_some(())
    });
    assert_eq!(client.must("INCR n"), Reply::Integer(2));
    kill_all(&mut pair);
    pair.restore(&inner.0, &["--solo"]);
    assert_eq!(number(&mut pair), 2);
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    assert_eq!(client.must("STRLEN big"), Reply::Integer(8192));
    pair.must(&["down"]);
    drop(small);
}
