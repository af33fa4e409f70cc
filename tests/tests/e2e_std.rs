//! Ordinary Rust programs, `std` and all, as guests.

use std::fs;

use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::GuestStopped;
use pollux_tests::workbench::{native, program_image};

/// What the program says when it has got to its end.
const LAST_LINE: &str = "all done";

fn conformance(arguments: &[&str]) -> Options {
    let mut options = Options::new("").with(&["--memory-mib", "32"]).with(arguments);
    options.image = Some(program_image("conformance"));
    options
}

/// Waits for the guest's end and compares what it has printed with what it prints on Linux.
fn prints_the_same(arguments: &[&str]) {
    let mut pair = Pair::up(&conformance(arguments).with(&["--args", "one two"]));
    pair.fault(&["console-input", "go"]);
    let stopped: GuestStopped = pair.wait_until("the program's end", |status| status.guest_stopped.clone());
    assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", 0), "{stopped:?}");
    pair.wait_for_console(LAST_LINE);
    let console = fs::read_to_string(pair.folder().join("console.log")).expect("the console's log");
    let expected = native("conformance", &["--offline"], &["one", "two"]);
    assert!(expected.ends_with(&format!("{LAST_LINE}\n")) && expected.lines().count() > 150, "{expected}");
    // What the C library says about a thread that has not started is for people.
    let console = console.lines().filter(|line| !line.starts_with("pollux: "));
    for (ours, theirs) in console.zip(expected.lines()) {
        assert_eq!(ours, theirs, "the image says the first, Linux the second");
    }
    pair.down();
}

#[test]
fn std_behaves_as_on_linux_in_one_machine() {
    prints_the_same(&["--bare"]);
}

/// Threads are interrupted at every thousandth instruction or so, wherever that is.
#[test]
fn std_behaves_as_on_linux_in_a_pair_that_is_cut_everywhere() {
    prints_the_same(&["--epoch", "exact:1009"]);
}

/// Both replicas stop with the same report, which names the function and the line.
#[test]
fn a_panic_is_reported_with_names() {
    let mut pair = Pair::up(&conformance(&["--args", "panic"]));
    pair.fault(&["console-input", "go"]);
    let stopped: GuestStopped = pair.wait_until("the program's end", |status| status.guest_stopped.clone());
    assert_eq!((stopped.kind.as_str(), stopped.code), ("panic", 101), "{stopped:?}");
    for part in ["the program has panicked", "index out of bounds", "src/main.rs", "conformance::look_beyond"] {
        assert!(stopped.report.contains(part), "{part}: {}", stopped.report);
    }
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.down();
}

/// A project as `cargo pollux new` makes it builds where it lies, and its program goes on when its machine dies.
#[test]
fn a_new_project_runs_as_a_pair_and_survives() {
    let folder = std::env::temp_dir().join(format!("pollux-new-{}", std::process::id())).join("counter");
    let nothing = Pair::nothing();
    let run = |arguments: &[&str]| {
        let output = nothing.command(arguments).output().expect("the pollux command starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let path = folder.display().to_string();
    run(&["new", &path]);
    let again = nothing.command(&["new", &path]).output().expect("the pollux command starts");
    assert_eq!(again.status.code(), Some(2), "a folder that is there is left alone");
    assert!(fs::read_to_string(folder.join(".cargo/config.toml")).expect("an alias").contains("pollux = [\"run\""));
    let manifest = folder.join("Cargo.toml").display().to_string();
    let built: serde_json::Value =
        serde_json::from_str(&run(&["build", "--json", "--manifest-path", &manifest])).expect("JSON");
    let mut options = Options::new("");
    options.image = Some(built["image"].as_str().expect("it names the image").into());
    let mut pair = Pair::up(&options);
    let before = pair.wait_for_console("2 after ");
    pair.must(&["kill", "primary"]);
    pair.wait_for_solo(2);
    // It counts on where it was: the numbers after the failover follow those before. The second time it is a newcomer that
    // goes on, with registers that it was given.
    pair.wait_for_console("4 after ");
    pair.must(&["rejoin"]);
    pair.must(&["kill", "primary"]);
    pair.wait_for_solo(4);
    pair.wait_for_console("7 after ");
    let console = fs::read_to_string(pair.folder().join("console.log")).expect("the console's log");
    let numbers: Vec<&str> = console.lines().filter_map(|line| line.split_once(" after ")).map(|(n, _)| n).collect();
    assert_eq!(numbers[..8], ["0", "1", "2", "3", "4", "5", "6", "7"], "{before}");
    pair.down();
    fs::remove_dir_all(folder.parent().expect("a folder")).expect("it is ours");
}

/// A program without `std` that was written against hermit-abi alone is linked with the same functions.
#[test]
fn a_program_against_hermit_abi_runs() {
    let mut pair = Pair::up(&Options::new("syscalls"));
    pair.fault(&["console-input", "go"]);
    let stopped: GuestStopped = pair.wait_until("the program's end", |status| status.guest_stopped.clone());
    pair.wait_for_console("and none: ");
    let console = fs::read_to_string(pair.folder().join("console.log")).expect("the console's log");
    assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", 0), "{console}");
    assert!(console.lines().count() >= 30, "{console}");
    let order: Vec<_> = console.lines().take(5).collect();
    let expected = [
        "it begins when it is told to: true",
        "a thread has started: true",
        "thread 7 wakes the first",
        "it has woken 1",
        "the first waits until it is woken: true",
    ];
    assert_eq!(order, expected);
    pair.down();
}
