//! A computation with rayon, unmodified, as a pair: its threads never wait for long, and its machine dies ten times.

use std::fs;

use pollux_tests::guests::end_of_program;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::Role;
use pollux_tests::workbench::{native, program_image};

const KILLS: u32 = 10;
/// Something is computed before the first kill and after the last.
const PIECES: u32 = KILLS + 2;
/// No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "5000"];

/// What it computes on this host, so many pieces of it.
fn computed_here(pieces: u32) -> String {
    native("parallel", &["--release"], &[&pieces.to_string()])
}

/// The console begins with this.
fn prints(pair: &Pair, expected: &str) {
    let console = fs::read_to_string(pair.folder().join("console.log")).expect("the console's log");
    let printed: Vec<&str> = console.lines().take(expected.lines().count()).collect();
    assert_eq!(printed, expected.lines().collect::<Vec<_>>());
}

#[test]
fn a_computation_with_rayon_survives_ten_kills_and_computes_what_it_does_on_linux() {
    let expected = computed_here(PIECES);
    let pieces = PIECES.to_string();
    let options = Options::new("").alone().with(&PATIENT).with(&["--epoch", "exact:50000", "--args", &pieces]);
    let mut pair = Pair::up(&Options { image: Some(program_image("parallel")), ..options });
    pair.fault(&["console-input", "go"]);
    for kill in 0..KILLS {
        // In the middle of the next piece.
        pair.wait_for_console(&format!("piece {kill}: "));
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_solo(u64::from(kill) * 2 + 2);
        pair.must(&["rejoin"]);
        pair.wait_for_pair(u64::from(kill) * 2 + 3);
    }
    let stopped = end_of_program(&mut pair);
    assert_eq!((stopped.kind.as_str(), stopped.code), ("exit", 0), "{stopped:?}");
    pair.wait_for_console("all done");
    prints(&pair, &expected);
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.down();
}
