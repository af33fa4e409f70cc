//! How a replica starts.

use core::fmt;

use crate::link::Identity;
use crate::{Generation, Mode, ReplicaId, Role};

/// How a replica starts. Durations are in nanoseconds of the caller's monotonic clock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Config {
    /// Which replica of the pair this is.
    pub replica: ReplicaId,
    /// The role at the start; a solo replica is a primary.
    pub role: Role,
    /// The arbiter's generation at the start.
    pub generation: Generation,
    /// Paired, or solo from the start (then no message is ever sent).
    pub mode: Mode,
    /// What must be equal at the peer, the discipline (original or revised) among it.
    pub identity: Identity,
    /// The primary begins no epoch while the backup has not run one that began longer ago than this.
    pub max_lag_ns: u64,
    /// Something is sent at least this often while paired.
    pub heartbeat_interval_ns: u64,
    /// A peer not heard for this long is taken to have failed; at least four heartbeat intervals.
    pub failure_timeout_ns: u64,
    /// A peer whose hello has not come this long after the start is taken to have failed.
    pub pairing_timeout_ns: u64,
    /// The primary begins no epoch while the backup has this many not run.
    pub max_outstanding_epochs: u32,
    /// The primary begins no epoch while the event bytes of the epochs that the backup has not run reach this.
    pub max_outstanding_bytes: u64,
    /// The most bytes of event records in one epoch; what the peer accepts bounds it further
    /// ([`super::Replica::max_epoch_events_bytes`]).
    pub max_epoch_events_bytes: u32,
    /// Whether the caller reports with [`super::Replica::confirm_released`] when released outputs have left its
    /// devices' queues. If `false`, a [`super::Command::Release`] counts as done at once, and an output that dies in a queue
    /// of a killed machine is not sent again at promotion.
    pub confirms_releases: bool,
    /// Whether an epoch is done only when the backup has compared its digest. Until then its outputs stay and the next
    /// epoch does not begin: when digests differ, both guests still stand at the end of the epoch in which they came
    /// apart. Costs a round trip an epoch.
    pub compares_first: bool,
    /// A backup that is to be taken in by a solo primary ([`super::Input::PeerJoins`] there): it holds nothing until the state of
    /// the primary's guest has come, and is a full member of the pair when it is told [`crate::link::Message::Joined`].
    pub joins: bool,
    /// Whether the log is stored where it outlives both replicas ([`super::Command::Store`]): outputs wait for that, too. Both
    /// replicas must be told the same.
    pub stores_log: bool,
    /// Whether the stored log is to be enough to restore the guest's disks, too. Both replicas must be told the same, and only
    /// with [`Config::stores_log`].
    pub logs_disks: bool,
    /// The active replica begins no epoch while so many bytes of records are on their way to storage
    /// ([`super::STORED_RECORD_BYTES`] and its events for each).
    pub max_unstored_bytes: u64,
}

/// Why a [`Config`] cannot be run.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConfigError {
    /// A replica without a peer must be a primary.
    SoloBackup,
    /// Only the backup of a pair can be taken in.
    JoinsAlone,
    /// A duration or bound that must be positive is zero; its field's name.
    Zero(&'static str),
    /// The event bytes of one epoch would not hold one frame.
    EpochEventsTooShort {
        /// What was given.
        max_epoch_events_bytes: u32,
    },
    /// The failure timeout is shorter than four heartbeat intervals: ordinary jitter would look like death.
    FailureTimeoutTooShort {
        /// What was given.
        failure_timeout_ns: u64,
        /// Four heartbeat intervals.
        at_least_ns: u64,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SoloBackup => f.write_str("a solo replica must be started as primary, not as backup"),
            Self::JoinsAlone => f.write_str("a replica that joins must be started as a pair's backup"),
            Self::Zero(field) => write!(f, "{field} must be greater than zero"),
            Self::EpochEventsTooShort { max_epoch_events_bytes } => write!(
                f,
                "max_epoch_events_bytes is {max_epoch_events_bytes}: raise it to at least {}",
                super::MIN_EPOCH_EVENTS_BYTES
            ),
            Self::FailureTimeoutTooShort { failure_timeout_ns, at_least_ns } => write!(
                f,
                "failure_timeout_ns is {failure_timeout_ns}, but four heartbeat intervals are {at_least_ns}: raise it to that"
            ),
        }
    }
}

impl core::error::Error for ConfigError {}
