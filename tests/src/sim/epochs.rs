//! The guest's epochs as a shim runs them: what begins one, what it is given, and what comes of it.

use protocol::event::{Event as GuestEvent, EventReader, record_bytes};
use protocol::replica::{Blocked, Gate, Input};
use protocol::{Clocks, Epoch, Mode, ReplicaId, Role};

use super::Canary;
use super::checker::Checker;
use super::faults::Moment;
use super::log::Stored;
use super::marks::Mark;
use super::mirror::PATIENCE_NS;
use super::node::{Held, MAX_EPOCH_EVENTS_BYTES, Running};
use super::world::{Event, World};

const LONG_EPOCH_NS: u64 = 6_000_000;

impl World {
    /// The guest has reached the end of its epoch; the shim notices when it runs.
    pub(super) fn epoch_done(&mut self, id: ReplicaId, epoch: Epoch) {
        let node = self.node(id);
        if node.running.as_ref().is_some_and(|running| running.epoch == epoch) {
            node.guest_done = true;
            self.wake_by(id, self.now_ns);
        }
    }

    pub(super) fn take_guest_end(&mut self, id: ReplicaId) {
        let node = self.node(id);
        if !node.runs() || !std::mem::take(&mut node.guest_done) {
            return;
        }
        let Some(Running { epoch, clocks, events }) = node.running.take() else { return };
        let (guest, disk) = (&mut node.guest, &mut node.disk);
        let result = guest.run(clocks, &events, disk);
        disk.take(epoch, &result.requests);
        self.judge_disk(id, &result);
        self.start_disk(id);
        let node = self.node(id);
        let has_outputs = !result.outputs.is_empty();
        for bytes in result.outputs {
            let sequence = node.produced.len() as u64;
            node.produced.push((epoch, bytes.clone()));
            if epoch > node.discard_through {
                node.held.push_back(Held { epoch, sequence, bytes });
            }
        }
        let verdict = self.checker.ended(id, epoch, result.digest);
        self.judge_by(verdict);
        self.note(|| format!("{id} ends epoch {epoch}, outputs: {has_outputs}, stopped: {}", result.stopped));
        let digest = result.digest;
        if result.stopped {
            self.step(id, Input::GuestStopped { digest });
            self.moment(id, Moment::GuestStopped);
        } else {
            self.step(id, Input::EpochEnded { digest, has_outputs });
        }
        if self.canary == Some(Canary::ReleaseBeforeAck) && self.nodes[id.index()].replica.role() == Role::Primary {
            self.release(id, epoch);
        }
    }

    /// The primary begins an epoch if there is something to do and the gate is open.
    pub(super) fn begin(&mut self, id: ReplicaId) {
        let local_ns = self.local_ns(id);
        let shared = self.settings.shared_disk;
        let node = self.node(id);
        if !node.runs()
            || node.replica.role() != Role::Primary
            || node.running.is_some()
            || !node.has_work(local_ns, shared)
        {
            return;
        }
        match node.replica.may_begin(local_ns) {
            Gate::Blocked(blocked) => self.mark_gate(blocked),
            Gate::Ready => self.begin_epoch(id, local_ns),
        }
    }

    fn begin_epoch(&mut self, id: ReplicaId, local_ns: u64) {
        let node = self.node(id);
        let mut events = node.replica.take_buffer();
        let epoch = node.replica.epoch() + 1;
        self.tell_disk(id, epoch, &mut events);
        let node = self.node(id);
        while let Some(frame) = node.inputs.front()
            && events.len() + record_bytes(frame.len()) <= MAX_EPOCH_EVENTS_BYTES as usize
        {
            GuestEvent::Frame(frame).append_to(&mut events).expect("frames are small");
            node.inputs.pop_front();
        }
        let monotonic_ns = node.monotonic_ns(local_ns);
        let clocks = Clocks { monotonic_ns, realtime_ns: monotonic_ns ^ 0x5555 };
        node.began.insert(epoch, local_ns);
        let verdict = Checker::begins(
            epoch,
            self.true_lag(id, epoch, local_ns),
            self.settings.max_lag_ns,
            if self.settings.compares_first { 1 } else { self.settings.max_outstanding_epochs },
        );
        self.judge_by(verdict);
        let mut commands = Vec::new();
        self.node(id).replica.begin(local_ns, clocks, events, &mut commands);
        self.carry_out(id, commands);
    }

    /// The oldest epoch before this one that the peer has truly not run, and its age.
    fn true_lag(&self, id: ReplicaId, epoch: Epoch, local_ns: u64) -> Option<(Epoch, u64)> {
        let node = &self.nodes[id.index()];
        let oldest = self.nodes[id.peer().index()].ended_through() + 1;
        (node.replica.mode() == Mode::Paired && oldest < epoch)
            .then(|| (oldest, local_ns - node.began.get(&oldest).copied().unwrap_or(local_ns)))
    }

    fn mark_gate(&mut self, blocked: Blocked) {
        match blocked {
            Blocked::Lag => self.marks.set(Mark::GateLag),
            Blocked::Outstanding => self.marks.set(Mark::GateOutstanding),
            Blocked::Acks => self.marks.set(Mark::GateAcks),
            Blocked::Arbiter => self.marks.set(Mark::GateArbiter),
            Blocked::Storage => self.marks.set(Mark::GateStorage),
            _ => {}
        }
    }

    pub(super) fn run_epoch(&mut self, id: ReplicaId, epoch: Epoch) {
        let verdict = self.checker.runs(id, epoch);
        self.judge_by(verdict);
        let slow = self.settings.slow == Some(id);
        let node = self.node(id);
        let record = node.replica.record(epoch).expect("the record of the epoch that runs is held");
        node.ran.insert(epoch, Stored::of(record).content);
        let events = record.events.clone();
        let clocks = record.clocks;
        let mut uncertain = false;
        for event in EventReader::new(&events) {
            match event {
                Ok(GuestEvent::Frame(_)) => node.frames_in_log += 1,
                Ok(GuestEvent::Uncertain(_)) => uncertain = true,
                _ => {}
            }
        }
        if uncertain {
            self.marks.set(Mark::UncertainDelivered);
        }
        self.node(id).running = Some(Running { epoch, clocks, events });
        let percent = self.settings.long_epoch_percent;
        let (least_ns, greatest_ns) = self.settings.epoch_ns;
        let mut takes_ns = self.rng.between(least_ns, greatest_ns) * if slow { 4 } else { 1 };
        if self.rng.chance(percent) {
            takes_ns = self.rng.between(takes_ns, LONG_EPOCH_NS);
        }
        self.node(id).awaits_disk = Some((epoch, takes_ns));
        self.run_if_disk_done(id);
        if self.nodes[id.index()].awaits_disk.is_some() {
            self.marks.set(Mark::BackupAwaitedDisk);
            self.at(self.now_ns + PATIENCE_NS, Event::DiskPatience(id, epoch));
        }
        self.moment(id, Moment::RunEpoch);
    }
}
