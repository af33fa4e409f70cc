//! A pair on a bridge, where the guest has an address of its own.
//!
//! Each test has a network of its own, see [`namespaces`].

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use pollux_tests::client::{Client, Reply};
use pollux_tests::load::Load;
use pollux_tests::namespaces::{self, UnshareFlags};
use pollux_tests::pair::{DEADLINE, Failure, Options, Pair};
use pollux_tests::status::Role;
use pollux_tests::workbench::{image, seed};
use rustix::thread::CapabilitySet;

/// The store's port.
const PORT: u16 = 6379;
/// Exit codes of the command.
const WRONG_USAGE: i32 = 2;
const NO_TAP: i32 = 14;
const SERVER_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const LEASED_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 77);
const FIXED_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// Runs a test on a thread with a network of its own, in which there is the bridge br0 with 10.9.0.1/24.
fn with_bridge(test: fn()) {
    // Built outside: a build may need the host's network.
    image("kv");
    namespaces::inside(UnshareFlags::NEWNET, move || {
        for command in [
            "link add br0 type bridge",
            "address add 10.9.0.1/24 dev br0",
            "link set br0 up",
            "route add 255.255.255.255/32 dev br0",
        ] {
            ip(command);
        }
        test();
    });
}

/// Runs `ip` with words separated by spaces, and returns what it printed.
fn ip(words: &str) -> String {
    namespaces::run(&format!("ip {words}"))
}

fn store(net: &str) -> Options {
    Options::new("kv").unpublished().with(&["--net", net])
}

/// The guest's network, as `status --json` shows it.
fn net_status(pair: &Pair) -> serde_json::Value {
    let status: serde_json::Value = serde_json::from_str(&pair.must(&["status", "--json"])).expect("JSON");
    status["net"].clone()
}

/// The ports of the bridge, one a line.
fn bridge_ports() -> String {
    ip("-oneline link show master br0")
}

fn redis_cli(words: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    command.args(["-h", &FIXED_ADDRESS.to_string(), "-p", &PORT.to_string()]).args(words);
    let output = command.stdin(Stdio::null()).output().expect("redis-cli starts");
    assert!(output.status.success(), "redis-cli {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("redis-cli writes UTF-8").trim().to_owned()
}

#[test]
fn clients_on_a_bridge_do_not_notice_that_the_primary_is_killed() {
    with_bridge(|| {
        let seed = seed("killed behind a tap");
        let mut pair = Pair::up(&store("tap,bridge=br0,address=10.9.0.2/24,gateway=10.9.0.1").alone());
        let net = net_status(&pair);
        assert_eq!(
            (&net["uplink"], &net["address"], &net["bridge"]),
            (&"tap".into(), &"10.9.0.2".into(), &"br0".into())
        );
        let device = net["device"].as_str().expect("the tap's name").to_owned();
        assert!(bridge_ports().contains(&device), "{device} is a port of the bridge: {}", bridge_ports());

        assert_eq!(redis_cli(&["set", "greeting", "hello"]), "OK");
        let address = SocketAddr::from((FIXED_ADDRESS, PORT));
        let mut idle = Client::connect(address).expect("the guest takes connections");
        assert_eq!(idle.must("GET greeting"), Reply::bulk("hello"));
        let neighbour = || ip(&format!("-brief neighbour show {FIXED_ADDRESS}"));
        let mac = net["mac"].as_str().expect("the guest's Ethernet address").to_owned();
        assert!(neighbour().contains(&mac), "{mac}: {}", neighbour());

        let load = Load::start(address, 4, seed);
        pair.kill(Role::Primary, "KILL");
        let status = pair.wait_for_solo(2);
        assert_eq!(status.replicas[0].replica, 1, "the backup is the one that goes on");
        load.wait_for_answers(100);
        load.finish();

        assert_eq!(idle.must("GET greeting"), Reply::bulk("hello"), "the idle connection goes on too");
        assert_eq!(redis_cli(&["get", "greeting"]), "hello", "and new ones are taken");
        assert!(neighbour().contains(&mac), "the guest has kept its Ethernet address: {}", neighbour());
        assert_eq!(pair.status().hub["frames_dropped_by_tap"], 0);
        pair.down();
        assert_eq!(bridge_ports(), "", "the tap has gone with its supervisor");
    });
}

/// Answers every DHCP request with one address (RFC 2131), until a datagram comes that is no message at all. The
/// kernel drops what has a wrong checksum, so that whatever arrives here proves the guest's.
fn serve_dhcp(socket: &UdpSocket) {
    const HEADER_BYTES: usize = 240;
    const MESSAGE_TYPE: u8 = 53;
    let mut bytes = [0; 1500];
    loop {
        let length = socket.recv(&mut bytes).expect("a datagram");
        let (header, options) = match bytes[..length].split_at_checked(HEADER_BYTES) {
            Some((header, options)) => (header, options),
            None => return,
        };
        // The client of netstack has the type first.
        let answer = match options {
            [MESSAGE_TYPE, 1, 1, ..] => 2,
            [MESSAGE_TYPE, 1, 3, ..] => 5,
            other => panic!("expected a DISCOVER or a REQUEST, got options {other:?}"),
        };
        let mut reply = header.to_vec();
        reply[0] = 2;
        reply[16..20].copy_from_slice(&LEASED_ADDRESS.octets());
        reply.extend([MESSAGE_TYPE, 1, answer]);
        reply.extend([54, 4].iter().chain(&SERVER_ADDRESS.octets()));
        reply.extend([51, 4, 0, 0, 0x0e, 0x10]);
        reply.extend([1, 4, 255, 255, 255, 0, 255]);
        socket.send_to(&reply, (Ipv4Addr::BROADCAST, 68)).expect("sent");
    }
}

#[test]
fn a_guest_gets_its_address_by_dhcp_and_keeps_it_over_a_failover() {
    with_bridge(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).expect("the server's port");
        socket.set_broadcast(true).expect("broadcasts");
        let server = thread::spawn(move || serve_dhcp(&socket));
        let mut pair = Pair::up(&store("tap,bridge=br0,mac=52:54:00:12:34:56"));
        let net = net_status(&pair);
        assert_eq!(net["address"], LEASED_ADDRESS.to_string(), "`up` returns when the guest has its address");
        assert_eq!(net["mac"], "52:54:00:12:34:56");
        let mut client = Client::connect((LEASED_ADDRESS, PORT).into()).expect("the guest takes connections");
        assert!(client.must("SET answer 42").is_ok());
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_solo(2);
        assert_eq!(client.must("INCR answer"), Reply::Integer(43));
        pair.down();
        let stop = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        stop.send_to(b"stop", (Ipv4Addr::LOCALHOST, 67)).expect("sent");
        server.join().expect("every request was one");
    });
}

/// A client on a cable of its own, which is cut: from one moment on nothing comes from it, not even the end of its
/// connection, and nothing reaches it. Its thread leaves this network for one that holds the cable's other end.
struct Distant {
    /// Dropped, it lets the thread end.
    _stay: mpsc::Sender<()>,
}

impl Distant {
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);
    /// The cable's end at the bridge.
    const NEAR: &str = "near0";

    fn connected() -> Self {
        let (stay, until_dropped) = mpsc::channel::<()>();
        let (say, heard) = mpsc::channel();
        let (plug, plugged) = mpsc::channel();
        thread::spawn(move || {
            namespaces::leave_for(UnshareFlags::NEWNET);
            say.send(rustix::thread::gettid().as_raw_nonzero().get()).expect("it is waited for");
            plugged.recv().expect("the cable comes");
            ip(&format!("address add {}/24 dev far0", Self::ADDRESS));
            ip("link set far0 up");
            let mut client = Client::connect((FIXED_ADDRESS, PORT).into()).expect("the guest takes connections");
            assert!(client.must("SET distant 1").is_ok());
            say.send(0).expect("it is waited for");
            // Nothing is ever sent here; whoever waits for it is told that the other end is gone.
            let _ = until_dropped.recv();
            drop(client);
        });
        let thread = heard.recv().expect("the thread has left");
        ip(&format!("link add {} type veth peer name far0", Self::NEAR));
        ip(&format!("link set far0 netns {thread}"));
        ip(&format!("link set {} master br0 up", Self::NEAR));
        plug.send(()).expect("the thread waits");
        heard.recv().expect("the client is connected");
        Self { _stay: stay }
    }

    fn cut() {
        ip(&format!("link delete {}", Self::NEAR));
    }

    /// Whether the store still counts it among its clients.
    fn is_listed() -> bool {
        redis_cli(&["client", "list"]).contains(&format!("addr={}:", Self::ADDRESS))
    }
}

/// The end of a connection whose other side is gone without a word comes by keep-alive, also over a failover; who is
/// merely silent answers the probes and stays.
#[test]
fn a_peer_that_vanishes_without_a_word_is_given_up_by_keep_alive() {
    with_bridge(|| {
        let net = "tap,bridge=br0,address=10.9.0.2/24";
        let mut pair = Pair::up(&store(net).with(&["--args", "keepalive=1"]));
        let mut silent = Client::connect((FIXED_ADDRESS, PORT).into()).expect("the guest takes connections");
        let id = silent.must("CLIENT ID");
        let distant = Distant::connected();
        assert!(Distant::is_listed(), "{}", redis_cli(&["client", "list"]));
        assert_eq!(redis_cli(&["config", "get", "tcp-keepalive"]), "tcp-keepalive\n1");
        Distant::cut();
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_solo(2);
        let deadline = Instant::now() + DEADLINE;
        while Distant::is_listed() {
            assert!(Instant::now() < deadline, "nobody has missed the client: {}", redis_cli(&["client", "list"]));
        }
        assert_eq!(silent.must("CLIENT ID"), id, "who is there but silent is kept");
        assert_eq!(redis_cli(&["get", "distant"]), "1", "and what was acknowledged to the vanished stays");
        drop(distant);
        pair.down();
    });
}

#[test]
fn a_tap_that_is_removed_is_told_of() {
    with_bridge(|| {
        let mut pair = Pair::up(&store("tap,bridge=br0,address=10.9.0.2/24").with(&["--solo"]));
        let device = net_status(&pair)["device"].as_str().expect("the tap's name").to_owned();
        ip(&format!("link delete {device}"));
        pair.wait_for_event(&format!("tap {device} is gone"));
        assert!(!pair.status().serving, "a guest that cannot be reached does not serve");
        pair.down();
    });
}

fn assert_refused(failure: &Failure, code: i32, words: &[&str]) {
    for word in words {
        assert!(failure.text.contains(word), "{word:?} is not in {:?}", failure.text);
    }
    assert_eq!(failure.code, code, "{}", failure.text);
    assert_eq!(bridge_ports(), "", "nothing is left behind");
}

#[test]
fn what_cannot_be_joined_is_refused_with_what_to_do() {
    with_bridge(|| {
        let refused = |net: &str, more: &[&str]| Pair::refused(&store(net).with(more));
        assert_refused(
            &refused("tap,bridge=br7", &[]),
            NO_TAP,
            &["no network device \"br7\"", "ip link add br7 type bridge"],
        );
        assert_refused(&refused("tap,bridge=lo", &[]), NO_TAP, &["\"lo\" is not a Linux bridge"]);
        let published = refused("tap,bridge=br0", &["--publish", "0:6379"]);
        assert_refused(&published, WRONG_USAGE, &["--publish", "address of its own"]);
        assert_refused(&refused("tap,bridge=br0", &["--allow-host"]), WRONG_USAGE, &["--allow-host"]);
        assert_refused(&refused("tap", &[]), WRONG_USAGE, &["needs a bridge"]);

        // Without a DHCP server the guest never has an address.
        let silent = refused("tap,bridge=br0", &["--solo", "--start-timeout-ms", "1500"]);
        assert_refused(&silent, 9, &["no DHCP server behind bridge \"br0\""]);

        // The last, because it cannot be undone: what this thread starts from now on is root without that privilege.
        rustix::thread::remove_capability_from_bounding_set(CapabilitySet::NET_ADMIN).expect("we are root");
        assert_refused(&refused("tap,bridge=br0", &[]), NO_TAP, &["CAP_NET_ADMIN", "--net forward"]);
    });
}
