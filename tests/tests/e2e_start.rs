//! Starting, not starting, and dying before or while it matters.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;

use pollux_tests::client::{Client, Reply};
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair, wait_for_line};
use pollux_tests::sim::Rng;
use pollux_tests::status::{Role, Status};
use pollux_tests::workbench::{Permit, Signal, image, moments, seed, send_signal, wait_for_end};
use rustix::process::{Pid, getpgid, getsid};

/// Exit codes of the command, as `pollux --help` lists them.
mod code {
    pub const USAGE: i32 = 2;
    pub const UNKNOWN_APP: i32 = 3;
    pub const NOT_AN_IMAGE: i32 = 5;
    pub const PORT_IN_USE: i32 = 6;
    pub const NO_SUCH_PAIR: i32 = 7;
    pub const NAME_IN_USE: i32 = 8;
    pub const NOT_STARTED: i32 = 9;
    pub const SUPERVISOR_GONE: i32 = 11;
}

fn connect(pair: &mut Pair) -> Client {
    Client::connect(pair.address(6379)).expect("a published port takes connections")
}

/// Starts kv, kills a replica when `moment` is logged, and returns the status when it serves nevertheless.
fn start_and_kill(victim: usize, moment: &str) -> (Pair, Status) {
    let (mut pair, mut starting) = Pair::begin(&Options::new("kv"));
    pair.wait_for_event(moment);
    let pid = pair.started_pids()[victim];
    send_signal(pid, Signal::KILL);
    let status = match pair.finish_up(&mut starting) {
        Ok(status) => status,
        Err(failure) => panic!("replica {victim} killed at {moment:?}: {}", failure.text),
    };
    assert!(wait_for_end(pid, DEADLINE));
    (pair, status)
}

/// Whichever replica dies before the pair serves, the other one serves alone, and the status says so.
fn the_other_serves(victim: usize, moment: &str) {
    let (mut pair, _) = start_and_kill(victim, moment);
    let status = pair.wait_for_survivor(2);
    assert_eq!(status.replicas.len(), 1);
    assert_eq!(usize::from(status.replicas[0].replica), 1 - victim, "{moment}");
    assert!(connect(&mut pair).must("SET a 1").is_ok());
    pair.down();
}

#[test]
fn a_replica_killed_while_it_boots_leaves_the_other_to_serve() {
    the_other_serves(0, "replica 1 started");
    the_other_serves(1, "replica 1 started");
}

#[test]
fn a_replica_killed_while_they_pair_leaves_the_other_to_serve() {
    the_other_serves(0, "replica 0 booted");
    the_other_serves(1, "replica 1 booted");
    the_other_serves(0, "replica 1 booted");
    the_other_serves(1, "replica 0 booted");
}

/// The seed chooses the victim and how often the supervisor is asked before it dies: moments between the logged ones.
#[test]
fn a_replica_killed_at_any_moment_of_the_start_leaves_the_other_to_serve() {
    let first = seed("killed during the start");
    for seed in first..first + moments(10) {
        let mut rng = Rng::new(seed);
        let (victim, asked) = (rng.below(2) as usize, rng.below(1500));
        println!("seed {seed}: replica {victim} dies after {asked} questions");
        let (mut pair, mut starting) = Pair::begin(&Options::new("kv"));
        pair.wait_for_event("replica 1 started");
        for _ in 0..asked {
            pair.status();
        }
        let pid = pair.started_pids()[victim];
        send_signal(pid, Signal::KILL);
        let status = pair.finish_up(&mut starting).unwrap_or_else(|failure| panic!("seed {seed}: {}", failure.text));
        println!("serving after {} ms, {}", status.start_ms, status.mode);
        // The survivor is told; it need not conclude it from a silence.
        assert!(!pair.log().contains("peer not heard"), "seed {seed}: nobody told replica {}", 1 - victim);
        let status = pair.wait_for_survivor(2);
        assert_eq!((status.replicas.len(), usize::from(status.replicas[0].replica)), (1, 1 - victim), "seed {seed}");
        assert_eq!(connect(&mut pair).must("INCR a"), Reply::Integer(1), "seed {seed}");
        pair.down();
    }
}

#[test]
fn both_killed_while_they_boot_is_a_failed_start() {
    let (mut pair, mut starting) = Pair::begin(&Options::new("kv"));
    pair.wait_for_event("replica 1 started");
    for pid in pair.started_pids() {
        send_signal(pid, Signal::KILL);
    }
    let failure = pair.finish_up(&mut starting).expect_err("nothing is left to serve");
    assert_eq!(failure.code, code::NOT_STARTED, "{}", failure.text);
    assert!(failure.text.contains("no virtual machine runs any more"), "{}", failure.text);
}

/// The backup is killed at the moment at which it asks to take over: nobody is left, and the status says so plainly.
#[test]
fn a_backup_killed_during_its_promotion_leaves_a_plain_status() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = connect(&mut pair);
    assert!(client.must("SET a 1").is_ok());
    let backup = pair.status().replica(Role::Backup).expect("there is one").pid;
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_event("arbiter: replica 1 asks");
    send_signal(backup, Signal::KILL);
    let status = pair.wait_until("the end of both", |status| (status.ended.len() == 2).then(|| status.clone()));
    assert!(!status.serving);
    assert!(pair.must(&["status"]).contains("NOT serving"));
    let error = client.ask(&[b"GET", b"a"]).expect_err("nobody answers");
    assert!(
        matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
        "told, not left waiting: {error}"
    );
    pair.down();
}

/// The backup is frozen first and the primary killed then: the promotion takes as long as the backup is frozen, and
/// the clients wait, no more.
#[test]
fn a_backup_frozen_when_its_primary_dies_takes_over_when_it_is_thawed() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = connect(&mut pair);
    assert!(client.must("SET a 1").is_ok());
    let backup = pair.kill(Role::Backup, "STOP");
    let primary = pair.kill(Role::Primary, "KILL");
    pair.wait_until("the end of the primary", |status| status.ended.iter().find(|e| e.pid == primary).map(|_| ()));
    client.send_command(&[b"INCR", b"a"]).expect("the connection stands");
    send_signal(backup, Signal::CONT);
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].pid, backup);
    assert_eq!(client.receive().expect("the same connection goes on"), Reply::Integer(2));
    pair.down();
}

/// The primary is frozen, the backup takes over, and before the old primary could say anything it is killed.
#[test]
fn a_frozen_primary_killed_during_the_promotion_changes_nothing() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = connect(&mut pair);
    assert!(client.must("SET a 1").is_ok());
    let frozen = pair.kill(Role::Primary, "STOP");
    pair.wait_for_event("arbiter: replica 1 asks");
    send_signal(frozen, Signal::KILL);
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 1);
    assert_eq!(client.must("INCR a"), Reply::Integer(2));
    pair.down();
}

#[test]
fn a_supervisor_that_is_killed_takes_its_machines_along_and_status_says_so() {
    let mut pair = Pair::up(&Options::new("kv"));
    let status = pair.status();
    send_signal(status.supervisor_pid, Signal::KILL);
    for replica in &status.replicas {
        assert!(wait_for_end(replica.pid, DEADLINE), "QEMU outlived its supervisor");
    }
    for command in [&["status"][..], &["status", "--json"], &["kill", "primary"], &["logs"], &["down"]] {
        let output = pair.run(command);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code::SUPERVISOR_GONE), "{command:?}: {text}");
        assert!(text.contains(&format!("pid {}) is gone", status.supervisor_pid)), "{command:?}: {text}");
    }
    let output = pair.run(&["status"]);
    assert_eq!(output.status.code(), Some(code::NO_SUCH_PAIR), "`down` has cleared what was left");
    let again =
        pair.command(&["up", "--name", "e2e", "--json", "--image"]).arg(image("kv")).output().expect("it starts");
    assert!(again.status.success(), "the name can be used again: {}", String::from_utf8_lossy(&again.stderr));
    pair.down();
}

#[test]
fn a_pair_outlives_the_terminal_that_it_was_started_from() {
    let mut pair = Pair::up(&Options { terminal: true, ..Options::new("kv") });
    let supervisor = Pid::from_raw(pair.status().supervisor_pid);
    assert_eq!(getpgid(supervisor), Ok(supervisor.expect("it runs")), "the terminal's signals must not reach it");
    assert_ne!(getsid(supervisor).ok(), supervisor, "a session is scheduled as a group: see ARCHITECTURE.md");
    assert!(connect(&mut pair).must("SET a 1").is_ok());
    pair.down();
}

#[test]
fn an_up_that_is_interrupted_leaves_nothing_behind() {
    // Processors that stand still: however late the signal comes, the pair is not up by then.
    let (mut pair, mut starting) = Pair::begin(&Options::new("kv").with(&["--qemu-arg=-S"]));
    pair.wait_for_event("replica 1 started");
    // Not SIGINT, which a process ignores that a script has started in the background, and so do its children, these tests too.
    send_signal(starting.id() as i32, Signal::TERM);
    assert_eq!(starting.wait().expect("it ends").signal(), Some(15));
    for pid in pair.started_pids() {
        assert!(wait_for_end(pid, DEADLINE), "QEMU outlived the command that wanted it");
    }
    assert!(pair.try_status().is_none() || pair.status().replicas.is_empty());
}

#[test]
fn a_demonstration_that_is_killed_leaves_nothing_behind() {
    // Built here, so that the demonstration need not.
    image("kv");
    let _all = Permit::take(u32::MAX);
    let pair = Pair::nothing();
    let mut demo = pair.command(&["demo"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let folder = pair.root().join(format!("demo-{}", demo.id()));
    fs::create_dir_all(&folder).expect("the folder that it will use");
    wait_for_line(&folder.join("supervisor.log"), "serving after");
    demo.kill().expect("it runs");
    demo.wait().expect("it has ended");
    wait_for_line(&folder.join("supervisor.log"), "has gone away");
    wait_for_line(&folder.join("supervisor.log"), "the pair was taken down");
    let log = fs::read_to_string(folder.join("supervisor.log")).expect("a log");
    let pids: Vec<i32> =
        log.lines().filter_map(|line| line.split_once(" started as process ")?.1.trim().parse().ok()).collect();
    assert_eq!(pids.len(), 2, "{log}");
    assert!(pids.into_iter().all(|pid| wait_for_end(pid, DEADLINE)), "QEMU outlived the demonstration");
}

#[test]
fn replicas_that_differ_are_refused_with_the_difference() {
    let another = image("echo").display().to_string();
    let cases: [(&[&str], &str); 3] = [
        (&["--backup-image", &another], "image differs"),
        (&["--backup-memory-mib", "32"], "guest memory differs"),
        (&["--backup-qemu-arg=-cpu", "--backup-qemu-arg=Nehalem"], "CPU features differ"),
    ];
    for (arguments, difference) in cases {
        let failure = Pair::refused(&Options::new("kv").with(arguments));
        assert_eq!(failure.code, code::NOT_STARTED, "{}", failure.text);
        assert!(failure.text.contains("the two replicas do not match"), "{}", failure.text);
        assert!(failure.text.contains(difference), "{difference}: {}", failure.text);
    }
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let failure = Pair::refused(&Options::new("kv").with(&["--publish", &format!("{port}:6379")]));
    assert_eq!(failure.code, code::PORT_IN_USE, "{}", failure.text);
    assert!(failure.text.contains(&format!("127.0.0.1:{port}")), "{}", failure.text);
}

#[test]
fn a_guest_port_that_nobody_listens_on_fails_the_start() {
    let failure = Pair::refused(&Options::new("kv").with(&["--publish", "0:4242", "--start-timeout-ms", "1500"]));
    assert_eq!(failure.code, code::NOT_STARTED, "{}", failure.text);
    assert!(failure.text.contains("does not accept connections on port 4242"), "{}", failure.text);
}

#[test]
fn wrong_names_and_unknown_apps_are_refused() {
    let nothing = Pair::nothing();
    let refused = |arguments: &[&str]| {
        let output = nothing.command(arguments).output().expect("the command starts");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for command in ["build", "up"] {
        let (exit, text) = refused(&[command, "no-such-app"]);
        assert_eq!(exit, code::UNKNOWN_APP, "{text}");
        assert!(text.contains("no-such-app") && text.contains("kv"), "it names what there is: {text}");
    }
    for name in ["", "../up", "a/b", ".hidden", &"x".repeat(33)] {
        let (exit, text) = refused(&["up", "kv", "--name", name]);
        assert_eq!(exit, code::USAGE, "{name:?}: {text}");
    }
    for arguments in [&["status"][..], &["down"], &["kill", "primary"], &["logs"], &["fault", "cut-link"]] {
        let (exit, text) = refused(arguments);
        assert_eq!(exit, code::NO_SUCH_PAIR, "{arguments:?}: {text}");
        assert!(text.contains("pollux up"), "it says what to do: {text}");
    }
    let wrong: [&[&str]; 6] = [
        &["up", "kv", "--publish", "nonsense"],
        &["up", "kv", "--memory-mib", "0"],
        &["up", "kv", "--protocol", "latest"],
        &["up", "kv", "--bare", "--solo"],
        &["up"],
        &["kill", "everybody"],
    ];
    for arguments in wrong {
        let (exit, text) = refused(arguments);
        assert_eq!(exit, code::USAGE, "{arguments:?}: {text}");
    }
}

#[test]
fn a_name_in_use_is_refused_and_the_pair_goes_on() {
    let mut pair = Pair::up(&Options::new("kv"));
    let mut client = connect(&mut pair);
    let output = pair.command(&["up", "--name", "e2e", "--image"]).arg(image("kv")).output().expect("it starts");
    assert_eq!(output.status.code(), Some(code::NAME_IN_USE), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(client.must("PING"), Reply::Simple("PONG".into()));
    pair.down();
}

#[test]
fn files_that_are_no_images_are_refused() {
    let whole = fs::read(image("kv")).expect("the image");
    let folder = std::env::temp_dir().join(format!("pollux-e2e-start-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let mut damaged = whole.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let shim = fs::read(image("kv").with_extension("shim.elf")).expect("what the image was packed from");
    // The files' names say nothing, so that no expectation is met by a path.
    let cases: [(&[u8], &str); 7] = [
        (b"", "not an image: "),
        (b"#!/bin/sh\nexit 0\n", "not an image: "),
        (&whole[..whole.len() / 2], "truncated: the file ends inside one of its segments"),
        (&whole[..last], "truncated: the file ends inside one of its segments"),
        (&damaged, "damaged: its contents have SHA-256 "),
        (&fs::read("/bin/true").expect("a program"), "not a static executable"),
        (&shim, "a foreign executable: it holds no Pollux payload"),
    ];
    let nothing = Pair::nothing();
    let up = |file: &PathBuf| {
        let output = nothing.command(&["up", "--image"]).arg(file).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (number, (bytes, expected)) in cases.into_iter().enumerate() {
        let file = folder.join(format!("case-{number}"));
        let path = file.display().to_string();
        fs::write(&file, bytes).expect("written");
        let (exit, text) = up(&file);
        assert_eq!(exit, Some(code::NOT_AN_IMAGE), "{expected}: {text}");
        assert!(text.contains(&path), "it names the file: {text}");
        assert!(text.replace(&path, "").contains(expected), "{expected}: {text}");
    }
    let absent = folder.join("case-none");
    let (exit, text) = up(&absent);
    assert_eq!(exit, Some(code::NOT_AN_IMAGE), "{text}");
    assert!(text.contains(&format!("{}: cannot be read: ", absent.display())), "{text}");
    fs::remove_dir_all(folder).expect("removed");
}

/// The machine boots, serves, and survives its primary.
fn machine_works(machine: &str) {
    let mut pair = Pair::up(&Options::new("kv").with(&["--machine", machine]));
    let mut client = connect(&mut pair);
    assert!(client.must("SET a 1").is_ok());
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    assert_eq!(client.must("INCR a"), Reply::Integer(2));
    pair.down();
}

#[test]
fn microvm_boots_serves_and_fails_over() {
    machine_works("microvm");
}

#[test]
fn pc_boots_serves_and_fails_over() {
    machine_works("pc");
}

#[test]
fn q35_boots_serves_and_fails_over() {
    machine_works("q35");
}

#[test]
fn one_machine_alone_serves_bare_and_solo() {
    for (argument, mode) in [("--bare", "bare"), ("--solo", "solo")] {
        let mut pair = Pair::up(&Options::new("kv").with(&[argument]));
        let status = pair.status();
        assert_eq!((status.mode.as_str(), status.replicas.len()), (mode, 1));
        let load = Load::start(pair.address(6379), 4, seed(mode));
        load.wait_for_answers(100);
        load.finish();
        let output = pair.run(&["kill", "backup"]);
        assert!(!output.status.success(), "there is none");
        pair.down();
    }
}

#[test]
fn the_smallest_guest_serves() {
    let mut pair = Pair::up(&Options::new("kv").with(&["--memory-mib", "16"]));
    assert!(connect(&mut pair).must("SET a 1").is_ok());
    pair.down();
}

#[test]
fn pairs_side_by_side_do_not_meet() {
    let _all = Permit::take(u32::MAX);
    let seed = seed("side by side");
    let mut pairs: Vec<_> = (0..3).map(|_| Pair::up(&Options::new("kv").under_permit())).collect();
    let loads: Vec<_> = pairs.iter_mut().map(|pair| Load::start(pair.address(6379), 3, seed)).collect();
    pairs[1].kill(Role::Primary, "KILL");
    pairs[1].wait_for_solo(2);
    for load in loads {
        load.wait_for_answers(50);
        load.finish();
    }
    for (index, pair) in pairs.iter_mut().enumerate() {
        assert_eq!(pair.status().generation, if index == 1 { 2 } else { 1 }, "only one has failed over");
    }
    pairs.into_iter().for_each(Pair::down);
}

#[test]
fn two_names_in_one_folder() {
    let _all = Permit::take(u32::MAX);
    let mut pair = Pair::up(&Options::new("kv").under_permit());
    let other = |arguments: &[&str]| {
        let output = pair.command(arguments).output().expect("the command starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let echo = image("echo").display().to_string();
    let started = other(&["up", "--name", "other", "--solo", "--image", &echo, "--json"]);
    let started: Status = serde_json::from_str(&started).expect("a status");
    let names: Vec<String> = serde_json::from_str(&other(&["list", "--json"])).expect("names");
    assert_eq!(names, ["e2e", "other"]);
    other(&["down", "--name", "other"]);
    assert!(wait_for_end(started.replicas[0].pid, DEADLINE));
    assert_eq!(other(&["list"]), "e2e\n");
    assert!(connect(&mut pair).must("SET a 1").is_ok());
    pair.down();
}

/// Whoever is told that a pair is down may use its name and its ports at once.
#[test]
fn a_name_and_its_ports_are_free_when_down_returns() {
    let mut pair = Pair::up(&Options::new("echo"));
    let publish = format!("{}:7", pair.address(7).port());
    let image = image("echo").display().to_string();
    for _ in 0..4 {
        pair.must(&["down"]);
        pair.must(&["up", "--image", &image, "--publish", &publish, "--solo"]);
        assert!(pair.status().serving);
    }
    pair.down();
}
