//! What the command can fail with, and the exit code of each failure.

use std::io;
use std::path::PathBuf;

use crate::build::{BuildError, ImageError};
use crate::disk::DiskError;
use crate::supervise::tap::TapError;

/// The outcome of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the command. Its text says what was expected, what came and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An argument that clap cannot judge.
    #[error("{0}")]
    Usage(String),
    /// An image could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A file is not an image that this command can run.
    #[error("{path}: {source}", path = path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ImageError,
    },
    /// A published port is taken on this host.
    #[error(
        "cannot listen on {address}: {source}; stop what listens there (`ss -ltnp` names it) or publish another port with --publish"
    )]
    PortInUse {
        /// Address and port.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The same, as a supervisor has told it.
    #[error("{0}")]
    PortTaken(String),
    /// The guest cannot be joined to a bridge.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A file is no checkpoint, a damaged one, or of something else.
    #[error("{0}")]
    Checkpoint(String),
    /// The same, as a supervisor has told it.
    #[error("{0}")]
    NoTap(String),
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The same, as a supervisor has told it.
    #[error("{0}")]
    NoDisk(String),
    /// No pair runs under that name.
    #[error("no pair named {name:?} is running{}; `cargo pollux up APP --name {name}` starts one", others(.running))]
    NoSuchPair {
        /// The name asked for.
        name: String,
        /// The names of those that run.
        running: Vec<String>,
    },
    /// A pair with that name runs already.
    #[error(
        "a pair named {name:?} is already running: stop it with `cargo pollux down --name {name}` or choose another --name"
    )]
    NameInUse {
        /// The name.
        name: String,
    },
    /// The supervising process died without saying goodbye.
    #[error(
        "the supervisor of pair {name:?} (pid {pid}) is gone; its VMs were stopped with it and the guest's state is lost; \
         its log is {log}; `cargo pollux up` starts the pair again", log = log.display()
    )]
    SupervisorGone {
        /// The name of the pair.
        name: String,
        /// The process id that it had.
        pid: i32,
        /// Where its last words are.
        log: PathBuf,
    },
    /// A pair did not come up, or not in time.
    #[error("{0}")]
    Start(String),
    /// A program that is needed is missing or too old.
    #[error("{0}")]
    Missing(String),
    /// The supervisor refused a request.
    #[error("{0}")]
    Refused(String),
    /// A check of `demo`, `bench` or `test` failed.
    #[error("{0}")]
    CheckFailed(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

fn others(running: &[String]) -> String {
    if running.is_empty() { " (none is)".to_owned() } else { format!(" (running: {})", running.join(", ")) }
}

impl Error {
    /// A supervisor's failure as if it had happened here: same text, same exit code.
    pub fn from_supervisor(name: &str, text: String, code: u8) -> Self {
        match code {
            2 => Self::Usage(text),
            6 => Self::PortTaken(text),
            8 => Self::NameInUse { name: name.to_owned() },
            10 => Self::Missing(text),
            14 => Self::NoTap(text),
            15 => Self::NoDisk(text),
            16 => Self::Checkpoint(text),
            _ => Self::Start(text),
        }
    }

    /// The process exit code: one number a kind of failure, listed in `pollux --help`. 2 is clap's.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } => 1,
            Self::Usage(_) => 2,
            Self::Build(BuildError::UnknownApp { .. }) => 3,
            Self::Build(_) => 4,
            Self::Image { .. } => 5,
            Self::PortInUse { .. } | Self::PortTaken(_) => 6,
            Self::NoSuchPair { .. } => 7,
            Self::NameInUse { .. } => 8,
            Self::Start(_) => 9,
            Self::Missing(_) => 10,
            Self::SupervisorGone { .. } => 11,
            Self::Refused(_) => 12,
            Self::CheckFailed(_) => 13,
            Self::Tap(_) | Self::NoTap(_) => 14,
            Self::Disk(_) | Self::NoDisk(_) => 15,
            Self::Checkpoint(_) => 16,
        }
    }
}

/// Adds what was being done to an I/O error.
pub trait Context<T> {
    /// Names the operation; called only on failure.
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::Io { what: what().into(), source: source.into() })
    }
}
