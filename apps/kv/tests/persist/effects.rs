//! Effects: replaying them gives the state that the commands gave.

use super::generator::Generator;
use super::harness::{Machine, NOW_MS, difference};
use kv::persist::Fsync;
use recordstore::model::{Crash, Mixer, ModelDevice};

const BLOCKS: u64 = 16 << 10;

/// Random commands of every kind, transactions and expiries among them.
#[test]
fn replay_gives_what_the_commands_gave() {
    for seed in 0..30 {
        println!("seed {seed}");
        let device = ModelDevice::new(BLOCKS);
        let mut generator = Generator::new(seed);
        let mut rng = Mixer(seed);
        let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
        machine.server.borrow_mut().config.rewrite_percentage = if seed % 2 == 0 { 0 } else { 100 };
        for number in 0..1500 {
            let args = generator.next(false);
            machine.ask(&args);
            if rng.below(4) == 0 {
                let key = format!("key:{}", rng.below(7));
                machine.say(&format!("PEXPIRE {key} {}", 1 + rng.below(40)));
            }
            if rng.below(8) == 0 {
                machine.now_ms += rng.below(20) as i64;
                let now_ms = machine.now_ms;
                machine.server.borrow_mut().tick(now_ms, rng.below(4) as usize);
            }
            if rng.below(20) == 0 {
                machine.sync();
            }
            if number % 300 == 299 {
                machine.sync();
                let after = device.after(Crash::LoseAll);
                let mut again = Machine::start(&after, Fsync::Always).expect("a store");
                again.now_ms = machine.now_ms;
                if let Some(difference) = difference(&machine.contents(), &again.contents()) {
                    panic!("seed {seed}, after {number}: {difference}");
                }
            }
        }
    }
}

#[test]
fn times_are_absolute_and_random_choices_are_what_they_were() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    for line in [
        "SET a 1 EX 100",
        "SETEX b 100 x",
        "SET c 1",
        "EXPIRE c 100",
        "RPUSH l 1 2 3",
        "PEXPIRE l 5000",
        "RPOPLPUSH l l",
        "SADD s 1 2 3 4 5 6 7 8 9",
        "SPOP s 4",
        "SPOP s",
        "ZADD z 1.5 a -inf b inf c 0.1 d 1e300 e",
        "ZPOPMIN z",
        "ZREMRANGEBYRANK z -1 -1",
        "HSET h f 1",
        "HINCRBYFLOAT h f 0.1",
        "RPUSH one x",
        "PEXPIRE one 7000",
        "LMOVE one one LEFT RIGHT",
        "MULTI",
        "INCR n",
        "INCR n",
        "SPOP s",
        "EXEC",
    ] {
        assert!(!machine.say(line).starts_with('-'), "{line}");
    }
    machine.sync();
    let again = Machine::start(&device.after(Crash::LoseAll), Fsync::Always).expect("a store");
    assert_eq!(difference(&machine.contents(), &again.contents()), None);
    assert_eq!(again.contents().len(), 9);
    assert_eq!(again.contents().get(&(0, b"one".to_vec())).map(|(_, at_ms)| *at_ms), Some(NOW_MS + 7000));
    // One record a command, one for the transaction.
    assert_eq!(again.loaded.records, 19);
}

/// A transaction is there, or it is not.
#[test]
fn a_transaction_is_whole_or_absent() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    machine.say("MULTI");
    for n in 0..2000 {
        machine.say(&format!("SET key:{n} {}", "v".repeat(100)));
    }
    machine.say("EXEC");
    machine.sync();
    let full = device.after(Crash::LoseAll);
    assert_eq!(Machine::start(&full, Fsync::Always).expect("a store").contents().len(), 2000);
    // Once more, without the last blocks of it.
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    let power_off_after = Some(device.changes() + 3);
    device.set_faults(recordstore::model::Faults { power_off_after, ..Default::default() });
    machine.say("MULTI");
    for n in 0..2000 {
        machine.say(&format!("SET key:{n} {}", "v".repeat(100)));
    }
    machine.say("EXEC");
    machine.sync();
    let torn = Machine::start(&device.after(Crash::KeepAll), Fsync::Always).expect("a store");
    assert_eq!((torn.contents().len(), torn.loaded.torn), (0, false));
}

/// The limits of the moment do not decide what was accepted before.
#[test]
fn a_smaller_limit_takes_nothing_back() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    machine.say(&format!("SET a {}", "x".repeat(100_000)));
    machine.say("APPEND a yyy");
    machine.say("SETRANGE a 120000 z");
    machine.say("COPY a b");
    machine.sync();
    let mut config = kv::Config::for_memory(1 << 20, 1, 2);
    config.max_memory_bytes = 1000;
    let mut server = kv::Server::new(config, NOW_MS);
    let start = kv::persist::Engine::start(device.after(Crash::LoseAll), &mut server, 7);
    recordstore::model::run(start, || ()).expect("a store");
    assert_eq!(difference(&machine.contents(), &super::harness::contents(&server, NOW_MS)), None);
    assert_eq!(server.config.max_memory_bytes, 1000);
}
