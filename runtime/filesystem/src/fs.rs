//! The file system itself, and what needs no device.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use recordstore::{Batch, BlockDevice, Store};

use crate::BLOCK_BYTES;
use crate::blocks::{BlockMap, GROUP_BYTES};
use crate::cache::Cache;
use crate::error::FsError;
use crate::inode::{Attributes, Content, Ino, Inode, Times};
use crate::part::Part;
use crate::record::{CUT_BYTES, ENTRY_BYTES, GONE_BYTES, INODE_BYTES, RUN_BYTES};
use crate::space::Space;

/// The root directory.
pub const ROOT: Ino = 1;

/// Memory that an inode takes without its blocks and entries, about.
const INODE_MEMORY_BYTES: usize = size_of::<Inode>() + 48;
/// Memory that a name takes beside its bytes, about.
const NAME_MEMORY_BYTES: usize = 64;

/// How full a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes for data in all.
    pub bytes: u64,
    /// Bytes that can be written, without those kept for changes to what is there.
    pub free_bytes: u64,
    /// Files, directories and links.
    pub inodes: u64,
}

/// What has changed since the last commit, as the log will be told.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub inodes: BTreeSet<Ino>,
    pub entries: BTreeMap<(Ino, Vec<u8>), Ino>,
    /// Blocks with new places.
    pub blocks: BTreeSet<(Ino, u64)>,
    /// Where files were cut, at the lowest.
    pub cuts: BTreeMap<Ino, u64>,
    pub gone: BTreeSet<Ino>,
    /// Bytes of the names in `entries`.
    pub name_bytes: usize,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
            && self.entries.is_empty()
            && self.blocks.is_empty()
            && self.cuts.is_empty()
            && self.gone.is_empty()
    }

    /// A name stands for an inode from now on, or for none (0).
    #[inline(never)]
    pub fn entry(&mut self, directory: Ino, name: &[u8], ino: Ino) {
        if self.entries.insert((directory, name.to_vec()), ino).is_none() {
            self.name_bytes += name.len();
        }
    }

    /// Bytes of the records that tell it, at most, but for targets of links.
    fn log_bytes(&self) -> usize {
        self.inodes.len() * INODE_BYTES
            + self.entries.len() * ENTRY_BYTES
            + self.name_bytes
            + self.blocks.len() * (RUN_BYTES + 8)
            + self.cuts.len() * CUT_BYTES
            + self.gone.len() * GONE_BYTES
    }

    /// A file has no blocks from `index` on any more.
    #[inline(never)]
    pub fn cut(&mut self, ino: Ino, index: u64) {
        let lowest = self.cuts.entry(ino).or_insert(index);
        *lowest = index.min(*lowest);
        let beyond: Vec<_> = self.blocks.range((ino, index)..=(ino, u64::MAX)).copied().collect();
        for key in beyond {
            self.blocks.remove(&key);
        }
    }

    /// There is no such inode any more.
    #[inline(never)]
    pub fn gone(&mut self, ino: Ino) {
        self.cut(ino, 0);
        self.cuts.remove(&ino);
        self.inodes.remove(&ino);
        self.gone.insert(ino);
    }
}

/// What the metadata takes and may take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weight {
    /// In memory.
    pub memory_bytes: usize,
    /// In a log that holds it all, at most.
    pub log_bytes: usize,
}

impl Weight {
    pub const INODE: Self = Self { memory_bytes: INODE_MEMORY_BYTES, log_bytes: INODE_BYTES };
    /// A block in a run of its own.
    pub const BLOCK: Self = Self { memory_bytes: 0, log_bytes: RUN_BYTES + 8 };
    pub const GROUP: Self = Self { memory_bytes: GROUP_BYTES, log_bytes: 0 };

    /// The places of a file's blocks.
    pub fn of(map: &BlockMap) -> Self {
        Self::GROUP.times(map.groups()).and(Self::BLOCK.times(map.blocks() as usize))
    }

    pub fn name(name: &[u8]) -> Self {
        Self { memory_bytes: NAME_MEMORY_BYTES + name.len(), log_bytes: ENTRY_BYTES + name.len() }
    }

    pub fn target(target: &[u8]) -> Self {
        Self { memory_bytes: target.len(), log_bytes: target.len() }
    }

    pub fn and(self, other: Self) -> Self {
        Self { memory_bytes: self.memory_bytes + other.memory_bytes, log_bytes: self.log_bytes + other.log_bytes }
    }

    pub fn times(self, count: usize) -> Self {
        Self { memory_bytes: self.memory_bytes * count, log_bytes: self.log_bytes * count }
    }
}

/// A mounted file system.
///
/// One task at a time uses it. A future of it must run to its end: one that is dropped half way leaves the file system
/// whole, but may leave the metadata log in doubt until the next commit.
#[derive(Debug)]
pub struct FileSystem<D> {
    pub(crate) store: Store<Part<D>>,
    pub(crate) data: Part<D>,
    pub(crate) space: Space,
    pub(crate) inodes: BTreeMap<Ino, Inode>,
    pub(crate) next_ino: Ino,
    /// How often those that are open are.
    pub(crate) open: BTreeMap<Ino, u32>,
    pub(crate) cache: Cache,
    pub(crate) changes: Changes,
    pub(crate) weight: Weight,
    pub(crate) limit: Weight,
    /// Data was written since the last flush.
    pub(crate) unflushed: bool,
    /// Bytes that the live log had when it was begun.
    pub(crate) whole_bytes: u64,
    /// A buffer for transfers.
    pub(crate) buffer: Vec<u8>,
    pub(crate) batch: Batch,
    #[cfg(test)]
    pub(crate) sabotage: Sabotage,
    /// Commits that were begun, and that were ended well.
    #[cfg(test)]
    pub(crate) commits: (u64, u64),
}

/// Mistakes that the tests must find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Sabotage {
    #[default]
    None,
    /// Records are written before the data that they speak of is stable.
    NoDataFlush,
    /// Places are free before the commit that leaves them is stable.
    FreeAtOnce,
    /// A commit whose end is missing is believed.
    BelieveHalves,
    /// Checksums are not compared.
    BelieveData,
    /// A file's length is set when all was written.
    LateLength,
}

impl<D: BlockDevice + Clone> FileSystem<D> {
    pub(crate) fn inode(&self, ino: Ino) -> Result<&Inode, FsError> {
        self.inodes.get(&ino).ok_or(FsError::NotFound)
    }

    /// An inode that is about to change.
    pub(crate) fn change(&mut self, ino: Ino) -> Result<&mut Inode, FsError> {
        let inode = self.inodes.get_mut(&ino).ok_or(FsError::NotFound)?;
        self.changes.inodes.insert(ino);
        Ok(inode)
    }

    /// What there is to say of an inode.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn attributes(&self, ino: Ino) -> Result<Attributes, FsError> {
        Ok(self.inode(ino)?.attributes())
    }

    /// Sets permission bits; nobody looks at them here.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_mode(&mut self, ino: Ino, mode: u32, now_ns: u64) -> Result<(), FsError> {
        let inode = self.change(ino)?;
        inode.mode = mode & 0o7777;
        inode.times.changed_ns = now_ns;
        Ok(())
    }

    /// Sets times of access and modification; what is not given stays.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_times(
        &mut self,
        ino: Ino,
        accessed_ns: Option<u64>,
        modified_ns: Option<u64>,
        now_ns: u64,
    ) -> Result<(), FsError> {
        let times: &mut Times = &mut self.change(ino)?.times;
        times.accessed_ns = accessed_ns.unwrap_or(times.accessed_ns);
        times.modified_ns = modified_ns.unwrap_or(times.modified_ns);
        times.changed_ns = now_ns;
        Ok(())
    }

    /// Keeps an inode, with or without a name, until [`close`](Self::close) was called as often.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn open(&mut self, ino: Ino) -> Result<(), FsError> {
        self.inode(ino)?;
        *self.open.entry(ino).or_insert(0) += 1;
        Ok(())
    }

    /// The opposite of [`open`](Self::open).
    pub fn close(&mut self, ino: Ino) {
        if let Some(count) = self.open.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&ino);
                self.drop_if_unused(ino);
            }
        }
    }

    /// Takes an inode away that has no name and is not open.
    #[inline(never)]
    pub(crate) fn drop_if_unused(&mut self, ino: Ino) {
        if self.open.contains_key(&ino) || self.inodes.get(&ino).is_none_or(|inode| inode.links > 0) {
            return;
        }
        let Some(mut inode) = self.inodes.remove(&ino) else { return };
        self.lighten(Weight::INODE);
        match &mut inode.content {
            Content::File { map, .. } => {
                self.cache.forget(ino, 0);
                let weight = Weight::of(map);
                map.cut(0, |place| self.space.release(place.block));
                self.lighten(weight);
            }
            Content::Link { target } => self.lighten(Weight::target(target)),
            Content::Directory { .. } => {}
        }
        self.changes.gone(ino);
    }

    /// Whether metadata may grow by this, with places for all that was changed and lies nowhere yet.
    pub(crate) fn allow(&self, more: Weight) -> Result<(), FsError> {
        let places = Weight::BLOCK.and(Weight::GROUP).times(self.cache.dirty());
        let sum = self.weight.and(places).and(more);
        let fits = sum.memory_bytes <= self.limit.memory_bytes && sum.log_bytes <= self.limit.log_bytes;
        if fits { Ok(()) } else { Err(FsError::NoSpace) }
    }

    pub(crate) fn lighten(&mut self, less: Weight) {
        self.weight.memory_bytes = self.weight.memory_bytes.saturating_sub(less.memory_bytes);
        self.weight.log_bytes = self.weight.log_bytes.saturating_sub(less.log_bytes);
    }

    /// How full it is.
    pub fn room(&self) -> Room {
        let free = (self.space.free() + self.space.released())
            .saturating_sub(self.cache.dirty() as u32)
            .saturating_sub(self.space.kept());
        Room {
            bytes: u64::from(self.space.blocks()) * BLOCK_BYTES as u64,
            free_bytes: u64::from(free) * BLOCK_BYTES as u64,
            inodes: self.inodes.len() as u64,
        }
    }

    /// Whether so much has changed that the owner had better [sync](Self::sync): a commit is read into memory as a whole when
    /// the device is mounted, and names that came and went are told in it, too.
    pub fn wants_commit(&self) -> bool {
        self.changes.log_bytes() > self.limit.memory_bytes / 2
    }

    /// Whether anything has changed that is not stable.
    pub fn is_changed(&self) -> bool {
        !self.changes.is_empty() || self.cache.dirty() > 0
    }
}
