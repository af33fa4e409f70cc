//! Properties over random runs: no input breaks a replica, and no schedule breaks a pair.

use core::cell::Cell;
use core::hash::BuildHasher;
use std::hash::RandomState;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::harness::*;
use crate::arbiter::ArbiterRecord;
use crate::link::{Ack, Divergence, Goodbye, GoodbyeReason, Heartbeat, IdentityField, Message, Mismatch};
use crate::replica::{Blocked, Config, Gate, Input, LinkFault, Phase, StopReason};
use crate::{Clocks, Discipline, Mode, ReplicaId, Role};

/// Mostly numbers that a run is about, sometimes any.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..6_u64, 1 => any::<u64>()]
}

#[derive(Clone, Debug)]
enum Act {
    Message(Owned),
    Begin(Vec<u8>),
    End {
        outputs: bool,
        stops: bool,
    },
    Confirm(u64),
    LinkClosed,
    PeerDead,
    Reply {
        request_id: u64,
        granted: bool,
        record: ArbiterRecord,
    },
    /// The arbiter's answer to the newest request, if there is one.
    Answer,
    Superseded(u64),
    Shutdown,
    Wait(u64),
}

fn message() -> impl Strategy<Value = Owned> {
    let small = |message| Owned::Small(message);
    prop_oneof![
        4 => Just(Owned::Small(Message::Hello(hello_of_the_other()))),
        12 => (number(), number(), number(), prop::collection::vec(any::<u8>(), 0..64)).prop_map(
            |(epoch, prev_digest, released_through, events)| Owned::Start(crate::replica::Record {
                epoch, prev_digest, released_through, events, clocks: Clocks::default(), sent_ns: 5,
            })),
        8 => (number(), number(), number(), number()).prop_map(
            move |(received_through, executed_through, disks_done_below, echo_ns)| {
                small(Message::Ack(Ack { received_through, executed_through, disks_done_below, echo_ns }))
            }),
        6 => (number(), number(), number(), number()).prop_map(
            move |(ended_epoch, ended_digest, released_through, sent_ns)| {
                small(Message::Heartbeat(Heartbeat { ended_epoch, ended_digest, released_through, sent_ns }))
            }),
        1 => (number(), number(), number()).prop_map(move |(epoch, ours, theirs)| {
            small(Message::Diverged(Divergence { epoch, ours, theirs }))
        }),
        1 => number().prop_map(move |ours| {
            small(Message::Refuse(Mismatch { field: IdentityField::Image, ours, theirs: 0 }))
        }),
        1 => (1..5_u8, number()).prop_map(move |(code, generation)| {
            let reason = GoodbyeReason::from_code(code).expect("codes 1 to 4 are defined");
            small(Message::Goodbye(Goodbye { reason, generation }))
        }),
    ]
}

/// What [`config`] of either role says; the receiver takes it as a peer's only if the roles fit.
fn hello_of_the_other() -> crate::link::Hello {
    let config = config(Role::Primary);
    crate::link::Hello {
        identity: config.identity,
        replica: config.replica,
        role: config.role,
        generation: config.generation,
        max_epoch_events_bytes: config.max_epoch_events_bytes,
    }
}

fn act() -> impl Strategy<Value = Act> {
    let record = (number(), any::<bool>(), any::<bool>()).prop_map(|(generation, one, solo)| ArbiterRecord {
        generation,
        active: if one { ReplicaId::ONE } else { ReplicaId::ZERO },
        mode: if solo { Mode::Solo } else { Mode::Paired },
    });
    prop_oneof![
        20 => message().prop_map(Act::Message),
        12 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Act::Begin),
        16 => (any::<bool>(), prop::bool::weighted(0.05)).prop_map(|(outputs, stops)| Act::End { outputs, stops }),
        3 => number().prop_map(Act::Confirm),
        1 => Just(Act::LinkClosed),
        1 => Just(Act::PeerDead),
        3 => (0..3_u64, any::<bool>(), record)
            .prop_map(|(request_id, granted, record)| Act::Reply { request_id, granted, record }),
        6 => Just(Act::Answer),
        1 => number().prop_map(Act::Superseded),
        1 => Just(Act::Shutdown),
        8 => (0..FAILURE_NS * 2).prop_map(Act::Wait),
    ]
}

/// Carries out one act as a correct caller would; a [`Node`] checks the commands by itself.
fn perform(node: &mut Node, act: &Act) {
    match act {
        Act::Message(owned) => {
            let mut owned = owned.clone();
            if let (Owned::Small(Message::Hello(hello)), Role::Primary) = (&mut owned, node.replica.role()) {
                hello.role = Role::Backup;
                hello.replica = ReplicaId::ONE;
            }
            node.step(Input::Message(owned.message()));
        }
        Act::Begin(events) if node.gate() == Gate::Ready => {
            node.begin(events);
        }
        Act::End { outputs, stops } if node.running.is_some() => {
            let digest = node.run();
            node.step(if *stops {
                Input::GuestStopped { digest }
            } else {
                Input::EpochEnded { digest, has_outputs: *outputs }
            });
        }
        Act::Begin(_) | Act::End { .. } => node.flush(),
        Act::Confirm(through) => {
            let mut out = Vec::new();
            node.replica.confirm_released(node.now_ns, *through, &mut out);
            node.carry_out(out);
        }
        Act::LinkClosed => node.step(Input::LinkClosed(LinkFault::Corrupt)),
        Act::PeerDead => node.step(Input::PeerDead),
        Act::Reply { request_id, granted, record } => {
            node.step(Input::ArbiterReply { request_id: *request_id, granted: *granted, record: *record });
        }
        Act::Answer if node.requests.is_empty() => node.flush(),
        Act::Answer => {
            let id = node.id;
            node.answer(&mut ArbiterRecord::new_pair(PRIMARY), id);
        }
        Act::Superseded(generation) => node.step(Input::Superseded { generation: *generation }),
        Act::Shutdown => node.step(Input::Shutdown),
        Act::Wait(duration_ns) => {
            node.advance_ns(*duration_ns);
            node.tick();
        }
    }
}

fn check_alone(node: &Node, before: (Phase, u64)) {
    let status = node.replica.status(node.now_ns);
    assert!(status.received_by_backup >= status.executed_by_backup);
    assert!(status.released_through >= before.1 || status.role != Role::Backup);
    if status.mode == Mode::Paired && status.role == Role::Primary {
        assert!(status.released_through <= status.received_by_backup, "released what nobody else holds");
        assert!(node.released <= status.released_through);
    }
    if status.mode == Mode::Paired && status.role == Role::Backup {
        assert_eq!(node.released, 0, "a backup released");
    }
    if let Phase::Stopped(_) = before.0 {
        assert_eq!(status.phase, before.0, "a stop is for good");
    }
    assert_eq!(node.stop.is_some(), matches!(status.phase, Phase::Stopped(_)));
}

/// Runs a property on random values; the seed, printed first, repeats a failure: `POLLUX_SEED=… cargo test`.
fn for_all<S: Strategy>(cases: u32, strategy: &S, check: impl Fn(S::Value)) {
    let seed = match std::env::var("POLLUX_SEED") {
        Ok(text) => text.parse().expect("POLLUX_SEED is a decimal number below 2^64"),
        Err(_) => RandomState::new().hash_one(cases),
    };
    std::println!("POLLUX_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(strategy, |value| {
        check(value);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("with POLLUX_SEED={seed}: {failure}");
    }
}

#[test]
fn no_input_breaks_a_replica() {
    let acts = prop::collection::vec(act(), 1..200);
    let promoted = Cell::new(0);
    for_all(512, &(any::<[bool; 4]>(), prop::bool::weighted(0.1), acts), |(flags, solo, acts)| {
        let [primary, confirms_releases, original, compares_first] = flags;
        let discipline = if original { Discipline::Original } else { Discipline::Revised };
        let mut node = Node::new(Config {
            mode: if solo { Mode::Solo } else { Mode::Paired },
            identity: identity(discipline),
            confirms_releases,
            compares_first,
            ..config(if primary || solo { Role::Primary } else { Role::Backup })
        });
        // Both disciplines must get past the handshake, whose hello names the revised one.
        let mut hello = hello_of_the_other();
        hello.identity = identity(discipline);
        perform(&mut node, &Act::Message(Owned::Small(Message::Hello(hello))));
        for act in &acts {
            let before = (node.phase(), node.replica.status(node.now_ns).released_through);
            perform(&mut node, act);
            check_alone(&node, before);
        }
        promoted.set(promoted.get() + u32::from(node.promotion.is_some()));
    });
    assert!(promoted.get() > 0, "no run came as far as a promotion");
}

/// A step of the schedule of a pair.
#[derive(Clone, Debug)]
enum Move {
    Begin(u8),
    End { backup: bool },
    Deliver { to_backup: bool, count: usize },
    Answer { backup: bool, again: bool },
    Pass { primary_us: u64, backup_us: u64 },
    Kill { backup: bool },
    Cut,
}

fn schedule() -> impl Strategy<Value = Vec<Move>> {
    let step = prop_oneof![
        30 => any::<u8>().prop_map(Move::Begin),
        30 => any::<bool>().prop_map(|backup| Move::End { backup }),
        40 => (any::<bool>(), 1..5_usize).prop_map(|(to_backup, count)| Move::Deliver { to_backup, count }),
        20 => (any::<bool>(), any::<bool>()).prop_map(|(backup, again)| Move::Answer { backup, again }),
        10 => (0..3_000_u64, 0..3_000_u64)
            .prop_map(|(primary_us, backup_us)| Move::Pass { primary_us, backup_us }),
        2 => (0..300_000_u64, 0..300_000_u64)
            .prop_map(|(primary_us, backup_us)| Move::Pass { primary_us, backup_us }),
        1 => any::<bool>().prop_map(|backup| Move::Kill { backup }),
        1 => Just(Move::Cut),
    ];
    prop::collection::vec(step, 1..300)
}

/// A pair under a schedule, with what the schedule has done to it.
struct World {
    pair: Pair,
    dead: [bool; 2],
    cut: bool,
    /// How many of the backup's epochs came from the primary's log, once that is settled.
    log_ended_at: Option<u64>,
    lagged: bool,
    ran_log_after_asking: bool,
}

impl World {
    fn node(&mut self, backup: bool) -> &mut Node {
        if backup { &mut self.pair.backup } else { &mut self.pair.primary }
    }

    fn alive(&self, backup: bool) -> bool {
        let node = if backup { &self.pair.backup } else { &self.pair.primary };
        !self.dead[usize::from(backup)] && node.stop.is_none()
    }

    fn perform(&mut self, step: &Move) {
        match *step {
            Move::Begin(event) => self.begin(event),
            Move::End { backup } => {
                if self.alive(backup) && self.node(backup).running.is_some() {
                    let asking = self.node(backup).phase() == Phase::AwaitingGrant { role: Role::Backup };
                    self.ran_log_after_asking |= asking;
                    self.node(backup).end();
                }
            }
            Move::Deliver { to_backup, count } => self.deliver(to_backup, count),
            Move::Answer { backup, again } => self.answer(backup, again),
            Move::Pass { primary_us, backup_us } => {
                self.pass(false, primary_us);
                self.pass(true, backup_us);
            }
            Move::Kill { backup } => self.kill(backup),
            Move::Cut => self.cut(),
        }
        self.check();
    }

    fn begin(&mut self, event: u8) {
        self.lagged |= self.pair.primary.gate() == Gate::Blocked(Blocked::Lag);
        for backup in [false, true] {
            if self.alive(backup) && self.node(backup).gate() == Gate::Ready {
                self.node(backup).begin(&[event]);
            }
        }
    }

    fn deliver(&mut self, to_backup: bool, count: usize) {
        let sender = self.node(!to_backup);
        let count = count.min(sender.sent.len());
        let messages: Vec<_> = sender.sent.drain(..count).collect();
        if self.alive(to_backup) && !self.cut {
            self.node(to_backup).take(&messages);
        }
    }

    fn answer(&mut self, backup: bool, again: bool) {
        if !self.alive(backup) || self.node(backup).requests.is_empty() {
            return;
        }
        let me = if backup { BACKUP } else { PRIMARY };
        let mut arbiter = self.pair.arbiter;
        self.node(backup).answer(&mut arbiter, me);
        if again && self.alive(backup) {
            self.node(backup).answer(&mut arbiter, me);
        }
        self.pair.arbiter = arbiter;
    }

    /// The machine was away for a while, or just idle: it finds its messages before its tick.
    fn pass(&mut self, backup: bool, duration_us: u64) {
        self.node(backup).advance_ns(duration_us * 1_000);
        if self.alive(backup) {
            self.deliver(backup, usize::MAX);
        }
        if self.alive(backup) {
            self.node(backup).tick();
        }
    }

    fn kill(&mut self, backup: bool) {
        // At most one of the two is lost to crash and grant together: nothing survives the loss of both.
        let victim = if backup { BACKUP } else { PRIMARY };
        let last_one = self.pair.arbiter.mode == Mode::Solo && self.pair.arbiter.active == victim;
        if self.dead != [false, false] || last_one || !self.alive(!backup) {
            return;
        }
        self.dead[usize::from(backup)] = true;
        self.deliver(!backup, usize::MAX);
        if self.alive(!backup) {
            self.node(!backup).close_link();
            self.node(!backup).peer_dead();
        }
    }

    fn cut(&mut self) {
        if !self.cut {
            self.cut = true;
            for backup in [false, true] {
                if self.alive(backup) {
                    self.node(backup).close_link();
                }
            }
        }
    }

    fn check(&mut self) {
        let Pair { primary, backup, .. } = &self.pair;
        for node in [primary, backup] {
            assert!(
                !matches!(node.stop, Some(StopReason::Diverged(_))),
                "nothing disturbed the guests: {:?}",
                node.stop
            );
        }
        let solo = |node: &Node| node.replica.mode() == Mode::Solo;
        assert!(!(solo(primary) && solo(backup)), "two active replicas");
        if let (None, Some(promotion)) = (self.log_ended_at, backup.promotion) {
            self.log_ended_at = Some(promotion.first_own_epoch - 1);
            assert!(backup.ran_through < promotion.first_own_epoch);
        }
        // The survivor's history contains all that the primary has let out.
        if let Some(log_ended_at) = self.log_ended_at {
            assert!(primary.released <= log_ended_at, "released {} of {log_ended_at}", primary.released);
        }
        assert!(backup.discarded <= primary.released.max(primary.replica.status(0).released_through));
        let common = self.log_ended_at.unwrap_or(u64::MAX) as usize;
        let common = common.min(primary.digests.len()).min(backup.digests.len());
        assert_eq!(primary.digests[..common], backup.digests[..common], "the guests differ");
    }

    /// Whoever lives gets answers and time; then somebody must be able to go on.
    fn heal(&mut self) {
        for round in 0..2_000 {
            for backup in [false, true] {
                if self.alive(backup) && self.node(backup).running.is_some() {
                    self.node(backup).end();
                }
                self.deliver(backup, usize::MAX);
                let phase = self.node(backup).phase();
                if matches!(phase, Phase::AwaitingGrant { .. }) {
                    self.answer(backup, false);
                }
                self.pass(backup, 1_000);
            }
            self.check();
            if round > 200 && self.somebody_can_begin() {
                return;
            }
        }
        panic!("nobody goes on: {:?}, {:?}", self.pair.primary.phase(), self.pair.backup.phase());
    }

    fn somebody_can_begin(&mut self) -> bool {
        [false, true].into_iter().any(|backup| self.alive(backup) && self.node(backup).gate() == Gate::Ready)
    }
}

/// Rare paths that the schedules must take, or the property says little.
#[derive(Default, Debug)]
struct Marks {
    promoted: Cell<u32>,
    promoted_in_pairing: Cell<u32>,
    primary_went_solo: Cell<u32>,
    backup_superseded: Cell<u32>,
    primary_superseded: Cell<u32>,
    closed_by_lag: Cell<u32>,
    ran_log_after_asking: Cell<u32>,
}

impl Marks {
    fn note(&self, world: &mut World) {
        let hit = |mark: &Cell<u32>, condition| mark.set(mark.get() + u32::from(condition));
        let Pair { primary, backup, .. } = &world.pair;
        let superseded = |node: &Node| matches!(node.stop, Some(StopReason::Superseded { .. }));
        hit(&self.promoted, backup.promotion.is_some());
        hit(&self.promoted_in_pairing, backup.promotion.is_some_and(|promotion| promotion.first_own_epoch == 1));
        hit(&self.primary_went_solo, primary.replica.mode() == Mode::Solo);
        hit(&self.backup_superseded, superseded(backup));
        hit(&self.primary_superseded, superseded(primary));
        hit(&self.closed_by_lag, world.lagged);
        hit(&self.ran_log_after_asking, world.ran_log_after_asking);
    }

    fn check(&self) {
        let all = [
            &self.promoted,
            &self.promoted_in_pairing,
            &self.primary_went_solo,
            &self.backup_superseded,
            &self.primary_superseded,
            &self.closed_by_lag,
            &self.ran_log_after_asking,
        ];
        assert!(all.iter().all(|mark| mark.get() > 0), "not every path was taken: {self:?}");
    }
}

#[test]
fn no_schedule_breaks_a_pair() {
    let marks = Marks::default();
    let variant = (any::<bool>(), prop::bool::weighted(0.2));
    for_all(
        1024,
        &(variant, prop::bool::weighted(0.1), schedule()),
        |((original, compares_first), unpaired, moves)| {
            let discipline = if original { Discipline::Original } else { Discipline::Revised };
            let mut pair = Pair::of(|config| Config { identity: identity(discipline), compares_first, ..config });
            if !unpaired {
                pair.exchange();
            }
            let mut world = World {
                pair,
                dead: [false; 2],
                cut: false,
                log_ended_at: None,
                lagged: false,
                ran_log_after_asking: false,
            };
            for step in &moves {
                world.perform(step);
            }
            world.heal();
            marks.note(&mut world);
        },
    );
    marks.check();
}
