//! Time: heartbeats, silence, repeated requests. No timer runs here; the caller asks when the next tick is due.

use super::failover::Failover;
use super::join::Join;
use super::{Commands, Config, Guest, Outgoing, Replica};
use crate::link::Heartbeat;
use crate::{Mode, Role};

/// A caller that comes later than this many heartbeat intervals after its deadline was paused and cannot judge its
/// peer's silence.
pub const PAUSE_HEARTBEATS: u64 = 2;

/// The backup sends on its own only if twice the interval has passed: as a rule it answers the primary's heartbeats.
const BACKUP_HEARTBEATS: u64 = 2;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Timers {
    pub(super) last_sent_ns: u64,
    last_heard_ns: u64,
    pairing_deadline_ns: u64,
    /// The window of silence was started anew since the peer was last heard.
    restarted: bool,
}

impl Timers {
    pub(super) fn new(now_ns: u64, pairing_timeout_ns: u64) -> Self {
        Self {
            last_sent_ns: now_ns,
            last_heard_ns: now_ns,
            pairing_deadline_ns: now_ns.saturating_add(pairing_timeout_ns),
            restarted: false,
        }
    }

    pub(super) fn heard(&mut self, now_ns: u64) {
        self.last_heard_ns = now_ns;
        self.restarted = false;
    }

    /// The caller was paused: it cannot know how long its peer has been silent. Once, until the peer is heard again.
    fn restart_window(&mut self, now_ns: u64, config: &Config) {
        if !self.restarted {
            self.restarted = true;
            self.last_heard_ns = now_ns;
            self.pairing_deadline_ns = now_ns.saturating_add(config.pairing_timeout_ns);
        }
    }
}

impl Replica {
    /// Every call passes here first: what the call before had left to do by a deadline shows a pause, whichever call
    /// comes first after it.
    pub(super) fn note_call(&mut self, now_ns: u64) {
        let grace_ns = self.config.heartbeat_interval_ns.saturating_mul(PAUSE_HEARTBEATS);
        if now_ns > self.next_deadline_ns().saturating_add(grace_ns) {
            self.timers.restart_window(now_ns, &self.config);
        }
    }

    /// When the next [`super::Input::Tick`] is due, on the caller's clock; `u64::MAX`: never.
    ///
    /// A tick that comes early is harmless, a late one delays heartbeats and failover.
    pub fn next_deadline_ns(&self) -> u64 {
        if self.stopped.is_some() || self.mode == Mode::Solo {
            return u64::MAX;
        }
        let failover_ns = match self.failover {
            Failover::Asking(request) => request.retry_at_ns,
            Failover::Suspected { ask_at_ns, .. } if self.log_consumed() => ask_at_ns,
            _ => u64::MAX,
        };
        failover_ns
            .min(self.pairing_deadline_ns())
            .min(self.silence_deadline_ns())
            .min(self.send_deadline_ns())
            .min(self.progress_deadline_ns())
    }

    fn silence_deadline_ns(&self) -> u64 {
        // A primary that copies is solo and sends no heartbeats: whether it lives the supervisor knows.
        let copies = self.join == Join::Empty && self.peer.agreed;
        if !self.peer.link_open || self.failover != Failover::None || copies {
            u64::MAX
        } else if self.peer.agreed {
            self.timers.last_heard_ns.saturating_add(self.config.failure_timeout_ns)
        } else {
            self.timers.pairing_deadline_ns
        }
    }

    fn send_deadline_ns(&self) -> u64 {
        if !self.peer.link_open || !self.peer.agreed || (self.role == Role::Primary && !self.sends_log()) {
            return u64::MAX;
        }
        let intervals = match self.role {
            Role::Primary => 1,
            Role::Backup => BACKUP_HEARTBEATS,
        };
        self.timers.last_sent_ns.saturating_add(self.config.heartbeat_interval_ns.saturating_mul(intervals))
    }

    /// When the backup must say how far it has run although no record came whose acknowledgement could tell it.
    ///
    /// The primary's bound on the lag counts what it knows. A quarter of it is left for telling; a backup that is behind
    /// tells at most every eighth, because each message costs it time that it needs to catch up.
    pub(super) fn progress_deadline_ns(&self) -> u64 {
        match self.backup.unreported_since_ns {
            Some(since_ns) if self.peer.link_open => {
                let settled_ns = since_ns.saturating_add(self.config.max_lag_ns / 4);
                settled_ns.max(self.backup.last_ack_ns.saturating_add(self.config.max_lag_ns / 8))
            }
            _ => u64::MAX,
        }
    }

    pub(super) fn on_tick(&mut self, now_ns: u64, out: &mut impl Commands) {
        if now_ns >= self.silence_deadline_ns() {
            self.on_silence(now_ns, out);
        }
        self.repeat_request(now_ns, out);
        self.repeat_pairing(now_ns, out);
        self.flush_backup(now_ns, out);
        if self.stopped.is_none() && now_ns >= self.send_deadline_ns() {
            match self.role {
                Role::Primary => self.send_heartbeat(now_ns, out),
                Role::Backup => self.send_ack(now_ns, out),
            }
        }
    }

    pub(super) fn send_heartbeat(&mut self, now_ns: u64, out: &mut impl Commands) {
        let heartbeat = Heartbeat {
            ended_epoch: self.ended_through,
            ended_digest: self.last_digest,
            released_through: self.release_claim(),
            sent_ns: now_ns,
        };
        self.send(now_ns, Outgoing::Heartbeat(heartbeat), out);
    }

    /// Whether the guest has run everything that was received.
    pub(super) fn log_consumed(&self) -> bool {
        self.guest != Guest::Running && self.backup.queue.is_empty()
    }
}
