//! Running the guest for one epoch.

use alloc::string::String;

use hypercall::errno::ENOSYS;
use hypercall::table::Outcome;
use protocol::control::{Counter, Level, StoppedReason};
use protocol::{Epoch, RunMode};

use super::Vmm;
use crate::guest::{Cause, EndKind, write_report};
use crate::machine::{Exit, Machine, Registers};

/// Exit code of a guest that a fault ended, as a shell shows a segmentation fault.
const FAULT_CODE: u32 = 139;
/// Cuts of a guest without epochs after which its devices are looked after.
const SERVED_AFTER_CUTS: u64 = 64;

impl<M: Machine> Vmm<M> {
    /// Runs the guest from where it stands to the end of the epoch. Interrupts on the way are looked after by `service`,
    /// which is given the time. Begins at `start_ns` and returns the time at the end.
    pub(super) fn run_guest(&mut self, start_ns: u64, epoch: Epoch, mut service: impl FnMut(&mut Self, u64)) -> u64 {
        self.machine.set_budget(self.settings.limit.instructions());
        self.serve_soon(start_ns);
        while self.guest.end().is_none() {
            match self.machine.run_guest() {
                Exit::Hypercall => {
                    let (number, arguments) = self.machine.registers().hypercall();
                    match self.guest.call(number, arguments) {
                        Outcome::Return(result) => self.machine.registers().set_result(result),
                        Outcome::SetThreadPointer { address } => {
                            let result = if self.machine.set_thread_pointer(address) { 0 } else { -ENOSYS };
                            self.machine.registers().set_result(result);
                        }
                        Outcome::SetGuard { offset, guarded } => {
                            let result = if self.machine.set_guard(offset, guarded) { 0 } else { -ENOSYS };
                            self.machine.registers().set_result(result);
                        }
                        Outcome::EndEpoch { deadline_ns } => {
                            self.machine.registers().set_result(0);
                            self.deadline_ns = deadline_ns;
                            break;
                        }
                        Outcome::CutEpoch => {
                            self.machine.registers().set_result(0);
                            self.note_cut();
                            break;
                        }
                        Outcome::Stop => {}
                        Outcome::SystemCall(number) => self.end_by(epoch, &Cause::SystemCall(number)),
                    }
                }
                Exit::Interrupt => {
                    self.timer_at_ns = 0;
                    self.machine.acknowledge_interrupts();
                    let now_ns = self.machine.now_ns();
                    service(self, now_ns);
                    self.serve_soon(now_ns);
                }
                Exit::Cut if self.settings.run_mode == RunMode::Cut => {
                    if self.goes_on_after_cut() {
                        let now_ns = self.machine.now_ns();
                        service(self, now_ns);
                    }
                }
                Exit::Cut => {
                    self.note_cut();
                    break;
                }
                Exit::Miscounted => self.stop(
                    StoppedReason::Failed,
                    "the machine has lost count of the guest's instructions; its peer goes on",
                ),
                Exit::TimeStamp => {
                    let value = self.guest.time_stamp();
                    self.machine.set_time_stamp(value);
                }
                Exit::Fault(fault) => self.end_by(epoch, &Cause::Fault(fault)),
            }
        }
        let end_ns = self.machine.now_ns();
        if self.machine_counts() {
            // The machine has used the timer for itself.
            self.timer_at_ns = 0;
        }
        self.counters.add(Counter::GuestNs, end_ns - start_ns);
        self.counters.add(Counter::Epochs, 1);
        end_ns
    }

    /// The epoch ends although the guest has more to do, at once.
    fn note_cut(&mut self) {
        self.guest.note_cut();
        self.counters.add(Counter::EpochsCut, 1);
        self.deadline_ns = 0;
    }

    /// A cut, and nothing else. Returns whether it is time to look after the devices: not each time, for that is no part of what is
    /// measured.
    fn goes_on_after_cut(&mut self) -> bool {
        self.machine.set_budget(self.settings.limit.instructions());
        self.counters.add(Counter::Epochs, 1);
        self.counters.add(Counter::EpochsCut, 1);
        self.counters.get(Counter::EpochsCut).is_multiple_of(SERVED_AFTER_CUTS)
    }

    /// Whether the machine cuts epochs. (A guest that counts ticks does so itself.)
    fn machine_counts(&self) -> bool {
        self.settings.limit.instructions() != u64::MAX
    }

    /// Sees to it that the devices are looked after while the guest runs. A machine that counts comes back by itself
    /// and needs the timer for that.
    fn serve_soon(&mut self, now_ns: u64) {
        if !self.machine_counts() {
            self.ensure_timer(now_ns, now_ns + super::SERVICE_INTERVAL_NS);
        }
    }

    /// The guest has done what nobody may.
    fn end_by(&mut self, epoch: Epoch, cause: &Cause) {
        let mut report = String::new();
        let registers = self.machine.registers();
        // Writing to a string cannot fail.
        let _ = write_report(&mut report, &self.guest, epoch, cause, registers);
        self.guest.set_end(EndKind::Fault, FAULT_CODE, report);
    }

    /// Ends the epoch, whose guest was left at `ended_ns`: its outputs go to the log, its digest is returned with whether there
    /// are outputs.
    pub(super) fn finish_epoch(&mut self, epoch: Epoch, ended_ns: u64) -> (u64, bool) {
        let mut outputs = self.outputs.take_empty();
        let end = self.guest.end_epoch(epoch, self.machine.registers(), &mut outputs);
        if let Some((ring, error)) = end.damaged
            && self.guest.end().is_none()
        {
            self.guest.set_end(EndKind::Fault, FAULT_CODE, alloc::format!("{ring} ring: {error}\n"));
            outputs.end = self.guest.end().cloned();
            self.log(Level::Warn, format_args!("the guest has damaged its {ring} ring: {error}"));
        }
        let has_outputs = !outputs.is_empty();
        self.outputs.push(outputs, ended_ns);
        let digest = if self.touched.is_some() { self.cover_memory(epoch) } else { end.digest };
        (digest, has_outputs)
    }

    /// Sees to it that the timer fires at `at_ns` or before. A timer that runs already and fires early enough is left
    /// alone: arming it costs more than one interrupt too many.
    pub(super) fn ensure_timer(&mut self, now_ns: u64, at_ns: u64) {
        if self.timer_at_ns > now_ns && self.timer_at_ns <= at_ns {
            return;
        }
        self.machine.arm_timer(at_ns);
        self.timer_at_ns = at_ns;
    }
}
