//! Runs the program on a fake shim: its arguments, its answers, its exit code.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use runtime::host::dialogue::{Dialogue, Dialogues};
use runtime::host::peer::Peer;
use runtime::host::{Boundary, End, Setup, World, run};

/// Moves the clock to the next deadline.
struct Clock;

impl World for Clock {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        boundary.set_now_ns(boundary.deadline_ns());
    }
}

fn setup(arguments: &str) -> Setup {
    Setup { arguments: arguments.to_owned(), ..Setup::default() }
}

/// The exit code, what was printed, and how many epochs there were.
fn go(arguments: &str) -> (i32, String, u64) {
    use runtime::exit::Termination;

    let outcome = run(&setup(arguments), &Rc::new(RefCell::new(Clock)), || async { dhrystone::main().await.report() });
    let End::Returned(code) = outcome.end else { panic!("it did not return: {:?}", outcome.end) };
    (code, String::from_utf8(outcome.console).expect("text"), outcome.epochs)
}

const ONE_NANOSECOND: &str = "dhrystone: elapsed_ns=1 start_ns=1 end_ns=2\n";

#[test]
fn it_runs_as_often_as_it_is_told_in_a_single_epoch() {
    let (code, console, epochs) = go("runs=20000");
    assert_eq!((code, console), (0, format!("dhrystone: runs=20000 ok\n{ONE_NANOSECOND}")));
    assert_eq!(go("runs=1").2, epochs, "runs take no epochs");
    assert_eq!(go("yield=0 runs=1").2, epochs);
}

#[test]
fn giving_way_ends_epochs_and_changes_no_value() {
    for stretch in [1, 3, 999, 1000, 1001] {
        let (code, console, _) = go(&format!("runs=1000 yield={stretch}"));
        assert_eq!(code, 0);
        assert!(console.starts_with("dhrystone: runs=1000 ok\n"), "{console}");
    }
    let epochs = |arguments| go(arguments).2;
    assert!(epochs("runs=20000 yield=1") > epochs("runs=20000") + 10);
}

#[test]
fn wrong_arguments_are_refused() {
    for (arguments, complaint) in [
        ("runs=0", "`runs=0`: expected a number of runs from 1 to 2147483637"),
        ("runs=2147483638", "`runs=2147483638`: expected a number of runs from 1 to 2147483637"),
        ("yield=-1 runs=5", "`yield=-1`: expected a number of runs from 0 to 2147483637"),
        ("runs=5 often", "`often`: expected runs=, yield= or serve"),
        ("runs", "`runs`: expected runs=, yield= or serve"),
    ] {
        let (code, console, _) = go(arguments);
        assert_eq!((code, console), (1, format!("error: {complaint}\n")));
    }
}

/// What the server answers on one connection.
fn ask(arguments: &str, said: &str) -> String {
    let remote = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 7000);
    let world = Rc::new(RefCell::new(Peer::new(Dialogues { remote, all: vec![Dialogue::new(said)] }, 2)));
    let outcome =
        run(&setup(arguments), &world, || async { dhrystone::main().await.map_err(|error| error.to_string()) });
    assert_eq!(outcome.end, End::Stopped);
    assert_eq!(outcome.console, b"dhrystone: ready on 10.0.2.15:7000\n");
    let dialogue = &world.borrow().driver.all[0];
    assert_eq!(dialogue.end, Some(Ok(())));
    String::from_utf8(dialogue.heard.clone()).expect("text")
}

#[test]
fn it_serves_one_request_after_another() {
    for arguments in ["serve", "serve yield=10"] {
        let answer = ask(arguments, "run 100\nrun 7\r\n");
        let lines: Vec<_> = answer.lines().collect();
        assert_eq!(lines.len(), 4, "{answer}");
        assert_eq!((lines[0], lines[2]), ("dhrystone: runs=100 ok", "dhrystone: runs=7 ok"));
        assert!(lines[1].starts_with("dhrystone: elapsed_ns=") && lines[3].starts_with("dhrystone: elapsed_ns="));
    }
}

#[test]
fn it_answers_nonsense_and_leaves_who_sends_endless_lines() {
    assert_eq!(
        ask("serve", "run 0\nwalk\n"),
        "dhrystone: `run 0`: expected run N\ndhrystone: `walk`: expected run N\n"
    );
    assert_eq!(ask("serve", &"x".repeat(64)), "");
}
