//! The store on a disk: what it has acknowledged under `always` is there after everything was killed.
//!
//! Each connection counts on a key of its own, so what it was told and what it has asked for bound what may be there: a
//! number below the first is a lost write, one above the second an invented one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pollux_tests::client::{Client, Reply};
use pollux_tests::counts::{Count, check, count_on};
use pollux_tests::load::Load;
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, seed};
use pollux_tests::writelog::{log_of, lose_power};

const CONNECTIONS: usize = 8;

/// A folder for disks, gone with the test.
struct Disks(PathBuf);

impl Disks {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("pollux-e2e-persistence-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for disks");
        Self(folder)
    }

    /// The store on a disk here; what a mirror has missed is copied first.
    fn kv(&self, mode: &[&str], options: &str) -> Options {
        self.kv_of("16M", mode, options)
    }

    /// The same on a disk of this size.
    fn kv_of(&self, size: &str, mode: &[&str], options: &str) -> Options {
        let disk = format!("data={},size={size}{options}", self.0.join("data").display());
        let arguments = ["--disk", &disk, "--args", "appendonly=yes appendfsync=always"];
        Options::new("kv").with(mode).with(&arguments)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        // Nothing is lost if it stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Several lives on one disk, each ended by SIGKILL of every QEMU under load.
fn lives(test: &str, mode: &[&str], options: &str, lives: u64) {
    let mut rng = Rng::new(seed(test));
    let disks = Disks::new(&test.replace(' ', "-"));
    let counts: Vec<Count> = (0..CONNECTIONS).map(|_| Count::default()).collect();
    for life in 0..lives {
        let mut pair = Pair::up(&disks.kv(mode, options));
        let address = pair.address(6379);
        check(address, &counts, life);
        let (all, goal) = (AtomicU64::new(0), 200 + rng.below(1500));
        let killed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for (index, count) in counts.iter().enumerate() {
                let all = &all;
                scope.spawn(move || count_on(address, &format!("count:{index}"), count, all));
            }
            scope.spawn(|| {
                // Beside them, the log is replaced again and again.
                let mut client = Client::connect(address).expect("a published port takes connections");
                while all.load(Ordering::SeqCst) < goal && client.ask(&[b"BGREWRITEAOF"]).is_ok() {}
                pair.kill_machines();
                killed.store(true, Ordering::SeqCst);
            });
        });
        assert!(killed.load(Ordering::SeqCst));
        drop(pair);
    }
    assert!(counts.iter().all(|count| count.told.load(Ordering::SeqCst) > 0), "{counts:?}");
}

#[test]
fn nothing_acknowledged_is_lost_when_a_machine_dies() {
    lives("a machine dies", &["--bare"], "", moments(10));
}

#[test]
fn nothing_acknowledged_is_lost_when_both_machines_die() {
    lives("both machines die", &["--pair"], ",resync", moments(20));
}

/// Kills every QEMU of a pair at once, and waits for its end.
fn kill_all(mut pair: Pair) {
    pair.kill_machines();
}

/// All keys and what they hold, which must be strings.
fn contents(client: &mut Client) -> BTreeMap<Vec<u8>, Reply> {
    let Reply::Array(Some(keys)) = client.must("KEYS *") else { panic!("KEYS gives an array") };
    let key = |reply| match reply {
        Reply::Bulk(Some(key)) => key,
        other => panic!("a key is a string, not {other}"),
    };
    let keys: Vec<Vec<u8>> = keys.into_iter().map(key).collect();
    keys.into_iter().map(|key| (key.clone(), client.ask(&[b"GET", &key]).expect("an answer"))).collect()
}

#[test]
fn the_primary_alone_dies_under_load_and_no_connection_notices() {
    let first = seed("the primary dies with a log");
    let disks = Disks::new("failover");
    let mut before = BTreeMap::new();
    for seed in first..first + moments(3) {
        println!("moment of seed {seed}");
        let mut rng = Rng::new(seed);
        let mut pair = Pair::up(&disks.kv(&["--pair"], ",resync"));
        let address = pair.address(6379);
        let mut reader = Client::connect(address).expect("a published port takes connections");
        assert_eq!(contents(&mut reader), before, "what the survivor of the last round had");
        // The load reckons with an empty store; so does the log, which a rewrite makes short again.
        assert!(reader.must("FLUSHALL").is_ok());
        let load = Load::start(address, CONNECTIONS, seed);
        assert!(matches!(reader.must("BGREWRITEAOF"), Reply::Simple(_)));
        load.wait_for_answers(rng.between(1, 60));
        pair.kill(Role::Primary, "KILL");
        let disk = pair.wait_for_solo(2).disks[0].clone();
        assert_eq!(disk.stale, Some(0), "the other mirror is left behind");
        load.wait_for_answers(50);
        // It checks that each connection lived on and that the store holds what each was told.
        assert!(load.finish().answered > 0);
        before = contents(&mut reader);
        assert!(!before.is_empty());
        // The survivor's log is all that is left.
        kill_all(pair);
    }
    let mut pair = Pair::up(&disks.kv(&["--pair"], ",resync"));
    let mut reader = Client::connect(pair.address(6379)).expect("a published port takes connections");
    assert_eq!(contents(&mut reader), before);
    pair.down();
}

#[test]
fn a_replica_whose_disk_fails_under_the_store_leaves_and_nobody_is_told() {
    for replica in [0, 1] {
        println!("replica {replica}");
        let disks = Disks::new(&format!("disk-fails-{replica}"));
        // The log begins at block 16 and comes by.
        let fault = format!("{replica}:data:write:60");
        let mut pair = Pair::up(&disks.kv(&["--pair", "--disk-fault", &fault], ""));
        let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
        let mut counted = 0;
        while pair.status().mode != "solo" {
            for _ in 0..20 {
                counted += 1;
                assert_eq!(client.must("INCR count"), Reply::Integer(counted), "the same connection, no error");
            }
            assert!(counted < 10_000, "the log has not come by the block that fails");
        }
        let status = pair.wait_for_survivor(2);
        assert_eq!(status.replicas[0].replica, 1 - replica, "the other one goes on");
        let reason = status.ended.iter().find(|ended| ended.replica == replica).map(|ended| ended.reason.clone());
        assert!(reason.as_ref().is_some_and(|reason| reason.starts_with("disk-failed")), "{reason:?}");
        assert_eq!(client.must("INCR count"), Reply::Integer(counted + 1));
        kill_all(pair);
        let mut pair = Pair::up(&disks.kv(&["--pair"], ",resync"));
        let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
        assert_eq!(client.must("GET count"), Reply::bulk((counted + 1).to_string()));
        pair.down();
    }
}

#[test]
fn without_a_pair_a_disk_that_fails_ends_writes_and_not_reads() {
    let disks = Disks::new("bare-disk-fails");
    // 64 blocks are six segments of eight, from block 16 on. All but the first fail: neither can the log go on when that
    // is full, nor can a new one begin.
    let faults = [24, 32, 40, 48, 56].map(|block| format!("0:data:write:{block}"));
    let mut arguments = vec!["--bare"];
    arguments.extend(faults.iter().flat_map(|fault| ["--disk-fault", fault]));
    let mut pair = Pair::up(&disks.kv_of("32K", &arguments, ""));
    let address = pair.address(6379);
    let mut client = Client::connect(address).expect("a published port takes connections");
    let mut told = 0;
    // Whose write may not last is not answered: the connection ends. Whoever writes later is refused.
    let refusal = loop {
        match client.ask(&[b"INCR", b"count"]) {
            Ok(Reply::Integer(count)) => told = count,
            Ok(other) => break other,
            Err(_) => client = Client::connect(address).expect("the store takes connections"),
        }
        assert!(told < 1_000, "the log has not left its first segment");
    };
    assert!(told > 0, "the first segment takes some");
    assert!(matches!(&refusal, Reply::Error(text) if text.starts_with("MISCONF")), "{refusal}");
    let mut reader = Client::connect(address).expect("the store takes connections");
    let Reply::Bulk(Some(text)) = reader.must("GET count") else { panic!("reads go on") };
    let seen: i64 = String::from_utf8(text).expect("digits").parse().expect("a number");
    assert!((told..=told + 1).contains(&seen), "{seen} after {told}");
    let Reply::Bulk(Some(info)) = reader.must("INFO persistence") else { panic!("INFO is a text") };
    assert!(String::from_utf8_lossy(&info).contains("aof_last_write_status:err"));
    assert!(matches!(reader.must("SET other 1"), Reply::Error(text) if text.starts_with("MISCONF")));
    kill_all(pair);
    // On a disk that is well again there is what was told, or one more.
    let mut pair = Pair::up(&disks.kv_of("32K", &["--bare"], ""));
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    let Reply::Integer(next) = client.must("INCR count") else { panic!("writes are taken") };
    assert!((told + 1..=told + 2).contains(&next), "{next} after {told}");
    pair.down();
}

/// Changes one byte of a block of the only mirror.
fn damage(disks: &Disks, block: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(disks.0.join("data.0")).expect("it is there");
    let (mut byte, at) = ([0], 4096 + 512 * block + 70);
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 0x20], at).expect("written");
}

#[test]
fn a_log_that_is_damaged_in_the_middle_is_cut_only_when_that_is_asked_for() {
    let disks = Disks::new("damaged");
    let plain = || disks.kv(&["--bare"], "");
    let mut pair = Pair::up(&plain());
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    for count in 1..=100 {
        assert_eq!(client.must("INCR count"), Reply::Integer(count));
    }
    kill_all(pair);
    // Each of these was a piece of its own, of one block, from block 16 on.
    damage(&disks, 16 + 40);
    // The port is there before the log was read.
    let (mut pair, mut starting) = Pair::begin(&plain());
    let _ = pair.finish_up(&mut starting);
    let said = pair.wait_for_console("cannot be read although");
    assert!(said.contains("start with aof-repair=yes"), "{said}");
    drop(pair);
    let disk = format!("data={}", disks.0.join("data").display());
    let arguments = ["--bare", "--disk", &disk, "--args", "appendonly=yes appendfsync=always aof-repair=yes"];
    let mut pair = Pair::up(&Options::new("kv").with(&arguments));
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    assert_eq!(client.must("GET count"), Reply::bulk("40"), "what came before the damage, and no more");
    let Reply::Bulk(Some(info)) = client.must("INFO persistence") else { panic!("INFO is a text") };
    let info = String::from_utf8(info).expect("a text");
    let lost = info.lines().find_map(|line| line.strip_prefix("aof_replay_lost_pieces:")).expect("it is told");
    assert!((50..=60).contains(&lost.trim().parse::<u64>().expect("a number")), "{lost}");
    assert_eq!(client.must("INCR count"), Reply::Integer(41));
    kill_all(pair);
    // It is whole now, and nothing that was cut off comes back.
    let mut pair = Pair::up(&plain());
    let mut client = Client::connect(pair.address(6379)).expect("a published port takes connections");
    assert_eq!(client.must("GET count"), Reply::bulk("41"));
    pair.down();
}

#[test]
fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let first = seed("the power fails under the store");
    let mut lost = 0;
    let wanted = moments(3);
    for seed in first..first + wanted.max(20) {
        // A kill may find everything flushed: about one in three does, and then there is nothing to lose.
        if seed - first >= wanted && lost > 0 {
            break;
        }
        println!("moment of seed {seed}");
        let mut rng = Rng::new(seed);
        let disks = Disks::new("power");
        let mirrors = [0, 1].map(|replica| disks.0.join(format!("data.{replica}")));
        for mirror in &mirrors {
            std::fs::File::create(log_of(mirror)).expect("created");
        }
        let mode = ["--pair", "--disk-fault", "0:data:logged:0", "--disk-fault", "1:data:logged:0"];
        let mut pair = Pair::up(&disks.kv(&mode, ""));
        let address = pair.address(6379);
        let counts: Vec<Count> = (0..CONNECTIONS).map(|_| Count::default()).collect();
        let (all, goal) = (AtomicU64::new(0), rng.between(20, 600));
        std::thread::scope(|scope| {
            for (index, count) in counts.iter().enumerate() {
                let all = &all;
                scope.spawn(move || count_on(address, &format!("count:{index}"), count, all));
            }
            // Beside them, the log is replaced again and again: of its own entries each is flushed as soon as it is written, and on
            // an idle machine a kill would hardly ever find one that is not.
            let mut client = Client::connect(address).expect("a published port takes connections");
            while all.load(Ordering::SeqCst) < goal {
                client.ask(&[b"BGREWRITEAOF"]).expect("an answer");
            }
            kill_all(pair);
        });
        lost += mirrors.iter().map(|mirror| lose_power(mirror, &mut rng)).sum::<usize>();
        let mut pair = Pair::up(&disks.kv(&["--pair"], ",resync"));
        check(pair.address(6379), &counts, seed);
        pair.down();
    }
    assert!(lost > 0, "not one loss of power cost anything: nothing was tried");
}
