//! What `cargo pollux status --json` promises, written down once more: a program that reads it must not break.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A pair.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "`pollux::ctl::PairStatus` explains the fields")]
pub struct Status {
    pub name: String,
    pub app: String,
    pub generation: u64,
    pub mode: String,
    pub protocol: String,
    pub serving: bool,
    pub start_ms: u64,
    pub publish: Vec<Publish>,
    pub disks: Vec<Disk>,
    pub replicas: Vec<Replica>,
    pub ended: Vec<Ended>,
    pub guest_stopped: Option<GuestStopped>,
    pub divergence: Option<Divergence>,
    pub rejoin: Rejoin,
    pub storage: Option<Storage>,
    pub hub: BTreeMap<String, u64>,
    pub events: Vec<Event>,
    pub supervisor_pid: i32,
}

/// Stable storage.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Storage {
    pub folder: String,
    pub purpose: String,
    pub every: Option<String>,
    pub log: String,
    pub stored_through: u64,
    pub waiting_epochs: u64,
    pub checkpoints: u64,
    pub checkpoint_epoch: Option<u64>,
    pub failure: Option<String>,
}

/// A published port.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Publish {
    pub host: u16,
    pub guest: u16,
}

/// A disk.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Disk {
    pub name: String,
    pub file: String,
    pub size_bytes: u64,
    pub kind: String,
    pub stale: Option<u8>,
}

/// A virtual machine that runs.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Replica {
    pub role: Role,
    pub pid: i32,
    pub state: String,
    pub epoch: u64,
    pub lag_epochs: u64,
    pub link_rtt_us: u64,
    pub uptime_s: f64,
    pub replica: u8,
    pub counters: BTreeMap<String, u64>,
}

/// A virtual machine that has ended.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Ended {
    pub replica: u8,
    pub pid: i32,
    pub reason: String,
}

/// How the guest ended.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct GuestStopped {
    pub kind: String,
    pub code: i64,
    pub epoch: u64,
    pub report: String,
    pub replicas: Vec<u8>,
}

/// Bringing in new replicas.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Rejoin {
    pub policy: String,
    pub state: String,
    pub joined: u64,
    pub failed: u64,
    pub protected_ms: f64,
    pub copy: Option<CopyFigures>,
    pub disks: Option<DiskCopyFigures>,
}

/// How mirrors were made equal.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct DiskCopyFigures {
    pub done_bytes: u64,
    pub total_bytes: u64,
    pub written_bytes: u64,
    pub rounds: u64,
}

/// How a guest was copied while it ran.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct CopyFigures {
    pub pages: u64,
    pub zero_pages: u64,
    pub last_pages: u64,
    pub rounds: u64,
    pub pause_us: f64,
    pub took_ms: f64,
}

/// Where the replicas came apart.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Divergence {
    pub epoch: u64,
    pub address: Option<u64>,
    pub place: Option<String>,
    pub report: String,
}

/// Something that happened.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "as above")]
pub struct Event {
    pub at_ms: f64,
    pub text: String,
}

/// A replica's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The active one.
    Primary,
    /// The other one.
    Backup,
}

impl Role {
    /// As the command line names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Backup => "backup",
        }
    }
}

impl Status {
    /// The virtual machine with this role, if it runs.
    pub fn replica(&self, role: Role) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.role == role)
    }

    /// The newest event whose text contains `text`.
    pub fn event(&self, text: &str) -> Option<&Event> {
        self.events.iter().rev().find(|event| event.text.contains(text))
    }

    /// How many events contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.events.iter().filter(|event| event.text.contains(text)).count()
    }
}
