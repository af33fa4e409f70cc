//! A folder that a pair survives in: checkpoints and the segments of the log.
//!
//! | file | content |
//! |---|---|
//! | `checkpoint-N.ckpt` | a checkpoint ([`checkpoint::file`]); the greater `N`, the newer |
//! | `log-N.log` | a segment of the log ([`checkpoint::log`]), in the order of `N` |
//! | `lock` | held by the pair that uses the folder |
//!
//! A file that ends in `.new` was not finished.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use checkpoint::file::{self, Header, Identity};
use checkpoint::log::{self, History, LogError, Place, SEGMENT_HEADER_BYTES, Segment};
use protocol::control::LogRecord;
use rustix::fs::{FlockOperation, flock};

use crate::error::{Context, Error, Result};

const CHECKPOINT: (&str, &str) = ("checkpoint-", ".ckpt");
const SEGMENT: (&str, &str) = ("log-", ".log");

/// Folder, held against everybody else.
#[derive(Debug)]
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    /// Held as long as it is used.
    _lock: File,
}

/// A file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// Its number.
    pub number: u64,
    /// Where it is.
    pub path: PathBuf,
}

impl Folder {
    /// Takes a folder for a new pair; it is made if there is none.
    ///
    /// # Errors
    /// Another pair uses it, it holds an earlier one's files, or the system's.
    pub fn create(path: &Path) -> Result<Self> {
        // Checkpoints hold all that a program knows, secrets included.
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .context(|| format!("cannot make {}", path.display()))?;
        let folder = Self::open(path)?;
        if folder.checkpoints()?.is_empty() && folder.segments()?.is_empty() {
            return Ok(folder);
        }
        Err(Error::Usage(format!(
            "{0} holds the checkpoints of an earlier pair: go on from them with `pollux restore {0}`, or name another folder",
            path.display()
        )))
    }

    /// Takes a folder that a pair has left.
    ///
    /// # Errors
    /// It is used, or there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(&name);
        let lock = lock.context(|| format!("cannot open {}", name.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Checkpoint(format!(
                "{} is in use: the pair that writes it lives, or is being restored or replayed by somebody else",
                path.display()
            ))),
            Err(error) => {
                Err(Error::Io { what: format!("cannot lock {}", name.display()), source: io::Error::from(error) })
            }
        }
    }

    /// The checkpoints, oldest first.
    ///
    /// # Errors
    /// The system's.
    pub fn checkpoints(&self) -> Result<Vec<Numbered>> {
        numbered(&self.path, CHECKPOINT)
    }

    /// The segments, oldest first.
    ///
    /// # Errors
    /// The system's.
    pub fn segments(&self) -> Result<Vec<Numbered>> {
        numbered(&self.path, SEGMENT)
    }

    /// Reads the log.
    ///
    /// # Errors
    /// It is damaged, or a part of it is missing; the text names where.
    pub fn history(&self) -> Result<History> {
        let mut history = History::default();
        for Numbered { number, path } in self.segments()? {
            let bytes = fs::read(&path).context(|| format!("cannot read {}", path.display()))?;
            let bad = |error: LogError| Error::Checkpoint(format!("{}: {error}", path.display()));
            match Segment::read(&bytes).map_err(bad)? {
                Some(segment) if segment.header.sequence == number => history.add(&segment).map_err(bad)?,
                Some(segment) => return Err(bad(LogError::Missing { sequence: segment.header.sequence })),
                None => history.skip(number),
            }
        }
        Ok(history)
    }

    /// Removes what was not finished.
    pub fn clear_unfinished(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".new") || name.ends_with(".part") {
                // What is left of it would only take room.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// The file of a checkpoint.
pub fn checkpoint_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{}{number:010}{}", CHECKPOINT.0, CHECKPOINT.1))
}

/// The file of a segment.
pub fn segment_path(folder: &Path, sequence: u64) -> PathBuf {
    folder.join(format!("{}{sequence:010}{}", SEGMENT.0, SEGMENT.1))
}

/// The checkpoints in a folder, oldest first.
///
/// # Errors
/// The system's.
pub fn list_checkpoints(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(numbered(folder, CHECKPOINT)?.into_iter().map(|file| file.path).collect())
}

/// The number in a checkpoint's name.
pub fn checkpoint_number(path: &Path) -> Option<u64> {
    number(path, CHECKPOINT)
}

fn number(path: &Path, (front, back): (&str, &str)) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix(front)?.strip_suffix(back)?.parse().ok()
}

fn numbered(folder: &Path, kind: (&str, &str)) -> Result<Vec<Numbered>> {
    let context = || format!("cannot read {}", folder.display());
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).context(context)? {
        let path = entry.context(context)?.path();
        all.extend(number(&path, kind).map(|number| Numbered { number, path }));
    }
    all.sort_unstable_by_key(|file| file.number);
    Ok(all)
}

/// The header of a checkpoint, without judging what is behind it.
///
/// # Errors
/// It cannot be read, or is no checkpoint.
pub fn read_header(path: &Path) -> Result<Header> {
    let mut bytes = [0; file::HEADER_BYTES];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut bytes, 0));
    if let Err(source) = read
        && source.kind() != io::ErrorKind::UnexpectedEof
    {
        return Err(Error::Io { what: format!("cannot read {}", path.display()), source });
    }
    Header::decode(&bytes).map_err(|error| Error::Checkpoint(format!("{}: {error}", path.display())))
}

/// Whether the log leads on from a checkpoint: it begins at its end or before, and its digests are the same there.
///
/// # Errors
/// Why it does not.
pub fn leads_on(history: &History, header: &Header) -> Result<(), String> {
    let Some((first, last)) = history.first_epoch().zip(history.last_epoch()) else { return Ok(()) };
    let identity: &Identity = &header.identity;
    if let Some(theirs) = history.identity() {
        theirs.check(identity).map_err(|error| format!("the log is another guest's: {error}"))?;
    }
    if last <= header.epoch {
        return Ok(());
    }
    if first > header.epoch + 1 {
        return Err(format!("the log begins with epoch {first}, this checkpoint is of epoch {}", header.epoch));
    }
    match history.digest(header.epoch) {
        Some(digest) if digest == header.digest => Ok(()),
        Some(digest) => Err(format!(
            "epoch {} ended with digest {digest:016x} in the log, with {:016x} in this checkpoint",
            header.epoch, header.digest
        )),
        None => Err(format!("the log does not say how epoch {} ended", header.epoch)),
    }
}

/// Reads records where the history says they lie.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    open: Option<(u64, File)>,
    bytes: Vec<u8>,
}

impl Records {
    /// Of the segments in this folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), open: None, bytes: Vec::new() }
    }

    /// The record that lies there.
    ///
    /// # Errors
    /// It cannot be read any more.
    pub fn read(&mut self, place: &Place) -> Result<LogRecord<'_>> {
        let path = segment_path(&self.folder, place.sequence);
        let context = || format!("cannot read {}", path.display());
        let file = match self.open.take().filter(|(sequence, _)| *sequence == place.sequence) {
            Some((_, file)) => file,
            None => File::open(&path).context(context)?,
        };
        self.bytes.resize(place.bytes as usize, 0);
        debug_assert!(place.at_byte >= SEGMENT_HEADER_BYTES as u64);
        file.read_exact_at(&mut self.bytes, place.at_byte).context(context)?;
        self.open = Some((place.sequence, file));
        log::record(&self.bytes).ok_or_else(|| {
            let error = LogError::Damaged { at_byte: place.at_byte, epoch: 0 };
            Error::Checkpoint(format!("{}: {error}", path.display()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pollux-folder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_folder_is_held_by_one_pair_and_used_for_one() {
        let path = scratch("held");
        let held = Folder::create(&path).expect("a new folder");
        assert!(matches!(Folder::open(&path), Err(Error::Checkpoint(_))));
        fs::write(checkpoint_path(&path, 3), "").expect("written");
        drop(held);
        assert!(matches!(Folder::create(&path), Err(Error::Usage(_))));
        let again = Folder::open(&path).expect("nobody holds it");
        assert_eq!(again.checkpoints().expect("listed").len(), 1);
        fs::remove_dir_all(&path).expect("removed");
    }

    #[test]
    fn files_are_listed_in_their_order_and_others_passed_over() {
        let path = scratch("listed");
        let folder = Folder::create(&path).expect("a new folder");
        for name in ["log-0000000010.log", "log-0000000009.log", "log-x.log", "checkpoint-0000000001.ckpt.new", "notes"]
        {
            fs::write(path.join(name), "").expect("written");
        }
        let segments: Vec<_> = folder.segments().expect("listed").into_iter().map(|file| file.number).collect();
        assert_eq!(segments, [9, 10]);
        assert_eq!(folder.checkpoints().expect("listed"), []);
        folder.clear_unfinished();
        assert!(!path.join("checkpoint-0000000001.ckpt.new").exists() && path.join("notes").exists());
        fs::remove_dir_all(&path).expect("removed");
    }
}
