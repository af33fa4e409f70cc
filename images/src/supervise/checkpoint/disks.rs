//! Mirrored disks of a guest of which a checkpoint is taken: a copy of the primary's mirrors at the same epoch, beside the
//! checkpoint's file, and what becomes of it when the checkpoint is restored.
//!
//! The copy is made as that for a new replica is, while the guest goes on. The checkpoint names the files and what they hold, by
//! checksum, so that it is refused when one of them is another, or damaged.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use protocol::digest::Digest64;
use protocol::{Epoch, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::disk::follow::Route;
use crate::disk::identity::HEADER_BYTES;
use crate::disk::mirror::Mirror;
use crate::disk::{DiskError, DiskSpec, Identity, copy, mirror_path};

const CHECKSUM_SEED: u64 = 0x6469_736b_6370_7431;
/// What is looked at as one; a piece of zeros counts as a hole.
const PIECE_BYTES: usize = 4096;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// A disk that a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedDisk {
    /// What the guest calls it.
    pub name: String,
    /// The file, in the folder of the checkpoint's.
    pub file: String,
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Of what it holds.
    pub checksum: u64,
}

/// A copy on its way. Its file is removed when this is dropped before it was kept.
#[derive(Debug)]
pub struct DiskCopy {
    identity: Identity,
    file: File,
    path: PathBuf,
    kept: bool,
}

impl Drop for DiskCopy {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl DiskCopy {
    /// An empty copy of a mirror, for a checkpoint of this name, and what is to be copied where.
    ///
    /// # Errors
    /// The system's.
    pub fn begin(mirror: &Mirror, disk: u32, checkpoint: &Path) -> Result<(Self, Route), DiskError> {
        let name = checkpoint.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let part = format!(".{name}.{}.{}.part", mirror.identity.disk, std::process::id());
        let path = checkpoint.with_file_name(part);
        // It holds all that the program has stored, secrets included.
        let created = File::options().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        let file = created.map_err(DiskError::file(&path))?;
        let identity = Identity { generation: 0, leads: false, clean: false, ..mirror.identity.clone() };
        let copy = Self { identity, file, path: path.clone(), kept: false };
        let size_bytes = copy.identity.size_bytes;
        copy.file.set_len(HEADER_BYTES + size_bytes).map_err(DiskError::file(&path))?;
        let route = Route {
            disk,
            size_bytes,
            from: mirror.file.try_clone().map_err(DiskError::file(&mirror.path))?,
            from_path: mirror.path.clone(),
            to: copy.file.try_clone().map_err(DiskError::file(&path))?,
            to_path: path,
        };
        Ok((copy, route))
    }

    /// The copy is whole, as the disk was at the end of `epoch`: it gets its name, and is on the host's disk.
    ///
    /// # Errors
    /// The system's, as a text.
    pub fn keep(&mut self, checkpoint: &Path, epoch: Epoch) -> std::io::Result<SavedDisk> {
        self.identity.clean = true;
        self.identity.last_epoch = epoch;
        self.file.write_all_at(&self.identity.encode(), 0)?;
        let checksum = checksum(&self.file, self.identity.size_bytes, |_, _| Ok(()))?;
        self.file.sync_all()?;
        let name = checkpoint.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = format!("{name}.{epoch}.{}", self.identity.disk);
        let path = checkpoint.with_file_name(&file);
        std::fs::rename(&self.path, &path)?;
        self.path = path;
        Ok(SavedDisk { name: self.identity.disk.clone(), file, size_bytes: self.identity.size_bytes, checksum })
    }

    /// The checkpoint that names it is written.
    pub fn is_named(&mut self) {
        self.kept = true;
    }
}

/// A checksum of all pieces that are not zero, each of which goes to `each` with its place.
fn checksum(
    file: &File,
    size_bytes: u64,
    mut each: impl FnMut(u64, &[u8]) -> std::io::Result<()>,
) -> std::io::Result<u64> {
    let mut digest = Digest64::new(CHECKSUM_SEED);
    let (mut at, end) = (HEADER_BYTES, HEADER_BYTES + size_bytes);
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Some((start, stop)) = copy::next_data(file, at, end)? {
        // Whole pieces, wherever the file system's data begins.
        at = start - start % PIECE_BYTES as u64;
        while at < stop {
            let bytes = (end - at).min(CHUNK_BYTES as u64) as usize;
            file.read_exact_at(&mut buffer[..bytes], at)?;
            for (index, piece) in buffer[..bytes].chunks(PIECE_BYTES).enumerate() {
                if piece.iter().any(|&byte| byte != 0) {
                    let place = at + (index * PIECE_BYTES) as u64;
                    digest.write_u64(place);
                    digest.write_bytes(piece);
                    each(place, piece)?;
                }
            }
            at += bytes as u64;
        }
    }
    Ok(digest.finish())
}

/// Makes replica 0's mirror of a disk anew from what a checkpoint in this folder holds. There must be no such disk yet.
///
/// # Errors
/// There is one; the copy is damaged or another disk's; or the system's. Nothing is left then.
pub fn restore(saved: &SavedDisk, folder: &Path, spec: &DiskSpec, pair: &str) -> Result<(), DiskError> {
    let path = mirror_path(&spec.stem, ReplicaId::ZERO);
    for path in [&path, &mirror_path(&spec.stem, ReplicaId::ONE)] {
        if path.exists() {
            return Err(DiskError::Stranger {
                path: path.clone(),
                expected: "absent".to_owned(),
                found: "there already".to_owned(),
                advice: "a checkpoint's disk is put where there is none: choose another file, or remove that one",
            });
        }
    }
    // A name alone, whatever the checkpoint says.
    let source_path = folder.join(Path::new(&saved.file).file_name().unwrap_or_default());
    let source = File::open(&source_path).map_err(DiskError::file(&source_path))?;
    let identity = crate::disk::mirror::read_identity(&source, &source_path)?;
    if identity.disk != saved.name || identity.size_bytes != saved.size_bytes {
        let advice = "put the file that belongs to the checkpoint back";
        let (expected, found) = (format!("disk {}", saved.name), format!("disk {}", identity.disk));
        return Err(DiskError::Stranger { path: source_path, expected, found, advice });
    }
    let identity = Identity { replica: ReplicaId::ZERO, pair: pair.to_owned(), clean: false, ..identity };
    let mut mirror = Mirror::create(&path, identity)?;
    let written = checksum(&source, saved.size_bytes, |at, piece| mirror.file.write_all_at(piece, at));
    let result = match written.map_err(DiskError::file(&path)) {
        Ok(checksum) if checksum == saved.checksum => {
            mirror.identity.clean = true;
            mirror.write_identity()
        }
        Ok(_) => Err(DiskError::Differ(format!(
            "{} does not hold what the checkpoint says: it is damaged, or another checkpoint's",
            source_path.display()
        ))),
        Err(error) => Err(error),
    };
    if result.is_err() {
        let _ = std::fs::remove_file(&path);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn folder(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("pollux-checkpoint-disks-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        Folder(path)
    }

    #[test]
    fn a_disk_is_kept_and_restored_and_damage_is_refused() {
        let folder = folder("kept");
        let spec: DiskSpec = format!("data={}/d,size=1M", folder.0.display()).parse().expect("a disk");
        let mirrors = crate::disk::mirror::claim(&spec, "shop", 1, [7; 16]).expect("new mirrors");
        let mirror = mirrors.each[0].as_ref().expect("one");
        mirror.file.write_all_at(&[9; 700], HEADER_BYTES + 5000).expect("written");
        let checkpoint = folder.0.join("c");
        let (mut copy, route) = DiskCopy::begin(mirror, 0, &checkpoint).expect("a copy");
        let mut bytes = vec![0; 1 << 20];
        route.from.read_exact_at(&mut bytes, HEADER_BYTES).expect("read");
        route.to.write_all_at(&bytes, HEADER_BYTES).expect("written");
        let saved = copy.keep(&checkpoint, 33).expect("kept");
        copy.is_named();
        drop(copy);
        assert_eq!((saved.name.as_str(), saved.file.as_str(), saved.size_bytes), ("data", "c.33.data", 1 << 20));

        let elsewhere: DiskSpec = format!("data={}/e", folder.0.display()).parse().expect("a disk");
        restore(&saved, &folder.0, &elsewhere, "other").expect("restored");
        let made = Mirror::open(&mirror_path(&elsewhere.stem, ReplicaId::ZERO)).expect("a mirror").expect("there");
        let mut found = vec![0; 1 << 20];
        made.file.read_exact_at(&mut found, HEADER_BYTES).expect("read");
        assert!(found == bytes);
        assert_eq!((made.identity.pair.as_str(), made.identity.clean), ("other", true));
        let text = restore(&saved, &folder.0, &elsewhere, "other").expect_err("there already").to_string();
        assert!(text.contains("choose another file"), "{text}");

        let third: DiskSpec = format!("data={}/f", folder.0.display()).parse().expect("a disk");
        let file = File::options().write(true).open(folder.0.join(&saved.file)).expect("it is there");
        file.write_all_at(&[1], HEADER_BYTES + 900_000).expect("written");
        let text = restore(&saved, &folder.0, &third, "other").expect_err("damaged").to_string();
        assert!(text.contains("does not hold what the checkpoint says"), "{text}");
        assert!(!mirror_path(&third.stem, ReplicaId::ZERO).exists(), "nothing is left");
    }

    #[test]
    fn a_copy_that_is_not_kept_leaves_nothing() {
        let folder = folder("dropped");
        let spec: DiskSpec = format!("data={}/d,size=1M", folder.0.display()).parse().expect("a disk");
        let mirrors = crate::disk::mirror::claim(&spec, "shop", 1, [7; 16]).expect("new mirrors");
        let mirror = mirrors.each[0].as_ref().expect("one");
        let files = || std::fs::read_dir(&folder.0).expect("a folder").count();
        let before = files();
        let (mut copy, _) = DiskCopy::begin(mirror, 0, &folder.0.join("c")).expect("a copy");
        assert_eq!(files(), before + 1);
        copy.keep(&folder.0.join("c"), 1).expect("kept");
        drop(copy);
        assert_eq!(files(), before, "also when the checkpoint that was to name it is not written");
    }
}
