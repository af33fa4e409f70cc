//! The messages of the replication link.
//!
//! Order and integrity come from the framing layer ([`crate::frame`]); this module says what the frames mean.

mod codec;
pub(crate) mod state;

pub use codec::*;

use core::fmt;

use crate::types::wire_enum;
use crate::{Clocks, Discipline, Epoch, Generation, ReplicaId, Role};

/// One message of the replication link; bulk is borrowed from the receive buffer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Message<'a> {
    /// The first message in each direction.
    Hello(Hello),
    /// The sender will not pair and stops.
    Refuse(Mismatch),
    /// Everything that the backup needs to run an epoch (rules P1 and P2).
    EpochStart(EpochStart<'a>),
    /// What the backup holds and has run.
    Ack(Ack),
    /// The primary is alive; sent when nothing else was for a heartbeat interval.
    Heartbeat(Heartbeat),
    /// The backup has found a digest that differs from the primary's, and stops.
    Diverged(Divergence),
    /// The sender will send no more.
    Goodbye(Goodbye),
    /// Pages of the primary's guest, for a newcomer that holds none yet.
    Pages(Pages<'a>),
    /// The newcomer has put so many [`Message::Pages`] into its memory since it was started.
    PagesHeld {
        /// How many messages.
        messages: u64,
    },
    /// Everything else of the primary's state, behind the last of its pages: with it the newcomer is a backup.
    State(JoinState<'a>),
    /// The arbiter's record is paired: the newcomer is a full member of the pair.
    Joined {
        /// The generation of the record.
        generation: Generation,
    },
}

/// What a replica says of itself before it pairs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Hello {
    /// What must be equal on both sides.
    pub identity: Identity,
    /// Which replica of the pair the sender is.
    pub replica: ReplicaId,
    /// The role that the supervisor gave to the sender.
    pub role: Role,
    /// The generation in which the sender was started.
    pub generation: Generation,
    /// The most bytes of event records that the sender accepts in one epoch.
    pub max_epoch_events_bytes: u32,
}

/// What must be equal for two replicas to run one program in lockstep.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    /// Version of the ABI between guest and shim.
    pub abi_version: u32,
    /// Version of the replication protocol.
    pub protocol_version: u32,
    /// Digest of the whole image, shim and guest.
    pub image: [u8; 32],
    /// Size of the guest's memory.
    pub guest_memory_bytes: u64,
    /// Digest of all CPU features that a guest can see.
    pub cpu: [u8; 32],
    /// Digest of the boot arguments and the environment, of the network configuration and of the disks' names and sizes.
    pub guest_config: [u8; 32],
    /// What ends an epoch: the number of the epoch source.
    pub epoch_source: u32,
    /// Which variant of rule P2 is run.
    pub discipline: Discipline,
}

wire_enum! {
    /// What two replicas can disagree about when they pair.
    IdentityField {
        /// [`Identity::protocol_version`].
        ProtocolVersion = 1, "protocol version";
        /// [`Identity::abi_version`].
        AbiVersion = 2, "ABI version";
        /// [`Identity::image`].
        Image = 3, "image";
        /// [`Identity::guest_memory_bytes`].
        GuestMemory = 4, "guest memory";
        /// [`Identity::cpu`].
        Cpu = 5, "CPU features";
        /// [`Identity::guest_config`].
        GuestConfig = 6, "boot arguments, environment, network configuration or disks";
        /// [`Identity::epoch_source`].
        EpochSource = 7, "epoch source";
        /// [`Identity::discipline`].
        Discipline = 8, "protocol";
        /// [`Hello::role`]: a pair has one primary and one backup.
        Role = 9, "role";
        /// [`Hello::replica`]: a pair has one replica 0 and one replica 1.
        Replica = 10, "replica number";
        /// [`Hello::generation`].
        Generation = 11, "generation";
    }
}

/// The first thing in which two replicas differ. Digests are given by their first eight bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Mismatch {
    /// What differs.
    pub field: IdentityField,
    /// The value at the replica that speaks.
    pub ours: u64,
    /// The value at its peer.
    pub theirs: u64,
}

/// The log record that starts an epoch: [E, events], the clock values, and [end, E-1].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EpochStart<'a> {
    /// The epoch E that this record starts.
    pub epoch: Epoch,
    /// The digest of epoch E-1 at the primary; 0 for epoch 1.
    pub prev_digest: u64,
    /// The clocks that the guest sees during E.
    pub clocks: Clocks,
    /// The outputs of all epochs up to this one are known to have left the primary; 0: none.
    pub released_through: Epoch,
    /// When the record was sent, by the sender's clock.
    pub sent_ns: u64,
    /// The events delivered at the start of E, as event records ([`crate::event`]).
    pub events: &'a [u8],
}

/// What the backup holds and has run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ack {
    /// The backup holds the records of all epochs up to this one.
    pub received_through: Epoch,
    /// The backup has run all epochs up to this one.
    pub executed_through: Epoch,
    /// The backup's disks have done all requests with numbers below this. Numbers are those of
    /// [`hypercall::disk::Completion`].
    pub disks_done_below: u64,
    /// `sent_ns` of the newest message that this one answers, so that the primary can measure the round trip;
    /// 0 if it answers none.
    pub echo_ns: u64,
}

/// The primary is alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Heartbeat {
    /// The last epoch that has ended at the primary; 0: none.
    pub ended_epoch: Epoch,
    /// The digest of that epoch; 0 if there is none.
    pub ended_digest: u64,
    /// As in [`EpochStart::released_through`].
    pub released_through: Epoch,
    /// When it was sent, by the sender's clock.
    pub sent_ns: u64,
}

/// Two replicas ran an epoch from the same record and did not do the same.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Divergence {
    /// The first epoch known to differ.
    pub epoch: Epoch,
    /// Its digest at the replica that speaks.
    pub ours: u64,
    /// Its digest at the peer.
    pub theirs: u64,
}

/// Pages of guest memory on their way to a newcomer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pages<'a> {
    /// One record a page or a run of zero pages, in the caller's encoding ([`crate::link`] only carries them).
    pub records: &'a [u8],
}

/// Where the log of a newcomer begins, and the state of the guest there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct JoinState<'a> {
    /// The state is that at the end of this epoch.
    pub epoch: Epoch,
    /// The digest of that epoch.
    pub digest: u64,
    /// The clocks of that epoch.
    pub clocks: Clocks,
    /// The outputs of all epochs up to this one are known to have left the primary.
    pub released_through: Epoch,
    /// Registers and the shim's guest-visible state, in the caller's encoding.
    pub state: &'a [u8],
}

/// The last message of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Goodbye {
    /// Why it goes.
    pub reason: GoodbyeReason,
    /// The sender's generation.
    pub generation: Generation,
}

wire_enum! {
    /// Why a replica ends the conversation.
    GoodbyeReason {
        /// The sender is the active solo replica of the generation in the message: the receiver must stop.
        Superseded = 1, "superseded";
        /// The guest has ended and all its outputs are released.
        GuestStopped = 2, "guest stopped";
        /// The pair is being shut down: the receiver stops as well.
        Shutdown = 3, "shutdown";
        /// The sender goes on without the receiver, which must stop.
        Discarded = 4, "discarded";
        /// The sender has stopped at a boundary, everything is released and run, and the receiver shall take over.
        HandOver = 5, "hand over";
    }
}

impl Identity {
    /// Compares what must be equal, in the same order on both sides, so that both name the same field.
    pub fn compare(&self, other: &Self) -> Result<(), Mismatch> {
        let differ = |field, ours: u64, theirs: u64| {
            if ours == theirs { Ok(()) } else { Err(Mismatch { field, ours, theirs }) }
        };
        differ(IdentityField::ProtocolVersion, self.protocol_version.into(), other.protocol_version.into())?;
        differ(IdentityField::AbiVersion, self.abi_version.into(), other.abi_version.into())?;
        compare_digests(IdentityField::Image, &self.image, &other.image)?;
        differ(IdentityField::GuestMemory, self.guest_memory_bytes, other.guest_memory_bytes)?;
        compare_digests(IdentityField::Cpu, &self.cpu, &other.cpu)?;
        compare_digests(IdentityField::GuestConfig, &self.guest_config, &other.guest_config)?;
        differ(IdentityField::EpochSource, self.epoch_source.into(), other.epoch_source.into())?;
        differ(IdentityField::Discipline, self.discipline.code().into(), other.discipline.code().into())
    }
}

fn compare_digests(field: IdentityField, ours: &[u8; 32], theirs: &[u8; 32]) -> Result<(), Mismatch> {
    if ours == theirs {
        return Ok(());
    }
    let head = |digest: &[u8; 32]| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(bytes)
    };
    Err(Mismatch { field, ours: head(ours), theirs: head(theirs) })
}

impl Hello {
    /// Whether the sender of `self` and the sender of `other` can be paired.
    pub fn compare(&self, other: &Self) -> Result<(), Mismatch> {
        self.identity.compare(&other.identity)?;
        let refuse = |field, ours: u64, theirs: u64| Err(Mismatch { field, ours, theirs });
        if self.role == other.role {
            let role = self.role.code().into();
            return refuse(IdentityField::Role, role, role);
        }
        if self.replica == other.replica {
            let number = self.replica.get().into();
            return refuse(IdentityField::Replica, number, number);
        }
        if self.generation != other.generation {
            return refuse(IdentityField::Generation, self.generation, other.generation);
        }
        Ok(())
    }
}

impl Mismatch {
    /// The same difference as the peer sees it.
    pub const fn swapped(self) -> Self {
        Self { field: self.field, ours: self.theirs, theirs: self.ours }
    }
}

impl Divergence {
    /// The same difference as the peer sees it.
    pub const fn swapped(self) -> Self {
        Self { epoch: self.epoch, ours: self.theirs, theirs: self.ours }
    }
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {} differs: digest {:016x} here, {:016x} at the peer", self.epoch, self.ours, self.theirs)
    }
}

impl core::error::Error for Divergence {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, ours, theirs } = *self;
        match field {
            IdentityField::ProtocolVersion | IdentityField::AbiVersion => write!(
                f,
                "{field} differs: {ours} here, {theirs} at the peer; build both replicas from the same source"
            ),
            IdentityField::Image => write!(
                f,
                "image differs: it begins with digest {ours:016x} here, {theirs:016x} at the peer; start both replicas from the same image"
            ),
            IdentityField::GuestMemory => write!(
                f,
                "guest memory differs: {ours} bytes here, {theirs} bytes at the peer; start both replicas with the same memory size"
            ),
            IdentityField::Cpu => write!(
                f,
                "CPU features differ: digest {ours:016x} here, {theirs:016x} at the peer; start both replicas with the same CPU model and accelerator"
            ),
            IdentityField::GuestConfig => write!(
                f,
                "boot arguments, environment, network configuration or disks differ: digest {ours:016x} here, {theirs:016x} at the peer; give both replicas the same ones"
            ),
            IdentityField::EpochSource => write!(
                f,
                "epoch source differs: number {ours} here, {theirs} at the peer; start both replicas with the same one"
            ),
            IdentityField::Discipline => write!(
                f,
                "protocol differs: {} here, {} at the peer; start both replicas with the same --protocol",
                coded_name(ours, |code| Discipline::from_code(code).map(Discipline::name)),
                coded_name(theirs, |code| Discipline::from_code(code).map(Discipline::name))
            ),
            IdentityField::Role => write!(
                f,
                "both replicas were started as {}; a pair needs one primary and one backup",
                coded_name(ours, |code| Role::from_code(code).map(Role::name))
            ),
            IdentityField::Replica => {
                write!(f, "both replicas were started as number {ours}; a pair needs one 0 and one 1")
            }
            IdentityField::Generation => write!(
                f,
                "generation differs: {ours} here, {theirs} at the peer; one of them belongs to an earlier life of the pair: start both anew"
            ),
        }
    }
}

impl core::error::Error for Mismatch {}

fn coded_name(value: u64, name: impl Fn(u8) -> Option<&'static str>) -> &'static str {
    u8::try_from(value).ok().and_then(name).unwrap_or("an unknown one")
}
