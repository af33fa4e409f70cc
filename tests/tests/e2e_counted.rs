//! Epochs that the guest ends itself after so many of its ticks, on a machine that counts nothing.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use pollux_tests::client::{Client, Reply};
use pollux_tests::guests::{
    self, ask, computed, debug_computed, epoch_of, epochs_alike, send, still_paired, wait_for_epochs,
};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{epochs, seed};

/// No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "5000"];
/// Epochs of full length that both replicas must have run alike under traffic.
const EPOCHS: u64 = 10_000;

/// An app that counts its ticks, in epochs of so many of them.
fn counted(app: &str, epoch: &str) -> Options {
    Options::new(&format!("{app}.counted")).with(&PATIENT).with(&["--epoch", epoch])
}

fn connect(address: SocketAddr) -> Client {
    Client::connect(address).expect("a published port takes connections")
}

#[test]
fn every_shape_of_loop_is_cut() {
    guests::every_shape_of_loop_is_cut(&counted("probe", "counted:5000"));
}

/// The digest of an epoch covers the registers and what is left of the epoch's ticks, so a replica that has counted one
/// tick more or less than its peer is found out in that epoch.
#[test]
fn both_replicas_are_cut_at_the_same_tick_whatever_comes_in() {
    let seed = seed("random traffic at counted epochs");
    let mut pair = Pair::up(&counted("probe", "counted:1000").alone());
    epochs_alike(&mut pair, seed, epochs(EPOCHS), disturb);
    pair.down();
}

/// Keeps a guest hearing something at moments that no two runs share.
fn disturb(address: SocketAddr, rng: &mut Rng, over: &AtomicBool) {
    let mut client = connect(address);
    while !over.load(Ordering::Relaxed) {
        for _ in 0..rng.between(1, 20) {
            assert_eq!(ask(&mut client, "hello"), "hello");
        }
        client = connect(address);
    }
}

/// Ten ticks are fewer than it takes to go from one task to another, and yet both get on.
#[test]
fn the_shortest_epochs_starve_nobody() {
    const ROUNDS: u64 = 1_000_000;
    let mut pair = Pair::up(&counted("probe", "counted:10"));
    let (mut client, mut computing) = (connect(pair.address(7000)), connect(pair.address(7000)));
    send(&mut computing, &format!("background {ROUNDS}"));
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "hello"), "hello");
    }
    assert_eq!(computing.line().expect("an answer"), computed(ROUNDS));
    still_paired(&mut pair);
    pair.down();
}

/// The same under the eyes of a check that compares all memory written to, after every epoch.
#[test]
fn memory_is_the_same_after_every_cut() {
    let mut pair = Pair::up(&counted("probe", "counted:5000").with(&["--check-determinism"]));
    let mut client = connect(pair.address(7000));
    assert_eq!(ask(&mut client, "background 3000000"), computed(3_000_000));
    still_paired(&mut pair);
    pair.down();
}

/// A tick comes between two instructions that know nothing of it, also where vector registers are in use.
#[test]
fn registers_outlive_cuts() {
    const ROUNDS: u64 = 2_000_000;
    let mut pair = Pair::up(&counted("probe", "counted:500"));
    let address = pair.address(7000);
    let (mut computing, mut other) = (connect(address), connect(address));
    send(&mut computing, &format!("background floats {ROUNDS}"));
    while !computing.has_something().expect("the connection stands") {
        assert_eq!(ask(&mut other, "entropy 100").len(), 200);
    }
    assert_eq!(computing.line().expect("the connection stands"), floats(ROUNDS));
    still_paired(&mut pair);
    pair.down();
}

/// Cuts fall into the allocator too, while another connection keeps other tasks allocating.
#[test]
fn memory_of_a_computation_is_its_own() {
    let mut pair = Pair::up(&counted("probe", "counted:30000"));
    let address = pair.address(7000);
    let (mut computing, mut other) = (connect(address), connect(address));
    send(&mut computing, "background allocate");
    while !computing.has_something().expect("the connection stands") {
        assert_eq!(ask(&mut other, "entropy 100").len(), 200);
    }
    assert_eq!(computing.line().expect("the connection stands"), "allocated 500000");
    still_paired(&mut pair);
    pair.down();
}

/// What the guest's `floats` gives.
fn floats(rounds: u64) -> String {
    let mut sums: [f64; 12] = std::array::from_fn(|index| 1.0 + index as f64);
    for round in 0..rounds {
        let step = round as f64 * 1e-3;
        for (index, sum) in sums.iter_mut().enumerate() {
            *sum = *sum * 0.999 + step / (1.0 + index as f64);
        }
    }
    format!("floats {:x}", sums.iter().fold(0_u64, |hash, sum| hash.rotate_left(5) ^ sum.to_bits()))
}

#[test]
fn a_store_answers_while_it_computes_also_when_its_primary_dies() {
    const ROUNDS: u64 = 150_000_000;
    const REPLIES: usize = 40;
    let mut pair = Pair::up(&counted("kv", "counted:20000").alone().with(&["--args", "debug=yes"]));
    let address = pair.address(6379);
    let (mut computing, mut other) = (connect(address), connect(address));
    assert_eq!(other.must("PING"), Reply::Simple("PONG".into()));
    send(&mut computing, &format!("DEBUG COMPUTE {ROUNDS}"));
    for expected in 1..=REPLIES {
        assert_eq!(other.must("INCR asked"), Reply::Integer(expected as i64));
        if expected == REPLIES / 2 {
            pair.kill(Role::Primary, "KILL");
        }
    }
    let early = computing.has_something().expect("the connection stands");
    assert!(!early, "the computation has ended before the other connection had {REPLIES} replies");
    assert_eq!(computing.receive().expect("the connection lives on"), debug_computed(ROUNDS));
    assert_eq!(other.must("GET asked"), Reply::bulk(REPLIES.to_string()));
    let status = pair.wait_for_solo(2);
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair.down();
}

/// A computation that never gives way has no moment of its own at which a backup could take over.
#[test]
fn a_computation_that_never_waits_survives_its_primary() {
    let seed = seed("moments at which the primary of a computation dies");
    let mut rng = Rng::new(seed);
    for _ in 0..pollux_tests::workbench::moments(3) {
        let mut pair = Pair::up(&counted("dhrystone", "counted:500").with(&["--args", "serve"]));
        let mut client = connect(pair.address(7000));
        send(&mut client, "run 2000000");
        wait_for_epochs(&mut pair, rng.between(1, 4_000));
        pair.kill(Role::Primary, "KILL");
        assert_eq!(client.line().expect("the connection lives on"), "dhrystone: runs=2000000 ok");
        pair.wait_for_solo(2);
        pair.down();
    }
}

#[test]
fn bare_nothing_is_cut() {
    let mut pair = Pair::up(&counted("probe", "counted:1000").with(&["--bare"]));
    let mut client = connect(pair.address(7000));
    assert_eq!(ask(&mut client, "compute 1000000"), computed(1_000_000));
    let turns = epoch_of(&pair.status(), Role::Primary);
    assert!(turns < 500, "{turns} turns, although a million ticks were not cut");
    pair.down();
}

#[test]
fn a_program_that_does_not_count_is_refused_with_the_reason() {
    let failure = Pair::refused(&Options::new("probe").with(&["--epoch", "counted:10000"]));
    assert_eq!(failure.code, 2, "{}", failure.text);
    assert!(failure.text.contains("pollux build APP --counted"), "{}", failure.text);
    for wrong in ["counted:7", "counted", "counted:"] {
        let failure = Pair::refused(&Options::new("probe").with(&["--epoch", wrong]));
        assert_eq!(failure.code, 2, "{wrong}: {}", failure.text);
        assert!(failure.text.contains("counted:TICKS"), "{wrong}: {}", failure.text);
    }
}
