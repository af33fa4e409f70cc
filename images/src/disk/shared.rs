//! A disk that both replicas share: one file, claimed by a pair that starts.
//!
//! Nothing in it can be stale. Its lock is held by the supervisor and by each QEMU that may write to it, so that nobody can
//! claim it before the last of them is gone.

use std::fs::File;
use std::path::Path;

use protocol::ReplicaId;

use super::identity::Identity;
use super::mark::Mark;
use super::mirror::{Mirror, check_pair_name, read_identity};
use super::{DiskError, DiskSpec, Kind, mirror_path};

/// Whether there is a shared disk of this name. Only reads, so that a pair may be running.
pub fn is_shared(path: &Path) -> bool {
    let identity = File::open(path).map_err(DiskError::file(path)).and_then(|file| read_identity(&file, path));
    identity.is_ok_and(|identity| identity.kind == Kind::Shared)
}

/// What is said of a shared disk where a mirror should be.
pub(super) fn is_no_mirror(path: &Path) -> DiskError {
    DiskError::Stranger {
        path: path.to_owned(),
        expected: "a mirror of a disk".to_owned(),
        found: "a shared disk".to_owned(),
        advice: "there is one file and nothing to compare or to make anew; a pair gets it by --disk NAME=FILE,shared",
    }
}

/// Opens a shared disk for a pair that starts, makes it if there is none, and claims it: it has a new generation then, and is
/// in use.
///
/// # Errors
/// Whatever forbids to use it. Nothing has been changed then.
pub fn claim(spec: &DiskSpec, pair: &str, new_id: [u8; 16]) -> Result<Mirror, DiskError> {
    check_pair_name(spec, pair)?;
    let mut disk = match Mirror::open(&spec.stem)? {
        Some(disk) => disk,
        None => create(spec, pair, new_id)?,
    };
    check_kind(&disk)?;
    disk.serves(spec, pair)?;
    // A log that the disk belonged to does not know what happens from now on.
    Mark::erase(&disk.file).map_err(DiskError::file(&disk.path))?;
    disk.identity.generation += 1;
    disk.identity.clean = false;
    disk.write_identity()?;
    Ok(disk)
}

/// Whether the file is a shared disk's.
///
/// # Errors
/// It is a mirror.
pub(super) fn check_kind(disk: &Mirror) -> Result<(), DiskError> {
    if disk.identity.kind == Kind::Shared {
        return Ok(());
    }
    let found = format!("replica {}'s mirror of a disk", disk.identity.replica);
    let advice = "give the disk without \",shared\", by what the names of both mirrors begin with";
    Err(disk.stranger("a shared disk".to_owned(), found, advice))
}

fn create(spec: &DiskSpec, pair: &str, id: [u8; 16]) -> Result<Mirror, DiskError> {
    for replica in [ReplicaId::ZERO, ReplicaId::ONE] {
        let path = mirror_path(&spec.stem, replica);
        if path.exists() {
            return Err(DiskError::Stranger {
                path,
                expected: "absent beside a new shared disk".to_owned(),
                found: "a mirror of a disk of that name".to_owned(),
                advice: "give the disk without \",shared\", or use another file",
            });
        }
    }
    let size_bytes = spec.size_bytes.ok_or_else(|| DiskError::NoSize { path: spec.stem.clone() })?;
    let identity = Identity {
        size_bytes,
        id,
        disk: spec.name.clone(),
        pair: pair.to_owned(),
        kind: Kind::Shared,
        replica: ReplicaId::ZERO,
        generation: 0,
        last_epoch: 0,
        leads: false,
        clean: true,
    };
    Mirror::create(&spec.stem, identity)
}
