//! The messages between a shim and its supervisor.
//!
//! The control channel is a private stream of frames ([`crate::frame`]) on one host. The shim speaks first
//! ([`Ready`]); the supervisor answers with the [`Config`], and from then on both sides speak when they have something
//! to say. The channel is open before the shim knows its pair's session, so its two directions have fixed sessions.

mod codec;
mod config;

pub use codec::*;
pub use config::{Config, Network, Seed};

use core::fmt;

use crate::arbiter::{ArbiterRecord, Grant};
use crate::link::{EpochStart, JoinState, Pages};
use crate::replica::{Phase, StopReason};
use crate::types::wire_enum;
use crate::{Epoch, Generation, Mode, ReplicaId, Role};

/// The frame session of what a shim sends to its supervisor.
pub const SESSION_TO_SUPERVISOR: u64 = u64::from_le_bytes(*b"PLXshim>");
/// The frame session of what a supervisor sends to its shim.
pub const SESSION_TO_SHIM: u64 = u64::from_le_bytes(*b">PLXshim");
/// The longest payload of a control message; both sides cut texts and console output to fit.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// How many [`Touched`] pages a shim sends beyond those that the supervisor has said it has: the device between them
/// drops what the supervisor's socket has no room for.
pub const TOUCHED_WINDOW_PAGES: u64 = 16;

/// A message from a shim to its supervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToSupervisor<'a> {
    /// The shim is up and waits for its configuration.
    Ready(Ready),
    /// How it goes; sent at an interval and when the role, state or generation changes.
    Status(Status),
    /// The replica asks for the grant; answered by [`ToShim::ArbiterReply`] with the same number.
    ArbiterRequest(ArbiterRequest),
    /// Output of the guest's console, already released.
    Console(Console<'a>),
    /// A line of the shim's own log.
    Log(Log<'a>),
    /// The guest has ended.
    GuestStopped(GuestStopped<'a>),
    /// The replica was the backup and is now active.
    Promoted(Promoted),
    /// The replica has stopped for good; the virtual machine can be ended.
    Stopped(Stopped<'a>),
    /// A page that the guest has written to in the epoch in which the replicas came apart; pages come in ascending
    /// order. Only with [`Config::check_determinism`].
    Touched(Touched<'a>),
    /// That were all.
    TouchedEnd(TouchedEnd),
    /// The solo primary's end of the link is as new: nothing of an earlier session comes from it any more. The answer to
    /// [`ToShim::PeerJoins`]; a newcomer may be started now.
    LinkFresh {
        /// The session of the request.
        link_session: u64,
    },
    /// The solo primary asks to be paired; answered by [`ToShim::ArbiterReply`] with the same number.
    PairingRequest(ArbiterRequest),
    /// The newcomer has failed before it was a member of the pair: end it.
    JoinFailed,
    /// A copy of the guest is complete.
    Copied(Copied),
    /// Pages of the guest, for a checkpoint: in the encoding of those of the link.
    Pages(Pages<'a>),
    /// Everything else, behind the last of its pages.
    State(JoinState<'a>),
    /// So many [`ToShim::Pages`] are in place.
    PagesHeld {
        /// How many messages.
        messages: u64,
    },
    /// No checkpoint can be taken now: the guest is being copied already, or has stopped, or the checkpoint that it was to
    /// build upon is not this replica's newest.
    CaptureFailed,
    /// What has changed on mirrored disks since the last such message: the answer to [`ToShim::WatchDisks`] (nothing) and
    /// [`ToShim::TellDisks`]; and said unasked, when nothing more will change before the state of a copy is complete.
    DisksChanged(DisksChanged<'a>),
    /// A record for stable storage, answered by [`ToShim::Stored`]. Records of one replica come in the order of their epochs.
    /// One that differs from what is stored of its epoch takes the place of that and of all behind it.
    Record(LogRecord<'a>),
    /// The digest of the last epoch, which no record will tell: the guest has ended, or nothing is stored any more.
    LogEnd(LogEnd),
    /// Records were replayed.
    Replayed(Replayed),
}

/// A message from a supervisor to its shim.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ToShim<'a> {
    /// How to run; the first message, and never repeated.
    Config(Config<'a>),
    /// The answer to a [`ToSupervisor::ArbiterRequest`].
    ArbiterReply(ArbiterReply),
    /// The peer's process has ended; certain, not guessed.
    PeerDead,
    /// The supervisor has closed the replication link or seen it closed.
    LinkCut,
    /// The peer is active in this generation: stop.
    Superseded {
        /// The arbiter's generation.
        generation: Generation,
    },
    /// The wall clock, to follow its adjustments.
    Time {
        /// Nanoseconds since 1970-01-01 00:00 UTC.
        realtime_ns: u64,
    },
    /// Bytes for the guest's console.
    ConsoleInput {
        /// The bytes.
        bytes: &'a [u8],
    },
    /// Stop in good order.
    Shutdown,
    /// So many [`Touched`] pages have come; said at least for every half of [`TOUCHED_WINDOW_PAGES`].
    Shown {
        /// How many, since the first.
        pages: u64,
    },
    /// A newcomer will be at the other end of the link; the solo primary takes it in.
    PeerJoins {
        /// The session of the link from here on.
        link_session: u64,
    },
    /// Planned change of roles: the primary hands over to its backup.
    HandOver,
    /// Take a checkpoint: the active replica sends its guest while it runs.
    Capture {
        /// Only the pages written to since the checkpoint of this epoch, which was this replica's newest; 0: all.
        since_epoch: Epoch,
    },
    /// So many [`ToSupervisor::Pages`] have come; the device between drops what the supervisor has no room for.
    PagesHeld {
        /// How many messages.
        messages: u64,
    },
    /// Pages of a checkpoint, for a replica that was started with [`Config::restores`].
    Pages(Pages<'a>),
    /// Everything else, behind the last of its pages: the guest goes on from here.
    State(JoinState<'a>),
    /// Mirrors are about to be copied: note from now on what changes on them.
    WatchDisks,
    /// Tell what has changed on them since the last time.
    TellDisks,
    /// What was said to be the last is copied.
    DisksCopied,
    /// Stable storage holds every record up to this epoch.
    Stored {
        /// The epoch.
        through: Epoch,
    },
    /// From the next record on the log is stored, or no longer.
    StoreLog {
        /// Whether it is.
        on: bool,
    },
    /// A record to be replayed, for a replica that was started with [`Config::replays`] and has its state.
    Replay(LogRecord<'a>),
    /// That were all records; the guest goes on from here.
    ReplayEnd(ReplayEnd),
}

/// A record of the log as stable storage holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogRecord<'a> {
    /// The generation in which it was stored.
    pub generation: Generation,
    /// As it is on the link.
    pub start: EpochStart<'a>,
}

/// How an epoch ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// The epoch.
    pub epoch: Epoch,
    /// Its digest.
    pub digest: u64,
}

/// The end of a replay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayEnd {
    /// The digest of the last epoch, if that was recorded.
    pub digest: Option<u64>,
}

/// How far a replay is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replayed {
    /// The last epoch that has ended.
    pub epoch: Epoch,
    /// Its digest.
    pub digest: u64,
    /// The address of the guest's next instruction.
    pub instruction_address: u64,
    /// Frames that the guest has sent in all.
    pub frames_out: u64,
    /// All records were replayed, and the guest goes on by itself.
    pub complete: bool,
}

/// What a shim can say of itself before it is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ready {
    /// Version of the ABI between guest and shim.
    pub abi_version: u32,
    /// Version of the replication protocol.
    pub protocol_version: u32,
    /// Digest of the whole image, shim and guest.
    pub image: [u8; 32],
    /// Digest of all CPU features that a guest can see.
    pub cpu: [u8; 32],
    /// Size of the guest's memory.
    pub guest_memory_bytes: u64,
    /// Time from the shim's first instruction to this message.
    pub boot_ns: u64,
}

wire_enum! {
    /// Where a replica stands, as shown to people.
    State {
        /// Not configured yet, or the guest is being loaded.
        Booting = 0, "booting";
        /// The peers have not agreed yet.
        Pairing = 1, "pairing";
        /// The guest runs.
        Running = 2, "running";
        /// The guest waits at a boundary.
        Waiting = 3, "waiting";
        /// The peer seems to have failed; the remaining log is run before the arbiter is asked.
        Suspecting = 4, "suspecting";
        /// The arbiter was asked and has not answered.
        AwaitingGrant = 5, "awaiting-grant";
        /// The arbiter has granted; the remaining log is run before the promotion.
        Promoting = 6, "promoting";
        /// Stopped for good.
        Stopped = 7, "stopped";
    }
}

impl From<Phase> for State {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Pairing => Self::Pairing,
            Phase::Running { .. } | Phase::SoloRunning => Self::Running,
            Phase::AtBoundary { .. } | Phase::SoloAtBoundary => Self::Waiting,
            Phase::Suspecting => Self::Suspecting,
            Phase::AwaitingGrant { .. } => Self::AwaitingGrant,
            Phase::Promoting => Self::Promoting,
            Phase::Stopped(_) => Self::Stopped,
        }
    }
}

/// How it goes with a replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// The role.
    pub role: Role,
    /// Where it stands.
    pub state: State,
    /// The mode.
    pub mode: Mode,
    /// The generation.
    pub generation: Generation,
    /// The epoch that runs, or the last one that ended.
    pub epoch: Epoch,
    /// The last epoch that the peer has run, as far as this replica knows.
    pub executed_by_peer: Epoch,
    /// Epochs that the backup has yet to run.
    pub lag_epochs: u64,
    /// Age of the oldest of them.
    pub lag_ns: u64,
    /// The newest measured round trip of the replication link; 0: none yet.
    pub link_rtt_ns: u64,
    /// Time since the shim's first instruction.
    pub uptime_ns: u64,
    /// What was counted since then.
    pub counters: Counters,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)+) => {
        /// What a shim counts.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(usize)]
        pub enum Counter {
            $($(#[$doc])* $name,)+
        }

        impl Counter {
            /// All counters, in the order in which they are on the wire.
            pub const ALL: &[Self] = &[$(Self::$name),+];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name shown to people and in JSON.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

counters! {
    /// Epochs that the guest has ended.
    Epochs = "epochs";
    /// Bytes written to the replication link.
    LinkBytesSent = "link_bytes_sent";
    /// Bytes read from the replication link.
    LinkBytesReceived = "link_bytes_received";
    /// Messages written to the replication link.
    LinkMessagesSent = "link_messages_sent";
    /// Messages read from the replication link.
    LinkMessagesReceived = "link_messages_received";
    /// Writes to the replication link's device; one may carry several messages.
    LinkWrites = "link_writes";
    /// Frames delivered to the guest.
    FramesIn = "frames_in";
    /// Frames that the guest has sent.
    FramesOut = "frames_out";
    /// Batches received from the hub.
    HubBatchesIn = "hub_batches_in";
    /// Batches sent to the hub.
    HubBatchesOut = "hub_batches_out";
    /// Frames from the hub that were dropped for want of room or because they were malformed.
    FramesDropped = "frames_dropped";
    /// Hypercalls of the guest.
    Hypercalls = "hypercalls";
    /// Interrupts taken by the shim.
    Interrupts = "interrupts";
    /// Times the processor was halted.
    Halts = "halts";
    /// Times the next epoch could not begin for another reason than a waiting guest.
    GateWaits = "gate_waits";
    /// Time spent so, in nanoseconds.
    GateWaitNs = "gate_wait_ns";
    /// Times a guest that wanted to run waited for the acknowledgement of its last epoch, and for more to come meanwhile.
    CompanyWaits = "company_waits";
    /// Time spent so, in nanoseconds.
    CompanyWaitNs = "company_wait_ns";
    /// Epochs with outputs whose outputs have left.
    OutputWaits = "output_waits";
    /// Time from the ends of these epochs until their outputs left, in nanoseconds: with a peer nearly all of it is waiting for its
    /// acknowledgement.
    OutputWaitNs = "output_wait_ns";
    /// Time spent in the guest, in nanoseconds.
    GuestNs = "guest_ns";
    /// Time spent halted, in nanoseconds.
    HaltNs = "halt_ns";
    /// Outputs sent again at a promotion.
    OutputsResent = "outputs_resent";
    /// Epochs that were ended at their full length, not by the guest; among [`Counter::Epochs`].
    EpochsCut = "epochs_cut";
}

/// The values of all counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters(pub [u64; Counter::COUNT]);

impl Counters {
    /// All zero.
    pub const ZERO: Self = Self([0; Counter::COUNT]);

    /// Counts up; wraps around after 2^64.
    pub const fn add(&mut self, counter: Counter, amount: u64) {
        self.0[counter as usize] = self.0[counter as usize].wrapping_add(amount);
    }

    /// The value of one.
    #[must_use]
    pub const fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Counter::ALL.iter().map(|counter| (counter.name(), self.get(*counter)))
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::ZERO
    }
}

/// A replica asks to move the arbiter's record to the next generation with itself active and solo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArbiterRequest {
    /// Comes back in the answer; the same when a request is repeated.
    pub request_id: u64,
    /// The generation that the record must have.
    pub expect_generation: Generation,
    /// Who asks.
    pub proposer: ReplicaId,
}

/// The arbiter's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArbiterReply {
    /// The request that is answered.
    pub request_id: u64,
    /// Whether the asker is the active solo replica of `record`.
    pub granted: bool,
    /// The record after the request.
    pub record: ArbiterRecord,
}

impl ArbiterReply {
    /// The answer to a request.
    #[must_use]
    pub const fn new(request_id: u64, grant: Grant) -> Self {
        Self { request_id, granted: grant.granted, record: grant.record }
    }
}

/// Output of the guest's console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Console<'a> {
    /// Bytes that the guest wrote before these. It is the same at both replicas, so what a promoted backup writes again
    /// is recognised.
    pub stream_offset_bytes: u64,
    /// The bytes.
    pub bytes: &'a [u8],
}

wire_enum! {
    /// How grave a log line is.
    Level {
        /// Something failed that should not have.
        Error = 1, "error";
        /// Something that an operator may want to look into.
        Warn = 2, "warn";
        /// What a user may want to know.
        Info = 3, "info";
        /// What a developer may want to know.
        Debug = 4, "debug";
    }
}

/// A line of the shim's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log<'a> {
    /// How grave it is.
    pub level: Level,
    /// The line, without a line end.
    pub text: &'a str,
}

wire_enum! {
    /// How a guest ends.
    StopKind {
        /// It asked to.
        Exit = 1, "exit";
        /// It found itself broken.
        Panic = 2, "panic";
        /// It did what it must not.
        Fault = 3, "fault";
    }
}

/// The guest has ended; both replicas say the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestStopped<'a> {
    /// How.
    pub kind: StopKind,
    /// Its exit code; the vector of a fault.
    pub code: i64,
    /// The epoch in which it ended.
    pub epoch: Epoch,
    /// What there is to say: the panic message, or registers and backtrace.
    pub report: &'a str,
}

/// A backup is now the active replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promoted {
    /// The new generation.
    pub generation: Generation,
    /// The first epoch whose events are its own.
    pub epoch: Epoch,
    /// The number of the first frame to the guest that its log does not hold.
    pub next_input_frame: u64,
}

wire_enum! {
    /// Why a replica has stopped for good.
    StoppedReason {
        /// The peer is active.
        Superseded = 1, "superseded";
        /// The peer runs something else.
        Refused = 2, "refused";
        /// The guest did not do the same here as at the primary.
        Diverged = 3, "diverged";
        /// The guest has ended.
        GuestStopped = 4, "guest-stopped";
        /// The peer goes on without this replica.
        Discarded = 5, "discarded";
        /// The pair was shut down.
        Shutdown = 6, "shutdown";
        /// The shim cannot go on: its configuration or a device is unusable.
        Failed = 7, "failed";
        /// A disk of this replica has failed, and its peer can go on.
        DiskFailed = 8, "disk-failed";
        /// The primary was lost before this newcomer held its state.
        Incomplete = 9, "incomplete";
    }
}

impl From<StopReason> for StoppedReason {
    fn from(reason: StopReason) -> Self {
        match reason {
            StopReason::Superseded { .. } => Self::Superseded,
            StopReason::Refused(_) => Self::Refused,
            StopReason::Diverged(_) => Self::Diverged,
            StopReason::GuestStopped => Self::GuestStopped,
            StopReason::Discarded => Self::Discarded,
            StopReason::Shutdown => Self::Shutdown,
            StopReason::Incomplete => Self::Incomplete,
        }
    }
}

/// A page of guest memory at the end of an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touched<'a> {
    /// The epoch.
    pub epoch: Epoch,
    /// Where the page lies in guest memory.
    pub page_offset: u64,
    /// What it holds.
    pub bytes: &'a [u8],
}

/// All pages of an epoch have been shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TouchedEnd {
    /// The epoch.
    pub epoch: Epoch,
    /// How many there are in all.
    pub pages: u64,
    /// Whether each of them was shown.
    pub complete: bool,
}

/// Blocks of mirrored disks that have changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DisksChanged<'a> {
    /// Disks and guest stand still: when these are copied, answer by [`ToShim::DisksCopied`].
    pub last: bool,
    /// There are others, to be asked for; among the last ones they follow by themselves.
    pub more: bool,
    /// Ranges, in the encoding of [`crate::resync::ChangedBlocks`].
    pub ranges: &'a [u8],
}

/// How a guest was copied while it ran.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copied {
    /// The epoch at whose end the copy is the guest's state.
    pub epoch: Epoch,
    /// Pages sent with their content; those sent again count again.
    pub pages: u64,
    /// Pages that were zero and only named.
    pub zero_pages: u64,
    /// Pages sent while the guest waited.
    pub last_pages: u64,
    /// How often the pages written to meanwhile were looked for.
    pub rounds: u64,
    /// How long the guest waited at the end.
    pub pause_ns: u64,
    /// From the first page to the end.
    pub took_ns: u64,
}

/// A replica has stopped for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped<'a> {
    /// Why.
    pub reason: StoppedReason,
    /// The same for people, with the details.
    pub text: &'a str,
}
