//! Replacing the log in slices while commands run.

use super::generator::Generator;
use super::harness::{Machine, ask, difference};
use kv::persist::Fsync;
use proptest::prelude::*;
use recordstore::model::{Crash, Faults, Mixer, ModelDevice};

const BLOCKS: u64 = 64 << 10;

fn grow(machine: &mut Machine, count: u64) {
    for n in 0..count {
        for line in [
            format!("RPUSH key:0 {n}"),
            format!("HSET key:1 {n} {n}"),
            format!("ZADD key:2 {} {n}", n as f64 / 7.0),
            format!("SADD key:3 {n}"),
            format!("SET small:{n} {n}"),
            format!("RPUSH key:4 {n}"),
        ] {
            machine.say(&line);
        }
    }
}

/// Commands that meet large collections in every way.
fn aimed(rng: &mut Mixer) -> String {
    let key = ["key:0", "key:0", "key:0", "key:1", "key:2", "key:3", "key:4"][rng.below(7) as usize];
    let n = rng.below(2000);
    let line = match rng.below(34) {
        0 => "LPUSH K a b c",
        1 => "RPUSH K d e",
        2 => "LPOP K",
        3 => "RPOP K",
        4 => "LPOP K 50",
        5 => "RPOP K 50",
        6 => "RPOPLPUSH key:0 key:4",
        7 => "LMOVE key:4 key:0 LEFT LEFT",
        8 => "RPOPLPUSH key:0 key:0",
        9 => "LMOVE key:0 key:0 LEFT LEFT",
        10 => "LSET K N z",
        11 => "LINSERT key:0 BEFORE N new",
        12 => "LREM key:0 1 N",
        13 => "LTRIM key:0 0 1500",
        14 => "PEXPIRE K 100000",
        15 => "PERSIST K",
        16 => "HSET key:1 N changed",
        17 => "HDEL key:1 N",
        18 => "HINCRBY key:1 N 5",
        19 => "ZADD key:2 5 N",
        20 => "ZINCRBY key:2 2.5 N",
        21 => "ZPOPMIN key:2 3",
        22 => "ZREMRANGEBYRANK key:2 10 20",
        23 => "SPOP key:3 5",
        24 => "SMOVE key:3 key:5 N",
        25 => "SADD key:3 new:N",
        26 => "ZADD key:2 XX CH 7 N",
        27 => "HSETNX key:1 N 1",
        28 => "DEL small:N",
        29 => "APPEND small:N x",
        30 => "INCRBY small:N 3",
        31 => "RENAME small:N small:7",
        32 => "COPY small:N small:8 REPLACE",
        _ => "LPUSHX K f",
    };
    line.replace('K', key).replace('N', &n.to_string())
}

/// Commands that end or move large collections; rarer, or there would be none.
fn violent(rng: &mut Mixer) -> &'static str {
    let lines = [
        "RENAME key:0 key:6",
        "RENAME key:6 key:0",
        "DEL key:0",
        "SWAPDB 0 1",
        "SWAPDB 0 1",
        "MOVE key:1 1",
        "SET key:4 now-a-string",
        "SUNIONSTORE key:3 key:3 key:5",
        "FLUSHDB",
        "COPY key:0 key:4 REPLACE",
        "GETDEL small:5",
    ];
    lines[rng.below(lines.len() as u64) as usize]
}

/// Runs a rewrite with commands between its slices and while it waits for the device; gives the machine when it is done.
fn rewrite_under_fire(seed: u64, size: u64, violence: u64) -> (ModelDevice, Machine) {
    let device = ModelDevice::new(BLOCKS);
    device.set_faults(Faults { give_way: true, ..Faults::default() });
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    machine.server.borrow_mut().config.rewrite_percentage = 0;
    grow(&mut machine, size);
    machine.say("PEXPIRE key:0 500000");
    let mut rng = Mixer(seed);
    let mut generator = Generator::new(seed);
    let mut next = |rng: &mut Mixer| -> Vec<Vec<u8>> {
        match rng.below(100) {
            n if n < violence => violent(rng).split(' ').map(Vec::from).collect(),
            n if n < 90 => aimed(rng).split(' ').map(Vec::from).collect(),
            _ => generator.next(true),
        }
    };
    assert!(machine.say("BGREWRITEAOF").starts_with('+'));
    for _ in 0..3000 {
        for _ in 0..rng.below(5) {
            let args = next(&mut rng);
            machine.ask(&args);
        }
        if rng.below(10) == 0 {
            machine.now_ms += 1;
        }
        let now_ms = machine.now_ms;
        machine.step(|session, server| {
            let args = next(&mut rng);
            ask(session, &mut server.borrow_mut(), now_ms, &args);
        });
        let server = machine.server.borrow();
        if server.journal.status.rewrites > 0 {
            break;
        }
    }
    machine.sync();
    (device, machine)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// The claim of `persist`: when the new log is complete it says what the store holds.
    #[test]
    fn a_new_log_says_what_the_store_holds(seed: u64, size in 300u64..2500, violence in 0u64..3) {
        let (device, machine) = rewrite_under_fire(seed, size, violence);
        let again = Machine::start(&device.after(Crash::LoseAll), Fsync::Always).expect("a store");
        prop_assert_eq!(difference(&machine.contents(), &again.contents()), None);
        prop_assert!(violence > 0 || machine.server.borrow().journal.status.rewrites == 1);
    }
}

/// A slice is bounded whatever the keyspace holds, and so is what it adds to memory.
#[test]
fn a_slice_is_small_whatever_there_is() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    machine.server.borrow_mut().config.rewrite_percentage = 0;
    grow(&mut machine, 20_000);
    machine.sync();
    machine.say("BGREWRITEAOF");
    let (mut steps, mut most) = (0, 0);
    while machine.server.borrow().journal.status.rewrites == 0 {
        let before = machine.engine.store().usage().next_bytes;
        machine.sync();
        let after = machine.engine.store().usage().next_bytes;
        most = most.max(after.saturating_sub(before));
        steps += 1;
    }
    assert!(steps > 50, "{steps}");
    // 16 KiB, one effect beyond, and the padding of a block.
    assert!(most <= (16 + 10) << 10, "{most}");
}
