//! The store on a disk: what it has acknowledged under `always` is there after everything was killed.
//!
//! Each connection counts on a key of its own, so what it was told and what it has asked for bound what may be there: a
//! number below the first is a lost write, one above the second an invented one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pollux_tests::client::{Client, Reply};
use pollux_tests::pair::{DEADLINE, Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::workbench::{seed, send_signal, wait_for_end};
use rustix::process::Signal;

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
        let disk = format!("data={},size=16M{options}", self.0.join("data").display());
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

/// What one connection has asked for and was told.
#[derive(Debug, Default)]
struct Count {
    asked: AtomicU64,
    told: AtomicU64,
}

/// Counts until the connection breaks.
fn count_on(address: SocketAddr, key: &str, count: &Count, all: &AtomicU64) {
    let Ok(mut client) = Client::connect(address) else { return };
    loop {
        count.asked.fetch_add(1, Ordering::SeqCst);
        match client.ask(&[b"INCR", key.as_bytes()]) {
            Ok(Reply::Integer(told)) => count.told.store(told as u64, Ordering::SeqCst),
            _ => return,
        }
        all.fetch_add(1, Ordering::SeqCst);
    }
}

/// Several lives on one disk, each ended by SIGKILL of every QEMU under load.
fn lives(test: &str, mode: &[&str], options: &str, lives: usize) {
    let mut rng = Rng::new(seed(test));
    let disks = Disks::new(&test.replace(' ', "-"));
    let counts: Vec<Count> = (0..CONNECTIONS).map(|_| Count::default()).collect();
    for life in 0..lives {
        let mut pair = Pair::up(&disks.kv(mode, options));
        let address = pair.address(6379);
        let mut reader = Client::connect(address).expect("a published port takes connections");
        for (index, count) in counts.iter().enumerate() {
            let found = match reader.must(&format!("GET count:{index}")) {
                Reply::Bulk(Some(text)) => String::from_utf8(text).expect("digits").parse().expect("a number"),
                _ => 0,
            };
            let bounds = count.told.load(Ordering::SeqCst)..=count.asked.load(Ordering::SeqCst);
            assert!(bounds.contains(&found), "life {life}, count:{index}: {found} is not in {bounds:?}");
            count.asked.store(found, Ordering::SeqCst);
            count.told.store(found, Ordering::SeqCst);
        }
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
                let pids: Vec<i32> = pair.status().replicas.iter().map(|replica| replica.pid).collect();
                assert!(!pids.is_empty(), "life {life}: nothing left to kill");
                pids.iter().for_each(|&pid| send_signal(pid, Signal::KILL));
                pids.iter().for_each(|&pid| assert!(wait_for_end(pid, DEADLINE), "process {pid} is gone"));
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
    lives("a machine dies", &["--bare"], "", 6);
}

#[test]
fn nothing_acknowledged_is_lost_when_both_machines_die() {
    lives("both machines die", &["--pair"], ",resync", 4);
}
