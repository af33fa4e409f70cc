//! Runs the program on a fake shim against a client with a stack of its own.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;

use netstack::{ConnId, Error, Stack};
use runtime::host::peer::{Driver, Peer, Step};
use runtime::host::{End, Outcome, Setup, run};
use runtime::random::Rng;

/// One connection of the client: what it still sends, and what must come back.
struct Talk {
    id: ConnId,
    data: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
    finished: bool,
}

struct Client {
    seed: u64,
    connections: usize,
    bytes: usize,
    talks: Vec<Talk>,
    refused: usize,
}

impl Client {
    fn new(seed: u64, connections: usize, bytes: usize) -> Rc<RefCell<Peer<Self>>> {
        let client = Self { seed, connections, bytes, talks: Vec::new(), refused: 0 };
        Rc::new(RefCell::new(Peer::new(client, connections + 1)))
    }

    fn connect(&mut self, stack: &mut Stack) {
        let mut rng = Rng::from_seed(self.seed);
        let echo = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 15), 7);
        for _ in 0..self.connections {
            let id = stack.connect(echo).expect("the client has room for its connections");
            let data = (0..self.bytes).map(|_| rng.next_u64() as u8).collect();
            self.talks.push(Talk { id, data, sent: 0, received: Vec::new(), finished: false });
        }
    }
}

impl Talk {
    fn go_on(&mut self, stack: &mut Stack) -> Result<(), Error> {
        match stack.send(self.id, &self.data[self.sent..]) {
            Ok(sent) => self.sent += sent,
            Err(Error::WouldBlock | Error::Shutdown) => {}
            Err(error) => return Err(error),
        }
        if self.sent == self.data.len() && stack.may_send(self.id) {
            stack.shutdown(self.id)?;
        }
        let mut buffer = [0; 3000];
        loop {
            match stack.recv(self.id, &mut buffer) {
                Ok(0) => self.finished = true,
                Ok(bytes) => {
                    self.received.extend_from_slice(&buffer[..bytes]);
                    continue;
                }
                Err(Error::WouldBlock) => {}
                Err(error) => return Err(error),
            }
            return Ok(());
        }
    }
}

impl Driver for Client {
    fn step(&mut self, stack: &mut Stack, _now_ns: u64) -> Step {
        if self.talks.is_empty() {
            self.connect(stack);
        }
        for talk in self.talks.iter_mut().filter(|talk| !talk.finished) {
            if let Err(error) = talk.go_on(stack) {
                assert_eq!(error, Error::Refused);
                self.refused += 1;
                talk.finished = true;
            }
        }
        if self.talks.iter().all(|talk| talk.finished) { Step::Done } else { Step::Until(u64::MAX) }
    }
}

fn go(setup: &Setup, world: &Rc<RefCell<Peer<Client>>>) -> Outcome<Result<(), Error>> {
    run(setup, world, echo::main)
}

#[test]
fn every_byte_comes_back_on_every_connection() {
    let seed = 0x00ec_0001;
    println!("seed {seed:#x}");
    let world = Client::new(seed, 50, 100_000);
    let outcome = go(&Setup::default(), &world);
    assert_eq!(outcome.end, End::Stopped);
    assert_eq!(outcome.console, b"echo: ready on 10.0.2.15:7\n");
    for talk in &world.borrow().driver.talks {
        assert!(talk.received == talk.data, "{} of {} bytes came back", talk.received.len(), talk.data.len());
    }
}

#[test]
fn two_runs_send_the_same() {
    let once = || go(&Setup::default(), &Client::new(3, 20, 20_000));
    let (first, second) = (once(), once());
    assert_eq!(first, second);
    let other_seed = go(&Setup { entropy_seed: 2, ..Setup::default() }, &Client::new(3, 20, 20_000));
    assert_ne!(first.digest, other_seed.digest, "sequence numbers depend on the shim's entropy");
}

#[test]
fn connections_beyond_memory_are_refused_and_the_others_served() {
    let setup = Setup { heap_bytes: 1 << 20, ..Setup::default() };
    let world = Client::new(5, 300, 1000);
    assert_eq!(go(&setup, &world).end, End::Stopped);
    let client = &world.borrow().driver;
    let served = client.talks.iter().filter(|talk| talk.received == talk.data).count();
    assert_eq!(served + client.refused, 300);
    assert!(served >= 20 && client.refused >= 200, "{served} served, {} refused", client.refused);
}
