//! Disks that a measurement uses and nobody keeps.

use std::path::{Path, PathBuf};

use crate::disk::{DiskSpec, Kind, mirror_path};
use protocol::ReplicaId;

/// The files of a disk, removed when dropped.
#[derive(Debug)]
pub struct ScratchDisk {
    stem: PathBuf,
    size_bytes: u64,
    kind: Kind,
}

impl ScratchDisk {
    /// A disk called `data` whose files will lie in this folder.
    pub fn new(folder: &Path, purpose: &str, size_bytes: u64) -> Self {
        let stem = folder.join(format!("pollux-bench-{purpose}-{}", std::process::id()));
        Self { stem, size_bytes, kind: Kind::Mirrored }
    }

    /// The same, mirrored or shared.
    pub fn of_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// As the supervisor is told. A mirror that has missed something is made anew first.
    pub fn spec(&self) -> DiskSpec {
        DiskSpec {
            name: "data".to_owned(),
            stem: self.stem.clone(),
            kind: self.kind,
            size_bytes: Some(self.size_bytes),
            resync: self.kind == Kind::Mirrored,
        }
    }

    /// What the names of its files begin with.
    pub fn stem(&self) -> &Path {
        &self.stem
    }
}

impl Drop for ScratchDisk {
    fn drop(&mut self) {
        if self.kind == Kind::Shared {
            let _ = std::fs::remove_file(&self.stem);
        }
        for replica in [ReplicaId::ZERO, ReplicaId::ONE] {
            // Bare there is only one.
            let _ = std::fs::remove_file(mirror_path(&self.stem, replica));
        }
    }
}
