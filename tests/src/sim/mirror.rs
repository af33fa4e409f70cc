//! How a shim uses its mirror of the guest's disk.

use protocol::event::{Event as GuestEvent, EventReader};
use protocol::{Mode, ReplicaId, Role};

use super::Canary;
use super::disk::keeps;
use super::guest::EpochResult;
use super::marks::Mark;
use super::world::{Event, World};

impl World {
    pub(super) fn start_disk(&mut self, id: ReplicaId) {
        for (number, takes_ns) in self.node(id).disk.start() {
            self.at(self.now_ns + takes_ns, Event::DiskDone(id, number));
        }
    }

    /// The device does a request. It belongs to the machine's process: it does nothing while that is stopped.
    pub(super) fn disk_done(&mut self, id: ReplicaId, number: u64) {
        const LATER_NS: u64 = 50_000;
        let node = self.node(id);
        if !node.takes_part() {
            return;
        }
        if node.paused {
            return self.at(self.now_ns + LATER_NS, Event::DiskDone(id, number));
        }
        node.disk.finish(number);
        self.note(|| format!("{id}: its disk has done request {number}"));
        self.start_disk(id);
        self.run_if_disk_done(id);
        let node = &self.nodes[id.index()];
        if node.replica.mode() == Mode::Paired
            && node.replica.role() == Role::Primary
            && node.disk.done().any(|(number, flush)| flush && number >= node.replica.peer_disks_done_below())
        {
            self.marks.set(Mark::FlushWaited);
        }
        self.wake_by(id, self.now_ns);
    }

    /// Tells the replica how far its disk is.
    pub(super) fn note_disk(&mut self, id: ReplicaId) {
        let node = self.node(id);
        if node.runs() {
            let done_below = node.disk.done_below();
            let passes_flush = node.disk.passes_flush(done_below);
            node.replica.note_disks(done_below, passes_flush);
        }
    }

    /// Lets the guest run the epoch that it waits for, if the disk has done all that its record says.
    pub(super) fn run_if_disk_done(&mut self, id: ReplicaId) {
        let overtakes = self.canary == Some(Canary::OvertakeDisk);
        let node = self.node(id);
        let (Some((epoch, takes_ns)), Some(running)) = (node.awaits_disk, &node.running) else { return };
        let is_done = |event: &GuestEvent<'_>| match event {
            GuestEvent::DiskDone(completion) => node.disk.has_done(completion.number),
            _ => true,
        };
        if overtakes || EventReader::new(&running.events).flatten().all(|event| is_done(&event)) {
            node.awaits_disk = None;
            self.at(self.now_ns + takes_ns, Event::EpochDone(id, epoch));
        }
    }

    /// What the guest has heard of its disk, against what lies on the disks.
    pub(super) fn judge_disk(&mut self, id: ReplicaId, result: &EpochResult) {
        if let Some(text) = &result.complaint {
            self.judge_by(Err(format!("replica {id}: {text}")));
        }
        let node = &self.nodes[id.index()];
        if node.replica.role() == Role::Backup || self.checker.tainted().is_some() {
            return;
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
                let stable = *self.nodes[keeper.index()].disk.stable();
                if !keeps(&stable, promise) {
                    let text =
                        format!("replica {id} tells of a flush of {promise:?}, replica {keeper} keeps {stable:?}");
                    self.judge_by(Err(text));
                }
            }
        }
    }
}
