//! Everything around the two machines: time, the link, the supervisor with the arbiter, the hub and its client.

use std::collections::{BTreeMap, VecDeque};

use protocol::arbiter::{ArbiterRecord, Grant};
use protocol::replica::{Input, StopReason};
use protocol::{Epoch, Mode, ReplicaId, Role};

use super::checker::{Checker, Verdict};
use super::disk::{BLOCKS, SharedDevice};
use super::faults::{Settings, Trigger};
use super::guest::{EXIT_OUTPUT, TIMER_OUTPUT};
use super::hub::{Hub, ToReplica};
use super::log::{StableLog, Stored};
use super::marks::{Mark, Marks};
use super::node::{Control, Node};
use super::pipe::Pipe;
use super::rejoin::Joining;
use super::rng::Rng;
use super::{Canary, Report};

/// From here on nothing goes wrong any more.
pub const HEAL_NS: u64 = 40_000_000;
/// By then a pair that can serve must have served everything.
pub const DEADLINE_NS: u64 = 400_000_000;
const TRACE_LINES: usize = 400;

/// Something that happens.
#[derive(Debug)]
pub enum Event {
    /// The shim of this replica runs a round.
    Wake(ReplicaId),
    /// The guest reaches the end of an epoch.
    EpochDone(ReplicaId, Epoch),
    /// Something arrives at this end of the link.
    LinkArrival(ReplicaId),
    /// The supervisor's message reaches the shim.
    Control(ReplicaId, Control),
    /// A request reaches the arbiter.
    ArbiterRequest { from: ReplicaId, request_id: u64, expect_generation: u64 },
    /// The hub's packets reach the shim.
    Packets(ToReplica),
    /// The hub looks at what the replica has written.
    HubRead(ReplicaId),
    /// The disk of the replica does a request.
    DiskDone(ReplicaId, u64),
    /// The backup has waited long enough for its disk to be ready for an epoch.
    DiskPatience(ReplicaId, Epoch),
    /// A request was begun so long ago that it should have ended.
    DiskWatch(ReplicaId, u64),
    /// The device of the replica lets its queue go.
    DeviceFlush(ReplicaId),
    /// The client sends its next request.
    ClientSend,
    /// A planned fault strikes.
    Fault(usize),
    /// A paused process goes on.
    Resume(ReplicaId),
    /// The supervisor starts a new machine for the one that this replica has lost.
    Rejoin(ReplicaId),
    /// An operator wants the roles to change.
    HandOver,
    /// A request to pair reaches the arbiter.
    PairingRequest { from: ReplicaId, request_id: u64, expect_generation: u64 },
    /// A record reaches the supervisor.
    Record(ReplicaId, Stored),
    /// What was being written to stable storage is there.
    LogWritten,
    /// The end of all faults.
    Heal,
}

/// A whole simulated world.
pub struct World {
    pub(super) settings: Settings,
    pub(super) canary: Option<Canary>,
    pub(super) rng: Rng,
    pub(super) now_ns: u64,
    pub(super) steps: u64,
    queue: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    pub(super) nodes: [Node; 2],
    /// Indexed by who sends.
    pub(super) pipes: [Pipe; 2],
    pub(super) arbiter: ArbiterRecord,
    pub(super) hub: Hub,
    packets_last_ns: [u64; 2],
    pub(super) requests_sent: u64,
    pub(super) checker: Checker,
    pub(super) marks: Marks,
    pub(super) verdict: Verdict,
    pub(super) healed: bool,
    pub(super) cut: bool,
    pub(super) joining: Joining,
    /// The device that both replicas reach, if the disk is shared.
    pub(super) shared: SharedDevice,
    /// Who has left because of its disk.
    pub(super) left: [bool; 2],
    /// What flushes have promised of each replica's mirror.
    pub(super) promised: [[u64; BLOCKS]; 2],
    pub(super) log: StableLog,
    /// Planned faults that have struck, and how often their moments have been let pass.
    pub(super) struck: Vec<bool>,
    pub(super) passed: Vec<u64>,
    trace: Option<VecDeque<String>>,
}

impl World {
    pub(super) fn new(seed: u64, canary: Option<Canary>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let mut settings = Settings::draw(&mut rng.fork());
        settings.draw_storage(&mut Rng::new(seed ^ 0x6c6f_6700));
        // Of their own, so that runs without disks are what they were.
        let disk_rng = Rng::new(seed ^ 0x6469_736b);
        let arbiter = ArbiterRecord::new_pair(ReplicaId::ZERO);
        let faults = settings.faults.len();
        Self {
            nodes: [ReplicaId::ZERO, ReplicaId::ONE]
                .map(|id| Node::new(id, &settings, Rng::new(disk_rng.clone().next_u64() ^ u64::from(id.get())))),
            pipes: Default::default(),
            canary,
            rng,
            now_ns: 0,
            steps: 0,
            queue: BTreeMap::new(),
            next_event: 0,
            arbiter,
            hub: Hub::new(arbiter.active),
            packets_last_ns: [0; 2],
            requests_sent: 0,
            checker: Checker::new(arbiter),
            marks: Marks::default(),
            verdict: Ok(()),
            healed: false,
            cut: false,
            joining: Joining::default(),
            shared: SharedDevice::default(),
            left: [false; 2],
            promised: [[0; BLOCKS]; 2],
            log: StableLog::default(),
            struck: vec![false; faults],
            passed: vec![0; faults],
            settings,
            trace: traced.then(VecDeque::new),
        }
    }

    /// Runs the world to its end.
    pub(super) fn run(mut self) -> Report {
        self.start();
        while self.verdict.is_ok()
            && let Some(((at_ns, _), event)) = self.queue.pop_first()
            && at_ns <= DEADLINE_NS
        {
            self.now_ns = at_ns;
            self.steps += 1;
            self.strike_by_step();
            self.happen(event);
            if self.healed && self.settled() {
                break;
            }
        }
        let verdict = std::mem::replace(&mut self.verdict, Ok(())).and_then(|()| self.judge());
        Report {
            verdict,
            marks: self.marks,
            steps: self.steps,
            settings: self.settings.clone(),
            trace: self.trace.take().unwrap_or_default().into(),
        }
    }

    fn start(&mut self) {
        self.at(HEAL_NS, Event::Heal);
        self.at(0, Event::ClientSend);
        if let Some(at_ns) = self.settings.hand_over_at_ns {
            self.at(at_ns, Event::HandOver);
        }
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            let boot_ns = self.rng.below(500_000);
            self.nodes[id.index()].wake_at_ns = Some(boot_ns);
            self.at(boot_ns, Event::Wake(id));
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Wake(id) => self.wake(id),
            Event::EpochDone(id, epoch) => self.epoch_done(id, epoch),
            Event::LinkArrival(id) => self.attend(id, true),
            Event::Control(id, control) => {
                self.node(id).control.push_back(control);
                self.attend(id, false);
            }
            Event::ArbiterRequest { from, request_id, expect_generation } => {
                self.arbitrate(from, request_id, expect_generation);
            }
            Event::Packets(ToReplica { to, packets }) => {
                self.node(to).packets.extend(packets);
                self.attend(to, true);
            }
            Event::HubRead(from) => self.hub_reads(from),
            Event::DiskDone(id, number) => self.disk_done(id, number),
            Event::DiskPatience(id, epoch) => self.disk_patience(id, epoch),
            Event::DiskWatch(id, number) => self.disk_watch(id, number),
            Event::DeviceFlush(id) => self.device_flush(id),
            Event::ClientSend => self.client_sends(),
            Event::Fault(index) => self.strike(index, None),
            Event::Resume(id) => self.resume(id),
            Event::Rejoin(id) => self.rejoin(id),
            Event::HandOver => {
                let active = self.arbiter.active;
                if self.nodes[active.index()].runs() {
                    self.step(active, Input::HandOver);
                    self.wake_by(active, self.now_ns);
                }
            }
            Event::PairingRequest { from, request_id, expect_generation } => {
                self.arbitrate_pairing(from, request_id, expect_generation);
            }
            Event::Record(from, stored) => self.record_arrives(from, stored),
            Event::LogWritten => self.log_written(),
            Event::Heal => self.heal(),
        }
    }

    pub(super) fn at(&mut self, at_ns: u64, event: Event) {
        self.queue.insert((at_ns, self.next_event), event);
        self.next_event += 1;
    }

    pub(super) fn after(&mut self, (least_ns, greatest_ns): (u64, u64), event: Event) {
        let delay_ns = self.rng.between(least_ns, greatest_ns);
        self.at(self.now_ns + delay_ns, event);
    }

    /// Forgets the events that are not to be kept.
    pub(super) fn retain_events(&mut self, keep: impl Fn(&Event) -> bool) {
        self.queue.retain(|_, event| keep(event));
    }

    /// Forgets records on their way that are not to be kept, by whose they are and when they arrive.
    pub(super) fn retain_records(&mut self, keep: impl Fn(ReplicaId, u64) -> bool) {
        self.queue.retain(|(at_ns, _), event| match event {
            Event::Record(id, _) => keep(*id, *at_ns),
            _ => true,
        });
    }

    pub(super) fn node(&mut self, id: ReplicaId) -> &mut Node {
        &mut self.nodes[id.index()]
    }

    pub(super) fn judge_by(&mut self, verdict: Verdict) {
        if self.verdict.is_ok() {
            self.verdict = verdict;
        }
    }

    /// Writes a line of the trace, if there is one.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES {
                trace.pop_front();
            }
            trace.push_back(format!("{:>12} ns  {}", self.now_ns, line()));
        }
    }

    /// Something has come for this replica: its shim runs soon, or, if it is lazy, when the guest lets it.
    fn attend(&mut self, id: ReplicaId, may_wait: bool) {
        let lazy = may_wait && self.nodes[id.index()].running.is_some() && {
            let percent = self.settings.lazy_percent;
            self.rng.chance(percent)
        };
        if !lazy {
            let delay_ns = self.rng.below(20_000);
            self.wake_by(id, self.now_ns + delay_ns);
        }
    }

    /// Plans a round of the shim, if none is planned before.
    pub(super) fn wake_by(&mut self, id: ReplicaId, at_ns: u64) {
        let at_ns = at_ns.max(self.now_ns);
        let planned = &mut self.node(id).wake_at_ns;
        if planned.is_none_or(|planned_ns| planned_ns > at_ns) {
            *planned = Some(at_ns);
            self.at(at_ns, Event::Wake(id));
        }
    }

    fn arbitrate(&mut self, from: ReplicaId, request_id: u64, expect_generation: u64) {
        let before = self.arbiter;
        let grant = self.arbiter.compare_and_set(expect_generation, from);
        self.node(from).denied |= !grant.granted;
        if grant.granted {
            self.fence(from.peer());
        }
        self.note(|| format!("arbiter: {from} asks for {expect_generation}+1: {grant:?}"));
        if self.arbiter != before && self.cut {
            let primary_won = from == ReplicaId::ZERO;
            self.marks.set(if primary_won { Mark::CutPrimaryWon } else { Mark::CutBackupWon });
        }
        let percent = self.settings.tells_loser_percent;
        if self.arbiter != before && self.rng.chance(percent) {
            let superseded = Control::Superseded(self.arbiter.generation);
            self.control(from.peer(), superseded);
        }
        self.answer(from, request_id, grant);
    }

    /// Sends the arbiter's answer, as well as it can be sent.
    pub(super) fn answer(&mut self, from: ReplicaId, request_id: u64, grant: Grant) {
        let Settings { answer_repeat_percent, answer_late_percent, answer_lost_percent, .. } = self.settings;
        let reply = Control::ArbiterReply { request_id, granted: grant.granted, record: grant.record };
        if self.healed || !self.rng.chance(answer_lost_percent) {
            let late = !self.healed && self.rng.chance(answer_late_percent);
            self.after(
                if late { (1_000_000, 20_000_000) } else { self.settings.control_delay_ns },
                Event::Control(from, reply),
            );
        }
        if self.rng.chance(answer_repeat_percent) {
            self.after((100_000, 10_000_000), Event::Control(from, reply));
        }
    }

    /// Sends a message of the supervisor.
    pub(super) fn control(&mut self, to: ReplicaId, control: Control) {
        self.after(self.settings.control_delay_ns, Event::Control(to, control));
    }

    fn hub_reads(&mut self, from: ReplicaId) {
        match self.hub.read(from, self.arbiter) {
            Ok(Some(answer)) => self.packets(answer),
            Ok(None) => {}
            Err(text) => self.judge_by(Err(text)),
        }
    }

    fn packets(&mut self, packets: ToReplica) {
        let to = packets.to.index();
        let at_ns = (self.now_ns + self.rng.between(5_000, 50_000)).max(self.packets_last_ns[to]);
        self.packets_last_ns[to] = at_ns;
        self.at(at_ns, Event::Packets(packets));
    }

    fn client_sends(&mut self) {
        if self.requests_sent == self.settings.requests {
            return;
        }
        let request = self.requests_sent.to_le_bytes();
        self.requests_sent += 1;
        let packets = self.hub.send(&request);
        self.packets(packets);
        self.after(self.settings.request_gap_ns, Event::ClientSend);
    }

    fn resume(&mut self, id: ReplicaId) {
        if !self.node(id).paused {
            return;
        }
        self.note(|| format!("{id} goes on"));
        self.node(id).paused = false;
        if !self.node(id).device.is_empty() {
            self.at(self.now_ns, Event::DeviceFlush(id));
        }
        self.node(id).wake_at_ns = None;
        self.wake_by(id, self.now_ns);
    }

    fn heal(&mut self) {
        self.note(|| "nothing goes wrong from here on".to_owned());
        self.healed = true;
        self.resume(ReplicaId::ZERO);
        self.resume(ReplicaId::ONE);
    }

    /// Whether the pair can serve at all: the replica that the arbiter names is there, or it can still name one. A backup
    /// that has found a divergence has stopped for good: should its primary die before the arbiter has answered it, or have
    /// died already and the difference lie in what it has left, nobody is left who may go on.
    fn hopeless(&self) -> bool {
        let has_gone = |node: &Node| !node.alive || matches!(node.stopped, Some(StopReason::Diverged(_)));
        match self.arbiter.mode {
            Mode::Solo => has_gone(&self.nodes[self.arbiter.active.index()]),
            Mode::Paired => self.nodes.iter().all(has_gone),
        }
    }

    /// Every request has been answered, as far as the guest lives, and who must stop has stopped.
    fn settled(&self) -> bool {
        self.hopeless() || (self.served() && self.in_order())
    }

    fn served(&self) -> bool {
        let exited = self.answers().any(|id| id == EXIT_OUTPUT);
        let answered = self.answers().filter(|id| *id < EXIT_OUTPUT).count() as u64;
        let disk_waits = !self.nodes[self.arbiter.active.index()].disk.is_quiet();
        exited || (!disk_waits && self.requests_sent == self.settings.requests && answered == self.requests_sent)
    }

    /// First words of what the client saw.
    fn answers(&self) -> impl Iterator<Item = u64> + '_ {
        self.hub.seen.iter().map(|output| output.first_chunk().map_or(TIMER_OUTPUT, |word| u64::from_le_bytes(*word)))
    }

    /// One replica is active and its peer is with it, dead or stopped; or the guest has ended everywhere.
    fn in_order(&self) -> bool {
        let active = &self.nodes[self.arbiter.active.index()];
        let peer = &self.nodes[self.arbiter.active.peer().index()];
        if self.nodes.iter().any(|node| node.alive && node.guest.stopped()) {
            return self.nodes.iter().all(|node| !node.takes_part());
        }
        match self.arbiter.mode {
            Mode::Solo => active.takes_part() && active.replica.mode() == Mode::Solo && !peer.takes_part(),
            // Two guests that differ must not stay together.
            Mode::Paired => active.takes_part() && peer.takes_part() && self.checker.tainted().is_none(),
        }
    }

    /// What can be judged only at the end.
    fn judge(&mut self) -> Verdict {
        // A replica that died between the grant and its promotion had not yet run all of the one history.
        let survivor = &self.nodes[self.arbiter.active.index()];
        let promoted = survivor.replica.role() == Role::Primary;
        let witness = if promoted { survivor } else { &self.nodes[self.arbiter.active.peer().index()] };
        if !self.hub.guests_differ || self.arbiter.active == ReplicaId::ZERO {
            Checker::client_saw(&self.hub.seen, &witness.produced)?;
        }
        self.judge_order_of_answers()?;
        self.judge_mirrors()?;
        self.judge_leaving()?;
        self.judge_power_loss()?;
        self.judge_shared()?;
        if self.settings.diverges {
            self.judge_divergence()?;
        } else if let Some(node) = self.nodes.iter().find(|node| matches!(node.stopped, Some(StopReason::Diverged(_))))
        {
            return Err(format!("replica {} stopped as diverged, but no bit was flipped", node.id));
        }
        if !self.settled() {
            return Err(self.why_not_settled());
        }
        if self.arbiter.mode == Mode::Paired && self.nodes.iter().all(|node| node.takes_part()) {
            let paused = self.nodes.iter().any(|node| node.was_paused);
            self.marks.set(if paused { Mark::PauseSurvived } else { Mark::PairKept });
        }
        if self.hub.repeated > 0 {
            self.marks.set(Mark::ResentKnownOutput);
        }
        if self.hub.handed_over > 0 {
            self.marks.set(Mark::FramesHandedOver);
        }
        Ok(())
    }

    /// Mirrors of replicas that have the same past and nothing under way are equal.
    fn judge_mirrors(&mut self) -> Verdict {
        let [zero, one] = &self.nodes;
        let at_rest = zero.disk.is_idle() && one.disk.is_idle() && zero.disk.taken() == one.disk.taken();
        let comparable = self.arbiter.mode == Mode::Paired && !self.settings.shared_disk;
        let spoilt = [zero, one].iter().any(|node| node.disk.trouble.spoilt != [false; BLOCKS]);
        if !comparable || self.checker.tainted().is_some() || !at_rest || spoilt {
            return Ok(());
        }
        if zero.disk.blocks() != one.disk.blocks() {
            return Err(format!("mirrors differ: {:?} and {:?}", zero.disk.blocks(), one.disk.blocks()));
        }
        if zero.disk.taken() > 0 {
            self.marks.set(Mark::MirrorsCompared);
        }
        Ok(())
    }

    /// No request was lost, repeated or reordered: the client never sends one twice.
    fn judge_order_of_answers(&self) -> Verdict {
        let answers = self.answers().filter(|id| *id < EXIT_OUTPUT);
        match answers.zip(0..).find(|(id, expected)| id != expected) {
            None => Ok(()),
            Some((id, expected)) => Err(format!("request {id} was answered where {expected} was due")),
        }
    }

    fn judge_divergence(&mut self) -> Verdict {
        let (primary, backup) = (&self.nodes[0], &self.nodes[1]);
        if self.checker.tainted().is_none() {
            return Ok(());
        }
        let Some(StopReason::Diverged(found)) = backup.stopped else {
            let still_equal = primary.guest == backup.guest && primary.ended_through() == backup.ended_through();
            let excused = self.hopeless() || still_equal || self.ended_before_comparing();
            return if excused { Ok(()) } else { Err("a bit was flipped and nobody noticed".to_owned()) };
        };
        self.marks.set(Mark::Diverged);
        if self.struck.len() > 1 && self.struck.iter().all(|struck| *struck) {
            self.marks.set(Mark::DivergedAmongFaults);
        }
        match primary.replica.status(0).divergence {
            Some(told) if told.swapped() == found => Ok(()),
            // The supervisor's word of the backup's end was faster than the backup's own.
            None if primary.told_dead || primary.stopped.is_some() => Ok(()),
            // Another fault was faster: it has died, or its link was gone before the word came, and it went on alone.
            None if self.struck.len() > 1 && (!primary.alive || self.arbiter.mode == Mode::Solo) => Ok(()),
            told => Err(format!("the backup found {found}, the primary knows {told:?}")),
        }
    }

    /// The guest has ended, or one replica was alone, before anything was compared: each has stopped or died.
    fn ended_before_comparing(&self) -> bool {
        self.arbiter.mode == Mode::Solo || self.nodes.iter().all(|node| !node.takes_part())
    }

    fn why_not_settled(&self) -> String {
        let states: Vec<_> = self
            .nodes
            .iter()
            .map(|node| {
                let local_ns = node.clock.local_ns(self.now_ns);
                format!(
                    "\n  replica {}: alive {}, {:?}, gate {:?}, guest stopped {}",
                    node.id,
                    node.alive,
                    node.replica.status(local_ns),
                    node.replica.may_begin(local_ns),
                    node.guest.stopped()
                )
            })
            .collect();
        let answered = self.answers().filter(|id| *id < EXIT_OUTPUT).count();
        format!(
            "the pair did not recover: {answered} of {} requests answered, arbiter {:?}{}",
            self.requests_sent,
            self.arbiter,
            states.concat()
        )
    }

    /// Strikes the faults that are due at this step.
    fn strike_by_step(&mut self) {
        for index in 0..self.settings.faults.len() {
            if let Trigger::Step(step) = self.settings.faults[index].trigger
                && step <= self.steps
            {
                self.strike(index, None);
            }
        }
    }

    /// Gives a replica an input and carries out what it commands.
    pub(super) fn step(&mut self, id: ReplicaId, input: Input<'_>) {
        let local_ns = self.local_ns(id);
        let mut commands = Vec::new();
        self.node(id).replica.step(local_ns, input, &mut commands);
        self.carry_out(id, commands);
    }

    pub(super) fn local_ns(&self, id: ReplicaId) -> u64 {
        self.nodes[id.index()].clock.local_ns(self.now_ns)
    }
}

/// A panic of the code under test shows what led to it.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for line in self.trace.iter().flatten() {
                println!("{line}");
            }
        }
    }
}
