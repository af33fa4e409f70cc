//! The mirrors of a disk: opened, locked, judged, and claimed by a pair that starts.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use protocol::ReplicaId;
use rustix::fs::FlockOperation;

use super::follow::Route;
use super::identity::{HEADER_BYTES, IDENTITY_BYTES, Identity, MAX_PAIR_NAME_BYTES};
use super::mark::Mark;
use super::{DiskError, DiskSpec, Kind, copy, mirror_path};

const BOTH: [ReplicaId; 2] = [ReplicaId::ZERO, ReplicaId::ONE];

/// A mirror, locked as long as this lives.
#[derive(Debug)]
pub struct Mirror {
    /// The file's name.
    pub path: PathBuf,
    /// The file.
    pub file: File,
    /// What it says of itself.
    pub identity: Identity,
}

impl Mirror {
    /// Opens and locks a mirror that exists. `None` when there is no such file.
    ///
    /// # Errors
    /// It is in use, or no disk.
    pub fn open(path: &Path) -> Result<Option<Self>, DiskError> {
        let Some(file) = open_locked(path)? else { return Ok(None) };
        let identity = read_identity(&file, path)?;
        Ok(Some(Self { path: path.to_owned(), file, identity }))
    }

    /// Makes a mirror of zeros that takes no room. What was in the file before is gone.
    ///
    /// # Errors
    /// The system's.
    pub fn create(path: &Path, identity: Identity) -> Result<Self, DiskError> {
        let error = DiskError::file(path);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(error)?;
        lock(&file, path)?;
        let sized = file.set_len(0).and_then(|()| file.set_len(HEADER_BYTES + identity.size_bytes));
        sized.map_err(DiskError::file(path))?;
        let mirror = Self { path: path.to_owned(), file, identity };
        mirror.write_identity()?;
        // The name of a new file is stable only when its folder is.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(DiskError::file(folder))?;
        Ok(mirror)
    }

    /// Writes the identity, and makes it and the blocks that were written before stable.
    ///
    /// # Errors
    /// The system's.
    pub fn write_identity(&self) -> Result<(), DiskError> {
        self.note_identity()?;
        self.file.sync_data().map_err(DiskError::file(&self.path))
    }

    /// Writes the identity to where everybody on this host sees it. It is stable with whatever is flushed next.
    ///
    /// # Errors
    /// The system's.
    pub fn note_identity(&self) -> Result<(), DiskError> {
        self.file.write_all_at(&self.identity.encode(), 0).map_err(DiskError::file(&self.path))
    }
}

fn open_locked(path: &Path) -> Result<Option<File>, DiskError> {
    match File::options().read(true).write(true).open(path) {
        Ok(file) => {
            lock(&file, path)?;
            Ok(Some(file))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(DiskError::File { path: path.to_owned(), source }),
    }
}

/// The lock is another one than QEMU's own: both hold theirs while a pair runs.
fn lock(file: &File, path: &Path) -> Result<(), DiskError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DiskError::InUse { path: path.to_owned() }),
        Err(error) => Err(DiskError::File { path: path.to_owned(), source: error.into() }),
    }
}

/// What a file says of itself, checked against its length.
///
/// # Errors
/// It is no disk, or not whole.
pub fn read_identity(file: &File, path: &Path) -> Result<Identity, DiskError> {
    let length = file.metadata().map_err(DiskError::file(path))?.len();
    let foreign = || DiskError::Identity { path: path.to_owned(), source: super::IdentityError::Foreign };
    if length < HEADER_BYTES {
        return Err(foreign());
    }
    let mut bytes = [0; IDENTITY_BYTES];
    file.read_exact_at(&mut bytes, 0).map_err(DiskError::file(path))?;
    let identity = Identity::decode(&bytes).map_err(|source| DiskError::Identity { path: path.to_owned(), source })?;
    if length != HEADER_BYTES + identity.size_bytes {
        let (expected, found) = (identity.size_bytes, length - HEADER_BYTES);
        return Err(DiskError::Size { path: path.to_owned(), expected, found });
    }
    Ok(identity)
}

/// The mirrors of a disk, as far as there are any.
#[derive(Debug)]
pub struct Mirrors {
    /// What their names begin with.
    pub stem: PathBuf,
    /// By replica.
    pub each: [Option<Mirror>; 2],
}

impl Mirrors {
    /// Opens and locks what there is. Two mirrors belong together and each to its own replica.
    ///
    /// # Errors
    /// One is in use, no disk, or not the other's mirror.
    pub fn open(stem: &Path) -> Result<Self, DiskError> {
        let each =
            [Mirror::open(&mirror_path(stem, ReplicaId::ZERO))?, Mirror::open(&mirror_path(stem, ReplicaId::ONE))?];
        let mirrors = Self { stem: stem.to_owned(), each };
        if mirrors.freshest().is_none() && super::shared::is_shared(stem) {
            return Err(super::shared::is_no_mirror(stem));
        }
        for (replica, mirror) in BOTH.into_iter().zip(&mirrors.each) {
            if let Some(mirror) = mirror {
                mirror.belongs_to(replica)?;
            }
        }
        if let [Some(zero), Some(one)] = &mirrors.each {
            zero.is_mirror_of(one)?;
        }
        Ok(mirrors)
    }

    /// The mirror that has missed nothing: the one with the highest generation. With one generation no replica has left since
    /// the start, or since one was brought in; then it is the one that the primary had: replica 0's, or the one that says so.
    pub fn freshest(&self) -> Option<ReplicaId> {
        let generation = |id: ReplicaId| {
            self.each[id.index()].as_ref().map(|mirror| (mirror.identity.generation, mirror.identity.leads))
        };
        match (generation(ReplicaId::ZERO), generation(ReplicaId::ONE)) {
            (None, None) => None,
            (zero, one) if one > zero => Some(ReplicaId::ONE),
            _ => Some(ReplicaId::ZERO),
        }
    }

    /// Why this replica's mirror cannot be used beside the other, or alone.
    pub fn fault(&self, replica: ReplicaId, paired: bool) -> Option<&'static str> {
        let Some(freshest) = self.freshest().and_then(|id| self.each[id.index()].as_ref()) else {
            return Some("is missing");
        };
        let Some(mirror) = &self.each[replica.index()] else { return Some("is missing") };
        if mirror.identity.generation < freshest.identity.generation {
            return Some("is stale: the other mirror was written to without it");
        }
        let may_differ = paired && self.each.iter().flatten().any(|mirror| !mirror.identity.clean);
        (may_differ && self.freshest() != Some(replica))
            .then_some("may differ from the other mirror: both replicas were stopped in the middle of their work")
    }
}

impl Mirrors {
    /// Makes a newcomer's mirror ready to be overwritten with the other one's blocks: it says that it is stale. One that is
    /// gone, or of another length, is made anew. `disk` is its place among those of the guest.
    ///
    /// # Errors
    /// The system's, or there is nothing to copy from.
    pub fn begin_copy(&mut self, newcomer: ReplicaId, disk: u32) -> Result<Route, DiskError> {
        let paths = [mirror_path(&self.stem, newcomer.peer()), mirror_path(&self.stem, newcomer)];
        let [from_path, to_path] = paths;
        let [zero, one] = &mut self.each;
        let (from, place) = if newcomer == ReplicaId::ONE { (zero, one) } else { (one, zero) };
        let Some(from) = from else { return Err(DiskError::NoSize { path: from_path }) };
        let unfinished =
            Identity { replica: newcomer, generation: 0, leads: false, clean: false, ..from.identity.clone() };
        let size_bytes = unfinished.size_bytes;
        let to = match place.take() {
            Some(mirror) if mirror.is_in_place()? => {
                let mirror = Mirror { identity: unfinished, ..mirror };
                mirror.note_identity()?;
                Mark::erase(&mirror.file).map_err(DiskError::file(&to_path))?;
                mirror.file.set_len(HEADER_BYTES + size_bytes).map_err(DiskError::file(&to_path))?;
                mirror
            }
            _ => Mirror::create(&to_path, unfinished)?,
        };
        let copied = |mirror: &Mirror| mirror.file.try_clone().map_err(DiskError::file(&mirror.path));
        let route = Route { disk, size_bytes, from: copied(from)?, from_path, to: copied(&to)?, to_path };
        *place = Some(to);
        Ok(route)
    }

    /// The copy is whole and stable, and both replicas go on together.
    ///
    /// # Errors
    /// The system's. The copy counts as stale then.
    pub fn end_copy(&mut self, newcomer: ReplicaId) -> Result<(), DiskError> {
        let [zero, one] = &mut self.each;
        let (from, to) = if newcomer == ReplicaId::ONE { (zero, one) } else { (one, zero) };
        let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
        from.identity.leads = true;
        from.note_identity()?;
        to.identity.generation = from.identity.generation;
        to.identity.last_epoch = from.identity.last_epoch;
        to.note_identity()
    }
}

impl Mirror {
    /// Whether the file that is open here is still the one of that name.
    fn is_in_place(&self) -> Result<bool, DiskError> {
        let open = self.file.metadata().map_err(DiskError::file(&self.path))?;
        let named = std::fs::metadata(&self.path);
        Ok(named.is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino())))
    }

    pub(super) fn stranger(&self, expected: String, found: String, advice: &'static str) -> DiskError {
        DiskError::Stranger { path: self.path.clone(), expected, found, advice }
    }

    fn belongs_to(&self, replica: ReplicaId) -> Result<(), DiskError> {
        if self.identity.kind == Kind::Shared {
            return Err(super::shared::is_no_mirror(&self.path));
        }
        if self.identity.replica == replica {
            return Ok(());
        }
        let name = |replica| format!("replica {replica}'s mirror");
        let advice = "were the two files swapped? Rename them";
        Err(self.stranger(name(replica), name(self.identity.replica), advice))
    }

    fn is_mirror_of(&self, other: &Self) -> Result<(), DiskError> {
        if self.identity.id == other.identity.id && self.identity.size_bytes == other.identity.size_bytes {
            return Ok(());
        }
        let name = |mirror: &Self| format!("disk {} of pair {}", mirror.identity.disk, mirror.identity.pair);
        let expected = format!("the mirror of {} ({})", other.path.display(), name(other));
        Err(self.stranger(expected, format!("another disk ({})", name(self)), "put the file that belongs there back"))
    }

    /// Whether it is the disk that was asked for, of this pair.
    pub(super) fn serves(&self, spec: &DiskSpec, pair: &str) -> Result<(), DiskError> {
        let Identity { disk, pair: owner, size_bytes, .. } = &self.identity;
        if *disk != spec.name {
            let advice = "give it by its own name";
            return Err(self.stranger(format!("disk {}", spec.name), format!("disk {disk}"), advice));
        }
        if owner != pair {
            let advice = "start the pair under that name by --name, or use another file";
            return Err(self.stranger(format!("a disk of pair {pair}"), format!("one of pair {owner}"), advice));
        }
        match spec.size_bytes {
            Some(expected) if expected != *size_bytes => {
                Err(DiskError::Size { path: self.path.clone(), expected, found: *size_bytes })
            }
            _ => Ok(()),
        }
    }
}

/// Opens a disk's mirrors for a pair that starts with so many replicas, makes them if there are none, and claims them: they
/// have a new generation then, and are in use.
///
/// # Errors
/// Whatever forbids to use them. Nothing has been changed then, unless a mirror was to be made anew.
pub fn claim(spec: &DiskSpec, pair: &str, replicas: usize, new_id: [u8; 16]) -> Result<Mirrors, DiskError> {
    check_pair_name(spec, pair)?;
    let mut mirrors = Mirrors::open(&spec.stem)?;
    for mirror in mirrors.each.iter().flatten() {
        mirror.serves(spec, pair)?;
    }
    if mirrors.freshest().is_none() {
        create(&mut mirrors, spec, pair, replicas, new_id)?;
    }
    for replica in BOTH.into_iter().take(replicas) {
        let Some(what) = mirrors.fault(replica, replicas == 2) else { continue };
        let source = mirrors.freshest().unwrap_or(ReplicaId::ZERO);
        if !spec.resync {
            let (path, stem) = (mirror_path(&spec.stem, replica), spec.stem.clone());
            let source_path = mirror_path(&spec.stem, source);
            return Err(DiskError::Stale { path, what, stem, source_path, name: spec.name.clone() });
        }
        copy::resync(&mut mirrors, source, |_, _| {})?;
    }
    let generation = mirrors.each.iter().flatten().map(|mirror| mirror.identity.generation).max().unwrap_or(0) + 1;
    // A log that the disk belonged to does not know what happens from now on.
    for mirror in mirrors.each.iter().flatten() {
        Mark::erase(&mirror.file).map_err(DiskError::file(&mirror.path))?;
    }
    for mirror in mirrors.each.iter_mut().take(replicas).flatten() {
        mirror.identity.generation = generation;
        mirror.identity.leads = false;
        mirror.identity.clean = false;
        mirror.write_identity()?;
    }
    Ok(mirrors)
}

/// A pair's name must fit into an identity.
pub(super) fn check_pair_name(spec: &DiskSpec, pair: &str) -> Result<(), DiskError> {
    if pair.len() <= MAX_PAIR_NAME_BYTES {
        return Ok(());
    }
    let found = format!("one of a pair whose name has {} bytes", pair.len());
    let (expected, advice) =
        (format!("a disk of a pair whose name has at most {MAX_PAIR_NAME_BYTES}"), "choose a shorter --name");
    Err(DiskError::Stranger { path: spec.stem.clone(), expected, found, advice })
}

fn create(mirrors: &mut Mirrors, spec: &DiskSpec, pair: &str, replicas: usize, id: [u8; 16]) -> Result<(), DiskError> {
    let path = |replica| mirror_path(&spec.stem, replica);
    let size_bytes = spec.size_bytes.ok_or_else(|| DiskError::NoSize { path: path(ReplicaId::ZERO) })?;
    for replica in BOTH.into_iter().take(replicas) {
        let identity = Identity {
            size_bytes,
            id,
            disk: spec.name.clone(),
            pair: pair.to_owned(),
            kind: Kind::Mirrored,
            replica,
            generation: 0,
            last_epoch: 0,
            leads: false,
            clean: true,
        };
        mirrors.each[replica.index()] = Some(Mirror::create(&path(replica), identity)?);
    }
    Ok(())
}
