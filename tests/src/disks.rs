//! A probe with a disk: what is done to it, and what must be there afterwards.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::blocks::{Ledger, Mirror, Promise, Writers};
use crate::client::Client;
use crate::guests::ask;
use crate::pair::{DEADLINE, Options, Pair};
use crate::sim::Rng;
use crate::status::Role;
use crate::workbench::{command_path, send_signal, wait_for_end};
use rustix::process::Signal;

/// Exit code of a command about a disk that cannot be used.
pub const DISK_CODE: i32 = 15;
/// Blocks that clients write to.
pub const BLOCKS: u64 = 400;
/// Clients that write.
pub const WRITERS: u64 = 8;
/// What names a bound on silence, unless a test has one of its own.
const SILENCE: &str = "--failure-timeout-ms";

/// A folder for a disk's files, removed when dropped, and the probe that uses it.
pub struct Files {
    folder: PathBuf,
    probe: String,
}

impl Files {
    /// An empty one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(name: &str) -> Self {
        Self::of("probe", name)
    }

    /// The same for another image of the probe.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn of(probe: &str, name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pollux-e2e-disk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Self { folder, probe: probe.to_owned() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file of a shared disk, or what the names of mirrors begin with.
    pub fn stem(&self) -> PathBuf {
        self.folder.join("disk")
    }

    /// A probe with the disk, and further arguments. Silence is no failure here, or a busy machine would be one: what fails
    /// are processes and disks.
    pub fn options(&self, options: &str, arguments: &[&str]) -> Options {
        let disk = format!("data={}{options}", self.stem().display());
        let options = Options::new(&self.probe).with(&["--disk", &disk]).with(arguments);
        if arguments.contains(&SILENCE) { options } else { options.with(&[SILENCE, "10000"]) }
    }

    /// Starts that probe.
    pub fn up(&self, options: &str) -> Pair {
        Pair::up(&self.options(options, &[]))
    }

    /// Runs `cargo pollux disk`; returns its exit code and what it wrote.
    ///
    /// # Panics
    /// When the command does not start.
    pub fn command(&self, command: &str, arguments: &[&str]) -> (i32, String) {
        let mut disk = std::process::Command::new(command_path());
        let output =
            disk.args(["disk", command]).arg(self.stem()).args(arguments).output().expect("the command starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A connection to the probe.
///
/// # Panics
/// When it takes none.
pub fn connect(pair: &mut Pair) -> Client {
    Client::connect(pair.address(7000)).expect("a published port takes connections")
}

/// Why a replica has ended, once it has: the other one goes on before its process is gone.
pub fn reason_of_end(pair: &mut Pair, replica: u8) -> String {
    pair.wait_until(&format!("the end of replica {replica}"), |status| {
        status.ended.iter().find(|ended| ended.replica == replica).map(|ended| ended.reason.clone())
    })
}

/// Reads, writes, zeros and the order of what overlaps, on a disk of 1 MiB, which has 2048 blocks.
///
/// # Panics
/// When something is not as it should be.
pub fn work(client: &mut Client) {
    assert_eq!(ask(client, "disk data size"), "blocks 2048");
    assert_eq!(ask(client, "disk nope size"), "ENOENT");
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
    assert_eq!(ask(client, "disk data write 18446744073709551615 1 1 1"), "ENXIO");
    assert_eq!(ask(client, "disk data write 5 1 5 9"), "done");
}

/// Does [`work`] on every kind of machine. `after` is given the files, the pair before it is taken down, and the machine's
/// arguments; whatever was written must be there at the next start, with the options `again`.
///
/// # Panics
/// When something is not as it should be.
pub fn works_on_every_machine(name: &str, first: &str, again: &str, after: impl Fn(&Files, Pair, &[&str])) {
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
        let files = Files::new(&format!("{name}-{index}"));
        let mut pair = Pair::up(&files.options(first, arguments));
        work(&mut connect(&mut pair));
        after(&files, pair, arguments);
        let mut pair = Pair::up(&files.options(again, arguments));
        let mut client = connect(&mut pair);
        assert_eq!(ask(&mut client, "disk data version 13").split(' ').next(), Some("version"));
        assert_eq!(ask(&mut client, "disk data verify 5 1 5 9"), "same", "it is there the next time");
        pair.down();
    }
}

/// Reads every block of the ledger through the guest.
///
/// # Panics
/// When something that was promised is not there.
pub fn check_through_guest(pair: &mut Pair, ledger: &mut Ledger, promise: Promise) {
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

/// What lies in a mirror's file.
///
/// # Panics
/// When something that was promised is not there.
pub fn check_mirror(files: &Files, replica: u8, ledger: &mut Ledger, promise: Promise) {
    let mirror = Mirror::open(&files.stem(), replica).expect("it is there");
    ledger.check(promise, |seed, block| mirror.version(seed, block)).expect("what was promised is there");
}

/// The mirrors hold the same.
///
/// # Panics
/// When they do not.
pub fn assert_equal(files: &Files) {
    let (code, text) = files.command("check", &[]);
    assert_eq!(code, 0, "{text}");
}

/// No pair starts with this mirror, because its replica was left behind.
///
/// # Panics
/// When one does, or for another reason.
pub fn assert_stale(files: &Files, replica: u8) {
    let failure = Pair::refused(&files.options("", &[]));
    assert_eq!(failure.code, DISK_CODE, "{}", failure.text);
    assert!(failure.text.contains(&format!("disk.{replica} is stale")), "{}", failure.text);
}

/// A replica is killed at a moment that the seed decides, while clients write and flush. The survivor has everything that was
/// said to be written; the other mirror is stale until it was made anew.
///
/// # Panics
/// When something is not as it should be.
pub fn kill_one_under_writes(files: &Files, role: Role, seed: u64) {
    println!("{role:?} at the moment of seed {seed}");
    let mut rng = Rng::new(seed);
    let mut pair = files.up(",size=1M");
    let writers = Writers::start(pair.address(7000), WRITERS, seed, Ledger::new(seed, BLOCKS));
    writers.wait_for_answers(rng.between(1, 300));
    assert_eq!(pair.status().disks[0].stale, None);
    pair.kill(role, "KILL");
    let disk = pair.wait_for_solo(2).disks[0].clone();
    assert_eq!((disk.name.as_str(), disk.size_bytes), ("data", 1 << 20));
    assert_eq!(disk.stale, Some(u8::from(role == Role::Backup)));
    writers.wait_for_answers(100);
    let mut ledger = writers.finish(false);
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    pair.down();
    let (survivor, left) = if role == Role::Primary { (1, 0) } else { (0, 1) };
    check_mirror(files, survivor, &mut ledger, Promise::Written);
    assert_stale(files, left);
    // A stale mirror is not read even by the command that would make it anew from itself.
    let (code, text) = files.command("resync", &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&format!("disk.{left} holds what")), "{text}");
    assert_equal(files);
    let mut pair = files.up("");
    check_through_guest(&mut pair, &mut ledger, Promise::Written);
    pair.down();
    check_mirror(files, left, &mut ledger, Promise::Written);
    assert_equal(files);
}

/// Which mirror a restart goes on from, and whether both are of one generation: killed a moment apart, one of the replicas
/// may have gone on alone in between.
fn newest_mirror(files: &Files) -> (u8, bool) {
    let (code, text) = files.command("inspect", &["--json"]);
    assert_eq!(code, 0, "{text}");
    let shown: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let generation = |replica: usize| shown[replica]["generation"].as_u64().expect("a generation");
    (u8::from(generation(1) > generation(0)), generation(0) == generation(1))
}

/// Both replicas are killed while clients write and flush, in each of these lives of one disk. What was flushed is there, and
/// nobody starts without making the mirrors equal.
///
/// # Panics
/// When something is not as it should be.
pub fn kill_both_in_each_life(files: &Files, lives: std::ops::Range<u64>) {
    let mut ledger = Ledger::new(lives.start, BLOCKS);
    let mut options = ",size=1M";
    for seed in lives {
        ledger = kill_both_under_writes(files.up(options), seed, ledger);
        // Nobody knows whether the mirrors are equal; what was flushed is in both.
        let newest = newest_mirror(files);
        let mut of_other = ledger.clone();
        if newest.1 {
            check_mirror(files, 1 - newest.0, &mut of_other, Promise::Stable);
        }
        check_mirror(files, newest.0, &mut ledger, Promise::Stable);
        let failure = Pair::refused(&files.options("", &[]));
        assert_eq!(failure.code, DISK_CODE, "{}", failure.text);
        options = ",resync";
    }
    let mut pair = files.up(options);
    check_through_guest(&mut pair, &mut ledger, Promise::Stable);
    pair.down();
    assert_equal(files);
}

/// A replica whose disk fails at one block leaves the pair, and no client notices.
///
/// # Panics
/// When something is not as it should be.
pub fn one_disk_fails(files: &Files, replica: u8, kind: &str) {
    println!("{kind} at replica {replica}");
    let fault = format!("{replica}:data:{kind}:100");
    let mut pair = Pair::up(&files.options(",size=1M", &["--disk-fault", &fault]));
    let mut client = connect(&mut pair);
    assert_eq!(ask(&mut client, "disk data write 0 64 1 1"), "done", "other blocks are well");
    assert_eq!(ask(&mut client, "disk data write 96 8 1 2"), "done");
    assert_eq!(ask(&mut client, "disk data verify 96 8 1 2"), "same");
    assert_eq!(ask(&mut client, "disk data flush"), "done");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 1 - replica, "the other one goes on");
    let reason = reason_of_end(&mut pair, replica);
    assert!(reason.starts_with("disk-failed: disk data failed"), "{reason}");
    assert_eq!(ask(&mut client, "hello"), "hello", "the same connection goes on");
    pair.down();
    assert_stale(files, replica);
}

/// Kills both machines of a pair at a moment that the seed decides, while clients write and flush; returns what they know.
///
/// # Panics
/// When no flush was acknowledged before.
pub fn kill_both_under_writes(mut pair: Pair, seed: u64, ledger: Ledger) -> Ledger {
    println!("moment of seed {seed}");
    let mut rng = Rng::new(seed);
    let writers = Writers::start(pair.address(7000), WRITERS, seed, ledger);
    writers.wait_for_answers(rng.between(50, 300));
    let pids: Vec<_> = pair.status().replicas.iter().map(|replica| replica.pid).collect();
    for &pid in &pids {
        send_signal(pid, Signal::KILL);
    }
    for pid in pids {
        assert!(wait_for_end(pid, DEADLINE));
    }
    let ledger = writers.finish(true);
    pair.down();
    assert!(ledger.stable_blocks() > 0, "flushes were acknowledged");
    ledger
}
