//! Solo and paired mode: the loop around the replica state machine.

use alloc::format;

use protocol::control::{
    ArbiterRequest, Counter, Level, LogEnd, LogRecord, Promoted, StoppedReason, ToShim, ToSupervisor,
};
use protocol::link::Message;
use protocol::replica::{
    Command, CommandList, Gate, Input, JoinPhase, LinkFault, Outgoing, Promotion, Record, StopReason,
};
use protocol::{Epoch, Role, RunMode};

use super::copy::Target;
use super::waits::Reason;
use super::{Vmm, tell};
use crate::guest::{EndKind, Guest};
use crate::machine::{Machine, Port};

/// The state machine may put an uncertain event before what was gathered.
const UNCERTAIN_RECORD_BYTES: usize = 32;
/// Records of a guest that computes are sent together, at the latest after this time.
const RECORDS_WAIT_NS: u64 = 500_000;
/// An epoch that runs when storage ends is waited for as long as this.
const LAST_END_WAIT_NS: u64 = 1_000_000_000;

/// Delivers the events of a record. What is wrong with them is in guest memory or in the record, and both are the same at the
/// peer and in a replay.
pub(super) fn begin_epoch(guest: &mut Guest, record: &Record) {
    let epoch = record.epoch;
    if let Err(error) = guest.begin_epoch(epoch, record.clocks, &record.events) {
        guest.set_end(EndKind::Fault, 139, format!("events of epoch {epoch} cannot be delivered: {error}\n"));
    }
}

impl<M: Machine> Vmm<M> {
    pub(super) fn run_replica(&mut self) -> ! {
        if self.restores {
            self.receive_checkpoint();
        }
        self.replay();
        let now_ns = self.now_ns();
        self.drive(|replica, commands| replica.start(now_ns, commands));
        // Looked at once a turn: where instructions are counted, every look leaves the translated code.
        let mut now_ns = self.now_ns();
        loop {
            now_ns = self.round(now_ns);
            if self.run_next.is_none() && (self.copy_at_boundary(now_ns) || !self.begin_if_possible(now_ns)) {
                self.rest(now_ns);
                now_ns = self.now_ns();
            } else if let Some(epoch) = self.run_next.take() {
                now_ns = self.run_epoch(now_ns, epoch);
            }
        }
    }

    /// Whether this replica hears the network and speaks for the guest.
    pub(super) fn is_active(&self) -> bool {
        self.replica.as_ref().is_none_or(|replica| replica.role() == Role::Primary)
    }

    /// Lets the state machine do something and carries out its commands.
    fn drive(&mut self, act: impl FnOnce(&mut protocol::replica::Replica, &mut CommandList)) {
        let mut commands = CommandList::new();
        if let Some(replica) = &mut self.replica {
            act(replica, &mut commands);
        }
        self.execute(&commands);
    }

    pub(super) fn step(&mut self, input: Input<'_>) {
        let now_ns = self.now_ns();
        self.step_at(now_ns, input);
    }

    pub(super) fn step_at(&mut self, now_ns: u64, input: Input<'_>) {
        self.drive(|replica, commands| replica.step(now_ns, input, commands));
    }

    /// Takes everything that has come and sends everything that waits. May be called while the guest runs. Returns the
    /// time, which is that of the newest message if one has come.
    pub(super) fn round(&mut self, now_ns: u64) -> u64 {
        if self.has_nothing_to_look_after(now_ns) {
            self.flush_channels(now_ns);
            return now_ns;
        }
        for message in core::mem::take(&mut self.early) {
            self.on_control(message);
        }
        self.drain_control(Self::on_control);
        self.drain_link();
        self.confirm_outputs();
        self.renew_link();
        self.serve_disks();
        self.end_if_asked();
        // Time must not go back for the state machine.
        let now_ns = now_ns.max(self.last_heard_ns);
        if self.log_ends_by_ns.is_some_and(|by_ns| now_ns >= by_ns) {
            self.end_log();
        }
        self.judge_hang(now_ns);
        if self.replica.as_ref().is_some_and(|replica| now_ns >= replica.next_deadline_ns()) {
            self.step_at(now_ns, Input::Tick);
        }
        self.drive(|replica, commands| replica.flush(now_ns, commands));
        self.pump_outputs();
        self.send_pages();
        if !self.is_active() {
            self.drop_input();
        }
        self.tell_status(now_ns);
        self.flush_channels(now_ns);
        now_ns
    }

    /// Whether a round of the active replica would change nothing. Between two epochs of a guest that computes that is so nearly
    /// always, and what a boundary costs then is how many instructions it takes to find out.
    fn has_nothing_to_look_after(&mut self, now_ns: u64) -> bool {
        let Some(replica) = &self.replica else { return false };
        replica.role() == Role::Primary
            && now_ns < self.status_at_ns
            && self.guest.disks().are_none()
            && self.outputs.oldest(Epoch::MAX).is_none()
            && !self.outbound.is_waiting()
            && self.copier.is_none()
            && self.capture_wanted.is_none()
            && self.fresh_link.is_none()
            && self.early.is_empty()
            && !self.ends
            && replica.join_phase() == JoinPhase::None
            && now_ns < replica.next_deadline_ns()
            && self.machine.control().peek().is_none()
            && self.machine.link().is_none_or(|port| port.peek().is_none())
    }

    fn flush_channels(&mut self, now_ns: u64) {
        if !self.records_may_wait(now_ns) {
            self.flush_all(now_ns);
        }
    }

    fn flush_all(&mut self, now_ns: u64) {
        self.flush_link();
        self.control.flush(self.machine.control());
        self.flushed_ns = now_ns;
    }

    pub(super) fn flush_link(&mut self) {
        if let Some(port) = self.machine.link() {
            self.link.flush(port);
        }
    }

    /// Whether records had better wait to be sent with those of the next epochs. A guest that was cut goes on at once,
    /// and as long as it has put out nothing that waits for an acknowledgement nobody misses one.
    fn records_may_wait(&self, now_ns: u64) -> bool {
        self.deadline_ns == 0
            && self.outputs.bytes() == 0
            && !self.guest.disks().holds_changes()
            && now_ns < self.flushed_ns + RECORDS_WAIT_NS
            && self.replica.as_ref().is_some_and(|replica| replica.may_delay_records())
    }

    /// Begins an epoch if the guest wants to run and the protocol allows it. Returns whether it did.
    fn begin_if_possible(&mut self, now_ns: u64) -> bool {
        let Some(replica) = &self.replica else { return false };
        if replica.role() != Role::Primary || self.guest.end().is_some() || self.ends || !self.wants_to_run(now_ns) {
            return false;
        }
        if self.waits_for_company() {
            self.hold_up(now_ns, Reason::Company);
            return false;
        }
        let holds_too_much = self.holds_too_much();
        let Some(replica) = &mut self.replica else { return false };
        if replica.may_begin(now_ns) != Gate::Ready || holds_too_much {
            self.hold_up(now_ns, Reason::Gate);
            return false;
        }
        let mut events = replica.take_buffer();
        let limit = replica.max_epoch_events_bytes().saturating_sub(UNCERTAIN_RECORD_BYTES);
        self.end_wait(now_ns);
        self.gather(limit, &mut events);
        let clocks = self.offsets.clocks(now_ns);
        self.drive(|replica, commands| {
            replica.begin(now_ns, clocks, events, commands);
        });
        // The record leaves before the guest runs, unless it comes with others soon: the backup works at the same time.
        self.flush_channels(now_ns);
        true
    }

    /// Whether what has come should wait for the acknowledgement of the last epoch, and for more to come: under load that
    /// makes few large epochs out of many small ones. A guest that has not finished its work (it waits for no time at
    /// all) is never kept waiting.
    pub(super) fn waits_for_company(&self) -> bool {
        self.deadline_ns != 0
            && self.replica.as_ref().is_some_and(|replica| replica.awaits_ack())
            // What the guest asks a disk for next waits for nobody.
            && !self.has_completions()
    }

    /// Runs the guest and returns the time when it was left.
    fn run_epoch(&mut self, now_ns: u64, epoch: u64) -> u64 {
        let now_ns = self.await_completions(now_ns, epoch);
        let Some(record) = self.replica.as_ref().and_then(|replica| replica.record(epoch)) else { return now_ns };
        begin_epoch(&mut self.guest, record);
        let has_events = !record.events.is_empty();
        self.guest.upcall_if_due(has_events, self.machine.registers());
        self.is_in_epoch = true;
        let now_ns = self.run_guest(now_ns, epoch, |vmm, now_ns| _ = vmm.round(now_ns));
        self.is_in_epoch = false;
        let (digest, has_outputs) = self.finish_epoch(epoch, now_ns);
        // What the guest has just asked for begins at once.
        self.serve_disks();
        if self.guest.end().is_some() {
            self.tell_log_end(epoch, digest);
            self.step_at(now_ns, Input::GuestStopped { digest });
        } else {
            self.step_at(now_ns, Input::EpochEnded { digest, has_outputs });
        }
        if self.log_ends_by_ns.is_some() {
            self.end_log();
        }
        // What changes a shared disk waited for the end of the epoch to be known.
        if self.guest.disks().holds_changes() {
            self.serve_disks();
        }
        now_ns
    }

    /// Halts until something comes.
    fn rest(&mut self, now_ns: u64) {
        self.flush_all(now_ns);
        if self.has_pages_to_send() {
            return;
        }
        let mut until_ns = self.replica.as_ref().map_or(u64::MAX, |replica| replica.next_deadline_ns());
        if self.is_active()
            && self.guest.end().is_none()
            && !self.is_held_up_by(Reason::Gate)
            && !self.waits_for_company()
        {
            until_ns = until_ns.min(self.deadline_on_machine_ns().unwrap_or(u64::MAX));
        }
        // Devices do not interrupt when they have sent something, so what depends on that is looked after soon. A
        // confirmation alone can wait for the next round: only claims depend on it.
        let last_words = self.guest.end().is_some() && self.outbound.is_waiting();
        if self.outputs_are_stuck() || last_words {
            until_ns = until_ns.min(now_ns + 1_000_000);
        }
        self.sleep(now_ns, Some(until_ns));
    }

    /// Reads the control channel to its end and hands every message to `handle`.
    pub(super) fn drain_control(&mut self, handle: impl Fn(&mut Self, ToShim<'_>)) {
        while let Some(received) = self.control.take(self.machine.control()) {
            let Some(mut reader) = self.control.take_reader() else { return };
            let result = reader.feed::<protocol::frame::FrameError>(received.payload(), |frame| {
                match ToShim::decode(frame.kind, frame.payload) {
                    Ok(message) => handle(self, message),
                    Err(error) => self.log(Level::Warn, format_args!("control channel: {error}")),
                }
                Ok(())
            });
            self.control.put_reader(reader);
            self.machine.control().give_back(received);
            if let Err(error) = result {
                self.control.close();
                self.log(Level::Error, format_args!("control channel: {error}; it is not read any more"));
            }
        }
    }

    fn on_control(&mut self, message: ToShim<'_>) {
        match message {
            // A second configuration changes nothing, nobody waits any more for pages to have come, and what runs is not
            // restored.
            ToShim::Config(_)
            | ToShim::Shown { .. }
            | ToShim::Pages(_)
            | ToShim::State(_)
            | ToShim::Replay(_)
            | ToShim::ReplayEnd(_) => {}
            ToShim::Stored { through } => self.step(Input::Stored { through }),
            ToShim::StoreLog { on: true } => self.step(Input::StoreLog { on: true }),
            // The record of the epoch that runs is stored: how it ends is to be told, too, unless that takes too long.
            ToShim::StoreLog { on: false } if self.is_in_epoch => {
                let by_ns = self.now_ns().saturating_add(LAST_END_WAIT_NS);
                self.log_ends_by_ns.get_or_insert(by_ns);
            }
            ToShim::StoreLog { on: false } => self.end_log(),
            ToShim::ArbiterReply(reply) => {
                let (request_id, granted, record) = (reply.request_id, reply.granted, reply.record);
                self.step(Input::ArbiterReply { request_id, granted, record });
            }
            ToShim::PeerDead => {
                self.peer_dead = true;
                // What the peer sent before its death is read first.
                self.drain_link();
                self.step(Input::PeerDead);
            }
            ToShim::LinkCut => {
                self.drain_link();
                self.step(Input::LinkClosed(LinkFault::Closed));
            }
            ToShim::PeerJoins { link_session } => self.expect_newcomer(link_session),
            ToShim::HandOver => self.step(Input::HandOver),
            ToShim::Capture { since_epoch } => self.capture_wanted(since_epoch),
            ToShim::PagesHeld { messages } => self.slices_arrived(Target::Checkpoint, messages),
            ToShim::WatchDisks => self.watch_disks(),
            ToShim::TellDisks => self.tell_disks(),
            ToShim::DisksCopied => self.disks_copied(),
            ToShim::Superseded { generation } => self.step(Input::Superseded { generation }),
            ToShim::Time { realtime_ns } => self.set_realtime(realtime_ns),
            ToShim::ConsoleInput { bytes } => self.note_typed(bytes),
            ToShim::Shutdown => self.ends = true,
        }
    }

    /// Ends the replica if that was asked for and nothing is under way. Without disks nothing has to be waited for. With
    /// them the active replica ends first, when the other has done all that it has done, and takes the other with it: so
    /// mirrors are equal. The supervisor ends those who take too long.
    fn end_if_asked(&mut self) {
        if !self.ends {
            return;
        }
        // A copy that is not complete will not be.
        self.guest.disks_mut().hold(false);
        let may_end = self.guest.disks().are_none() || (self.is_active() && self.is_quiet());
        if !may_end {
            return;
        }
        self.tell_last_end();
        self.step(Input::Shutdown);
        self.stop(StoppedReason::Shutdown, super::ASKED_FOR);
    }

    /// Reads the link to its end.
    fn drain_link(&mut self) {
        while let Some(port) = self.machine.link() {
            let Some(received) = self.link.take(port) else { return };
            let Some(mut reader) = self.link.take_reader() else { return };
            let now_ns = self.now_ns();
            self.last_heard_ns = now_ns;
            let mut damage = None;
            let result = reader.feed::<protocol::frame::FrameError>(received.payload(), |frame| {
                match Message::decode(frame.kind, frame.payload) {
                    _ if damage.is_some() => {}
                    Ok(message) => damage = self.on_link(now_ns, message).err(),
                    Err(error) => damage = Some(format!("{error}")),
                }
                Ok(())
            });
            self.link.put_reader(reader);
            if let Some(port) = self.machine.link() {
                port.give_back(received);
            }
            if let Err(error) = result {
                damage.get_or_insert_with(|| format!("{error}"));
            }
            if let Some(text) = damage {
                self.log(Level::Error, format_args!("replication link: {text}; the link counts as failed"));
                self.link.close();
                self.step(Input::LinkClosed(LinkFault::Corrupt));
            }
        }
    }

    /// Carries out commands in their order.
    pub(super) fn execute(&mut self, commands: &CommandList) {
        for command in commands.as_slice() {
            match *command {
                Command::Send(outgoing) => self.send(outgoing),
                Command::RunEpoch { epoch } => self.run_next = Some(epoch),
                Command::Release { through } => self.release(through),
                Command::Discard { through } => self.outputs.discard(through),
                Command::AskArbiter { request_id, expect_generation } => {
                    self.ask_arbiter(request_id, expect_generation);
                }
                Command::Promote(promotion) => self.promote(&promotion),
                Command::GoSolo { generation } => {
                    self.status_at_ns = 0;
                    self.log(Level::Info, format_args!("active alone in generation {generation}"));
                }
                Command::AskPairing { request_id, expect_generation } => {
                    self.ask_pairing(request_id, expect_generation);
                }
                Command::Joined { generation } => self.joined(generation),
                Command::JoinFailed => self.join_failed(),
                Command::Store { from } => self.store(from),
                Command::CloseLink => self.link.close(),
                Command::Stop(reason) => self.stop_for(reason),
            }
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        let Some(message) = self.replica.as_ref().and_then(|replica| replica.message(outgoing)) else { return };
        self.link.encode(|writer, out| {
            // Only events beyond the frame's limit can be refused, and the epoch's limit is far below it.
            let _ = message.encode_into(writer, out);
        });
    }

    /// Hands records to the supervisor, which has them stored.
    fn store(&mut self, from: Epoch) {
        let Some(replica) = &self.replica else { return };
        let generation = replica.generation();
        for record in replica.records_from(from) {
            // Within the limit of stored records, which is below that of a message.
            tell(&mut self.control, &ToSupervisor::Record(LogRecord { generation, start: record.message() }));
        }
    }

    /// Nothing is stored any more.
    fn end_log(&mut self) {
        self.log_ends_by_ns = None;
        self.tell_last_end();
        self.step(Input::StoreLog { on: false });
    }

    /// Tells how the last epoch ended, which no further record will tell.
    fn tell_last_end(&mut self) {
        if let Some((epoch, digest)) = self.replica.as_ref().map(|replica| replica.last_end()) {
            self.tell_log_end(epoch, digest);
        }
    }

    fn tell_log_end(&mut self, epoch: Epoch, digest: u64) {
        if self.is_active() && self.replica.as_ref().is_some_and(|replica| replica.stores_log()) {
            tell(&mut self.control, &ToSupervisor::LogEnd(LogEnd { epoch, digest }));
        }
    }

    fn ask_arbiter(&mut self, request_id: u64, expect_generation: u64) {
        let now_ns = self.now_ns();
        let status = self.replica.as_ref().map(|replica| replica.status(now_ns));
        if let Some(status) = status
            && self.asked_for != request_id
        {
            self.asked_for = request_id;
            match (status.divergence, status.link_fault) {
                (Some(divergence), _) => {
                    self.log(Level::Error, format_args!("{divergence}; asking to go on alone"));
                    // Before anything else runs.
                    self.show_touched(divergence.epoch);
                }
                _ if self.peer_dead => self.log(Level::Warn, format_args!("peer has died; asking to go on alone")),
                (None, Some(fault)) => self.log(Level::Warn, format_args!("{fault}; asking to go on alone")),
                (None, None) => {
                    let silent_ms = now_ns.saturating_sub(self.last_heard_ns) / 1_000_000;
                    self.log(Level::Warn, format_args!("peer not heard for {silent_ms} ms; asking to go on alone"));
                }
            }
        }
        let request = ArbiterRequest { request_id, expect_generation, proposer: self.settings.replica };
        tell(&mut self.control, &ToSupervisor::ArbiterRequest(request));
        self.control.flush(self.machine.control());
    }

    fn promote(&mut self, promotion: &Promotion) {
        // The guest's clock goes on from the last record; before the first one this replica's own start counts.
        if promotion.clocks.monotonic_ns != 0 {
            self.offsets.monotonic_ns = promotion.clocks.monotonic_ns.wrapping_sub(promotion.clocks_received_ns);
            self.offsets.realtime_ns = promotion.clocks.realtime_ns.wrapping_sub(promotion.clocks_received_ns);
        }
        self.drop_input();
        self.guest.disks_mut().take_over();
        let (next_input_frame, epoch) = self.input_position();
        let promoted = Promoted { generation: promotion.generation, epoch, next_input_frame };
        tell(&mut self.control, &ToSupervisor::Promoted(promoted));
        self.control.flush(self.machine.control());
        self.ask_for_frames_in_flight(promotion.generation);
        let are_logged = self.guest.disks().are_logged();
        let uncertain = self.guest.disks().uncertain_count(are_logged);
        if uncertain > 0 {
            let which = if are_logged { "disks" } else { "shared disks" };
            self.log(Level::Info, format_args!("{uncertain} requests to {which} are uncertain"));
        }
        let held = self.outputs.bytes() as u64;
        self.counters.add(Counter::OutputsResent, held);
        self.status_at_ns = 0;
        self.log(
            Level::Info,
            format_args!(
                "promoted in generation {}: first own epoch {}, outputs from epoch {} sent again",
                promotion.generation, promotion.first_own_epoch, promotion.resend_from_epoch
            ),
        );
    }

    fn stop_for(&mut self, reason: StopReason) -> ! {
        if reason == StopReason::GuestStopped
            && let Some(end) = self.guest.end().cloned()
        {
            let epoch = self.replica.as_ref().map_or(0, |replica| replica.epoch());
            self.tell_end(epoch, &end);
        }
        if matches!(reason, StopReason::GuestStopped | StopReason::Shutdown) {
            self.drain_disks();
        }
        // The last message to the peer should still go out.
        if self.settings.run_mode == RunMode::Pair {
            self.flush_link();
        }
        if let StopReason::Diverged(divergence) = reason {
            self.show_touched(divergence.epoch);
        }
        self.stop(reason.into(), &format!("{reason}"))
    }
}
