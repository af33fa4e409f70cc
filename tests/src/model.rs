//! A model checker's view of promotion: every order of events within small bounds, over the replicas as they are.
//!
//! Where the simulator ([`crate::sim`]) takes one long path per seed, the model takes all short ones. Time is abstract: a
//! replica's clock moves only when it ticks, and it may tick to its next deadline at any moment, so that a late message,
//! a paused process and a dead peer look the same to it, as they do in life. A message is delivered when the checker
//! likes, or never; a request to the arbiter and its answer likewise, and an answer may come again.
//!
//! What is left out: the machine does whole steps (the simulator breaks them up), and the guest does the same in every
//! epoch. Nor does anybody join: a newcomer's life begins with a copy of the guest in many slices, and each of them would
//! multiply the states here by all that can happen beside it, while promotion, which is what has to be right in every
//! order, asks nothing of how the pair came to be. A pair that was made so is in the arbiter's record like any other.
//! Newcomers are the simulator's: where one has died another comes, faults strike at each of their messages, and marks
//! ([`crate::sim::Mark`]) prove that those paths were taken.

use std::collections::VecDeque;

use protocol::arbiter::ArbiterRecord;
use protocol::frame::{FrameWriter, HEADER_BYTES};
use protocol::link::{Identity, Message};
use protocol::replica::{Command, Config, Gate, Input, LinkFault, Phase, Replica, StopReason};
use protocol::{Clocks, Discipline, Epoch, Generation, Mode, ReplicaId, Role};
use stateright::{Model, Property};

/// The bounds of a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Which variant of rule P2.
    pub discipline: Discipline,
    /// Epochs that are begun at most.
    pub epochs: Epoch,
    /// Machines that may crash.
    pub crashes: u8,
    /// The link may be cut.
    pub cuts: u8,
    /// Answers of the arbiter that may come again.
    pub repeats: u8,
    /// Ticks of each replica while all seems well to it: what may make it suspicious.
    pub idle_ticks: u8,
    /// A bug put in on purpose: answers of the arbiter are all taken for grants.
    pub denial_ignored: bool,
}

/// A message on the link, as the codec writes it.
type Wire = (u16, Vec<u8>);

/// A message of the control channel on its way. They overtake each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Control {
    /// A request to the arbiter.
    Request {
        /// Who asks.
        from: u8,
        /// Its number.
        request_id: u64,
        /// The generation that the record must have.
        expect_generation: Generation,
    },
    /// The arbiter's answer.
    Answer {
        /// Who asked.
        to: u8,
        /// The number of the request.
        request_id: u64,
        /// Whether it was granted.
        granted: bool,
        /// The record: generation, active replica, solo.
        record: (Generation, u8, bool),
    },
    /// The peer's process has ended.
    PeerDead {
        /// Who is told.
        to: u8,
    },
}

/// One machine.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Node {
    replica: Replica,
    now_ns: u64,
    alive: bool,
    running: Option<Epoch>,
    idle_ticks: u8,
    released_through: Epoch,
    /// The last epoch whose record it took in as a backup.
    held_through: Epoch,
    was_backup: bool,
}

/// One direction of the link.
#[derive(Clone, Default, PartialEq, Eq, Hash, Debug)]
struct Wires {
    in_flight: VecDeque<Wire>,
    /// Nothing more is sent; the receiver will notice after what is in flight.
    closing: bool,
    closed: bool,
}

/// A state of the whole pair.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    nodes: [Node; 2],
    /// Indexed by who sends.
    wires: [Wires; 2],
    control: Vec<Control>,
    arbiter: ArbiterRecord,
    crashes: u8,
    cuts: u8,
    repeats: u8,
    /// Who was active in which generation.
    active: Vec<(Generation, u8)>,
    denied: bool,
    violation: Option<&'static str>,
}

/// Something that can happen next.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// The next message of the link reaches this replica.
    Deliver(u8),
    /// This replica notices that the link is closed.
    NoticeClose(u8),
    /// The primary begins an epoch.
    Begin(u8),
    /// The guest ends its epoch.
    EndEpoch(u8),
    /// The clock moves to the next deadline.
    Tick(u8),
    /// The control message with this index arrives; it stays for another time if it is to be repeated.
    Control {
        /// Which.
        index: usize,
        /// It will come again.
        again: bool,
    },
    /// The machine is gone, and with it all but so many of the messages that it had sent.
    Crash {
        /// Which machine.
        victim: u8,
        /// How many of its messages still arrive.
        kept: usize,
    },
    /// The link is cut, and with it all messages or none.
    Cut {
        /// The messages in flight still arrive.
        kept: bool,
    },
}

const IDS: [ReplicaId; 2] = [ReplicaId::ZERO, ReplicaId::ONE];

/// The model of a pair.
#[derive(Clone, Copy, Debug)]
pub struct Pair(pub Bounds);

fn config(id: ReplicaId, discipline: Discipline) -> Config {
    Config {
        replica: id,
        role: if id == ReplicaId::ZERO { Role::Primary } else { Role::Backup },
        generation: 1,
        mode: Mode::Paired,
        identity: Identity {
            abi_version: 1,
            protocol_version: 1,
            image: [0; 32],
            guest_memory_bytes: 1,
            cpu: [0; 32],
            guest_config: [0; 32],
            epoch_source: 0,
            discipline,
        },
        max_lag_ns: 10_000,
        heartbeat_interval_ns: 1_000,
        failure_timeout_ns: 4_000,
        pairing_timeout_ns: 4_000,
        max_outstanding_epochs: 8,
        max_outstanding_bytes: 1 << 20,
        max_epoch_events_bytes: 4096,
        confirms_releases: false,
        compares_first: false,
        joins: false,
        stores_log: false,
        logs_disks: false,
        max_unstored_bytes: 1,
    }
}

impl State {
    fn new(bounds: &Bounds) -> Self {
        let nodes = IDS.map(|id| Node {
            replica: Replica::new(config(id, bounds.discipline), 0).expect("the configuration is right"),
            now_ns: 0,
            alive: true,
            running: None,
            idle_ticks: 0,
            released_through: 0,
            held_through: 0,
            was_backup: id == ReplicaId::ONE,
        });
        let mut state = Self {
            nodes,
            wires: Default::default(),
            control: Vec::new(),
            arbiter: ArbiterRecord::new_pair(ReplicaId::ZERO),
            crashes: 0,
            cuts: 0,
            repeats: 0,
            active: vec![(1, 0)],
            denied: false,
            violation: None,
        };
        for index in 0..2 {
            let mut commands = Vec::new();
            state.nodes[index].replica.start(0, &mut commands);
            state.obey(index, &commands);
        }
        state
    }

    /// What a judge has objected to.
    #[must_use]
    pub fn violation(&self) -> Option<&'static str> {
        self.violation
    }

    fn takes_part(&self, index: usize) -> bool {
        self.nodes[index].alive && self.nodes[index].replica.stopped().is_none()
    }

    fn step(&mut self, index: usize, input: Input<'_>) {
        let node = &mut self.nodes[index];
        let mut commands = Vec::new();
        node.replica.step(node.now_ns, input, &mut commands);
        self.obey(index, &commands);
    }

    /// The end of a round.
    fn flush(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let mut commands = Vec::new();
        node.replica.flush(node.now_ns, &mut commands);
        self.obey(index, &commands);
    }

    fn obey(&mut self, index: usize, commands: &[Command]) {
        let node = &mut self.nodes[index];
        if node.replica.role() == Role::Backup {
            node.held_through = node.replica.status(node.now_ns).received_by_backup;
        }
        for command in commands {
            match *command {
                Command::Send(outgoing) => {
                    if let Some(message) = self.nodes[index].replica.message(outgoing) {
                        let wire = encode(&message);
                        self.send(index, wire);
                    }
                }
                Command::RunEpoch { epoch } => self.nodes[index].running = Some(epoch),
                Command::Release { through } => self.release(index, through),
                Command::Discard { .. } => {}
                Command::AskArbiter { request_id, expect_generation } => {
                    self.post(Control::Request { from: index as u8, request_id, expect_generation });
                }
                Command::Promote(promotion) => {
                    self.became_active(index, promotion.generation);
                    // The survivor must have lived through all that the old primary let out.
                    if self.nodes[1 - index].released_through >= promotion.first_own_epoch {
                        self.violate("a promoted replica lacks an epoch whose outputs were released");
                    }
                }
                Command::GoSolo { generation } => self.became_active(index, generation),
                Command::CloseLink | Command::Stop(_) => self.wires[index].closing = true,
                // The model has no newcomers; the simulator has.
                Command::AskPairing { .. } | Command::Joined { .. } | Command::JoinFailed | Command::Store { .. } => {
                    self.violate("a replica takes in a newcomer that nobody has told it of");
                }
            }
        }
    }

    fn send(&mut self, index: usize, wire: Wire) {
        if !self.wires[index].closing {
            self.wires[index].in_flight.push_back(wire);
        }
    }

    /// A repeated request is the same request: the set of what is on its way stays finite.
    fn post(&mut self, control: Control) {
        if let Err(at) = self.control.binary_search(&control) {
            self.control.insert(at, control);
        }
    }

    fn violate(&mut self, text: &'static str) {
        self.violation.get_or_insert(text);
    }

    fn release(&mut self, index: usize, through: Epoch) {
        let solo =
            ArbiterRecord { generation: self.nodes[index].replica.generation(), active: IDS[index], mode: Mode::Solo };
        let held_by_peer = self.nodes[1 - index].held_through;
        match self.nodes[index].replica.mode() {
            Mode::Solo if self.arbiter != solo => self.violate("outputs were released without the arbiter's grant"),
            Mode::Paired if held_by_peer < through => self.violate("outputs were released that the peer cannot repeat"),
            _ => {}
        }
        self.nodes[index].released_through = through;
    }

    fn became_active(&mut self, index: usize, generation: Generation) {
        if self.active.iter().any(|&(known, active)| known == generation && active != index as u8) {
            self.violate("two replicas are active in one generation");
        }
        self.active.push((generation, index as u8));
        let expected = ArbiterRecord { generation, active: IDS[index], mode: Mode::Solo };
        if self.arbiter != expected {
            self.violate("a replica is active that the arbiter did not name");
        }
    }

    fn deliver(&mut self, index: usize) {
        let Some((kind, payload)) = self.wires[1 - index].in_flight.pop_front() else { return };
        match Message::decode(kind, &payload) {
            Ok(message) => self.step(index, Input::Message(message)),
            Err(_) => self.violate("a message does not survive the codec"),
        }
        self.flush(index);
    }

    fn take_control(&mut self, control: Control, denial_ignored: bool) {
        match control {
            Control::Request { from, request_id, expect_generation } => {
                let grant = self.arbiter.compare_and_set(expect_generation, IDS[usize::from(from)]);
                let ArbiterRecord { generation, active, mode } = grant.record;
                let record = (generation, active.get(), mode == Mode::Solo);
                self.denied |= !grant.granted;
                self.post(Control::Answer { to: from, request_id, granted: grant.granted, record });
            }
            Control::Answer { to, request_id, granted, record: (generation, active, solo) } => {
                let index = usize::from(to);
                if self.takes_part(index) {
                    let active = if denial_ignored { IDS[index] } else { IDS[usize::from(active)] };
                    let mode = if solo { Mode::Solo } else { Mode::Paired };
                    let record = ArbiterRecord { generation, active, mode };
                    self.step(index, Input::ArbiterReply { request_id, granted: granted || denial_ignored, record });
                    self.flush(index);
                }
            }
            Control::PeerDead { to } => {
                if self.takes_part(usize::from(to)) {
                    self.step(usize::from(to), Input::PeerDead);
                    self.flush(usize::from(to));
                }
            }
        }
    }

    fn crash(&mut self, victim: usize, kept: usize) {
        self.crashes += 1;
        self.nodes[victim].alive = false;
        self.wires[victim].in_flight.truncate(kept);
        self.wires[victim].closing = true;
        self.wires[1 - victim].in_flight.clear();
        self.post(Control::PeerDead { to: 1 - victim as u8 });
    }

    fn cut(&mut self, kept: bool) {
        self.cuts += 1;
        for wires in &mut self.wires {
            wires.closing = true;
            if !kept {
                wires.in_flight.clear();
            }
        }
    }

    /// Someone serves, or nobody is left who could.
    fn settled(&self) -> bool {
        let active = self.arbiter.active.index();
        match self.arbiter.mode {
            Mode::Solo if !self.nodes[active].alive => true,
            Mode::Solo => self.takes_part(active) && self.nodes[active].replica.mode() == Mode::Solo,
            Mode::Paired => self.takes_part(0) && self.takes_part(1) || self.nodes.iter().all(|node| !node.alive),
        }
    }

    fn solo_replicas(&self) -> usize {
        (0..2).filter(|&index| self.takes_part(index) && self.nodes[index].replica.mode() == Mode::Solo).count()
    }

    fn stopped_superseded(&self) -> bool {
        let superseded = |node: &Node| matches!(node.replica.stopped(), Some(StopReason::Superseded { .. }));
        self.nodes.iter().any(superseded)
    }
}

fn encode(message: &Message<'_>) -> Wire {
    let mut frame = Vec::new();
    message.encode_into(&mut FrameWriter::new(0), &mut frame).expect("messages of the model are short");
    (message.kind(), frame.split_off(HEADER_BYTES))
}

impl Pair {
    fn actions_of(&self, state: &State, index: usize, actions: &mut Vec<Action>) {
        let bounds = &self.0;
        let node = &state.nodes[index];
        let id = index as u8;
        let incoming = &state.wires[1 - index];
        if !incoming.in_flight.is_empty() {
            actions.push(Action::Deliver(id));
        } else if incoming.closing && !incoming.closed {
            actions.push(Action::NoticeClose(id));
        }
        if node.running.is_some() {
            actions.push(Action::EndEpoch(id));
        } else if node.replica.epoch() < bounds.epochs && node.replica.may_begin(node.now_ns) == Gate::Ready {
            actions.push(Action::Begin(id));
        }
        let waits = match node.replica.phase() {
            Phase::Suspecting => true,
            // A request is never lost here, so there is no need to repeat it.
            Phase::AwaitingGrant { .. } | Phase::Promoting => false,
            _ => node.idle_ticks < bounds.idle_ticks,
        };
        if waits && node.replica.next_deadline_ns() != u64::MAX {
            actions.push(Action::Tick(id));
        }
        if state.crashes < bounds.crashes {
            let sent = state.wires[index].in_flight.len();
            actions.extend((0..=sent).map(|kept| Action::Crash { victim: id, kept }));
        }
    }

    fn tick(&self, state: &mut State, index: usize) {
        let node = &mut state.nodes[index];
        if node.replica.phase() != Phase::Suspecting {
            node.idle_ticks += 1;
        }
        node.now_ns = node.now_ns.max(node.replica.next_deadline_ns());
        state.step(index, Input::Tick);
        state.flush(index);
    }

    fn begin(&self, state: &mut State, index: usize) {
        let node = &mut state.nodes[index];
        let mut commands = Vec::new();
        let clocks = Clocks { monotonic_ns: node.now_ns, realtime_ns: node.now_ns };
        node.replica.begin(node.now_ns, clocks, Vec::new(), &mut commands);
        state.obey(index, &commands);
        state.flush(index);
    }
}

impl Model for Pair {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(&self.0)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for index in 0..2 {
            if state.takes_part(index) {
                self.actions_of(state, index, actions);
            }
        }
        for index in 0..state.control.len() {
            actions.push(Action::Control { index, again: false });
            if state.repeats < self.0.repeats && matches!(state.control[index], Control::Answer { .. }) {
                actions.push(Action::Control { index, again: true });
            }
        }
        if state.cuts < self.0.cuts && state.wires.iter().any(|wires| !wires.closing) {
            actions.extend([Action::Cut { kept: true }, Action::Cut { kept: false }]);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Deliver(id) => state.deliver(id.into()),
            Action::NoticeClose(id) => {
                state.wires[1 - usize::from(id)].closed = true;
                state.step(id.into(), Input::LinkClosed(LinkFault::Closed));
                state.flush(id.into());
            }
            Action::Begin(id) => self.begin(&mut state, id.into()),
            Action::EndEpoch(id) => {
                let digest = state.nodes[usize::from(id)].running.take()?;
                state.step(id.into(), Input::EpochEnded { digest, has_outputs: true });
                state.flush(id.into());
            }
            Action::Tick(id) => self.tick(&mut state, id.into()),
            Action::Control { index, again } => {
                let control = state.control[index];
                if again {
                    state.repeats += 1;
                } else {
                    state.control.remove(index);
                }
                state.take_control(control, self.0.denial_ignored);
            }
            Action::Crash { victim, kept } => state.crash(victim.into(), kept),
            Action::Cut { kept } => state.cut(kept),
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("no judge objects", |_, state: &State| state.violation.is_none()),
            Property::always("at most one replica is solo", |_, state: &State| state.solo_replicas() <= 1),
            Property::always("when nothing is left to happen, someone serves", |model: &Self, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || state.settled()
            }),
            Property::sometimes("a backup is promoted after epochs", |_, state: &State| {
                state
                    .nodes
                    .iter()
                    .any(|node| node.was_backup && node.replica.role() == Role::Primary && node.replica.epoch() > 0)
            }),
            Property::sometimes("a backup is promoted while pairing", |_, state: &State| {
                state
                    .nodes
                    .iter()
                    .any(|node| node.was_backup && node.replica.role() == Role::Primary && node.replica.epoch() == 0)
            }),
            Property::sometimes("a primary goes solo", |_, state: &State| {
                state.nodes.iter().any(|node| !node.was_backup && node.replica.mode() == Mode::Solo)
            }),
            Property::sometimes("a promoted backup begins an epoch of its own", |_, state: &State| {
                state
                    .nodes
                    .iter()
                    .any(|node| node.was_backup && node.replica.role() == Role::Primary && node.running.is_some())
            }),
            Property::sometimes("a request is denied", |_, state: &State| state.denied),
            Property::sometimes("a replica is superseded", |_, state: &State| state.stopped_superseded()),
            Property::sometimes("all epochs are released in the pair", |model: &Self, state: &State| {
                state.nodes[0].released_through == model.0.epochs && state.nodes[0].replica.mode() == Mode::Paired
            }),
        ]
    }
}
