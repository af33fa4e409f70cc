//! A probe with a disk: what is done to it, and what must be there afterwards.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use crate::blocks::{Ledger, Promise, Writers};
use crate::client::Client;
use crate::guests::ask;
use crate::pair::{DEADLINE, Options, Pair};
use crate::sim::Rng;
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

/// A folder for a disk's files, removed when dropped.
pub struct Files(PathBuf);

impl Files {
    /// An empty one.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("pollux-e2e-disk-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// The file of a shared disk, or what the names of mirrors begin with.
    pub fn stem(&self) -> PathBuf {
        self.0.join("disk")
    }

    /// A probe with the disk, and further arguments. Silence is no failure here, or a busy machine would be one: what fails
    /// are processes and disks.
    pub fn options(&self, options: &str, arguments: &[&str]) -> Options {
        let disk = format!("data={}{options}", self.stem().display());
        let options = Options::new("probe").with(&["--disk", &disk]).with(arguments);
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
        let _ = std::fs::remove_dir_all(&self.0);
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
