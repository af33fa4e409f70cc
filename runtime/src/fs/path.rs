//! From paths to what lies there.

use alloc::vec::Vec;

use filesystem::{Ino, Kind, MAX_NAME_BYTES, ROOT};
use hermit_abi::{EINVAL, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, EROFS};

use super::tree::{self, Index, Node, Tree};
use super::{Result, the_tree, volume, with_state};
use crate::sys::descriptors;
use crate::sys::wait::block_on;

/// Most symbolic links on the way.
pub(super) const MOST_LINKS: usize = 40;
/// Longest path, with its end.
const MOST_PATH_BYTES: usize = 4096;

/// Something that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// In the image.
    Packed(Index),
    /// On a disk.
    Stored(usize, Ino),
}

/// A name in a directory: what is to be made or removed.
#[derive(Debug)]
pub(super) struct Name {
    pub directory: Place,
    pub name: Vec<u8>,
    /// A slash follows: it must be a directory.
    pub is_directory: bool,
}

impl Place {
    /// What a node of the image is: itself, or the root of what is mounted there.
    pub fn at(tree: &Tree, index: Index) -> Self {
        match tree.node(index) {
            Node::Mount(volume) => Self::Stored(*volume, ROOT),
            _ => Self::Packed(index),
        }
    }

    pub fn root() -> Self {
        Self::at(&the_tree(), tree::ROOT)
    }

    pub fn kind(self) -> Result<Kind> {
        match self {
            Self::Packed(index) => Ok(match the_tree().node(index) {
                Node::File(_) => Kind::File,
                Node::Directory(_) | Node::Mount(_) => Kind::Directory,
            }),
            Self::Stored(at, ino) => block_on(volume(at)?.with(async |fs| fs.attributes(ino))).map(|found| found.kind),
        }
    }

    /// The directory that a directory lies in.
    pub fn parent(self) -> Result<Self> {
        let tree = the_tree();
        match self {
            Self::Packed(index) => Ok(Self::at(&tree, tree.parent(index))),
            Self::Stored(at, ROOT) => Ok(match tree.mount_of(at) {
                tree::ROOT => self,
                index => Self::at(&tree, tree.parent(index)),
            }),
            Self::Stored(at, ino) => Ok(Self::Stored(at, block_on(volume(at)?.with(async |fs| fs.parent(ino)))?)),
        }
    }

    /// What has this name in a directory.
    pub fn child(self, name: &[u8]) -> Result<Self> {
        if name.len() > MAX_NAME_BYTES {
            return Err(ENAMETOOLONG);
        }
        match self {
            Self::Packed(index) => {
                let tree = the_tree();
                if matches!(tree.node(index), Node::File(_)) {
                    return Err(ENOTDIR);
                }
                let child = core::str::from_utf8(name).ok().and_then(|name| tree.child(index, name));
                child.map(|child| Self::at(&tree, child)).ok_or(ENOENT)
            }
            Self::Stored(at, ino) => Ok(Self::Stored(at, block_on(volume(at)?.with(async |fs| fs.lookup(ino, name)))?)),
        }
    }

    /// The target of a symbolic link, nothing if it is none.
    pub fn link_target(self) -> Result<Option<Vec<u8>>> {
        let Self::Stored(at, ino) = self else { return Ok(None) };
        block_on(volume(at)?.with(async |fs| match fs.attributes(ino)?.kind {
            Kind::Link => fs.target(ino).map(|target| Some(target.to_vec())),
            _ => Ok(None),
        }))
    }

    /// The disk and number of what can be changed. `EROFS` in the image.
    pub fn stored(self) -> Result<(usize, Ino)> {
        match self {
            Self::Stored(at, ino) => Ok((at, ino)),
            Self::Packed(_) => Err(EROFS),
        }
    }

    /// The path that leads here from the root, for a directory.
    pub fn path(self) -> Result<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut at = self;
        while at != Self::root() {
            names.push(at.own_name()?);
            at = at.parent()?;
        }
        let mut path = Vec::new();
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    /// The name of a directory. `ENOENT` for one that was removed.
    fn own_name(self) -> Result<Vec<u8>> {
        let tree = the_tree();
        match self {
            Self::Packed(index) => Ok(tree.name_of(index).into()),
            Self::Stored(at, ROOT) => Ok(tree.name_of(tree.mount_of(at)).into()),
            Self::Stored(at, ino) => {
                let name = block_on(volume(at)?.with(async |fs| Ok(fs.name_of(ino).map(Vec::from))))?;
                name.ok_or(ENOENT)
            }
        }
    }
}

/// Where a relative path begins: at the current directory, or at that of a descriptor.
pub(super) fn start(base: Option<i32>) -> Result<Place> {
    match base {
        None => Ok(with_state(|state| state.current)),
        Some(descriptor) => descriptors::get_as::<super::File>(descriptor, ENOTDIR).map(|file| file.place()),
    }
}

/// Names still to be gone through, the next one last.
struct Walk {
    left: Vec<Vec<u8>>,
    links: usize,
}

impl Walk {
    fn push(&mut self, path: &[u8]) {
        let names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        let at = self.left.len();
        self.left.extend(names.map(Vec::from));
        if let Some(new) = self.left.get_mut(at..) {
            new.reverse();
        }
    }

    /// Puts a link's target in the link's place: where to go on.
    fn follow(&mut self, target: &[u8], directory: Place) -> Result<Place> {
        self.links += 1;
        if self.links > MOST_LINKS {
            return Err(ELOOP);
        }
        self.push(target);
        Ok(if target.first() == Some(&b'/') { Place::root() } else { directory })
    }
}

/// Where a walk along a path begins; `base` is asked for relative ones only.
fn begin(base: impl FnOnce() -> Result<Place>, path: &[u8]) -> Result<(Walk, Place)> {
    if path.is_empty() {
        return Err(ENOENT);
    }
    if path.len() >= MOST_PATH_BYTES {
        return Err(ENAMETOOLONG);
    }
    let mut walk = Walk { left: Vec::new(), links: 0 };
    walk.push(path);
    let from = if path.first() == Some(&b'/') { Place::root() } else { base()? };
    Ok((walk, from))
}

/// One step: a name that is not the last one, or a last one that links are followed at.
fn step(walk: &mut Walk, at: Place, name: &[u8]) -> Result<Place> {
    match name {
        b"." => Ok(at),
        b".." => at.parent(),
        name => {
            let child = at.child(name)?;
            match child.link_target()? {
                Some(target) => walk.follow(&target, at),
                None => Ok(child),
            }
        }
    }
}

/// What lies at a path; a symbolic link at its end is followed if `follow` says so, or a slash is behind it.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP`, `ENAMETOOLONG`.
pub(super) fn resolve(base: Option<i32>, path: &[u8], follow: bool) -> Result<Place> {
    let (mut walk, mut at) = begin(|| start(base), path)?;
    let is_directory = path.ends_with(b"/") || path.ends_with(b"/.");
    while let Some(name) = walk.left.pop() {
        if at.kind()? != Kind::Directory {
            return Err(ENOTDIR);
        }
        let is_last = walk.left.is_empty() && !follow && !is_directory;
        at = if is_last && name != b"." && name != b".." { at.child(&name)? } else { step(&mut walk, at, &name)? };
    }
    if is_directory && at.kind()? != Kind::Directory {
        return Err(ENOTDIR);
    }
    Ok(at)
}

/// The directory in which a path ends, and the name there, which need not exist. Links at the end are not followed.
///
/// # Errors
/// As [`resolve`]; `EINVAL` for a path that ends in `.` or `..`, or is the root.
pub(super) fn resolve_name(base: Option<i32>, path: &[u8]) -> Result<Name> {
    resolve_name_from(|| start(base), path)
}

/// As [`resolve_name`], for the target of a link in a directory.
pub(super) fn resolve_name_from(base: impl FnOnce() -> Result<Place>, path: &[u8]) -> Result<Name> {
    let (mut walk, mut at) = begin(base, path)?;
    while let Some(name) = walk.left.pop() {
        if at.kind()? != Kind::Directory {
            return Err(ENOTDIR);
        }
        if walk.left.is_empty() {
            if name.len() > MAX_NAME_BYTES {
                return Err(ENAMETOOLONG);
            }
            if name == b"." || name == b".." {
                return Err(EINVAL);
            }
            return Ok(Name { directory: at, name, is_directory: path.ends_with(b"/") });
        }
        at = step(&mut walk, at, &name)?;
    }
    Err(EINVAL)
}
