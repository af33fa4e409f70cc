//! The pair's disks as its supervisor sees them: whose mirror is how fresh.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use protocol::{Epoch, ReplicaId};

use super::checkpoint::DiskCopy;
use super::replica::Replica;
use super::spec::Spec;
use super::{Supervisor, random_bytes};
use crate::ctl::DiskStatus;
use crate::disk::follow::Route;
use crate::disk::mark::{Mark, Stretch};
use crate::disk::mirror::{self, Mirror, Mirrors};
use crate::disk::{DiskError, DiskSpec, Kind, copy, logged, shared};
use crate::error::Result;

/// What was asked to stop is ended after this time when it has disks: what is under way goes to both mirrors first.
pub const END_GRACE_NS: u64 = 5_000 * super::NS_PER_MS;

/// A disk of the pair, locked.
#[derive(Debug)]
enum Claimed {
    /// Each replica has one.
    Mirrored(Mirrors),
    /// Both have the same.
    Shared(Mirror),
}

impl Claimed {
    /// What a replica writes to.
    fn of(&mut self, replica: ReplicaId) -> Option<&mut Mirror> {
        match self {
            Self::Mirrored(mirrors) => mirrors.each[replica.index()].as_mut(),
            Self::Shared(disk) => Some(disk),
        }
    }

    fn name(&self) -> &str {
        let any = match self {
            Self::Mirrored(mirrors) => mirrors.each.iter().flatten().next(),
            Self::Shared(disk) => Some(disk),
        };
        any.map_or("", |mirror| &mirror.identity.disk)
    }

    /// Whether every file of it holds nothing.
    fn is_blank(&self) -> Result<bool, DiskError> {
        let files = match self {
            Self::Mirrored(mirrors) => &mirrors.each[..],
            Self::Shared(disk) => return copy::is_blank(disk),
        };
        for mirror in files.iter().flatten() {
            if !copy::is_blank(mirror)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The highest generation.
    fn newest(&self) -> u64 {
        match self {
            Self::Mirrored(mirrors) => mirrors.each.iter().flatten().map(|mirror| mirror.identity.generation).max(),
            Self::Shared(disk) => Some(disk.identity.generation),
        }
        .unwrap_or(0)
    }

    fn status(&self) -> DiskStatus {
        match self {
            Self::Mirrored(mirrors) => mirrored_status(mirrors),
            Self::Shared(disk) => DiskStatus {
                name: disk.identity.disk.clone(),
                file: disk.path.clone(),
                size_bytes: disk.identity.size_bytes,
                kind: Kind::Shared,
                stale: None,
            },
        }
    }
}

fn mirrored_status(disk: &Mirrors) -> DiskStatus {
    let freshest = disk.freshest().and_then(|id| disk.each[id.index()].as_ref());
    let stale = |id: &ReplicaId| disk.fault(*id, false).is_some_and(|_| disk.each[id.index()].is_some());
    DiskStatus {
        name: freshest.map_or_else(String::new, |mirror| mirror.identity.disk.clone()),
        file: disk.stem.clone(),
        size_bytes: freshest.map_or(0, |mirror| mirror.identity.size_bytes),
        kind: Kind::Mirrored,
        stale: [ReplicaId::ZERO, ReplicaId::ONE].iter().find(|id| stale(id)).map(|id| id.get()),
    }
}

/// All disks of the pair, locked.
#[derive(Debug, Default)]
pub struct Disks(Vec<Claimed>);

impl Disks {
    /// Takes all disks that the pair is to have, for itself alone. It starts with so many replicas.
    ///
    /// # Errors
    /// Why one of them cannot be had.
    pub fn claim(spec: &Spec, replicas: usize) -> Result<Self> {
        let mut disks = Vec::with_capacity(spec.disks.len());
        for disk in &spec.disks {
            let id = random_bytes()?;
            disks.push(match disk.kind {
                Kind::Mirrored => Claimed::Mirrored(mirror::claim(disk, &spec.name, replicas, id)?),
                Kind::Shared => Claimed::Shared(shared::claim(disk, &spec.name, id)?),
            });
        }
        Ok(Self(disks))
    }

    /// Takes the disks of a pair that goes on from a stored log, for the first replica to run that part of the log upon.
    ///
    /// # Errors
    /// Why one of them cannot be had. Nothing has been changed then, unless the system failed.
    pub fn claim_for_log(spec: &Spec, stretch: &Stretch) -> Result<Self> {
        let judge = |disk| logged::judge(disk, &spec.name, stretch);
        let judged: Vec<_> = spec.disks.iter().map(judge).collect::<Result<_, DiskError>>()?;
        let mut disks = Vec::with_capacity(judged.len());
        for judged in judged {
            disks.push(match judged.claim()? {
                logged::Ready::Mirrored(mirrors) => Claimed::Mirrored(mirrors),
                logged::Ready::Shared(disk) => Claimed::Shared(disk),
            });
        }
        Ok(Self(disks))
    }

    /// The files that a replica writes to, with their generations.
    ///
    /// # Errors
    /// The system's.
    pub fn files_of(&mut self, replica: ReplicaId) -> Result<Vec<(File, u64)>, DiskError> {
        let mut files = Vec::with_capacity(self.0.len());
        for disk in &mut self.0 {
            let Some(mirror) = disk.of(replica) else { continue };
            let file = mirror.file.try_clone().map_err(DiskError::file(&mirror.path))?;
            files.push((file, mirror.identity.generation));
        }
        Ok(files)
    }

    /// These disks as they are said to be, with their sizes.
    pub fn sized(&self, specs: &[DiskSpec]) -> Vec<DiskSpec> {
        let size_of = |name: &str| self.0.iter().find(|disk| disk.name() == name).map(|disk| disk.status().size_bytes);
        let sized = |spec: &DiskSpec| DiskSpec { size_bytes: size_of(&spec.name), resync: false, ..spec.clone() };
        specs.iter().map(sized).collect()
    }

    /// Which disks hold nothing but zeros, as shims are told: bit i for the i-th by name.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn blank(&self) -> Result<u8, DiskError> {
        let mut bits = 0;
        for (disk, place) in self.0.iter().zip(self.places()) {
            // A guest has fewer disks than a byte has bits.
            bits |= u8::from(disk.is_blank()?) << place;
        }
        Ok(bits)
    }

    /// Whether there are none.
    pub fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both replicas can write to the same disk.
    pub fn are_shared(&self) -> bool {
        self.0.iter().any(|disk| matches!(disk, Claimed::Shared(_)))
    }

    /// The files of shared disks. Whoever has one open that was opened here has its lock.
    pub fn locks(&self) -> Vec<BorrowedFd<'_>> {
        let mut locks = Vec::new();
        for disk in &self.0 {
            if let Claimed::Shared(disk) = disk {
                locks.push(disk.file.as_fd());
            }
        }
        locks
    }

    /// Whether each replica has a mirror of at least one.
    pub fn are_mirrored(&self) -> bool {
        self.0.iter().any(|disk| matches!(disk, Claimed::Mirrored(_)))
    }

    /// Makes a newcomer's mirrors ready to be overwritten with those of the other replica: they say that they are stale.
    /// Returns what is to be copied where.
    ///
    /// # Errors
    /// A file cannot be had.
    pub fn prepare_mirrors(&mut self, newcomer: ReplicaId) -> Result<Vec<Route>, DiskError> {
        let places = self.places();
        let mut routes = Vec::new();
        for (disk, place) in self.0.iter_mut().zip(places) {
            let Claimed::Mirrored(mirrors) = disk else { continue };
            routes.push(mirrors.begin_copy(newcomer, place)?);
        }
        Ok(routes)
    }

    /// The place of each disk among those of the guest, which are in the order of their names.
    fn places(&self) -> Vec<u32> {
        let before = |disk: &Claimed| self.0.iter().filter(|other| other.name() < disk.name()).count() as u32;
        self.0.iter().map(before).collect()
    }

    /// Copies of a replica's mirrors for a checkpoint of this name, and what is to be copied where.
    ///
    /// # Errors
    /// The system's.
    pub fn begin_checkpoint(&self, from: ReplicaId, path: &Path) -> Result<(Vec<DiskCopy>, Vec<Route>), DiskError> {
        let (mut copies, mut routes) = (Vec::new(), Vec::new());
        for (disk, place) in self.0.iter().zip(self.places()) {
            let Claimed::Mirrored(mirrors) = disk else { continue };
            let Some(mirror) = &mirrors.each[from.index()] else { continue };
            let (copy, route) = DiskCopy::begin(mirror, place, path)?;
            copies.push(copy);
            routes.push(route);
        }
        Ok((copies, routes))
    }

    /// A newcomer's mirrors hold what the other replica's do, for certain, and both replicas go on together.
    ///
    /// # Errors
    /// The system's.
    pub fn adopt(&mut self, newcomer: ReplicaId) -> Result<(), DiskError> {
        for disk in &mut self.0 {
            if let Claimed::Mirrored(mirrors) = disk {
                mirrors.end_copy(newcomer)?;
            }
        }
        Ok(())
    }

    /// As `status` shows them.
    pub fn status(&self) -> Vec<DiskStatus> {
        self.0.iter().map(Claimed::status).collect()
    }

    /// A replica goes on alone from here: its mirrors have what the others' will miss.
    fn raise(&mut self, survivor: ReplicaId, epoch: u64) -> Result<(), DiskError> {
        for disk in &mut self.0 {
            let generation = disk.newest() + 1;
            let Some(mirror) = disk.of(survivor) else { continue };
            mirror.identity.generation = generation;
            mirror.identity.last_epoch = epoch;
            mirror.note_identity()?;
        }
        Ok(())
    }

    /// These replicas have ended in good order; their mirrors are equal.
    /// `log` names the log that their disks belong to, and how far it goes.
    fn leave(&mut self, epochs: [Option<u64>; 2], log: Option<(u64, Epoch)>) -> Result<(), DiskError> {
        for disk in &mut self.0 {
            for (replica, epoch) in [ReplicaId::ZERO, ReplicaId::ONE].into_iter().zip(epochs) {
                let (Some(mirror), Some(epoch)) = (disk.of(replica), epoch) else { continue };
                mirror.identity.clean = true;
                mirror.identity.last_epoch = epoch;
                if let Some((lineage, through)) = log {
                    let mark = Mark { lineage, generation: mirror.identity.generation, through };
                    mark.note(&mirror.file).map_err(DiskError::file(&mirror.path))?;
                }
                mirror.write_identity()?;
            }
        }
        Ok(())
    }
}

impl Supervisor {
    /// Before a replica hears that it goes on alone, its mirrors say so. That is not flushed, because clients wait meanwhile
    /// and a flush was seen to take 0.6 s. It need not be: what a guest flushes afterwards goes to the same file, by the
    /// same page cache, and takes the identity along. Returns whether the replica may be told.
    pub(super) fn raise_mirrors(&mut self, survivor: ReplicaId) -> bool {
        let epoch = self.epoch_of(survivor).unwrap_or(0);
        match self.disks.raise(survivor, epoch) {
            Ok(()) => true,
            Err(error) => {
                self.happened(format!("a disk cannot be marked: {error}"));
                false
            }
        }
    }

    fn epoch_of(&self, id: ReplicaId) -> Option<u64> {
        Some(self.replicas[id.index()].as_ref()?.status.map_or(0, |status| status.epoch))
    }

    /// Notes that a replica ended in good order, with nothing under way at its disks.
    pub(super) fn note_orderly_end(&mut self, id: ReplicaId) {
        self.orderly_ends[id.index()] = self.epoch_of(id);
    }

    /// The pair has ended. If all who had a part in it at the end did so in good order, their mirrors are clean.
    /// `log` is the name of the log that they belong to, if there is one, and how far it goes.
    pub(super) fn leave_disks(&mut self, log: Option<(u64, Epoch)>) {
        if self.disks.are_none() {
            return;
        }
        let record = self.arbiter.record();
        let mut wanted = vec![record.active];
        if record.mode == protocol::Mode::Paired {
            wanted.push(record.active.peer());
        }
        if wanted.iter().any(|id| self.orderly_ends[id.index()].is_none()) {
            return self.happened("the disks were not left in good order: their mirrors may differ".to_owned());
        }
        let mut epochs = [None, None];
        for id in wanted {
            epochs[id.index()] = self.orderly_ends[id.index()];
        }
        if let Err(error) = self.disks.leave(epochs, log) {
            self.happened(format!("a disk cannot be marked: {error}"));
        }
    }

    /// The start has failed. If no guest has begun to run, the mirrors are as they were.
    pub(super) fn leave_unused_disks(&mut self) {
        let epochs = [(!self.configured).then_some(0); 2];
        if let Err(error) = self.disks.leave(epochs, None) {
            self.happened(format!("a disk cannot be marked: {error}"));
        }
    }

    /// Whether every replica has said that it has stopped, or has ended.
    pub(super) fn all_have_stopped(&self) -> bool {
        self.replicas.iter().flatten().all(|replica: &Replica| replica.stopped.is_some())
    }
}
