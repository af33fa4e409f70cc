//! Finds out when the guest serves its published ports: by connecting, as a client would.

use std::net::SocketAddrV4;

use netstack::{ConnId, Readiness};

use super::{Forwarder, GUEST};

/// A guest that refuses is asked again after this time: its program has not come to listen yet.
const RETRY_NS: u64 = 2_000_000;
/// A guest that does not answer is asked again after this time. TCP itself would repeat its request after a second,
/// which is an age for a guest that starts in a tenth of one.
const PATIENCE_NS: u64 = 20_000_000;

/// A port that is being tried.
#[derive(Debug)]
pub struct Probe {
    port: u16,
    conn: Option<ConnId>,
    due_ns: u64,
    answered: bool,
}

impl Forwarder {
    /// Starts to try every published port of the guest.
    pub fn start_probes(&mut self) {
        let mut ports: Vec<_> = self.published.iter().map(|published| published.guest_port).collect();
        ports.sort_unstable();
        ports.dedup();
        self.probes = ports.into_iter().map(|port| Probe { port, conn: None, due_ns: 0, answered: false }).collect();
    }

    /// The guest's ports that have not accepted a connection yet.
    pub fn unanswered_ports(&self) -> Vec<u16> {
        self.probes.iter().filter(|probe| !probe.answered).map(|probe| probe.port).collect()
    }

    pub(super) fn probes_due(&self) -> Option<u64> {
        self.probes.iter().filter(|probe| !probe.answered).map(|probe| probe.due_ns).min()
    }

    pub(super) fn run_probes(&mut self, now_ns: u64) {
        for probe in &mut self.probes {
            if probe.answered || probe.due_ns > now_ns {
                continue;
            }
            if let Some(silent) = probe.conn.take() {
                // A stale id means that the stack has forgotten it already.
                let _ = self.stack.abort(silent);
            }
            probe.conn = self.stack.connect(SocketAddrV4::new(GUEST, probe.port)).ok();
            probe.due_ns = now_ns + PATIENCE_NS;
        }
    }

    pub(super) fn probe_changed(&mut self, conn: ConnId, readiness: Readiness, now_ns: u64) {
        let Some(probe) = self.probes.iter_mut().find(|probe| probe.conn == Some(conn)) else {
            return;
        };
        probe.conn = None;
        probe.answered = readiness.contains(Readiness::CONNECTED) && !readiness.contains(Readiness::CLOSED);
        probe.due_ns = now_ns + RETRY_NS;
        // A stale id means that the stack has forgotten it already.
        let _ = self.stack.close(conn);
    }
}
