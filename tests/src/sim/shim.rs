//! What a shim does: rounds of reading and deciding, and carrying out the commands of its replica.

use protocol::hubwire::{self, Envelope, Packet};
use protocol::link::{GoodbyeReason, Message};
use protocol::replica::{Command, Input, JoinPhase, LinkFault, Outgoing, Phase, StopReason};
use protocol::{Epoch, Mode, ReplicaId, Role};

use super::Canary;
use super::checker::Checker;
use super::faults::Moment;
use super::hub;
use super::marks::Mark;
use super::node::Control;
use super::pipe::Arrival;
use super::world::{Event, World};

impl World {
    /// The shim's processor wakes up.
    pub(super) fn wake(&mut self, id: ReplicaId) {
        if self.nodes[id.index()].wake_at_ns != Some(self.now_ns) {
            return;
        }
        self.node(id).wake_at_ns = None;
        if !self.nodes[id.index()].runs() {
            return;
        }
        if self.node(id).replica.epoch() == 0 && self.node(id).writer.next_sequence() == 0 && self.first_wake(id) {
            return;
        }
        self.round(id);
        if self.nodes[id.index()].runs() {
            self.plan_wake(id);
        }
    }

    /// The handshake begins. Returns whether the machine was gone before the end of it.
    fn first_wake(&mut self, id: ReplicaId) -> bool {
        let local_ns = self.local_ns(id);
        let mut commands = Vec::new();
        self.node(id).replica.start(local_ns, &mut commands);
        self.carry_out(id, commands);
        !self.nodes[id.index()].runs()
    }

    /// One round, in the order that the replica asks for.
    fn round(&mut self, id: ReplicaId) {
        let deferred: Vec<_> = self.node(id).deferred.drain(..).collect();
        self.carry_out(id, deferred);
        let guest_first = self.rng.chance(50);
        if guest_first {
            self.take_guest_end(id);
        }
        self.read_link(id);
        self.read_packets(id);
        self.read_control(id);
        if !guest_first {
            self.take_guest_end(id);
        }
        self.confirm(id);
        self.note_disk(id);
        if self.nodes[id.index()].runs() && self.nodes[id.index()].replica.next_deadline_ns() <= self.local_ns(id) {
            self.tick(id);
        }
        if self.nodes[id.index()].runs() {
            let local_ns = self.local_ns(id);
            let mut commands = Vec::new();
            self.node(id).replica.flush(local_ns, &mut commands);
            self.carry_out(id, commands);
        }
        self.copy(id);
        self.begin(id);
    }

    fn tick(&mut self, id: ReplicaId) {
        let suspects = |world: &Self| {
            matches!(world.nodes[id.index()].replica.phase(), Phase::Suspecting | Phase::AwaitingGrant { .. })
        };
        let suspected_before = suspects(self);
        self.step(id, Input::Tick);
        if !suspected_before && suspects(self) {
            self.marks.set(Mark::SuspectedBySilence);
        }
    }

    fn plan_wake(&mut self, id: ReplicaId) {
        let node = &self.nodes[id.index()];
        let mut local_ns = node.replica.next_deadline_ns();
        if node.replica.role() == Role::Primary && node.running.is_none() {
            let timer_ns = node.timer_local_ns();
            if timer_ns > node.clock.local_ns(self.now_ns) {
                local_ns = local_ns.min(timer_ns);
            }
        }
        if local_ns != u64::MAX {
            let at_ns = node.clock.global_ns(local_ns);
            // A timer interrupt is never exact.
            let jitter_ns = self.rng.below(5_000);
            self.wake_by(id, at_ns + jitter_ns);
        }
    }

    fn read_link(&mut self, id: ReplicaId) {
        let unread = std::mem::take(&mut self.node(id).unread);
        self.read_bytes(id, &unread);
        while self.nodes[id.index()].runs() {
            let Some(arrival) = self.pipes[id.peer().index()].receive(self.now_ns) else { break };
            match arrival {
                Arrival::Closed => self.step(id, Input::LinkClosed(LinkFault::Closed)),
                Arrival::Bytes(bytes) => self.read_bytes(id, &bytes),
            }
        }
        if let Some(at_ns) = self.pipes[id.peer().index()].next_arrival_ns() {
            self.at(at_ns.max(self.now_ns + 1), Event::LinkArrival(id));
        }
    }

    /// Reads bytes of the link in pieces of any size. What a pause leaves unread is read after it.
    fn read_bytes(&mut self, id: ReplicaId, bytes: &[u8]) {
        let Some(mut reader) = self.node(id).reader.take() else { return };
        let mut at = 0;
        let mut piece_end = 0;
        while self.nodes[id.index()].runs() {
            if at == piece_end {
                if at == bytes.len() {
                    break;
                }
                piece_end += self.rng.between(1, (bytes.len() - at) as u64) as usize;
            }
            let message = match reader.read(&bytes[at..piece_end]) {
                Ok(progress) => {
                    at += progress.used_bytes;
                    let Some(frame) = progress.frame else { continue };
                    Message::decode(frame.kind, frame.payload).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            match message {
                Ok(message) => self.take_message(id, message),
                Err(error) => return self.link_corrupt(id, &error),
            }
        }
        self.node(id).unread = bytes[at..].to_vec();
        if self.pipes[id.index()].is_open() {
            self.node(id).reader = Some(reader);
        }
    }

    fn take_message(&mut self, id: ReplicaId, message: Message<'_>) {
        self.note(|| format!("{id} reads {message:?}"));
        let suspected = self.nodes[id.index()].replica.phase() == Phase::Suspecting;
        if let Message::Goodbye(goodbye) = message
            && goodbye.reason == GoodbyeReason::Superseded
        {
            self.marks.set(Mark::SupersededByGoodbye);
        }
        self.take_copy(id, &message);
        self.step(id, Input::Message(message));
        if suspected
            && matches!(self.nodes[id.index()].replica.phase(), Phase::Running { .. } | Phase::AtBoundary { .. })
        {
            self.marks.set(Mark::SuspicionCleared);
        }
    }

    fn link_corrupt(&mut self, id: ReplicaId, error: &str) {
        self.note(|| format!("{id} finds the link corrupt: {error}"));
        self.marks.set(if error.contains("has number") { Mark::RepeatedFrames } else { Mark::CorruptLink });
        self.close_pipe(id);
        self.step(id, Input::LinkClosed(LinkFault::Corrupt));
    }

    fn read_packets(&mut self, id: ReplicaId) {
        while self.nodes[id.index()].runs()
            && let Some(packet) = self.node(id).packets.pop_front()
        {
            // P3: the backup ignores its own devices.
            if self.nodes[id.index()].replica.role() == Role::Backup {
                continue;
            }
            match Packet::decode(&packet, hub::SESSION) {
                Ok(Packet::Frames(batch)) => {
                    let node = self.node(id);
                    if batch.first_sequence() > node.next_input {
                        let text = format!("frame {} came where {} was due", batch.first_sequence(), node.next_input);
                        return self.judge_by(Err(text));
                    }
                    let seen = (node.next_input - batch.first_sequence()) as usize;
                    node.inputs.extend(batch.frames().skip(seen).map(<[u8]>::to_vec));
                    node.next_input = node.next_input.max(batch.end_sequence());
                }
                other => return self.judge_by(Err(format!("the hub sent {other:?}"))),
            }
        }
    }

    fn read_control(&mut self, id: ReplicaId) {
        while self.nodes[id.index()].runs()
            && let Some(control) = self.node(id).control.pop_front()
        {
            self.note(|| format!("{id} is told {control:?}"));
            match control {
                Control::ArbiterReply { request_id, granted, record } => {
                    let granted = granted || self.canary == Some(Canary::IgnoreDenial);
                    self.take_answer(id, request_id, granted, record);
                }
                Control::PeerDead => {
                    if self.nodes[id.index()].replica.mode() == Mode::Solo {
                        self.marks.set(Mark::DeathToldLate);
                    }
                    self.node(id).told_dead = true;
                    self.step(id, Input::PeerDead);
                }
                Control::LinkCut => self.step(id, Input::LinkClosed(LinkFault::Closed)),
                Control::Superseded(generation) => self.step(id, Input::Superseded { generation }),
                Control::Stored(through) => self.step(id, Input::Stored { through }),
            }
        }
    }

    fn take_answer(
        &mut self,
        id: ReplicaId,
        request_id: u64,
        granted: bool,
        mut record: protocol::arbiter::ArbiterRecord,
    ) {
        if !granted {
            self.marks.set(Mark::GrantDenied);
        }
        if self.canary == Some(Canary::IgnoreDenial) {
            record.active = id;
        }
        if !matches!(self.nodes[id.index()].replica.phase(), Phase::AwaitingGrant { .. }) {
            self.marks.set(Mark::AnswerTooLate);
        }
        let newcomer = &self.nodes[id.index()].replica;
        if granted && newcomer.role() == Role::Backup && newcomer.join_phase() == JoinPhase::Settling {
            self.marks.set(Mark::NewcomerPromotedUntold);
        }
        self.step(id, Input::ArbiterReply { request_id, granted, record });
        if self.nodes[id.index()].replica.phase() == Phase::Promoting {
            self.marks.set(Mark::GrantedWithLog);
        }
    }

    fn confirm(&mut self, id: ReplicaId) {
        if self.nodes[id.index()].runs()
            && let Some(through) = self.node(id).confirm_through.take()
        {
            let local_ns = self.local_ns(id);
            let mut commands = Vec::new();
            self.node(id).replica.confirm_released(local_ns, through, &mut commands);
            self.carry_out(id, commands);
        }
    }

    /// Carries out commands one by one; a machine that dies or is paused in between does not do the rest, or does it
    /// later.
    pub(super) fn carry_out(&mut self, id: ReplicaId, commands: Vec<Command>) {
        if self.nodes[id.index()].replica.role() == Role::Backup {
            let received = self.nodes[id.index()].replica.status(0).received_by_backup;
            self.node(id).log_through = received;
        }
        for command in commands {
            if !self.nodes[id.index()].alive {
                self.marks.set(Mark::DiedBetweenCommands);
                return;
            }
            if self.nodes[id.index()].paused {
                self.node(id).deferred.push_back(command);
                continue;
            }
            self.note(|| format!("{id} must {command:?}"));
            self.obey(id, command);
        }
    }

    fn obey(&mut self, id: ReplicaId, command: Command) {
        match command {
            Command::Send(outgoing) => self.send(id, outgoing),
            Command::RunEpoch { epoch } => self.run_epoch(id, epoch),
            Command::Release { through } => {
                if self.canary != Some(Canary::ReleaseBeforeAck) {
                    self.release(id, through);
                }
                self.moment(id, Moment::Release);
            }
            Command::Discard { through } => self.discard(id, through),
            Command::AskArbiter { request_id, expect_generation } => self.ask(id, request_id, expect_generation),
            Command::Promote(promotion) => self.promote(id, promotion),
            Command::GoSolo { generation } => {
                let epoch = self.node(id).replica.epoch();
                self.marks.set(if epoch == 0 { Mark::SoloInPairing } else { Mark::WentSolo });
                let verdict = self.checker.became_active(id, generation, self.arbiter);
                self.judge_by(verdict);
                self.moment(id, Moment::GoSolo);
                self.plan_rejoin(id);
            }
            Command::AskPairing { request_id, expect_generation } => {
                self.ask_pairing(id, request_id, expect_generation);
            }
            Command::Joined { .. } => self.joined(id),
            Command::JoinFailed => self.join_failed(id),
            Command::Store { from } => self.store(id, from),
            Command::CloseLink => {
                self.close_pipe(id);
                self.moment(id, Moment::CloseLink);
            }
            Command::Stop(reason) => self.stop(id, reason),
        }
    }

    fn send(&mut self, id: ReplicaId, outgoing: Outgoing) {
        let moment = match outgoing {
            Outgoing::Hello => Some(Moment::Hello),
            Outgoing::EpochStart { .. } => Some(Moment::EpochStart),
            Outgoing::Ack(_) => Some(Moment::Ack),
            Outgoing::Goodbye(_) => Some(Moment::Goodbye),
            _ => None,
        };
        let node = self.node(id);
        let message = node.replica.message(outgoing).expect("the record of an epoch is held until the next call");
        let mut bytes = Vec::new();
        message.encode_into(&mut node.writer, &mut bytes).expect("epochs are bounded");
        self.transmit_bytes(id, bytes);
        if let Some(moment) = moment {
            self.moment(id, moment);
        }
    }

    /// Sends a message of a copy, which the replica does not make.
    pub(super) fn transmit(&mut self, id: ReplicaId, message: &Message<'_>) {
        let mut bytes = Vec::new();
        message.encode_into(&mut self.nodes[id.index()].writer, &mut bytes).expect("a short message");
        self.transmit_bytes(id, bytes);
    }

    fn transmit_bytes(&mut self, id: ReplicaId, bytes: Vec<u8>) {
        let (least_ns, greatest_ns) = self.settings.link_delay_ns;
        let delay_ns = self.rng.between(least_ns, greatest_ns);
        if let Some(at_ns) = self.pipes[id.index()].send(self.now_ns, delay_ns, bytes) {
            self.at(at_ns, Event::LinkArrival(id.peer()));
        }
    }

    /// Moves outputs into the device's queue, from where they leave at once or a little later.
    pub(super) fn release(&mut self, id: ReplicaId, through: Epoch) {
        let held_by_peer = self.nodes[id.peer().index()].log_through;
        let record = self.arbiter;
        let node = self.node(id);
        let solo = node.replica.mode() == Mode::Solo;
        let settles = node.replica.join_phase() == JoinPhase::Settling;
        let generation = node.replica.generation();
        let mut verdict = Ok(());
        while node.held.front().is_some_and(|held| held.epoch <= through) {
            let Some(held) = node.held.pop_front() else { break };
            // What a newcomer's state holds already does not wait for the newcomer: the record is paired only afterwards.
            let alone = solo || (settles && held.epoch <= node.state_of);
            let claims_solo = alone.then_some(generation);
            verdict = verdict.and(Checker::releases(id, held.epoch, held_by_peer, claims_solo, record));
            // As the shim, which confirms what it has sent: of epochs without outputs behind that it knows nothing.
            node.device_through = node.device_through.max(held.epoch);
            node.device.push_back(held);
        }
        let released = node.device.back().map(|held| held.epoch);
        self.judge_by(verdict);
        if let Some(epoch) = released {
            self.judge_stored(id, epoch);
        }
        if self.settings.confirms_releases {
            self.after((1_000, 200_000), Event::DeviceFlush(id));
        } else {
            self.empty_device(id);
        }
    }

    pub(super) fn device_flush(&mut self, id: ReplicaId) {
        if !self.nodes[id.index()].runs() {
            return;
        }
        self.empty_device(id);
        let through = self.node(id).device_through;
        self.node(id).confirm_through = Some(through);
        self.wake_by(id, self.now_ns);
    }

    fn empty_device(&mut self, id: ReplicaId) {
        let held: Vec<_> = self.node(id).device.drain(..).collect();
        let Some(first) = held.first() else { return };
        for packet in hub::encode(held.iter().map(|held| held.bytes.as_slice()), first.sequence) {
            self.hub.write(id, packet);
        }
        self.after((1_000, 100_000), Event::HubRead(id));
    }

    fn discard(&mut self, id: ReplicaId, through: Epoch) {
        let node = self.node(id);
        node.discard_through = through;
        if node.held.front().is_some_and(|held| held.epoch <= through) {
            self.marks.set(Mark::Discarded);
        }
        self.node(id).held.retain(|held| held.epoch > through);
        self.moment(id, Moment::Discard);
    }

    fn ask(&mut self, id: ReplicaId, request_id: u64, expect_generation: u64) {
        if self.node(id).asked.replace(request_id) == Some(request_id) {
            self.marks.set(Mark::RequestRepeated);
        }
        let percent = self.settings.answer_lost_percent;
        if self.healed || !self.rng.chance(percent) {
            let request = Event::ArbiterRequest { from: id, request_id, expect_generation };
            self.after(self.settings.control_delay_ns, request);
        }
        self.moment(id, Moment::AskArbiter);
    }

    fn promote(&mut self, id: ReplicaId, promotion: protocol::replica::Promotion) {
        if !self.nodes[id.index()].disk.is_idle() {
            self.marks.set(Mark::PromotedWithDiskBusy);
        }
        if self.settings.shared_disk {
            self.take_over_shared(id);
        }
        let in_pairing = promotion.first_own_epoch == 1;
        self.marks.set(if in_pairing { Mark::PromotedInPairing } else { Mark::Promoted });
        let verdict = self
            .checker
            .became_active(id, promotion.generation, self.arbiter)
            .and(self.checker.promoted(id, promotion.first_own_epoch));
        self.judge_by(verdict);
        let forgets = self.canary == Some(Canary::ForgetHeldOutputs);
        let seen = self.hub.seen.len() as u64;
        let node = self.node(id);
        if forgets {
            node.held.clear();
        }
        let has_new = node.held.iter().any(|held| held.sequence >= seen);
        node.guest_clock = (promotion.clocks.monotonic_ns, promotion.clocks_received_ns);
        node.inputs.clear();
        node.next_input = node.frames_in_log;
        let envelope =
            Envelope { destination: [1; 6], source: [2; 6], session: hub::SESSION, generation: promotion.generation };
        let mut packet = vec![0; hubwire::HEADER_BYTES];
        hubwire::encode_resume(&mut packet, &envelope, node.next_input).expect("large enough");
        if has_new {
            self.marks.set(Mark::ResentNewOutput);
        }
        if self.nodes[id.index()].guest.stopped() {
            self.marks.set(Mark::GuestStoppedAtPromotion);
        }
        self.hub.write(id, packet);
        self.after((1_000, 100_000), Event::HubRead(id));
        self.moment(id, Moment::Promote);
        if self.nodes[id.index()].is_newcomer {
            self.marks.set(Mark::NewcomerPromoted);
        }
        if self.nodes[id.index()].replica.status(0).link_fault == Some(LinkFault::HandedOver) {
            self.marks.set(Mark::HandedOver);
        }
        self.plan_rejoin(id);
    }

    fn stop(&mut self, id: ReplicaId, reason: StopReason) {
        let node = self.node(id);
        node.stopped = Some(reason);
        node.device.clear();
        let was_paused = node.was_paused;
        let tentative = node.replica.join_phase() == JoinPhase::Settling;
        match reason {
            StopReason::Superseded { .. } if tentative => self.marks.set(Mark::NewcomerDenied),
            StopReason::Incomplete => self.marks.set(Mark::NewcomerIncomplete),
            StopReason::Superseded { .. } if was_paused => self.marks.set(Mark::SupersededAfterPause),
            StopReason::GuestStopped if self.arbiter.mode == Mode::Paired => self.marks.set(Mark::GuestStoppedInPair),
            _ => {}
        }
        self.close_pipe(id);
        let percent = self.settings.tells_loser_percent;
        let newcomer_waits = self.nodes[id.peer().index()].replica.join_phase() == JoinPhase::Empty;
        if self.rng.chance(percent) || newcomer_waits {
            // The supervisor ends the machine of a replica that has stopped.
            self.after(self.settings.death_notice_ns, Event::Control(id.peer(), Control::PeerDead));
        }
    }
}
