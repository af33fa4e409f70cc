//! Setting it up.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use filesystem::bundle::{self, BundleError, Item};
use filesystem::{FileSystem, MountError, Options};

use super::path::Place;
use super::tree::{self, Tree};
use super::volume::Volume;
use super::{STATE, State};
use crate::block::Disk;
use crate::{env, random, spawn, time};

/// Parts of the heap that blocks and metadata of one disk may take.
const CACHE_PART: usize = 16;
const METADATA_PART: usize = 8;
/// More than that is not used for blocks.
const MOST_CACHE_BYTES: usize = 16 << 20;

/// Why a program cannot have its files.
#[derive(Debug)]
pub enum MountFailed {
    /// What was packed into the image cannot be read.
    Bundle(BundleError),
    /// Two things at one path, or something in what is no directory.
    Path(String),
    /// The machine has no such disk.
    NoDisk {
        /// Its name.
        disk: String,
        /// Where it is to be mounted.
        path: String,
    },
    /// The disk cannot be mounted.
    Disk {
        /// Its name.
        disk: String,
        /// Where it is to be mounted.
        path: String,
        /// Why not.
        why: MountError,
    },
}

impl fmt::Display for MountFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(why) => write!(f, "{why}"),
            Self::Path(path) => write!(f, "{path} is in the image twice, or in what is no directory: build it again"),
            Self::NoDisk { disk, path } => write!(
                f,
                "there is no disk {disk}, which is to be mounted at {path}: give one to `pollux up` by --disk {disk}=FILE"
            ),
            Self::Disk { disk, path, why } => write!(f, "disk {disk} cannot be mounted at {path}: {why}"),
        }
    }
}

impl core::error::Error for MountFailed {}

/// Makes a bundle's files visible and mounts its disks; a disk that is blank gets a file system.
///
/// # Errors
/// [`MountFailed`]. Nothing is visible then.
pub async fn mount(bytes: &'static [u8]) -> Result<(), MountFailed> {
    let entries = bundle::decode(bytes).map_err(MountFailed::Bundle)?;
    let mut tree = Tree::new();
    let mut volumes: Vec<Rc<Volume>> = Vec::new();
    for (path, item) in entries {
        if !tree.add(path, item, volumes.len()) {
            return Err(MountFailed::Path(path.into()));
        }
        if let Item::Mount(disk) = item {
            volumes.push(Rc::new(mount_disk(disk, path).await?));
        }
    }
    for volume in &volumes {
        let volume = Rc::clone(volume);
        drop(spawn(async move { volume.commit_in_time().await }));
    }
    let tree = Rc::new(tree);
    let current = Place::at(&tree, tree::ROOT);
    STATE.with(|state| state.replace(Some(State { tree, volumes, current })));
    Ok(())
}

async fn mount_disk(name: &str, path: &str) -> Result<Volume, MountFailed> {
    let disk = Disk::open(name).map_err(|_| MountFailed::NoDisk { disk: name.into(), path: path.into() })?;
    let mut key = [0; 8];
    // A shim that gives no entropy leaves the key as it is: it keeps accidents apart, not attackers.
    let _ = random::fill(&mut key);
    let heap_bytes = env::heap_bytes();
    let options = Options {
        new_key: u64::from_le_bytes(key),
        cache_bytes: (heap_bytes / CACHE_PART).min(MOST_CACHE_BYTES),
        metadata_bytes: heap_bytes / METADATA_PART,
        now_ns: time::realtime_ns(),
        blank: Some(disk.was_blank()),
    };
    let mounted = FileSystem::mount(disk, options).await;
    let (fs, _) = mounted.map_err(|why| MountFailed::Disk { disk: name.into(), path: path.into(), why })?;
    Ok(Volume::new(name, fs))
}
