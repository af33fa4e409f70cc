//! Ordinary servers out of crates.io's, unchanged, whose machines die under load.
//!
//! `POLLUX_E2E_MOMENTS=30` kills so many, `POLLUX_SEED` repeats a run.

use std::fs;

use pollux_tests::http::{Connection, HttpLoad};
use pollux_tests::names;
use pollux_tests::namespaces::{self, UnshareFlags};
use pollux_tests::pair::{Options, Pair};
use pollux_tests::sim::Rng;
use pollux_tests::status::Role;
use pollux_tests::workbench::{moments, program_image, seed};

/// Connections at once.
const CLIENTS: usize = 8;
/// Where both servers listen.
const PORT: u16 = 8080;

/// Starts a server, and kills its primary again and again under load, each time with a new replica brought in afterwards.
fn survives(program: &str, arguments: &[&str]) -> Pair {
    let seed = seed(program);
    let mut rng = Rng::new(seed);
    // No replica is to be taken for dead because the machine has other things to do.
    let mut options =
        Options::new("").with(&["--memory-mib", "32", "--failure-timeout-ms", "5000"]).with(arguments).alone();
    options.image = Some(program_image(program));
    options.ports = vec![PORT];
    let mut pair = Pair::up(&options);
    let load = HttpLoad::start(pair.address(PORT), CLIENTS);
    for round in 0..moments(10) {
        load.wait_for_answers(rng.between(1, 40));
        pair.kill(Role::Primary, "KILL");
        pair.wait_for_survivor(2 * round + 2);
        load.wait_for_answers(rng.between(1, 10));
        pair.must(&["rejoin"]);
        pair.wait_for_pair(2 * round + 3);
    }
    load.wait_for_answers(20);
    let entries = load.finish();
    println!("{program}: {entries} entries acknowledged, and there");
    let status = pair.status();
    assert_eq!(status.hub["connections_reset"], 0, "no connection was reset");
    assert!(status.event("diverge").is_none(), "{:#?}", status.events);
    pair
}

#[test]
fn a_server_of_threads_survives_its_machines() {
    let [allow, env, server] = names::server();
    let mut pair = survives("http-threads", &[&allow, &env, &server]);
    let mut connection = Connection::open(pair.address(PORT)).expect("a published port takes connections");
    let unknown = "failed to lookup address information: Name or service not known";
    let expected = [
        ("www.example.org", (200, "192.0.2.7")),
        ("nobody.example.org", (404, unknown)),
        ("localhost", (200, "127.0.0.1")),
        ("192.0.2.9", (200, "192.0.2.9")),
    ];
    for (name, expected) in expected {
        let (status, body) = connection.ask("GET", &format!("/resolve/{name}"), "").expect("an answer");
        assert_eq!((status, body.as_str()), expected, "{name}");
    }
    pair.down();
}

/// Whom the host asks for names, the guest asks, too: in a network of its own with a configuration of its own, see [`namespaces`].
#[test]
fn names_are_asked_of_the_hosts_name_server() {
    // Built outside: a build may need the host's network.
    let image = program_image("http-threads");
    namespaces::inside(UnshareFlags::NEWNET | UnshareFlags::NEWNS, move || {
        let folder = std::env::temp_dir().join(format!("pollux-names-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let configuration = folder.join("resolv.conf");
        fs::write(&configuration, "# of a test\nnameserver 127.0.0.1\n").expect("written");
        namespaces::run("mount --make-rprivate /");
        namespaces::run(&format!("mount --bind {} /etc/resolv.conf", configuration.display()));
        names::serve(53);
        let options = Options { image: Some(image), ports: vec![PORT], ..Options::new("").alone() };
        let mut pair = Pair::up(&options);
        let mut connection = Connection::open(pair.address(PORT)).expect("a published port takes connections");
        for (name, expected) in [("www.example.org", 200), ("nobody.example.org", 404)] {
            let (status, body) = connection.ask("GET", &format!("/resolve/{name}"), "").expect("an answer");
            assert_eq!(status, expected, "{name}: {body}");
            assert!(status == 404 || body == "192.0.2.7", "{body}");
        }
        pair.down();
        fs::remove_dir_all(&folder).expect("it is ours");
    });
}

#[test]
fn a_server_of_tasks_survives_its_machines() {
    let mut pair = survives("http-async", &[]);
    let mut connection = Connection::open(pair.address(PORT)).expect("a published port takes connections");
    for (path, expected) in [("/later", (200, "later")), ("/elsewhere", (200, "elsewhere")), ("/nothing", (404, ""))] {
        let (status, body) = connection.ask("GET", path, "").expect("an answer");
        assert_eq!((status, body.as_str()), expected, "{path}");
    }
    pair.down();
}
