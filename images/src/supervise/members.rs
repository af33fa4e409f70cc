//! The life of the replicas: configuration, the arbiter's decisions, ends and failures.

use std::net::Shutdown;
use std::time::{SystemTime, UNIX_EPOCH};

use protocol::control::{
    ArbiterReply, ArbiterRequest, Config, Promoted, Ready, Seed, Status, Stopped, StoppedReason, ToShim, ToSupervisor,
};
use protocol::{DiskConduct, ReplicaId, Role};

use super::channel::ChannelError;
use super::spec::PlacementName;
use super::{NS_PER_MS, Supervisor};
use crate::ctl::EndedStatus;

/// A replica that was told to stop is ended after this time, if it can run at all.
const STOP_GRACE_NS: u64 = 1_000 * NS_PER_MS;
/// How often the shims are told the wall clock.
const CLOCK_INTERVAL_NS: u64 = 10_000 * NS_PER_MS;
/// The same for machines that count instructions, whose own time runs with the work they do.
const COUNTED_CLOCK_INTERVAL_NS: u64 = 20 * NS_PER_MS;

impl Supervisor {
    /// A control channel is ready.
    pub(super) fn control_ready(&mut self, id: ReplicaId, now_ns: u64) {
        let inbox = self.replicas[id.index()].as_mut().and_then(|replica| replica.inbox.take());
        let Some(mut inbox) = inbox else {
            return;
        };
        let result = loop {
            let channel = self.replicas[id.index()].as_mut().and_then(|replica| replica.channel.as_mut());
            let Some(channel) = channel else {
                return;
            };
            match channel.flush().and_then(|()| channel.receive(&mut inbox)) {
                Ok(0) => break Ok(()),
                Ok(bytes) => {
                    if let Err(error) = inbox.take(bytes, |message| self.take_message(id, &message, now_ns)) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        match (result, &mut self.replicas[id.index()]) {
            (Ok(()), Some(replica)) => replica.inbox = Some(inbox),
            (Ok(()), None) => {}
            (Err(error), _) => self.channel_failed(id, &error),
        }
    }

    fn channel_failed(&mut self, id: ReplicaId, error: &ChannelError) {
        let channel = self.replicas[id.index()].as_mut().and_then(|replica| replica.channel.take());
        if channel.is_some() {
            self.socket_failed(id, &error.to_string());
        }
    }

    /// A socket of a replica has failed: its QEMU ends, has ended, or is of no more use. The kernel closes the sockets
    /// of a killed process milliseconds before it reports the end, so the survivor is told now; the signal makes
    /// certain of what it is told.
    pub(super) fn socket_failed(&mut self, id: ReplicaId, what: &str) {
        let Some(replica) = &mut self.replicas[id.index()] else {
            return;
        };
        if replica.ending {
            return;
        }
        replica.ending = true;
        let expected = replica.stopped.is_some();
        if let Err(error) = replica.vm.signal(rustix::process::Signal::KILL) {
            self.happened(format!("replica {id} cannot be ended: {error}"));
        }
        // What it had let out before it died goes first, and what it had asked the arbiter for: the newcomer that it may
        // have brought in would be denied otherwise what a moment later it is named for.
        self.read_port(id, self.now_ns());
        self.control_ready(id, self.now_ns());
        self.tell_survivor(id);
        if !expected {
            self.happened(format!("replica {id}: {what}"));
        }
    }

    /// Tells the peer of a dead replica.
    fn tell_survivor(&mut self, dead: ReplicaId) {
        // The dead one's end of the link stays open here, for the next one: the survivor learns of the death only so.
        if self.link.is_some() {
            self.say(dead.peer(), &ToShim::PeerDead);
        }
    }

    /// Tells a shim something, if there is one to be told.
    pub(super) fn say(&mut self, id: ReplicaId, message: &ToShim<'_>) {
        let channel = self.replicas[id.index()].as_mut().and_then(|replica| replica.channel.as_mut());
        if let Some(Err(error)) = channel.map(|channel| channel.send(message)) {
            self.channel_failed(id, &error);
        }
    }

    fn take_message(&mut self, id: ReplicaId, message: &ToSupervisor<'_>, now_ns: u64) {
        match message {
            ToSupervisor::Ready(ready) => {
                if let Some(replica) = &self.replicas[id.index()] {
                    replica.vm.yield_to_others();
                }
                self.configure(id, *ready);
            }
            ToSupervisor::Status(status) => self.note_status(id, *status),
            ToSupervisor::ArbiterRequest(request) => self.arbitrate(id, *request, now_ns),
            ToSupervisor::Console(output) => {
                self.console.write(output.stream_offset_bytes, output.bytes);
            }
            ToSupervisor::Log(log) => self.happened(format!("replica {id} [{}] {}", log.level, log.text)),
            ToSupervisor::GuestStopped(stopped) => self.guest_stopped(id, stopped),
            ToSupervisor::Promoted(promoted) => self.promoted(id, promoted),
            ToSupervisor::Stopped(stopped) => self.stopped(id, stopped, now_ns),
            ToSupervisor::Touched(page) => self.shows_page(id, page),
            ToSupervisor::TouchedEnd(end) => self.has_shown(id, *end),
            ToSupervisor::LinkFresh { link_session } => self.link_is_fresh(id, *link_session, now_ns),
            ToSupervisor::PairingRequest(request) => self.arbitrate_pairing(id, *request, now_ns),
            ToSupervisor::JoinFailed => self.join_failed(id, now_ns),
            ToSupervisor::Copied(copied) => self.note_copied(*copied),
            ToSupervisor::Pages(pages) => self.captured_pages(id, pages),
            ToSupervisor::State(state) => self.captured_state(id, state),
            ToSupervisor::CaptureFailed => self.capture_failed(id),
            ToSupervisor::DisksChanged(changed) => self.disks_changed(id, changed),
            ToSupervisor::PagesHeld { messages } => self.feed_checkpoint(id, *messages),
            ToSupervisor::Record(record) => self.store_record(id, record),
            ToSupervisor::LogEnd(end) => self.store_end(id, *end),
            ToSupervisor::Replayed(replayed) => self.replayed(id, *replayed, now_ns),
        }
    }

    /// A shim is up: it is told how to run.
    fn configure(&mut self, id: ReplicaId, ready: Ready) {
        let Some(replica) = &mut self.replicas[id.index()] else {
            return;
        };
        if replica.ready.replace(ready).is_some() {
            return self.happened(format!("replica {id} said twice that it is ready: ignored"));
        }
        self.happened(format!("replica {id} booted in {:.1} ms", ready.boot_ns as f64 / 1e6));
        if let Some(Err(error)) = self.restoring.as_ref().map(|restoring| restoring.check(&ready, self.spec.machine)) {
            return self.refusal = Some(format!("the checkpoint cannot be restored here: {error}"));
        }
        let arguments = match self.spec.boot_text(id) {
            Ok(text) => text,
            Err(error) => return self.refusal = Some(error),
        };
        let config = ToShim::Config(self.config(id, &arguments));
        self.configured = true;
        self.prepare_storage(&ready);
        self.say(id, &config);
        let peer_ends = self.replicas[id.peer().index()].as_ref().is_none_or(|peer| peer.ending);
        if self.link.is_some() && peer_ends {
            self.say(id, &ToShim::PeerDead);
        }
    }

    fn config<'a>(&self, id: ReplicaId, arguments: &'a str) -> Config<'a> {
        let record = self.arbiter.record();
        let tuning = &self.spec.tuning;
        let joins = self.rejoin.is_joining();
        let restores = self.restoring.is_some();
        Config {
            replica: id,
            role: if id == ReplicaId::ZERO && !joins { Role::Primary } else { Role::Backup },
            // The mode at the start, even if the peer has gone meanwhile: the replica learns of changes by asking.
            mode: if self.link.is_some() && !restores { protocol::Mode::Paired } else { record.mode },
            run_mode: self.spec.run.run_mode(),
            discipline: self.spec.protocol.discipline(),
            generation: if joins { record.generation } else { 1 },
            session: self.session,
            link_session: self.rejoin.link_session(),
            joins,
            restores,
            replays: restores && self.replaying.is_some(),
            stores_log: self.stores_log(),
            disk_conduct: self.disk_conduct(),
            max_unstored_bytes: super::storage::MAX_UNSTORED_BYTES,
            pair_id: self.pair_id,
            epoch_source: u32::from(self.spec.epoch.source().code()),
            epoch_length_instructions: self.spec.epoch.length(),
            epoch_skew_instructions: if id == ReplicaId::ONE { self.spec.backup.epoch_skew } else { 0 },
            realtime_ns: realtime_ns(),
            entropy: Seed(self.entropy),
            max_lag_ns: tuning.max_lag_ms * NS_PER_MS,
            heartbeat_interval_ns: tuning.heartbeat_ms * NS_PER_MS,
            failure_timeout_ns: tuning.failure_timeout_ms * NS_PER_MS,
            pairing_timeout_ns: tuning.pairing_timeout_ms * NS_PER_MS,
            status_interval_ns: tuning.status_interval_ms * NS_PER_MS,
            max_outstanding_epochs: tuning.max_outstanding_epochs,
            max_epoch_events_bytes: tuning.max_epoch_events_bytes,
            max_outstanding_bytes: tuning.max_outstanding_bytes,
            check_determinism: self.spec.check_determinism,
            shared_disks: self.spec.shared_disks(),
            blank_disks: self.blank_disks,
            network: self.uplink.network(),
            arguments,
        }
    }

    fn disk_conduct(&self) -> DiskConduct {
        if self.spec.replay.is_some() {
            DiskConduct::Absent
        } else if self.logs_disks() {
            DiskConduct::Logged
        } else {
            DiskConduct::Own
        }
    }

    fn note_status(&mut self, id: ReplicaId, status: Status) {
        if let Some(replica) = &mut self.replicas[id.index()] {
            replica.status = Some(status);
        }
    }

    /// The one place that decides who goes on.
    fn arbitrate(&mut self, id: ReplicaId, request: ArbiterRequest, now_ns: u64) {
        // Who asks is known from the channel, whatever the message says.
        let grant = self.arbiter.ask(request.expect_generation, id);
        let record = grant.record;
        if grant.granted && !self.is_fenced(id.peer(), request) {
            return;
        }
        // Whoever does not hear an answer soon asks again, and hears the same again: that is no event.
        let asked = self.replicas[id.index()].as_mut().and_then(|replica| replica.asked.replace(grant));
        if asked != Some(grant) {
            self.happened(format!(
                "arbiter: replica {id} asks for generation {}: {} (generation {}, replica {} active, {})",
                request.expect_generation.saturating_add(1),
                if grant.granted { "granted" } else { "denied" },
                record.generation,
                record.active,
                record.mode
            ));
        }
        if grant.granted && asked != Some(grant) && !self.raise_mirrors(id) {
            // No answer: it asks again, and the grant stands.
            if let Some(replica) = &mut self.replicas[id.index()] {
                replica.asked = None;
            }
            return;
        }
        if grant.granted {
            // What the old replica had reported as released may still lie in its socket: it goes out first.
            let before = self.wire.active();
            if before != record.active {
                self.read_port(before, now_ns);
                self.await_promotion(record.active);
            }
            self.wire.switch(record.generation, record.active);
        }
        self.say(id, &ToShim::ArbiterReply(ArbiterReply::new(request.request_id, grant)));
        if grant.granted {
            self.supersede(id.peer(), now_ns);
        }
    }

    /// Whether a replica that lost can write to no shared disk any more: its process is gone. A stopped one would go on where it
    /// stood, and one that was told may have writes under way. If it is not gone it is ended, and the winner's request is
    /// answered when that is certain. The decision itself stands: it is in the arbiter's file.
    fn is_fenced(&mut self, loser: ReplicaId, request: ArbiterRequest) -> bool {
        if !self.disks.are_shared() || self.replicas[loser.index()].is_none() {
            return true;
        }
        self.fenced_off = Some((loser, request));
        self.socket_failed(loser, "is ended, because the other one is to write to their disk");
        false
    }

    /// Tells the loser, once, and ends it after a while in which it can say what it has to say.
    fn supersede(&mut self, id: ReplicaId, now_ns: u64) {
        let generation = self.arbiter.record().generation;
        let Some(replica) = &mut self.replicas[id.index()] else {
            return;
        };
        if !replica.superseded {
            replica.superseded = true;
            replica.kill_at_ns = Some(now_ns + STOP_GRACE_NS);
            self.say(id, &ToShim::Superseded { generation });
        }
    }

    fn promoted(&mut self, id: ReplicaId, promoted: &Promoted) {
        self.storage_promoted(id, promoted);
        self.promotion_is_over(id);
        self.happened(format!(
            "replica {id} is promoted in generation {}: its first own epoch is {}, it needs frames from number {} on",
            promoted.generation, promoted.epoch, promoted.next_input_frame
        ));
    }

    /// A shim has stopped for good; its machine is of no more use.
    fn stopped(&mut self, id: ReplicaId, stopped: &Stopped<'_>, now_ns: u64) {
        self.happened(format!("replica {id} stopped ({}): {}", stopped.reason, stopped.text));
        if stopped.reason == StoppedReason::Refused {
            self.refusal = Some(stopped.text.to_owned());
        }
        if self.replaying.is_some() && matches!(stopped.reason, StoppedReason::Diverged | StoppedReason::Failed) {
            self.replay_failed(stopped.reason, stopped.text);
        }
        if matches!(stopped.reason, StoppedReason::Shutdown | StoppedReason::GuestStopped) {
            self.note_orderly_end(id);
        }
        if let Some(replica) = &mut self.replicas[id.index()] {
            replica.stopped = Some(format!("{}: {}", stopped.reason, stopped.text));
            replica.kill_at_ns = Some(now_ns);
        }
    }

    /// A QEMU has ended, whoever ended it. The survivor is told at once.
    pub(super) fn process_ended(&mut self, id: ReplicaId, now_ns: u64) {
        let Some(replica) = &mut self.replicas[id.index()] else {
            return;
        };
        let Some(exit) = replica.vm.exit_status() else {
            return;
        };
        // What it said last may still lie in its sockets.
        self.read_port(id, now_ns);
        self.control_ready(id, now_ns);
        self.shows_no_more(id);
        let Some(replica) = self.replicas[id.index()].take() else {
            return;
        };
        if !replica.ending {
            self.tell_survivor(id);
        }
        let reason = replica.stopped.unwrap_or_else(|| format!("process ended by {exit}"));
        let pid = replica.vm.pid();
        self.happened(format!("replica {id} (process {pid}) has ended: {reason}"));
        self.rejoin_lost(id);
        self.ended.push(EndedStatus { replica: id.get(), pid, reason });
        if self.replicas.iter().all(Option::is_none) {
            self.uplink.guest_has_gone();
        }
        if let Some((_, request)) = self.fenced_off.take_if(|(loser, _)| *loser == id) {
            self.arbitrate(id.peer(), request, now_ns);
        }
    }

    /// Closes the replication link as a broken cable would.
    pub(super) fn cut_link(&mut self) -> Result<(), String> {
        let Some(ends) = &self.link else {
            return Err("there is no replication link: this is not a pair".to_owned());
        };
        for end in ends {
            // One that is closed already is as good.
            let _ = end.shutdown(Shutdown::Both);
        }
        self.link_cut = true;
        self.happened("the replication link was cut on request".to_owned());
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            self.say(id, &ToShim::LinkCut);
        }
        Ok(())
    }

    /// Ends those whose time has come and tells the clock. Returns when to call again.
    pub(super) fn look_after_members(&mut self, now_ns: u64) -> Option<u64> {
        let mut due_ns = None;
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            let Some(replica) = &mut self.replicas[id.index()] else { continue };
            let Some(mut at_ns) = replica.kill_at_ns else { continue };
            if at_ns <= now_ns && replica.superseded && replica.stopped.is_none() && replica.is_frozen() {
                // A frozen process does no harm. Thawed, it reads that it is superseded and stops by itself.
                at_ns = now_ns + STOP_GRACE_NS;
                replica.kill_at_ns = Some(at_ns);
            }
            if at_ns <= now_ns {
                replica.kill_at_ns = None;
                if let Err(error) = replica.vm.signal(rustix::process::Signal::KILL) {
                    self.happened(format!("replica {id} cannot be ended: {error}"));
                }
            } else {
                due_ns = Some(due_ns.map_or(at_ns, |due: u64| due.min(at_ns)));
            }
        }
        self.tell_clock(now_ns);
        if self.counts() {
            due_ns = Some(due_ns.unwrap_or(u64::MAX).min(self.clock_due_ns));
        }
        if self.spec.placement != PlacementName::Free {
            let processes = self.replicas.each_ref().map(|replica| replica.as_ref().map(|replica| replica.vm.pid()));
            let frames = self
                .is_woken_for_nothing_else()
                .then_some(self.wire.counters.frames_in + self.wire.counters.frames_out);
            let look_ns = self.placement.look_after(now_ns, processes, frames, &self.spec.host.processors);
            due_ns = Some(due_ns.unwrap_or(u64::MAX).min(look_ns));
        }
        due_ns
    }

    /// Whether the machines count, so that each cut wakes their main loops, and frames are all that these have to do besides, but for
    /// the twins' own words.
    fn is_woken_for_nothing_else(&self) -> bool {
        self.counts()
            && self.disks.are_none()
            && self.storage.is_none()
            && !self.is_capturing()
            && (self.spec.run.replicas() == 1 || self.arbiter.record().mode == protocol::Mode::Paired)
    }

    /// Whether the machines count instructions.
    fn counts(&self) -> bool {
        self.spec.epoch.needs_icount()
    }

    /// The wall clock may be adjusted while the pair runs. It rides on whatever wakes the loop: an idle pair does not
    /// need it, unless it counts instructions.
    fn tell_clock(&mut self, now_ns: u64) {
        if now_ns < self.clock_due_ns {
            return;
        }
        self.clock_due_ns = now_ns + if self.counts() { COUNTED_CLOCK_INTERVAL_NS } else { CLOCK_INTERVAL_NS };
        for id in [ReplicaId::ZERO, ReplicaId::ONE] {
            let configured = self.replicas[id.index()].as_ref().is_some_and(|replica| replica.ready.is_some());
            if configured {
                self.say(id, &ToShim::Time { realtime_ns: realtime_ns() });
            }
        }
    }
}

fn realtime_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}
