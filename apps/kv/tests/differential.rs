//! The same random commands to this store and to a real redis-server must get the same replies, byte for byte.
//!
//! The seed is printed first; `KV_DIFF_SEED=n` repeats a run and `KV_DIFF_COMMANDS=n` makes it longer.

mod common;
#[path = "common/generator.rs"]
mod generator;

use common::{Redis, Reply, ask, ask_raw, encode_command};
use generator::Generator;
use kv::{Config, Server, Session};
use std::io::{BufReader, Read};
use std::os::unix::net::UnixStream;
use std::time::{SystemTime, UNIX_EPOCH};

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_millis() as i64
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn config() -> Config {
    Config { bulk_bytes: 512 << 20, ..Config::for_memory(8 << 30, 7, 8) }
}

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// One client of both servers.
struct Pair {
    theirs: BufReader<UnixStream>,
    ours: Session,
    /// Names of the commands in the open transaction.
    queued: Vec<Vec<u8>>,
}

impl Pair {
    fn ask_ours(&mut self, server: &mut Server, args: &[Vec<u8>]) -> Reply {
        let bytes = encode_command(args);
        assert_eq!(self.ours.feed(server, now_ms(), &bytes), bytes.len());
        let output = self.ours.output().to_vec();
        self.ours.advance_output(output.len());
        let mut rest = &output[..];
        let reply = Reply::read(&mut rest);
        assert!(rest.is_empty(), "more than one reply to {args:?}");
        let mut again = Vec::new();
        reply.encode(&mut again);
        assert_eq!(again, output, "not in canonical form");
        reply
    }

    fn both(&mut self, server: &mut Server, args: &[Vec<u8>]) -> (Reply, Reply) {
        let theirs = ask(&mut self.theirs, args);
        (self.ask_ours(server, args), theirs)
    }
}

/// Makes replies comparable where redis promises less than an exact value.
fn normal(name: &[u8], reply: Reply) -> Reply {
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    match (name.as_str(), reply) {
        ("SMEMBERS" | "SINTER" | "SUNION" | "SDIFF" | "HKEYS" | "HVALS" | "KEYS", Reply::Array(Some(mut items))) => {
            items.sort();
            Reply::Array(Some(items))
        }
        ("HGETALL", Reply::Array(Some(items))) => {
            let mut pairs: Vec<Vec<Reply>> = items.chunks(2).map(<[Reply]>::to_vec).collect();
            pairs.sort();
            Reply::Array(Some(pairs.concat()))
        }
        // Time goes on between the two.
        ("TTL" | "PTTL", Reply::Integer(left)) if left > 0 => Reply::Integer(1),
        ("EXPIRETIME" | "PEXPIRETIME", Reply::Integer(at)) if at % 500 != 0 && at > 0 => Reply::Integer(1),
        // Redis shares some values and counts who does; there is nothing to share here.
        ("OBJECT", Reply::Integer(_)) => Reply::Integer(1),
        (_, reply) => reply,
    }
}

/// A random choice: the kind of reply and the number of elements must agree, and the popped ones must go on our side
/// too.
fn random_choice(pair: &mut Pair, server: &mut Server, args: &[Vec<u8>]) -> (Reply, Reply) {
    let theirs = ask(&mut pair.theirs, args);
    if args[0].eq_ignore_ascii_case(b"SPOP") {
        let popped: Vec<Vec<u8>> = match &theirs {
            Reply::Array(Some(items)) => items.iter().map(|item| item.bytes().to_vec()).collect(),
            Reply::Bulk(Some(member)) => vec![member.clone()],
            _ => Vec::new(),
        };
        if !popped.is_empty() {
            let remove = [vec![b"SREM".to_vec(), args[1].clone()], popped.clone()].concat();
            return (pair.ask_ours(server, &remove), Reply::Integer(popped.len() as i64));
        }
    }
    let ours = pair.ask_ours(server, args);
    let shape = |reply: Reply| match reply {
        Reply::Array(Some(items)) => Reply::Integer(items.len() as i64),
        Reply::Bulk(Some(_)) => Reply::Simple("one".into()),
        other => other,
    };
    (shape(ours), shape(theirs))
}

/// Runs a scan to its end and gives all that it returned, sorted and without repetitions.
fn full_scan(args: &[Vec<u8>], mut ask: impl FnMut(&[Vec<u8>]) -> Reply) -> Reply {
    let cursor_at = if args[0].eq_ignore_ascii_case(b"SCAN") { 1 } else { 2 };
    let width = if args[0][0] == b'Z' || args[0][0] == b'H' { 2 } else { 1 };
    let (mut args, mut found) = (args.to_vec(), Vec::new());
    loop {
        let reply = ask(&args);
        let [cursor, Reply::Array(Some(items))] = reply.items() else { return reply };
        found.extend(items.chunks(width).map(<[Reply]>::to_vec));
        args[cursor_at] = cursor.bytes().to_vec();
        if cursor.bytes() == b"0" {
            found.sort();
            found.dedup();
            return Reply::Array(Some(found.concat()));
        }
    }
}

/// An addition of floating-point numbers. Redis calculates with 80 bits, this store with decimals; where the sums
/// differ, they must do so in the last digits only, and the store goes on with that of redis.
fn float_sum(pair: &mut Pair, server: &mut Server, args: &[Vec<u8>]) -> (Reply, Reply) {
    let (ours, theirs) = pair.both(server, args);
    let value = |reply: &Reply| String::from_utf8_lossy(reply.bytes()).parse::<f64>().ok();
    match (value(&ours), value(&theirs)) {
        (Some(a), Some(b)) if ours != theirs && (a - b).abs() <= a.abs() * 1e-15 => {
            let sum = theirs.bytes().to_vec();
            let store = if args[0].starts_with(b"H") {
                [words("HSET"), args[1..3].to_vec(), vec![sum]].concat()
            } else {
                [words("SET"), args[1..2].to_vec(), vec![sum], words("KEEPTTL")].concat()
            };
            pair.ask_ours(server, &store);
            (theirs.clone(), theirs)
        }
        _ => (ours, theirs),
    }
}

fn step(pair: &mut Pair, server: &mut Server, args: &[Vec<u8>]) -> (Reply, Reply) {
    let name = args[0].strip_prefix(b"%").unwrap_or(&args[0]).to_ascii_uppercase();
    let special = args[0].starts_with(b"%");
    let args = [vec![name.clone()], args[1..].to_vec()].concat();
    if special && name.ends_with(b"SCAN") {
        let theirs = full_scan(&args, |args| ask(&mut pair.theirs, args));
        return (full_scan(&args, |args| pair.ask_ours(server, args)), theirs);
    }
    if name == b"DBSIZE" {
        // When a key that has expired is removed is nobody's promise; a look at it removes it.
        let keys = (0..7).map(|n| format!("key:{n}")).chain((0..2).map(|n| format!("names:{n}")));
        let look = [words("EXISTS"), keys.map(String::into_bytes).collect()].concat();
        assert_eq!(pair.both(server, &look).0, ask(&mut pair.theirs, &look));
        return pair.both(server, &args);
    }
    if name.ends_with(b"INCRBYFLOAT") {
        return float_sum(pair, server, &args);
    }
    if special {
        return random_choice(pair, server, &args);
    }
    let (ours, theirs) = pair.both(server, &args);
    let queued = Reply::Simple("QUEUED".into());
    if theirs == queued {
        pair.queued.push(name.clone());
    }
    if name == b"EXEC" {
        let names = std::mem::take(&mut pair.queued);
        let each = |reply: Reply| match reply {
            Reply::Array(Some(items)) => {
                Reply::Array(Some(items.into_iter().zip(&names).map(|(item, name)| normal(name, item)).collect()))
            }
            other => other,
        };
        return (each(ours), each(theirs));
    }
    if name == b"DISCARD" {
        pair.queued.clear();
    }
    (normal(&name, ours), normal(&name, theirs))
}

/// Everything that both servers hold.
fn compare_contents(pair: &mut Pair, server: &mut Server) {
    for db in 0..3 {
        pair.both(server, &words(&format!("SELECT {db}")));
        for key in (0..7).map(|n| format!("key:{n}")).chain((0..2).map(|n| format!("names:{n}"))) {
            let (kind, theirs) = pair.both(server, &words(&format!("TYPE {key}")));
            assert_eq!(kind, theirs, "type of {key}");
            let Reply::Simple(kind) = kind else { panic!("TYPE answers {kind:?}") };
            let read = match kind.as_str() {
                "string" => format!("GET {key}"),
                "list" => format!("LRANGE {key} 0 -1"),
                "set" => format!("SMEMBERS {key}"),
                "hash" => format!("HGETALL {key}"),
                "zset" => format!("ZRANGE {key} 0 -1 WITHSCORES"),
                _ => continue,
            };
            for read in [read, format!("PEXPIRETIME {key}")] {
                let args = words(&read);
                let (ours, theirs) = pair.both(server, &args);
                assert_eq!(normal(&args[0], ours), normal(&args[0], theirs), "{read} in database {db}");
            }
        }
    }
    pair.both(server, &words("SELECT 0"));
}

fn run(redis: &Redis, seed: u64, commands: u64) {
    let mut server = Server::new(config(), now_ms());
    let mut pairs: Vec<Pair> = (0..3)
        .map(|_| Pair {
            theirs: redis.connect(),
            ours: Session::open(&mut server, now_ms(), "test").expect("room for a client"),
            queued: Vec::new(),
        })
        .collect();
    pairs[0].both(&mut server, &words("FLUSHALL"));
    let mut generator = Generator::new(seed);
    let mut in_multi = [false; 2];
    let mut history = Vec::new();
    for number in 0..commands {
        let client = generator.rng.below(2);
        let args = generator.next(in_multi[client]);
        let queued: Vec<_> =
            pairs[client].queued.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let (ours, theirs) = step(&mut pairs[client], &mut server, &args);
        let text: Vec<_> = args.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
        history.push(format!("{number} client {client}: {text:?} {ours:?}"));
        if ours != theirs {
            let key = text.get(1).map_or("", |key| key);
            let same_key: Vec<_> = history.iter().filter(|line| line.contains(key)).rev().take(12).collect();
            let differing = ours.items().iter().zip(theirs.items()).enumerate().find(|(_, (a, b))| a != b);
            println!("first element that differs: {differing:?}; queued: {queued:?}");
            println!("what this key saw before, last first: {same_key:#?}");
        }
        assert_eq!(ours, theirs, "seed {seed}, command {number} of client {client}: {text:?} (left ours, right redis)");
        match args[0].to_ascii_uppercase().as_slice() {
            b"MULTI" if ours == Reply::Simple("OK".into()) => in_multi[client] = true,
            b"EXEC" | b"DISCARD" if args.len() == 1 => in_multi[client] = false,
            _ => {}
        }
        if number % 500 == 0 {
            compare_contents(&mut pairs[2], &mut server);
        }
    }
    compare_contents(&mut pairs[2], &mut server);
}

#[test]
fn random_commands_get_the_replies_of_redis() {
    let Some(redis) = Redis::start() else { return };
    let seed = variable("KV_DIFF_SEED", 1);
    println!("KV_DIFF_SEED={seed}");
    for seed in seed..seed + 4 {
        println!("seed {seed}");
        run(&redis, seed, variable("KV_DIFF_COMMANDS", 20_000));
    }
}

#[test]
fn bad_input_gets_the_errors_of_redis() {
    let Some(redis) = Redis::start() else { return };
    let long = vec![b'9'; 200_000];
    let inputs: Vec<Vec<u8>> = vec![
        b"*x\r\n".to_vec(),
        b"*1\r\n:4\r\n".to_vec(),
        b"*1\r\n$x\r\n".to_vec(),
        b"*1\r\n$-1\r\n".to_vec(),
        b"*1\r\n$600000000\r\n".to_vec(),
        b"*2\r\n$4\r\nPING\r\n*1\r\n".to_vec(),
        b"*99999999999\r\n".to_vec(),
        b"*0\r\n*-1\r\nPING\r\n".to_vec(),
        b"ping \"a\r\n".to_vec(),
        b"ping \"a b\\x41\\n\" \r\n".to_vec(),
        b"PING\nPING\r\n\r\n\n*1\r\n$4\r\nPING\r\n".to_vec(),
        b"SET a b\r\nGET a\r\nQUIT\r\nPING\r\n".to_vec(),
        b"NoSuch one two\r\n".to_vec(),
        [b"nosuch ".to_vec(), vec![b'y'; 300], b" z\r\n".to_vec()].concat(),
        [vec![b'y'; 300], b" z\r\n".to_vec()].concat(),
        b"client nosuch\r\nclient setname\r\nobject encoding\r\nconfig get\r\n".to_vec(),
        b"POST / HTTP/1.1\r\nPING\r\n".to_vec(),
        b"hello 3 auth\r\nhello x\r\nhello 9\r\n".to_vec(),
        b"client setname a\\ b\r\nclient setname \"a b\"\r\nclient setname ab\r\nclient getname\r\n".to_vec(),
        b"client reply off\r\nping\r\nclient reply on\r\nping\r\nclient reply skip\r\nping\r\nping\r\n".to_vec(),
        b"select 1\r\nreset\r\nget a\r\nmulti\r\nmulti\r\nset a\r\nexec\r\n".to_vec(),
        b"multi\r\nset mm 1\r\nlpush mm 1\r\nget mm\r\nexec\r\ndiscard\r\nexec\r\nwatch\r\n".to_vec(),
        b"config set nosuch 1\r\nobject help x\r\ncommand count x\r\nauth a b c d\r\nauth default x\r\nauth x y\r\n"
            .to_vec(),
        [b"*".to_vec(), long.clone()].concat(),
        [b"*1\r\n$".to_vec(), long.clone()].concat(),
        long,
    ];
    for input in inputs {
        let shown = String::from_utf8_lossy(&input[..input.len().min(60)]).into_owned();
        ask(&mut redis.connect(), &words("FLUSHALL"));
        let mut theirs = redis.connect();
        let expected = ask_raw(&mut theirs, &input);
        let mut server = Server::new(config(), now_ms());
        let mut session = Session::open(&mut server, now_ms(), "test").expect("room for a client");
        let closed_by_us = {
            session.feed(&mut server, now_ms(), &input);
            session.wants_close()
        };
        let answer = String::from_utf8_lossy(session.output()).into_owned();
        assert_eq!(answer, String::from_utf8_lossy(&expected), "{shown:?}");
        // Whether redis hangs up by itself shows on a connection whose sending side stays open.
        ask(&mut redis.connect(), &words("FLUSHALL"));
        let mut open = redis.connect();
        std::io::Write::write_all(open.get_mut(), &[&input[..], b"*1\r\n$4\r\nPING\r\n"].concat()).unwrap_or(());
        let closed_by_them = {
            let mut seen = Vec::new();
            let mut byte = [0];
            loop {
                match open.read(&mut byte) {
                    Ok(0) | Err(_) => break true,
                    Ok(_) => seen.push(byte[0]),
                }
                if seen.len() == expected.len() + b"+PONG\r\n".len() {
                    break false;
                }
            }
        };
        assert_eq!(closed_by_us, closed_by_them, "{shown:?}");
        session.close(&mut server);
    }
}
