//! One replica of a pair, as a state machine: inputs in, commands out.
//!
//! # The rounds of a caller
//! A caller (shim, simulator, model) repeats:
//! 1. Read everything that the link and the control channel hold, and give each message to [`Replica::step`]. What the
//!    guest did ([`Input::EpochEnded`]) goes in the same way. After all that, [`Input::Tick`] if
//!    [`Replica::next_deadline_ns`] has come.
//! 2. Call [`Replica::flush`] once: the backup sends at most one acknowledgement for all that came, *then* runs on.
//! 3. Primary: if [`Replica::may_begin`] says [`Gate::Ready`] and there is something to run for, drain the devices and
//!    call [`Replica::begin`].
//! 4. Halt until the next message, event or deadline.
//!
//! Commands are carried out in order after each call and before the next one.
//!
//! # Silence is judged last
//! A [`Input::Tick`] must come only after everything that had arrived was given: a process that was paused finds its
//! peer's messages waiting, and a tick given first would take the pause for the peer's death. In addition, a caller
//! that comes later than [`PAUSE_HEARTBEATS`] heartbeat intervals after its deadline cannot judge its peer at all: the
//! window of silence then starts anew, once until the peer is heard again.
//!
//! # The rules
//! P1 and P2 are [`Replica::begin`] and [`Input::EpochEnded`] (`active.rs`), P3 to P5 `backup.rs`, P6 and P7
//! `failover.rs`; the handshake, disks, silence, newcomers (`join.rs`) and planned changes of roles (`handover.rs`) have
//! files of their own, and so has stable storage (`storage.rs`).

use alloc::vec::Vec;

use crate::link::{Divergence, Hello, Message};
use crate::{Discipline, Epoch, Generation, Mode, Role};

mod active;
mod api;
mod backup;
mod config;
mod disks;
mod failover;
mod handover;
mod handshake;
mod join;
mod log;
mod storage;
mod timers;

#[cfg(test)]
mod tests;

pub use api::{
    Blocked, Command, CommandList, Commands, Gate, Input, JoinPhase, LinkFault, Outgoing, Phase, Promotion,
    ProtocolFault, Record, Status, StopReason,
};
pub use config::{Config, ConfigError};
pub use storage::{MAX_STORED_EVENTS_BYTES, ReplayFault, STORED_RECORD_BYTES};
pub use timers::PAUSE_HEARTBEATS;

use failover::Failover;
use handover::HandOver;
use join::Join;
use log::{Pool, Queue, Window};
use storage::Storage;
use timers::Timers;

/// [`crate::event::Uncertain::device`] for every device there is, as in the event that starts a promoted replica's
/// first own epoch.
pub const EVERY_DEVICE: u32 = u32::MAX;

/// The least that a replica must accept as event records of one epoch: one full Ethernet frame fits.
pub const MIN_EPOCH_EVENTS_BYTES: u32 = 2048;

/// What the guest is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Guest {
    AtBoundary,
    Running,
    Stopped,
}

/// What is known of the peer and of the link to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Peer {
    /// Messages may still be sent and taken.
    link_open: bool,
    link_fault: Option<LinkFault>,
    /// Its hello has come and fits.
    hello: bool,
    /// It is known to have accepted ours as well.
    agreed: bool,
    /// Its process has ended.
    dead: bool,
    /// Its guest has ended and its outputs are released: its going is no failure.
    finished: bool,
    max_epoch_events_bytes: u32,
}

impl Peer {
    /// One of which nothing has been heard.
    const fn new(link_open: bool) -> Self {
        Self {
            link_open,
            link_fault: None,
            hello: false,
            agreed: false,
            dead: false,
            finished: false,
            max_epoch_events_bytes: u32::MAX,
        }
    }
}

/// What only the active replica tracks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Active {
    window: Window,
    received_through: Epoch,
    executed_through: Epoch,
    /// What the backup's disks have done, as it says.
    disks_done_below: u64,
    /// Commanded to be released, or free of outputs.
    released_through: Epoch,
    /// The newest epoch with outputs that the last [`Command::Release`] let go, as far as that is known here.
    commanded_through: Epoch,
    /// Known to have left the devices' queues.
    confirmed_through: Epoch,
    /// The newest epoch that had outputs.
    newest_output_epoch: Epoch,
    rtt_ns: u64,
    divergence: Option<Divergence>,
    /// The next record starts with the uncertain event of P7, of these operations.
    uncertain_due: Option<u64>,
}

/// What only the backup tracks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Backup {
    queue: Queue,
    received_through: Epoch,
    /// When the record of the running or last epoch was received.
    record_received_ns: u64,
    /// When the oldest epoch that was run but not yet reported as run was received.
    unreported_since_ns: Option<u64>,
    /// Something came that an acknowledgement must answer at the end of this round.
    ack_due: bool,
    echo_ns: u64,
    /// What this replica's disks have done.
    disks_done_below: u64,
    last_ack_ns: u64,
    /// What the primary claims to have released.
    released_claim: Epoch,
    discard_due: bool,
    /// The newest end that the primary has told by heartbeat.
    peer_ended: (Epoch, u64),
}

/// One replica. See the [module](self) for how it is driven.
///
/// Two replicas are equal if they will do the same from here on, which is what a model checker asks.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Replica {
    config: Config,
    role: Role,
    mode: Mode,
    generation: Generation,
    guest: Guest,
    /// The record of the epoch that runs, or of the last one.
    record: Record,
    ended_through: Epoch,
    last_digest: u64,
    peer: Peer,
    active: Active,
    backup: Backup,
    failover: Failover,
    join: Join,
    handover: HandOver,
    storage: Storage,
    timers: Timers,
    last_request_id: u64,
    stopped: Option<StopReason>,
    pool: Pool,
}

impl Replica {
    /// A replica at epoch 0. Call [`Self::start`] next.
    pub fn new(config: Config, now_ns: u64) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Self {
            role: config.role,
            mode: config.mode,
            generation: config.generation,
            guest: Guest::AtBoundary,
            record: Record::default(),
            ended_through: 0,
            last_digest: 0,
            peer: Peer::new(config.mode == Mode::Paired),
            active: Active::new(),
            backup: Backup::new(),
            failover: Failover::None,
            join: if config.joins { Join::Empty } else { Join::None },
            handover: HandOver::No,
            storage: Storage::new(config.stores_log),
            timers: Timers::new(now_ns, config.pairing_timeout_ns),
            last_request_id: 0,
            stopped: None,
            pool: Pool::default(),
            config,
        })
    }

    /// Begins the handshake, if there is a peer. To be called once, after [`Self::new`].
    pub fn start(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.mode == Mode::Paired {
            self.send(now_ns, Outgoing::Hello, out);
        }
    }

    /// Takes one input.
    ///
    /// # Panics
    /// On [`Input::EpochEnded`] or [`Input::GuestStopped`] while no epoch runs: that is an error of the caller, not of
    /// anything outside.
    pub fn step(&mut self, now_ns: u64, input: Input<'_>, out: &mut impl Commands) {
        if self.stopped.is_some() {
            return;
        }
        self.note_call(now_ns);
        match input {
            Input::Message(message) => self.on_message(now_ns, &message, out),
            Input::LinkClosed(fault) => self.on_link_closed(now_ns, fault, out),
            Input::PeerDead => self.on_peer_dead(now_ns, out),
            Input::ArbiterReply { request_id, granted, record } => {
                self.on_arbiter_reply(now_ns, request_id, granted, record, out);
            }
            Input::Superseded { generation } => self.on_superseded(generation, out),
            Input::EpochEnded { digest, has_outputs } => self.on_guest_end(now_ns, digest, has_outputs, false, out),
            Input::GuestStopped { digest } => self.on_guest_end(now_ns, digest, true, true, out),
            Input::Shutdown => self.on_shutdown(now_ns, out),
            Input::Tick => self.on_tick(now_ns, out),
            Input::PeerJoins => self.on_peer_joins(now_ns),
            Input::HandOver => self.on_hand_over(),
            Input::Stored { through } => self.on_stored(now_ns, through, out),
            Input::StoreLog { on } => self.on_store_log(now_ns, on, out),
        }
        self.hand_over_if_done(now_ns, out);
    }

    /// Ends a round of inputs: the backup acknowledges all that came, in one message, and runs the next epoch if it can.
    pub fn flush(&mut self, now_ns: u64, out: &mut impl Commands) {
        if self.stopped.is_some() {
            return;
        }
        self.note_call(now_ns);
        self.flush_backup(now_ns, out);
    }

    fn on_message(&mut self, now_ns: u64, message: &Message<'_>, out: &mut impl Commands) {
        // What a peer sends after its link has failed, or after it said goodbye, was never acknowledged: nothing hangs
        // on it.
        if !self.peer.link_open {
            return;
        }
        self.timers.heard(now_ns);
        self.clear_suspicion();
        match message {
            Message::Hello(hello) => self.on_hello(now_ns, hello, out),
            // Whatever its reason, the newcomer goes.
            Message::Goodbye(_) | Message::Refuse(_) if self.has_newcomer() => {
                self.on_link_closed(now_ns, LinkFault::Closed, out);
            }
            Message::Refuse(mismatch) if self.record.epoch == 0 && self.backup.received_through == 0 => {
                out.push(Command::CloseLink);
                self.stop(StopReason::Refused(mismatch.swapped()), out);
            }
            _ if !self.peer.hello => self.fault(now_ns, ProtocolFault::Handshake, out),
            Message::Refuse(_) => self.fault(now_ns, ProtocolFault::Handshake, out),
            Message::EpochStart(start) => self.on_epoch_start(now_ns, start, out),
            Message::Heartbeat(heartbeat) => self.on_heartbeat(now_ns, heartbeat, out),
            Message::Ack(ack) => self.on_ack(now_ns, ack, out),
            Message::Diverged(divergence) => self.on_diverged(now_ns, *divergence, out),
            Message::Goodbye(goodbye) => self.on_goodbye(now_ns, *goodbye, out),
            Message::Pages(_) => self.on_pages(now_ns, out),
            Message::PagesHeld { .. } => self.on_pages_held(now_ns, out),
            Message::State(state) => self.on_state(now_ns, state, out),
            Message::Joined { generation } => self.on_joined(now_ns, *generation, out),
        }
    }

    fn on_guest_end(
        &mut self,
        now_ns: u64,
        digest: u64,
        has_outputs: bool,
        guest_stopped: bool,
        out: &mut impl Commands,
    ) {
        assert!(self.guest == Guest::Running, "an epoch ended, but none was running");
        self.guest = if guest_stopped { Guest::Stopped } else { Guest::AtBoundary };
        self.ended_through = self.record.epoch;
        self.last_digest = digest;
        if has_outputs {
            self.active.newest_output_epoch = self.ended_through;
        }
        match self.role {
            Role::Primary => self.active_ended(now_ns, out),
            Role::Backup => self.backup_ended(now_ns, out),
        }
    }

    fn send(&mut self, now_ns: u64, outgoing: Outgoing, out: &mut impl Commands) {
        self.timers.last_sent_ns = now_ns;
        out.push(Command::Send(outgoing));
    }

    fn stop(&mut self, reason: StopReason, out: &mut impl Commands) {
        self.stopped = Some(reason);
        out.push(Command::Stop(reason));
    }

    /// The message that an [`Outgoing`] stands for, borrowed from this replica; `None` for an epoch whose record is no
    /// longer held because the command was not carried out before the next call.
    pub fn message(&self, outgoing: Outgoing) -> Option<Message<'_>> {
        Some(match outgoing {
            Outgoing::Hello => Message::Hello(self.hello()),
            Outgoing::Refuse(mismatch) => Message::Refuse(mismatch),
            Outgoing::EpochStart { epoch } => Message::EpochStart(self.record(epoch)?.message()),
            Outgoing::Ack(ack) => Message::Ack(ack),
            Outgoing::Heartbeat(heartbeat) => Message::Heartbeat(heartbeat),
            Outgoing::Diverged(divergence) => Message::Diverged(divergence),
            Outgoing::Goodbye(goodbye) => Message::Goodbye(goodbye),
            Outgoing::Joined { generation } => Message::Joined { generation },
        })
    }

    /// The record of the epoch that runs or ran last: its events are what the guest gets, its clocks what it sees.
    pub fn record(&self, epoch: Epoch) -> Option<&Record> {
        (epoch != 0 && self.record.epoch == epoch).then_some(&self.record)
    }

    /// An empty buffer for the events of the next [`Self::begin`], with the capacity of one used before if there is one.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        self.pool.take()
    }

    /// The role, which a promotion changes.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The generation in which this replica is what it is.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Paired or solo.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The epoch that runs, or the last one that ended; 0: none yet.
    pub fn epoch(&self) -> Epoch {
        self.record.epoch
    }

    /// Why the replica has stopped, if it has.
    pub fn stopped(&self) -> Option<StopReason> {
        self.stopped
    }

    /// The most bytes of event records that [`Self::begin`] takes: the least of what both replicas and storage accept.
    pub fn max_epoch_events_bytes(&self) -> usize {
        let agreed_bytes = self.config.max_epoch_events_bytes.min(self.peer.max_epoch_events_bytes);
        let limit_bytes = if self.storage.on { agreed_bytes.min(MAX_STORED_EVENTS_BYTES) } else { agreed_bytes };
        limit_bytes as usize
    }

    /// Where the replica stands.
    pub fn phase(&self) -> Phase {
        let running = self.guest == Guest::Running;
        let role = self.role;
        match (self.stopped, &self.failover) {
            (Some(reason), _) => Phase::Stopped(reason),
            (None, Failover::Suspected { .. }) => Phase::Suspecting,
            (None, Failover::Asking(_)) => Phase::AwaitingGrant { role },
            (None, Failover::Granted) => Phase::Promoting,
            (None, Failover::None) if self.mode == Mode::Solo && running => Phase::SoloRunning,
            (None, Failover::None) if self.mode == Mode::Solo => Phase::SoloAtBoundary,
            (None, Failover::None) if !self.peer.agreed || self.join == Join::Empty => Phase::Pairing,
            (None, Failover::None) if running => Phase::Running { role },
            (None, Failover::None) => Phase::AtBoundary { role },
        }
    }

    /// What the replica shows of itself.
    pub fn status(&self, now_ns: u64) -> Status {
        let (received, executed, lag_epochs, oldest_ns, bytes, released) = match self.role {
            Role::Primary => (
                self.active.received_through,
                self.active.executed_through,
                self.active.window.len() as u64,
                self.active.window.oldest_begin_ns(),
                self.active.window.bytes(),
                self.active.released_through,
            ),
            Role::Backup => (
                self.backup.received_through,
                self.ended_through,
                self.backup.received_through - self.ended_through,
                match self.guest {
                    Guest::Running => Some(self.backup.record_received_ns),
                    _ => self.backup.queue.oldest_received_ns(),
                },
                self.backup.queue.bytes(),
                self.backup.released_claim,
            ),
        };
        Status {
            role: self.role,
            phase: self.phase(),
            mode: self.mode,
            generation: self.generation,
            epoch: self.record.epoch,
            ended_through: self.ended_through,
            received_by_backup: received,
            executed_by_backup: executed,
            released_through: released,
            lag_epochs,
            lag_ns: oldest_ns.map_or(0, |since_ns| now_ns.saturating_sub(since_ns)),
            link_rtt_ns: self.active.rtt_ns,
            outstanding_bytes: bytes,
            link_fault: self.peer.link_fault,
            divergence: self.active.divergence,
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            identity: self.config.identity,
            replica: self.config.replica,
            role: self.role,
            generation: self.generation,
            max_epoch_events_bytes: self.config.max_epoch_events_bytes,
        }
    }

    fn discipline(&self) -> Discipline {
        self.config.identity.discipline
    }
}

impl Config {
    fn check(&self) -> Result<(), ConfigError> {
        if self.joins && (self.mode == Mode::Solo || self.role == Role::Primary) {
            return Err(ConfigError::JoinsAlone);
        }
        if self.max_unstored_bytes == 0 || self.max_outstanding_epochs == 0 {
            return Err(ConfigError::Zero(if self.max_unstored_bytes == 0 {
                "max_unstored_bytes"
            } else {
                "max_outstanding_epochs"
            }));
        }
        if self.mode == Mode::Solo {
            return if self.role == Role::Backup { Err(ConfigError::SoloBackup) } else { Ok(()) };
        }
        let positive = [
            ("max_lag_ns", self.max_lag_ns),
            ("heartbeat_interval_ns", self.heartbeat_interval_ns),
            ("pairing_timeout_ns", self.pairing_timeout_ns),
            ("max_outstanding_epochs", self.max_outstanding_epochs.into()),
            ("max_outstanding_bytes", self.max_outstanding_bytes),
        ];
        if let Some((field, _)) = positive.into_iter().find(|&(_, value)| value == 0) {
            return Err(ConfigError::Zero(field));
        }
        if self.max_epoch_events_bytes < MIN_EPOCH_EVENTS_BYTES {
            return Err(ConfigError::EpochEventsTooShort { max_epoch_events_bytes: self.max_epoch_events_bytes });
        }
        let at_least_ns = self.heartbeat_interval_ns.saturating_mul(4);
        if self.failure_timeout_ns < at_least_ns {
            return Err(ConfigError::FailureTimeoutTooShort {
                failure_timeout_ns: self.failure_timeout_ns,
                at_least_ns,
            });
        }
        Ok(())
    }
}
