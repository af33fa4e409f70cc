//! Bringing in a new machine for one that has gone: what the supervisor and the two shims do for it.
//!
//! Pages have no content here: the toy guest's state is a few words, which travel in the message that ends the copy. But
//! they take their time and room, so that anything can happen between any two of them.

use protocol::link::{Message, Pages};
use protocol::replica::{Input, JoinPhase};
use protocol::{Mode, ReplicaId, Role};

use super::Canary;
use super::disk::{BLOCKS, Request};
use super::faults::Moment;
use super::guest::Guest;
use super::marks::Mark;
use super::node::{Control, Node};
use super::pipe::Pipe;
use super::world::{Event, World};

/// Slices of pages on their way at most.
const WINDOW: u64 = 3;
/// Between two slices.
const SLICE_NS: u64 = 15_000;
/// A survivor that cannot be helped now may be later.
const AGAIN_NS: u64 = 500_000;

/// What is known of the newcomer of the moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Joining {
    /// How many machines were started in place of others.
    pub newcomers: u64,
    /// Slices of pages that the primary has sent, and that have arrived.
    sent: u64,
    arrived: u64,
    /// Slices that the newcomer has taken.
    taken: u64,
    /// Blocks of the mirror that were copied for the first time.
    copied_blocks: usize,
}

impl World {
    /// A replica is alone: the supervisor may start a new one.
    pub(super) fn plan_rejoin(&mut self, survivor: ReplicaId) {
        if self.joining.newcomers < self.settings.rejoins {
            self.after(self.settings.rejoin_delay_ns, Event::Rejoin(survivor));
        }
    }

    /// Starts a new machine, if the survivor can take it in.
    pub(super) fn rejoin(&mut self, survivor: ReplicaId) {
        let node = &self.nodes[survivor.index()];
        let alone = self.arbiter.mode == Mode::Solo && self.arbiter.active == survivor;
        if !alone || !node.takes_part() || node.guest.stopped() || self.cut {
            return;
        }
        let ready = node.runs() && node.replica.role() == Role::Primary && node.replica.mode() == Mode::Solo;
        if !ready || self.hub.active() != survivor || node.replica.join_phase() != JoinPhase::None {
            return self.at(self.now_ns + AGAIN_NS, Event::Rejoin(survivor));
        }
        let newcomer = survivor.peer();
        self.note(|| format!("{newcomer} is started anew"));
        self.joining = Joining { newcomers: self.joining.newcomers + 1, ..Joining::default() };
        // The old process is gone, and with it what it was still to be told. What the survivor was to be told about it
        // was said before.
        self.forget_events_of(newcomer);
        // What the survivor had asked for an earlier one was answered before it said that its link is as new: one channel.
        self.retain_events(|event| !matches!(event, Event::PairingRequest { from, .. } if *from == survivor));
        self.node(survivor).control.retain(|control| !control.is_about_peer());
        self.node(survivor).told_dead = false;
        self.hub.forget(newcomer);
        self.pipes = [Pipe::default(), Pipe::default()];
        let (generation, session) = (self.arbiter.generation, self.joining.newcomers);
        self.node(survivor).renew_link(session);
        let trouble = std::mem::take(&mut self.node(newcomer).disk.trouble);
        self.nodes[newcomer.index()] = Node::newcomer(newcomer, &self.settings, generation, session, self.now_ns);
        if !self.settings.replaces_disks {
            self.node(newcomer).disk.trouble = trouble;
        }
        self.left[newcomer.index()] = false;
        // Nothing was promised of its mirror.
        self.promised[newcomer.index()] = [0; BLOCKS];
        self.node(survivor).disk.hold(false);
        self.node(survivor).disk.watch();
        self.step(survivor, Input::PeerJoins);
        let boot_ns = self.now_ns + self.rng.below(500_000);
        self.wake_by(newcomer, boot_ns);
    }

    /// The primary's part of the copy, at the end of a round.
    pub(super) fn copy(&mut self, id: ReplicaId) {
        let node = &self.nodes[id.index()];
        if !node.runs() || node.replica.join_phase() != JoinPhase::Copying {
            return;
        }
        if self.copy_waits(id) {
            return self.wake_by(id, self.now_ns + AGAIN_NS);
        }
        if !self.copy_block(id) {
            return;
        }
        let Joining { sent, arrived, .. } = self.joining;
        if sent < self.settings.copy_slices {
            if sent < arrived + WINDOW {
                self.joining.sent += 1;
                self.transmit(id, &Message::Pages(Pages { records: &[0xaa; 64] }));
                self.moment(id, Moment::Pages);
                self.wake_by(id, self.now_ns + SLICE_NS);
            }
            return;
        }
        if self.canary != Some(Canary::CopyBusyDisk) {
            self.node(id).disk.hold(true);
        }
        let busy = !self.nodes[id.index()].disk.can_be_copied() && self.canary != Some(Canary::CopyBusyDisk);
        let node = &self.nodes[id.index()];
        if node.replica.may_send_state() && node.deferred.is_empty() && !busy {
            while self.has_block_to_copy(id) {
                if !self.copy_block(id) {
                    return;
                }
            }
            let node = self.node(id);
            let taken = node.disk.taken();
            let parked = node.disk.park();
            let mut state = [taken, parked.len() as u64].map(u64::to_le_bytes).concat();
            state.extend(parked.iter().flat_map(|number| number.to_le_bytes()));
            state.extend(node.guest.save(node.frames_in_log));
            if !parked.is_empty() {
                self.marks.set(Mark::RequestsParked);
            }
            let node = &self.nodes[id.index()];
            let message = node.replica.join_state(&state);
            self.transmit(id, &Message::State(message));
            let local_ns = self.local_ns(id);
            self.node(id).replica.state_sent(local_ns);
            self.node(id).state_of = self.nodes[id.index()].ended_through();
            self.moment(id, Moment::State);
        }
    }

    /// Whether one of the disks says nothing to the supervisor at the moment.
    fn copy_waits(&mut self, id: ReplicaId) -> bool {
        let hangs_until_ns = self.nodes.iter().map(|node| node.disk.trouble.hangs_until_ns).max();
        let waits = hangs_until_ns > Some(self.now_ns) && self.nodes[id.peer().index()].alive;
        if waits {
            self.marks.set(Mark::CopyWaited);
        }
        waits
    }

    /// Whether something of the mirror was not copied, or was written to since.
    fn has_block_to_copy(&self, id: ReplicaId) -> bool {
        let forgets = self.canary == Some(Canary::ForgetChanges);
        self.joining.copied_blocks < BLOCKS || (!forgets && self.nodes[id.index()].disk.has_change())
    }

    /// The supervisor copies a block of the mirror, if there is one to copy: all once, then those that were written to.
    /// Returns whether there is still a newcomer: one whose mirror cannot be made is none.
    fn copy_block(&mut self, id: ReplicaId) -> bool {
        if !self.has_block_to_copy(id) {
            return true;
        }
        let first = self.joining.copied_blocks;
        let block = if first < BLOCKS {
            self.joining.copied_blocks += 1;
            first
        } else {
            self.marks.set(Mark::BlockCopiedAgain);
            self.node(id).disk.take_change().expect("there is one")
        };
        let (from, to) = (&self.nodes[id.index()].disk, &self.nodes[id.peer().index()].disk);
        let value = from.blocks()[block];
        // What is there is compared before anything is written.
        let read = Request::Read(block);
        let fails = from.trouble.refuses(read)
            || to.trouble.refuses(read)
            || (to.blocks()[block] != value && to.trouble.refuses(Request::Write(block, value)));
        if !fails {
            self.node(id.peer()).disk.overwrite(block, value);
        } else if self.canary != Some(Canary::KeepBadCopy) {
            self.marks.set(Mark::CopyFailed);
            self.give_up_newcomer(id.peer());
            return false;
        }
        true
    }

    /// The supervisor ends a newcomer whose mirror cannot be made equal, or not stable.
    fn give_up_newcomer(&mut self, newcomer: ReplicaId) {
        self.note(|| format!("{newcomer} is ended: its mirror cannot be made"));
        self.crash(newcomer);
    }

    /// A message of a copy, before the replica gets it.
    pub(super) fn take_copy(&mut self, id: ReplicaId, message: &Message<'_>) {
        let empty = self.nodes[id.index()].replica.join_phase() == JoinPhase::Empty;
        match message {
            Message::Pages(_) if empty => {
                self.joining.taken += 1;
                let messages = self.joining.taken;
                self.transmit(id, &Message::PagesHeld { messages });
            }
            Message::PagesHeld { messages } => self.joining.arrived = *messages,
            Message::State(state) if empty => {
                let produced = self.nodes[id.peer().index()].produced.iter();
                let produced = produced.filter(|(epoch, _)| *epoch <= state.epoch).cloned().collect();
                let ran = self.nodes[id.peer().index()].ran.range(..=state.epoch);
                let ran = ran.map(|(epoch, content)| (*epoch, *content)).collect();
                let (words, _) = state.state.as_chunks::<8>();
                let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
                let mut next = || words.next().expect("the checksum of the frame was right");
                let (taken, count) = (next(), next() as usize);
                let parked: Vec<u64> = (0..count).map(|_| next()).collect();
                let rest = &state.state[(2 + count) * 8..];
                let (guest, frames_in_log) = Guest::load(rest).expect("the checksum of the frame was right");
                self.node(id).disk.take_up(taken, &parked);
                let forgets = self.canary == Some(Canary::ForgetState);
                let node = self.node(id);
                if !forgets {
                    node.guest = guest;
                }
                node.frames_in_log = frames_in_log;
                node.produced = produced;
                node.ran = ran;
                self.checker.goes_on(id, state.epoch);
            }
            _ => {}
        }
    }

    /// The arbiter is asked to pair.
    pub(super) fn ask_pairing(&mut self, id: ReplicaId, request_id: u64, expect_generation: u64) {
        let percent = self.settings.answer_lost_percent;
        if self.healed || !self.rng.chance(percent) {
            let request = Event::PairingRequest { from: id, request_id, expect_generation };
            self.after(self.settings.control_delay_ns, request);
        }
        self.moment(id, Moment::AskPairing);
    }

    pub(super) fn arbitrate_pairing(&mut self, from: ReplicaId, request_id: u64, expect_generation: u64) {
        let newcomer = &self.nodes[from.peer().index()];
        let hangs_until_ns = newcomer.disk.trouble.hangs_until_ns;
        if newcomer.alive && self.now_ns < hangs_until_ns {
            // The answer waits until the copy is stable.
            return self.at(hangs_until_ns, Event::PairingRequest { from, request_id, expect_generation });
        }
        let before = self.arbiter;
        let mut record = before;
        let mut grant = record.pair_request(expect_generation, from);
        let newcomer = &self.nodes[from.peer().index()];
        let unstable = newcomer.disk.trouble.refuses(Request::Flush);
        if record != before && newcomer.alive && unstable {
            self.marks.set(Mark::CopyUnstable);
            self.give_up_newcomer(from.peer());
        }
        let newcomer = &self.nodes[from.peer().index()];
        if record != before && (!newcomer.alive || newcomer.denied) {
            // The supervisor knows that there is nobody to be paired with, or that it will stop.
            (record, grant.granted, grant.record) = (before, false, before);
            self.marks.set(Mark::PairingDenied);
        }
        if record != before {
            // The supervisor has waited for that.
            if self.canary != Some(Canary::PairUnstable) {
                self.node(from.peer()).disk.make_stable();
            }
            // From here on it stands for what the survivor's mirror does.
            let promised = self.promised[from.index()];
            if promised != [0; BLOCKS] && !self.nodes[from.peer().index()].disk.trouble.lies {
                self.marks.set(Mark::JoinedWithPromises);
                self.promised[from.peer().index()] = promised;
            }
        }
        self.arbiter = record;
        self.note(|| format!("arbiter: {from} asks to be paired in {expect_generation}+1: {grant:?}"));
        if record != before {
            self.checker.paired(record);
        }
        self.answer(from, request_id, grant);
    }

    pub(super) fn joined(&mut self, id: ReplicaId) {
        self.marks.set(Mark::Joined);
        if !self.nodes[id.peer().index()].takes_part() {
            self.marks.set(Mark::PairedWithTheDead);
        }
        self.moment(id, Moment::Joined);
    }

    /// The newcomer is ended before another one is started.
    pub(super) fn join_failed(&mut self, id: ReplicaId) {
        self.marks.set(Mark::JoinFailed);
        self.node(id).disk.hold(false);
        self.start_disk(id);
        let newcomer = id.peer();
        self.node(newcomer).alive = false;
        self.forget_events_of(newcomer);
        self.plan_rejoin(id);
    }

    fn forget_events_of(&mut self, gone: ReplicaId) {
        self.retain_events(|event| match event {
            Event::Wake(id)
            | Event::EpochDone(id, _)
            | Event::Record(id, _)
            | Event::LinkArrival(id)
            | Event::DiskDone(id, _)
            | Event::DiskPatience(id, _)
            | Event::DiskWatch(id, _)
            | Event::DeviceFlush(id)
            | Event::Resume(id)
            | Event::HubRead(id) => *id != gone,
            Event::Control(id, control) => *id != gone && !control.is_about_peer(),
            Event::ArbiterRequest { from, .. } | Event::PairingRequest { from, .. } => *from != gone,
            Event::Packets(packets) => packets.to != gone,
            Event::LogWritten
            | Event::ClientSend
            | Event::Fault(_)
            | Event::Rejoin(_)
            | Event::HandOver
            | Event::Heal => true,
        });
    }
}

impl Control {
    /// Whether this is about the peer's process or the link to it.
    const fn is_about_peer(&self) -> bool {
        matches!(self, Self::PeerDead | Self::LinkCut)
    }
}
