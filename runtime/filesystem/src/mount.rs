//! Mounting: the log read back into memory.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use recordstore::{Batch, BlockDevice, OpenError, Store};

use crate::blocks::{BlockMap, Place};
use crate::cache::Cache;
use crate::data::SECTORS;
use crate::error::MountError;
use crate::fs::{Changes, FileSystem, ROOT, Weight};
use crate::inode::{Content, Ino, Inode, Kind};
use crate::part::Part;
use crate::record::{InodeRecord, Record, VERSION};
use crate::space::Space;
use crate::{BLOCK_BYTES, MAX_FILE_BYTES};

/// The smallest device.
const LEAST_BYTES: u64 = 1 << 20;
/// Part of the device that the metadata log takes, and the least that it needs, in blocks of the device.
const LOG_PART: u64 = 8;
const LEAST_LOG_BLOCKS: u64 = 512;
/// How much of a device's beginning and end has to be zeros for it to be a new one.
const BLANK_BYTES: u64 = 1 << 20;
/// Bytes that are read at a time.
const TRANSFER_BYTES: usize = 64 * 1024;

/// How a file system is mounted.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Keys the checksums of a new file system's metadata.
    pub new_key: u64,
    /// Memory for blocks, in bytes; no less than 256 KiB are used.
    pub cache_bytes: usize,
    /// Memory that metadata may take, in bytes.
    pub metadata_bytes: usize,
    /// The time, for a new root directory.
    pub now_ns: u64,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The device was blank, and has a file system now.
    pub formatted: bool,
    /// It was not unmounted in peace: what was not synced was dropped.
    pub torn: bool,
}

fn layout(blocks: u64) -> Result<(u64, u32), MountError> {
    let bytes = blocks.saturating_mul(recordstore::BLOCK_BYTES as u64);
    if bytes < LEAST_BYTES {
        return Err(MountError::TooSmall { bytes, needed_bytes: LEAST_BYTES });
    }
    let log_blocks = (blocks / LOG_PART).max(LEAST_LOG_BLOCKS).next_multiple_of(SECTORS);
    let data_blocks = u32::try_from((blocks - log_blocks) / SECTORS).map_err(|_| MountError::TooBig { bytes })?;
    Ok((log_blocks, data_blocks))
}

/// Whether a device was never written to, as far as a look at its beginning and end tells.
async fn is_blank<D: BlockDevice>(device: &D) -> Result<bool, D::Error> {
    let step = (TRANSFER_BYTES / recordstore::BLOCK_BYTES) as u64;
    let edge = BLANK_BYTES / recordstore::BLOCK_BYTES as u64;
    let blocks = device.blocks();
    let (beginning, end) = (0..edge.min(blocks), blocks.saturating_sub(edge)..blocks);
    let starts = beginning.step_by(step as usize).chain(end.step_by(step as usize));
    let mut buffer = vec![0; TRANSFER_BYTES];
    for start in starts {
        let bytes = step.min(blocks - start) as usize * recordstore::BLOCK_BYTES;
        let buffer = buffer.get_mut(..bytes).unwrap_or_default();
        device.read(start, buffer).await?;
        if buffer.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether there is anything in the two blocks that say where a log is.
async fn has_superblock<D: BlockDevice>(device: &D) -> Result<bool, D::Error> {
    let mut block = [0; recordstore::BLOCK_BYTES];
    for at in [0, SECTORS] {
        device.read(at, &mut block).await?;
        if block.iter().any(|&byte| byte != 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl<D: BlockDevice + Clone> FileSystem<D> {
    /// Mounts what is on a device; makes a file system if it is blank.
    ///
    /// # Errors
    /// [`MountError`]. A device that is not blank and holds no file system is left as it is.
    pub async fn mount(device: D, options: Options) -> Result<(Self, Mounted), MountError> {
        Self::mount_with(device, options, &mut Replay::new(options.metadata_bytes)).await
    }

    pub(crate) async fn mount_with(
        device: D,
        options: Options,
        replay: &mut Replay,
    ) -> Result<(Self, Mounted), MountError> {
        let (log_blocks, data_blocks) = layout(device.blocks())?;
        let broken = |error: D::Error| MountError::Device(format!("{error:?}"));
        if !has_superblock(&device).await.map_err(broken)? && !is_blank(&device).await.map_err(broken)? {
            return Err(MountError::Foreign);
        }
        let log = Part { device: device.clone(), first: 0, blocks: log_blocks };
        let data = Part { device, first: log_blocks, blocks: u64::from(data_blocks) * SECTORS };
        let key = recordstore::Options { new_key: options.new_key, cut_damaged: false };
        let opened = Store::open(log, key, |record| replay.visit(record, data_blocks)).await;
        let (store, replayed) = opened.map_err(refused)?;
        if let Some(error) = replay.error.take() {
            return Err(error);
        }
        let usage = store.usage();
        let successor_bytes = (usage.segments - usage.live_limit) as u64 * usage.segment_bytes;
        let log_bytes = usize::try_from(successor_bytes / 8 * 5).unwrap_or(usize::MAX);
        let formatted = !replay.is_whole;
        let mut fs = Self {
            store,
            data,
            space: Space::new(data_blocks),
            inodes: core::mem::take(&mut replay.inodes),
            next_ino: replay.next_ino,
            open: BTreeMap::new(),
            cache: Cache::new((options.cache_bytes / BLOCK_BYTES).max(64)),
            changes: Changes::default(),
            weight: Weight::default(),
            limit: Weight { memory_bytes: options.metadata_bytes, log_bytes },
            unflushed: false,
            whole_bytes: usage.live_bytes / 2,
            buffer: Vec::new(),
            batch: Batch::new(),
            #[cfg(test)]
            sabotage: crate::fs::Sabotage::None,
        };
        if formatted {
            fs.format(options.now_ns).await?;
        } else {
            fs.check().map_err(MountError::Damaged)?;
        }
        Ok((fs, Mounted { formatted, torn: replayed.torn || replay.pending_is_open() }))
    }

    async fn format(&mut self, now_ns: u64) -> Result<(), MountError> {
        let content = Content::Directory { parent: ROOT, entries: BTreeMap::new(), subdirectories: 0 };
        self.inodes = BTreeMap::from([(ROOT, Inode::new(content, 0o755, now_ns))]);
        self.next_ino = ROOT + 1;
        self.weight = Weight::INODE;
        let written = self.write_whole().await;
        written.map_err(|error| MountError::Device(format!("no file system can be made: {error}")))
    }

    /// Looks whether what was read fits together, and derives the rest from it.
    fn check(&mut self) -> Result<(), String> {
        let kinds: BTreeMap<Ino, Kind> = self.inodes.iter().map(|(&ino, inode)| (ino, inode.kind())).collect();
        if kinds.get(&ROOT) != Some(&Kind::Directory) {
            return Err("no root directory".into());
        }
        // How many names each has, and the directory of the last one.
        let mut names: BTreeMap<Ino, (u32, Ino)> = BTreeMap::from([(ROOT, (1, ROOT))]);
        for (&ino, inode) in &mut self.inodes {
            self.weight = self.weight.and(Weight::INODE);
            match &mut inode.content {
                Content::Directory { entries, subdirectories, .. } => {
                    *subdirectories = 0;
                    for (name, entry) in entries {
                        let kind =
                            kinds.get(entry).ok_or_else(|| format!("a name in directory {ino} leads nowhere"))?;
                        *subdirectories += u32::from(*kind == Kind::Directory);
                        self.weight = self.weight.and(Weight::name(name));
                        let (count, directory) = names.entry(*entry).or_insert((0, ino));
                        (*count, *directory) = (*count + 1, ino);
                    }
                }
                Content::File { bytes, map } => {
                    if *bytes > MAX_FILE_BYTES {
                        return Err(format!("file {ino} has {bytes} bytes, more than any can"));
                    }
                    for (index, place) in map.iter() {
                        if !self.space.claim(place.block) {
                            return Err(format!("block {index} of file {ino} lies where it cannot ({})", place.block));
                        }
                    }
                    self.weight = self.weight.and(weight_of(map));
                }
                Content::Link { target } => self.weight = self.weight.and(Weight::target(target)),
            }
        }
        self.check_names(&names)?;
        // What was open and had no name when the machine went.
        for ino in kinds.into_keys() {
            self.drop_if_unused(ino);
        }
        Ok(())
    }

    /// Everything has as many names as it says, and a directory one, where it says that it lies.
    fn check_names(&self, names: &BTreeMap<Ino, (u32, Ino)>) -> Result<(), String> {
        for (&ino, inode) in &self.inodes {
            let (count, directory) = names.get(&ino).copied().unwrap_or((0, 0));
            let fits = match inode.content {
                Content::Directory { parent, .. } => {
                    count == inode.links && count <= 1 && (count == 0 || parent == directory)
                }
                Content::File { .. } | Content::Link { .. } => count == inode.links,
            };
            if !fits {
                return Err(format!(
                    "inode {ino} has {count} names, the last one in {directory}, and should have {}",
                    inode.links
                ));
            }
        }
        match self.inodes.last_key_value() {
            Some((&last, _)) if last >= self.next_ino => Err(format!("inode {last} should not be there yet")),
            _ => Ok(()),
        }
    }
}

fn weight_of(map: &BlockMap) -> Weight {
    Weight::GROUP.times(map.groups()).and(Weight::BLOCK.times(map.blocks() as usize))
}

fn refused<E: core::fmt::Debug>(error: OpenError<E>) -> MountError {
    match error {
        OpenError::Device(error) => MountError::Device(format!("{error:?}")),
        OpenError::Unrecognised => MountError::Foreign,
        OpenError::Version { found } => MountError::Version { found },
        OpenError::Resized { .. } => MountError::Resized,
        error @ (OpenError::TooSmall { .. } | OpenError::Corrupt { .. }) => MountError::Damaged(format!("{error}")),
    }
}

/// Makes inodes of records.
pub(crate) struct Replay {
    inodes: BTreeMap<Ino, Inode>,
    next_ino: Ino,
    /// Records of a commit whose end has not come yet, each with its length before it.
    pending: Vec<u8>,
    /// Records are kept until their commit ends.
    gathers: bool,
    /// The log begins with a format, and a commit has ended.
    is_whole: bool,
    has_format: bool,
    limit_bytes: usize,
    /// Memory that records have asked for, without what they have given back.
    grown_bytes: usize,
    pub error: Option<MountError>,
    #[cfg(test)]
    pub believe_halves: bool,
}

impl Replay {
    pub fn new(limit_bytes: usize) -> Self {
        Self {
            inodes: BTreeMap::new(),
            next_ino: ROOT + 1,
            pending: Vec::new(),
            gathers: false,
            is_whole: false,
            has_format: false,
            limit_bytes,
            grown_bytes: 0,
            error: None,
            #[cfg(test)]
            believe_halves: false,
        }
    }

    fn pending_is_open(&self) -> bool {
        self.gathers
    }

    fn visit(&mut self, bytes: &[u8], data_blocks: u32) {
        if self.error.is_some() {
            return;
        }
        if let Err(error) = self.take(bytes, data_blocks) {
            self.error = Some(error);
        }
    }

    fn take(&mut self, bytes: &[u8], data_blocks: u32) -> Result<(), MountError> {
        let record = Record::decode(bytes).ok_or_else(|| MountError::Damaged("a record that is none".into()));
        match record {
            Ok(Record::Format { version, block_bytes, data_blocks: found }) => {
                if version != VERSION {
                    return Err(MountError::Version { found: version });
                }
                self.has_format = true;
                if (block_bytes, found) != (BLOCK_BYTES as u32, data_blocks) {
                    return Err(MountError::Resized);
                }
                Ok(())
            }
            // A record store of somebody else's.
            _ if !self.has_format => Err(MountError::Foreign),
            Ok(Record::Begin { whole }) => {
                self.begin(whole);
                Ok(())
            }
            Ok(Record::End { next_ino }) => self.end(next_ino),
            Ok(_) if self.gathers => {
                self.pending.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                self.pending.extend_from_slice(bytes);
                Ok(())
            }
            record => self.apply(record?),
        }
    }

    fn begin(&mut self, whole: bool) {
        self.pending.clear();
        self.gathers = !whole;
        #[cfg(test)]
        if self.believe_halves {
            self.gathers = false;
        }
        if whole {
            self.inodes.clear();
        }
    }

    fn end(&mut self, next_ino: Ino) -> Result<(), MountError> {
        let pending = core::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (record, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize).unwrap_or_default();
            if let Some(record) = Record::decode(record) {
                self.apply(record)?;
            }
            rest = behind;
        }
        self.pending = pending;
        self.pending.clear();
        self.gathers = false;
        self.is_whole = true;
        self.next_ino = next_ino.max(ROOT + 1);
        Ok(())
    }

    fn apply(&mut self, record: Record<'_>) -> Result<(), MountError> {
        match record {
            Record::Inode(inode) => self.set_inode(&inode),
            Record::Entry { directory, ino, name } => {
                let Some(Content::Directory { entries, .. }) = self.content(directory) else { return Ok(()) };
                if ino == 0 {
                    entries.remove(name);
                } else {
                    entries.insert(name.to_vec(), ino);
                    self.grown_bytes += Weight::name(name).memory_bytes;
                }
            }
            Record::Run { ino, index, block, sums } => self.set_run(ino, index, block, sums),
            Record::Cut { ino, index } => {
                if let Some(Content::File { map, .. }) = self.content(ino) {
                    map.cut(index, |_| ());
                }
            }
            Record::Gone { ino } => drop(self.inodes.remove(&ino)),
            Record::Format { .. } | Record::Begin { .. } | Record::End { .. } => {}
        }
        self.check_memory()
    }

    fn content(&mut self, ino: Ino) -> Option<&mut Content> {
        Some(&mut self.inodes.get_mut(&ino)?.content)
    }

    fn set_inode(&mut self, record: &InodeRecord<'_>) {
        let InodeRecord { ino, kind, mode, links, bytes, times, parent, target } = *record;
        let old = self.inodes.remove(&ino).map(|inode| inode.content);
        self.grown_bytes += if old.is_none() { Weight::INODE.memory_bytes } else { 0 };
        let content = match (kind, old) {
            (Kind::File, Some(Content::File { map, .. })) => Content::File { bytes, map },
            (Kind::File, _) => Content::File { bytes, map: BlockMap::default() },
            (Kind::Directory, Some(Content::Directory { entries, .. })) => {
                Content::Directory { parent, entries, subdirectories: 0 }
            }
            (Kind::Directory, _) => Content::Directory { parent, entries: BTreeMap::new(), subdirectories: 0 },
            (Kind::Link, _) => Content::Link { target: target.to_vec() },
        };
        self.inodes.insert(ino, Inode { mode, links, times, content });
    }

    fn set_run(&mut self, ino: Ino, index: u64, block: u32, sums: &[u8]) {
        let Some(Content::File { map, .. }) = self.content(ino) else { return };
        let groups = map.groups();
        for (at, sum) in (0_u32..).zip(sums.as_chunks::<8>().0) {
            let place = if block == 0 {
                Place::default()
            } else {
                Place::new(block.wrapping_add(at), u64::from_le_bytes(*sum))
            };
            map.set(index.saturating_add(u64::from(at)), place);
        }
        let grown = map.groups() - groups;
        self.grown_bytes += Weight::GROUP.times(grown).memory_bytes;
    }

    /// When what was asked for is more than may be taken, looks how much is really there.
    fn check_memory(&mut self) -> Result<(), MountError> {
        if self.grown_bytes <= self.limit_bytes {
            return Ok(());
        }
        let taken: usize = self.inodes.values().map(memory_of).sum();
        if taken > self.limit_bytes {
            return Err(MountError::Memory { limit_bytes: self.limit_bytes });
        }
        // It is looked at again when half of the rest has been asked for.
        self.grown_bytes = self.limit_bytes - (self.limit_bytes - taken) / 2;
        Ok(())
    }
}

fn memory_of(inode: &Inode) -> usize {
    let content = match &inode.content {
        Content::File { map, .. } => weight_of(map),
        Content::Directory { entries, .. } => {
            entries.keys().fold(Weight::default(), |sum, name| sum.and(Weight::name(name)))
        }
        Content::Link { target } => Weight::target(target),
    };
    Weight::INODE.and(content).memory_bytes
}
