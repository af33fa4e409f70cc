//! Files of ordinary programs: `std::fs` on disks and in the image, and what becomes of them when machines die.

use std::fmt::Display;
use std::fs;
use std::time::Instant;

use pollux_tests::disks::{DISK_CODE, Files, connect};
use pollux_tests::guests::{ask, end_of_program};
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::workbench::{Watch, moments, native, program_folder, program_image, seed};

/// What a program says when its files are not to be had.
const CANNOT_START: i64 = 70;

/// A program with a disk of its own, unless it needs none.
fn program(name: &str, files: Option<(&Files, &str)>, arguments: &[&str]) -> Options {
    // No replica is to be taken for dead because the machine has other things to do.
    let mut options = Options::new("").with(&["--memory-mib", "48", "--failure-timeout-ms", "5000"]).with(arguments);
    if let Some((files, how)) = files {
        options = options.with(&["--disk", &format!("data={}{how}", files.stem().display())]);
    }
    options.image = Some(program_image(name));
    options
}

/// Compares what was printed with what Linux prints.
fn assert_same(console: &str, expected: &str) {
    for (ours, theirs) in console.lines().zip(expected.lines()) {
        assert_eq!(ours, theirs, "the image says the first, Linux the second");
    }
    assert!(console.lines().count() >= expected.lines().count(), "{console}");
}

/// Twice on one disk: the second time it is a disk that was used, and nothing of the first is left on it.
#[test]
fn std_fs_behaves_as_on_linux() {
    let files = Files::new("std-fs");
    let folder = files.folder().join("native");
    fs::create_dir_all(&folder).expect("a folder");
    let packed = program_folder("files").join("packed");
    let expected = native("files", &["--locked"], &[&folder.display().to_string(), &packed.display().to_string()]);
    assert!(expected.ends_with("all done\n") && expected.lines().count() > 140, "{expected}");
    let arguments = ["--args", "/data /usr/share/packed"];
    for disk in [",size=32M", ""] {
        let mut pair = Pair::up(&program("files", Some((&files, disk)), &arguments));
        pair.fault(&["console-input", "go"]);
        let stopped = end_of_program(&mut pair);
        assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", 0), "{stopped:?}\n{}", pair.console());
        assert_same(&pair.console(), &expected);
        pair.down();
    }
}

/// What cannot be mounted is said, and the program does not start.
fn assert_cannot_start(options: &Options, why: &str) {
    let mut pair = Pair::up(options);
    let stopped = end_of_program(&mut pair);
    assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", CANNOT_START), "{stopped:?}");
    assert!(pair.console().contains(why), "{}", pair.console());
    pair.down();
}

/// What is on a disk stays, wherever it lies, be it a single block in the middle of a large one.
#[test]
fn what_is_no_file_system_is_refused_and_left_alone() {
    let why = "disk data cannot be mounted at /data: it holds something";
    for (kind, machine) in [("", "--bare"), (",shared", "--solo")] {
        let files = Files::new(&format!("foreign{}", kind.len()));
        let probe = |size: &str, work: &[(&str, &str)]| {
            let mut pair = Pair::up(&files.options(&format!("{kind}{size}"), &[machine]));
            let mut client = connect(&mut pair);
            work.iter().for_each(|(asked, answer)| assert_eq!(ask(&mut client, asked), *answer));
            pair.down();
        };
        probe(",size=64G", &[("disk data write 67108864 1 5 9", "done"), ("disk data flush", "done")]);
        assert_cannot_start(&program("files", Some((&files, kind)), &[machine]), why);
        probe("", &[("disk data verify 67108864 1 5 9", "same")]);
    }
    let why = "there is no disk data, which is to be mounted at /data";
    assert_cannot_start(&program("files", None, &["--bare"]), why);
}

/// ripgrep's searcher finds in the image what it finds on Linux, over and over, whatever becomes of its machine.
#[test]
fn grep_searcher_finds_the_same_in_packed_files() {
    let mut rng = Rng::new(seed("a search"));
    let pattern = r"fn\s+\w*epoch\w*|[Oo]utput.commit";
    let folder = program_folder("grep").join("../../../hypervisor-shim/protocol/src");
    let expected = native("grep", &["--locked"], &[&folder.display().to_string(), pattern]);
    assert!(expected.lines().count() > 10, "{expected}");
    let mut pair = Pair::up(&program("grep", None, &["--args", &format!("/sources {pattern} {}", u32::MAX)]));
    let searches = |pair: &Pair| pair.console().matches(" matches in ").count();
    for round in 0..moments(10) {
        let enough = searches(&pair) + 1 + rng.below(4) as usize;
        wait_for_so_many(&pair, "searches", enough, searches);
        pair.must(&["kill", "primary"]);
        pair.wait_for_solo(2 * round + 2);
        pair.must(&["rejoin"]);
    }
    let enough = searches(&pair) + 2;
    wait_for_so_many(&pair, "searches", enough, searches);
    assert_same(&pair.console(), &expected.repeat(enough));
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.down();
}

/// The transactions that the database has said to be committed: one after the other, none left out and none twice.
fn committed(pair: &Pair) -> u64 {
    let console = pair.console();
    // The last line may be there in part.
    let lines = console.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let mut last = None;
    for number in lines.filter_map(|line| line.strip_prefix("committed ")) {
        let number: u64 = number.parse().expect("a number");
        assert!(last.is_none_or(|last| number == last + 1), "{number} after {last:?}");
        last = Some(number);
    }
    last.unwrap_or(0)
}

/// Waits until the console shows so many things, as `count` counts them: how many there are.
fn wait_for_so_many<N: PartialOrd + Display>(pair: &Pair, what: &str, least: N, count: impl Fn(&Pair) -> N) -> N {
    let watch = Watch::new(&pair.folder());
    let deadline = Instant::now() + DEADLINE;
    loop {
        let number = count(pair);
        if number >= least {
            return number;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "{number} {what}, {least} were awaited:\n{}", pair.console());
        watch.wait(left);
    }
}

/// Waits until so many transactions are committed: how many are.
fn wait_for_committed(pair: &Pair, least: u64) -> u64 {
    wait_for_so_many(pair, "transactions", least, committed)
}

/// What the database has found at its start.
fn found(pair: &Pair) -> u64 {
    let line = pair.wait_for_console("found ");
    line.strip_prefix("found ").and_then(|number| number.parse().ok()).expect("a number")
}

/// A database on a disk that both replicas share, with a log that outlives them. Replicas die and new ones come in while it
/// writes, then everything dies: it goes on from where it was, and neither its disk nor its memory is of another time.
#[test]
fn a_database_on_a_shared_disk_goes_on_with_its_log() {
    let mut rng = Rng::new(seed("a database and its log"));
    let files = Files::new("database-log");
    let log = files.folder().join("log").display().to_string();
    let storage = ["--checkpoint-dir", &log, "--checkpoint-every", "200ms", "--log", "durable"];
    let mut pair = Pair::up(&program("database", Some((&files, ",shared,size=16M")), &storage));
    assert_eq!(found(&pair), 0);
    let mut last = 0;
    for round in 0..moments(3) {
        wait_for_committed(&pair, last + 5 + rng.below(40));
        if round % 3 != 0 {
            pair.must(&["kill", "primary"]);
            pair.wait_until("a survivor", |status| (status.mode == "solo").then_some(()));
        }
        if round % 3 == 1 {
            pair.must(&["rejoin"]);
        }
        pair.kill_machines();
        last = committed(&pair);
        pair.must(&["down"]);
        pair.must(&["restore", &log]);
        let first = wait_for_committed(&pair, last + 1);
        let next = pair.console().lines().find_map(|line| line.strip_prefix("committed ")?.parse().ok());
        assert!(next.is_some_and(|next: u64| next <= last + 1), "{next:?} comes after {last}");
        last = first;
        pair.wait_until("a complete pair", |status| (status.mode == "paired").then_some(()));
    }
    last = wait_for_committed(&pair, last + 5);
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.must(&["down"]);
    drop(pair);
    // Whoever starts it again upon the disk alone finds all that was said to be committed, and the log is of no more use.
    let pair = Pair::up(&program("database", Some((&files, ",shared")), &["--solo"]));
    assert!(found(&pair) >= last, "{last} transactions were committed and {} are there", found(&pair));
    pair.must(&["down"]);
    let refused = pair.run(&["restore", &log]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(DISK_CODE) && text.contains("does not belong to this log"), "{text}");
}

/// A checkpoint holds what the disk held: it is put where there is no disk, and not upon one that has gone on.
#[test]
fn a_checkpoint_of_a_database_brings_its_files_along() {
    let files = Files::new("database-checkpoint");
    let file = files.folder().join("saved").display().to_string();
    let pair = Pair::up(&program("database", Some((&files, ",size=16M")), &["--solo"]));
    let last = wait_for_committed(&pair, 20);
    pair.must(&["checkpoint", &file]);
    let newest = wait_for_committed(&pair, committed(&pair) + 20);
    pair.must(&["down"]);
    let there = format!("data={}", files.stem().display());
    for (arguments, why) in
        [(&["restore", &file][..], "--disk NAME=FILE"), (&["restore", &file, "--disk", &there], "there already")]
    {
        let refused = pair.run(arguments);
        let text = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && text.contains(why), "{text}");
    }
    let elsewhere = format!("data={}", files.folder().join("restored").display());
    pair.must(&["restore", &file, "--disk", &elsewhere]);
    let again = wait_for_committed(&pair, last + 20);
    pair.must(&["down"]);
    drop(pair);
    // Both are file systems that can be mounted, each with what was committed in its own life.
    for (disk, committed) in [(&elsewhere, again), (&there, newest)] {
        let pair = Pair::up(&program("database", None, &["--solo", "--disk", disk]));
        assert!(found(&pair) >= committed, "{committed} transactions were committed and {} are there", found(&pair));
        pair.down();
    }
}

/// A database, unmodified from crates.io, whose primary is killed again and again, and then both machines: whatever it has
/// said to be committed is there.
#[test]
fn a_database_loses_nothing_that_it_has_committed() {
    let mut rng = Rng::new(seed("a database"));
    let files = Files::new("database");
    let mut pair = Pair::up(&program("database", Some((&files, ",size=16M")), &[]));
    assert_eq!(found(&pair), 0);
    let mut last = 0;
    for round in 0..moments(10) {
        last = wait_for_committed(&pair, last + 5 + rng.below(60));
        pair.must(&["kill", "primary"]);
        pair.wait_for_solo(2 * round + 2);
        last = wait_for_committed(&pair, last + 5);
        pair.must(&["rejoin"]);
    }
    for _ in 0..3 {
        wait_for_committed(&pair, last + 5 + rng.below(60));
        pair.kill_machines();
        last = committed(&pair);
        drop(pair);
        pair = Pair::up(&program("database", Some((&files, ",resync")), &[]));
        let found = found(&pair);
        assert!(found >= last, "{last} transactions were committed and {found} are there");
        last = found;
    }
    wait_for_committed(&pair, last + 5);
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.down();
}
