//! `--check-determinism`: memory is compared after every epoch, and the first byte that differs has a name.

use pollux_tests::client::Client;
use pollux_tests::guests::ask;
use pollux_tests::load::Load;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::status::{Divergence, Role};
use pollux_tests::workbench::seed;

const CHECK: &str = "--check-determinism";

/// A probe on a processor that has a random generator of its own.
fn probe(arguments: &[&str]) -> (Pair, Client) {
    let cpu = ["--qemu-arg=-cpu", "--qemu-arg=max"];
    let mut pair = Pair::up(&Options::new("probe").with(&cpu).with(arguments));
    let client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    (pair, client)
}

fn still_paired(pair: &mut Pair) {
    let status = pair.status();
    assert_eq!((status.mode.as_str(), status.generation, status.replicas.len()), ("paired", 1, 2), "{status:#?}");
    assert_eq!(status.count("diverge"), 0, "{:#?}", status.events);
    assert!(status.divergence.is_none(), "{status:#?}");
}

/// The first and the last epoch in which the probe may have planted something, by its own word: the same one, unless it
/// was cut right there.
fn planted_between(answer: &str) -> (u64, u64) {
    let epochs = answer.strip_prefix("planted in ").and_then(|epochs| epochs.split_once(" to "));
    let (first, last) = epochs.unwrap_or_else(|| panic!("{answer}"));
    (first.parse().expect("an epoch"), last.parse().expect("an epoch"))
}

/// Asks for something that makes the replicas differ, and returns how that is reported and what the probe said.
fn divergence_after(pair: &mut Pair, client: &mut Client, command: &str) -> (Divergence, String) {
    still_paired(pair);
    let answer = ask(client, command);
    // The answer is an output of the epoch that differs: it was held until that was known and the primary alone.
    let status = pair.status();
    assert_eq!((status.mode.as_str(), status.generation), ("solo", 2), "{command}: {answer}: {status:#?}");
    let divergence = pair.wait_until("the comparison", |status| status.divergence.clone());
    assert_eq!(pair.status().count(&divergence.report), 1, "it is an event, once");
    let stopped = format!("epoch {} differs", divergence.epoch);
    pair.wait_until("the end of the backup", |status| status.event(&stopped).map(|_| ()));
    assert!(pair.console().contains(&divergence.report), "and in the guest's log");
    assert!(pair.must(&["status"]).contains(&divergence.report), "and in the status");
    assert_eq!(ask(client, "hello"), "hello", "the primary goes on");
    (divergence, answer)
}

/// What was planted is found in the epoch in which it was, the memory that holds it is named, and nothing else differs.
fn caught_in_its_epoch(pair: &mut Pair, client: &mut Client, command: &str) -> Divergence {
    let (divergence, answer) = divergence_after(pair, client, command);
    let (first, last) = planted_between(&answer);
    assert!(last - first <= 1, "{answer}");
    assert!((first..=last).contains(&divergence.epoch), "{answer}, noticed in epoch {}", divergence.epoch);
    // Its first bytes may be the same by chance.
    let at = divergence.place.as_deref().and_then(|place| place.strip_prefix("probe::measure::PLANTED+0x"));
    assert!(at.and_then(|at| at.parse().ok()).is_some_and(|at: u64| at < 8), "{}", divergence.report);
    let address = divergence.address.expect("an address");
    assert!(divergence.report.contains(&format!("{address:#x}")), "{}", divergence.report);
    assert!(divergence.report.contains("; 1 of "), "nothing else differs: {}", divergence.report);
    divergence
}

#[test]
fn without_the_check_a_difference_in_memory_alone_goes_unnoticed() {
    let (mut pair, mut client) = probe(&[]);
    planted_between(&ask(&mut client, "plant"));
    for _ in 0..50 {
        assert_eq!(ask(&mut client, "hello"), "hello");
    }
    still_paired(&mut pair);
    assert_eq!(ask(&mut client, "planted").len(), 16);
    pair.wait_for_solo(2);
    let status = pair.wait_until("the backup's word", |status| status.event("diverge").map(|_| status.clone()));
    assert!(status.divergence.is_none(), "{status:#?}");
    pair.down();
}

#[test]
fn a_difference_in_memory_alone_is_caught_in_its_epoch_and_has_a_name() {
    for arguments in [&[CHECK][..], &[CHECK, "--epoch", "exact:20000"]] {
        let (mut pair, mut client) = probe(arguments);
        assert_eq!(ask(&mut client, "hello"), "hello");
        caught_in_its_epoch(&mut pair, &mut client, "plant");
        pair.down();
    }
}

/// Replicas compare what their processors can do, and not what they are called: a program that reads the name, by
/// `cpuid`, is the planted nondeterminism.
#[test]
fn a_program_that_reads_cpuid_is_caught_in_its_epoch() {
    let other = ["--backup-qemu-arg=-cpu", "--backup-qemu-arg=max,model-id=Another processor"];
    for arguments in [&[CHECK][..], &[CHECK, "--epoch", "exact:20000"]] {
        let (mut pair, mut client) = probe(&[arguments, &other].concat());
        assert_eq!(ask(&mut client, "hello"), "hello");
        caught_in_its_epoch(&mut pair, &mut client, "plant-processor");
        pair.down();
    }
}

#[test]
fn an_epoch_that_writes_to_most_of_memory_is_compared_as_well() {
    let (mut pair, mut client) = probe(&[CHECK, "--memory-mib", "64"]);
    let divergence = caught_in_its_epoch(&mut pair, &mut client, "plant 40");
    let (_, counts) = divergence.report.split_once("; 1 of ").expect("nothing else differs");
    let pages: u64 = counts.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number");
    assert!(pages > 40 * 256, "{}", divergence.report);
    pair.down();
}

#[test]
fn a_difference_that_is_sent_is_seen_in_the_ring_first() {
    let (mut pair, mut client) = probe(&[CHECK]);
    let (divergence, _) = divergence_after(&mut pair, &mut client, "rdrand");
    assert_eq!(divergence.place.as_deref(), Some("transmit ring"), "{}", divergence.report);
    pair.down();
}

#[test]
fn a_store_under_load_is_the_same_at_both_and_survives_its_primary() {
    for arguments in [&[CHECK][..], &[CHECK, "--epoch", "exact:20000"]] {
        let mut pair = Pair::up(&Options::new("kv").alone().with(arguments));
        let load = Load::start(pair.address(6379), 6, seed("checked memory"));
        load.wait_for_answers(500);
        still_paired(&mut pair);
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_solo(2);
        load.wait_for_answers(500);
        load.finish();
        assert!(pair.status().divergence.is_none());
        pair.down();
    }
}

#[test]
fn one_machine_has_nothing_to_be_compared_with() {
    for mode in ["--solo", "--bare"] {
        let failure = Pair::refused(&Options::new("probe").with(&[CHECK, mode]));
        assert_eq!(failure.code, 2, "{}", failure.text);
        assert!(failure.text.contains("cannot be used with"), "{}", failure.text);
    }
}
