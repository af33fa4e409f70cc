//! The log's records made into inodes again.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::blocks::{BlockMap, Place};
use crate::error::MountError;
use crate::fs::{ROOT, Weight};
use crate::inode::{Content, Ino, Inode, Kind};
use crate::names::check_name;
use crate::record::{InodeRecord, Record, VERSION};
use crate::{BLOCK_BYTES, MAX_FILE_BYTES, MAX_TARGET_BYTES};

/// Most blocks of a file.
const MAX_FILE_BLOCKS: u64 = MAX_FILE_BYTES / BLOCK_BYTES as u64;
/// Numbers of inodes come to an end there: nobody has made so many.
const MAX_INO: Ino = 1 << 62;
/// What the records of one commit may take while its end has not come, in parts of what metadata may. One that was made with
/// as much memory is shorter ([`FileSystem::wants_commit`](crate::FileSystem::wants_commit)).
const COMMIT_PARTS: usize = 2;

/// Makes inodes of records.
pub(crate) struct Replay {
    pub inodes: BTreeMap<Ino, Inode>,
    pub next_ino: Ino,
    /// Records of a commit whose end has not come yet, each with its length before it.
    pending: Vec<u8>,
    /// Records are kept until their commit ends.
    gathers: bool,
    /// The log begins with a format, and a commit has ended.
    pub is_whole: bool,
    has_format: bool,
    limit_bytes: usize,
    /// Memory that the inodes take.
    taken_bytes: usize,
    pub error: Option<MountError>,
    #[cfg(test)]
    pub believe_halves: bool,
}

fn damaged(what: String) -> MountError {
    MountError::Damaged(what)
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
            taken_bytes: 0,
            error: None,
            #[cfg(test)]
            believe_halves: false,
        }
    }

    pub fn pending_is_open(&self) -> bool {
        self.gathers
    }

    pub fn visit(&mut self, bytes: &[u8], data_blocks: u32) {
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
            Ok(_) if self.gathers => self.gather(bytes),
            // All there is comes in one piece, and only grows.
            record => self.apply(record?, self.limit_bytes),
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
            self.taken_bytes = 0;
        }
    }

    fn gather(&mut self, record: &[u8]) -> Result<(), MountError> {
        if self.pending.len() + record.len() > self.limit_bytes.saturating_mul(COMMIT_PARTS) {
            return Err(MountError::Memory { limit_bytes: self.limit_bytes });
        }
        self.pending.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.pending.extend_from_slice(record);
        Ok(())
    }

    fn end(&mut self, next_ino: Ino) -> Result<(), MountError> {
        let pending = core::mem::take(&mut self.pending);
        let mut rest = &pending[..];
        // What a commit takes away comes behind what it brings, and both fit alone.
        let limit_bytes = self.limit_bytes.saturating_mul(2);
        while let Some((length, behind)) = rest.split_first_chunk() {
            let (record, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize).unwrap_or_default();
            if let Some(record) = Record::decode(record) {
                self.apply(record, limit_bytes)?;
            }
            rest = behind;
        }
        self.pending = pending;
        self.pending.clear();
        self.gathers = false;
        self.is_whole = true;
        if next_ino > MAX_INO {
            return Err(damaged(format!("the next inode would be {next_ino}")));
        }
        self.next_ino = next_ino.max(ROOT + 1);
        self.check_memory(self.limit_bytes)
    }

    #[inline(never)]
    fn apply(&mut self, record: Record<'_>, limit_bytes: usize) -> Result<(), MountError> {
        match record {
            Record::Inode(inode) => self.set_inode(&inode)?,
            Record::Entry { directory, ino, name } => self.set_entry(directory, ino, name)?,
            Record::Run { ino, index, block, sums } => self.set_run(ino, index, block, sums)?,
            Record::Cut { ino, index } => {
                if let Some(Content::File { map, .. }) = self.inodes.get_mut(&ino).map(|inode| &mut inode.content) {
                    let groups = map.groups();
                    map.cut(index, |_| ());
                    self.taken_bytes -= Weight::GROUP.times(groups - map.groups()).memory_bytes;
                }
            }
            Record::Gone { ino } => {
                if let Some(inode) = self.inodes.remove(&ino) {
                    self.taken_bytes -= Weight::INODE.memory_bytes + memory_of(&inode.content);
                }
            }
            Record::Format { .. } | Record::Begin { .. } | Record::End { .. } => {}
        }
        self.check_memory(limit_bytes)
    }

    fn set_inode(&mut self, record: &InodeRecord<'_>) -> Result<(), MountError> {
        let InodeRecord { ino, kind, mode, links, bytes, times, parent, target } = *record;
        if kind == Kind::Link && !(1..=MAX_TARGET_BYTES).contains(&target.len()) {
            return Err(damaged(format!("the target of link {ino} has {} bytes", target.len())));
        }
        let old = self.inodes.remove(&ino).map(|inode| inode.content);
        let content = match (kind, old) {
            (Kind::File, Some(Content::File { map, .. })) => Content::File { bytes, map },
            (Kind::Directory, Some(Content::Directory { entries, .. })) => {
                Content::Directory { parent, entries, subdirectories: 0 }
            }
            (_, old) => {
                self.taken_bytes -= old.as_ref().map_or(0, |old| Weight::INODE.memory_bytes + memory_of(old));
                let content = match kind {
                    Kind::File => Content::File { bytes, map: BlockMap::default() },
                    Kind::Directory => Content::Directory { parent, entries: BTreeMap::new(), subdirectories: 0 },
                    Kind::Link => Content::Link { target: target.to_vec() },
                };
                self.taken_bytes += Weight::INODE.memory_bytes + memory_of(&content);
                content
            }
        };
        self.inodes.insert(ino, Inode { mode: mode & 0o7777, links, times, content });
        Ok(())
    }

    fn set_entry(&mut self, directory: Ino, ino: Ino, name: &[u8]) -> Result<(), MountError> {
        let Some(Content::Directory { entries, .. }) = self.inodes.get_mut(&directory).map(|inode| &mut inode.content)
        else {
            return Ok(());
        };
        let bytes = Weight::name(name).memory_bytes;
        if ino == 0 {
            self.taken_bytes -= entries.remove(name).map_or(0, |_| bytes);
            return Ok(());
        }
        check_name(name).map_err(|_| damaged(format!("a name in directory {directory} that none can have")))?;
        self.taken_bytes += if entries.insert(name.to_vec(), ino).is_none() { bytes } else { 0 };
        Ok(())
    }

    fn set_run(&mut self, ino: Ino, index: u64, block: u32, sums: &[u8]) -> Result<(), MountError> {
        let Some(Content::File { map, .. }) = self.inodes.get_mut(&ino).map(|inode| &mut inode.content) else {
            return Ok(());
        };
        let (sums, _) = sums.as_chunks::<8>();
        if index.checked_add(sums.len() as u64).is_none_or(|end| end > MAX_FILE_BLOCKS) {
            return Err(damaged(format!("file {ino} has a block {index}, and no file is that long")));
        }
        let groups = map.groups();
        for (at, sum) in (0_u32..).zip(sums) {
            let place = if block == 0 {
                Place::default()
            } else {
                Place::new(block.wrapping_add(at), u64::from_le_bytes(*sum))
            };
            map.set(index + u64::from(at), place);
        }
        let grown = map.groups() - groups;
        self.taken_bytes += Weight::GROUP.times(grown).memory_bytes;
        Ok(())
    }

    fn check_memory(&self, limit_bytes: usize) -> Result<(), MountError> {
        if self.taken_bytes <= limit_bytes {
            return Ok(());
        }
        Err(MountError::Memory { limit_bytes: self.limit_bytes })
    }
}

/// Memory of what an inode holds.
fn memory_of(content: &Content) -> usize {
    let weight = match content {
        Content::File { map, .. } => Weight::of(map),
        Content::Directory { entries, .. } => {
            entries.keys().fold(Weight::default(), |sum, name| sum.and(Weight::name(name)))
        }
        Content::Link { target } => Weight::target(target),
    };
    weight.memory_bytes
}
