//! A replica's machine: the shim around the replica, its guest, its devices and its clock.

use std::collections::{BTreeMap, VecDeque};

use protocol::arbiter::ArbiterRecord;
use protocol::frame::{FrameReader, FrameWriter, direction_session};
use protocol::link::Identity;
use protocol::replica::{Command, Config, Replica, StopReason};
use protocol::{Clocks, Epoch, Generation, Mode, ReplicaId, Role};

use super::disk::Disk;
use super::faults::Settings;
use super::guest::Guest;
use super::rng::Rng;

/// The session of the pair.
const LINK_SESSION: u64 = 0x5345_5353;
/// The most bytes of events in one epoch.
pub const MAX_EPOCH_EVENTS_BYTES: u32 = 4096;
/// The least time between two heartbeats.
pub const HEARTBEAT_NS: u64 = 1_000_000;
/// A peer silent for this long has failed.
pub const FAILURE_TIMEOUT_NS: u64 = 6_000_000;
const MAX_MESSAGE_BYTES: usize = 8192;
const PAIRING_TIMEOUT_NS: u64 = 10_000_000;

/// What comes from the supervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// The arbiter's answer.
    ArbiterReply {
        /// Which request is answered.
        request_id: u64,
        /// Whether it was granted.
        granted: bool,
        /// The record after it.
        record: ArbiterRecord,
    },
    /// The peer's process has ended.
    PeerDead,
    /// The supervisor has cut the link.
    LinkCut,
    /// The peer is active in this generation.
    Superseded(Generation),
    /// Stable storage holds the log up to this epoch.
    Stored(Epoch),
}

/// The epoch that the guest runs.
#[derive(Clone, Debug)]
pub struct Running {
    /// Its number.
    pub epoch: Epoch,
    /// What the guest sees of time.
    pub clocks: Clocks,
    /// What happened to it.
    pub events: Vec<u8>,
}

/// An output that the shim holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// The epoch that produced it.
    pub epoch: Epoch,
    /// How many outputs the guest had produced before.
    pub sequence: u64,
    /// The output.
    pub bytes: Vec<u8>,
}

/// A clock that starts anywhere and runs a little too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    offset_ns: u64,
    skew_ppm: i64,
}

impl Clock {
    /// What the clock shows at a time of the simulation.
    #[must_use]
    pub const fn local_ns(&self, now_ns: u64) -> u64 {
        let skew_ns = now_ns as i64 * self.skew_ppm / 1_000_000;
        self.offset_ns + (now_ns as i64 + skew_ns) as u64
    }

    /// The first time of the simulation at which the clock shows at least this.
    #[must_use]
    pub const fn global_ns(&self, local_ns: u64) -> u64 {
        let shown_ns = local_ns.saturating_sub(self.offset_ns) as i64;
        let mut now_ns = (shown_ns - shown_ns * self.skew_ppm / 1_000_000 - 2) as u64;
        if now_ns as i64 <= 0 {
            now_ns = 0;
        }
        while self.local_ns(now_ns) < local_ns {
            now_ns += 1 + (local_ns - self.local_ns(now_ns)) / 2;
        }
        now_ns
    }
}

/// One machine.
#[derive(Debug)]
pub struct Node {
    /// Its number.
    pub id: ReplicaId,
    /// The state machine under test.
    pub replica: Replica,
    /// What it runs.
    pub guest: Guest,
    /// Its mirror of the guest's disk.
    pub disk: Disk,
    /// The epoch that the replica was told to run and that waits for the disk, and how long it takes then.
    pub awaits_disk: Option<(Epoch, u64)>,
    /// Its clock.
    pub clock: Clock,
    /// The machine exists.
    pub alive: bool,
    /// The process is stopped; it notices nothing.
    pub paused: bool,
    /// It was paused at some time.
    pub was_paused: bool,
    /// It was started in place of another.
    pub is_newcomer: bool,
    /// Why the replica has stopped for good, if it has.
    pub stopped: Option<StopReason>,
    /// Writes what goes to the peer.
    pub writer: FrameWriter,
    /// Reads what comes from the peer; gone when the link has failed.
    pub reader: Option<FrameReader>,
    /// Bytes of the link that a pause has left unread.
    pub unread: Vec<u8>,
    /// What the supervisor has sent.
    pub control: VecDeque<Control>,
    /// What the hub has sent.
    pub packets: VecDeque<Vec<u8>>,
    /// Frames for the guest that no epoch has taken yet.
    pub inputs: VecDeque<Vec<u8>>,
    /// Number of the next frame to come from the hub.
    pub next_input: u64,
    /// Frames in the records that were run.
    pub frames_in_log: u64,
    /// The epoch that the guest runs.
    pub running: Option<Running>,
    /// The guest has reached the end of that epoch.
    pub guest_done: bool,
    /// Commands that a pause has interrupted.
    pub deferred: VecDeque<Command>,
    /// Outputs not yet released or discarded.
    pub held: VecDeque<Held>,
    /// Outputs of epochs up to this one need not be held.
    pub discard_through: Epoch,
    /// Outputs in the device's queue.
    pub device: VecDeque<Held>,
    /// When the queue is empty, all outputs up to this epoch have left.
    pub device_through: Epoch,
    /// All outputs up to this epoch have left, which the replica has yet to be told.
    pub confirm_through: Option<Epoch>,
    /// Every output that the guest has produced.
    pub produced: Vec<(Epoch, Vec<u8>)>,
    /// The guest's monotonic clock, and the local one, at the same time.
    pub guest_clock: (u64, u64),
    /// The highest epoch whose record the replica has taken in as a backup.
    pub log_through: Epoch,
    /// The epoch whose state a newcomer was sent last.
    pub state_of: Epoch,
    /// The content of each record that the guest has run.
    pub ran: BTreeMap<Epoch, u64>,
    /// When each epoch was begun as primary, by the local clock.
    pub began: BTreeMap<Epoch, u64>,
    /// The next time the shim runs, if it is planned.
    pub wake_at_ns: Option<u64>,
    /// The supervisor has told that the peer's process has ended.
    pub told_dead: bool,
    /// The arbiter has denied it something.
    pub denied: bool,
    /// The arbiter was asked this before.
    pub asked: Option<u64>,
}

/// Status of a request that a disk has failed to do.
pub const FAILED: u32 = hypercall::errno::EIO as u32;

impl Node {
    /// A machine that has just booted.
    #[must_use]
    pub fn new(id: ReplicaId, settings: &Settings, disk_rng: Rng) -> Self {
        let clock =
            Clock { offset_ns: settings.clock_offset_ns[id.index()], skew_ppm: settings.clock_skew_ppm[id.index()] };
        let local_ns = clock.local_ns(0);
        let replica = Replica::new(config(id, settings), local_ns).expect("the configuration is right");
        Self {
            id,
            replica,
            guest: Guest::new(settings.exit_after_requests, settings.timer_period_ns, settings.disk_delay_ns.is_some()),
            disk: Disk::new(settings.disk_delay_ns.unwrap_or_default(), disk_rng)
                .used_by_other(settings.shared_disk && id == ReplicaId::ONE),
            awaits_disk: None,
            clock,
            alive: true,
            paused: false,
            was_paused: false,
            is_newcomer: false,
            stopped: None,
            writer: FrameWriter::new(direction_session(LINK_SESSION, id)),
            reader: Some(FrameReader::new(direction_session(LINK_SESSION, id.peer()), MAX_MESSAGE_BYTES)),
            unread: Vec::new(),
            control: VecDeque::new(),
            packets: VecDeque::new(),
            inputs: VecDeque::new(),
            next_input: 0,
            frames_in_log: 0,
            running: None,
            guest_done: false,
            deferred: VecDeque::new(),
            held: VecDeque::new(),
            discard_through: 0,
            device: VecDeque::new(),
            device_through: 0,
            confirm_through: None,
            produced: Vec::new(),
            guest_clock: (0, local_ns),
            log_through: 0,
            state_of: 0,
            ran: BTreeMap::new(),
            began: BTreeMap::new(),
            wake_at_ns: None,
            told_dead: false,
            denied: false,
            asked: None,
        }
    }

    /// A machine that has just booted to be taken in by a solo primary.
    #[must_use]
    pub fn newcomer(id: ReplicaId, settings: &Settings, generation: Generation, session: u64, now_ns: u64) -> Self {
        let mut node = Self::new(id, settings, Rng::new(settings.clock_offset_ns[id.index()] ^ session));
        let local_ns = node.clock.local_ns(now_ns);
        let config = Config { role: Role::Backup, generation, joins: true, ..config(id, settings) };
        node.replica = Replica::new(config, local_ns).expect("the configuration is right");
        node.guest_clock = (0, local_ns);
        node.is_newcomer = true;
        node.disk.by_other = settings.shared_disk;
        node.renew_link(session);
        node
    }

    /// The link begins anew.
    pub fn renew_link(&mut self, session: u64) {
        let session = LINK_SESSION ^ (session << 32);
        self.writer = FrameWriter::new(direction_session(session, self.id));
        self.reader = Some(FrameReader::new(direction_session(session, self.id.peer()), MAX_MESSAGE_BYTES));
        self.unread.clear();
    }

    /// The process can do something.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.alive && !self.paused && self.stopped.is_none()
    }

    /// The machine is there, and its replica has not stopped.
    #[must_use]
    pub const fn takes_part(&self) -> bool {
        self.alive && self.stopped.is_none()
    }

    /// What the guest's monotonic clock would show in an epoch begun now.
    #[must_use]
    pub const fn monotonic_ns(&self, local_ns: u64) -> u64 {
        self.guest_clock.0 + local_ns.saturating_sub(self.guest_clock.1)
    }

    /// There is something for the guest to do.
    #[must_use]
    pub fn has_work(&self, local_ns: u64, shared: bool) -> bool {
        !self.inputs.is_empty()
            || self.monotonic_ns(local_ns) >= self.guest.timer_at_ns()
            || self.tellable(shared).next().is_some()
            || (self.replica.owes_uncertain() && self.disk.has_parked())
    }

    /// Requests to the disk of which the guest may be told, by the rule of the replica, and their status.
    pub fn tellable(&self, shared: bool) -> impl Iterator<Item = (u64, u32)> + '_ {
        let paired = self.replica.mode() == Mode::Paired;
        let peer_done_below = self.replica.peer_disks_done_below();
        let may = move |&(number, flush): &(u64, bool)| shared || !flush || !paired || number < peer_done_below;
        let done = self.disk.done().filter(may).map(|(number, _)| (number, 0));
        done.chain(self.disk.failed().filter(move |_| !paired).map(|number| (number, FAILED)))
    }

    /// When the guest wants to run by itself, by the local clock.
    #[must_use]
    pub const fn timer_local_ns(&self) -> u64 {
        self.guest_clock.1 + self.guest.timer_at_ns().saturating_sub(self.guest_clock.0)
    }

    /// The last epoch that has ended here.
    #[must_use]
    pub fn ended_through(&self) -> Epoch {
        self.replica.status(0).ended_through
    }
}

fn config(id: ReplicaId, settings: &Settings) -> Config {
    Config {
        replica: id,
        role: if id == ReplicaId::ZERO { Role::Primary } else { Role::Backup },
        generation: 1,
        mode: Mode::Paired,
        identity: Identity {
            abi_version: 1,
            protocol_version: 1,
            image: [1; 32],
            guest_memory_bytes: 1 << 24,
            cpu: [2; 32],
            guest_config: [3; 32],
            epoch_source: 0,
            discipline: settings.discipline,
        },
        max_lag_ns: settings.max_lag_ns,
        heartbeat_interval_ns: HEARTBEAT_NS,
        failure_timeout_ns: FAILURE_TIMEOUT_NS,
        pairing_timeout_ns: PAIRING_TIMEOUT_NS,
        max_outstanding_epochs: settings.max_outstanding_epochs,
        max_outstanding_bytes: 64 * 1024,
        max_epoch_events_bytes: MAX_EPOCH_EVENTS_BYTES,
        confirms_releases: settings.confirms_releases,
        compares_first: settings.compares_first,
        joins: false,
        logs_disks: false,
        stores_log: settings.store_delay_ns.is_some(),
        max_unstored_bytes: settings.max_unstored_bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_turn_back_into_the_time_that_they_show() {
        for skew_ppm in [-1000, -1, 0, 1, 999] {
            let clock = Clock { offset_ns: 12_345, skew_ppm };
            for now_ns in [0, 1, 999, 1_000_000, 123_456_789] {
                let global_ns = clock.global_ns(clock.local_ns(now_ns));
                assert_eq!(clock.local_ns(global_ns), clock.local_ns(now_ns));
                assert!(global_ns <= now_ns + 1);
            }
        }
    }
}
