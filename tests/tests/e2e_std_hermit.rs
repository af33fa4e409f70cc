//! An ordinary program with the `std` for hermit, which is built from source and asks for no C library: threads, a computation with
//! rayon, sockets, names, files on a disk and in the image, all in one pair whose primary dies in the middle.

use std::fs;

use pollux_tests::disks::Files;
use pollux_tests::guests::end_of_program;
use pollux_tests::names;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::Role;
use pollux_tests::workbench::{hermit_image, native_with, program_folder};

/// What the program says when it has got to its end.
const LAST_LINE: &str = "that was all\n";
/// What the program begins lines with that it prints with this `std` alone.
const OWN: &str = "hermit: ";
/// Those lines. The first of them are what that `std` refuses by itself (`library/std/src/sys/fs/hermit.rs` and the like, in Rust
/// 1.96), whatever is below it; the last ones come from the network.
const OWN_LINES: [&str; 23] = [
    "sync_all: error 22",
    "sync_data: error 22",
    // By the function that is there since.
    "fsync of hermit-abi: 0",
    "set_len: error 22",
    "File::try_clone: error 22",
    "File::lock: Unsupported",
    "set_modified: error 22",
    "set_permissions: error 22",
    "rename: Unsupported",
    "hard_link: Unsupported",
    "read_link: Unsupported",
    "canonicalize: Unsupported",
    "remove_dir_all: Unsupported",
    // All is copied; but then it sets permissions.
    "copy: error 22",
    // It takes a listing without a byte for an error.
    "read_dir of an empty directory: error 0",
    "set_current_dir: Unsupported",
    "current_exe: Unsupported",
    "pipe: Unsupported",
    "an address of IPv6: error 97",
    "multicast: error 92",
    "www.example.org: Some([192.0.2.7:80])",
    "nobody.example.org: None",
    "the last error: true",
];

#[test]
fn std_for_hermit_behaves_as_that_for_linux_as_far_as_it_goes() {
    let files = Files::new("std-hermit");
    let folder = files.folder().join("native");
    fs::create_dir_all(&folder).expect("a folder");
    let packed = program_folder("files").join("packed");
    let expected = native_with("portable", &["--locked"], &["2"], &[("FOLDER", &folder), ("PACKED", &packed)]);
    assert!(expected.ends_with(LAST_LINE) && expected.lines().count() > 250, "{expected}");
    let disk = format!("data={},size=32M", files.stem().display());
    let [allow, env, server] = names::server();
    let arguments = ["--memory-mib", "48", "--epoch", "exact:50000", "--disk", &disk, &allow, &env, &server];
    let variables = ["--env", "FOLDER=/data", "--env", "PACKED=/usr/share/packed", "--failure-timeout-ms", "5000"];
    let options = Options::new("").with(&arguments).with(&variables).with(&["--args", "2"]);
    let mut pair = Pair::up(&Options { image: Some(hermit_image("portable")), ..options });
    pair.fault(&["console-input", "go"]);
    // In the middle of the second piece.
    pair.wait_for_console("piece 0: ");
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
    pair.fault(&["console-input", "go on"]);
    let stopped = end_of_program(&mut pair);
    assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", 0), "{stopped:?}\n{}", pair.console());
    pair.wait_for_console("that was all");
    let console = pair.console();
    let (console, _) = console.split_once(LAST_LINE).expect("it has got to its end");
    let (expected, _) = expected.split_once(LAST_LINE).expect("here, too");
    // What is said about a thread that has not started is for people.
    let lines = console.lines().filter(|line| !line.starts_with("pollux: "));
    let (own, shared): (Vec<&str>, Vec<&str>) = lines.partition(|line| line.starts_with(OWN));
    for (ours, theirs) in shared.iter().zip(expected.lines()) {
        assert_eq!(*ours, theirs, "the image says the first, Linux the second");
    }
    assert_eq!(shared.len(), expected.lines().count(), "{console}");
    let own: Vec<&str> = own.iter().filter_map(|line| line.strip_prefix(OWN)).collect();
    assert_eq!(own, OWN_LINES);
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.down();
}
