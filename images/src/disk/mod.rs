//! Disks of pairs, as files of this host: two mirrors, FILE.0 and FILE.1, one for each replica, or one FILE that both share.
//!
//! A file begins with its [`Identity`]; what the guest sees follows. The supervisor keeps identities true: it raises the
//! generation at every start of the pair, and that of the survivor when a replica leaves. So a mirror that has missed writes
//! has a lower generation than the other, and is never used before it was made anew from it.

pub mod copy;
pub mod follow;
pub mod identity;
pub mod logged;
pub mod mark;
pub mod mirror;
pub mod shared;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hypercall::disk::{BLOCK_BYTES, MAX_NAME_BYTES};
use protocol::ReplicaId;
use serde::{Deserialize, Serialize};

pub use identity::{HEADER_BYTES, Identity, IdentityError, Kind};

/// The smallest disk.
const MIN_SIZE_BYTES: u64 = 4096;
/// The largest: what a file can hold on any file system of today, and far below where block numbers end.
const MAX_SIZE_BYTES: u64 = 1 << 44;

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file cannot be opened, read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else uses the file.
    #[error(
        "{path} is in use by another pair or command: take that down first (a pair that runs alone makes its other mirror \
         anew when a replica is brought in: `cargo pollux rejoin`)", path = path.display()
    )]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The file is no disk, or a damaged one.
    #[error("{path}: {source}", path = path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: IdentityError,
    },
    /// There is no file yet, and no size to make one of.
    #[error("there is no {path} and no size to make it of: add size=64M, say, to --disk", path = path.display())]
    NoSize {
        /// The file.
        path: PathBuf,
    },
    /// A disk that must be there is not.
    #[error("there is no {path}: a log can only be run again upon the disk that it belongs to", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file has another size than it should.
    #[error(
        "{path} holds a disk of {found} bytes, not of {expected}: leave size= out to use it as it is", path = path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// What was asked for or what the file says of itself.
        expected: u64,
        /// What it has.
        found: u64,
    },
    /// The file belongs to another disk, pair or replica.
    #[error("{path} is {found}, not {expected}: {advice}", path = path.display())]
    Stranger {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
        /// What to do.
        advice: &'static str,
    },
    /// A mirror has missed writes, or may have.
    #[error(
        "{path} {what}: run `cargo pollux disk resync {stem}`, which overwrites it with the blocks of {source_path}, or start with \
         --disk {name}={stem},resync", path = path.display(), stem = stem.display(), source_path = source_path.display()
    )]
    Stale {
        /// The mirror.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
        /// What both mirrors' names begin with.
        stem: PathBuf,
        /// The mirror that is good.
        source_path: PathBuf,
        /// The disk's name.
        name: String,
    },
    /// The disk cannot be brought to the end of a log.
    #[error("{path} {source}", path = path.display())]
    Unfit {
        /// The file, or what its mirrors' names begin with.
        path: PathBuf,
        /// Why.
        source: mark::Unfit,
    },
    /// Mirrors that should be equal are not.
    #[error("{0}")]
    Differ(String),
}

impl DiskError {
    /// Adds the file to an error of the system.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// A disk as the command line names it: `NAME=FILE[,mirrored|shared][,size=64M][,resync]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// What the guest calls it.
    pub name: String,
    /// What the names of its files begin with; if it is shared, its file.
    pub stem: PathBuf,
    /// Whether each replica has a file of its own.
    #[serde(default)]
    pub kind: Kind,
    /// Its size; `None` to take it as it is.
    pub size_bytes: Option<u64>,
    /// Whether a mirror that is stale is made anew before the start.
    pub resync: bool,
}

impl FromStr for DiskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            |what: &str| format!("expected NAME=FILE[,mirrored|shared][,size=64M][,resync], got {text:?}: {what}");
        let (name, rest) = text.split_once('=').ok_or_else(|| wrong("there is no ="))?;
        check_name(name).map_err(|what| wrong(&what))?;
        let mut words = rest.split(',');
        let stem = PathBuf::from(words.next().unwrap_or_default());
        if stem.file_name().is_none() {
            return Err(wrong("FILE names no file"));
        }
        let mut spec = Self { name: name.to_owned(), stem, kind: Kind::Mirrored, size_bytes: None, resync: false };
        let mut kind = None;
        for word in words {
            match word.split_once('=') {
                None if word == "mirrored" && kind != Some(Kind::Shared) => kind = Some(Kind::Mirrored),
                None if word == "shared" && kind != Some(Kind::Mirrored) => kind = Some(Kind::Shared),
                None if matches!(word, "mirrored" | "shared") => {
                    return Err(wrong("a disk is mirrored or shared, not both"));
                }
                None if word == "resync" => spec.resync = true,
                Some(("size", size)) => spec.size_bytes = Some(parse_size(size).map_err(|what| wrong(&what))?),
                _ => return Err(wrong(&format!("{word:?} is not known"))),
            }
        }
        spec.kind = kind.unwrap_or_default();
        if spec.resync && spec.kind == Kind::Shared {
            return Err(wrong("a shared disk is one file: there is nothing to make anew"));
        }
        Ok(spec)
    }
}

impl DiskSpec {
    /// The file that this replica uses.
    pub fn path(&self, replica: ReplicaId) -> PathBuf {
        match self.kind {
            Kind::Mirrored => mirror_path(&self.stem, replica),
            Kind::Shared => self.stem.clone(),
        }
    }
}

impl fmt::Display for DiskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.stem.display())
    }
}

/// A name must fit into what a virtio device says of itself, and into QEMU's options.
pub fn check_name(name: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
        return Err(format!("a disk's name has 1 to {MAX_NAME_BYTES} of a-z, 0-9, - and _, not {name:?}"));
    }
    Ok(())
}

/// Bytes by a number and an optional K, M, G or T.
fn parse_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((at, 'K' | 'k')) => (&text[..at], 10),
        Some((at, 'M' | 'm')) => (&text[..at], 20),
        Some((at, 'G' | 'g')) => (&text[..at], 30),
        Some((at, 'T' | 't')) => (&text[..at], 40),
        _ => (text, 0),
    };
    let bytes = digits.parse().ok().and_then(|number: u64| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes)
            if (MIN_SIZE_BYTES..=MAX_SIZE_BYTES).contains(&bytes) && bytes.is_multiple_of(BLOCK_BYTES as u64) =>
        {
            Ok(bytes)
        }
        _ => Err(format!("a size is a multiple of {BLOCK_BYTES} from {MIN_SIZE_BYTES} to 16T, not {text:?}")),
    }
}

/// The file of a replica's mirror.
pub fn mirror_path(stem: &Path, replica: ReplicaId) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(format!(".{replica}"));
    path.into()
}

/// A fault that QEMU injects into one replica's disk, for tests: `REPLICA:NAME:read|write|flush:BLOCK[:ERRNO]`, or
/// `REPLICA:NAME:slow:N` for N KiB a second, `REPLICA:NAME:gone:N[:ERRNO]` for a disk that does nothing any more from its Nth
/// write on, `REPLICA:NAME:lies:0` for one that does nothing when it is told to flush, `REPLICA:NAME:logged:0` for one that
/// notes every write and flush in FILE.REPLICA.writes, which must be there, in the format of dm-log-writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskFault {
    /// At which replica, 0 or 1.
    pub replica: u8,
    /// Which disk.
    pub name: String,
    /// What fails.
    pub kind: String,
    /// Where; a flush fails everywhere. Of a disk that is slow: KiB a second; of one that is gone: with which write.
    pub block: u64,
    /// The host's error number.
    pub errno: u32,
}

impl FromStr for DiskFault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("expected REPLICA:NAME:read|write|flush|slow|gone|lies|logged:NUMBER[:ERRNO], got {text:?}");
        let words: Vec<_> = text.split(':').collect();
        let (replica, name, kind, block, errno) = match words[..] {
            [replica, name, kind, block] => (replica, name, kind, block, "5"),
            [replica, name, kind, block, errno] => (replica, name, kind, block, errno),
            _ => return Err(wrong()),
        };
        let replica = replica.parse().ok().filter(|&replica: &u8| replica < 2).ok_or_else(wrong)?;
        if !["read", "write", "flush", "slow", "gone", "lies", "logged"].contains(&kind) {
            return Err(wrong());
        }
        let block = block.parse().map_err(|_| wrong())?;
        let errno = errno.parse().map_err(|_| wrong())?;
        Ok(Self { replica, name: name.to_owned(), kind: kind.to_owned(), block, errno })
    }
}

#[cfg(test)]
mod tests;
