//! How a shim uses its mirror of the guest's disk.

use hypercall::disk::Completion;
use protocol::event::{DiskData, Event as GuestEvent, EventReader};
use protocol::replica::JoinPhase;
use protocol::{Epoch, Mode, ReplicaId, Role};

use super::Canary;
use super::checker::Verdict;
use super::guest::EpochResult;
use super::knowledge::keeps;
use super::marks::Mark;
use super::node::MAX_EPOCH_EVENTS_BYTES;
use super::world::{Event, World};

/// A replica whose disk has not done so long what the other one's has done leaves the pair.
pub const PATIENCE_NS: u64 = 20_000_000;

/// Why a replica leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    /// Its disk has failed to do something.
    Failed,
    /// Its disk has not done for long what the other one's has.
    Slow,
}

impl World {
    pub(super) fn start_disk(&mut self, id: ReplicaId) {
        let shared = self.settings.shared_disk;
        self.node(id).disk.passes_faults = self.canary == Some(Canary::PassFault);
        let started = if shared { self.start_shared(id) } else { self.node(id).disk.start() };
        for (number, takes_ns) in started {
            self.at(self.now_ns + takes_ns, Event::DiskDone(id, number));
            if !shared && self.settings.disk_hangs() {
                self.at(self.now_ns + PATIENCE_NS, Event::DiskWatch(id, number));
            }
        }
    }

    /// The device does a request. It belongs to the machine's process: it does nothing while that is stopped.
    pub(super) fn disk_done(&mut self, id: ReplicaId, number: u64) {
        const LATER_NS: u64 = 50_000;
        let node = &self.nodes[id.index()];
        if !node.takes_part() {
            return;
        }
        let hangs_until_ns = node.disk.trouble.hangs_until_ns;
        if self.now_ns < hangs_until_ns {
            return self.at(hangs_until_ns, Event::DiskDone(id, number));
        }
        if node.paused {
            return self.at(self.now_ns + LATER_NS, Event::DiskDone(id, number));
        }
        if self.settings.shared_disk {
            self.finish_shared(id, number);
        } else if self.node(id).disk.finish(number) {
            // Who has read something else is another one from here on.
            self.checker.taint(id);
            self.hub.guests_differ = true;
            self.settings.diverges = true;
            self.marks.set(Mark::SpoiltBlockRead);
        }
        self.note(|| format!("{id}: its disk has ended request {number}"));
        self.start_disk(id);
        self.run_if_disk_done(id);
        let node = &self.nodes[id.index()];
        if node.replica.mode() == Mode::Paired
            && node.replica.role() == Role::Primary
            && node.disk.done().any(|(number, flush)| flush && number >= node.replica.peer_disks_done_below())
        {
            self.marks.set(Mark::FlushWaited);
        }
        self.judge_failure(id);
        self.wake_by(id, self.now_ns);
    }

    /// Tells the replica how far its disk is, and does what follows from what the replica knows of the other one's.
    pub(super) fn note_disk(&mut self, id: ReplicaId) {
        let shared = self.settings.shared_disk;
        let node = self.node(id);
        if !node.runs() {
            return;
        }
        if shared {
            let taken = node.disk.taken();
            node.replica.note_disks(taken, false);
            return self.start_disk(id);
        }
        let done_below = node.disk.done_below();
        let passes_flush = node.disk.passes_flush(done_below);
        node.replica.note_disks(done_below, passes_flush);
        self.judge_failure(id);
    }

    /// What the guest is told of its disk, as events of an epoch: of a shared one also what the other replica cannot read.
    pub(super) fn tell_disk(&mut self, id: ReplicaId, epoch: Epoch, events: &mut Vec<u8>) {
        let shared = self.settings.shared_disk;
        let node = self.node(id);
        let mut tellable: Vec<_> = node.tellable(shared).collect();
        if self.canary == Some(Canary::FlushAlone) {
            tellable = self.nodes[id.index()].disk.done().map(|(number, _)| (number, 0)).collect();
        }
        let node = self.node(id);
        let mut fault_told = false;
        let passes = shared && node.replica.mode() == Mode::Paired;
        for (number, status) in tellable {
            let mut record = Vec::new();
            if let (true, Some(value)) = (passes, node.disk.value_read(number)) {
                let bytes = &value.to_le_bytes()[..];
                let data = GuestEvent::DiskData(DiskData { number, offset_bytes: 0, bytes });
                data.append_to(&mut record).expect("a word is small");
            }
            let done = GuestEvent::DiskDone(Completion { number, status, reserved: 0 });
            done.append_to(&mut record).expect("completions are small");
            if events.len() + record.len() > MAX_EPOCH_EVENTS_BYTES as usize / 2 {
                break;
            }
            events.extend(record);
            node.disk.note_told(epoch, number);
            fault_told |= status != 0;
        }
        if fault_told {
            self.marks.set(Mark::DiskFaultTold);
        }
    }

    /// Lets the guest run the epoch that it waits for, if the disk has ended all that its record says. A replica whose disk has
    /// failed to do what the record says was done cannot go on.
    pub(super) fn run_if_disk_done(&mut self, id: ReplicaId) {
        let overtakes = self.canary == Some(Canary::OvertakeDisk);
        let shared = self.settings.shared_disk;
        let node = self.node(id);
        let (Some((epoch, takes_ns)), Some(running)) = (node.awaits_disk, &node.running) else { return };
        let recorded: Vec<_> = EventReader::new(&running.events)
            .flatten()
            .filter_map(|event| if let GuestEvent::DiskDone(completion) = event { Some(completion) } else { None })
            .collect();
        let failed: Vec<_> = node.disk.failed().collect();
        if recorded.iter().any(|completion| completion.status == 0 && failed.contains(&completion.number)) {
            return self.leave(id, Why::Failed);
        }
        let has_ended = recorded.iter().all(|completion| shared || node.disk.has_ended(completion.number));
        if !has_ended && !overtakes {
            return;
        }
        node.awaits_disk = None;
        self.at(self.now_ns + takes_ns, Event::EpochDone(id, epoch));
    }

    /// A disk has failed: its replica leaves if the other one can go on.
    fn judge_failure(&mut self, id: ReplicaId) {
        let node = &self.nodes[id.index()];
        let Some(failed) = node.disk.failure().filter(|_| node.takes_part()) else { return };
        let at_once = self.canary == Some(Canary::LeaveAtOnce);
        let paired = node.replica.mode() == Mode::Paired;
        let done_by_peer = paired && failed < node.replica.peer_disks_done_below();
        let unpaired = self.canary == Some(Canary::LeaveUnpaired);
        let leaves = match node.replica.role() {
            Role::Primary => node.replica.gives_way(failed) || (at_once && paired) || (unpaired && done_by_peer),
            Role::Backup => node.replica.follows_peer(),
        };
        if done_by_peer && !leaves && node.replica.join_phase() == JoinPhase::Settling {
            self.marks.set(Mark::FaultKeptInJoin);
        }
        if leaves {
            self.leave(id, Why::Failed);
        }
    }

    /// A backup has waited long enough for its disk to do what the primary's has done.
    pub(super) fn disk_patience(&mut self, id: ReplicaId, epoch: Epoch) {
        let node = &self.nodes[id.index()];
        let waits = node.awaits_disk.is_some_and(|(awaits, _)| awaits == epoch);
        if node.runs() && waits && node.replica.follows_peer() {
            self.marks.set(Mark::BackupDiskHung);
            self.leave(id, Why::Slow);
        }
    }

    /// A primary looks whether its disk has ended a request that was begun so long ago.
    pub(super) fn disk_watch(&mut self, id: ReplicaId, number: u64) {
        const AGAIN_NS: u64 = 2_000_000;
        let node = &self.nodes[id.index()];
        if !node.takes_part() || node.disk.has_ended(number) || self.healed {
            return;
        }
        if node.replica.gives_way(number) && !node.paused {
            self.marks.set(Mark::PrimaryDiskHung);
            return self.leave(id, Why::Slow);
        }
        // Time in which the process stands still does not count.
        let again_ns = if node.paused { PATIENCE_NS } else { AGAIN_NS };
        self.at(self.now_ns + again_ns, Event::DiskWatch(id, number));
    }

    /// The replica ends because of its disk.
    fn leave(&mut self, id: ReplicaId, why: Why) {
        self.note(|| format!("{id} leaves because of its disk: {why:?}"));
        self.marks.set(Mark::LeftForDisk);
        if self.nodes[id.index()].is_newcomer {
            self.marks.set(Mark::NewcomerLeftForDisk);
        }
        let verdict = self.may_leave(id, why);
        self.judge_by(verdict);
        self.left[id.index()] = true;
        self.crash(id);
    }

    /// Who leaves has a disk that is to blame, and no primary leaves that is the only one by the arbiter's record: it has
    /// nobody to leave the guest to.
    fn may_leave(&self, id: ReplicaId, why: Why) -> Verdict {
        let node = &self.nodes[id.index()];
        if why == Why::Failed && node.disk.trouble.refuses.is_none() {
            return Err(format!("replica {id} leaves because its disk has failed, which it has not"));
        }
        let only = self.arbiter.mode == Mode::Solo && self.arbiter.active == id;
        if only && node.replica.role() == Role::Primary {
            return Err(format!("replica {id} leaves because of its disk, and the arbiter says {:?}", self.arbiter));
        }
        Ok(())
    }

    /// Of two replicas one is left, unless both their disks fail in ways of their own.
    pub(super) fn judge_leaving(&mut self) -> Verdict {
        if self.left != [true, true] {
            return Ok(());
        }
        if !self.settings.disks_fail_apart() {
            return Err("both replicas have left because of their disks, and nobody tells the guest".to_owned());
        }
        self.marks.set(Mark::BothLeftForDisks);
        Ok(())
    }

    /// What a loss of power would leave at the end has everything that was promised by those who keep it.
    pub(super) fn judge_power_loss(&mut self) -> Verdict {
        if self.settings.shared_disk || self.checker.tainted().is_some() {
            return Ok(());
        }
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            let left = self.nodes[id.index()].disk.lose_power(&mut self.rng);
            let promised = self.promised[id.index()];
            if !left.iter().zip(promised).all(|(sectors, least)| sectors.iter().all(|&found| found >= least)) {
                return Err(format!("a loss of power leaves {left:?} at replica {id}, {promised:?} was promised"));
            }
        }
        Ok(())
    }

    /// What the guest has heard of its disk, against what lies on the disks.
    pub(super) fn judge_disk(&mut self, id: ReplicaId, result: &EpochResult) {
        if self.checker.tainted().is_some() {
            return;
        }
        if let Some(text) = &result.complaint {
            self.judge_by(Err(format!("replica {id}: {text}")));
        }
        let node = &self.nodes[id.index()];
        if node.replica.role() == Role::Backup {
            return;
        }
        if self.settings.shared_disk {
            return self.judge_shared_promises(id, result);
        }
        let mut keepers = vec![id];
        if node.replica.mode() == Mode::Paired {
            keepers.push(id.peer());
        }
        for promise in &result.promises {
            if keepers.len() == 2 {
                self.marks.set(Mark::FlushTold);
            }
            for keeper in &keepers {
                let disk = &self.nodes[keeper.index()].disk;
                let stable = *disk.stable();
                if disk.trouble.lies {
                    if !keeps(&stable, promise) {
                        self.marks.set(Mark::FlushLost);
                    }
                    continue;
                }
                for (least, promised) in self.promised[keeper.index()].iter_mut().zip(promise) {
                    *least = (*least).max(*promised);
                }
                if !keeps(&stable, promise) {
                    let text =
                        format!("replica {id} tells of a flush of {promise:?}, replica {keeper} keeps {stable:?}");
                    self.judge_by(Err(text));
                }
            }
        }
    }
}
