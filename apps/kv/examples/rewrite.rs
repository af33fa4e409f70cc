//! How long replacing the log keeps the store from serving: `cargo run --release -p kv --example rewrite -- [elements]`.
//!
//! Prints the times of the steps of a rewrite: a step is what lies between two moments at which commands can run. The
//! device costs nothing here. Every run has the same steps, so of each the shortest counts: the others were disturbed.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use kv::persist::Engine;
use kv::{Config, Server, Session};
use recordstore::BlockDevice;
use recordstore::model::run;

const NOW_MS: i64 = 1_700_000_000_000;

/// A device of 512 MiB that takes everything and keeps nothing.
struct Nothing;

impl BlockDevice for Nothing {
    type Error = ();

    fn blocks(&self) -> u64 {
        1 << 20
    }

    async fn read(&self, _first_block: u64, into: &mut [u8]) -> Result<(), ()> {
        into.fill(0);
        Ok(())
    }

    async fn write(&self, _first_block: u64, _from: &[u8]) -> Result<(), ()> {
        Ok(())
    }

    async fn write_zeroes(&self, _first_block: u64, _blocks: u64) -> Result<(), ()> {
        Ok(())
    }

    async fn discard(&self, _first_block: u64, _blocks: u64) -> Result<(), ()> {
        Ok(())
    }

    async fn flush(&self) -> Result<(), ()> {
        Ok(())
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    bytes
}

fn main() {
    let elements: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let mut server = Server::new(Config { rewrite_percentage: 0, ..Config::for_memory(4 << 30, 1, 2) }, NOW_MS);
    let (mut engine, _) = run(Engine::start(Nothing, &mut server, 1), || ()).expect("a blank device");
    let mut session = Session::open(&mut server, NOW_MS, "10.0.2.2:1").expect("room for a client");
    let server = RefCell::new(server);
    let mut ask = |words: &[&str]| {
        session.feed(&mut server.borrow_mut(), NOW_MS, &command(words));
        session.advance_output(session.output().len());
    };
    for n in 0..elements {
        let n = n.to_string();
        ask(&["RPUSH", "list", &n]);
        ask(&["SADD", "set", &n]);
        ask(&["HSET", "hash", &n, &n]);
        ask(&["ZADD", "zset", &n, &n]);
        ask(&["SET", &format!("key:{n}"), &n]);
    }
    run(engine.step(&server, NOW_MS, true), || ());
    let mut best: Vec<Duration> = Vec::new();
    for _ in 0..9 {
        ask(&["BGREWRITEAOF"]);
        let rewrites = server.borrow().journal.status.rewrites;
        let mut number = 0;
        while server.borrow().journal.status.rewrites == rewrites {
            let began = Instant::now();
            run(engine.step(&server, NOW_MS, true), || ());
            let took = began.elapsed();
            match best.get_mut(number) {
                Some(best) => *best = took.min(*best),
                None => best.push(took),
            }
            number += 1;
        }
    }
    best.sort();
    let at = |percent: usize| best.get((best.len().saturating_sub(1)) * percent / 100).copied().unwrap_or_default();
    println!("{} steps: p50 {:?}, p99 {:?}, longest {:?}", best.len(), at(50), at(99), at(100));
}
