//! What a connection promises: limits, back-pressure, memory, time, other clients. No redis is needed.

use kv::{Config, Server, Session, TooManyClients};

const NOW_MS: i64 = 1_700_000_000_000;

struct Client<'s> {
    server: &'s mut Server,
    session: Session,
    now_ms: i64,
}

impl<'s> Client<'s> {
    fn new(server: &'s mut Server) -> Self {
        let session = Session::open(server, NOW_MS, "10.0.2.2:1").expect("room for a client");
        Self { server, session, now_ms: NOW_MS }
    }

    fn ask(&mut self, line: &str) -> String {
        ask(&mut self.session, self.server, self.now_ms, line)
    }

    /// The keys and values in the server, asked for by the number that INFO gives.
    fn data_bytes(&self) -> usize {
        self.server.data_bytes()
    }
}

fn ask(session: &mut Session, server: &mut Server, now_ms: i64, line: &str) -> String {
    let input = format!("{line}\r\n");
    assert_eq!(session.feed(server, now_ms, input.as_bytes()), input.len(), "{line}");
    let output = String::from_utf8_lossy(session.output()).into_owned();
    session.advance_output(output.len());
    output
}

fn server(memory_bytes: usize) -> Server {
    Server::new(Config::for_memory(memory_bytes, 1, 2), NOW_MS)
}

const OOM: &str = "-OOM command not allowed when used memory > 'maxmemory'.\r\n";

#[test]
fn over_the_memory_limit_writes_fail_and_reads_and_deletes_work() {
    let mut server = server(8 << 20);
    let mut client = Client::new(&mut server);
    let value = "v".repeat(4000);
    let mut stored = 0;
    while client.ask(&format!("set key:{stored} {value}")) == "+OK\r\n" {
        stored += 1;
    }
    assert!(stored > 1000, "{stored} values of 4000 bytes in 6 MiB");
    for write in ["set a b", "lpush l 1", "incr n", "hset h f v", "zadd z 1 m", "sadd s m", "setrange a 1 x"] {
        assert_eq!(client.ask(write), OOM, "{write}");
    }
    assert!(client.ask("get key:0").contains(&value));
    assert_eq!(client.ask("multi"), "+OK\r\n");
    assert_eq!(client.ask("set a b"), OOM);
    assert!(client.ask("exec").starts_with("-EXECABORT"));
    assert_eq!(client.ask("del key:0 key:1 key:2 key:3 key:4 key:5 key:6 key:7"), ":8\r\n");
    assert_eq!(client.ask("set a b"), "+OK\r\n");
    assert_eq!(client.ask("flushall"), "+OK\r\n");
    assert_eq!(client.data_bytes(), 0);
}

#[test]
fn little_input_cannot_take_much_memory() {
    let mut server = server(16 << 20);
    let mut client = Client::new(&mut server);
    assert_eq!(
        client.ask("setrange a 536870000 x"),
        "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"
    );
    assert_eq!(client.ask("setbit a 4294967295 1"), "-ERR bit offset is not an integer or out of range\r\n");
    let members: Vec<String> = (0..50_000).map(|n| format!("member:{n}")).collect();
    for chunk in members.chunks(1000) {
        client.ask(&format!("sadd s {}", chunk.join(" ")));
    }
    let used = client.data_bytes();
    let mut copies = 0;
    while client.ask(&format!("sunionstore s{copies} s")) != OOM {
        copies += 1;
    }
    assert!(client.data_bytes() <= 12 << 20, "the limit holds before the copy is made");
    assert!((1..=(12 << 20) / used).contains(&copies));
    assert_eq!(client.ask("copy s c"), OOM);
    // A reply beyond the hard limit is refused, a read leaves the connection usable.
    assert_eq!(client.ask("srandmember s -100000000"), "-ERR reply is larger than the output limit of this server\r\n");
    assert_eq!(client.ask("ping"), "+PONG\r\n");
    assert!(!client.session.wants_close());
}

#[test]
fn a_lost_reply_to_a_write_ends_the_connection() {
    let mut server = server(8 << 20);
    let mut client = Client::new(&mut server);
    let value = "v".repeat(60_000);
    for _ in 0..20 {
        client.ask(&format!("rpush l {value}"));
    }
    assert_eq!(client.ask("lpop l 20"), "-ERR reply is larger than the output limit of this server\r\n");
    assert!(client.session.wants_close());
}

#[test]
fn a_client_that_does_not_read_is_not_served() {
    let mut server = server(64 << 20);
    let mut session = Session::open(&mut server, NOW_MS, "x").expect("room");
    let input =
        b"*2\r\n$4\r\nECHO\r\n$1000\r\n".iter().chain(&[b'e'; 1000]).chain(b"\r\n").copied().collect::<Vec<u8>>();
    let input = input.repeat(1000);
    let first = session.feed(&mut server, NOW_MS, &input);
    assert!(first < input.len() / 10 && first > 64 * 1000);
    assert_eq!(session.feed(&mut server, NOW_MS, &input[first..]), 0);
    let (mut taken, mut replied) = (first, 0);
    while taken < input.len() || !session.output().is_empty() {
        let part = session.output().len().min(3000);
        replied += part;
        session.advance_output(part);
        taken += session.feed(&mut server, NOW_MS, &input[taken..]);
    }
    assert_eq!(replied, 1000 * (7 + 1000 + 2));
}

#[test]
fn a_large_argument_in_small_pieces_is_taken_and_counted() {
    let mut server = server(64 << 20);
    let mut session = Session::open(&mut server, NOW_MS, "x").expect("room");
    let idle = server.clients_bytes();
    let value = vec![b'x'; 3 << 20];
    let input =
        [b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3145728\r\n", &value[..], b"\r\n*2\r\n$6\r\nSTRLEN\r\n$1\r\nk\r\n"].concat();
    let mut most = 0;
    for piece in input.chunks(1400) {
        assert_eq!(session.feed(&mut server, NOW_MS, piece), piece.len());
        most = most.max(server.clients_bytes());
    }
    assert_eq!(session.output(), b"+OK\r\n:3145728\r\n");
    session.advance_output(usize::MAX);
    session.feed(&mut server, NOW_MS, b"PING\r\n");
    assert!((3 << 20..(3 << 20) + 10_000).contains(&most), "{most}");
    assert!(server.clients_bytes() < idle + 10_000);
    assert!(server.data_bytes() > 3 << 20);
    session.close(&mut server);
    assert_eq!((server.clients_bytes(), server.connected()), (0, 0));
}

#[test]
fn half_sent_commands_of_many_clients_are_bounded() {
    let mut server = server(16 << 20);
    let mut sessions = Vec::new();
    let start = [b"*2\r\n$4\r\nECHO\r\n$1000000\r\n", &[b'x'; 900_000][..]].concat();
    for _ in 0..20 {
        let mut session = Session::open(&mut server, NOW_MS, "x").expect("room");
        session.feed(&mut server, NOW_MS, &start);
        sessions.push(session);
    }
    let refused = sessions.iter().filter(|session| session.wants_close()).count();
    assert!((14..=17).contains(&refused), "{refused} of 20");
    assert!(sessions.iter().filter(|s| s.wants_close()).all(|s| s.output().starts_with(b"-OOM query buffers")));
    assert!(server.clients_bytes() < 5 << 20);
}

#[test]
fn a_transaction_cannot_queue_without_bound() {
    let mut server = server(16 << 20);
    let mut client = Client::new(&mut server);
    client.ask("multi");
    let line = format!("ping {}", "x".repeat(50_000));
    let queued = (0..1000).take_while(|_| client.ask(&line) == "+QUEUED\r\n").count();
    assert!((50..=84).contains(&queued), "{queued}");
    assert!(client.ask("exec").starts_with("-EXECABORT"));
}

#[test]
fn keys_end_when_their_time_has_come() {
    let mut server = server(16 << 20);
    let mut client = Client::new(&mut server);
    client.ask("set a 1 px 1500");
    client.ask("setex b 100 x");
    client.ask("rpush l x");
    client.ask("pexpire l 200");
    assert_eq!((client.ask("ttl a"), client.ask("pttl a")), (":2\r\n".into(), ":1500\r\n".into()));
    client.now_ms += 200;
    assert_eq!(client.ask("exists l"), ":1\r\n");
    client.now_ms += 1;
    assert_eq!((client.ask("exists l"), client.ask("lpush l y")), (":0\r\n".into(), ":1\r\n".into()));
    assert_eq!(client.ask("incr a"), ":2\r\n");
    assert_eq!(client.ask("pttl a"), ":1299\r\n");
    client.now_ms += 1300;
    assert_eq!(client.ask("get a"), "$-1\r\n");
    client.now_ms += 100_000;
    assert_eq!(client.ask("keys *"), "*1\r\n$1\r\nl\r\n");
    let now_ms = client.now_ms;
    assert_eq!(client.ask("dbsize"), ":2\r\n");
    assert_eq!(client.server.tick(now_ms, 0), Some(NOW_MS + 100_001));
    assert_eq!(client.server.tick(now_ms, 10), None);
    assert_eq!(client.ask("dbsize"), ":1\r\n");
    assert!(client.ask("info stats").contains("expired_keys:3"));
}

#[test]
fn an_expired_watched_key_aborts_and_so_does_another_clients_write() {
    let mut server = server(16 << 20);
    let mut other = Session::open(&mut server, NOW_MS, "x").expect("room");
    let mut client = Client::new(&mut server);
    client.ask("set a 1 px 100");
    for (wait_ms, write, aborted) in [
        (0, "ping", false),
        (0, "set b 1", false),
        (0, "append a x", true),
        (101, "ping", true),
        (0, "flushall", false),
        (0, "lpush a 1", true),
        (0, "flushdb", true),
    ] {
        client.ask("watch a");
        client.now_ms += wait_ms;
        ask(&mut other, client.server, client.now_ms, write);
        client.ask("multi");
        client.ask("ping");
        assert_eq!(client.ask("exec") == "*-1\r\n", aborted, "{write} after {wait_ms} ms");
    }
}

#[test]
fn clients_are_listed_named_killed_and_limited() {
    let mut server = Server::new(Config { max_clients: 3, ..Config::for_memory(16 << 20, 1, 2) }, NOW_MS);
    let mut a = Session::open(&mut server, NOW_MS, "10.0.2.2:1").expect("room");
    let mut b = Session::open(&mut server, NOW_MS, "10.0.2.2:2").expect("room");
    let c = Session::open(&mut server, NOW_MS, "10.0.2.2:3").expect("room");
    assert_eq!(Session::open(&mut server, NOW_MS, "10.0.2.2:4").err(), Some(TooManyClients));
    c.close(&mut server);
    let mut ask = |session: &mut Session, line: &str| ask(session, &mut server, NOW_MS + 5000, line);
    ask(&mut b, "client setname bee");
    ask(&mut b, "select 3");
    let list = ask(&mut a, "client list");
    assert!(
        list.contains("id=2 addr=10.0.2.2:2") && list.contains("name=bee age=5 idle=0") && list.contains("db=3"),
        "{list}"
    );
    assert!(
        !list.contains("10.0.2.2:3") && list.contains("id=1 addr=10.0.2.2:1 laddr= fd=1 name= age=5 idle=0"),
        "{list}"
    );
    assert_eq!(ask(&mut a, "client kill id 2"), ":1\r\n");
    assert_eq!(ask(&mut a, "client kill id 2"), ":1\r\n");
    assert_eq!(ask(&mut a, "client kill 10.0.2.2:9"), "-ERR No such client\r\n");
    assert_eq!((server.take_killed(), server.take_killed()), (Some(2), None));
    assert_eq!(b.feed(&mut server, NOW_MS, b"") + b.output().len(), 0);
    assert!(b.wants_close() && !a.wants_close());
    b.close(&mut server);
    assert_eq!(server.connected(), 1);
    assert!(a.id() == 1);
}

#[test]
fn random_commands_take_what_they_return() {
    let mut server = server(16 << 20);
    let mut client = Client::new(&mut server);
    client.ask("sadd s a b c d e f g h");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let popped = client.ask("spop s");
        let member = popped.lines().nth(1).expect("a member").to_owned();
        assert_eq!(client.ask(&format!("sismember s {member}")), ":0\r\n");
        assert!(seen.insert(member));
    }
    assert_eq!(client.ask("scard s"), ":4\r\n");
    let all = client.ask("spop s 10");
    assert!(all.starts_with("*4\r\n") && all.lines().skip(2).step_by(2).all(|member| seen.insert(member.into())));
    assert_eq!(client.ask("exists s"), ":0\r\n");
    client.ask("hset h a 1 b 2 c 3");
    let pairs = client.ask("hrandfield h 5 withvalues");
    assert!(pairs.starts_with("*6\r\n"), "{pairs}");
    client.ask("set k v");
    assert!(["$1\r\nh\r\n", "$1\r\nk\r\n"].contains(&client.ask("randomkey").as_str()));
}

#[test]
fn two_servers_with_equal_seeds_answer_alike_to_the_byte() {
    let mut servers = [server(16 << 20), server(16 << 20)];
    let mut sessions: Vec<_> =
        servers.iter_mut().map(|server| Session::open(server, NOW_MS, "x").expect("room")).collect();
    let lines = (0..3000).map(|n| match n % 7 {
        0 => format!("sadd s {n}"),
        1 => format!("set k{n} {n} px {}", n + 1),
        2 => "spop s".into(),
        3 => "randomkey".into(),
        4 => format!("hset h f{n} v"),
        5 => "scan 0 count 30".into(),
        _ => "info".into(),
    });
    for (n, line) in lines.enumerate() {
        let [a, b] = [0, 1].map(|i| ask(&mut sessions[i], &mut servers[i], NOW_MS + n as i64, &line));
        assert_eq!(a, b, "{line}");
    }
}

#[test]
fn introspection_tells_what_tools_ask_for() {
    let mut server = server(16 << 20);
    let mut client = Client::new(&mut server);
    assert!(client.ask("config get save").contains("$4\r\nsave\r\n$0\r\n"));
    assert!(client.ask("config get MAXM*").contains("maxmemory-policy"));
    assert_eq!(client.ask("config set maxmemory 10mb maxclients 5"), "+OK\r\n");
    assert!(client.ask("config get maxmemory").contains("10485760"));
    assert!(client.ask("config set port 1").starts_with("-ERR CONFIG SET failed"));
    assert!(client.ask("config set maxmemory x").starts_with("-ERR CONFIG SET failed"));
    assert!(client.ask("command info get nosuch").starts_with("*2\r\n*10\r\n$3\r\nget\r\n:2\r\n"));
    assert_eq!(client.ask("command getkeys mset a 1 b 2"), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    assert_eq!(client.ask("command getkeys zunionstore d 2 a b"), "*3\r\n$1\r\nd\r\n$1\r\na\r\n$1\r\nb\r\n");
    let info = client.ask("info");
    for section in ["# Server", "# Clients", "# Memory", "# Stats", "# Replication", "# Keyspace", "role:master"] {
        assert!(info.contains(section), "{section}");
    }
    assert_eq!(client.ask("time"), "*2\r\n$10\r\n1700000000\r\n$1\r\n0\r\n");
    assert!(client.ask("debug sleep 1").starts_with("-ERR DEBUG"));
    assert!(client.ask("debug compute 1").starts_with("-ERR DEBUG COMPUTE, CHECKPOINT and RESTORE not allowed"));
    client.ask("set s 12");
    client.ask("set t abc");
    client.ask("zadd z 1 a");
    for (key, encoding) in [("s", "int"), ("t", "embstr"), ("z", "listpack")] {
        assert!(client.ask(&format!("object encoding {key}")).contains(encoding));
    }
}
