//! How a shim is told to run.

use core::fmt;

use crate::{Discipline, DiskConduct, Generation, Mode, ReplicaId, Role, RunMode};

/// Everything that a shim needs to know before it starts the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config<'a> {
    /// Which replica of the pair this is.
    pub replica: ReplicaId,
    /// The role at the start.
    pub role: Role,
    /// The mode at the start.
    pub mode: Mode,
    /// Whether there are epochs and a peer at all.
    pub run_mode: RunMode,
    /// Which variant of rule P2 is run.
    pub discipline: Discipline,
    /// The arbiter's generation at the start.
    pub generation: Generation,
    /// Random, for one life of the pair: names its packets to and from the hub.
    pub session: u64,
    /// Names the pair; the same in all its lives.
    pub pair_id: u64,
    /// What ends an epoch: the number of the epoch source.
    pub epoch_source: u32,
    /// Guest instructions an epoch, for the source that counts them, or ticks, for the one that counts those; otherwise 0.
    pub epoch_length_instructions: u64,
    /// The wall clock now, in nanoseconds since 1970-01-01 00:00 UTC.
    pub realtime_ns: u64,
    /// Seeds the generator that serves the guest's entropy; the same at both replicas.
    pub entropy: Seed,
    /// The primary begins no epoch while the backup has not run one that began longer ago than this.
    pub max_lag_ns: u64,
    /// Something is sent on the replication link at least this often.
    pub heartbeat_interval_ns: u64,
    /// A peer not heard for this long is taken to have failed.
    pub failure_timeout_ns: u64,
    /// A peer whose hello has not come this long after the start is taken to have failed.
    pub pairing_timeout_ns: u64,
    /// A [`super::Status`] is sent at least this often.
    pub status_interval_ns: u64,
    /// The primary begins no epoch while the backup has this many not run.
    pub max_outstanding_epochs: u32,
    /// The most bytes of event records in one epoch.
    pub max_epoch_events_bytes: u32,
    /// The primary begins no epoch while the event bytes of the epochs that the backup has not run reach this.
    pub max_outstanding_bytes: u64,
    /// Epochs' digests cover all memory that the guest has written to, and each is compared before the next epoch
    /// begins.
    pub check_determinism: bool,
    /// Which disks are shared: bit i for the i-th by name. The others are mirrored.
    pub shared_disks: u8,
    /// Which disks held nothing but zeros when the guest was started, by the same bits. The same to all who ever run with it.
    pub blank_disks: u8,
    /// The session of the link: [`Config::session`] for a new pair, another one for each newcomer.
    pub link_session: u64,
    /// This replica is a newcomer, to be taken in by a solo primary.
    pub joins: bool,
    /// This replica is a solo primary whose guest's state comes from a checkpoint, by [`super::ToShim::Pages`] and
    /// [`super::ToShim::State`].
    pub restores: bool,
    /// Behind the state come records to be replayed ([`super::ToShim::Replay`]), until [`super::ToShim::ReplayEnd`]. Only with
    /// [`Config::restores`].
    pub replays: bool,
    /// The log goes to stable storage ([`super::ToSupervisor::Record`]), and outputs wait for that.
    pub stores_log: bool,
    /// What the guest's disks have to do with that log.
    pub disk_conduct: DiskConduct,
    /// The active replica begins no epoch while so many bytes of records are on their way to storage.
    pub max_unstored_bytes: u64,
    /// Instructions or ticks by which every epoch is longer than said and compared before pairing: a counter that counts
    /// wrongly. For tests of the digest; otherwise 0.
    pub epoch_skew_instructions: u64,
    /// The guest's network.
    pub network: Network,
    /// The program's arguments, separated by spaces.
    pub arguments: &'a str,
}

/// The guest's network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// The guest's MAC address.
    pub mac: [u8; 6],
    /// The guest's IPv4 address; zero with DHCP.
    pub address: [u8; 4],
    /// Length of the network prefix, 0 to 32 bits.
    pub prefix_bits: u8,
    /// The default gateway; zero if there is none.
    pub gateway: [u8; 4],
    /// The longest IP packet.
    pub mtu_bytes: u16,
    /// Ask the network for the address instead.
    pub dhcp: bool,
    /// Fill in and verify checksums: needed when frames leave the host as they are.
    pub checksums: bool,
}

impl Network {
    /// The longest network prefix.
    pub const MAX_PREFIX_BITS: u8 = 32;
}

/// A secret that never shows in a log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(secret)")
    }
}
