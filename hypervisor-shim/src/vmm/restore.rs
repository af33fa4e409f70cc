//! Going on from a checkpoint instead of the program's start.

use alloc::format;
use alloc::string::String;

use protocol::control::{Level, StoppedReason, ToShim, ToSupervisor};
use protocol::link::JoinState;
use protocol::{Clocks, Epoch};

use super::{SERVICE_INTERVAL_NS, Vmm, tell};
use crate::guest::install_pages;
use crate::machine::{Machine, Port};

/// The supervisor has the checkpoint at hand; one that says nothing for so long has failed.
const SILENCE_NS: u64 = 30_000_000_000;

impl<M: Machine> Vmm<M> {
    /// Takes the pages and the state of a checkpoint; stops if they are none.
    pub(super) fn receive_checkpoint(&mut self) {
        for message in core::mem::take(&mut self.early) {
            self.on_control_restoring(message);
        }
        // Nobody was there to take pages before.
        tell(&mut self.control, &ToSupervisor::PagesHeld { messages: self.slices_held });
        let mut until_ns = self.now_ns() + SILENCE_NS;
        while self.restores {
            let held = self.slices_held;
            self.drain_control(Self::on_control_restoring);
            self.control.flush(self.machine.control());
            let now_ns = self.now_ns();
            if self.slices_held != held {
                until_ns = now_ns + SILENCE_NS;
            } else if now_ns >= until_ns {
                self.stop(StoppedReason::Failed, "the checkpoint did not come");
            }
            self.machine.control().set_interrupts(true);
            if self.restores && self.machine.control().peek().is_none() {
                self.machine.arm_timer(now_ns + SERVICE_INTERVAL_NS);
                self.machine.halt();
            }
            self.machine.control().set_interrupts(false);
            self.machine.acknowledge_interrupts();
        }
        self.timer_at_ns = 0;
    }

    pub(super) fn on_control_restoring(&mut self, message: ToShim<'_>) {
        let result = match message {
            ToShim::Pages(pages) if self.restores => {
                self.slices_held += 1;
                tell(&mut self.control, &ToSupervisor::PagesHeld { messages: self.slices_held });
                install_pages(self.guest.memory(), pages.records).map_err(|error| format!("{error}"))
            }
            ToShim::State(state) if self.restores => self.resume(&state),
            ToShim::Replay(record) => self.note_replay(&record),
            ToShim::ReplayEnd(end) => self.note_replay_end(end),
            ToShim::Time { realtime_ns } => {
                self.set_realtime(realtime_ns);
                Ok(())
            }
            ToShim::Shutdown => self.stop(StoppedReason::Shutdown, "the supervisor asked for it"),
            // Nothing else is of any meaning to a guest that does not run.
            _ => Ok(()),
        };
        if let Err(text) = result {
            self.stop(StoppedReason::Failed, &format!("the checkpoint cannot be restored: {text}"));
        }
    }

    fn resume(&mut self, state: &JoinState<'_>) -> Result<(), String> {
        self.install(state)?;
        let Some(replica) = &mut self.replica else { return Err(String::from("bare mode has no epochs")) };
        replica.resume(state).map_err(|_| String::from("it is that of no epoch, or this is no solo primary"))?;
        self.restores = false;
        if self.replay.is_none() {
            self.go_on(state.clocks, state.epoch);
        }
        Ok(())
    }

    /// The guest goes on by itself from the end of this epoch. Its own clock goes on from there; the wall clock is
    /// everybody's. The hub is a new one and counts from the start.
    pub(super) fn go_on(&mut self, clocks: Clocks, epoch: Epoch) {
        let now_ns = self.now_ns();
        self.offsets.monotonic_ns = clocks.monotonic_ns.wrapping_sub(now_ns);
        self.input_skew = self.guest.frames_in().wrapping_neg();
        self.log(Level::Info, format_args!("going on from the end of epoch {epoch}"));
    }
}
