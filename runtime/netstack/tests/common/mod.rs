//! Two stacks on a simulated wire, driven by one seed.
#![allow(dead_code, missing_docs, reason = "each test file uses its part of the harness")]

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddrV4};

use netstack::{Config, ConnId, Event, FrameSink, Ipv4Cidr, ListenerId, Readiness, Stack};

pub const A_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
pub const B_IP: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const A_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 15];
pub const B_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
pub const MS: u64 = 1_000_000;

pub fn config_a(seed: u64) -> Config {
    Config::new(A_MAC, Some(Ipv4Cidr::new(A_IP, 24)), Some(B_IP), seed)
}

pub fn config_b(seed: u64) -> Config {
    Config::new(B_MAC, Some(Ipv4Cidr::new(B_IP, 24)), None, seed ^ 0xb)
}

/// SplitMix64: small, seeded, good enough to choose faults.
#[derive(Clone)]
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// A sink of limited room whose buffers start with a given byte, to show up whatever the stack leaves unwritten.
pub struct Outbox {
    pub frames: VecDeque<Vec<u8>>,
    pub room: usize,
    pub fill: u8,
}

impl Outbox {
    pub fn new(fill: u8) -> Self {
        Self { frames: VecDeque::new(), room: usize::MAX, fill }
    }
}

impl FrameSink for Outbox {
    fn has_room(&self) -> bool {
        self.frames.len() < self.room
    }

    fn transmit<R>(&mut self, len_bytes: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(self.has_room(), "the stack sent into a full sink");
        let mut frame = vec![self.fill; len_bytes];
        let result = fill(&mut frame);
        self.frames.push_back(frame);
        result
    }
}

/// What the wire does to frames, in percent, and how long they travel.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    pub loss: u64,
    pub duplicate: u64,
    pub reorder: u64,
    pub delay_ns: u64,
}

pub const CLEAN: Faults = Faults { loss: 0, duplicate: 0, reorder: 0, delay_ns: 50_000 };

pub struct Host {
    pub stack: Stack,
    pub out: Outbox,
    pub due_ns: Option<u64>,
    pub events: Vec<Event>,
}

impl Host {
    pub fn new(config: Config, fill: u8) -> Self {
        Self { stack: Stack::new(config, 0).unwrap(), out: Outbox::new(fill), due_ns: Some(0), events: Vec::new() }
    }

    /// The readiness told for a connection since the last look.
    pub fn readiness(&mut self, id: ConnId) -> Readiness {
        let mut all = Readiness::empty();
        self.events.retain(|event| match event {
            Event::Connection(conn, readiness) if *conn == id => {
                all |= *readiness;
                false
            }
            _ => true,
        });
        all
    }
}

/// Two hosts and the frames between them.
pub struct Net {
    pub a: Host,
    pub b: Host,
    pub now_ns: u64,
    pub faults: Faults,
    pub rng: Rng,
    /// Frames under way by (arrival in ns, number): to `a` or not, and the bytes.
    wire: BTreeMap<(u64, u64), (bool, Vec<u8>)>,
    number: u64,
    /// Every frame in the order of sending, if recorded.
    pub trace: Option<Vec<(u64, bool, Vec<u8>)>>,
    /// Whether frames to `a` arrive.
    pub a_hears: bool,
    /// Frames handed to either stack.
    pub delivered: u64,
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self::with(config_a(seed), config_b(seed), CLEAN, seed)
    }

    pub fn with(a: Config, b: Config, faults: Faults, seed: u64) -> Self {
        println!("seed {seed}");
        Self {
            a: Host::new(a, 0xaa),
            b: Host::new(b, 0x55),
            now_ns: 0,
            faults,
            rng: Rng(seed),
            wire: BTreeMap::new(),
            number: 0,
            trace: None,
            a_hears: true,
            delivered: 0,
        }
    }

    fn send(&mut self, to_a: bool, frame: Vec<u8>) {
        if let Some(trace) = &mut self.trace {
            trace.push((self.now_ns, to_a, frame.clone()));
        }
        if self.rng.chance(self.faults.loss) || (to_a && !self.a_hears) {
            return;
        }
        let copies = 1 + u64::from(self.rng.chance(self.faults.duplicate));
        for _ in 0..copies {
            let mut at_ns = self.now_ns + self.faults.delay_ns;
            if self.rng.chance(self.faults.reorder) {
                at_ns += self.rng.below(4 * self.faults.delay_ns.max(1));
            }
            self.number += 1;
            self.wire.insert((at_ns, self.number), (to_a, frame.clone()));
        }
    }

    fn collect(&mut self) {
        while let Some(frame) = self.a.out.frames.pop_front() {
            self.send(false, frame);
        }
        while let Some(frame) = self.b.out.frames.pop_front() {
            self.send(true, frame);
        }
    }

    /// Lets both stacks send what is due now.
    pub fn poll(&mut self) {
        loop {
            self.a.due_ns = self.a.stack.poll(self.now_ns, &mut self.a.out);
            self.b.due_ns = self.b.stack.poll(self.now_ns, &mut self.b.out);
            while let Some(event) = self.a.stack.next_event() {
                self.a.events.push(event);
            }
            while let Some(event) = self.b.stack.next_event() {
                self.b.events.push(event);
            }
            let sent = !self.a.out.frames.is_empty() || !self.b.out.frames.is_empty();
            self.collect();
            if !sent {
                return;
            }
        }
    }

    /// Goes to the next thing that happens, a frame or a timer, and lets it happen. Returns whether there was one
    /// before `until_ns`.
    pub fn step(&mut self, until_ns: u64) -> bool {
        self.poll();
        let wire_ns = self.wire.first_key_value().map(|(&(at_ns, _), _)| at_ns);
        let next_ns = [wire_ns, self.a.due_ns, self.b.due_ns].into_iter().flatten().min();
        let Some(next_ns) = next_ns.filter(|&at_ns| at_ns <= until_ns) else {
            return false;
        };
        self.now_ns = self.now_ns.max(next_ns);
        while let Some(entry) = self.wire.first_entry() {
            if entry.key().0 > self.now_ns {
                break;
            }
            let (to_a, frame) = entry.remove();
            self.delivered += 1;
            let host = if to_a { &mut self.a } else { &mut self.b };
            host.stack.receive(self.now_ns, &frame, &mut host.out);
        }
        self.poll();
        true
    }

    /// Runs until `done` or until the limit of simulated time; panics at the limit.
    pub fn run(&mut self, limit_ms: u64, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let until_ns = self.now_ns + limit_ms * MS;
        // Where nothing happens on the wire, the program may still go on, a little at each call of `done`.
        let mut idle = 0;
        while !done(self) {
            idle = if self.step(until_ns) { 0 } else { idle + 1 };
            assert!(idle < 100, "{what}: not within {limit_ms} ms of simulated time");
        }
    }

    /// Runs for a span of simulated time.
    pub fn run_for(&mut self, span_ms: u64) {
        let until_ns = self.now_ns + span_ms * MS;
        while self.step(until_ns) {}
        self.now_ns = until_ns;
    }

    /// A connection from `b` to a listener at `a`: (at `a`, at `b`).
    pub fn connect(&mut self, listener: ListenerId, port: u16) -> (ConnId, ConnId) {
        let b = self.b.stack.connect(SocketAddrV4::new(A_IP, port)).unwrap();
        let mut a = None;
        self.run(60_000, "no connection", |net| {
            a = a.or_else(|| net.a.stack.accept(listener));
            a.is_some() && net.b.stack.may_send(b)
        });
        (a.unwrap(), b)
    }

    pub fn in_flight(&self) -> usize {
        self.wire.len()
    }

    /// Throws away the frames under way.
    pub fn lose_all(&mut self) {
        self.wire.clear();
    }
}

/// Everything that is ready to be read.
pub fn read_all(stack: &mut Stack, id: ConnId) -> Vec<u8> {
    let mut all = Vec::new();
    while let Ok(part) = stack.recv_with(id, |data| (data.len(), data.to_vec())) {
        all.extend(part);
    }
    all
}
