//! What a command costs without a network: `cargo run --release -p kv --example bench -- [commands] [name [pipeline]]`.
//!
//! Prints ns a command, alone and in pipelines of 16, for the default tests of redis-benchmark. With a name only that
//! test runs, and with a length only such pipelines: for a clean profile (`perf record`, `valgrind --tool=callgrind`).

use kv::{Config, Server, Session};
use std::hint::black_box;
use std::time::Instant;

const NOW_MS: i64 = 1_700_000_000_000;
const PIPELINE: usize = 16;

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    bytes
}

struct Test {
    name: &'static str,
    /// Run before each measurement.
    setup: Vec<Vec<u8>>,
    /// Run in turn.
    commands: Vec<Vec<u8>>,
}

fn test(name: &'static str, words: &[&str]) -> Test {
    Test { name, setup: Vec::new(), commands: vec![command(words)] }
}

/// As [`test`], with ten thousand keys or members in place of `{}`.
fn spread(name: &'static str, words: &[&str]) -> Test {
    let filled = |n: usize| {
        let number = format!("{:012}", n * 7919 % 10_000);
        let words: Vec<String> = words.iter().map(|word| word.replace("{}", &number)).collect();
        command(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    Test { name, setup: Vec::new(), commands: (0..10_000).map(filled).collect() }
}

fn with_setup(mut test: Test, setup: Vec<Vec<u8>>) -> Test {
    test.setup = setup;
    test
}

fn tests() -> Vec<Test> {
    let list = || (0..700).map(|_| command(&["LPUSH", "mylist", "xxx"])).collect();
    let long_list = || (0..200_000).map(|_| command(&["LPUSH", "mylist", "xxx"])).collect();
    let values = || spread("", &["SET", "key:{}", "xxx"]).commands;
    let mset: Vec<&str> = std::iter::once("MSET").chain([["key:__rand_int__", "xxx"]; 10].concat()).collect();
    vec![
        test("ping", &["PING"]),
        test("set", &["SET", "key:__rand_int__", "xxx"]),
        spread("set_r", &["SET", "key:{}", "xxx"]),
        with_setup(test("get", &["GET", "key:000000000042"]), values()),
        with_setup(spread("get_r", &["GET", "key:{}"]), values()),
        test("incr", &["INCR", "counter:__rand_int__"]),
        spread("incr_r", &["INCR", "counter:{}"]),
        test("lpush", &["LPUSH", "mylist", "xxx"]),
        with_setup(test("lpop", &["LPOP", "mylist"]), long_list()),
        test("sadd", &["SADD", "myset", "element:__rand_int__"]),
        spread("sadd_r", &["SADD", "myset", "element:{}"]),
        test("hset", &["HSET", "myhash", "element:__rand_int__", "xxx"]),
        test("spop", &["SPOP", "myset"]),
        spread("zadd_r", &["ZADD", "myzset", "{}", "element:{}"]),
        test("zpopmin", &["ZPOPMIN", "myzset"]),
        with_setup(test("lrange_100", &["LRANGE", "mylist", "0", "99"]), list()),
        with_setup(test("lrange_600", &["LRANGE", "mylist", "0", "599"]), list()),
        test("mset", &mset),
    ]
}

/// Runs `count` commands in batches and gives ns a command.
fn measure(test: &Test, count: usize, batch: usize) -> f64 {
    let mut server = Server::new(Config::for_memory(4 << 30, 1, 2), NOW_MS);
    let mut session = Session::open(&mut server, NOW_MS, "bench").expect("room for a client");
    let mut feed = |input: &[u8]| {
        let mut taken = 0;
        while taken < input.len() {
            taken += session.feed(&mut server, NOW_MS, &input[taken..]);
            black_box(session.output());
            session.advance_output(session.output().len());
        }
    };
    test.setup.iter().for_each(|command| feed(command));
    let inputs: Vec<Vec<u8>> = if test.commands.len() == 1 {
        vec![test.commands[0].repeat(batch)]
    } else {
        test.commands.chunks(batch).map(<[Vec<u8>]>::concat).collect()
    };
    let start = Instant::now();
    let rounds = count / batch;
    inputs.iter().cycle().take(rounds).for_each(|input| feed(input));
    start.elapsed().as_nanos() as f64 / (rounds * batch) as f64
}

fn main() {
    let mut args = std::env::args().skip(1);
    let count = args.next().and_then(|count| count.parse().ok()).unwrap_or(400_000);
    let wanted = args.next();
    if let (Some(name), Some(batch)) = (&wanted, args.next().and_then(|batch| batch.parse().ok())) {
        let tests = tests();
        let test = tests.iter().find(|test| test.name == name).expect("a test of this name");
        println!("{name}: {:.1} ns", measure(test, count, batch));
        return;
    }
    println!("{:<12} {:>12} {:>14}", "test", "alone (ns)", "pipeline (ns)");
    for test in tests().iter().filter(|test| wanted.as_ref().is_none_or(|name| name == test.name)) {
        println!("{:<12} {:>12.1} {:>14.1}", test.name, measure(test, count, 1), measure(test, count, PIPELINE));
    }
}
