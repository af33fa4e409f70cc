//! Disks that both replicas share: whoever takes over repeats what was under way, nothing that was promised is lost, and a
//! replica that lost writes nothing any more, whether it was killed, stopped, or only cut off.
//!
//! Run with `cargo test -p pollux-tests --test e2e_shared`. `POLLUX_E2E_MOMENTS=50` tries that many moments of each kind of
//! kill, `POLLUX_SEED` repeats a run.

use std::cell::RefCell;
use std::path::PathBuf;

use pollux_tests::blocks::{Ledger, Mirror, Promise, Writers};
use pollux_tests::client::Client;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{command_path, moments, seed, send_signal, wait_for_end};
use rustix::process::Signal;

/// Exit code of a command about a disk that cannot be used.
const DISK_CODE: i32 = 15;
/// Blocks that are written to.
const BLOCKS: u64 = 400;
const WRITERS: u64 = 8;

/// A folder for a disk's file, removed when dropped.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pollux-e2e-shared-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn path(&self) -> PathBuf {
        self.0.join("disk")
    }

    /// A probe with the disk, and further arguments. Silence is no failure here, or a busy machine would be one.
    fn options(&self, options: &str, arguments: &[&str]) -> Options {
        let disk = format!("data={}{options}", self.path().display());
        let options = Options::new("probe").with(&["--disk", &disk]).with(arguments);
        let is_patient = arguments.contains(&"--failure-timeout-ms");
        if is_patient { options } else { options.with(&["--failure-timeout-ms", "10000"]) }
    }

    fn up(&self) -> Pair {
        Pair::up(&self.options(",shared,size=1M", &[]))
    }

    /// Runs `pollux disk`; returns its exit code and what it wrote.
    fn command(&self, command: &str, arguments: &[&str]) -> (i32, String) {
        let mut disk = std::process::Command::new(command_path());
        let output =
            disk.args(["disk", command]).arg(self.path()).args(arguments).output().expect("the command starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// What lies in the file.
    fn check(&self, ledger: &mut Ledger, promise: Promise) {
        let disk = Mirror::shared(&self.path()).expect("it is there");
        ledger.check(promise, |seed, block| disk.version(seed, block)).expect("what was promised is there");
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn connect(pair: &mut Pair) -> Client {
    Client::connect(pair.address(7000)).expect("a published port takes connections")
}

fn ask(client: &mut Client, command: &str) -> String {
    client.send(format!("{command}\n").as_bytes()).expect("the connection stands");
    client.line().unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// A disk of 1 MiB has 2048 blocks; reads, writes, zeros and the order of what overlaps.
fn work(client: &mut Client) {
    assert_eq!(ask(client, "disk data size"), "blocks 2048");
    // 150 KiB, in three pieces.
    assert_eq!(ask(client, "disk data write 10 300 5 1"), "done");
    assert_eq!(ask(client, "disk data verify 10 300 5 1"), "same");
    assert_eq!(ask(client, "disk data zero 11 2"), "done");
    assert_eq!(ask(client, "disk data discard 14 1"), "done");
    for (block, version) in [(10, 1), (11, 0), (12, 0), (13, 1), (14, 0), (15, 1), (400, 0)] {
        assert_eq!(ask(client, &format!("disk data version {block}")), format!("version {version}"), "block {block}");
    }
    assert_eq!(ask(client, "disk data flush"), "done");
    assert_eq!(ask(client, "disk data overlap 1000 100"), "in order 200 of 200");
    assert_eq!(ask(client, "disk data stream 1 4194304 16").split(' ').next(), Some("took"));
    assert_eq!(ask(client, "disk data stream 0 4194304 16").split(' ').next(), Some("took"));
    assert_eq!(ask(client, "disk data write 2047 2 1 1"), "ENXIO");
    assert_eq!(ask(client, "disk data write 5 1 5 9"), "done");
}

#[test]
fn a_shared_disk_works_on_every_machine() {
    let machines: [&[&str]; 6] = [
        &[],
        &["--bare"],
        &["--solo", "--machine", "pc"],
        &["--machine", "q35"],
        &["--epoch", "exact:50000"],
        &["--protocol", "original"],
    ];
    for (index, arguments) in machines.into_iter().enumerate() {
        println!("{arguments:?}");
        let files = Files::new(&format!("works-{index}"));
        let mut pair = Pair::up(&files.options(",shared,size=1M", arguments));
        work(&mut connect(&mut pair));
        assert_eq!(pair.status().disks[0].kind, "shared");
        pair.down();
        let (code, text) = files.command("inspect", &[]);
        assert_eq!(code, 0, "{text}");
        assert!(text.contains(", shared, 1048576 bytes") && text.contains("clean"), "{text}");
        assert!(!files.0.join("disk.0").exists());
        let mut pair = Pair::up(&files.options(",shared", arguments));
        assert_eq!(ask(&mut connect(&mut pair), "disk data verify 5 1 5 9"), "same", "it is there the next time");
        pair.down();
    }
}

/// Reads every block of the ledger through the guest.
fn check_through_guest(pair: &mut Pair, ledger: &mut Ledger, promise: Promise) {
    let client = RefCell::new(connect(pair));
    let read = |seed: u64, block: u64| {
        let mut client = client.borrow_mut();
        let answer = ask(&mut client, &format!("disk data version {block}"));
        let version = answer.strip_prefix("version ").and_then(|version| version.parse().ok());
        let version: u64 = version.ok_or_else(|| format!("block {block}: {answer}"))?;
        let whole = version == 0 || ask(&mut client, &format!("disk data verify {block} 1 {seed} {version}")) == "same";
        if whole { Ok(version) } else { Err(format!("block {block} is torn")) }
    };
    ledger.check(promise, read).expect("what was promised is there");
}

/// A replica gets a signal while clients write and flush. The other one goes on with all that was said to be written; the
/// one that got it is gone before that.
fn strike_under_writes(role: Role, signal: &str, seed: u64) {
    println!("{role:?} gets {signal} at the moment of seed {seed}");
    let mut rng = Rng::new(seed);
    let files = Files::new(&format!("strike-{role:?}-{signal}"));
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
    files.check(&mut ledger, Promise::Written);
    let mut pair = files.up();
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
    let files = Files::new("both");
    let mut ledger = Ledger::new(first, BLOCKS);
    for seed in first..first + moments(3) {
        println!("moment of seed {seed}");
        let mut rng = Rng::new(seed);
        let mut pair = files.up();
        let writers = Writers::start(pair.address(7000), WRITERS, seed, ledger);
        writers.wait_for_answers(rng.between(50, 300));
        let pids: Vec<_> = pair.status().replicas.iter().map(|replica| replica.pid).collect();
        for &pid in &pids {
            send_signal(pid, Signal::KILL);
        }
        for pid in pids {
            assert!(wait_for_end(pid, DEADLINE));
        }
        ledger = writers.finish(true);
        pair.down();
        assert!(ledger.stable_blocks() > 0, "flushes were acknowledged");
        // One file and one page cache: all that was said to be written survives a host that does.
        files.check(&mut ledger, Promise::Written);
    }
    let mut pair = files.up();
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
        let files = Files::new("order");
        let mut pair = files.up();
        let mut client = connect(&mut pair);
        let mut watch = connect(&mut pair);
        client.send(b"disk data overlap 1000 3000\n").expect("the connection stands");
        for _ in 0..rng.between(1, 20) {
            assert_eq!(ask(&mut watch, "hello"), "hello");
        }
        pair.kill(Role::Primary, "KILL");
        assert_eq!(client.line().expect("an answer"), "in order 6000 of 6000");
        let status = pair.wait_for_solo(2);
        uncertain |= status.count("requests to shared disks are uncertain") > 0;
        pair.down();
    }
    assert!(uncertain, "not one kill came while something was outstanding: nothing was tried");
}

#[test]
fn a_fault_of_the_one_disk_is_told_to_the_guest_and_ends_no_replica() {
    for arguments in [&[][..], &["--bare"], &["--solo"]] {
        let files = Files::new("fails");
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
    let files = Files::new("refused");
    let refused = |options: &str, code: i32, text: &str| {
        let failure = Pair::refused(&files.options(options, &[]));
        assert_eq!(failure.code, code, "{}", failure.text);
        assert!(failure.text.contains(text), "{options:?}: {}", failure.text);
    };
    refused(",shared", DISK_CODE, "add size=64M");
    refused(",shared,resync", 2, "nothing to make anew");
    let pair = files.up();
    refused(",shared", DISK_CODE, "in use");
    pair.down();
    refused(",size=1M", DISK_CODE, "is a shared disk, not a mirror");
    for command in ["check", "resync"] {
        let (code, text) = files.command(command, &[]);
        assert_eq!(code, DISK_CODE, "{text}");
        assert!(text.contains("nothing to compare"), "{text}");
    }
    std::fs::remove_file(files.path()).expect("it is there");
    Pair::up(&files.options(",size=1M", &[])).down();
    refused(",shared,size=1M", DISK_CODE, "is a mirror of a disk of that name");
}
