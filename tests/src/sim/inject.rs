//! How the faults of the plan come about.

use protocol::ReplicaId;

use super::disk::BLOCKS;
use super::faults::{Fault, Moment, Trigger, Victim};
use super::marks::Mark;
use super::node::Control;
use super::world::{Event, HEAL_NS, World};

impl World {
    /// A moment has come at a replica: strikes the faults that wait for it.
    pub(super) fn moment(&mut self, actor: ReplicaId, moment: Moment) {
        for index in 0..self.settings.faults.len() {
            let Trigger::On { moment: awaited, count } = self.settings.faults[index].trigger else { continue };
            if awaited != moment || self.struck[index] {
                continue;
            }
            if self.passed[index] == count {
                self.strike(index, Some(actor));
            }
            self.passed[index] += 1;
        }
    }

    /// Strikes one fault, once, and starts the clock of the next if that waits for it.
    pub(super) fn strike(&mut self, index: usize, actor: Option<ReplicaId>) {
        if self.struck[index] || self.healed {
            return;
        }
        self.struck[index] = true;
        let planned = self.settings.faults[index];
        let actor = actor.unwrap_or(ReplicaId::ZERO);
        let victim = match planned.victim {
            Victim::Replica(id) => id,
            Victim::Actor => actor,
            Victim::Peer => actor.peer(),
        };
        self.note(|| format!("FAULT at {victim}: {:?}", planned.fault));
        self.inflict(victim, planned.fault);
        if let Some(next) = self.settings.faults.get(index + 1)
            && let Trigger::AfterPrevious { delay_ns } = next.trigger
        {
            self.at(self.now_ns + delay_ns, Event::Fault(index + 1));
        }
    }

    fn inflict(&mut self, victim: ReplicaId, fault: Fault) {
        match fault {
            Fault::Crash => self.crash(victim),
            Fault::Pause { for_ns } => {
                if self.node(victim).alive && !self.node(victim).paused {
                    self.node(victim).paused = true;
                    self.node(victim).was_paused = true;
                    self.at(self.now_ns + for_ns, Event::Resume(victim));
                }
            }
            Fault::Cut => self.cut_link(),
            Fault::Stall { for_ns } => self.stall(victim, for_ns),
            Fault::Partition { for_ns } => {
                self.stall(victim, for_ns);
                self.stall(victim.peer(), for_ns);
            }
            Fault::Garbage => self.tamper(victim),
            Fault::Repeat => {
                self.pipes[victim.index()].tamper(|bytes| bytes.extend_from_within(..));
            }
            Fault::PowerLoss => {
                self.marks.set(Mark::PowerLost);
                self.crash(victim);
                self.crash(victim.peer());
            }
            Fault::DiskRefuses(refusal) => self.node(victim).disk.trouble.refuses = Some(refusal),
            Fault::DiskHangs { for_ns } => {
                let until_ns = (self.now_ns + for_ns).min(HEAL_NS);
                self.node(victim).disk.trouble.hangs_until_ns = until_ns;
            }
            Fault::FlushesLost => self.node(victim).disk.trouble.lies = true,
            Fault::BlockSpoilt => {
                let block = self.rng.below(BLOCKS as u64) as usize;
                self.node(victim).disk.trouble.spoilt[block] = true;
            }
            Fault::FlipBit => {
                if self.node(victim).alive {
                    let bit = self.rng.below(64) as u32;
                    self.node(victim).guest.flip_bit(bit);
                    self.checker.taint(victim);
                    self.hub.guests_differ = true;
                }
            }
        }
    }

    pub(super) fn crash(&mut self, victim: ReplicaId) {
        if !self.node(victim).alive {
            return;
        }
        if self.settings.shared_disk {
            self.abandon_shared(victim);
        }
        self.node(victim).alive = false;
        if !self.node(victim).device.is_empty() {
            self.marks.set(Mark::OutputsDiedInDevice);
        }
        let inside = self.pipes[victim.index()].lose_tail(&mut self.rng);
        if inside {
            self.marks.set(Mark::CutInsideFrame);
        }
        self.lose_records(victim);
        self.close_pipe(victim);
        self.after(self.settings.death_notice_ns, Event::Control(victim.peer(), Control::PeerDead));
        // What it had written to the hub is in the socket's buffer, which the hub reads to its end.
        self.at(self.now_ns, Event::HubRead(victim));
    }

    fn cut_link(&mut self) {
        if self.cut || !self.pipes.iter().any(super::pipe::Pipe::is_open) {
            return;
        }
        self.cut = true;
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            self.pipes[id.index()].lose_tail(&mut self.rng);
            let delay_ns = self.rng.below(2_000_000);
            if let Some(at_ns) = self.pipes[id.index()].close(self.now_ns, delay_ns) {
                self.at(at_ns, Event::LinkArrival(id.peer()));
            }
            if self.rng.chance(50) {
                self.control(id, Control::LinkCut);
            }
        }
    }

    fn stall(&mut self, sender: ReplicaId, for_ns: u64) {
        let until_ns = self.now_ns + for_ns;
        self.pipes[sender.index()].stall(until_ns);
        self.at(until_ns, Event::LinkArrival(sender.peer()));
    }

    fn tamper(&mut self, sender: ReplicaId) {
        let at = self.rng.next_u64();
        let how = self.rng.below(3);
        self.pipes[sender.index()].tamper(|bytes| {
            let index = (at % bytes.len() as u64) as usize;
            match how {
                0 => bytes[index] ^= 1 << (at >> 61),
                1 => bytes.insert(index, at as u8),
                _ => drop(bytes.remove(index)),
            }
        });
    }

    /// This end is closed behind what is in flight; the other end may or may not notice.
    pub(super) fn close_pipe(&mut self, sender: ReplicaId) {
        let percent = self.settings.close_noticed_percent;
        if !self.rng.chance(percent) {
            return self.pipes[sender.index()].close_silently();
        }
        let delay_ns = self.rng.below(200_000);
        if let Some(at_ns) = self.pipes[sender.index()].close(self.now_ns, delay_ns) {
            self.at(at_ns, Event::LinkArrival(sender.peer()));
        }
    }
}
