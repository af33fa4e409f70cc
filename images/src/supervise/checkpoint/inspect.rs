//! Looking at checkpoints.

use std::path::{Path, PathBuf};

use protocol::{Clocks, Epoch, Generation};

use super::{Loaded, SavedDisk};
use crate::error::{Error, Result};

/// What `cargo pollux inspect` shows of a checkpoint.
#[derive(Debug, serde::Serialize)]
pub struct Inspection {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The app.
    pub app: String,
    /// The file that it builds upon.
    pub since: Option<PathBuf>,
    /// Its image, SHA-256 in hexadecimal.
    pub image_id: String,
    /// Bytes of guest memory.
    pub memory_bytes: u64,
    /// The epoch at whose end it is the guest's state.
    pub epoch: Epoch,
    /// The pair's generation then.
    pub generation: Generation,
    /// The guest's clocks then, in nanoseconds.
    pub monotonic_ns: u64,
    /// As seconds since 1970-01-01 00:00 UTC.
    pub realtime_ns: u64,
    /// Pages with content.
    pub pages: u64,
    /// Pages that are zero.
    pub zero_pages: u64,
    /// Pages that differ from another checkpoint's.
    pub changed_pages: Option<u64>,
    /// Disks that it holds.
    pub disks: Vec<SavedDisk>,
}

/// Looks at a checkpoint and, if there is one, at what differs from another.
///
/// # Errors
/// One of them cannot be read, is none or is damaged; or they are of different guests.
pub fn inspect(path: &Path, other: Option<&Path>) -> Result<Inspection> {
    let loaded = Loaded::open(path)?;
    let (header, totals) = (loaded.header, loaded.totals);
    let since = loaded.settings.parent.as_ref().map(PathBuf::from);
    let (app, disks) = (loaded.settings.spec.app.clone(), loaded.settings.disks.clone());
    let changed_pages = match other {
        None => None,
        Some(other) => {
            let theirs = Loaded::open(other)?;
            let mismatch = |error| Error::Checkpoint(format!("{}: {error}", other.display()));
            theirs.header.identity.check(&header.identity).map_err(mismatch)?;
            let (ours, theirs) = (loaded.all_pages(path)?.pages, theirs.all_pages(other)?.pages);
            Some(ours.iter().filter(|(page, content)| theirs.get(page) != Some(content)).count() as u64)
        }
    };
    let Clocks { monotonic_ns, realtime_ns } = header.clocks;
    let file_bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    Ok(Inspection {
        file_bytes,
        app,
        since,
        image_id: header.identity.image.iter().map(|byte| format!("{byte:02x}")).collect(),
        memory_bytes: header.identity.memory_bytes,
        epoch: header.epoch,
        generation: header.generation,
        monotonic_ns,
        realtime_ns,
        pages: totals.pages,
        zero_pages: totals.zero_pages,
        changed_pages,
        disks,
    })
}
