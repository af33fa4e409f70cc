//! What goes into the state machine and what comes out of it.

use alloc::vec::Vec;
use core::fmt;

use crate::arbiter::ArbiterRecord;
use crate::link::{Ack, Divergence, EpochStart, Goodbye, Heartbeat, Message, Mismatch};
use crate::{Clocks, Epoch, Generation, Mode, Role};

/// Something that happened.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Input<'a> {
    /// A message came from the peer.
    Message(Message<'a>),
    /// The link can carry no more. Give every message decoded before first.
    LinkClosed(LinkFault),
    /// The supervisor knows that the peer's process has ended.
    PeerDead,
    /// The arbiter's answer; late, duplicated and foreign ones are harmless.
    ArbiterReply {
        /// The request that is answered.
        request_id: u64,
        /// Whether this replica is the active solo one of `record`.
        granted: bool,
        /// The record after the request.
        record: ArbiterRecord,
    },
    /// The supervisor knows that the peer is active in this generation.
    Superseded {
        /// The arbiter's generation.
        generation: Generation,
    },
    /// The guest has reached the end of the epoch that [`Command::RunEpoch`] started.
    EpochEnded {
        /// Digest of the epoch (hypercalls, outputs, registers).
        digest: u64,
        /// Whether the epoch produced outputs.
        has_outputs: bool,
    },
    /// The guest has ended (exit, panic, fault), and with it its last epoch; counts as an output.
    GuestStopped {
        /// Digest of the last epoch.
        digest: u64,
    },
    /// The pair is to be shut down: stop, and tell the peer to stop.
    Shutdown,
    /// A newcomer is at the other end of the link, which begins anew: for a solo primary; others pass it over.
    PeerJoins,
    /// Planned change of roles: for a paired primary; others pass it over. It begins no further epoch, and when the
    /// backup holds everything and every output has left, the backup is told to take over.
    HandOver,
    /// Stable storage holds every record up to this epoch: the answer to [`Command::Store`]. For an active replica; others
    /// pass it over.
    Stored {
        /// The epoch.
        through: Epoch,
    },
    /// From the next record on the log is stored, or no longer. To be said to both replicas.
    StoreLog {
        /// Whether it is.
        on: bool,
    },
    /// Time has passed. Give it only after all messages that had arrived; see [`super::Replica::next_deadline_ns`].
    Tick,
}

/// Why the link cannot be used any more.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinkFault {
    /// It was closed or cut.
    Closed,
    /// The byte stream was not a valid sequence of frames and messages (the caller has logged the details).
    Corrupt,
    /// The peer sent a message that is impossible in this state.
    Protocol(ProtocolFault),
    /// The primary has handed over as planned.
    HandedOver,
}

/// A message that no correct peer sends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ProtocolFault {
    /// A message other than hello or refusal came before the hello, a second hello, or one that offers to accept less
    /// than [`super::MIN_EPOCH_EVENTS_BYTES`].
    Handshake,
    /// A message that only a primary sends came from a backup, or the other way round.
    WrongRole,
    /// The epochs of the log are not consecutive.
    EpochGap {
        /// The epoch that should have come.
        expected: Epoch,
        /// The epoch that came.
        got: Epoch,
    },
    /// The peer sent more than this replica can hold, against the agreed bounds.
    Overflow {
        /// Epochs waiting to be run.
        queued_epochs: u32,
        /// Event bytes waiting to be run, with the record that came.
        queued_bytes: u64,
    },
    /// An acknowledgement goes back, or covers what was never sent.
    BadAck {
        /// What it claims to hold.
        received_through: Epoch,
        /// What it claims to have run.
        executed_through: Epoch,
        /// What it claims that its disks have done.
        disks_done_below: u64,
    },
    /// The primary claims to have released outputs of an epoch that it cannot have ended, or takes back a claim.
    BadRelease {
        /// The claim.
        released_through: Epoch,
    },
    /// A heartbeat names an epoch that the primary cannot have ended, or goes back.
    BadHeartbeat {
        /// The epoch.
        ended_epoch: Epoch,
    },
}

impl fmt::Display for ProtocolFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake => f.write_str("the peer broke the order of the handshake"),
            Self::WrongRole => f.write_str("the peer sent a message that its role never sends"),
            Self::EpochGap { expected, got } => {
                write!(f, "expected the record of epoch {expected}, got epoch {got}")
            }
            Self::Overflow { queued_epochs, queued_bytes } => write!(
                f,
                "the peer sent more than was agreed: {queued_epochs} epochs, {queued_bytes} bytes are waiting"
            ),
            Self::BadAck { received_through, executed_through, disks_done_below } => write!(
                f,
                "the peer acknowledges epoch {received_through} as received, {executed_through} as run and disk requests below {disks_done_below} as done, which cannot be"
            ),
            Self::BadRelease { released_through } => {
                write!(f, "the peer claims to have released the outputs of epoch {released_through}, which cannot be")
            }
            Self::BadHeartbeat { ended_epoch } => {
                write!(f, "the peer claims in a heartbeat to have ended epoch {ended_epoch}, which cannot be")
            }
        }
    }
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the link was closed"),
            Self::Corrupt => f.write_str("the link carried bytes that are no valid frames"),
            Self::Protocol(fault) => fault.fmt(f),
            Self::HandedOver => f.write_str("the primary has handed over"),
        }
    }
}

impl core::error::Error for ProtocolFault {}
impl core::error::Error for LinkFault {}

/// Something to be done, in the order given, before the next call.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// Send this on the link ([`super::Replica::message`] gives what to encode).
    Send(Outgoing),
    /// Deliver the events of [`super::Replica::record`] and run the guest until the epoch ends, then give
    /// [`Input::EpochEnded`] or [`Input::GuestStopped`].
    RunEpoch {
        /// The epoch.
        epoch: Epoch,
    },
    /// Let the outputs of all epochs up to this one leave. Outputs already released or discarded are not meant.
    Release {
        /// The last epoch whose outputs may leave.
        through: Epoch,
    },
    /// Forget the outputs of all epochs up to this one, those that the guest has yet to produce included: the primary
    /// has released them.
    Discard {
        /// The last epoch whose outputs are not needed.
        through: Epoch,
    },
    /// Ask the arbiter to move from this generation to the next with this replica active and solo.
    AskArbiter {
        /// To be given back in [`Input::ArbiterReply`]; the same when a request is repeated.
        request_id: u64,
        /// The generation that the record must have.
        expect_generation: Generation,
    },
    /// This replica was the backup and is now the active solo replica. A [`Command::Release`] of its retained outputs
    /// follows at once.
    Promote(Promotion),
    /// This replica was and is active, and now solo. A [`Command::Release`] of what was held follows if there is any.
    GoSolo {
        /// The new generation.
        generation: Generation,
    },
    /// Ask the arbiter to move from this generation to the next with this replica active and paired.
    AskPairing {
        /// To be given back in [`Input::ArbiterReply`]; the same when a request is repeated.
        request_id: u64,
        /// The generation that the record must have.
        expect_generation: Generation,
    },
    /// The newcomer is a full member of the pair: it can take over from now on.
    Joined {
        /// The new generation.
        generation: Generation,
    },
    /// The newcomer has failed before it was one. This replica goes on alone, as if there had been none; the newcomer
    /// must be ended before another one is taken in.
    JoinFailed,
    /// Have the records from this epoch on ([`super::Replica::records_from`]) written to stable storage, and say with
    /// [`Input::Stored`] when they are. A record takes the place of another one of its epoch that was stored before, and
    /// of all behind that; one that is the same as the stored one changes nothing.
    Store {
        /// The epoch of the first.
        from: Epoch,
    },
    /// Close the link, or read nothing from it any more. What was sent before should still go out if it can.
    CloseLink,
    /// Stop for good. Nothing is released any more.
    Stop(StopReason),
}

/// A message to be sent, small enough to be copied.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outgoing {
    /// [`Message::Hello`], made from the configuration.
    Hello,
    /// [`Message::Refuse`].
    Refuse(Mismatch),
    /// [`Message::EpochStart`] made from [`super::Replica::record`].
    EpochStart {
        /// The epoch of the record.
        epoch: Epoch,
    },
    /// [`Message::Ack`].
    Ack(Ack),
    /// [`Message::Heartbeat`].
    Heartbeat(Heartbeat),
    /// [`Message::Diverged`].
    Diverged(Divergence),
    /// [`Message::Goodbye`].
    Goodbye(Goodbye),
    /// [`Message::Joined`].
    Joined {
        /// The generation of the arbiter's record.
        generation: Generation,
    },
}

/// How a backup becomes the active replica (rules P6 and P7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Promotion {
    /// The new generation.
    pub generation: Generation,
    /// The first epoch whose events are this replica's own. Its record begins with an uncertain event, which
    /// [`super::Replica::begin`] puts there.
    pub first_own_epoch: Epoch,
    /// Outputs from this epoch on are not known to have left the old primary: they are sent again.
    pub resend_from_epoch: Epoch,
    /// The clocks of the last epoch of the log; the guest's clocks must go on from there. Zero if there was none.
    pub clocks: Clocks,
    /// When the record with those clocks was received, by this replica's own clock.
    pub clocks_received_ns: u64,
}

/// Why a replica stopped for good.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StopReason {
    /// The peer is active in this generation.
    Superseded {
        /// The arbiter's generation.
        generation: Generation,
    },
    /// The peer runs something else.
    Refused(Mismatch),
    /// The guest did not do the same here as at the primary.
    Diverged(Divergence),
    /// The guest has ended, and its outputs are released.
    GuestStopped,
    /// The peer goes on without this replica.
    Discarded,
    /// The pair was shut down.
    Shutdown,
    /// The primary, or the link to it, was lost before this newcomer held the primary's state.
    Incomplete,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superseded { generation } => {
                write!(f, "the peer is active in generation {generation}")
            }
            Self::Refused(mismatch) => write!(f, "the replicas cannot be paired: {mismatch}"),
            Self::Diverged(divergence) => write!(f, "the replicas diverged: {divergence}"),
            Self::GuestStopped => f.write_str("the guest has stopped"),
            Self::Discarded => f.write_str("the peer goes on without this replica"),
            Self::Shutdown => f.write_str("the pair was shut down"),
            Self::Incomplete => f.write_str("the primary was lost before this replica held its state"),
        }
    }
}

/// Takes commands as they arise.
pub trait Commands {
    /// Adds a command after those that are there.
    fn push(&mut self, command: Command);
}

impl Commands for Vec<Command> {
    fn push(&mut self, command: Command) {
        Vec::push(self, command);
    }
}

/// A list of commands in place, for a caller that does not want to allocate.
///
/// One call of the state machine pushes at most [`CommandList::CAPACITY`] commands.
#[derive(Clone, Debug)]
pub struct CommandList {
    commands: [Command; Self::CAPACITY],
    len: usize,
}

impl CommandList {
    /// More than any single call pushes.
    pub const CAPACITY: usize = 8;

    /// An empty list.
    pub const fn new() -> Self {
        Self { commands: [Command::CloseLink; Self::CAPACITY], len: 0 }
    }

    /// The commands, oldest first.
    pub fn as_slice(&self) -> &[Command] {
        &self.commands[..self.len]
    }

    /// Forgets all commands.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

impl Default for CommandList {
    fn default() -> Self {
        Self::new()
    }
}

impl Commands for CommandList {
    /// # Panics
    /// When the list is full: it was not cleared between two calls.
    fn push(&mut self, command: Command) {
        assert!(self.len < Self::CAPACITY, "the command list was not emptied before the next call");
        self.commands[self.len] = command;
        self.len += 1;
    }
}

/// Whether the active replica may begin its next epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Gate {
    /// It may.
    Ready,
    /// It may not; an input will change that.
    Blocked(Blocked),
}

/// Why the next epoch may not begin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Blocked {
    /// The peers have not agreed yet.
    Pairing,
    /// An epoch is running.
    Running,
    /// This replica is the backup: [`Command::RunEpoch`] says when.
    Backup,
    /// The backup has not acknowledged everything (original discipline).
    Acks,
    /// The backup has not run an epoch that began longer ago than the bound.
    Lag,
    /// The backup has as many epochs or bytes not run as the bound allows.
    Outstanding,
    /// The arbiter has not answered.
    Arbiter,
    /// A newcomer has not said that it holds the state.
    Joining,
    /// The backup is to take over.
    HandingOver,
    /// The guest has ended.
    GuestStopped,
    /// Too much is on its way to stable storage.
    Storage,
    /// The replica has stopped.
    Stopped,
}

/// How far the taking in of a newcomer is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum JoinPhase {
    /// There is no newcomer.
    None,
    /// Primary: its first words have not come, or the peers have not agreed.
    Greeting,
    /// Primary: the caller sends pages; at a boundary it may send the state and call [`super::Replica::state_sent`].
    Copying,
    /// Primary: it has everything or is about to; the arbiter's record is not paired, as far as this replica knows.
    /// Newcomer: the same.
    Settling,
    /// Newcomer: the state has not come.
    Empty,
}

/// Where a replica stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Phase {
    /// The peers have not agreed yet.
    Pairing,
    /// Paired, and the guest runs an epoch.
    Running {
        /// This replica's role.
        role: Role,
    },
    /// Paired, and the guest waits at a boundary.
    AtBoundary {
        /// This replica's role.
        role: Role,
    },
    /// The peer seems to have failed; the remaining log is run before the arbiter is asked.
    Suspecting,
    /// The arbiter was asked and has not answered.
    AwaitingGrant {
        /// This replica's role.
        role: Role,
    },
    /// The arbiter has granted; the remaining log is run before the promotion.
    Promoting,
    /// Active without a peer, and the guest runs an epoch.
    SoloRunning,
    /// Active without a peer, and the guest waits at a boundary.
    SoloAtBoundary,
    /// Stopped for good.
    Stopped(StopReason),
}

impl Phase {
    /// A lower-case name for people and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pairing => "pairing",
            Self::Running { .. } | Self::SoloRunning => "running",
            Self::AtBoundary { .. } | Self::SoloAtBoundary => "waiting",
            Self::Suspecting => "suspecting",
            Self::AwaitingGrant { .. } => "awaiting-grant",
            Self::Promoting => "promoting",
            Self::Stopped(_) => "stopped",
        }
    }
}

/// What a replica shows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Status {
    /// The role.
    pub role: Role,
    /// Where it stands.
    pub phase: Phase,
    /// The mode.
    pub mode: Mode,
    /// The generation.
    pub generation: Generation,
    /// The epoch that runs, or the last one that ended.
    pub epoch: Epoch,
    /// The last epoch that ended here.
    pub ended_through: Epoch,
    /// The last epoch whose record the backup holds, as far as this replica knows.
    pub received_by_backup: Epoch,
    /// The last epoch that the backup has run, as far as this replica knows.
    pub executed_by_backup: Epoch,
    /// Primary: the last epoch whose outputs may leave. Backup: the last one known to have left.
    pub released_through: Epoch,
    /// Epochs that the backup has yet to run.
    pub lag_epochs: u64,
    /// Age of the oldest of them: since it began (primary) or was received (backup).
    pub lag_ns: u64,
    /// The newest measured round trip of the link; 0: none yet.
    pub link_rtt_ns: u64,
    /// Event bytes of the epochs that the backup has yet to run.
    pub outstanding_bytes: u64,
    /// Why the link failed, if it did.
    pub link_fault: Option<LinkFault>,
    /// The divergence that made the primary go on alone, if one did.
    pub divergence: Option<Divergence>,
}

/// The log record that starts an epoch, with its events.
#[derive(Clone, PartialEq, Eq, Hash, Default, Debug)]
pub struct Record {
    /// The epoch.
    pub epoch: Epoch,
    /// Digest of the epoch before at the primary.
    pub prev_digest: u64,
    /// The guest's clocks during the epoch.
    pub clocks: Clocks,
    /// The primary's claim of what it has released.
    pub released_through: Epoch,
    /// When it was sent, by the primary's clock.
    pub sent_ns: u64,
    /// Event records ([`crate::event`]).
    pub events: Vec<u8>,
}

impl Record {
    /// The record as a message of the link.
    pub fn message(&self) -> EpochStart<'_> {
        EpochStart {
            epoch: self.epoch,
            prev_digest: self.prev_digest,
            clocks: self.clocks,
            released_through: self.released_through,
            sent_ns: self.sent_ns,
            events: &self.events,
        }
    }
}
