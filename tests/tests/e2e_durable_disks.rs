//! Both machines of a store die that keeps its data on a disk and has a durable log: memory and disk come back at the same epoch.
//!
//! Each connection counts on a key of its own, as in `e2e_durable`. What the disk holds in the end is judged by a store that is
//! started upon it alone, and mirrors by comparing all their bytes.
//!
//! Run with `cargo test -p pollux-tests --test e2e_durable_disks`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pollux_tests::client::{Client, Reply};
use pollux_tests::counts::{Count, check, count_on};
use pollux_tests::disks::DISK_CODE;
use pollux_tests::guests::ask;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::{Role, Status};
use pollux_tests::workbench::{command_path, moments, seed};
use serde_json::Value;

const CONNECTIONS: usize = 6;
/// The exit code for what is no checkpoint, or not one that fits.
const NOT_A_CHECKPOINT: i32 = 16;
/// No replica is to be taken for dead because the machine has other things to do.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "5000"];
/// A store that says nothing before its disk has it.
const ALWAYS: [&str; 2] = ["--args", "appendonly=yes appendfsync=always"];

/// A folder with the log in one folder and the disk beside it, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pollux-e2e-durable-disks-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("made");
        Self(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    fn stem(&self) -> PathBuf {
        self.0.join("data")
    }

    fn disk(&self, options: &str) -> String {
        format!("data={}{options}", self.stem().display())
    }

    /// The store with a log and a disk of this kind.
    fn store(&self, every: &str, kind: &str) -> Options {
        let log = self.log();
        let storage = ["--checkpoint-dir", text(&log), "--checkpoint-every", every, "--log", "durable"];
        let disk = self.disk(&format!("{kind},size=16M"));
        Options::new("kv").with(&PATIENT).with(&storage).with(&["--disk", &disk]).with(&ALWAYS)
    }

    /// What a store upon this disk is that knows nothing of the log.
    fn store_without_log(&self, kind: &str) -> Options {
        Options::new("kv").with(&["--solo", "--disk", &self.disk(kind)]).with(&ALWAYS).under_permit()
    }

    fn check_mirrors(&self) {
        let mut check = Command::new(command_path());
        let output = check.args(["disk", "check"]).arg(self.stem()).output().expect("the command starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// All bytes of the disk's files.
    fn disk_files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let all = fs::read_dir(&self.0).expect("a folder").map(|entry| entry.expect("an entry").path());
        let mut files: Vec<_> = all.filter(|path| path.is_file()).collect();
        files.sort();
        files.into_iter().map(|path| (path.clone(), fs::read(path).expect("read"))).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Restores what must be refused; returns the exit code and what was said.
fn refused(pair: &Pair, from: &Path, arguments: &[&str]) -> (i32, String) {
    let output = pair.run(&[&["restore", text(from)], arguments].concat());
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn kill_all(pair: &mut Pair) {
    pair.kill_machines();
    pair.must(&["down"]);
}

/// The ways in which everything dies, in turn.
fn die(pair: &mut Pair, way: u64) {
    let survivor = |status: &Status| (status.mode == "solo").then_some(());
    match way % 4 {
        0 => kill_all(pair),
        // The backup is promoted, and dies before or while its disks are copied to a newcomer.
        1 => {
            pair.kill(Role::Primary, "KILL");
            pair.wait_until("a survivor", survivor);
            kill_all(pair);
        }
        2 => {
            pair.kill(Role::Primary, "KILL");
            pair.wait_until("a survivor", survivor);
            pair.must(&["rejoin"]);
            kill_all(pair);
        }
        _ => {
            pair.kill(Role::Backup, "KILL");
            pair.wait_until("a survivor", survivor);
            kill_all(pair);
        }
    }
}

fn replay(pair: &Pair, from: &Path) -> Value {
    let output = pair.command(&["replay", "--json"]).arg(from).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Lives that end by SIGKILL under load, with checkpoints so often that many a kill falls into one.
fn lives(test: &str, kind: &str, lives: u64) {
    let mut rng = Rng::new(seed(test));
    let folder = Folder::new(&test.replace(' ', "-"));
    let counts: Vec<Count> = (0..CONNECTIONS).map(|_| Count::default()).collect();
    let mut pair = Pair::up(&folder.store("150ms", kind).alone());
    for life in 0..lives {
        let address = pair.address(6379);
        check(address, &counts, life);
        let (all, goal) = (AtomicU64::new(0), 100 + rng.below(900));
        thread::scope(|scope| {
            for (index, count) in counts.iter().enumerate() {
                let all = &all;
                scope.spawn(move || count_on(address, &format!("count:{index}"), count, all));
            }
            // Beside them, the store's own log is replaced again and again.
            let mut client = Client::connect(address).expect("a published port takes connections");
            while all.load(Ordering::SeqCst) < goal {
                // One that is under way is not begun again, which is no error here.
                client.ask(&[b"BGREWRITEAOF"]).expect("an answer");
            }
            die(&mut pair, life);
        });
        let status = pair.restore(&folder.log(), &[]);
        println!("life {life}: {:?}", status.storage);
        assert_eq!(status.storage.expect("the log goes on").log, "durable");
        pair.wait_until("a complete pair", |status| (status.mode == "paired").then_some(()));
    }
    let address = pair.address(6379);
    check(address, &counts, lives);
    assert!(counts.iter().all(|count| count.told.load(Ordering::SeqCst) > 0), "{counts:?}");
    pair.must(&["down"]);
    if kind != ",shared" {
        folder.check_mirrors();
    }

    // The log can be run again for itself, and touches no disk.
    let before = folder.disk_files();
    let whole = replay(&pair, &folder.log());
    println!("{whole}");
    assert_eq!(whole["digest"], whole["recorded_digest"], "the end is as recorded");
    assert_eq!(whole["epoch"], whole["recorded_through"]);
    assert!(before == folder.disk_files(), "a replay has changed a disk");

    // What the disk holds is what the store knew; and with that the log is of no more use.
    let mut alone = Pair::up(&folder.store_without_log(kind));
    check(alone.address(6379), &counts, lives + 1);
    alone.must(&["down"]);
    let (code, text) = refused(&pair, &folder.log(), &[]);
    assert!(code == DISK_CODE && text.contains("does not belong to this log"), "{code}: {text}");
}

#[test]
fn memory_and_mirrors_come_back_at_the_same_epoch() {
    lives("both machines and mirrors", "", moments(8));
}

#[test]
fn memory_and_a_shared_disk_come_back_at_the_same_epoch() {
    lives("both machines and a shared disk", ",shared", moments(4));
}

/// A recording of a pair without a durable log: the guest goes on with its disks as ever, and the recording has what it read.
fn recorded(kind: &str) {
    let folder = Folder::new(&format!("recorded{}", kind.len()));
    let disk = folder.disk(&format!("{kind},size=16M"));
    let mut pair = Pair::up(&Options::new("probe").with(&PATIENT).with(&["--disk", &disk]));
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut client, "disk data write 100 64 5 1"), "done");
    let path = folder.log();
    let record = pair.command(&["record", "e2e"]).arg(&path).output().expect("it runs");
    assert!(record.status.success(), "{}", String::from_utf8_lossy(&record.stderr));
    // What it reads was written before; what it reads next, by itself; and what it reads last, at another replica.
    assert_eq!(ask(&mut client, "disk data verify 100 64 5 1"), "same");
    assert_eq!(ask(&mut client, "disk data overlap 1000 100"), "in order 200 of 200");
    assert_eq!(ask(&mut client, "disk data write 100 64 5 2"), "done");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    pair.must(&["rejoin"]);
    assert_eq!(ask(&mut client, "disk data verify 100 64 5 2"), "same");
    assert_eq!(ask(&mut client, "disk data overlap 3000 100"), "in order 200 of 200");
    let stop = pair.command(&["record", "e2e", "--stop"]).output().expect("it runs");
    assert!(stop.status.success(), "{}", String::from_utf8_lossy(&stop.stderr));
    assert_eq!(ask(&mut client, "disk data write 100 64 5 3"), "done");
    pair.must(&["down"]);
    let before = folder.disk_files();
    let whole = replay(&pair, &path);
    println!("{whole}");
    assert_eq!(whole["digest"], whole["recorded_digest"], "the end is as recorded");
    assert_eq!(whole["epoch"], whole["recorded_through"]);
    assert!(before == folder.disk_files(), "a replay has changed a disk");
    let (code, text) = refused(&pair, &path, &[]);
    assert!(code == NOT_A_CHECKPOINT && text.contains("a recording can be replayed"), "{code}: {text}");
}

#[test]
fn a_recording_of_a_guest_with_mirrors_ends_in_the_same_digest() {
    recorded("");
}

#[test]
fn a_recording_of_a_guest_with_a_shared_disk_ends_in_the_same_digest() {
    recorded(",shared");
}

fn number(address: SocketAddr) -> i64 {
    let mut client = Client::connect(address).expect("a published port takes connections");
    match client.must("INCR n") {
        Reply::Integer(number) => number,
        other => panic!("INCR gives {other}"),
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("copied");
    }
}

/// Disks and logs that do not belong together are told apart, and nothing is changed.
#[test]
fn a_disk_of_another_time_than_its_log_is_refused() {
    let folder = Folder::new("times");
    let mut pair = Pair::up(&folder.store("100ms", "").with(&["--solo"]));
    for expected in 1..=20 {
        assert_eq!(number(pair.address(6379)), expected);
    }
    pair.must(&["down"]);
    let (old_log, old_disk) = (folder.0.join("old-log"), folder.0.join("old.0"));
    copy(&folder.log(), &old_log);
    fs::copy(folder.0.join("data.0"), &old_disk).expect("copied");

    pair.restore(&folder.log(), &["--solo"]);
    for expected in 21..=40 {
        assert_eq!(number(pair.address(6379)), expected);
    }
    // Two checkpoints of this life are there: the log no longer leads on from what the old disk holds.
    pair.wait_until("checkpoints", |status| {
        status.storage.as_ref().filter(|storage| storage.checkpoints > 2).map(drop)
    });
    pair.must(&["down"]);
    let before = folder.disk_files();
    let (code, text) = refused(&pair, &old_log, &[]);
    assert!(code == DISK_CODE && text.contains("this is an old copy of the log"), "{code}: {text}");
    let elsewhere = format!("data={}", folder.0.join("old").display());
    let (code, text) = refused(&pair, &folder.log(), &["--disk", &elsewhere]);
    assert!(code == DISK_CODE && text.contains("this is an old copy of the disk"), "{code}: {text}");
    let missing = format!("data={}", folder.0.join("none").display());
    let (code, text) = refused(&pair, &folder.log(), &["--disk", &missing]);
    assert!(code == DISK_CODE && text.contains("there is no "), "{code}: {text}");
    let other = format!("other={}", folder.stem().display());
    let (code, text) = refused(&pair, &folder.log(), &["--disk", &other]);
    assert!(code == 2 && text.contains("the guest has the disks"), "{code}: {text}");
    let mut checkpoints: Vec<_> =
        fs::read_dir(folder.log()).expect("a folder").map(|entry| entry.expect("one").path()).collect();
    checkpoints.retain(|path| path.extension().is_some_and(|extension| extension == "ckpt"));
    checkpoints.sort();
    let (code, text) = refused(&pair, checkpoints.last().expect("one"), &[]);
    assert!(code == NOT_A_CHECKPOINT && text.contains("holds nothing of its guest's disks"), "{code}: {text}");
    assert!(before == folder.disk_files(), "what was refused has changed something");

    // An old log with the disk of its time is a pair of that time.
    pair.restore(&old_log, &["--solo", "--disk", &elsewhere]);
    assert_eq!(number(pair.address(6379)), 21);
    pair.must(&["down"]);
    pair.restore(&folder.log(), &["--solo"]);
    assert_eq!(number(pair.address(6379)), 41);
    pair.down();
}
