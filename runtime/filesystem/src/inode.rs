//! Files, directories and links without their names.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::blocks::BlockMap;

/// The number of a file, directory or link. Numbers are never used again.
pub type Ino = u64;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// When things happened, in nanoseconds since 1970-01-01T00:00:00Z by the caller's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Times {
    /// Last access, as somebody has set it; reading does not change it.
    pub accessed_ns: u64,
    /// Last change of the content.
    pub modified_ns: u64,
    /// Last change of anything.
    pub changed_ns: u64,
    /// When it was made.
    pub born_ns: u64,
}

impl Times {
    pub(crate) fn all(now_ns: u64) -> Self {
        Self { accessed_ns: now_ns, modified_ns: now_ns, changed_ns: now_ns, born_ns: now_ns }
    }

    /// The content has changed.
    pub(crate) fn touch(&mut self, now_ns: u64) {
        self.modified_ns = now_ns;
        self.changed_ns = now_ns;
    }
}

/// What there is to say of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Names; of a directory with its own two and those of its subdirectories.
    pub links: u32,
    /// Length in bytes: of a file its content's, of a link its target's, of a directory its number of entries.
    pub bytes: u64,
    /// Bytes of the device that it takes.
    pub stored_bytes: u64,
    /// Times.
    pub times: Times,
}

/// What an inode holds.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    File { bytes: u64, map: BlockMap },
    Directory { parent: Ino, entries: BTreeMap<Vec<u8>, Ino>, subdirectories: u32 },
    Link { target: Vec<u8> },
}

#[derive(Clone, Debug)]
pub(crate) struct Inode {
    pub mode: u32,
    /// Names; 0 for one that is still open and has no name any more.
    pub links: u32,
    pub times: Times,
    pub content: Content,
}

impl Inode {
    pub fn new(content: Content, mode: u32, now_ns: u64) -> Self {
        Self { mode, links: 1, times: Times::all(now_ns), content }
    }

    pub fn kind(&self) -> Kind {
        match self.content {
            Content::File { .. } => Kind::File,
            Content::Directory { .. } => Kind::Directory,
            Content::Link { .. } => Kind::Link,
        }
    }

    pub fn attributes(&self) -> Attributes {
        let (bytes, blocks, links) = match &self.content {
            Content::File { bytes, map } => (*bytes, map.blocks(), self.links),
            Content::Directory { entries, subdirectories, .. } => {
                (entries.len() as u64, 0, if self.links == 0 { 0 } else { 2 + subdirectories })
            }
            Content::Link { target } => (target.len() as u64, 0, self.links),
        };
        let stored_bytes = blocks * crate::BLOCK_BYTES as u64;
        Attributes { kind: self.kind(), mode: self.mode, links, bytes, stored_bytes, times: self.times }
    }
}
