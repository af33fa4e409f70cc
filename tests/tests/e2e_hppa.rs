//! The same pair on PA-RISC: the same apps, the same protocol, another machine.
//!
//! Run with `cargo test -p pollux-tests --test e2e_hppa`. `POLLUX_E2E_MOMENTS=10` kills that many primaries under load,
//! `POLLUX_SEED` repeats a run.

use pollux_tests::client::{Client, Reply};
use pollux_tests::load::Load;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{image, moments, seed, wait_for_end};

/// Clients under load: enough that every epoch has several requests in flight.
const CLIENTS: usize = 8;

/// A store whose replicas bear silence for longer than on x86-64: this machine is emulated several times as slowly, and a
/// replica that the host does not run for a while must not be taken for a dead one. A process that dies is noticed at once
/// all the same.
fn store() -> Options {
    Options::new("kv.hppa").with(&["--failure-timeout-ms", "2000"])
}

fn connect(pair: &mut Pair, port: u16) -> Client {
    Client::connect(pair.address(port)).expect("a published port takes connections")
}

#[test]
fn echo_runs_alone_and_gives_back_what_it_gets() {
    let mut pair = Pair::up(&Options::new("echo.hppa").with(&["--bare"]));
    let mut client = connect(&mut pair, 7);
    for length in [1usize, 100, 1500, 20_000] {
        let line: String = (0..length).map(|index| char::from(b'a' + (index % 26) as u8)).collect();
        client.send(format!("{line}\n").as_bytes()).expect("the connection stands");
        assert_eq!(client.line().expect("the echo answers"), line);
    }
    pair.down();
}

#[test]
fn a_store_survives_its_primary_with_its_connections() {
    let mut pair = Pair::up(&store());
    let mut client = connect(&mut pair, 6379);
    assert!(client.must("SET answer 42").is_ok());
    let killed = pair.kill(Role::Primary, "KILL");
    let status = pair.wait_for_survivor(2);
    assert!(wait_for_end(killed, DEADLINE), "the killed process is gone");
    assert_eq!(status.replicas[0].replica, 1, "the backup is the one that goes on");
    assert_eq!(client.must("INCR answer"), Reply::Integer(43), "the same connection goes on");
    assert_eq!(connect(&mut pair, 6379).must("GET answer"), Reply::bulk("43"), "and new ones are taken");
    pair.down();
}

#[test]
fn the_primary_is_killed_under_load() {
    let first = seed("killed under load on PA-RISC");
    for seed in first..first + moments(3) {
        println!("moment of seed {seed}");
        let mut rng = Rng::new(seed);
        let mut pair = Pair::up(&store().alone());
        let load = Load::start(pair.address(6379), CLIENTS, seed);
        load.wait_for_answers(rng.between(1, 200));
        pair.kill(Role::Primary, "KILL");
        let status = pair.wait_for_solo(2);
        assert_eq!(status.replicas[0].replica, 1);
        load.wait_for_answers(100);
        let summary = load.finish();
        println!("seed {seed}: {} requests, longest wait {:?}", summary.answered, summary.longest_wait);
        assert_eq!(pair.status().hub["connections_reset"], 0, "no connection was reset");
        pair.down();
    }
}

#[test]
fn two_architectures_are_no_pair() {
    let twin = image("echo");
    let twin = twin.to_str().expect("a path of this machine");
    let failure = Pair::refused(&Options::new("echo.hppa").with(&["--backup-image", twin]));
    assert!(failure.text.contains("is for PA-RISC") && failure.text.contains("for x86-64"), "{}", failure.text);
}
