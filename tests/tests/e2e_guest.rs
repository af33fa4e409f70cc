//! A guest that misbehaves is stopped with a report that both replicas agree on; one that works hard is left alone.

use pollux_tests::client::Client;
use pollux_tests::guests::{ask, end_of, send};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::{GuestStopped, Role};
use pollux_tests::workbench::{Signal, send_signal};

/// Exit code of the command when a request is refused.
const REFUSED: i32 = 12;
/// Exit code of a guest that a fault ended.
const FAULT_CODE: i64 = 139;
/// Exit code of a guest that panicked.
const PANIC_CODE: i64 = 101;

fn probe() -> (Pair, Client) {
    let mut pair = Pair::up(&Options::new("probe"));
    let client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    (pair, client)
}

/// As [`end_of`], of a probe on the usual machine.
fn end_of_guest(command: &str) -> GuestStopped {
    end_of(&Options::new("probe"), command)
}

#[test]
fn a_panic_stops_both_with_the_same_symbolised_report() {
    let stopped = end_of_guest("panic 6");
    assert_eq!((stopped.kind.as_str(), stopped.code), ("panic", PANIC_CODE));
    let report = &stopped.report;
    assert!(report.contains("the probe was told to panic (7)"), "{report}");
    let at = |name: &str| report.find(name).unwrap_or_else(|| panic!("{name} is not in the backtrace:\n{report}"));
    let chain = [at("innermost_culprit"), at("middle_caller"), at("outer_caller"), at("probe::serve")];
    assert!(chain.is_sorted(), "innermost first:\n{report}");
    assert!(report.contains("probe/src/lib.rs:"), "files and lines are named:\n{report}");
}

#[test]
fn an_exit_stops_both_with_its_code() {
    for code in [0, 7, 255] {
        let stopped = end_of_guest(&format!("exit {code}"));
        assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", code));
    }
}

#[test]
fn forbidden_memory_is_a_fault_that_names_the_address() {
    let cases = [
        ("null", "page fault", "at address 0x0"),
        ("read-shim", "page fault", "at address 0x100000, outside guest memory"),
        ("read-device", "page fault", "at address 0xfeb00000, outside guest memory"),
        ("write-direct-map", "page fault", "at address 0xffff800000100000, outside guest memory"),
        ("write-code", "page fault", "faults::commit"),
        ("execute-data", "page fault", "RETURN_AS_DATA"),
        ("execute-stack", "page fault", "faults::commit"),
        ("wild-jump", "page fault", "outside guest memory"),
    ];
    for (kind, name, detail) in cases {
        let stopped = end_of_guest(&format!("fault {kind}"));
        assert_eq!((stopped.kind.as_str(), stopped.code), ("fault", FAULT_CODE), "{kind}: {}", stopped.report);
        assert!(stopped.report.starts_with(name), "{kind}: {}", stopped.report);
        assert!(stopped.report.contains(detail), "{kind}: {}", stopped.report);
        assert!(stopped.report.contains("probe::serve"), "{kind}: the backtrace is symbolised: {}", stopped.report);
    }
}

#[test]
fn a_stack_overflow_is_a_fault_at_the_guard() {
    let stopped = end_of_guest("fault stack");
    assert_eq!((stopped.kind.as_str(), stopped.code), ("fault", FAULT_CODE));
    assert!(stopped.report.starts_with("page fault"), "{}", stopped.report);
    assert!(stopped.report.matches("faults::descend").count() > 5, "{}", stopped.report);
}

#[test]
fn forbidden_instructions_are_faults() {
    let cases = [
        ("halt", "general protection fault"),
        ("port", "general protection fault"),
        ("divide", "divide error"),
        ("invalid", "invalid instruction"),
    ];
    for (kind, name) in cases {
        let stopped = end_of_guest(&format!("fault {kind}"));
        assert_eq!((stopped.kind.as_str(), stopped.code), ("fault", FAULT_CODE), "{kind}: {}", stopped.report);
        assert!(stopped.report.starts_with(name), "{kind}: {}", stopped.report);
    }
}

#[test]
fn damaged_rings_are_faults_that_say_so() {
    for ring in ["transmit-head", "transmit-record", "receive-tail"] {
        let stopped = end_of_guest(&format!("ring {ring}"));
        assert_eq!((stopped.kind.as_str(), stopped.code), ("fault", FAULT_CODE), "{ring}: {}", stopped.report);
        assert!(stopped.report.contains("ring"), "{ring}: {}", stopped.report);
    }
}

#[test]
fn wild_hypercalls_are_refused_and_the_guest_goes_on() {
    let (mut pair, mut client) = probe();
    let answer = ask(&mut client, "wild");
    assert!(answer.starts_with("refused "), "{answer}");
    assert_eq!(ask(&mut client, "hello"), "hello");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    assert_eq!(ask(&mut client, "wild"), answer, "and the backup is as it was");
    pair.down();
}

/// Whatever the primary's guest sees, the backup's sees too: the digests would differ otherwise, and did they, the
/// backup would be gone.
fn still_paired(pair: &mut Pair) {
    let status = pair.status();
    assert_eq!((status.mode.as_str(), status.generation, status.replicas.len()), ("paired", 1, 2), "{status:#?}");
}

#[test]
fn time_stamps_only_grow_and_both_replicas_see_the_same() {
    let (mut pair, mut client) = probe();
    let value = |answer: String| -> u64 {
        let number = answer.strip_prefix("grew to ").unwrap_or_else(|| panic!("{answer}"));
        number.parse().expect("a number")
    };
    let first = value(ask(&mut client, "tsc 5000"));
    let second = value(ask(&mut client, "tsc 5000"));
    assert!(second > first, "{first} then {second}");
    still_paired(&mut pair);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    let third = value(ask(&mut client, "tsc 5000"));
    assert!(third > second, "{second} then {third}: time does not go back at a failover");
    pair.down();
}

#[test]
fn random_bytes_are_the_same_in_both_and_never_repeat() {
    let (mut pair, mut client) = probe();
    let first = ask(&mut client, "entropy 32");
    let second = ask(&mut client, "entropy 5000");
    assert_eq!((first.len(), second.len()), (64, 10_000));
    still_paired(&mut pair);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    let third = ask(&mut client, "entropy 32");
    assert_ne!(first, third);
    assert!(!second.contains(&third) && !second.contains(&first), "nothing repeats");
    let (_other, mut other) = probe();
    assert_ne!(ask(&mut other, "entropy 32"), first, "another pair draws other numbers");
    pair.down();
}

#[test]
fn a_long_computation_is_no_failure() {
    let (mut pair, mut client) = probe();
    // Several times as long as the silence after which a replica counts as dead: the shim's own timer keeps it alive.
    let short = ask(&mut client, "compute 1000");
    let started = std::time::Instant::now();
    let mut rounds = 20_000_000_u64;
    let mut long = ask(&mut client, &format!("compute {rounds}"));
    while started.elapsed().as_millis() < 1000 {
        rounds *= 2;
        long = ask(&mut client, &format!("compute {rounds}"));
    }
    println!("{rounds} rounds in one epoch; {:?} in all", started.elapsed());
    assert_ne!(short, long);
    assert_eq!(ask(&mut client, "compute 1000"), short);
    still_paired(&mut pair);
    assert_eq!(pair.status().count("asks for generation"), 0, "nobody even asked to go on alone");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    assert_eq!(ask(&mut client, "compute 1000"), short, "the backup computes the same");
    pair.down();
}

#[test]
fn a_flood_of_console_output_loses_nothing_over_a_failover() {
    const LINES: usize = 4000;
    let (mut pair, mut client) = probe();
    send(&mut client, &format!("flood {LINES}"));
    pair.wait_for_console("flood 00000100");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    assert_eq!(client.line().expect("the same connection goes on"), format!("printed {LINES}"));
    let last = format!("flood {:08}", LINES - 1);
    pair.wait_for_console(&last);
    let console = pair.console();
    let lines: Vec<_> = console.lines().filter(|line| line.starts_with("flood ")).collect();
    assert_eq!(lines.len(), LINES, "every line once");
    for (index, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("flood {index:08} ---")), "line {index} is {line:?}");
    }
    assert!(!console.contains("were lost"), "nothing is missing");
    pair.down();
}

#[test]
fn more_memory_than_there_is_is_refused_to_the_guest_not_to_the_machine() {
    let (mut pair, mut client) = probe();
    assert_eq!(ask(&mut client, "alloc 32"), format!("got {}", 32 << 20));
    assert_eq!(ask(&mut client, "alloc 4096"), "refused");
    assert_eq!(ask(&mut client, "alloc 32"), format!("got {}", 32 << 20), "what was given back can be had again");
    still_paired(&mut pair);
    pair.down();
}

#[test]
fn a_guest_that_ends_at_the_start_fails_the_start_with_its_report() {
    for (command, expected) in [("panic", "told to panic"), ("exit,3", "exit 3"), ("fault,null", "page fault")] {
        let failure = Pair::refused(&Options::new("probe").with(&["--args", &format!("do={command}")]));
        assert_eq!(failure.code, 9, "{}", failure.text);
        assert!(failure.text.contains(expected), "{command}: {}", failure.text);
    }
}

/// With a processor that has a random generator of its own a program can make its replicas differ. That is noticed
/// before the difference leaves the machine: the primary goes on alone, the backup is discarded.
#[test]
fn a_divergence_is_noticed_and_the_primary_goes_on_alone() {
    let cpu = ["--qemu-arg=-cpu", "--qemu-arg=max"];
    let mut pair = Pair::up(&Options::new("probe").with(&cpu));
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut client, "hello"), "hello");
    let number = ask(&mut client, "rdrand");
    assert_eq!(number.len(), 16, "{number}");
    let status = pair.wait_for_solo(2);
    assert_eq!(status.replicas[0].replica, 0, "the primary goes on");
    let status = pair.wait_until("the end of the backup", |status| (status.ended.len() == 1).then(|| status.clone()));
    assert!(status.event("diverge").is_some(), "it is called what it is: {:#?}", status.events);
    assert_eq!(ask(&mut client, "hello"), "hello");
    pair.down();
}

#[test]
fn lines_typed_before_the_pair_serves_are_refused() {
    // A port that nobody listens on keeps it from serving.
    let (pair, mut starting) = Pair::begin(&Options::new("probe").with(&["--publish", "0:4242"]));
    for moment in ["replica 1 started", "replica 1 booted", "probe: ready"] {
        match moment {
            "probe: ready" => pair.wait_for_console(moment),
            _ => pair.wait_for_event(moment),
        };
        let output = pair.command(&["fault", "--name", "e2e", "console-input", "early"]).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(REFUSED), "{moment}: {text}");
        assert!(text.contains("the pair does not serve yet"), "{moment}: {text}");
    }
    send_signal(starting.id() as i32, Signal::TERM);
    starting.wait().expect("it ends");
}

#[test]
fn typed_lines_reach_the_guest_in_order_also_over_a_failover() {
    const LINES: usize = 40;
    let (mut pair, mut client) = probe();
    let exchange = |pair: &Pair, client: &mut Client, what: &str| {
        for line in 0..LINES {
            pair.fault(&["console-input", &format!("{what} {line}")]);
        }
        for line in 0..LINES {
            assert_eq!(ask(client, "typed"), format!("{what} {line}"));
        }
    };
    exchange(&pair, &mut client, "first");
    // One text, so that all of it is in the guest when its first line is.
    pair.fault(&["console-input", "one\ntwo\nthree"]);
    assert_eq!(ask(&mut client, "typed"), "one");
    still_paired(&mut pair);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    assert_eq!(ask(&mut client, "typed"), "two", "what was typed before and not read yet is still there");
    assert_eq!(ask(&mut client, "typed"), "three");
    exchange(&pair, &mut client, "second");
    assert_eq!(ask(&mut client, "hello"), "hello");
    pair.down();
}

/// The one that waits for a line waits on, at the other replica.
#[test]
fn a_reader_of_the_console_survives_a_failover() {
    let (mut pair, mut client) = probe();
    send(&mut client, "typed");
    let mut other = Client::connect(pair.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut other, "hello"), "hello", "the first command was taken before this one");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    pair.fault(&["console-input", "late"]);
    assert_eq!(client.line().expect("the same connection goes on"), "late");
    pair.down();
}
