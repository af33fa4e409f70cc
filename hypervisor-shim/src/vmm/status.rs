//! What the supervisor is told regularly.

use protocol::control::{Counter, State, Status, ToSupervisor};
use protocol::{Mode, Role};

use super::{CONTROL_BACKLOG_BYTES, Vmm, tell};
use crate::machine::Machine;

impl<M: Machine> Vmm<M> {
    /// Sends a status if one is due.
    pub(super) fn tell_status(&mut self, now_ns: u64) {
        if now_ns < self.status_at_ns {
            return;
        }
        self.status_at_ns = now_ns + self.settings.status_interval_ns;
        if self.control.backlog_bytes() > CONTROL_BACKLOG_BYTES {
            return;
        }
        let status = self.status(now_ns);
        tell(&mut self.control, &ToSupervisor::Status(status));
    }

    fn status(&mut self, now_ns: u64) -> Status {
        self.collect_counters();
        let counters = self.counters;
        match &self.replica {
            Some(replica) => {
                let status = replica.status(now_ns);
                Status {
                    role: status.role,
                    state: State::from(status.phase),
                    mode: status.mode,
                    generation: status.generation,
                    epoch: status.epoch,
                    executed_by_peer: status.executed_by_backup,
                    lag_epochs: status.lag_epochs,
                    lag_ns: status.lag_ns,
                    link_rtt_ns: status.link_rtt_ns,
                    uptime_ns: self.offsets.clocks(now_ns).monotonic_ns,
                    counters,
                }
            }
            None => Status {
                role: Role::Primary,
                state: if self.guest.end().is_some() { State::Stopped } else { State::Running },
                mode: Mode::Solo,
                generation: self.settings.generation,
                epoch: self.counters.get(Counter::Epochs),
                executed_by_peer: 0,
                lag_epochs: 0,
                lag_ns: 0,
                link_rtt_ns: 0,
                uptime_ns: self.offsets.clocks(now_ns).monotonic_ns,
                counters,
            },
        }
    }

    fn collect_counters(&mut self) {
        let machine = self.machine.counters();
        let (link_messages, link_sent, link_received) = self.link.counters();
        for (counter, value) in [
            (Counter::Interrupts, machine.interrupts),
            (Counter::Halts, machine.halts),
            (Counter::HaltNs, machine.halted_ns),
            (Counter::Hypercalls, self.guest.hypercalls()),
            (Counter::FramesIn, self.guest.frames_in()),
            (Counter::LinkMessagesSent, link_messages),
            (Counter::LinkBytesSent, link_sent),
            (Counter::LinkBytesReceived, link_received),
        ] {
            self.counters.0[counter as usize] = value;
        }
    }

    /// The supervisor's clock says what time it is.
    pub(super) fn set_realtime(&mut self, realtime_ns: u64) {
        self.machine.follow_clock(realtime_ns);
        let now_ns = self.now_ns();
        self.offsets.realtime_ns = realtime_ns.wrapping_sub(now_ns);
    }
}
