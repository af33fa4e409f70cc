//! Computations beside other tasks: where epochs are cut, both share the processor; elsewhere they do not.
//!
//! What came before what is told by the order of replies, never by the time that they took.

use std::net::SocketAddr;

use pollux_tests::client::{Client, Reply};
use pollux_tests::guests::{debug_computed, send};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::{GuestStopped, Role, Status};

const EXACT: [&str; 2] = ["--epoch", "exact:100000"];
/// No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "5000"];
/// Rounds of a computation that takes thousands of such epochs: many for each of the replies that others get meanwhile.
const ROUNDS: u64 = 150_000_000;
/// How many those are.
const REPLIES: usize = 40;

fn kv(arguments: &[&str]) -> (Pair, SocketAddr) {
    let mut pair = Pair::up(&Options::new("kv").alone().with(&PATIENT).with(&["--args", "debug=yes"]).with(arguments));
    let address = pair.address(6379);
    (pair, address)
}

fn probe() -> (Pair, SocketAddr) {
    let mut pair = Pair::up(&Options::new("probe").with(&PATIENT).with(&["--epoch", "exact:20000"]));
    let address = pair.address(7000);
    (pair, address)
}

fn connect(address: SocketAddr) -> Client {
    Client::connect(address).expect("a published port takes connections")
}

fn has_something(client: &Client) -> bool {
    client.has_something().expect("the connection stands")
}

fn receive(client: &mut Client) -> Reply {
    client.receive().expect("the connection lives on")
}

fn increment(client: &mut Client, expected: usize) {
    assert_eq!(client.must("INCR asked"), Reply::Integer(expected as i64));
}

fn still_paired(pair: &mut Pair) {
    let status = pair.status();
    assert_eq!((status.mode.as_str(), status.generation), ("paired", 1), "{:#?}", status.events);
    no_divergence(&status);
}

fn no_divergence(status: &Status) {
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
}

#[test]
fn a_store_answers_while_it_computes_also_when_its_primary_dies() {
    let (mut pair, address) = kv(&EXACT);
    let (mut computing, mut other) = (connect(address), connect(address));
    assert_eq!(other.must("PING"), Reply::Simple("PONG".into()));
    send(&mut computing, &format!("DEBUG COMPUTE {ROUNDS}"));
    for expected in 1..=REPLIES {
        increment(&mut other, expected);
        if expected == REPLIES / 2 {
            pair.kill(Role::Primary, "KILL");
        }
    }
    assert!(!has_something(&computing), "the computation has ended before the other connection had {REPLIES} replies");
    assert_eq!(receive(&mut computing), debug_computed(ROUNDS));
    assert_eq!(other.must("GET asked"), Reply::bulk(REPLIES.to_string()));
    no_divergence(&pair.wait_for_solo(2));
    pair.down();
}

#[test]
fn without_cuts_replies_come_after_the_computation() {
    let (mut pair, address) = kv(&[]);
    let (mut computing, mut other) = (connect(address), connect(address));
    assert_eq!(other.must("PING"), Reply::Simple("PONG".into()));
    send(&mut computing, &format!("DEBUG COMPUTE {ROUNDS}"));
    // The first ones may overtake the command on its way, or be in time for the epoch that it runs in.
    for expected in 1..=3 {
        increment(&mut other, expected);
    }
    assert!(has_something(&computing), "a computation that nothing interrupts has ended before others are served");
    assert_eq!(receive(&mut computing), debug_computed(ROUNDS));
    still_paired(&mut pair);
    pair.down();
}

#[test]
fn several_computations_share_with_tasks_and_each_other_alike_in_both_replicas() {
    let (mut pair, address) = kv(&EXACT);
    let mut computing: Vec<_> = (0..3).map(|_| connect(address)).collect();
    let mut other = connect(address);
    for client in &mut computing {
        send(client, &format!("DEBUG COMPUTE {}", ROUNDS / 4));
    }
    for expected in 1..=REPLIES {
        increment(&mut other, expected);
        assert_eq!(other.must(&format!("SET key:{expected} value")), Reply::Simple("OK".into()));
    }
    assert!(!computing.iter().all(has_something), "all computations have ended before {REPLIES} replies");
    for client in &mut computing {
        assert_eq!(receive(client), debug_computed(ROUNDS / 4));
    }
    still_paired(&mut pair);
    pair.down();
}

/// Interruptions fall everywhere, into the allocator too, while another connection keeps the other tasks allocating.
#[test]
fn registers_and_memory_of_a_computation_are_its_own() {
    let (mut pair, address) = probe();
    let mut other = connect(address);
    for (what, expected) in [("registers 20000000", "kept true"), ("allocate", "allocated 500000")] {
        let mut computing = connect(address);
        send(&mut computing, &format!("background {what}"));
        let mut meanwhile = 0;
        while !has_something(&computing) {
            send(&mut other, "entropy 100");
            assert_eq!(other.line().expect("the connection stands").len(), 200);
            meanwhile += 1;
        }
        assert_eq!(computing.line().expect("the connection stands"), expected);
        // The first may have come before it began; how many come after that is a matter of speed.
        assert!(meanwhile > 2, "{what}: {meanwhile} replies meanwhile");
        println!("{what}: {meanwhile} replies meanwhile");
    }
    still_paired(&mut pair);
    pair.down();
}

/// Also those that the shim does not touch, of which a newcomer's processor has others.
#[test]
fn a_newcomer_has_every_register_of_a_computation() {
    let (mut pair, address) = probe();
    let mut computing = connect(address);
    send(&mut computing, "background registers 400000000");
    for generation in [2, 4] {
        assert!(!has_something(&computing), "the computation has ended before generation {generation}");
        pair.kill(Role::Primary, "KILL");
        no_divergence(&pair.wait_for_solo(generation));
        if generation == 2 {
            pair.must(&["rejoin"]);
        }
    }
    assert_eq!(computing.line().expect("the connection lives on"), "kept true");
    pair.down();
}

/// Has a computation end its guest, and returns the end that both replicas have reported.
fn end_of_guest(what: &str) -> GuestStopped {
    let (mut pair, address) = probe();
    send(&mut connect(address), &format!("background {what}"));
    let status = pair.wait_until("the end of both", |status| (status.ended.len() == 2).then(|| status.clone()));
    let stopped = status.guest_stopped.clone().unwrap_or_else(|| panic!("{what}: no report: {status:#?}"));
    let mut replicas = stopped.replicas.clone();
    replicas.sort_unstable();
    assert_eq!((replicas.as_slice(), status.count("ANOTHER end")), (&[0, 1][..], 0), "{:#?}", status.events);
    assert_eq!(stopped.kind, "panic", "{}", stopped.report);
    pair.down();
    stopped
}

#[test]
fn a_computation_panics_with_a_backtrace_of_its_own_stack() {
    let report = end_of_guest("panic").report;
    for expected in ["the probe was told to panic (2)", "innermost_culprit", "outer_caller", "compute"] {
        assert!(report.contains(expected), "{expected}: {report}");
    }
}

#[test]
fn what_a_computation_must_not_do_is_refused_with_the_reason() {
    let report = end_of_guest("spawn").report;
    assert!(report.contains("the rest is for tasks"), "{report}");
    let report = end_of_guest("overflow").report;
    assert!(report.contains("a computation has overflowed its stack of 16384 bytes"), "{report}");
}
