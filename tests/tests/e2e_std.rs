//! Ordinary Rust programs, `std` and all, as guests.

use std::fs;

use pollux_tests::guests::end_of_program;
use pollux_tests::http::Connection;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::workbench::{native, program_image};

/// Where the program of a new project listens.
const PORT: u16 = 8080;
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
    let stopped = end_of_program(&mut pair);
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
    let stopped = end_of_program(&mut pair);
    assert_eq!((stopped.kind.as_str(), stopped.code, stopped.replicas.len()), ("panic", 101, 2), "{stopped:?}");
    for part in ["the program has panicked", "index out of bounds", "src/main.rs", "conformance::look_beyond"] {
        assert!(stopped.report.contains(part), "{part}: {}", stopped.report);
    }
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.down();
}

/// A project as `cargo pollux new` makes it builds where it lies, and its program goes on counting when its machine dies.
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
    options.ports = vec![PORT];
    let mut pair = Pair::up(&options);
    let mut clients =
        [(); 2].map(|()| Connection::open(pair.address(PORT)).expect("a published port takes connections"));
    let mut visits = 0;
    let mut visit = || {
        for client in &mut clients {
            visits += 1;
            let answer = client.ask("GET", "/", "").expect("an answer on the same connection");
            assert_eq!(answer, (200, format!("visit {visits}\n")));
        }
    };
    visit();
    pair.must(&["kill", "primary"]);
    visit();
    pair.wait_for_solo(2);
    // The second time it is a newcomer that goes on, with registers that it was given.
    pair.must(&["rejoin"]);
    pair.must(&["kill", "primary"]);
    visit();
    pair.wait_for_solo(4);
    visit();
    assert!(pair.console().contains("serving at port 8080"), "{}", pair.console());
    pair.down();
    fs::remove_dir_all(folder.parent().expect("a folder")).expect("it is ours");
}

/// A program that asks for a function that there is none of.
const LACKS: &str = r#"
unsafe extern "C" {
    fn shm_open() -> i32;
}

fn main() {
    // SAFETY: it is never linked.
    println!("{}", unsafe { shm_open() });
}
"#;

/// A function that there is none of is missed when the program is linked, by its name.
#[test]
fn a_function_that_does_not_exist_is_named_when_the_program_is_linked() {
    let folder = std::env::temp_dir().join(format!("pollux-lacks-{}", std::process::id())).join("lacks");
    let nothing = Pair::nothing();
    let path = folder.display().to_string();
    assert!(nothing.command(&["new", &path]).output().expect("the pollux command starts").status.success());
    fs::write(folder.join("src/main.rs"), LACKS).expect("written");
    let manifest = folder.join("Cargo.toml").display().to_string();
    let built = nothing.command(&["build", "--manifest-path", &manifest]).output().expect("the pollux command starts");
    let text = String::from_utf8_lossy(&built.stderr);
    assert!(!built.status.success() && text.contains("undefined symbol: shm_open"), "{text}");
    fs::remove_dir_all(folder.parent().expect("a folder")).expect("it is ours");
}

/// The image of a program that prints a line is what `bench std` promises.
#[test]
fn a_small_program_is_small() {
    let bytes = fs::metadata(program_image("hello")).expect("an image").len();
    assert!(bytes <= 3 << 19, "{bytes} bytes");
}

/// A program without `std` that was written against hermit-abi alone is linked with the same functions.
#[test]
fn a_program_against_hermit_abi_runs() {
    syscalls(&Options::new("syscalls"));
}

/// Its threads are preempted where its ticks have run out.
#[test]
fn a_program_against_hermit_abi_runs_where_ticks_are_counted() {
    syscalls(&Options::new("syscalls.counted").with(&["--epoch", "counted:300"]));
}

fn syscalls(options: &Options) {
    let mut pair = Pair::up(options);
    pair.fault(&["console-input", "go"]);
    let stopped = end_of_program(&mut pair);
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
