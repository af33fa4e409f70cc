//! The power goes at every write and flush, while commands run and logs are replaced.

use super::generator::Generator;
use super::harness::{Contents, Machine, ask, contents, difference};
use kv::persist::Fsync;
use recordstore::model::{Crash, Faults, Mixer, ModelDevice};

const BLOCKS: u64 = 2048;

/// The states that a crash may leave: one after each record since the last that was acknowledged.
struct Account {
    states: Vec<Contents>,
}

#[derive(Default, Debug)]
struct Seen {
    crash_points: u64,
    rewrites: u64,
    lost_unacknowledged: u64,
    while_rewriting: u64,
}

/// Runs a workload until the power goes: random commands, some of them while the engine waits for the device. Gives what
/// a crash may leave.
fn run_until(seed: u64, steps: u64, power_off_after: Option<u64>, seen: &mut Seen) -> (ModelDevice, Account) {
    let device = ModelDevice::new(BLOCKS);
    device.set_faults(Faults { power_off_after, give_way: true, ..Faults::default() });
    let mut account = Account { states: vec![Contents::new()] };
    let Ok(mut machine) = Machine::start(&device, Fsync::Always) else { return (device, account) };
    let mut generator = Generator::new(seed);
    let mut rng = Mixer(seed);
    // Enough to make collections large, so that replacing the log takes many slices; as one record.
    machine.say("MULTI");
    for n in 0..400 {
        for line in [format!("RPUSH key:0 {n}"), format!("HSET key:1 {n} {n}"), format!("ZADD key:2 {n} {n}")] {
            machine.say(&line);
        }
    }
    machine.say("EXEC");
    account.states.push(machine.contents());
    for _ in 0..steps {
        for _ in 0..rng.below(4) {
            command(&mut machine, &mut generator, &mut rng, &mut account);
        }
        if rng.below(6) == 0 {
            machine.say("BGREWRITEAOF");
        }
        let ticket = machine.server.borrow().journal.ticket();
        let acknowledgeable = account.states.len() - 1;
        let mut between = Vec::new();
        let now_ms = machine.now_ms;
        machine.step(|session, server| {
            if rng.below(3) > 0 {
                let args = mostly_harmless(&mut generator, &mut rng);
                ask(session, &mut server.borrow_mut(), now_ms, &args);
                between.push(contents(&server.borrow(), now_ms));
            }
        });
        account.states.extend(between);
        seen.while_rewriting += u64::from(machine.server.borrow().journal.is_rewriting());
        match machine.server.borrow().journal.check(ticket) {
            // The replies leave now.
            Ok(true) => drop(account.states.drain(..acknowledgeable)),
            Ok(false) => panic!("seed {seed}: a step that was to make all stable did not"),
            Err(_) => break,
        };
        if machine.server.borrow().journal.failure().is_some() {
            break;
        }
    }
    seen.rewrites += machine.server.borrow().journal.status.rewrites;
    (device, account)
}

/// A random command; seldom one that ends all that a new log has to write.
fn mostly_harmless(generator: &mut Generator, rng: &mut Mixer) -> Vec<Vec<u8>> {
    loop {
        let args = generator.next(false);
        let ends = ["FLUSHDB", "SWAPDB", "DEL", "UNLINK", "RENAME", "GETDEL", "SET", "MSET"];
        let ending = ends.iter().any(|name| args[0].eq_ignore_ascii_case(name.as_bytes()));
        if !ending || rng.below(10) == 0 {
            return args;
        }
    }
}

fn command(machine: &mut Machine, generator: &mut Generator, rng: &mut Mixer, account: &mut Account) {
    let args = match rng.below(6) {
        // What happens to the large list while it is being written.
        0 => {
            let line = ["LPUSH key:0 a b", "RPUSH key:0 c", "LPOP key:0 3", "RPOP key:0 2", "LSET key:0 5 x"];
            line[rng.below(5) as usize].split(' ').map(Vec::from).collect()
        }
        _ => mostly_harmless(generator, rng),
    };
    machine.ask(&args);
    account.states.push(machine.contents());
}

#[test]
fn what_was_acknowledged_is_there_wherever_the_power_goes() {
    let mut seen = Seen::default();
    for seed in 0..6 {
        let (device, _) = run_until(seed, 60, None, &mut seen);
        let changes = device.changes();
        for point in 0..=changes {
            let (device, account) = run_until(seed, 60, Some(point), &mut seen);
            let salt = seed << 20 | point;
            for crash in [Crash::LoseAll, Crash::KeepAll, Crash::Blocks(salt)] {
                let again = Machine::start(&device.after(crash), Fsync::Always);
                let again =
                    again.unwrap_or_else(|error| panic!("seed {seed}, power off after {point}, {crash:?}: {error}"));
                let found = again.contents();
                seen.crash_points += 1;
                seen.lost_unacknowledged += u64::from(account.states.last() != Some(&found));
                if !account.states.contains(&found) {
                    let first = account.states.first().and_then(|state| difference(state, &found));
                    panic!(
                        "seed {seed}, power off after {point}, {crash:?}: not a state since the last \
                         acknowledgement; against that one: {first:?}"
                    );
                }
            }
        }
    }
    println!("{seen:?}");
    assert!(seen.crash_points > 1000 && seen.rewrites > 300, "{seen:?}");
    assert!(seen.lost_unacknowledged > 100 && seen.while_rewriting > 150, "{seen:?}");
}
