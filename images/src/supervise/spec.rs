//! What a supervisor is told to run.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::ValueEnum;
use protocol::{Discipline, EpochSource, ReplicaId, RunMode};
use serde::{Deserialize, Serialize};

use super::boot_text::{self, Variable};
use super::net::Net;
use crate::disk::{DiskFault, DiskSpec, Kind};
use crate::qemu::{Accelerator, Machine};

/// A published port as the command line names it: `[ADDRESS:]HOSTPORT:GUESTPORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The address to listen on.
    pub address: IpAddr,
    /// The host's port; 0 lets the system choose.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl FromStr for Publish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected [ADDRESS:]HOSTPORT:GUESTPORT, such as 6379:6379, got {text:?}");
        let (front, guest) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (address, host) = match front.rsplit_once(':') {
            Some((address, host)) => (address.trim_matches(['[', ']']).parse().map_err(|_| wrong())?, host),
            None => (IpAddr::from([127, 0, 0, 1]), front),
        };
        let host = host.parse().map_err(|_| wrong())?;
        let guest = guest.parse().map_err(|_| wrong())?;
        if guest == 0 { Err(wrong()) } else { Ok(Self { address, host, guest }) }
    }
}

/// Which variant of rule P2 is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ProtocolName {
    /// At every epoch's end the primary waits for all acknowledgements (Bressoud and Schneider's first protocol).
    Original,
    /// The primary does not wait; outputs do (output commit).
    Revised,
}

impl ProtocolName {
    /// The protocol crate's name for it.
    pub fn discipline(self) -> Discipline {
        match self {
            Self::Original => Discipline::Original,
            Self::Revised => Discipline::Revised,
        }
    }
}

/// What is done when a pair has lost a replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RejoinName {
    /// A new one is brought in at once.
    #[default]
    Auto,
    /// The survivor stays alone until `cargo pollux rejoin`.
    Manual,
}

/// Where the machines' threads run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum PlacementName {
    /// Wherever the system puts them, unless that makes twins wait for each other while a processor is idle: then all threads of each
    /// machine run on a processor of its own.
    #[default]
    Auto,
    /// All threads of each machine, while it is busy, on a processor of its own: with exact epochs the fastest, where nobody else wants
    /// these processors.
    Together,
    /// Those that run guests' processors are held while busy, where the host is idlest, each on another processor than its twin's.
    Hold,
    /// Wherever the system puts them.
    Free,
}

impl PlacementName {
    /// Whether it is for whole machines, with all their threads.
    pub fn is_of_machines(self) -> bool {
        matches!(self, Self::Auto | Self::Together)
    }
}

/// Whether what happens between two checkpoints is stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogName {
    /// Every record, before what follows from it leaves.
    Durable,
    /// Nothing.
    #[default]
    None,
}

impl LogName {
    /// The lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::None => "none",
        }
    }
}

/// How often a checkpoint is taken: `10s`, `500ms`, or `20000-epochs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Every {
    /// After so many milliseconds.
    Time(u64),
    /// After so many epochs.
    Epochs(u64),
}

impl Every {
    /// The shortest time between two: far longer than a backup may lag.
    const MIN_MS: u64 = 100;
}

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a time such as 10s or 500ms (at least 100ms), or 20000-epochs, got {text:?}");
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| wrong());
        let every = if let Some(epochs) = text.strip_suffix("-epochs") {
            Self::Epochs(number(epochs)?)
        } else if let Some(ms) = text.strip_suffix("ms") {
            Self::Time(number(ms)?)
        } else if let Some(seconds) = text.strip_suffix('s') {
            Self::Time(number(seconds)?.saturating_mul(1_000))
        } else {
            return Err(wrong());
        };
        let positive = match every {
            Self::Time(ms) => ms >= Self::MIN_MS,
            Self::Epochs(epochs) => epochs > 0,
        };
        if positive { Ok(every) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for Every {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Every> for String {
    fn from(every: Every) -> Self {
        every.to_string()
    }
}

impl fmt::Display for Every {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(ms) if ms.is_multiple_of(1_000) => write!(f, "{}s", ms / 1_000),
            Self::Time(ms) => write!(f, "{ms}ms"),
            Self::Epochs(epochs) => write!(f, "{epochs}-epochs"),
        }
    }
}

/// What outlives both replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageSpec {
    /// Where it lies; absolute.
    pub folder: PathBuf,
    /// How often a checkpoint is taken.
    pub every: Every,
    /// Whether the log is stored.
    pub log: LogName,
}

/// A stored log that is run again, for itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplaySpec {
    /// Where it lies; absolute.
    pub folder: PathBuf,
    /// The checkpoint to begin with, if not the oldest that the log leads on from.
    pub checkpoint: Option<PathBuf>,
    /// The last epoch to run; `None`: all.
    pub until: Option<u64>,
    /// Whether a debugger shall find the guest there.
    pub gdb: bool,
}

/// The longest epoch, in instructions or ticks: a guest that never waits is not heard of for so long.
const LONGEST: u64 = 1_000_000_000;

/// What ends an epoch, as the command line names it: `cooperative`, `exact:INSTRUCTIONS` or `counted:TICKS`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EpochSpec {
    /// The guest, by waiting.
    #[default]
    Cooperative,
    /// The machine, after so many instructions of the guest.
    Exact(u64),
    /// The guest itself, after so many of its ticks: it must have been built to count them.
    Counted(u64),
}

impl EpochSpec {
    /// The protocol crate's name for it.
    pub fn source(self) -> EpochSource {
        match self {
            Self::Cooperative => EpochSource::Cooperative,
            Self::Exact(_) => EpochSource::Exact,
            Self::Counted(_) => EpochSource::Counted,
        }
    }

    /// Instructions or ticks of an epoch, or 0.
    pub fn length(self) -> u64 {
        match self {
            Self::Cooperative => 0,
            Self::Exact(length) | Self::Counted(length) => length,
        }
    }

    /// Whether the guest must count its ticks.
    pub fn needs_ticks(self) -> bool {
        matches!(self, Self::Counted(_))
    }

    /// Whether the machine must count instructions.
    pub fn needs_icount(self) -> bool {
        matches!(self, Self::Exact(_))
    }
}

impl FromStr for EpochSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "expected cooperative, exact:INSTRUCTIONS ({} to {LONGEST}) or counted:TICKS ({} to {LONGEST}), such as \
                 exact:50000, got {text:?}",
                EpochSource::Exact.least_length(),
                EpochSource::Counted.least_length()
            )
        };
        if text == "cooperative" {
            return Ok(Self::Cooperative);
        }
        let (source, length) = text.split_once(':').ok_or_else(wrong)?;
        let length = length.parse().map_err(|_| wrong())?;
        let spec = match source {
            "exact" => Self::Exact(length),
            "counted" => Self::Counted(length),
            _ => return Err(wrong()),
        };
        if (spec.source().least_length()..=LONGEST).contains(&length) { Ok(spec) } else { Err(wrong()) }
    }
}

impl TryFrom<String> for EpochSpec {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EpochSpec> for String {
    fn from(spec: EpochSpec) -> Self {
        spec.to_string()
    }
}

impl fmt::Display for EpochSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cooperative => f.write_str("cooperative"),
            Self::Exact(length) => write!(f, "exact:{length}"),
            Self::Counted(length) => write!(f, "counted:{length}"),
        }
    }
}

/// How the image is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunName {
    /// One virtual machine, without epochs and log.
    Bare,
    /// One virtual machine with epochs.
    Solo,
    /// Two virtual machines in lockstep.
    Pair,
    /// One virtual machine without epochs, which is cut every so many instructions and goes on at once: a measure of what the
    /// machine takes for that.
    Cut,
}

impl RunName {
    /// The protocol crate's name for it.
    pub fn run_mode(self) -> RunMode {
        match self {
            Self::Bare => RunMode::Bare,
            Self::Solo => RunMode::Solo,
            Self::Pair => RunMode::Pair,
            Self::Cut => RunMode::Cut,
        }
    }

    /// Whether there are epochs.
    pub fn has_epochs(self) -> bool {
        self.run_mode().has_epochs()
    }

    /// How many virtual machines it takes.
    pub fn replicas(self) -> usize {
        if self == Self::Pair { 2 } else { 1 }
    }
}

/// Times and bounds of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tuning {
    /// The primary slows down rather than let the backup fall further behind.
    pub max_lag_ms: u64,
    /// Something is sent on the link at least this often.
    pub heartbeat_ms: u64,
    /// Silence for so long is a failure.
    pub failure_timeout_ms: u64,
    /// The peer's first word may take so long.
    pub pairing_timeout_ms: u64,
    /// A shim tells its status at least this often.
    pub status_interval_ms: u64,
    /// A start that takes longer has failed.
    pub start_timeout_ms: u64,
    /// Epochs that the backup may have yet to run.
    pub max_outstanding_epochs: u32,
    /// Event bytes of those epochs.
    pub max_outstanding_bytes: u64,
    /// Event bytes of one epoch: they must fit into the guest's ring.
    pub max_epoch_events_bytes: u32,
}

/// Event bytes of the epochs that the backup has yet to run. They must fit, with the largest record on top, into the
/// buffers of the link's socket: QEMU's virtconsole does not wait for room, it drops what the other end has not read, and
/// the link would count as failed. (Linux gives 208 KiB unless told otherwise.)
const MAX_OUTSTANDING_BYTES: u64 = 128 * 1024;

impl Default for Tuning {
    fn default() -> Self {
        Self {
            max_lag_ms: 50,
            heartbeat_ms: 20,
            failure_timeout_ms: 250,
            pairing_timeout_ms: 5_000,
            status_interval_ms: 100,
            start_timeout_ms: 20_000,
            max_outstanding_epochs: 4096,
            max_outstanding_bytes: MAX_OUTSTANDING_BYTES,
            max_epoch_events_bytes: hypercall::layout::RING_BYTES / 2,
        }
    }
}

impl Tuning {
    /// Least silence that counts as a failure when memory is compared: a shim that reads all of a large guest's memory
    /// says nothing meanwhile. A process that dies is noticed at once all the same.
    const MIN_CHECKING_TIMEOUT_MS: u64 = 5_000;

    /// With the times that a pair needs whose memory is compared.
    #[must_use]
    pub fn with_patience(self, check_determinism: bool) -> Self {
        let least_ms = if check_determinism { Self::MIN_CHECKING_TIMEOUT_MS } else { 0 };
        Self { failure_timeout_ms: self.failure_timeout_ms.max(least_ms), ..self }
    }
}

/// What makes the second replica differ from the first: for tests of the refusal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupOverrides {
    /// Another image.
    pub image: Option<PathBuf>,
    /// Another size of guest memory.
    pub memory_mib: Option<u32>,
    /// Further QEMU arguments, such as another processor.
    pub qemu_args: Vec<String>,
    /// Instructions or ticks that each of its epochs is too long.
    #[serde(default)]
    pub epoch_skew: u64,
    /// Another environment.
    #[serde(default)]
    pub environment: Option<Vec<Variable>>,
}

/// What a replica's machine is made of on the host; `pollux migrate` changes it while the pair runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostOptions {
    /// The QEMU program, if it is another one.
    pub qemu: Option<PathBuf>,
    /// Further arguments of it, behind those that both replicas have had from the start.
    pub qemu_args: Vec<String>,
    /// The host's processors that it may run on; empty: all that the supervisor may use.
    pub processors: Vec<usize>,
}

/// Everything a supervisor needs to know; it comes to it as JSON on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// The pair's name.
    pub name: String,
    /// The app's name.
    pub app: String,
    /// The image.
    pub image: PathBuf,
    /// SHA-256 of it.
    pub image_id: String,
    /// The guest with symbols, for reports.
    pub guest_elf: Option<PathBuf>,
    /// How to run it.
    pub run: RunName,
    /// Whether the pair ends with the program that started it. Otherwise only until it serves.
    #[serde(default)]
    pub ends_with_starter: bool,
    /// Go on from this checkpoint.
    #[serde(default)]
    pub restore: Option<PathBuf>,
    /// What is done when a replica is lost.
    #[serde(default)]
    pub rejoin: RejoinName,
    /// Where vCPU threads run.
    #[serde(default)]
    pub placement: PlacementName,
    /// Which protocol.
    pub protocol: ProtocolName,
    /// What ends an epoch.
    #[serde(default)]
    pub epoch: EpochSpec,
    /// Whether all memory that the guest writes to is compared.
    #[serde(default)]
    pub check_determinism: bool,
    /// Guest memory.
    pub memory_mib: u32,
    /// Resolved: not `auto`.
    pub accelerator: Accelerator,
    /// The emulated machine.
    pub machine: Machine,
    /// Where the guest's network leads.
    pub net: Net,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// Whether the guest reaches the host's loopback at the gateway's address.
    pub allow_host: bool,
    /// The program's arguments.
    pub arguments: String,
    /// The program's environment.
    #[serde(default)]
    pub environment: Vec<Variable>,
    /// Times and bounds.
    pub tuning: Tuning,
    /// Disks.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Faults of disks, for tests.
    #[serde(default)]
    pub disk_faults: Vec<DiskFault>,
    /// Further QEMU arguments for both replicas.
    pub qemu_args: Vec<String>,
    /// How the second replica differs.
    pub backup: BackupOverrides,
    /// What machines that start from now on are made of.
    #[serde(default)]
    pub host: HostOptions,
    /// What outlives both replicas.
    #[serde(default)]
    pub storage: Option<StorageSpec>,
    /// A stored log is run again, and nothing else.
    #[serde(default)]
    pub replay: Option<ReplaySpec>,
}

impl Spec {
    /// What the program is told when it starts, by this replica.
    ///
    /// # Errors
    /// It is too long.
    pub fn boot_text(&self, id: ReplicaId) -> Result<String, String> {
        let different = self.backup.environment.as_ref().filter(|_| id == ReplicaId::ONE);
        boot_text::compose(&self.arguments, different.unwrap_or(&self.environment))
    }

    /// Which disks are shared, as the shims are told: bit i for the i-th by name.
    pub fn shared_disks(&self) -> u8 {
        let mut disks: Vec<_> = self.disks.iter().map(|disk| (&disk.name, disk.kind == Kind::Shared)).collect();
        disks.sort_unstable();
        // A guest has fewer disks than a byte has bits.
        disks.iter().enumerate().fold(0, |bits, (index, (_, shared))| bits | u8::from(*shared) << index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_sources_are_read() {
        let parse = |text: &str| text.parse::<EpochSpec>();
        for spec in [EpochSpec::Cooperative, EpochSpec::Exact(100), EpochSpec::Exact(1_000_000), EpochSpec::Counted(10)]
        {
            assert_eq!(parse(&spec.to_string()), Ok(spec));
        }
        for wrong in [
            "",
            "exact",
            "exact:",
            "exact:0",
            "exact:99",
            "exact:-5",
            "exact:1e6",
            "counted",
            "exact:99999999999",
            "counted:9",
            "counted:x",
            "cooperative:1000",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?} passes");
        }
    }

    #[test]
    fn intervals_of_checkpoints_are_read() {
        for (text, every) in
            [("10s", Every::Time(10_000)), ("250ms", Every::Time(250)), ("20000-epochs", Every::Epochs(20_000))]
        {
            assert_eq!(text.parse(), Ok(every));
            assert_eq!(every.to_string(), text);
        }
        for text in ["", "10", "0s", "99ms", "0-epochs", "-epochs", "1m", "xs"] {
            let error = text.parse::<Every>().expect_err(text);
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn published_ports_are_read() {
        let parse = |text: &str| text.parse::<Publish>();
        let local = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(parse("6379:80"), Ok(Publish { address: local, host: 6379, guest: 80 }));
        assert_eq!(parse("0.0.0.0:1:2"), Ok(Publish { address: [0, 0, 0, 0].into(), host: 1, guest: 2 }));
        assert_eq!(parse("[::1]:1:2").map(|publish| publish.address.to_string()), Ok("::1".to_owned()));
        for wrong in ["", "80", "80:", ":80", "1:0", "65536:1", "1:65536", "x:1", "1.2.3:1:2"] {
            assert!(parse(wrong).is_err(), "{wrong:?} passes");
        }
    }
}
