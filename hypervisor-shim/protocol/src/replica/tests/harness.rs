//! Two replicas, an arbiter and the link between them, all driven by hand.

use std::collections::VecDeque;
use std::vec;
use std::vec::Vec;

use crate::arbiter::ArbiterRecord;
use crate::digest::Digest64;
use crate::link::{Identity, Message};
use crate::replica::{
    Command, Config, Gate, Input, LinkFault, Outgoing, Phase, Promotion, Record, Replica, StopReason,
};
use crate::{Clocks, Discipline, Epoch, Mode, ReplicaId, Role};

pub const MS: u64 = 1_000_000;
pub const HEARTBEAT_NS: u64 = 10 * MS;
pub const FAILURE_NS: u64 = 100 * MS;
pub const PAIRING_NS: u64 = 1_000 * MS;
pub const MAX_LAG_NS: u64 = 20 * MS;
pub const START_NS: u64 = 1_000_000 * MS;

pub fn identity(discipline: Discipline) -> Identity {
    Identity {
        abi_version: 1,
        protocol_version: 1,
        image: [1; 32],
        guest_memory_bytes: 16 << 20,
        cpu: [2; 32],
        guest_config: [3; 32],
        epoch_source: 1,
        discipline,
    }
}

pub fn config(role: Role) -> Config {
    Config {
        replica: if role == Role::Primary { ReplicaId::ZERO } else { ReplicaId::ONE },
        role,
        generation: 1,
        mode: Mode::Paired,
        identity: identity(Discipline::Revised),
        max_lag_ns: MAX_LAG_NS,
        heartbeat_interval_ns: HEARTBEAT_NS,
        failure_timeout_ns: FAILURE_NS,
        pairing_timeout_ns: PAIRING_NS,
        max_outstanding_epochs: 8,
        max_outstanding_bytes: 4096,
        max_epoch_events_bytes: 2048,
        confirms_releases: false,
        compares_first: false,
        joins: false,
        stores_log: false,
        logs_disks: false,
        max_unstored_bytes: 4096,
    }
}

/// A message that owns its bulk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Owned {
    Small(Message<'static>),
    Start(Record),
}

impl Owned {
    fn of(message: Message<'_>) -> Self {
        match message {
            Message::EpochStart(start) => Self::Start(Record {
                epoch: start.epoch,
                prev_digest: start.prev_digest,
                clocks: start.clocks,
                released_through: start.released_through,
                sent_ns: start.sent_ns,
                events: start.events.to_vec(),
            }),
            Message::Hello(hello) => Self::Small(Message::Hello(hello)),
            Message::Refuse(mismatch) => Self::Small(Message::Refuse(mismatch)),
            Message::Ack(ack) => Self::Small(Message::Ack(ack)),
            Message::Heartbeat(heartbeat) => Self::Small(Message::Heartbeat(heartbeat)),
            Message::Diverged(divergence) => Self::Small(Message::Diverged(divergence)),
            Message::Goodbye(goodbye) => Self::Small(Message::Goodbye(goodbye)),
            Message::PagesHeld { messages } => Self::Small(Message::PagesHeld { messages }),
            Message::Joined { generation } => Self::Small(Message::Joined { generation }),
            Message::Pages(_) | Message::State(_) => panic!("the state machine sends no {message:?}"),
        }
    }

    pub fn message(&self) -> Message<'_> {
        match self {
            Self::Small(message) => *message,
            Self::Start(record) => Message::EpochStart(record.message()),
        }
    }
}

/// A replica with its guest: a chain of digests over everything that the guest saw.
pub struct Node {
    pub id: ReplicaId,
    pub replica: Replica,
    pub sent: VecDeque<Owned>,
    pub commands: Vec<Command>,
    pub running: Option<Epoch>,
    pub ran_through: Epoch,
    pub released: Epoch,
    pub discarded: Epoch,
    pub requests: Vec<(u64, u64)>,
    pub pairings: Vec<(u64, u64)>,
    pub joined: bool,
    /// What was handed to stable storage, oldest first.
    pub stored: Vec<Record>,
    pub joins_failed: u32,
    pub promotion: Option<Promotion>,
    pub stop: Option<StopReason>,
    pub guest: Digest64,
    /// The digest of each epoch that the guest has run.
    pub digests: Vec<u64>,
    pub now_ns: u64,
    pub link_closed: bool,
}

impl Node {
    pub fn new(config: Config) -> Self {
        let mut node = Self {
            id: config.replica,
            replica: Replica::new(config, START_NS).expect("a valid configuration"),
            sent: VecDeque::new(),
            commands: Vec::new(),
            running: None,
            ran_through: 0,
            released: 0,
            discarded: 0,
            requests: Vec::new(),
            pairings: Vec::new(),
            joined: false,
            stored: Vec::new(),
            joins_failed: 0,
            promotion: None,
            stop: None,
            guest: Digest64::new(7),
            digests: Vec::new(),
            now_ns: START_NS,
            link_closed: false,
        };
        let mut out = Vec::new();
        node.replica.start(START_NS, &mut out);
        node.carry_out(out);
        node
    }

    pub fn carry_out(&mut self, commands: Vec<Command>) {
        assert!(commands.len() <= crate::replica::CommandList::CAPACITY, "too many commands: {commands:?}");
        for command in commands {
            assert!(self.stop.is_none(), "{command:?} after the replica stopped");
            match command {
                Command::Send(outgoing) => self.sent.push_back(self.encode(outgoing)),
                Command::RunEpoch { epoch } => {
                    assert_eq!(self.running, None, "epoch {epoch} begun during another");
                    assert_eq!(epoch, self.ran_through + 1, "epochs are consecutive");
                    self.running = Some(epoch);
                }
                Command::Release { through } => {
                    assert!(through > self.released && through <= self.ran_through, "released through {through}");
                    self.released = through;
                }
                Command::Discard { through } => {
                    assert!(through > self.discarded, "discarded through {through} twice");
                    self.discarded = through;
                }
                Command::AskArbiter { request_id, expect_generation } => {
                    self.requests.push((request_id, expect_generation));
                }
                Command::Promote(promotion) => self.promotion = Some(promotion),
                Command::GoSolo { .. } => {}
                Command::AskPairing { request_id, expect_generation } => {
                    self.pairings.push((request_id, expect_generation));
                }
                Command::Joined { .. } => self.joined = true,
                Command::JoinFailed => self.joins_failed += 1,
                Command::Store { from } => self.store(from),
                Command::CloseLink => self.link_closed = true,
                Command::Stop(reason) => self.stop = Some(reason),
            }
            self.commands.push(command);
        }
    }

    /// As whoever writes the log does: a record takes the place of the one of its epoch and of all behind it.
    fn store(&mut self, from: Epoch) {
        let records: Vec<_> = self.replica.records_from(from).cloned().collect();
        assert_eq!(records.first().map(|record| record.epoch), Some(from), "nothing to be stored is missing");
        assert!(records.is_sorted_by(|one, next| one.epoch + 1 == next.epoch), "records are consecutive");
        self.stored.extend(records);
    }

    fn encode(&self, outgoing: Outgoing) -> Owned {
        Owned::of(self.replica.message(outgoing).expect("a message to send exists"))
    }

    pub fn step(&mut self, input: Input<'_>) {
        let mut out = Vec::new();
        self.replica.step(self.now_ns, input, &mut out);
        self.carry_out(out);
    }

    pub fn flush(&mut self) {
        let mut out = Vec::new();
        self.replica.flush(self.now_ns, &mut out);
        self.carry_out(out);
    }

    pub fn take(&mut self, messages: &[Owned]) {
        for message in messages {
            self.step(Input::Message(message.message()));
        }
        self.flush();
    }

    pub fn gate(&self) -> Gate {
        self.replica.may_begin(self.now_ns)
    }

    pub fn begin(&mut self, events: &[u8]) -> Epoch {
        assert_eq!(self.gate(), Gate::Ready);
        let mut buffer = self.replica.take_buffer();
        assert!(buffer.is_empty());
        buffer.extend_from_slice(events);
        let clocks = Clocks { monotonic_ns: self.now_ns, realtime_ns: 2 * self.now_ns };
        let mut out = Vec::new();
        let epoch = self.replica.begin(self.now_ns, clocks, buffer, &mut out);
        self.carry_out(out);
        epoch
    }

    /// Runs the guest to the end of the epoch and returns the digest that it will report.
    pub fn run(&mut self) -> u64 {
        let epoch = self.running.take().expect("an epoch runs");
        let record = self.replica.record(epoch).expect("the record of the running epoch").clone();
        self.guest.write_u64(epoch);
        self.guest.write_u64(record.clocks.monotonic_ns);
        self.guest.write_bytes(&record.events);
        self.ran_through = epoch;
        self.digests.push(self.guest.finish());
        self.guest.finish()
    }

    /// Runs the guest to the end of the epoch, with outputs.
    pub fn end(&mut self) {
        let digest = self.run();
        self.step(Input::EpochEnded { digest, has_outputs: true });
        self.flush();
    }

    pub fn end_quietly(&mut self) {
        let digest = self.run();
        self.step(Input::EpochEnded { digest, has_outputs: false });
        self.flush();
    }

    /// Ends epochs until the guest waits at a boundary.
    pub fn catch_up(&mut self) {
        while self.running.is_some() && self.stop.is_none() {
            self.end();
        }
    }

    pub fn epoch(&mut self, events: &[u8]) {
        self.begin(events);
        self.end();
    }

    pub fn stop_guest(&mut self) {
        let digest = self.run();
        self.step(Input::GuestStopped { digest });
        self.flush();
    }

    pub fn advance_ns(&mut self, duration_ns: u64) {
        self.now_ns += duration_ns;
    }

    /// Lets time pass with every tick on time.
    pub fn idle_ns(&mut self, duration_ns: u64) {
        let end_ns = self.now_ns + duration_ns;
        loop {
            let deadline_ns = self.replica.next_deadline_ns();
            if deadline_ns > end_ns {
                break;
            }
            self.now_ns = self.now_ns.max(deadline_ns);
            self.tick();
            assert!(
                self.replica.next_deadline_ns() > self.now_ns,
                "a tick leaves nothing due: {:?}",
                self.replica.phase()
            );
        }
        self.now_ns = end_ns;
    }

    pub fn tick(&mut self) {
        self.step(Input::Tick);
        self.flush();
    }

    pub fn close_link(&mut self) {
        self.step(Input::LinkClosed(LinkFault::Closed));
        self.flush();
    }

    pub fn peer_dead(&mut self) {
        self.step(Input::PeerDead);
        self.flush();
    }

    /// Answers this node's newest request.
    pub fn answer(&mut self, arbiter: &mut ArbiterRecord, me: ReplicaId) {
        let &(request_id, expect_generation) = self.requests.last().expect("the arbiter was asked");
        let grant = arbiter.compare_and_set(expect_generation, me);
        self.step(Input::ArbiterReply { request_id, granted: grant.granted, record: grant.record });
        self.flush();
    }

    /// Answers this node's newest request to be paired.
    pub fn answer_pairing(&mut self, arbiter: &mut ArbiterRecord, me: ReplicaId) {
        let &(request_id, expect_generation) = self.pairings.last().expect("the arbiter was asked to pair");
        let grant = arbiter.pair_request(expect_generation, me);
        self.step(Input::ArbiterReply { request_id, granted: grant.granted, record: grant.record });
        self.flush();
    }

    pub fn phase(&self) -> Phase {
        self.replica.phase()
    }

    pub fn sent_kinds(&self) -> Vec<&'static str> {
        self.sent
            .iter()
            .map(|owned| match owned {
                Owned::Start(_) => "start",
                Owned::Small(Message::Hello(_)) => "hello",
                Owned::Small(Message::Refuse(_)) => "refuse",
                Owned::Small(Message::Ack(_)) => "ack",
                Owned::Small(Message::Heartbeat(_)) => "heartbeat",
                Owned::Small(Message::Diverged(_)) => "diverged",
                Owned::Small(Message::Goodbye(_)) => "goodbye",
                Owned::Small(Message::PagesHeld { .. }) => "pages held",
                Owned::Small(Message::Joined { .. }) => "joined",
                Owned::Small(Message::EpochStart(_) | Message::Pages(_) | Message::State(_)) => "borrowed bulk",
            })
            .collect()
    }
}

/// A pair and its arbiter.
pub struct Pair {
    pub primary: Node,
    pub backup: Node,
    pub arbiter: ArbiterRecord,
}

pub const PRIMARY: ReplicaId = ReplicaId::ZERO;
pub const BACKUP: ReplicaId = ReplicaId::ONE;

impl Pair {
    /// A pair whose replicas have not heard each other.
    pub fn of(with: impl Fn(Config) -> Config) -> Self {
        Self {
            primary: Node::new(with(config(Role::Primary))),
            backup: Node::new(with(config(Role::Backup))),
            arbiter: ArbiterRecord::new_pair(PRIMARY),
        }
    }

    pub fn unpaired(discipline: Discipline) -> Self {
        Self::of(|config| Config { identity: identity(discipline), ..config })
    }

    pub fn new(discipline: Discipline) -> Self {
        let mut pair = Self::unpaired(discipline);
        pair.exchange();
        assert_eq!(pair.primary.phase(), Phase::AtBoundary { role: Role::Primary });
        assert_eq!(pair.backup.phase(), Phase::AtBoundary { role: Role::Backup });
        pair
    }

    pub fn revised() -> Self {
        Self::new(Discipline::Revised)
    }

    pub fn deliver_to_backup(&mut self) {
        let messages: Vec<_> = self.primary.sent.drain(..).collect();
        self.backup.take(&messages);
    }

    pub fn deliver_to_primary(&mut self) {
        let messages: Vec<_> = self.backup.sent.drain(..).collect();
        self.primary.take(&messages);
    }

    /// Delivers messages both ways until there are none; no guest runs meanwhile.
    pub fn exchange(&mut self) {
        while !self.primary.sent.is_empty() || !self.backup.sent.is_empty() {
            self.deliver_to_backup();
            self.deliver_to_primary();
        }
    }

    /// One whole epoch on both sides, all messages delivered.
    pub fn epoch(&mut self, events: &[u8]) {
        self.primary.epoch(events);
        self.exchange();
        self.backup.catch_up();
        self.exchange();
    }

    pub fn pass_ns(&mut self, duration_ns: u64) {
        self.primary.advance_ns(duration_ns);
        self.backup.advance_ns(duration_ns);
    }
}

pub fn stops(node: &Node) -> Vec<StopReason> {
    node.stop.map_or(vec![], |reason| vec![reason])
}
