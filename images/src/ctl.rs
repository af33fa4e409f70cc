//! What the command and a supervisor say to each other over the socket in the pair's folder: one JSON object a line.

mod long;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::disk::Kind;
use crate::error::{Context, Error, Result};
use crate::state::{self, StateDir};
use crate::supervise::spec::{HostOptions, RejoinName};

/// How long a supervisor may take to answer. It answers within a turn of its loop, and `down` within a second or two.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Which replica a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// The active replica.
    Primary,
    /// The other one.
    Backup,
}

/// Signals that `kill` sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "UPPERCASE")]
#[value(rename_all = "UPPER")]
pub enum SignalName {
    /// Ends the process at once.
    Kill,
    /// Freezes it.
    Stop,
    /// Lets a frozen process go on.
    Cont,
}

/// What becomes of a message on its way over the replication link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LinkDamage {
    /// One bit of it is another.
    Flip,
    /// Its last byte is missing.
    Truncate,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// How it goes.
    Status,
    /// Send a signal to a replica's QEMU.
    Kill {
        /// Which one.
        role: RoleName,
        /// Which signal.
        signal: SignalName,
    },
    /// Close the replication link, as a broken cable would.
    CutLink,
    /// Put bytes that are no message into the stream that a replica reads from the replication link.
    GarbageOnLink {
        /// Which replica reads them.
        role: RoleName,
    },
    /// Send bytes that are on their way to a replica once more, or damage them.
    ReplayOnLink {
        /// Which replica reads them; it must be frozen, or it has read them already.
        role: RoleName,
        /// What is done to them instead of repeating them.
        damage: Option<LinkDamage>,
    },
    /// Take a checkpoint.
    Checkpoint {
        /// Where to; absolute.
        path: PathBuf,
        /// Only what has changed since this one, which must be the newest.
        since: Option<PathBuf>,
    },
    /// Record all that happens to the guest from now on.
    Record {
        /// The folder; absolute.
        path: PathBuf,
    },
    /// End the recording.
    StopRecording,
    /// Bring in a new replica for one that has gone.
    Rejoin,
    /// Let the backup take over, and bring in a new one.
    SwitchOver,
    /// Renew both machines, with these options.
    Migrate {
        /// The options.
        host: HostOptions,
    },
    /// Bytes for the guest's console.
    ConsoleInput {
        /// The text.
        text: String,
    },
    /// Stop everything.
    Down,
}

/// An answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<PairStatus>),
    /// To [`Request::Kill`].
    Killed {
        /// The process that got the signal.
        pid: i32,
    },
    /// Done.
    Done,
    /// Refused.
    Error(String),
}

/// A pair, as `status --json` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PairStatus {
    /// Its name.
    pub name: String,
    /// The app it runs.
    pub app: String,
    /// SHA-256 of the image.
    pub image_id: String,
    /// The arbiter's generation.
    pub generation: u64,
    /// `paired`, `solo`, or `bare` for an image without epochs.
    pub mode: String,
    /// `original` or `revised`.
    pub protocol: String,
    /// What ends an epoch, as `up --epoch` names it.
    pub epochs: String,
    /// Whether clients are served.
    pub serving: bool,
    /// From the start to serving, in milliseconds; 0 as long as it does not serve.
    pub start_ms: u64,
    /// Since the start, in seconds.
    pub uptime_s: f64,
    /// The guest's network.
    pub net: NetStatus,
    /// Published ports.
    pub publish: Vec<PublishStatus>,
    /// Disks, as `up --disk` has named them.
    pub disks: Vec<DiskStatus>,
    /// Virtual machines that run, the primary first.
    pub replicas: Vec<ReplicaStatus>,
    /// Virtual machines that have ended.
    pub ended: Vec<EndedStatus>,
    /// How the guest ended, if it has.
    pub guest_stopped: Option<GuestStoppedStatus>,
    /// Where the replicas came apart, with `--check-determinism`.
    pub divergence: Option<DivergenceStatus>,
    /// Bringing in new replicas.
    pub rejoin: RejoinStatus,
    /// Renewing of both machines.
    #[serde(default)]
    pub migration: MigrationStatus,
    /// Checkpoints.
    pub checkpoints: CheckpointStatus,
    /// What outlives both replicas, if anything does.
    pub storage: Option<StorageStatus>,
    /// What the hub and the forwarder have counted.
    pub hub: BTreeMap<String, u64>,
    /// What has happened, oldest first; only the newest are kept.
    pub events: Vec<EventStatus>,
    /// Process id of the supervisor.
    pub supervisor_pid: i32,
}

/// Checkpoints of a pair.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointStatus {
    /// How many were taken.
    pub taken: u64,
    /// How many could not be.
    pub failed: u64,
    /// The newest.
    pub newest: Option<TakenStatus>,
    /// How its guest was copied while it ran.
    pub copy: Option<CopyStatus>,
}

/// Stable storage of a pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StorageStatus {
    /// Where it is.
    pub folder: PathBuf,
    /// `restart` or `recording`.
    pub purpose: String,
    /// How often a checkpoint is taken.
    pub every: Option<String>,
    /// `durable`: no output leaves before what it follows from is stored; or `none`.
    pub log: String,
    /// The last epoch whose record is stored.
    pub stored_through: u64,
    /// Epochs whose records are on their way.
    pub waiting_epochs: u64,
    /// Checkpoints that this pair has taken.
    pub checkpoints: u64,
    /// The epoch of the newest one.
    pub checkpoint_epoch: Option<u64>,
    /// Why nothing can be stored now, or ever.
    pub failure: Option<String>,
}

/// How a replay went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplayStatus {
    /// The app.
    pub app: String,
    /// The epoch of the checkpoint that it began with.
    pub from_epoch: u64,
    /// The last epoch that was run.
    pub epoch: u64,
    /// The last epoch that was recorded.
    pub recorded_through: u64,
    /// Its digest here, in hexadecimal.
    pub digest: String,
    /// Its digest when it was recorded, if that is known.
    pub recorded_digest: Option<String>,
    /// Where the guest did something else than when it was recorded.
    pub divergence: Option<String>,
    /// How the guest ended, if it did.
    pub guest_stopped: Option<GuestStoppedStatus>,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// The command that shows the guest in a debugger, if that was asked for.
    pub gdb: Option<String>,
}

/// A checkpoint that was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TakenStatus {
    /// The file.
    pub path: PathBuf,
    /// The file that it builds upon; `None`: it holds everything.
    pub since: Option<PathBuf>,
    /// The epoch at whose end it is the guest's state.
    pub epoch: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Pages with content.
    pub pages: u64,
    /// Pages that are zero.
    pub zero_pages: u64,
}

/// Bringing in new replicas for those that have gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RejoinStatus {
    /// `auto` or `manual`.
    pub policy: RejoinName,
    /// `idle`, `preparing`, `copying disks` or `joining`.
    pub state: String,
    /// How many were brought in.
    pub joined: u64,
    /// How many have failed before they were.
    pub failed: u64,
    /// How long the newest took, from the decision to the arbiter's record, in milliseconds.
    pub protected_ms: f64,
    /// How the newest was brought to the survivor's state.
    pub copy: Option<CopyStatus>,
    /// How far its mirrors are, or how they were made equal.
    #[serde(default)]
    pub disks: Option<DiskCopyStatus>,
}

/// Renewing of both machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationStatus {
    /// `idle`, `replacing the backup` or `replacing the old primary`.
    pub state: String,
    /// How often it was done.
    pub completed: u64,
    /// How often it came to nothing.
    pub failed: u64,
    /// What machines that start from now on are made of.
    pub host: HostOptions,
}

/// How mirrors are made equal while the guest goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCopyStatus {
    /// Bytes looked at when everything is copied for the first time.
    pub done_bytes: u64,
    /// How many there are.
    pub total_bytes: u64,
    /// Bytes that were written, because they differed; those written again count again.
    pub written_bytes: u64,
    /// How often blocks written to meanwhile were looked for.
    pub rounds: u64,
}

/// How a guest was copied while it ran.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// Pages sent with their content; those sent again count again.
    pub pages: u64,
    /// Pages that were zero and only named.
    pub zero_pages: u64,
    /// Pages sent while the guest waited.
    pub last_pages: u64,
    /// How often pages written to meanwhile were looked for.
    pub rounds: u64,
    /// How long the guest waited at the end, in microseconds.
    pub pause_us: f64,
    /// From the first page to the end, in milliseconds.
    pub took_ms: f64,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// What the guest calls it.
    pub name: String,
    /// What the names of its mirrors' files begin with; if it is shared, its file.
    pub file: PathBuf,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it is mirrored or shared.
    pub kind: Kind,
    /// The replica whose mirror has missed writes, if one has.
    pub stale: Option<u8>,
}

/// The guest's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetStatus {
    /// `forward`, `passt` or `tap`.
    pub uplink: String,
    /// The guest's Ethernet address, the same at both replicas.
    pub mac: String,
    /// Its IPv4 address; `None` as long as no DHCP server has given it one.
    pub address: Option<String>,
    /// The bridge that it is on.
    pub bridge: Option<String>,
    /// The port of that bridge which leads to it.
    pub device: Option<String>,
    /// The process that serves the published ports, when it is not the supervisor.
    pub pid: Option<i32>,
}

/// A published port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishStatus {
    /// The address that the host listens on.
    pub address: String,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl PublishStatus {
    /// A port of this host that leads to that port of the guest.
    pub fn new(host: SocketAddr, guest: u16) -> Self {
        Self { address: host.ip().to_string(), host: host.port(), guest }
    }
}

/// One virtual machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// `primary` or `backup`.
    pub role: RoleName,
    /// Its QEMU process.
    pub pid: i32,
    /// Where it stands: `starting`, `booting`, `pairing`, `running`, `waiting`, `suspecting`, `awaiting-grant`,
    /// `promoting`, `superseded`, `stopped`.
    pub state: String,
    /// The epoch that runs, or the last one that ended.
    pub epoch: u64,
    /// Epochs that the backup has yet to run.
    pub lag_epochs: u64,
    /// Age of the oldest of them, in microseconds.
    pub lag_us: u64,
    /// The newest round trip of the replication link, in microseconds; 0: none yet.
    pub link_rtt_us: u64,
    /// Seconds since the virtual machine began to run.
    pub uptime_s: f64,
    /// Which replica: 0 or 1, whatever its role.
    pub replica: u8,
    /// From the shim's first instruction to its first word, in milliseconds.
    pub boot_ms: f64,
    /// The shim's counters.
    pub counters: BTreeMap<String, u64>,
}

/// A virtual machine that has ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EndedStatus {
    /// Which replica.
    pub replica: u8,
    /// The process id that it had.
    pub pid: i32,
    /// Why, as far as it is known.
    pub reason: String,
}

/// How the guest ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStoppedStatus {
    /// `exit`, `panic` or `fault`.
    pub kind: String,
    /// Exit code, or the vector of a fault.
    pub code: i64,
    /// The epoch in which it ended.
    pub epoch: u64,
    /// The report, addresses resolved.
    pub report: String,
    /// Which replicas have said so, each with the same report.
    pub replicas: Vec<u8>,
}

/// Where the replicas came apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DivergenceStatus {
    /// The first epoch that differs.
    pub epoch: u64,
    /// The first address of the guest whose content differs, or the page's where only that is known; `None` when memory
    /// does not differ.
    pub address: Option<u64>,
    /// What lies at the first byte that differs: a symbol with an offset, or a part of memory.
    pub place: Option<String>,
    /// All of it for people, with both values.
    pub report: String,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventStatus {
    /// Since the supervisor's start, in milliseconds.
    pub at_ms: f64,
    /// What.
    pub text: String,
}

impl PairStatus {
    /// The virtual machine with this role.
    pub fn replica(&self, role: RoleName) -> Option<&ReplicaStatus> {
        self.replicas.iter().find(|replica| replica.role == role)
    }

    /// Where the host reaches a published port of the guest.
    ///
    /// # Errors
    /// The port is not published.
    pub fn published(&self, guest: u16) -> Result<SocketAddr> {
        let port = self.publish.iter().find(|port| port.guest == guest);
        port.and_then(|port| Some(SocketAddr::new(port.address.parse().ok()?, port.host)))
            .ok_or_else(|| Error::Usage(format!("port {guest} of the guest is not published")))
    }
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    /// The pair's folder.
    pub dir: StateDir,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the supervisor of the pair `name`. Without a name: the one named `default`, or the only one there is.
    ///
    /// # Errors
    /// [`Error::NoSuchPair`], or [`Error::SupervisorGone`] when its supervisor has died.
    pub fn connect(name: Option<&str>) -> Result<Self> {
        let dir = StateDir::new(&choose(name)?)?;
        match UnixStream::connect(dir.socket()) {
            Ok(stream) => {
                let timeout = stream.set_read_timeout(Some(ANSWER_TIMEOUT));
                timeout.context(|| "cannot set a timeout")?;
                Ok(Self { dir, stream: BufReader::new(stream) })
            }
            Err(_) => Err(absent(&dir)),
        }
    }

    /// The connection itself, to notice that the supervisor ends.
    pub fn stream(&self) -> &UnixStream {
        self.stream.get_ref()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// [`Error::Refused`] with the supervisor's reason; [`Error::SupervisorGone`] when it died meanwhile.
    pub fn ask(&mut self, request: &Request) -> Result<Response> {
        let mut line = to_line(request)?;
        let stream = self.stream.get_mut();
        let sent = stream.write_all(line.as_bytes());
        line.clear();
        let got = sent.and_then(|()| self.stream.read_line(&mut line));
        match got {
            Ok(bytes) if bytes > 0 => {}
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                return Err(Error::Refused(format!(
                    "the supervisor did not answer within {} s; its log is {}",
                    ANSWER_TIMEOUT.as_secs(),
                    self.dir.supervisor_log().display()
                )));
            }
            _ => return Err(absent(&self.dir)),
        }
        match serde_json::from_str(&line) {
            Ok(Response::Error(text)) => Err(Error::Refused(text)),
            Ok(response) => Ok(response),
            Err(error) => Err(Error::Refused(format!("the supervisor's answer cannot be read: {error}"))),
        }
    }

    /// Asks for the status.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn status(&mut self) -> Result<PairStatus> {
        match self.ask(&Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(Error::Refused(format!("the supervisor answered {other:?} instead of its status"))),
        }
    }
}

/// One line of JSON.
///
/// # Errors
/// Only for what JSON cannot say.
pub fn to_line(value: &impl Serialize) -> Result<String> {
    let mut line = serde_json::to_string(value).map_err(std::io::Error::from).context(|| "cannot write JSON")?;
    line.push('\n');
    Ok(line)
}

fn choose(name: Option<&str>) -> Result<String> {
    if let Some(name) = name {
        return Ok(name.to_owned());
    }
    let default = StateDir::new(state::DEFAULT_NAME)?;
    if default.is_live() {
        return Ok(default.name);
    }
    let mut running = state::running();
    match running.len() {
        1 => Ok(running.remove(0)),
        0 => Ok(default.name),
        _ => Err(Error::Usage(format!("several pairs are running: choose one with --name ({})", running.join(", ")))),
    }
}

/// Why nobody answers: never started or taken down, or dead.
fn absent(dir: &StateDir) -> Error {
    match dir.read() {
        Some(state) => {
            Error::SupervisorGone { name: dir.name.clone(), pid: state.supervisor_pid, log: dir.supervisor_log() }
        }
        None => Error::NoSuchPair { name: dir.name.clone(), running: state::running() },
    }
}
