//! Bare mode: the same guest and devices without epochs, log and digest. The baseline of every ratio.

use protocol::control::{StoppedReason, ToShim};

use super::{ASKED_FOR, Vmm};
use crate::machine::{Machine, Port};

impl<M: Machine> Vmm<M> {
    pub(super) fn run_bare(&mut self) -> ! {
        self.guest.without_digests();
        let mut turn = 0;
        let mut events = alloc::vec::Vec::new();
        for message in core::mem::take(&mut self.early) {
            self.on_control_bare(message);
        }
        loop {
            self.drain_control(Self::on_control_bare);
            self.serve_disks();
            if self.ends && self.is_quiet() {
                self.stop(StoppedReason::Shutdown, ASKED_FOR);
            }
            let now_ns = self.now_ns();
            self.judge_hang(now_ns);
            self.tell_status(now_ns);
            self.control.flush(self.machine.control());
            if let Some(end) = self.guest.end().cloned() {
                self.pump_outputs();
                self.tell_end(turn, &end);
                self.drain_disks();
                self.stop(StoppedReason::GuestStopped, "the guest has stopped");
            }
            if self.ends || !self.wants_to_run(now_ns) || self.holds_too_much() {
                self.pump_outputs();
                let soon_ns = if self.outputs_are_stuck() { now_ns + 1_000_000 } else { u64::MAX };
                self.sleep(now_ns, Some(self.deadline_on_machine_ns().unwrap_or(u64::MAX).min(soon_ns)));
                continue;
            }
            turn += 1;
            events.clear();
            self.gather(usize::MAX, &mut events);
            let clocks = self.offsets.clocks(now_ns);
            // What the guest does to its own ring is its own loss.
            let _ = self.guest.begin_epoch(turn, clocks, &events);
            let ended_ns = self.run_guest(now_ns, turn, |vmm, _| {
                vmm.drain_control(Self::on_control_bare);
                vmm.serve_disks();
            });
            self.finish_epoch(turn, ended_ns);
            self.serve_disks();
            self.release(turn);
        }
    }

    fn on_control_bare(&mut self, message: ToShim<'_>) {
        match message {
            ToShim::ConsoleInput { bytes } => self.note_typed(bytes),
            ToShim::Time { realtime_ns } => self.set_realtime(realtime_ns),
            ToShim::Capture { .. } => super::tell(&mut self.control, &protocol::control::ToSupervisor::CaptureFailed),
            ToShim::Shutdown if self.guest.disks().are_none() => self.stop(StoppedReason::Shutdown, ASKED_FOR),
            ToShim::Shutdown => self.ends = true,
            _ => {}
        }
    }

    /// Halts until something comes or `until_ns`, if given.
    pub(super) fn sleep(&mut self, now_ns: u64, until_ns: Option<u64>) {
        let wake_ns = until_ns.unwrap_or(u64::MAX).min(self.status_at_ns).max(now_ns + 1);
        self.ensure_timer(now_ns, wake_ns);
        self.set_interrupts(true);
        // Between the last look at the queues and now something may have come without an interrupt.
        let waiting = self.machine.control().peek().is_some()
            || self.machine.link().is_some_and(|link| link.peek().is_some())
            || self.disks_have_done()
            || (self.hears_network() && self.guest.end().is_none() && self.machine.net().peek().is_some());
        if !waiting {
            self.machine.halt();
        }
        self.set_interrupts(false);
        // It may have fired before its time as the clock shows it, where the clock follows another.
        if self.machine.acknowledge_interrupts() {
            self.timer_at_ns = 0;
        }
    }

    /// Whether a frame that comes now would be acted upon now.
    fn hears_network(&self) -> bool {
        self.is_active() && !self.waits_for_company()
    }

    fn set_interrupts(&mut self, enabled: bool) {
        self.machine.control().set_interrupts(enabled);
        if let Some(link) = self.machine.link() {
            link.set_interrupts(enabled);
        }
        self.set_disk_interrupts(enabled);
        let hears = self.hears_network();
        self.machine.net().set_interrupts(enabled && hears);
    }
}
