//! Devices that fail and fill up.

use super::harness::{Machine, difference};
use kv::persist::{EngineError, Failure, Fsync};
use recordstore::model::{Crash, Faults, ModelDevice};

const BLOCKS: u64 = 2048;

#[test]
fn a_failed_device_refuses_writes_serves_reads_and_heals() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    machine.say("SET before 1");
    machine.sync();
    device.set_faults(Faults { fail_all: true, ..Faults::default() });
    assert_eq!(machine.say("SET lost 1"), "+OK\r\n");
    let ticket = machine.server.borrow().journal.ticket();
    machine.sync();
    // Whoever waited for it must not hear that it is done.
    assert_eq!(machine.server.borrow().journal.check(ticket), Err(Failure::Device));
    let refused = "-MISCONF Errors writing to the AOF file: Input/output error\r\n";
    for line in ["SET a 1", "DEL before", "FLUSHALL", "LPUSH l 1"] {
        assert_eq!(machine.say(line), refused, "{line}");
    }
    assert_eq!(machine.say("MULTI"), "+OK\r\n");
    assert_eq!(machine.say("SET a 1"), refused);
    assert!(machine.say("EXEC").starts_with("-EXECABORT"));
    assert_eq!(machine.say("GET before"), "$1\r\n1\r\n");
    // Reads need not wait for what can never be.
    let ticket = machine.server.borrow().journal.ticket();
    assert_eq!(machine.server.borrow().journal.check(ticket), Ok(true));
    assert!(machine.say("INFO persistence").contains("aof_last_write_status:err"));
    machine.sync();
    assert!(machine.server.borrow().journal.failure().is_some());
    // The device is well again: a new log is written, from memory.
    device.set_faults(Faults::default());
    for _ in 0..5 {
        machine.now_ms += 2000;
        machine.sync();
    }
    assert_eq!(machine.say("SET after 1"), "+OK\r\n");
    machine.sync();
    assert!(machine.say("INFO persistence").contains("aof_last_write_status:ok"));
    let again = Machine::start(&device.after(Crash::LoseAll), Fsync::Always).expect("a store");
    assert_eq!(difference(&machine.contents(), &again.contents()), None);
    assert_eq!(again.contents().len(), 3);
}

/// A transaction that was queued before the device failed is refused too.
#[test]
fn a_queued_transaction_is_refused() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    machine.say("MULTI");
    assert_eq!(machine.say("SET a 1"), "+QUEUED\r\n");
    device.set_faults(Faults { fail_all: true, ..Faults::default() });
    let mut other = kv::Session::open(&mut machine.server.borrow_mut(), 0, "x").expect("room");
    let set: Vec<Vec<u8>> = ["SET", "b", "1"].map(Vec::from).into();
    super::harness::ask(&mut other, &mut machine.server.borrow_mut(), machine.now_ms, &set);
    machine.sync();
    assert!(machine.say("EXEC").starts_with("-EXECABORT Transaction discarded because of: MISCONF"));
    assert_eq!(machine.say("GET a"), "$-1\r\n");
}

/// An operation that fails at any point is survived: everything acknowledged is there, and the store heals.
#[test]
fn a_single_error_anywhere_is_healed() {
    let workload = |fail_at| {
        let device = ModelDevice::new(BLOCKS);
        device.set_faults(Faults { fail_at, ..Faults::default() });
        let machine = Machine::start(&device, Fsync::Always);
        let Ok(mut machine) = machine else { return (device, None, false) };
        let (mut acknowledged, mut failed) = (Vec::new(), false);
        for n in 0..60 {
            let wrote = machine.say(&format!("SET key:{n} {}", "v".repeat(300))) == "+OK\r\n";
            if n % 20 == 10 {
                machine.say("BGREWRITEAOF");
            }
            let ticket = machine.server.borrow().journal.ticket();
            machine.sync();
            if wrote && machine.server.borrow().journal.check(ticket) == Ok(true) {
                acknowledged.push(n);
            }
            failed |= machine.server.borrow().journal.failure().is_some();
            machine.now_ms += 600;
        }
        (0..10).for_each(|_| {
            machine.now_ms += 2000;
            machine.sync();
        });
        assert_eq!(machine.server.borrow().journal.failure(), None, "{fail_at:?}");
        let again = Machine::start(&device.after(Crash::LoseAll), Fsync::Always).expect("a store");
        assert_eq!(difference(&machine.contents(), &again.contents()), None, "{fail_at:?}");
        for n in acknowledged {
            assert!(again.contents().contains_key(&(0, format!("key:{n}").into_bytes())), "{fail_at:?}: key:{n}");
        }
        (device, Some(again.contents().len()), failed)
    };
    let (device, stored, _) = workload(None);
    assert_eq!(stored, Some(60));
    let failures = (4..device.changes()).filter(|&point| workload(Some(point)).2).count();
    assert!(failures > 60, "{failures}");
}

#[test]
fn a_full_device_refuses_writes_until_there_is_room() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    let mut written = 0;
    while machine.say(&format!("SET key:{written} {}", "v".repeat(2000))) == "+OK\r\n" {
        machine.sync();
        machine.now_ms += 2000;
        written += 1;
        assert!(written < 2000, "a device of 1 MiB takes no 4 MB");
    }
    let refused = "-MISCONF Errors writing to the AOF file: No space left on device\r\n";
    assert_eq!(machine.say("SET more 1"), refused);
    let again = Machine::start(&device.after(Crash::LoseAll), Fsync::Always).expect("a store");
    // The last one was never acknowledged.
    assert!(again.contents().len() >= written - 1, "{} of {written}", again.contents().len());
    assert!(written > 150, "{written}");
}

/// Overwriting the same keys for ever fits, because the log is replaced in time.
#[test]
fn overwriting_for_ever_fits() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    for n in 0..3000 {
        assert_eq!(machine.say(&format!("SET key:{} {n}{}", n % 20, "v".repeat(2000))), "+OK\r\n", "{n}");
        machine.sync();
    }
    assert!(machine.server.borrow().journal.status.rewrites > 5);
    let again = Machine::start(&device.after(Crash::LoseAll), Fsync::Always).expect("a store");
    assert_eq!(difference(&machine.contents(), &again.contents()), None);
}

#[test]
fn what_is_not_ours_is_refused() {
    let device = ModelDevice::new(BLOCKS);
    let open =
        recordstore::Store::open(device.clone(), recordstore::Options { new_key: 1, ..Default::default() }, |_| ());
    let (mut store, _) = recordstore::model::run(open, || ()).expect("a blank device");
    let mut batch = recordstore::Batch::new();
    batch.push(b"not an effect");
    recordstore::model::run(store.append(&batch), || ()).expect("room");
    recordstore::model::run(store.sync(), || ()).expect("a good device");
    drop(store);
    assert!(matches!(Machine::start(&device, Fsync::Always), Err(EngineError::Record(0))));
}

#[test]
fn configuration_is_what_redis_has() {
    let device = ModelDevice::new(BLOCKS);
    let mut machine = Machine::start(&device, Fsync::Always).expect("a blank device");
    assert_eq!(machine.say("CONFIG GET appendfsync"), "*2\r\n$11\r\nappendfsync\r\n$6\r\nalways\r\n");
    assert_eq!(machine.say("CONFIG SET appendfsync everysec"), "+OK\r\n");
    assert_eq!(machine.server.borrow().config.append_fsync, Fsync::EverySec);
    assert!(machine.say("CONFIG SET appendfsync never").contains("must be one of the following"));
    assert!(machine.say("CONFIG GET append*").contains("$3\r\nyes"));
    assert!(machine.say("CONFIG SET appendonly no").starts_with("-ERR"));
    assert!(machine.say("CONFIG SET auto-aof-rewrite-percentage 50").starts_with("+OK"));
    let info = machine.say("INFO persistence");
    for line in ["aof_enabled:1", "aof_rewrite_in_progress:0", "aof_last_bgrewrite_status:ok", "aof_current_size:0"] {
        assert!(info.contains(line), "{line}: {info}");
    }
    assert!(machine.say("BGREWRITEAOF").starts_with("+Background"));
    assert!(machine.say("BGREWRITEAOF").starts_with("-ERR"));
    let mut without = kv::Server::new(kv::Config::for_memory(1 << 20, 1, 2), 0);
    let mut session = kv::Session::open(&mut without, 0, "x").expect("room");
    let args = [b"BGREWRITEAOF".to_vec()];
    assert!(super::harness::ask(&mut session, &mut without, 0, &args).starts_with(b"-ERR this server has no"));
}
