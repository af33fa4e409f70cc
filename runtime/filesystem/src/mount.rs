//! Mounting: what lies on a device is judged, and the log read back into memory.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use recordstore::{Batch, BlockDevice, OpenError, Presence, Store};

use crate::cache::Cache;
use crate::data::SECTORS;
use crate::error::MountError;
use crate::fs::{Changes, FileSystem, ROOT, Weight};
use crate::inode::{Content, Ino, Inode, Kind};
use crate::part::Part;
use crate::record::MAX_RECORD_BYTES;
use crate::replay::Replay;
use crate::space::Space;
use crate::{BLOCK_BYTES, MAX_FILE_BYTES};

/// The smallest device.
const LEAST_BYTES: u64 = 1 << 20;
/// Part of the device that the metadata log takes, and the least that it needs, in blocks of the device.
const LOG_PART: u64 = 8;
const LEAST_LOG_BLOCKS: u64 = 512;
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
    /// Whether the device holds nothing but zeros, by the word of somebody who can see it at a glance. A file system is made
    /// on no other. Without that word ([`None`]), all of a device that may be blank is read first.
    pub blank: Option<bool>,
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

/// Whether a device holds nothing but zeros, whatever lies in block `but` of it.
async fn is_blank<D: BlockDevice>(device: &D, but: Option<u64>) -> Result<bool, D::Error> {
    let step = TRANSFER_BYTES / recordstore::BLOCK_BYTES;
    let blocks = device.blocks();
    let mut buffer = vec![0; TRANSFER_BYTES];
    for start in (0..blocks).step_by(step) {
        let count = (blocks - start).min(step as u64) as usize;
        let buffer = buffer.get_mut(..count * recordstore::BLOCK_BYTES).unwrap_or_default();
        device.read(start, buffer).await?;
        let (found, _) = buffer.as_chunks::<{ recordstore::BLOCK_BYTES }>();
        let is_used = |(at, block): (u64, &[u8; recordstore::BLOCK_BYTES])| {
            Some(at) != but && block.iter().any(|&byte| byte != 0)
        };
        if (start..).zip(found).any(is_used) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file system may be opened or made here. What is on a device without one stays there.
async fn may_open<D: BlockDevice>(device: &D, log: &Part<D>, blank: Option<bool>) -> Result<bool, MountError> {
    let torn = match (Presence::of(log).await.map_err(refused)?, blank) {
        (Presence::Store, _) => return Ok(true),
        (Presence::Blank, Some(blank)) => return Ok(blank),
        (Presence::Blank, None) => None,
        // Somebody has begun to make one here, and the power went with the very first block.
        (Presence::Torn, _) => Some(SECTORS),
    };
    is_blank(device, torn).await.map_err(|error| MountError::Device(format!("{error:?}")))
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
        let log = Part { device: device.clone(), first: 0, blocks: log_blocks };
        if !may_open(&device, &log, options.blank).await? {
            return Err(MountError::Foreign);
        }
        let data = Part { device, first: log_blocks, blocks: u64::from(data_blocks) * SECTORS };
        let key = recordstore::Options {
            new_key: options.new_key,
            cut_damaged: false,
            most_record_bytes: Some(MAX_RECORD_BYTES),
        };
        let opened = Store::open(log, key, |record| replay.visit(record, data_blocks)).await;
        let (store, replayed) = opened.map_err(refused)?;
        if let Some(error) = replay.error.take() {
            return Err(error);
        }
        let usage = store.usage();
        let successor_bytes = (usage.segments - usage.live_limit) as u64 * usage.segment_bytes;
        let log_bytes = usize::try_from(successor_bytes / 8 * 5).unwrap_or(usize::MAX);
        let formatted = !replay.is_whole;
        if formatted && replayed.records > 0 {
            // What a crash leaves of a file system that was being made is no record at all.
            return Err(MountError::Damaged("the log does not begin with all there is".into()));
        }
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
            #[cfg(test)]
            commits: (0, 0),
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
    #[inline(never)]
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
                    let blocks = bytes.div_ceil(BLOCK_BYTES as u64);
                    for (index, place) in map.iter() {
                        if index >= blocks {
                            return Err(format!("file {ino} has {bytes} bytes, and a block {index} behind them"));
                        }
                        if !self.space.claim(place.block) {
                            return Err(format!("block {index} of file {ino} lies where it cannot ({})", place.block));
                        }
                    }
                    self.weight = self.weight.and(Weight::of(map));
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
            let fits = match &inode.content {
                Content::Directory { entries, .. } if count == 0 && !entries.is_empty() => {
                    return Err(format!("directory {ino} has no name and is not empty"));
                }
                Content::Directory { parent, .. } => {
                    count == inode.links && count <= 1 && (count == 0 || *parent == directory)
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
        if let Some((&last, _)) = self.inodes.last_key_value().filter(|(last, _)| **last >= self.next_ino) {
            return Err(format!("inode {last} should not be there yet"));
        }
        self.check_tree()
    }

    /// Every directory that has a name lies in the root, however deep. It has one name only, so no way leads round.
    fn check_tree(&self) -> Result<(), String> {
        let mut reached = Vec::from([ROOT]);
        let mut next = 0;
        while let Some(Content::Directory { entries, .. }) =
            reached.get(next).and_then(|ino| self.inodes.get(ino)).map(|inode| &inode.content)
        {
            let inside = entries.values().filter(|ino| self.inodes.get(ino).map(Inode::kind) == Some(Kind::Directory));
            reached.extend(inside);
            next += 1;
        }
        let named = |inode: &&Inode| inode.kind() == Kind::Directory && inode.links > 0;
        let count = self.inodes.values().filter(named).count();
        if count == reached.len() {
            return Ok(());
        }
        Err(format!("{count} directories have names, and {} are to be found from the root", reached.len()))
    }
}

fn refused<E: core::fmt::Debug>(error: OpenError<E>) -> MountError {
    match error {
        OpenError::Device(error) => MountError::Device(format!("{error:?}")),
        OpenError::Unrecognised => MountError::Foreign,
        OpenError::Version { found } => MountError::Version { found },
        OpenError::Resized { .. } => MountError::Resized,
        error @ (OpenError::TooSmall { .. } | OpenError::LongRecord { .. } | OpenError::Corrupt { .. }) => {
            MountError::Damaged(format!("{error}"))
        }
    }
}
