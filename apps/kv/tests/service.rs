//! Runs the whole program, network included, on a fake shim against clients with a stack of their own.

use std::cell::RefCell;
use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use kv::service::{Error, main};
use netstack::Error as NetError;
use runtime::host::dialogue::{Dialogue, Dialogues};
use runtime::host::disk::HostDisk;
use runtime::host::peer::Peer;
use runtime::host::{End, Outcome, Setup, run};
use runtime::random::Rng;

type World = Rc<RefCell<Peer<Dialogues>>>;

fn clients(port: u16, said: Vec<Vec<u8>>) -> World {
    let connections = said.len();
    let remote = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), port);
    let driver = Dialogues { remote, all: said.into_iter().map(Dialogue::new).collect() };
    Rc::new(RefCell::new(Peer::new(driver, connections + 1)))
}

fn go(setup: &Setup, world: &World) -> Outcome<Result<(), Error>> {
    run(setup, world, main)
}

fn with_arguments(arguments: &str) -> Setup {
    Setup { arguments: arguments.into(), ..Setup::default() }
}

fn heard(world: &World, connection: usize) -> String {
    String::from_utf8_lossy(&world.borrow().driver.all[connection].heard).into_owned()
}

/// A command as clients send it.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[test]
fn commands_are_answered_and_the_console_says_when() {
    let world = clients(6379, vec![b"PING\r\nSET a 1\r\nINCR a\r\nGET a\r\nNONSENSE\r\n".to_vec()]);
    let outcome = go(&Setup::default(), &world);
    assert_eq!((outcome.end, &outcome.console[..]), (End::Stopped, &b"kv: ready on port 6379\n"[..]));
    let answer = heard(&world, 0);
    assert!(answer.starts_with("+PONG\r\n+OK\r\n:2\r\n$1\r\n2\r\n-ERR unknown command"), "{answer}");
}

/// What `DEBUG COMPUTE` gives.
fn computed(rounds: u64) -> i64 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..rounds {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    state as i64
}

#[test]
fn a_computation_is_answered_in_its_turn_and_only_where_it_is_allowed() {
    let said = b"SET a 1\r\nDEBUG COMPUTE 1000\r\nINCR a\r\nDEBUG COMPUTE 0\r\nDEBUG COMPUTE -1\r\nMULTI\r\n\
        DEBUG COMPUTE 5\r\nINCR a\r\nEXEC\r\nCLIENT REPLY SKIP\r\nDEBUG COMPUTE 5\r\nINCR a\r\n";
    let world = clients(6379, vec![said.to_vec(), said.to_vec()]);
    assert_eq!(go(&with_arguments("debug=yes"), &world).end, End::Stopped);
    let expected = format!(
        "+OK\r\n:{}\r\n:#\r\n:{}\r\n-ERR value is not an integer or out of range\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n\
         -ERR DEBUG COMPUTE, CHECKPOINT and RESTORE are not allowed in transactions\r\n:#\r\n:#\r\n",
        computed(1000),
        computed(0)
    );
    for connection in 0..2 {
        // The two count on the same key; everything else is the same.
        let mut answer = heard(&world, connection);
        for number in 2..=7 {
            answer = answer.replace(&format!(":{number}\r\n"), ":#\r\n");
        }
        assert_eq!(answer, expected);
    }
}

#[test]
fn pipelines_from_many_connections_are_answered_in_order_and_counted_exactly_once() {
    let (connections, increments) = (60, 300);
    let mut said = Vec::new();
    for connection in 0..connections {
        let mut bytes = Vec::new();
        for step in 0..increments {
            bytes.extend(command(&[b"INCR", b"total"]));
            bytes.extend(command(&[b"INCR", format!("own:{connection}").as_bytes()]));
            bytes.extend(command(&[b"SET", format!("k:{connection}:{step}").as_bytes(), &vec![b'x'; step]]));
        }
        said.push(bytes);
    }
    let world = clients(6379, said);
    assert_eq!(go(&Setup::default(), &world).end, End::Stopped);
    let mut totals = Vec::new();
    for connection in 0..connections {
        let answer = heard(&world, connection);
        let lines: Vec<&str> = answer.split("\r\n").collect();
        assert_eq!(lines.len(), 3 * increments + 1);
        for (step, replies) in lines.chunks_exact(3).enumerate() {
            totals.push(replies[0].strip_prefix(':').and_then(|n| n.parse::<usize>().ok()).expect("a number"));
            assert_eq!((replies[1], replies[2]), (format!(":{}", step + 1).as_str(), "+OK"));
        }
    }
    totals.sort_unstable();
    assert!(totals.into_iter().eq(1..=connections * increments), "every increment is seen once");
}

#[test]
fn two_runs_are_equal_to_the_byte() {
    let seed = 0x6b76;
    println!("seed {seed:#x}");
    let once = || {
        let mut rng = Rng::from_seed(seed);
        let said = (0..20).map(|_| {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                let key = format!("key:{}", rng.below(50));
                let words: &[&[u8]] = match rng.below(7) {
                    0 => &[b"SET", key.as_bytes(), b"value"],
                    1 => &[b"SADD", b"set", key.as_bytes()],
                    2 => &[b"SPOP", b"set"],
                    3 => &[b"RANDOMKEY"],
                    4 => &[b"SCAN", b"0"],
                    5 => &[b"INFO"],
                    _ => &[b"SET", key.as_bytes(), b"1", b"PX", b"1"],
                };
                bytes.extend(command(words));
            }
            bytes
        });
        let world = clients(6379, said.collect());
        let outcome = go(&Setup::default(), &world);
        (outcome, (0..20).map(|connection| heard(&world, connection)).collect::<Vec<_>>())
    };
    assert_eq!(once(), once());
}

#[test]
fn large_values_and_replies_pass_through_small_buffers() {
    let value = vec![b'v'; 300_000];
    let mut said = command(&[b"SET", b"big", &value]);
    for _ in 0..5 {
        said.extend(command(&[b"GET", b"big"]));
    }
    let world = clients(6379, vec![said]);
    assert_eq!(go(&with_arguments("rx=1kb tx=1kb"), &world).end, End::Stopped);
    let answer = heard(&world, 0);
    assert_eq!(answer.len(), "+OK\r\n".len() + 5 * ("$300000\r\n\r\n".len() + value.len()));
    assert!(answer.ends_with("vvv\r\n"));
}

#[test]
fn clients_beyond_the_limit_are_told() {
    // Nobody closes before all have connected: a half-closed client is still a client until it has its answer, and
    // all SYNs arrive in the same epoch.
    let world = clients(7000, vec![b"PING\r\n".to_vec(); 12]);
    assert_eq!(go(&with_arguments("maxclients=5 port=7000"), &world).end, End::Stopped);
    let told = (0..12).filter(|&connection| heard(&world, connection) == "-ERR max number of clients reached\r\n");
    let (told, served) = (told.count(), (0..12).filter(|&connection| heard(&world, connection) == "+PONG\r\n").count());
    assert_eq!((told, served), (7, 5));
}

#[test]
fn a_flood_of_connections_leaves_the_store_serving() {
    let mut said = vec![b"PING\r\n".to_vec(); 10_000];
    said.push(b"PING\r\n".to_vec());
    let world = clients(6379, said);
    assert_eq!(go(&Setup::default(), &world).end, End::Stopped);
    let world = world.borrow();
    let count = |wanted: &dyn Fn(&Dialogue) -> bool| world.driver.all.iter().filter(|d| wanted(d)).count();
    let served = count(&|d| d.heard == b"+PONG\r\n");
    let told = count(&|d| d.heard.starts_with(b"-ERR max number"));
    let refused = count(&|d| d.end == Some(Err(NetError::Refused)));
    let ends: std::collections::BTreeSet<_> = world.driver.all.iter().map(|d| format!("{:?}", d.end)).collect();
    assert_eq!(served + told + refused, 10_001, "{served} served, {told} told, {refused} refused, {ends:?}");
    assert!(served > 100, "{served} served");
}

#[test]
fn client_kill_ends_another_connection() {
    let world = clients(6379, vec![Vec::new(), b"CLIENT KILL TYPE normal\r\n".to_vec()]);
    // The victim waits with a command cut short and does not end by itself.
    world.borrow_mut().driver.all[0] = Dialogue::lingering(b"*2\r\n$3\r\nGET\r\n$100\r\nabc");
    assert_eq!(go(&Setup::default(), &world).end, End::Stopped);
    let answer = heard(&world, 1);
    assert_eq!(answer, ":1\r\n");
    assert!(world.borrow().driver.all[0].end.is_some());
}

#[test]
fn quit_answers_although_more_was_sent() {
    let mut said = b"PING\r\nQUIT\r\n".to_vec();
    said.resize(20_000, b'x');
    let world = clients(6379, vec![Vec::new()]);
    world.borrow_mut().driver.all[0] = Dialogue::lingering(said);
    assert_eq!(go(&Setup::default(), &world).end, End::Stopped);
    assert_eq!(heard(&world, 0), "+PONG\r\n+OK\r\n");
    assert_eq!(world.borrow().driver.all[0].end, Some(Ok(())));
}

#[test]
fn a_protocol_error_is_answered_and_ends_the_connection() {
    let world = clients(6379, vec![b"*1\r\n:nonsense\r\nPING\r\n".to_vec(), b"PING\r\n".to_vec()]);
    assert_eq!(go(&Setup::default(), &world).end, End::Stopped);
    assert_eq!(heard(&world, 0), "-ERR Protocol error: expected '$', got ':'\r\n");
    assert_eq!(heard(&world, 1), "+PONG\r\n");
}

#[test]
fn memory_limit_is_an_error_and_not_the_end() {
    let mut said = Vec::new();
    for step in 0..3000 {
        said.extend(command(&[b"SET", format!("key:{step}").as_bytes(), &[b'x'; 1000]]));
    }
    said.extend(command(&[b"GET", b"key:1"]));
    said.extend(command(&[b"FLUSHALL"]));
    said.extend(command(&[b"SET", b"again", b"1"]));
    let world = clients(6379, vec![said]);
    assert_eq!(go(&with_arguments("maxmemory=1mb"), &world).end, End::Stopped);
    let answer = heard(&world, 0);
    let refused = answer.matches("-OOM command not allowed when used memory > 'maxmemory'.\r\n").count();
    assert!((1500..2500).contains(&refused), "{refused} of 3000 refused");
    let mut end = String::new();
    write!(end, "$1000\r\n{}\r\n+OK\r\n+OK\r\n", "x".repeat(1000)).expect("writing to a string");
    assert!(answer.ends_with(&end));
}

#[test]
fn wrong_arguments_end_the_program_with_a_message() {
    let world = clients(6379, vec![b"PING\r\n".to_vec()]);
    let outcome = go(&with_arguments("port=elephant"), &world);
    let End::Returned(Err(error)) = outcome.end else { panic!("the program ran: {:?}", outcome.end) };
    assert_eq!(error.to_string(), "`port=elephant`: expected a port from 1 to 65535");
}

fn with_disk(arguments: &str, disk: &HostDisk) -> Setup {
    Setup { arguments: arguments.into(), disks: vec![disk.clone()], ..Setup::default() }
}

#[test]
fn what_was_written_is_there_after_a_restart() {
    for fsync in ["always", "everysec", "no"] {
        let disk = HostDisk::new("data", 4096);
        let setup = with_disk(&format!("appendonly=yes appendfsync={fsync}"), &disk);
        let said = b"SET a 1\r\nINCR a\r\nRPUSH l x y\r\nGET a\r\n".to_vec();
        let world = clients(6379, vec![said, b"INCR n\r\nINCR n\r\n".to_vec()]);
        let outcome = go(&setup, &world);
        assert_eq!(outcome.end, End::Stopped);
        let console = String::from_utf8_lossy(&outcome.console).into_owned();
        assert!(console.starts_with("kv: replayed 0 records"), "{console}");
        assert_eq!(heard(&world, 0), "+OK\r\n:2\r\n:2\r\n$1\r\n2\r\n");
        assert_eq!(heard(&world, 1), ":1\r\n:2\r\n");
        if fsync != "always" {
            // The world stops with its last reply, which may be before the second is over.
            continue;
        }
        let again = clients(6379, vec![b"GET a\r\nLRANGE l 0 -1\r\nGET n\r\nCONFIG GET appendfsync\r\n".to_vec()]);
        let outcome = go(&setup, &again);
        let console = String::from_utf8_lossy(&outcome.console).into_owned();
        assert!(console.starts_with("kv: replayed 5 records"), "{console}");
        let expected = "$1\r\n2\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\n2\r\n*2\r\n$11\r\nappendfsync\r\n$6\r\nalways\r\n";
        assert_eq!(heard(&again, 0), expected);
    }
}

/// The time is a little more than the slice took, and of a log that is one slice there is nothing to tell.
#[test]
fn info_tells_the_longest_slice_of_a_rewrite() {
    for (keys, told) in [(10, false), (400, true)] {
        let disk = HostDisk::new("data", 1 << 14);
        let mut said = Vec::new();
        for key in 0..keys {
            said.extend(command(&[b"SET", format!("key:{key}").as_bytes(), &[b'x'; 400]]));
        }
        said.extend(command(&[b"BGREWRITEAOF"]));
        // Each of these gives the log a turn.
        for _ in 0..2000 {
            said.extend(command(&[b"INFO", b"persistence"]));
        }
        let world = clients(6379, vec![said]);
        let setup = with_disk("appendonly=yes appendfsync=no", &disk);
        assert_eq!(go(&setup, &world).end, End::Stopped);
        let answer = heard(&world, 0);
        let (_, last) = answer.rsplit_once("# Persistence").expect("INFO was answered");
        let number = |name: &str| -> u64 {
            let found = last.lines().find_map(|line| line.strip_prefix(name));
            found.expect("INFO tells it").trim().parse().expect("a number")
        };
        assert_eq!(number("aof_rewrites:"), 1, "{last}");
        assert_eq!(number("aof_rewrite_longest_slice_us:") > 0, told, "{keys} keys: {last}");
    }
}

/// What can never be made to last is not acknowledged.
#[test]
fn a_reply_that_cannot_be_kept_is_not_sent() {
    let disk = HostDisk::new("data", 4096);
    // In the second segment: the first is read at the start, and the log comes to it soon.
    disk.fail_at(50);
    let mut said = Vec::new();
    for n in 0..40 {
        said.extend_from_slice(&command(&[b"SET", format!("key:{n}").as_bytes(), &[b'v'; 700]]));
    }
    let world = clients(6379, vec![said]);
    let outcome = go(&with_disk("appendonly=yes appendfsync=always", &disk), &world);
    let console = String::from_utf8_lossy(&outcome.console).into_owned();
    assert!(console.contains("kv: cannot write to the disk (Input/output error): writes are refused"), "{console}");
    let replies = heard(&world, 0).matches("+OK").count();
    assert!(replies < 40, "{replies}");
}

#[test]
fn a_disk_that_is_missing_or_foreign_is_said() {
    let outcome = go(&with_arguments("appendonly=yes"), &clients(6379, vec![b"PING\r\n".to_vec()]));
    let End::Returned(Err(error)) = outcome.end else { panic!("{:?}", outcome.end) };
    assert!(error.to_string().starts_with("disk data: the device failed: ENOENT"), "{error}");
    let disk = HostDisk::new("data", 4096);
    disk.content_mut()[..7].copy_from_slice(b"foreign");
    let outcome = go(&with_disk("appendonly=yes", &disk), &clients(6379, vec![b"PING\r\n".to_vec()]));
    let End::Returned(Err(error)) = outcome.end else { panic!("{:?}", outcome.end) };
    assert!(error.to_string().contains("no record store"), "{error}");
}

/// Every type, an expiry, several databases: by user-level checkpoints, in memory and on a disk.
#[test]
fn a_user_level_checkpoint_brings_all_databases_back() {
    let fill =
        b"SET s text\r\nSETEX e 1000 soon\r\nRPUSH l a b c\r\nSADD u x y\r\nHSET h f 1 g 2\r\nZADD z 1.5 m 2 n\r\n\
        SELECT 3\r\nSET other 7\r\nSELECT 0\r\nDEBUG CHECKPOINT\r\n";
    let spoil = b"FLUSHALL\r\nSET new 1\r\nLPUSH l wrong\r\nDEBUG RESTORE\r\n";
    let look = b"DBSIZE\r\nGET s\r\nTTL e\r\nLRANGE l 0 -1\r\nSCARD u\r\nHGET h g\r\nZSCORE z m\r\nGET new\r\nSELECT 3\r\nGET other\r\n";
    for disks in [Vec::new(), vec![runtime::host::disk::HostDisk::new("data", 4096)]] {
        let world = clients(6379, vec![[&fill[..], spoil, look].concat()]);
        let setup = Setup { disks, ..with_arguments("debug=yes") };
        assert_eq!(go(&setup, &world).end, End::Stopped);
        let answer = heard(&world, 0);
        let (_, after) = answer.rsplit_once(":7\r\n").expect("seven keys come back");
        assert_eq!(
            after.replace(":999\r\n", ":1000\r\n"),
            ":6\r\n$4\r\ntext\r\n:1000\r\n*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n:2\r\n$1\r\n2\r\n$3\r\n1.5\r\n$-1\r\n+OK\r\n$1\r\n7\r\n",
            "{answer}"
        );
    }
    let world = clients(6379, vec![b"DEBUG CHECKPOINT\r\n".to_vec()]);
    assert_eq!(go(&Setup::default(), &world).end, End::Stopped);
    assert!(heard(&world, 0).starts_with("-ERR DEBUG COMPUTE, CHECKPOINT"), "{}", heard(&world, 0));
}
