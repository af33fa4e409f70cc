//! Running the records of a stored log, before the guest goes on by itself or instead of that.
//!
//! Nothing comes from outside and nothing leaves, except what is told of the guest's console and of its end. Digests are
//! compared with the recorded ones; the first that differs stops the replica. What the guest reads from disks comes from the records;
//! if it goes on by itself afterwards, what it changes there is done again.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;

use protocol::control::{Console, LogRecord, ReplayEnd, Replayed, StoppedReason, ToSupervisor};
use protocol::replica::{Record, ReplayFault};

use super::{SERVICE_INTERVAL_NS, Vmm, pair, tell};
use crate::machine::{Machine, Port, Registers};

/// The supervisor is told how far the replay is after so many epochs, and whenever there is nothing left to run.
const TELL_EPOCHS: u64 = 64;

/// Records on their way to the guest.
#[derive(Debug, Default)]
pub(super) struct Replay {
    records: VecDeque<Record>,
    end: Option<ReplayEnd>,
    told_epoch: u64,
}

impl<M: Machine> Vmm<M> {
    /// Keeps a record until the guest has run those before it.
    pub(super) fn note_replay(&mut self, record: &LogRecord<'_>) -> Result<(), String> {
        let Some(replay) = &mut self.replay else { return Err(String::from("records came that nobody waits for")) };
        let start = &record.start;
        replay.records.push_back(Record {
            epoch: start.epoch,
            prev_digest: start.prev_digest,
            clocks: start.clocks,
            released_through: start.released_through,
            sent_ns: start.sent_ns,
            events: start.events.to_vec(),
        });
        Ok(())
    }

    pub(super) fn note_replay_end(&mut self, end: ReplayEnd) -> Result<(), String> {
        let Some(replay) = &mut self.replay else { return Err(String::from("the end of no replay has come")) };
        replay.end = Some(end);
        Ok(())
    }

    /// Runs records until the supervisor has said that there are no more.
    pub(super) fn replay(&mut self) {
        while let Some(replay) = &mut self.replay {
            if let Some(record) = replay.records.pop_front() {
                self.replay_epoch(&record);
            } else if let Some(end) = replay.end {
                self.end_replay(end);
            } else {
                self.await_records();
            }
        }
        self.timer_at_ns = 0;
    }

    fn replay_epoch(&mut self, record: &Record) {
        let epoch = record.epoch;
        let fault = self.replica.as_mut().and_then(|replica| replica.replay(&record.message()).err());
        if let Some(fault) = fault {
            self.replay_failed(&fault);
        }
        self.await_redone(epoch);
        pair::begin_epoch(&mut self.guest, record);
        self.guest.upcall_if_due(!record.events.is_empty(), self.machine.registers());
        let now_ns = self.now_ns();
        let ended_ns = self.run_guest(now_ns, epoch, |vmm, _| vmm.hear_supervisor());
        let (digest, _) = self.finish_epoch(epoch, ended_ns);
        let stopped = self.guest.end().is_some();
        if let Some(replica) = &mut self.replica {
            replica.replayed(digest, stopped);
        }
        self.drop_outputs(epoch);
        if let Some(end) = self.guest.end().cloned() {
            self.tell_end(epoch, &end);
        }
        let told_epoch = self.replay.as_ref().map_or(0, |replay| replay.told_epoch);
        if stopped || epoch >= told_epoch + TELL_EPOCHS {
            self.tell_replayed(false);
            self.hear_supervisor();
        }
    }

    /// Frames are dropped: whom they were for is not there any more. What the guest wrote to its console is told.
    fn drop_outputs(&mut self, epoch: u64) {
        while let Some(outputs) = self.outputs.oldest(epoch) {
            if !outputs.console.is_empty() {
                let console = Console { stream_offset_bytes: outputs.console_offset, bytes: &outputs.console };
                tell(&mut self.control, &ToSupervisor::Console(console));
            }
            self.outputs.drop_oldest();
        }
    }

    fn end_replay(&mut self, end: ReplayEnd) {
        let Some(replica) = &self.replica else { return };
        if let Some(Err(fault)) = end.digest.map(|recorded| replica.compare_replayed(recorded)) {
            self.replay_failed(&fault);
        }
        let epoch = replica.epoch();
        let clocks = replica.record(epoch).map(|record| record.clocks).unwrap_or_default();
        self.replay = None;
        self.guest.disks_mut().stop_following();
        self.go_on(clocks, epoch);
        self.tell_replayed(true);
        self.control.flush(self.machine.control());
    }

    fn replay_failed(&mut self, fault: &ReplayFault) -> ! {
        self.tell_replayed(false);
        let reason = match fault {
            ReplayFault::Diverged(_) | ReplayFault::Ended { .. } => StoppedReason::Diverged,
            ReplayFault::NotReplaying | ReplayFault::Gap { .. } => StoppedReason::Failed,
        };
        self.stop(reason, &format!("{fault}"))
    }

    fn tell_replayed(&mut self, complete: bool) {
        let (epoch, digest) = self.replica.as_ref().map_or((0, 0), |replica| replica.last_end());
        if let Some(replay) = &mut self.replay {
            replay.told_epoch = epoch;
        }
        let replayed = Replayed {
            epoch,
            digest,
            instruction_address: self.machine.registers().instruction_pointer(),
            frames_out: self.guest.frames_out(),
            complete,
        };
        tell(&mut self.control, &ToSupervisor::Replayed(replayed));
    }

    pub(super) fn hear_supervisor(&mut self) {
        self.drain_control(Self::on_control_restoring);
        self.control.flush(self.machine.control());
    }

    /// Tells how far it is, and sleeps until something comes.
    fn await_records(&mut self) {
        self.hear_supervisor();
        let Some(replay) = &self.replay else { return };
        if !replay.records.is_empty() || replay.end.is_some() {
            return;
        }
        let ended_through = self.replica.as_ref().map_or(0, |replica| replica.last_end().0);
        if replay.told_epoch != ended_through {
            self.tell_replayed(false);
            self.control.flush(self.machine.control());
        }
        let now_ns = self.now_ns();
        self.machine.control().set_interrupts(true);
        if self.machine.control().peek().is_none() {
            self.machine.arm_timer(now_ns + SERVICE_INTERVAL_NS);
            self.machine.halt();
        }
        self.machine.control().set_interrupts(false);
        self.machine.acknowledge_interrupts();
    }
}
