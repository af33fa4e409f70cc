//! How shims use a disk that both reach: the active one alone, what changes it under output commit, and behind a fence.

use protocol::{Mode, ReplicaId, Role};

use super::Canary;
use super::checker::{Checker, Verdict};
use super::guest::EpochResult;
use super::knowledge::keeps;
use super::marks::Mark;
use super::world::World;

impl World {
    /// Starts what may start; returns numbers and how long they take.
    pub(super) fn start_shared(&mut self, id: ReplicaId) -> Vec<(u64, u64)> {
        let ignores_commit = self.canary == Some(Canary::WriteBeforeCommit);
        let overwrites = self.canary == Some(Canary::OverwriteRead);
        let node = self.node(id);
        if !node.runs() || node.replica.role() != Role::Primary || node.disk.by_other {
            return Vec::new();
        }
        let committed_through = if ignores_commit { u64::MAX } else { node.replica.committed_through() };
        let started = node.disk.start_shared(committed_through, !overwrites);
        for &(number, _) in &started {
            self.judge_shared_write(id, number);
        }
        started
    }

    /// A write to a shared disk is an output: it begins only when the other replica holds what it follows from, or there is
    /// no other.
    fn judge_shared_write(&mut self, id: ReplicaId, number: u64) {
        let node = &self.nodes[id.index()];
        let Some(epoch) = node.disk.epoch_of_write(number) else { return };
        let held_by_peer = self.nodes[id.peer().index()].log_through;
        let claims_solo = (node.replica.mode() == Mode::Solo).then(|| node.replica.generation());
        self.judge_by(Checker::releases(id, epoch, held_by_peer, claims_solo, self.arbiter));
    }

    /// The device does a request of this replica's process, which must not have lost.
    pub(super) fn finish_shared(&mut self, id: ReplicaId, number: u64) {
        let node = &mut self.nodes[id.index()];
        if node.disk.epoch_of_write(number).is_some() && self.arbiter.active != id && self.arbiter.mode == Mode::Solo {
            let text = format!("replica {id} writes to the shared disk, and the arbiter says {:?}", self.arbiter);
            return self.judge_by(Err(text));
        }
        node.disk.finish_shared(number, &mut self.shared);
    }

    /// The process is killed: what its device had under way was done, or was not.
    pub(super) fn abandon_shared(&mut self, id: ReplicaId) {
        for number in self.nodes[id.index()].disk.at_device() {
            if self.rng.chance(50) {
                self.nodes[id.index()].disk.finish_shared(number, &mut self.shared);
            }
        }
    }

    /// Who takes over has what its predecessor had under way done again.
    pub(super) fn take_over_shared(&mut self, id: ReplicaId) {
        self.node(id).disk.take_over();
        if self.nodes[id.index()].is_newcomer {
            self.marks.set(Mark::NewcomerTookShared);
        }
        if self.nodes[id.index()].disk.has_parked() {
            self.marks.set(Mark::SharedUncertain);
        }
    }

    /// Before a replica is made the only one, the process of the other one must be gone.
    pub(super) fn fence(&mut self, loser: ReplicaId) {
        if !self.settings.shared_disk || self.canary == Some(Canary::NoFence) || !self.nodes[loser.index()].alive {
            return;
        }
        if self.nodes[loser.index()].paused && !self.nodes[loser.index()].disk.at_device().is_empty() {
            self.marks.set(Mark::FencedWhilePaused);
        }
        self.note(|| format!("{loser} is killed: it has lost and may not write any more"));
        self.crash(loser);
    }

    /// What flushes have promised lies on the one disk.
    pub(super) fn judge_shared_promises(&mut self, id: ReplicaId, result: &EpochResult) {
        let stable = self.shared.stable;
        for promise in &result.promises {
            self.marks.set(Mark::SharedFlushTold);
            if !keeps(&stable, promise) {
                self.judge_by(Err(format!("replica {id} tells of a flush of {promise:?}, the disk keeps {stable:?}")));
            }
        }
    }

    /// In the end the disk holds what the guest of the active replica knows of it, and nothing that a predecessor wrote late.
    pub(super) fn judge_shared(&self) -> Verdict {
        let active = &self.nodes[self.arbiter.active.index()];
        let settled = active.takes_part() && active.replica.role() == Role::Primary && !active.guest.stopped();
        let Some(knowledge) = active.guest.knowledge().filter(|_| settled && self.settings.shared_disk) else {
            return Ok(());
        };
        if knowledge.fits(&self.shared.blocks) {
            return Ok(());
        }
        Err(format!("the shared disk holds {:?}, its guest knows {knowledge:?}", self.shared.blocks))
    }
}
