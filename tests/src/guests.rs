//! What the guests of end-to-end tests are asked line by line, and what they must answer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::client::{Client, Reply};
use crate::pair::{DEADLINE, Options, Pair};
use crate::sim::Rng;
use crate::status::{GuestStopped, Role, Status};
use crate::workbench::wait_for_end;

/// Sends a command.
///
/// # Panics
/// When the connection has broken.
pub fn send(client: &mut Client, command: &str) {
    client.send(format!("{command}\n").as_bytes()).expect("the connection stands");
}

/// Sends a command and waits for the line that answers it.
///
/// # Panics
/// When none comes.
pub fn ask(client: &mut Client, command: &str) -> String {
    send(client, command);
    client.line().unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// What the probe's `compute` gives.
pub fn computed(rounds: u64) -> String {
    let next = |state: u64, round| state.rotate_left(7).wrapping_mul(0x2545_f491_4f6c_dd1d) ^ round;
    format!("computed {:x}", (0..rounds).fold(0x9e37_79b9_7f4a_7c15_u64, next))
}

/// What the store's `DEBUG COMPUTE` gives.
pub fn debug_computed(rounds: u64) -> Reply {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..rounds {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    Reply::Integer(state as i64)
}

/// The newest epoch that a replica has told.
pub fn epoch_of(status: &Status, role: Role) -> u64 {
    status.replicas.iter().find(|replica| replica.role == role).map_or(0, |replica| replica.epoch)
}

/// How many epochs a replica has run to their full length, as it has told last.
pub fn full_epochs_of(status: &Status, role: Role) -> u64 {
    status.replica(role).map_or(0, |replica| replica.counters["epochs_cut"])
}

/// Neither replica has gone, and they have not come apart.
///
/// # Panics
/// When that is not so.
pub fn still_paired(pair: &mut Pair) {
    let status = pair.status();
    assert_eq!((status.mode.as_str(), status.generation), ("paired", 1), "{:#?}", status.events);
    assert_eq!(status.replicas.len(), 2, "{:#?}", status.events);
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
}

/// Keeps a probe hearing something at moments that no two runs share.
///
/// # Panics
/// When a connection breaks or an answer is wrong.
pub fn say_hello(address: SocketAddr, rng: &mut Rng, over: &AtomicBool) {
    let mut client = Client::connect(address).expect("a published port takes connections");
    while !over.load(Ordering::Relaxed) {
        let questions = rng.between(1, 20);
        for _ in 0..questions {
            client.send(b"hello\n").expect("the connection stands");
        }
        // Some connections are left with their answers on the way.
        if rng.between(0, 3) == 0 {
            client = Client::connect(address).expect("a published port takes connections");
        } else {
            for _ in 0..questions {
                assert_eq!(client.line().expect("an answer"), "hello");
            }
        }
    }
}

/// Lets a probe compute until both replicas have run so many epochs to their full length, and those alike, while `disturb` keeps it hearing something on
/// other connections and text is typed at its console. What epochs end at is in their digests.
///
/// # Panics
/// When it computes wrongly, or the pair is none any more.
pub fn epochs_alike(pair: &mut Pair, seed: u64, epochs: u64, disturb: fn(SocketAddr, &mut Rng, &AtomicBool)) {
    let address = pair.address(7000);
    let mut client = Client::connect(address).expect("a published port takes connections");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for lane in 0..3 {
            let over = &over;
            scope.spawn(move || disturb(address, &mut Rng::new(seed + lane), over));
        }
        let mut rng = Rng::new(seed);
        let full = |status: &Status| {
            [Role::Primary, Role::Backup].map(|role| full_epochs_of(status, role)).into_iter().min().unwrap_or_default()
        };
        while full(&pair.status()) < epochs {
            let rounds = rng.between(1, 400_000);
            assert_eq!(ask(&mut client, &format!("compute {rounds}")), computed(rounds));
            pair.fault(&["console-input", "typed"]);
        }
        over.store(true, Ordering::Relaxed);
    });
    still_paired(pair);
}

/// Lets a probe whose backup ends each epoch one instruction or tick late compute for longer than an epoch lasts. That
/// must be found out in the first full epoch, and before anybody outside has heard of it.
///
/// # Panics
/// When it is found out too early, too late or not at all.
pub fn found_out_in_the_first_full_epoch(options: &Options, rounds: u64) {
    let mut pair = Pair::up(&options.clone().with(&["--backup-epoch-skew", "1"]));
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut client, "hello"), "hello");
    // No epoch was full so far, so there was nothing to be found.
    still_paired(&mut pair);
    let answer = ask(&mut client, &format!("epochs {rounds}"));
    let epochs = answer.strip_prefix("in ").and_then(|epochs| epochs.split_once(" to "));
    let (first, last) = epochs.unwrap_or_else(|| panic!("{answer}"));
    assert_ne!(first, last, "the computation is to be cut");
    let status = pair.wait_for_survivor(2);
    assert_eq!(status.replicas[0].replica, 0, "the primary goes on");
    assert!(status.event(&format!("epoch {first} differs")).is_some(), "{answer}: {:#?}", status.events);
    assert_eq!(ask(&mut client, "hello"), "hello");
    pair.down();
}

/// Starts a pair whose backup's instructions take another time than the counter reckons with; it must leave.
///
/// # Panics
/// When it does not, or for another reason.
pub fn refused_where_the_machine_counts_otherwise(options: &Options) {
    let other = ["--backup-qemu-arg=-icount", "--backup-qemu-arg=shift=4,sleep=on"];
    let mut pair = Pair::up(&options.clone().with(&other));
    let status = pair.wait_until("the end of the backup", |status| (status.ended.len() == 1).then(|| status.clone()));
    assert!(status.ended[0].reason.contains("exact epochs cannot be had"), "{}", status.ended[0].reason);
    pair.down();
}

/// Kills the primary of a Dhrystone that never gives way, when its backup is `epochs` further than at the beginning of so many
/// `runs`. The answer must come all the same.
///
/// # Panics
/// When it does not.
pub fn survives_its_primary_while_computing(options: &Options, runs: u64, epochs: u64) {
    let mut pair = Pair::up(&options.clone().with(&["--epoch", "exact:50000", "--args", "serve"]));
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    let before = epoch_of(&pair.status(), Role::Backup);
    client.send(format!("run {runs}\n").as_bytes()).expect("the connection stands");
    let moment = before + epochs;
    pair.wait_until("the chosen epoch", |status| (epoch_of(status, Role::Backup) >= moment).then_some(()));
    assert!(!client.has_something().expect("the connection stands"), "the answer came before the kill");
    pair.kill(Role::Primary, "KILL");
    assert_eq!(client.line().expect("the connection lives on"), format!("dhrystone: runs={runs} ok"));
    pair.wait_for_solo(2);
    pair.down();
}

/// Starts a probe for every shape of a loop that never ends. It has to be cut for anything to happen at all: for epochs to go on at
/// both replicas, and for another connection to be answered.
///
/// # Panics
/// When one is not cut, or ends.
pub fn every_shape_of_loop_is_cut(options: &Options) {
    for kind in ["empty", "while", "recursion", "slice", "core", "table"] {
        let mut pair = Pair::up(options);
        let address = pair.address(7000);
        let mut clients = [(); 2].map(|()| Client::connect(address).expect("a published port takes connections"));
        let [looping, other] = &mut clients;
        send(looping, &format!("background loop {kind}"));
        for _ in 0..20 {
            assert_eq!(ask(other, "hello"), "hello", "{kind}");
            wait_for_epochs(&mut pair, 100);
        }
        assert!(!looping.has_something().expect("the connection stands"), "{kind}: the loop has ended");
        still_paired(&mut pair);
        pair.down();
    }
}

/// Waits until the backup has compared so many epochs more.
///
/// # Panics
/// When it does not.
pub fn wait_for_epochs(pair: &mut Pair, more: u64) {
    let moment = epoch_of(&pair.status(), Role::Backup) + more;
    pair.wait_until("later epochs", |status| (epoch_of(status, Role::Backup) >= moment).then_some(()));
}

/// Waits until a program, and with it every machine, has ended, and returns how: the same at all that were left.
///
/// # Panics
/// When replicas have come apart, or have ended differently.
pub fn end_of_program(pair: &mut Pair) -> GuestStopped {
    let (stopped, status) = pair.wait_until("the end of the program and its machines", |status| {
        let stopped = status.guest_stopped.clone().filter(|_| status.replicas.is_empty());
        stopped.map(|stopped| (stopped, status.clone()))
    });
    assert_eq!((status.count("ANOTHER end"), status.count("diverge")), (0, 0), "{:#?}", status.events);
    stopped
}

/// Starts a probe, gives it a command that ends it, and returns the end that both replicas have reported.
///
/// # Panics
/// When they do not report the same end, or the command is answered.
pub fn end_of(options: &Options, command: &str) -> GuestStopped {
    let mut pair = Pair::up(options);
    let mut client = Client::connect(pair.address(7000)).expect("a published port takes connections");
    assert_eq!(ask(&mut client, "hello"), "hello");
    let pids: Vec<_> = pair.status().replicas.iter().map(|replica| replica.pid).collect();
    send(&mut client, command);
    let status = pair.wait_until(&format!("the end of both after {command:?}"), |status| {
        (status.ended.len() == 2).then(|| status.clone())
    });
    for pid in pids {
        assert!(wait_for_end(pid, DEADLINE), "both stop");
    }
    let stopped = status.guest_stopped.clone().unwrap_or_else(|| panic!("{command:?}: no report: {status:#?}"));
    let mut replicas = stopped.replicas.clone();
    replicas.sort_unstable();
    assert_eq!(replicas, [0, 1], "both report the same end of {command:?}: {:#?}", status.events);
    assert_eq!(status.count("ANOTHER end"), 0, "{:#?}", status.events);
    assert!(!status.serving, "{command:?}");
    for ended in &status.ended {
        assert!(ended.reason.contains("guest"), "{command:?}: {}", ended.reason);
    }
    // What the guest said last comes through, and then the reset that says that nobody is there any more.
    match client.line() {
        Ok(line) => panic!("{command:?} was let through: {line}"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{command:?}: {error}"),
    }
    assert!(pair.console().contains(&stopped.report.lines().next().unwrap_or_default().to_owned()));
    pair.down();
    stopped
}
