//! Ordinary programs at the limits of their machine: threads that never wait, stacks and memory that end, what there is no
//! meaning for in an image.

use std::fs;
use std::path::Path;

use pollux_tests::guests::end_of_program;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::Role;
use pollux_tests::workbench::{native, program_folder, program_image};

/// No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
const PATIENT: [&str; 4] = ["--memory-mib", "32", "--failure-timeout-ms", "5000"];
/// Rounds of a thread that computes, for thousands of epochs.
const ROUNDS: &str = "8000000";
const COMPUTING: usize = 3;
/// Lines that are answered meanwhile.
const ANSWERS: usize = 12;

fn limits(arguments: &[&str]) -> Options {
    let mut options = Options::new("").unpublished().alone().with(&PATIENT).with(arguments);
    options.image = Some(program_image("limits"));
    options
}

/// Starts the program, and lets it begin.
fn begun(arguments: &[&str]) -> Pair {
    let pair = Pair::up(&limits(arguments));
    pair.fault(&["console-input", "go"]);
    pair
}

/// All that the program has printed, when it has got to its end.
fn console_of(pair: &Pair) -> String {
    pair.wait_for_console("all done");
    fs::read_to_string(pair.folder().join("console.log")).expect("the console's log")
}

/// The lines that a run of the program has printed and that begin so.
fn lines_with<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

/// What the same threads compute on this host.
fn native_results() -> String {
    native("limits", &["--release", "--offline"], &["busy", &COMPUTING.to_string(), ROUNDS])
}

/// Threads that never wait share the processor with one that answers, whatever instruction the machine cuts at, also when the
/// primary is killed; what they compute is what they compute on this host.
#[test]
fn threads_that_compute_let_others_answer_also_when_their_machine_dies() {
    let busy = format!("busy {COMPUTING} {ROUNDS}");
    let mut pair = begun(&["--epoch", "exact:20000", "--args", &busy]);
    for answer in 1..=ANSWERS {
        pair.fault(&["console-input", &format!("line {answer}")]);
        pair.wait_for_console(&format!("answer {answer} to line {answer}, {COMPUTING} threads compute"));
        if answer == ANSWERS / 2 {
            pair.kill(Role::Primary, "KILL");
            pair.wait_for_solo(2);
        }
    }
    pair.fault(&["console-input", "end"]);
    let stopped = end_of_program(&mut pair);
    assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", 0), "{stopped:?}");
    let console = console_of(&pair);
    let native = native_results();
    let (ours, theirs) = (lines_with(&console, "computed by"), lines_with(&native, "computed by"));
    assert_eq!((ours.len(), &ours), (COMPUTING, &theirs));
    assert!(console.contains("answered meanwhile: true"), "{console}");
    pair.down();
}

#[test]
fn a_stack_that_ends_and_a_closed_page_are_reported_by_both_replicas() {
    for (what, expected, function) in [
        (
            "overflow",
            "(\"diver\") has overflowed its stack of 262144 bytes; give it a larger one",
            "limits::room::dive",
        ),
        ("overflow-main", "thread 1 (\"main\") has overflowed its stack of", "limits::room::dive"),
        ("closed", "the program has touched a page that it has closed itself (PROT_NONE)", "limits::room::look_behind"),
    ] {
        let mut pair = begun(&["--args", what]);
        let stopped = end_of_program(&mut pair);
        assert_eq!(stopped.replicas.len(), 2, "{stopped:?}");
        assert_eq!(stopped.kind, "fault", "{stopped:?}");
        for part in ["page fault", expected, function] {
            assert!(stopped.report.contains(part), "{part}: {}", stopped.report);
        }
        pair.down();
    }
}

/// A program that was built with system calls of its own, whatever they mean to a kernel, ends with their numbers and where they are.
#[test]
fn system_calls_past_the_c_library_are_reported_by_both_replicas() {
    // Linux's `write`, `open`, `mmap`, `getpid` and one that does not exist.
    for number in [1, 2, 9, 39, 4_000_000_000_u64] {
        let mut pair = begun(&["--args", &format!("system-call {number}")]);
        let stopped = end_of_program(&mut pair);
        assert_eq!((stopped.kind.as_str(), stopped.replicas.len()), ("fault", 2), "{stopped:?}");
        for part in [&format!("system call {number}, made by an instruction"), "limits::refused::system_call"] {
            assert!(stopped.report.contains(part), "{part}: {}", stopped.report);
        }
        pair.down();
    }
}

/// Guards are a part of a replica's state: the one that has come later has them too.
#[test]
fn a_newcomer_guards_stacks_as_well() {
    let mut pair = Pair::up(&limits(&["--args", "overflow-main"]));
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    pair.must(&["rejoin"]);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(4);
    pair.fault(&["console-input", "go"]);
    let stopped = end_of_program(&mut pair);
    assert!(stopped.report.contains("(\"main\") has overflowed its stack"), "{}", stopped.report);
    pair.down();
}

/// The lines of the first backtrace behind a text.
fn backtrace_behind<'a>(console: &'a str, text: &str) -> Vec<&'a str> {
    let (_, rest) = console.split_once(text).unwrap_or_else(|| panic!("{text} is not in the console:\n{console}"));
    let lines = rest.lines().skip_while(|line| !line.starts_with("   0: "));
    lines.take_while(|line| line.starts_with(' ')).collect()
}

/// What `std` prints of a stack has functions, files and lines in `logs`, and is the same from both replicas. The console's log is
/// what the guest has written.
#[test]
fn backtraces_have_names_whichever_replica_prints_them() {
    let mut pair = begun(&["--env", "RUST_BACKTRACE=1", "--args", "backtraces"]);
    pair.wait_for_console("round 1 is over");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    pair.fault(&["console-input", "again"]);
    let stopped = end_of_program(&mut pair);
    let raw = pair.must(&["logs", "--raw"]);
    assert_eq!(raw, fs::read_to_string(pair.folder().join("console.log")).expect("the console's log"));
    let shown = pair.must(&["logs"]);
    let rounds = |text: &str| {
        let is_of_stack = |line: &&str| line.starts_with(' ') || line.contains("Backtrace [");
        let (first, rest) = text.split_once("\nround 1 is over\n").expect("a first round");
        let (second, _) = rest.split_once("\nround 2 is over\n").expect("a second one");
        [first, second].map(|round| round.lines().filter(is_of_stack).map(str::to_owned).collect::<Vec<_>>())
    };
    for text in [&raw, &shown] {
        let [first, second] = rounds(text);
        assert!(first.len() > 50, "{text}");
        assert_eq!(first, second);
    }
    // Behind that the supervisor has its say.
    let (written, _) = raw.split_once("[the guest stopped").expect("its end");
    assert!(written.contains("<code at 0x") && !written.contains("limits::backtraces"), "{raw}");
    assert!(!shown.contains("<code at 0x"), "{shown}");
    assert!(!written.contains("pollux: "), "nobody is told of what `std` looks for: {raw}");

    let of_thread = backtrace_behind(&shown, "thread 'climber'");
    let position = |name: &str| of_thread.iter().position(|line| line.ends_with(name));
    assert_eq!(position("rust_begin_unwind"), Some(0), "std begins there: {of_thread:#?}");
    let culprit = position("limits::backtraces::culprit").expect("who has panicked");
    assert!(Some(culprit) < position("limits::backtraces::fall"), "{of_thread:#?}");
    assert_eq!(of_thread.iter().filter(|line| line.ends_with("limits::backtraces::fall")).count(), 4, "{of_thread:#?}");
    let places = of_thread.iter().filter(|line| line.starts_with("             at ./src/backtraces.rs:"));
    assert!(places.count() >= 5, "{of_thread:#?}");
    assert!(of_thread.len() < 20 && !of_thread.concat().contains("short_backtrace"), "and ends there: {of_thread:#?}");

    let captured = backtrace_behind(&shown, "in a destructor: true\ncaptured:");
    assert!(captured[0].ends_with("limits::backtraces::captured"), "{captured:#?}");
    assert!(captured.concat().contains("limits::main"), "{captured:#?}");
    let entry = "captured: Backtrace [{ fn: \"limits::backtraces::captured\", file: \"./src/backtraces.rs\", line: ";
    assert!(shown.contains(entry), "{shown}");

    // A destructor that panics while a panic unwinds: `std` prints all of the stack, and the report has the first message, not the stack.
    assert_eq!(stopped.kind, "panic", "{stopped:?}");
    for part in ["its last words:\nthread 'main' (1) panicked at src/backtraces.rs", "dropped", "non-unwinding panic"] {
        assert!(stopped.report.contains(part), "{part}: {}", stopped.report);
    }
    assert!(!stopped.report.contains("stack backtrace:"), "{}", stopped.report);
    assert!(shown.contains(" - std::panicking::"), "{shown}");
    pair.down();
}

#[test]
fn memory_that_ends_is_an_error_or_a_report_of_both_replicas() {
    let mut pair = begun(&["--args", "memory"]);
    let stopped = end_of_program(&mut pair);
    assert_eq!((stopped.kind.as_str(), stopped.replicas.len()), ("panic", 2), "{stopped:?}");
    for part in ["memory allocation of 1048576 bytes failed", "limits::room::memory"] {
        assert!(stopped.report.contains(part), "{part}: {}", stopped.report);
    }
    for line in ["a piece that is too large: true", "one that is not: true"] {
        pair.wait_for_console(line);
    }
    pair.down();
}

/// A thousand threads at once, and no more than there is room for.
#[test]
fn threads_beyond_the_limit_are_an_error() {
    for (arguments, expected) in [
        (["--memory-mib=64", "--args", "threads 1000"], &["1000 threads wait", "joined, sum 499500"][..]),
        (
            ["--memory-mib=16", "--args", "threads 1000"],
            &[
                "pollux: no new thread: there is no memory for a thread's stack of 16384 bytes",
                " threads: WouldBlock: ",
            ],
        ),
        (
            ["--memory-mib=128", "--args", "threads 4000"],
            &["pollux: no new thread: there can be no more than 2048 threads", "after 2047 threads: WouldBlock: "],
        ),
    ] {
        let mut options = limits(&[]);
        options.arguments = ["--bare"].iter().chain(&arguments).map(|word| (*word).to_owned()).collect();
        let mut pair = Pair::up(&options);
        pair.fault(&["console-input", "go"]);
        assert_eq!(end_of_program(&mut pair).code, 0);
        let console = console_of(&pair);
        for line in expected.iter().chain(&["and another one: Ok(7)"]) {
            assert!(console.contains(line), "{line}: {console}");
        }
        pair.down();
    }
}

/// What `symbols.txt` says of functions that fail, and the number of the error of each.
const FAILING: [(&str, &str, i32); 17] = [
    ("chroot", "fails", 1),
    ("copy_file_range", "fails", 38),
    ("execvp", "refused", 38),
    ("fork", "refused", 38),
    ("mkfifo", "fails", 1),
    ("pidfd_getpid", "refused", 38),
    ("pidfd_spawnp", "refused", 38),
    ("posix_spawnp", "refused", 38),
    ("sendfile64", "fails", 22),
    ("setgid", "refused", 1),
    ("setgroups", "refused", 1),
    ("setpgid", "refused", 1),
    ("setsid", "refused", 1),
    ("setuid", "refused", 1),
    ("splice", "fails", 22),
    ("waitid", "refused", 10),
    ("waitpid", "refused", 10),
];

/// The functions of `symbols.txt` that fail, with how.
fn failing_symbols() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/libc/symbols.txt");
    let text = fs::read_to_string(path).expect("the list");
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let failing = lines.filter(|(_, fate)| ["fails", "refused"].contains(fate));
    failing.map(|(name, fate)| (name.to_owned(), fate.to_owned())).collect()
}

#[test]
fn what_has_no_meaning_in_an_image_is_an_error_with_its_name() {
    assert_eq!(failing_symbols(), FAILING.map(|(name, fate, _)| (name.to_owned(), fate.to_owned())));
    for machine in [&["--bare"][..], &[]] {
        let mut pair = begun(&[machine, &["--args", "refused"]].concat());
        let stopped = end_of_program(&mut pair);
        assert_eq!((stopped.code, stopped.replicas.len()), (0, 2 - machine.len()));
        let console = console_of(&pair);
        for (name, fate, number) in FAILING {
            let line = console.lines().find(|line| line.starts_with(&format!("{name}: ")));
            assert!(line.is_some_and(|line| line.ends_with(&format!("(os error {number})"))), "{name}: {console}");
            assert_eq!(console.contains(&not_there(name)), fate == "refused", "{name}: {console}");
        }
        for name in ["syscall 101", "dlopen of libssl.so.3", "/proc/self/maps", "/sys/kernel", "/dev/urandom"] {
            assert_eq!(console.matches(&not_there(name)).count(), 1, "{name}: {console}");
        }
        for line in [
            "syscall: -1 Function not implemented",
            "dlopen: true there are no shared libraries in an image",
            "spawn: Err(\"Socket type not supported",
            "/proc/self/maps: Err(\"No such file or directory",
        ] {
            assert!(console.contains(line), "{line}: {console}");
        }
        pair.down();
    }
}

/// What the console says of a thing that there is none of.
fn not_there(name: &str) -> String {
    format!("pollux: the program has asked for {name}, which does not exist in an image")
}

/// Chance is the same for both replicas, which all memory that the program writes to is compared for, and another one at another start.
#[test]
fn chance_is_the_same_for_both_replicas_and_differs_between_runs() {
    let runs = [(); 2].map(|()| {
        let mut pair = begun(&["--check-determinism", "--args", "chance"]);
        pair.wait_for_console("once more");
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_solo(2);
        pair.fault(&["console-input", "again"]);
        assert_eq!(end_of_program(&mut pair).code, 0);
        let console = console_of(&pair);
        pair.down();
        let lines: Vec<_> = console.lines().filter(|line| line.starts_with("chance: ")).map(str::to_owned).collect();
        assert_eq!(lines.len(), 6, "{console}");
        lines
    });
    let [first, second] = &runs;
    assert!(first.iter().zip(second).all(|(one, other)| one != other), "{runs:#?}");
    assert!(first[..3].iter().zip(&first[3..]).all(|(before, after)| before != after), "{runs:#?}");
}

/// What a program is told at its start, by the command line or else by its manifest, is one thing for both replicas.
#[test]
fn arguments_and_environment_are_the_same_for_both_replicas() {
    let tells = |options: &Options, expected: &[&str]| {
        let mut pair = Pair::up(options);
        pair.fault(&["console-input", "go"]);
        assert_eq!(end_of_program(&mut pair).code, 0);
        let console = console_of(&pair);
        assert_eq!(console.lines().take_while(|line| *line != "all done").collect::<Vec<_>>(), expected);
        pair.down();
    };
    let two = ["--env", "COLOUR=red", "--env", "EMPTY=", "--", "two words", "ä"];
    tells(&limits(&two), &[r#"arguments: ["two words", "ä"]"#, r#"variable COLOUR: "red""#, r#"variable EMPTY: """#]);
    // Built by `up`, the manifest's are there too.
    let mut built = Options::new("").with(&["--env", "COLOUR=red"]);
    built.manifest = Some(program_folder("limits").join("Cargo.toml"));
    tells(
        &built,
        &[r#"arguments: ["told", "by the manifest"]"#, r#"variable COLOUR: "red""#, r#"variable SHAPE: "round""#],
    );
    let failure = Pair::refused(&limits(&["--env", "A=1", "--backup-env", "A=2"]));
    assert!(failure.text.contains("boot arguments, environment"), "{}", failure.text);
    let long = format!("A={}", "x".repeat(3000));
    let failure = Pair::refused(&limits(&["--env", &long]));
    assert!(failure.text.contains("arguments and environment have 3003 bytes together"), "{}", failure.text);
    built.arguments.extend(["--epoch", "counted:1000"].map(str::to_owned));
    let failure = Pair::refused(&built);
    assert!(failure.text.contains("a program with std cannot count its ticks"), "{}", failure.text);
    let failure = Pair::refused(&limits(&["--env", "=1"]));
    assert!(failure.text.contains("NAME=VALUE"), "{}", failure.text);
}
