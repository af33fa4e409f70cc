//! What there is to know of files.

use alloc::rc::Rc;

use filesystem::{Attributes, Kind, Times};
use hermit_abi::{S_IFDIR, S_IFLNK, S_IFREG, stat, time_t, timespec};

use super::path::Place;
use super::tree::{Node, Tree};
use super::{Result, the_tree, volume};
use crate::sys::wait::block_on;

/// Numbers of devices: the image's, and that of the first volume.
const IMAGE_DEVICE: u64 = 1;
const FIRST_DEVICE: u64 = 2;
/// What `stat` counts in.
const SECTOR_BYTES: u64 = 512;
const NS_PER_S: u64 = 1_000_000_000;

/// What there is to know of a file, directory or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Number of its device.
    pub device: u64,
    /// Its number there.
    pub ino: u64,
    /// Permissions, length, times.
    pub attributes: Attributes,
}

/// New times, in nanoseconds since 1970-01-01T00:00:00Z; what is not given stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewTimes {
    /// Of the last access.
    pub accessed_ns: Option<u64>,
    /// Of the last change of the content.
    pub modified_ns: Option<u64>,
}

impl Metadata {
    /// Type and permissions, as `stat` has them.
    pub fn mode(&self) -> u32 {
        let kind = match self.attributes.kind {
            Kind::File => S_IFREG,
            Kind::Directory => S_IFDIR,
            Kind::Link => S_IFLNK,
        };
        kind | self.attributes.mode
    }

    /// As hermit has it.
    pub fn stat(&self) -> stat {
        let time = |ns: u64| timespec { tv_sec: (ns / NS_PER_S) as time_t, tv_nsec: (ns % NS_PER_S) as i32 };
        let Attributes { links, bytes, stored_bytes, times, .. } = self.attributes;
        stat {
            st_dev: self.device,
            st_ino: self.ino,
            st_nlink: u64::from(links),
            st_mode: self.mode(),
            st_size: bytes as i64,
            st_blksize: filesystem::BLOCK_BYTES as i64,
            st_blocks: (stored_bytes / SECTOR_BYTES) as i64,
            st_atim: time(times.accessed_ns),
            st_mtim: time(times.modified_ns),
            st_ctim: time(times.changed_ns),
            ..stat::default()
        }
    }
}

/// Of what lies at a place.
pub(super) fn metadata_at(place: Place) -> Result<Metadata> {
    match place {
        Place::Stored(at, ino) => {
            let attributes = block_on(volume(at)?.with(async |fs| fs.attributes(ino)))?;
            Ok(Metadata { device: FIRST_DEVICE + at as u64, ino, attributes })
        }
        Place::Packed(index) => {
            let tree: Rc<Tree> = the_tree();
            let (kind, mode, links, bytes) = match tree.node(index) {
                Node::File(content) => (Kind::File, 0o444, 1, content.len() as u64),
                Node::Directory(entries) => (Kind::Directory, 0o555, 2, entries.len() as u64),
                Node::Mount(_) => (Kind::Directory, 0o555, 2, 0),
            };
            let times = Times::default();
            let attributes = Attributes { kind, mode, links, bytes, stored_bytes: bytes, times };
            Ok(Metadata { device: IMAGE_DEVICE, ino: index as u64 + 1, attributes })
        }
    }
}
