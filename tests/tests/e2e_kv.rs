//! The store as its users meet it: redis-cli, redis-benchmark and a client library, all unchanged; and users who behave
//! badly.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use pollux_tests::client::{Client, Reply};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::seed;
use redis::Commands;
use rustix::process::{Resource, getrlimit, setrlimit};

fn kv(arguments: &[&str]) -> (Pair, SocketAddr) {
    let mut pair = Pair::up(&Options::new("kv").with(arguments));
    let address = pair.address(6379);
    (pair, address)
}

fn connect(address: SocketAddr) -> Client {
    Client::connect(address).expect("a published port takes connections")
}

fn still_paired(pair: &mut Pair) {
    let status = pair.status();
    assert_eq!((status.mode.as_str(), status.generation, status.replicas.len()), ("paired", 1, 2), "{status:#?}");
}

fn fail_over(pair: &mut Pair) {
    pair.kill(Role::Primary, "KILL");
    pair.wait_for_solo(2);
}

fn redis_tool(program: &str, address: SocketAddr) -> Command {
    let mut command = Command::new(program);
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command
}

#[test]
fn redis_cli_works_and_its_session_survives_a_failover() {
    let (mut pair, address) = kv(&[]);
    let once = |arguments: &[&str]| {
        let output = redis_tool("redis-cli", address).args(arguments).output().expect("redis-cli is installed");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8").trim_end().to_owned()
    };
    assert_eq!(once(&["SET", "greeting", "hello, world"]), "OK");
    assert_eq!(once(&["GET", "greeting"]), "hello, world");
    assert_eq!(once(&["RPUSH", "list", "a", "b", "c"]), "3");
    assert_eq!(once(&["LRANGE", "list", "0", "-1"]), "a\nb\nc");
    assert_eq!(once(&["--scan", "--pattern", "g*"]), "greeting");
    assert!(once(&["INFO", "server"]).contains("redis_version:"));
    assert!(once(&["NOSUCHCOMMAND"]).starts_with("ERR unknown command"));

    let session = redis_tool("redis-cli", address).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut session = session.expect("redis-cli starts");
    let mut input = session.stdin.take().expect("piped");
    let mut output = BufReader::new(session.stdout.take().expect("piped"));
    let mut say = |command: &str| {
        writeln!(input, "{command}").expect("redis-cli reads");
        let mut line = String::new();
        output.read_line(&mut line).expect("redis-cli answers");
        line.trim_end().to_owned()
    };
    let connection = say("CLIENT ID");
    assert_eq!(say("INCR counter"), "1");
    fail_over(&mut pair);
    assert_eq!(say("INCR counter"), "2");
    assert_eq!(say("CLIENT ID"), connection, "it has not connected again");
    drop(input);
    assert!(session.wait().expect("redis-cli ends").success());
    pair.down();
}

/// Runs redis-benchmark and returns the names of the tests that it completed.
fn benchmark(address: SocketAddr, arguments: &[&str]) -> Vec<String> {
    let output = redis_tool("redis-benchmark", address).args(["--csv"]).args(arguments).output();
    let output = output.expect("redis-benchmark is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let mut names = Vec::new();
    // The first line names the columns: "test","rps",...
    for line in text.lines().filter(|line| line.starts_with('"')).skip(1) {
        let mut fields = line.split("\",\"").map(|field| field.trim_matches('"'));
        let name = fields.next().unwrap_or_default().to_owned();
        let rate: f64 = fields.next().and_then(|rate| rate.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        assert!(rate > 0.0, "{line}");
        names.push(name);
    }
    names
}

#[test]
fn redis_benchmark_runs_its_default_tests() {
    let (mut pair, address) = kv(&[]);
    let names = benchmark(address, &["-n", "400", "-c", "20"]);
    for expected in
        ["PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPUSH", "LPOP", "RPOP", "SADD", "HSET"]
            .iter()
            .chain(&["SPOP", "ZADD", "ZPOPMIN", "LRANGE_100 (first 100 elements)", "MSET (10 keys)"])
    {
        assert!(names.iter().any(|name| name == expected), "{expected} is not among {names:?}");
    }
    let piped = benchmark(address, &["-n", "8000", "-c", "20", "-P", "16", "-t", "set,get,incr"]);
    assert_eq!(piped, ["SET", "GET", "INCR"]);
    still_paired(&mut pair);
    pair.down();
}

#[test]
fn redis_benchmark_does_not_notice_a_failover() {
    let (mut pair, address) = kv(&[]);
    let run = std::thread::spawn(move || benchmark(address, &["-n", "40000", "-c", "20", "-t", "incr", "-e"]));
    let mut watcher = connect(address);
    // Started, and far from its end.
    while !matches!(watcher.must("GET counter:__rand_int__"), Reply::Bulk(Some(_))) {}
    fail_over(&mut pair);
    assert_eq!(run.join().expect("the benchmark ends without an error"), ["INCR"]);
    assert_eq!(watcher.must("GET counter:__rand_int__"), Reply::bulk("40000"), "each increment once");
    pair.down();
}

/// Everything that the client library offers and a service commonly uses, with a failover in the middle.
#[test]
fn a_client_library_works_unchanged_over_a_failover() {
    let (mut pair, address) = kv(&[]);
    let client = redis::Client::open(format!("redis://{address}/")).expect("an address");
    let mut connection = client.get_connection().expect("a connection");
    connection.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");

    let (first, second): (i64, String) = redis::pipe()
        .incr("hits", 5)
        .cmd("SET")
        .arg("name")
        .arg("pollux")
        .ignore()
        .get("name")
        .query(&mut connection)
        .expect("a pipeline");
    assert_eq!((first, second.as_str()), (5, "pollux"));
    let _: () = connection.set_ex("short", "lived", 1).expect("SETEX");
    let _: () = connection.set_ex("long", "lived", 1000).expect("SETEX");
    for number in 0..500 {
        let _: () = connection.set(format!("scan:{number}"), number).expect("SET");
    }
    fail_over(&mut pair);

    let transaction: (i64, i64) =
        redis::pipe().atomic().incr("hits", 1).incr("hits", 1).query(&mut connection).expect("MULTI");
    assert_eq!(transaction, (6, 7));
    let keys: Vec<String> = connection.scan_match("scan:*").expect("SCAN").collect::<Result<_, _>>().expect("keys");
    let unique: std::collections::BTreeSet<_> = keys.iter().collect();
    assert_eq!(unique.len(), 500, "SCAN finds every key");
    let left: i64 = connection.ttl("long").expect("TTL");
    assert!((900..=1000).contains(&left), "{left} s");
    let mut tries = 0;
    while connection.exists("short").expect("EXISTS") {
        tries += 1;
        assert!(tries < 1_000_000, "a key that was to live one second does not go");
    }

    let _: () = connection.hset_multiple("hash", &[("a", 1), ("b", 2)]).expect("HSET");
    let hash: std::collections::BTreeMap<String, i64> = connection.hgetall("hash").expect("HGETALL");
    assert_eq!(hash.into_iter().collect::<Vec<_>>(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let _: () = connection.zadd_multiple("board", &[(3, "c"), (1, "a"), (2, "b")]).expect("ZADD");
    let board: Vec<String> = connection.zrange("board", 0, -1).expect("ZRANGE");
    assert_eq!(board, ["a", "b", "c"]);
    let value: i64 = redis::transaction(&mut connection, &["hits"], |connection, pipe| {
        let hits: i64 = connection.get("hits")?;
        pipe.set("hits", hits * 2).ignore().get("hits").query(connection)
    })
    .map(|(value,): (i64,)| value)
    .expect("WATCH");
    assert_eq!(value, 14);
    let wrong: redis::RedisResult<i64> = connection.incr("name", 1);
    assert!(wrong.expect_err("not a number").to_string().contains("not an integer"));
    pair.down();
}

#[test]
fn malformed_requests_get_an_error_and_hurt_nobody_else() {
    let (mut pair, address) = kv(&[]);
    let mut bystander = connect(address);
    assert!(bystander.must("SET a 1").is_ok());
    let too_long = vec![b'x'; 70_000];
    let cases: [(&[u8], &str); 7] = [
        (b"*1\r\n:1\r\n", "expected '$', got ':'"),
        (b"*1\r\n$abc\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*99999999999\r\n", "invalid multibulk length"),
        (b"*1\r\n$99999999999\r\n", "invalid bulk length"),
        (b"SET \"unbalanced\r\n", "unbalanced quotes"),
        (&too_long, "too big inline request"),
    ];
    for (bytes, expected) in cases {
        let mut client = connect(address);
        client.send(bytes).expect("sent");
        match client.receive().expect("an answer") {
            Reply::Error(text) => {
                assert!(text.starts_with("ERR Protocol error"), "{text}");
                assert!(text.contains(expected), "{expected:?}: {text}");
            }
            other => panic!("{expected:?}: {other}"),
        }
        // A reset is as much an end as a polite one: there may be bytes that nobody has read.
        if let Ok(rest) = client.rest() {
            assert_eq!(rest, b"", "and the connection ends");
        }
        assert_eq!(bystander.must("GET a"), Reply::bulk("1"));
    }
    still_paired(&mut pair);
    pair.down();
}

#[test]
fn garbage_hurts_nobody() {
    let (mut pair, address) = kv(&[]);
    let mut rng = Rng::new(seed("garbage"));
    let mut bystander = connect(address);
    for round in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..rng.between(1, 60) {
            match rng.below(6) {
                0 => bytes.extend_from_slice(b"\r\n"),
                1 => bytes.extend_from_slice(rng.pick(&[
                    &b"*3\r\n"[..],
                    b"$3\r\nSET\r\n",
                    b"$1\r\n",
                    b"*-1\r\n",
                    b"$0\r\n\r\n",
                ])),
                2 => bytes.extend_from_slice(rng.pick(&[&b"GET "[..], b"EVAL ", b"SUBSCRIBE ", b"\"\\x", b"' "])),
                _ => bytes.extend_from_slice(&rng.next_u64().to_le_bytes()[..rng.between(1, 8) as usize]),
            }
        }
        let mut stream = TcpStream::connect(address).expect("a connection");
        // The store may close while it is being written to.
        let _ = stream.write_all(&bytes);
        if rng.chance(50) {
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
        assert_eq!(bystander.must("INCR a"), Reply::Integer(round + 1));
    }
    still_paired(&mut pair);
    fail_over(&mut pair);
    assert_eq!(bystander.must("GET a"), Reply::bulk("200"));
    pair.down();
}

#[test]
fn a_bulk_string_larger_than_memory_is_an_error_and_the_store_goes_on() {
    let (mut pair, address) = kv(&["--memory-mib", "16"]);
    let mut bystander = connect(address);
    assert!(bystander.must("SET a 1").is_ok());
    let mut client = connect(address);
    // Announced far beyond the memory, and then sent for as long as the store takes it.
    client.send(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$400000000\r\n").expect("sent");
    let chunk = vec![b'x'; 64 * 1024];
    let mut sent = 0;
    while sent < 64 << 20 && client.send(&chunk).is_ok() {
        sent += chunk.len();
    }
    if let Ok(reply) = client.receive() {
        assert!(matches!(reply, Reply::Error(_)), "{reply}");
    } else {
        // The answer is lost when bytes come in after the store has closed: that is TCP.
        assert!(sent < 64 << 20, "the store took {sent} bytes in silence");
    }
    let mut polite = connect(address);
    polite.send(b"*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$400000000\r\n").expect("sent");
    match polite.receive() {
        Ok(Reply::Error(text)) => println!("told: {text}"),
        other => panic!("whoever announces too much is told so: {other:?}"),
    }
    assert_eq!(bystander.must("GET a"), Reply::bulk("1"));
    still_paired(&mut pair);
    pair.down();
}

#[test]
fn a_full_store_says_so_keeps_what_it_has_and_takes_more_when_there_is_room() {
    let (mut pair, address) = kv(&["--args", "maxmemory=2mb"]);
    let mut client = connect(address);
    let value = vec![b'v'; 10_000];
    let mut written = 0;
    let refusal = loop {
        match client.ask(&[b"SET", format!("key:{written}").as_bytes(), &value]).expect("an answer") {
            reply if reply.is_ok() => written += 1,
            Reply::Error(text) => break text,
            other => panic!("{other}"),
        }
        assert!(written < 1000, "2 MiB hold no {written} values of 10,000 bytes");
    };
    assert!(refusal.starts_with("OOM "), "{refusal}");
    assert!(written > 100, "{written}");
    fail_over(&mut pair);
    for key in 0..written {
        assert_eq!(client.ask(&[b"GET", format!("key:{key}").as_bytes()]).expect("an answer"), Reply::bulk(&value));
    }
    assert!(
        matches!(client.ask(&[b"SET", b"more", &value]).expect("an answer"), Reply::Error(text) if text.starts_with("OOM "))
    );
    for key in 0..10 {
        assert_eq!(client.must(&format!("DEL key:{key}")), Reply::Integer(1));
    }
    assert!(client.ask(&[b"SET", b"more", &value]).expect("an answer").is_ok());
    pair.down();
}

#[test]
fn half_open_connections_cost_nobody_else_anything() {
    let (mut pair, address) = kv(&[]);
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).expect("a connection"));
        let mut cut_off = TcpStream::connect(address).expect("a connection");
        cut_off.write_all(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$10\r\nhal").expect("sent");
        silent.push(cut_off);
    }
    let mut client = connect(address);
    assert!(client.must("SET a 1").is_ok());
    // One that says that nothing more will come still gets its answers.
    let mut half = connect(address);
    half.send(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n").expect("sent");
    half.finish().expect("half closed");
    assert_eq!(half.receive().expect("the answer"), Reply::bulk("1"));
    assert_eq!(half.rest().expect("and the end"), b"");
    fail_over(&mut pair);
    assert_eq!(client.must("GET a"), Reply::bulk("1"), "what was never sent in full was never done");
    // Those that fell silent in mid-request go on where they were.
    silent[1].write_all(b"f-value\r\n").expect("the connection stands");
    let mut answer = [0; 5];
    silent[1].read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"+OK\r\n");
    assert_eq!(client.must("GET a"), Reply::bulk("half-value"));
    drop(silent);
    pair.wait_until("the end of the abandoned connections", |status| {
        (status.hub["connections_open"] <= 1).then_some(())
    });
    pair.down();
}

/// What became of connections that were attempted.
#[derive(Debug, Default)]
struct Attempts {
    /// Served like any other.
    served: usize,
    /// Told by the store that there are too many, as redis tells it.
    told: usize,
    /// Reset: by the guest's network where even the store's places for those whom it tells were taken, or by the forwarder
    /// beyond the connections that it passes on.
    reset: usize,
    /// Closed without a word, which nobody is to be.
    silent: usize,
}

impl Attempts {
    fn note(&mut self, stream: &mut TcpStream) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        // A reset is told once, to whoever asks first.
        let written = stream.write_all(b"PING\r\n");
        let was_reset = written.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset);
        let mut answer = [0; 64];
        let place = match stream.read(&mut answer) {
            Ok(bytes) if answer[..bytes].starts_with(b"+PONG") => &mut self.served,
            Ok(bytes) if answer[..bytes].starts_with(b"-ERR max number of clients reached") => &mut self.told,
            Ok(0) if was_reset => &mut self.reset,
            Ok(0) => &mut self.silent,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => &mut self.reset,
            other => panic!("{self:?}, and then {other:?} {answer:?}"),
        };
        *place += 1;
    }
}

/// Lets this process have as many descriptors as the system allows; `pollux doctor` asks for as many as are needed here.
fn raise_limit_of_descriptors(needed: u64) {
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("allowed");
    assert!(limit.maximum.is_none_or(|most| most >= needed), "{needed} descriptors are needed: see `pollux doctor`");
}

#[test]
fn ten_thousand_connections_are_taken_or_refused_and_the_store_goes_on() {
    const ATTEMPTS: usize = 10_000;
    raise_limit_of_descriptors(ATTEMPTS as u64 + 200);
    let mut pair = Pair::up(&Options::new("kv").alone());
    let address = pair.address(6379);
    let mut first = connect(address);
    assert!(first.must("SET a 1").is_ok());
    let most = match first.must("CONFIG GET maxclients") {
        Reply::Array(Some(pair)) => match &pair[..] {
            [_, Reply::Bulk(Some(number))] => {
                str::from_utf8(number).expect("UTF-8").parse::<usize>().expect("a number")
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other}"),
    };
    assert!((500..ATTEMPTS / 2).contains(&most), "{most}");
    let mut attempts = Attempts::default();
    let mut open = Vec::new();
    for _ in 0..ATTEMPTS {
        match TcpStream::connect_timeout(&address, Duration::from_secs(20)) {
            Ok(stream) => open.push(stream),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => attempts.reset += 1,
            Err(error) => panic!("after {} connections: {error}", open.len()),
        }
    }
    for stream in &mut open {
        attempts.note(stream);
    }
    println!("{ATTEMPTS} attempts, {most} clients at most: {attempts:?}");
    assert_eq!(attempts.served, most - 1, "as many as the store says, the first one among them");
    assert!(attempts.told > 0, "the store itself tells those whom it has places for");
    assert_eq!(attempts.silent, 0, "nobody is left to guess");
    assert_eq!(attempts.served + attempts.told + attempts.reset, ATTEMPTS);
    assert_eq!(first.must("GET a"), Reply::bulk("1"), "whoever was there before is served");
    drop(open);
    pair.wait_until("the end of the connections", |status| (status.hub["connections_open"] <= 1).then_some(()));
    assert_eq!(connect(address).must("GET a"), Reply::bulk("1"), "and new ones are taken again");
    still_paired(&mut pair);
    fail_over(&mut pair);
    assert_eq!(first.must("INCR a"), Reply::Integer(2));
    pair.down();
}
