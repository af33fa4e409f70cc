//! Runs the program on a fake shim against a client with a stack of its own.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use netstack::Error;
use runtime::host::dialogue::{Dialogue, Dialogues};
use runtime::host::peer::Peer;
use runtime::host::{End, Outcome, Setup, run};
use runtime::random::Rng;

type World = Rc<RefCell<Peer<Dialogues>>>;

fn clients(seed: u64, connections: usize, bytes: usize) -> World {
    let mut rng = Rng::from_seed(seed);
    let mut random = || (0..bytes).map(|_| rng.next_u64() as u8).collect::<Vec<u8>>();
    let all = (0..connections).map(|_| Dialogue::new(random())).collect();
    let remote = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 7);
    Rc::new(RefCell::new(Peer::new(Dialogues { remote, all }, connections + 1)))
}

fn go(setup: &Setup, world: &World) -> Outcome<Result<(), Error>> {
    run(setup, world, echo::main)
}

#[test]
fn every_byte_comes_back_on_every_connection() {
    let seed = 0x00ec_0001;
    println!("seed {seed:#x}");
    let world = clients(seed, 50, 100_000);
    let outcome = go(&Setup::default(), &world);
    assert_eq!(outcome.end, End::Stopped);
    assert_eq!(outcome.console, b"echo: ready on 10.0.2.15:7\n");
    for dialogue in &world.borrow().driver.all {
        assert_eq!(dialogue.end, Some(Ok(())));
        assert!(dialogue.heard == dialogue.said, "{} of {} bytes", dialogue.heard.len(), dialogue.said.len());
    }
}

#[test]
fn two_runs_send_the_same() {
    let once = || go(&Setup::default(), &clients(3, 20, 20_000));
    let (first, second) = (once(), once());
    assert_eq!(first, second);
    let other_seed = go(&Setup { entropy_seed: 2, ..Setup::default() }, &clients(3, 20, 20_000));
    assert_ne!(first.digest, other_seed.digest, "sequence numbers depend on the shim's entropy");
}

#[test]
fn connections_beyond_memory_are_refused_and_the_others_served() {
    let setup = Setup { heap_bytes: 1 << 20, ..Setup::default() };
    let world = clients(5, 300, 1000);
    assert_eq!(go(&setup, &world).end, End::Stopped);
    let all = &world.borrow().driver.all;
    let served = all.iter().filter(|dialogue| dialogue.end == Some(Ok(())) && dialogue.heard == dialogue.said).count();
    let refused = all.iter().filter(|dialogue| dialogue.end == Some(Err(Error::Refused))).count();
    assert_eq!(served + refused, 300);
    assert!(served >= 20 && refused >= 200, "{served} served, {refused} refused");
}
