//! User-level checkpoints: five algorithms in guests, while replicas die, and both at once.
//!
//! Run with `cargo test -p pollux-tests --test e2e_user_checkpoint`.

use std::collections::BTreeMap;
use std::net::TcpListener;

use pollux_tests::client::Client;
use pollux_tests::disks::Files;
use pollux_tests::guests::ask;
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{Permit, moments, seed};

const PORT: u16 = 7000;
/// No replica is to be taken for dead because the machine has other things to do. One that is killed is seen at once.
const PATIENT: [&str; 2] = ["--failure-timeout-ms", "10000"];
/// What two images begin with, each.
const TOKENS: u64 = 1000;

fn guest(arguments: &str) -> Options {
    Options::new("checkpoints").with(&PATIENT).with(&["--args", arguments])
}

/// With a disk; a mirror that has missed something is made anew.
fn with_disk(files: &Files, arguments: &str) -> Options {
    let disk = format!("data={},size=16M,resync", files.stem().display());
    guest(arguments).with(&["--disk", &disk])
}

fn client(pair: &mut Pair) -> Client {
    Client::connect(pair.address(PORT)).expect("a published port takes connections")
}

/// The numbers of an answer like `tokens 5 sent 3`, by their names.
fn numbers(answer: &str) -> BTreeMap<String, u64> {
    let words: Vec<_> = answer.split_ascii_whitespace().collect();
    let pairs = words.chunks_exact(2).filter_map(|pair| Some((pair[0].to_owned(), pair[1].parse().ok()?)));
    pairs.collect()
}

fn state(client: &mut Client) -> BTreeMap<String, u64> {
    numbers(&ask(client, "state"))
}

/// Asks until an answer satisfies `holds`; each answer is an event of the guest's, which goes on between them.
fn ask_until(client: &mut Client, what: &str, mut holds: impl FnMut(&BTreeMap<String, u64>) -> bool) {
    let deadline = std::time::Instant::now() + DEADLINE;
    loop {
        let state = state(client);
        if holds(&state) {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{what} has not happened: {state:?}");
    }
}

fn no_divergence(pair: &mut Pair) {
    let status = pair.status();
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
}

#[test]
fn periodic_checkpoints_lose_at_most_what_came_after_the_last() {
    let files = Files::new("periodic");
    let options = with_disk(&files, "mode=periodic mean_failure_s=2");
    let mut saved = 0;
    for life in 0..3 {
        let mut pair = Pair::up(&options);
        let mut client = client(&mut pair);
        let found = state(&mut client)["counted"];
        assert!(found >= saved, "life {life}: {found} counted, and {saved} were saved");
        ask_until(&mut client, "three checkpoints", |state| {
            saved = state["saved"];
            state["checkpoints"] >= 3
        });
        let state = state(&mut client);
        println!("life {life}: {state:?}");
        // Both in integers from the same cost.
        let (cost_us, mean_us) = (state["cost_us"] as f64, 2e6);
        let young_us = (2.0 * cost_us * mean_us).sqrt();
        assert!((state["young_us"] as f64 / young_us - 1.0).abs() < 0.01, "{young_us}");
        assert!(state["daly_us"] < state["young_us"]);
        pair.kill_machines();
    }
}

#[test]
fn a_chain_on_a_disk_is_bounded_and_survives_the_death_of_both() {
    let files = Files::new("chain");
    let options = with_disk(&files, "mode=chain target=disk links=4");
    let mut rng = Rng::new(seed("chain on a disk"));
    let mut expected = None;
    for _ in 0..3 {
        let mut pair = Pair::up(&options);
        let mut client = client(&mut pair);
        if let Some(expected) = &expected {
            assert_eq!(ask(&mut client, "sum"), *expected, "the start has restored what was last taken");
        }
        let mut kinds = Vec::new();
        for _ in 0..7 {
            assert_eq!(ask(&mut client, &format!("touch {} 5", rng.next_u64())), "done");
            let answer = ask(&mut client, "take");
            let (kind, rest) = answer.split_once(' ').expect("a kind and numbers");
            let numbers = numbers(rest);
            assert!(numbers["links"] <= 4, "{answer}");
            if kind == "incremental" {
                assert!(numbers["bytes"] < 11 * 4300, "{answer}");
            }
            kinds.push(kind.to_owned());
        }
        println!("{kinds:?}");
        assert!(kinds.iter().any(|kind| kind == "full") && kinds.iter().any(|kind| kind == "incremental"));
        expected = Some(ask(&mut client, "sum"));
        ask(&mut client, "touch 1 100");
        pair.kill_machines();
    }
}

#[test]
fn a_checkpoint_in_memory_is_at_the_backup() {
    let mut rng = Rng::new(seed("at the backup"));
    let mut pair = Pair::up(&guest("mode=chain target=memory").with(&["--check-determinism"]));
    let mut client = client(&mut pair);
    for _ in 0..3 {
        ask(&mut client, &format!("touch {} 20", rng.next_u64()));
        ask(&mut client, "take");
    }
    let then = ask(&mut client, "sum");
    // In the background, and with a copy of what is written to meanwhile.
    let answer = ask(&mut client, &format!("fork {} 20", rng.next_u64()));
    println!("{answer}");
    assert!(numbers(answer.strip_prefix("forked ").expect("it was taken"))["kept"] > 0, "{answer}");
    assert_ne!(ask(&mut client, "sum"), then);
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_survivor(2);
    assert_eq!(ask(&mut client, "restore"), "done");
    assert_eq!(ask(&mut client, "sum"), then, "the backup has what the primary has taken");
    // And a chain goes on from there.
    ask(&mut client, "touch 5 1");
    assert!(ask(&mut client, "take").starts_with("incremental"));
    no_divergence(&mut pair);
    pair.down();
}

/// Transactions that panic half done, between others, on the same connections as ever.
fn transactions(app: &str, arguments: &[&str]) {
    let mut rng = Rng::new(seed("transactions"));
    let options = Options { app: app.to_owned(), ..guest("mode=transaction") };
    let mut pair = Pair::up(&options.with(arguments));
    let mut client = client(&mut pair);
    let sum = ask(&mut client, "sum");
    let (mut done, mut undone) = (0, 0);
    for round in 0..40 {
        let (from, to, amount) = (rng.below(1000), rng.below(1200), rng.below(130));
        let before = ask(&mut client, &format!("balance {from}"));
        let answer = ask(&mut client, &format!("transfer {from} {to} {amount} {}", rng.below(20_000)));
        match answer.as_str() {
            "done" => done += 1,
            answer => {
                let overdrawn = format!("undone: account {from} is overdrawn");
                assert!(answer == overdrawn || to >= 1000 && answer.contains("index out of bounds"), "{answer}");
                assert_eq!(ask(&mut client, &format!("balance {from}")), before, "half a transfer stayed");
                undone += 1;
            }
        }
        if round == 25 {
            pair.kill(Role::Primary, "KILL");
        }
    }
    println!("{done} done, {undone} undone");
    assert!(done > 3 && undone > 3);
    assert_eq!(ask(&mut client, "sum"), sum);
    assert_eq!(ask(&mut client, "lost"), (undone * 48 * 1024).to_string());
    pair.wait_for_survivor(2);
    no_divergence(&mut pair);
    let shown = pair.must(&["logs"]);
    let (_, calls) = shown.split_once("a contained computation has ended: ").expect("it is said");
    assert!(calls.lines().any(|line| line.ends_with("::transfer")) && !calls.contains("<code at 0x"), "{shown}");
    pair.down();
}

#[test]
fn a_transaction_that_panics_undoes_itself() {
    transactions("checkpoints", &["--check-determinism"]);
}

#[test]
fn a_transaction_that_panics_undoes_itself_where_epochs_are_cut() {
    transactions("checkpoints", &["--epoch", "exact:20000"]);
}

#[test]
fn a_transaction_that_panics_undoes_itself_where_ticks_are_counted() {
    transactions("checkpoints.counted", &["--epoch", "counted:1000"]);
}

/// Two pairs whose guests send each other tokens.
struct Two {
    files: [Files; 2],
    mode: &'static str,
    /// Where the second reaches the first.
    port: u16,
    pairs: [Option<Pair>; 2],
}

impl Two {
    fn up(test: &str, mode: &'static str) -> Self {
        // A port that is free now; nobody else is given it as long as the system has others.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
        let files = [0, 1].map(|side| Files::new(&format!("{test}-{side}")));
        let mut two = Self { files, mode, port, pairs: [None, None] };
        (0..2).for_each(|side| two.start(side));
        two
    }

    fn start(&mut self, side: usize) {
        let mode = self.mode;
        let options = match side {
            0 => with_disk(&self.files[0], &format!("mode={mode} tokens={TOKENS} every=300"))
                .with(&["--publish", &format!("{}:7001", self.port)]),
            _ => with_disk(&self.files[1], &format!("mode={mode} tokens={TOKENS} every=170 peer={}", self.port))
                .with(&["--allow-host"]),
        };
        self.pairs[side] = Some(Pair::up(&options.under_permit()));
    }

    fn pair(&mut self, side: usize) -> &mut Pair {
        self.pairs[side].as_mut().expect("it is up")
    }

    fn client(&mut self, side: usize) -> Client {
        client(self.pair(side))
    }

    /// Both virtual machines of one side die, and a new pair goes on from the disk.
    fn kill_both(&mut self, side: usize) {
        self.pair(side).kill_machines();
        self.pairs[side] = None;
        self.start(side);
    }

    /// Waits until both have counted so much more of something.
    fn wait_for_more(&mut self, what: &str, more: u64) {
        for side in 0..2 {
            let mut client = self.client(side);
            let mut first = None;
            ask_until(&mut client, what, |state| {
                let now = state[what];
                // A count that begins anew begins here anew.
                let from = first.filter(|&from| from <= now).unwrap_or(now);
                first = Some(from);
                now >= from + more
            });
        }
    }

    fn down(mut self) {
        for side in 0..2 {
            no_divergence(self.pair(side));
            self.pairs[side].take().expect("it is up").down();
        }
    }
}

/// Kills of a primary, or of both of a side; the first two rounds have one of each.
fn faults(two: &mut Two, rounds: u64, rng: &mut Rng, mut check: impl FnMut(&mut Two)) {
    for round in 0..rounds {
        let side = rng.below(2) as usize;
        match round {
            0 => kill_primary(two, side),
            1 => two.kill_both(side),
            _ if rng.below(3) == 0 => kill_primary(two, side),
            _ => two.kill_both(side),
        }
        println!("round {round}: side {side}");
        check(two);
    }
}

/// A side without a backup gets both anew: the death of its only one is the death of all.
fn kill_primary(two: &mut Two, side: usize) {
    if two.pair(side).status().mode == "solo" {
        return two.kill_both(side);
    }
    two.pair(side).kill(Role::Primary, "KILL");
    two.pair(side).wait_for_survivor(2);
}

/// Nothing is on its way any more: the tokens of both.
fn tokens_in_the_end(two: &mut Two, settled: impl Fn(&[BTreeMap<String, u64>; 2]) -> bool) -> u64 {
    let mut clients = [two.client(0), two.client(1)];
    clients.iter_mut().for_each(|client| assert_eq!(ask(client, "pause"), "done"));
    let deadline = std::time::Instant::now() + DEADLINE;
    let mut last = None;
    loop {
        let states = clients.each_mut().map(state);
        // Twice the same: nothing moved between the two questions either.
        if settled(&states) && last.as_ref() == Some(&states) {
            return states.iter().map(|state| state["tokens"]).sum();
        }
        assert!(std::time::Instant::now() < deadline, "messages are still on their way: {states:?}");
        last = Some(states);
    }
}

/// A cut that both have kept: it has all the tokens.
fn check_cut(two: &mut Two) {
    let mut clients = [two.client(0), two.client(1)];
    let deadline = std::time::Instant::now() + DEADLINE;
    let mut compared = 0;
    while compared < 3 {
        let newest = state(&mut clients[0])["newest"];
        let cuts = clients.each_mut().map(|client| numbers(&ask(client, &format!("cut {newest}"))));
        if cuts.iter().all(|cut| !cut.is_empty()) {
            let sum: u64 = cuts.iter().flat_map(BTreeMap::values).sum();
            assert_eq!(sum, 2 * TOKENS, "cut {newest}: {cuts:?}");
            compared += 1;
        }
        assert!(std::time::Instant::now() < deadline, "no cut that both have");
    }
}

#[test]
fn coordinated_cuts_of_two_images_conserve_tokens_whoever_dies() {
    let mut rng = Rng::new(seed("coordinated cuts"));
    let _permit = Permit::take(u32::MAX);
    let mut two = Two::up("cut", "cut");
    two.wait_for_more("newest", 3);
    faults(&mut two, moments(6), &mut rng, |two| {
        two.wait_for_more("received", 20);
        two.wait_for_more("newest", 2);
        check_cut(two);
    });
    let sum = tokens_in_the_end(&mut two, |[one, other]| {
        one["sent"] == other["received"] && other["sent"] == one["received"] && one["sent"] > 0
    });
    assert_eq!(sum, 2 * TOKENS);
    two.down();
}

#[test]
fn message_logging_of_two_images_conserves_tokens_and_only_who_dies_goes_back() {
    let mut rng = Rng::new(seed("message logging"));
    let _permit = Permit::take(u32::MAX);
    let mut two = Two::up("log", "log");
    two.wait_for_more("events", 400);
    let mut replayed = 0;
    let mut events = [0; 2];
    faults(&mut two, moments(6), &mut rng, |two| {
        two.wait_for_more("events", 100);
        for (side, events) in events.iter_mut().enumerate() {
            let state = state(&mut two.client(side));
            println!("side {side}: {state:?}");
            // What was logged is never taken back, by whoever died: neither side has fewer events than before.
            assert!(state["events"] > *events, "side {side} went back from {events} events");
            *events = state["events"];
            replayed += state["replayed"];
        }
    });
    assert!(replayed > 0, "no log was ever replayed");
    let sum = tokens_in_the_end(&mut two, |states| states.iter().all(|state| state["kept"] == 0));
    assert_eq!(sum, 2 * TOKENS);
    two.down();
}
