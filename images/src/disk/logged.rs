//! Disks of a pair that goes on from a stored log: found, judged, and made ready for the log to be run upon them.
//!
//! Everything is judged before anything is changed. Replica 0 runs the log, on a mirror of its own; the other mirror is made anew
//! when a replica is brought in for it. Until then it stays as it is: should everything die again, it serves as well.

use protocol::ReplicaId;

use super::mark::{Mark, Stretch};
use super::mirror::{Mirror, Mirrors, check_pair_name};
use super::{DiskError, DiskSpec, Kind, copy, mirror_path};

/// The files of a disk, locked, and known to fit.
#[derive(Debug)]
enum Files {
    /// Replica 0's mirror, or the other one's, which replica 0's is to be made from.
    Mirrored(Mirrors, ReplicaId),
    Shared(Mirror),
}

/// A disk that a log can be run upon.
#[derive(Debug)]
pub struct Judged {
    files: Files,
    mark: Mark,
}

/// What a pair that goes on gets.
#[derive(Debug)]
pub enum Ready {
    /// Replica 0 has a mirror.
    Mirrored(Mirrors),
    /// The one file.
    Shared(Mirror),
}

/// Opens and locks the files of a disk, and judges whether this part of a log can be run again upon one of them.
///
/// # Errors
/// Why not. Nothing was changed.
pub fn judge(spec: &DiskSpec, pair: &str, stretch: &Stretch) -> Result<Judged, DiskError> {
    check_pair_name(spec, pair)?;
    let unfit = |source| DiskError::Unfit { path: spec.stem.clone(), source };
    match spec.kind {
        Kind::Mirrored => {
            let mirrors = Mirrors::open(&spec.stem)?;
            let mut files = [None, None];
            for (file, mirror) in files.iter_mut().zip(&mirrors.each) {
                let Some(mirror) = mirror else { continue };
                mirror.serves(spec, pair)?;
                *file = Some((&mirror.identity, read(mirror)?));
            }
            if files == [None, None] {
                return Err(DiskError::Missing { path: mirror_path(&spec.stem, ReplicaId::ZERO) });
            }
            let base = stretch.base(files).map_err(unfit)?;
            let mark = files[base].and_then(|(_, mark)| mark).ok_or_else(|| unfit(super::mark::Unfit::Foreign))?;
            let base = if base == 0 { ReplicaId::ZERO } else { ReplicaId::ONE };
            Ok(Judged { files: Files::Mirrored(mirrors, base), mark })
        }
        Kind::Shared => {
            let disk = Mirror::open(&spec.stem)?.ok_or_else(|| DiskError::Missing { path: spec.stem.clone() })?;
            super::shared::check_kind(&disk)?;
            disk.serves(spec, pair)?;
            let mark = read(&disk)?;
            stretch.base([Some((&disk.identity, mark))]).map_err(unfit)?;
            let mark = mark.ok_or_else(|| unfit(super::mark::Unfit::Foreign))?;
            Ok(Judged { files: Files::Shared(disk), mark })
        }
    }
}

fn read(mirror: &Mirror) -> Result<Option<Mark>, DiskError> {
    Mark::read(&mirror.file).map_err(DiskError::file(&mirror.path))
}

impl Judged {
    /// Makes the file of replica 0, which runs the log, the freshest, and if need be out of the other replica's.
    ///
    /// # Errors
    /// The system's. The file that the log fits stays as it is.
    pub fn claim(self) -> Result<Ready, DiskError> {
        match self.files {
            Files::Mirrored(mut mirrors, base) => {
                let newest = mirrors.each.iter().flatten().map(|mirror| mirror.identity.generation).max().unwrap_or(0);
                if base == ReplicaId::ONE {
                    copy::resync(&mut mirrors, base, |_, _| {})?;
                }
                if let Some(mirror) = &mut mirrors.each[0] {
                    renew(mirror, newest + 1, self.mark)?;
                }
                Ok(Ready::Mirrored(mirrors))
            }
            Files::Shared(mut disk) => {
                let newest = disk.identity.generation;
                renew(&mut disk, newest + 1, self.mark)?;
                Ok(Ready::Shared(disk))
            }
        }
    }
}

/// The file begins a new life, and still holds what the mark says.
fn renew(mirror: &mut Mirror, generation: u64, mark: Mark) -> Result<(), DiskError> {
    Mark { generation, ..mark }.note(&mirror.file).map_err(DiskError::file(&mirror.path))?;
    mirror.identity.generation = generation;
    mirror.identity.leads = false;
    mirror.identity.clean = false;
    mirror.write_identity()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;
    use std::path::PathBuf;

    use super::super::identity::HEADER_BYTES;
    use super::super::mark::Unfit;
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pollux-logged-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).expect("a folder");
            Self(path)
        }

        fn spec(&self, options: &str) -> DiskSpec {
            format!("data={}/d{options}", self.0.display()).parse().expect("a disk")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const STRETCH: Stretch = Stretch { lineage: 7, from: 100, through: 150 };

    fn mark(mirror: &Mirror, through: u64) {
        let generation = mirror.identity.generation;
        Mark { lineage: 7, generation, through }.make(&mirror.file).expect("marked");
    }

    fn byte(mirror: &Mirror) -> u8 {
        let mut byte = [0];
        mirror.file.read_exact_at(&mut byte, HEADER_BYTES + 5000).expect("read");
        byte[0]
    }

    #[test]
    fn replica_0_gets_the_blocks_of_the_mirror_that_fits() {
        let folder = Folder::new("one");
        let mirrors = super::super::mirror::claim(&folder.spec(",size=1M"), "shop", 2, [3; 16]).expect("new");
        let [zero, one] = mirrors.each.each_ref().map(|mirror| mirror.as_ref().expect("both"));
        mark(zero, 99);
        mark(one, 100);
        one.file.write_all_at(&[9], HEADER_BYTES + 5000).expect("written");
        let generation = one.identity.generation;
        drop(mirrors);
        let judged = judge(&folder.spec(""), "shop", &STRETCH).expect("it fits");
        let Ready::Mirrored(mirrors) = judged.claim().expect("claimed") else { panic!("it is mirrored") };
        let [zero, one] = mirrors.each.each_ref().map(|mirror| mirror.as_ref().expect("both"));
        assert_eq!((byte(zero), byte(one)), (9, 9));
        assert_eq!((zero.identity.generation, one.identity.generation), (generation + 1, generation));
        assert_eq!(read(zero).expect("read"), Some(Mark { lineage: 7, generation: generation + 1, through: 100 }));
        drop(mirrors);
        judge(&folder.spec(""), "shop", &STRETCH).expect("everything may die again at once");
    }

    #[test]
    fn a_disk_that_was_used_without_its_log_is_refused_and_stays_as_it_is() {
        let folder = Folder::new("used");
        let mirrors = super::super::mirror::claim(&folder.spec(",size=1M"), "shop", 2, [3; 16]).expect("new");
        mirrors.each.iter().flatten().for_each(|mirror| mark(mirror, 120));
        drop(mirrors);
        judge(&folder.spec(""), "shop", &STRETCH).expect("it fits");
        // Alone, so that the other mirror is left behind.
        drop(super::super::mirror::claim(&folder.spec(""), "shop", 1, [4; 16]).expect("claimed"));
        let before = std::fs::read(mirror_path(&folder.spec("").stem, ReplicaId::ONE)).expect("read");
        let error = judge(&folder.spec(""), "shop", &STRETCH).expect_err("it was used");
        assert!(matches!(error, DiskError::Unfit { source: Unfit::Foreign, .. }), "{error}");
        assert!(before == std::fs::read(mirror_path(&folder.spec("").stem, ReplicaId::ONE)).expect("read"));
    }

    #[test]
    fn shared_disks_are_judged_alike_and_none_is_made() {
        let folder = Folder::new("shared");
        let spec = folder.spec(",shared");
        let missing = judge(&spec, "shop", &STRETCH).expect_err("there is none");
        assert!(matches!(missing, DiskError::Missing { .. }), "{missing}");
        let disk = super::super::shared::claim(&folder.spec(",shared,size=1M"), "shop", [3; 16]).expect("new");
        mark(&disk, 151);
        drop(disk);
        let error = judge(&spec, "shop", &STRETCH).expect_err("it has gone on");
        assert!(matches!(error, DiskError::Unfit { source: Unfit::Newer { through: 151, last: 150 }, .. }), "{error}");
        let longer = Stretch { through: 151, ..STRETCH };
        let Ready::Shared(disk) = judge(&spec, "shop", &longer).expect("fits").claim().expect("claimed") else {
            panic!("it is shared")
        };
        assert_eq!(disk.identity.generation, 2);
        let error = judge(&spec, "shop", &longer).expect_err("it is in use");
        assert!(matches!(error, DiskError::InUse { .. }), "{error}");
    }
}
