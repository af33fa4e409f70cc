//! Directories: what is called what.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;
use recordstore::BlockDevice;

use crate::blocks::BlockMap;
use crate::error::FsError;
use crate::fs::{FileSystem, ROOT, Weight};
use crate::inode::{Content, Ino, Inode, Kind};
use crate::{MAX_NAME_BYTES, MAX_TARGET_BYTES};

/// Most names of a file.
const MAX_LINKS: u32 = 65_000;

/// A name, whose it is, and what that is.
pub type Entry<'a> = (&'a [u8], Ino, Kind);

/// Whether this can be a name.
pub(crate) fn check_name(name: &[u8]) -> Result<(), FsError> {
    match name {
        [] | b"." | b".." => Err(FsError::Invalid),
        name if name.len() > MAX_NAME_BYTES => Err(FsError::NameTooLong),
        name if name.iter().any(|&byte| byte == b'/' || byte == 0) => Err(FsError::Invalid),
        _ => Ok(()),
    }
}

impl<D: BlockDevice + Clone> FileSystem<D> {
    fn entries(&self, directory: Ino) -> Result<&BTreeMap<Vec<u8>, Ino>, FsError> {
        match &self.inode(directory)?.content {
            Content::Directory { entries, .. } => Ok(entries),
            _ => Err(FsError::NotDirectory),
        }
    }

    /// What has this name in a directory.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`], [`FsError::NameTooLong`].
    #[inline(never)]
    pub fn lookup(&self, directory: Ino, name: &[u8]) -> Result<Ino, FsError> {
        if name.len() > MAX_NAME_BYTES {
            return Err(FsError::NameTooLong);
        }
        self.entries(directory)?.get(name).copied().ok_or(FsError::NotFound)
    }

    /// The directory that a directory lies in; the root lies in itself.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`].
    pub fn parent(&self, directory: Ino) -> Result<Ino, FsError> {
        match self.inode(directory)?.content {
            Content::Directory { parent, .. } => Ok(parent),
            _ => Err(FsError::NotDirectory),
        }
    }

    /// The name of a directory in its parent, for paths.
    pub fn name_of(&self, directory: Ino) -> Option<&[u8]> {
        let parent = self.parent(directory).ok()?;
        let entry = self.entries(parent).ok()?.iter().find(|(_, ino)| **ino == directory);
        entry.map(|(name, _)| &**name)
    }

    /// The first name behind `after` in a directory, in the order of names, and what it is. So a directory can be listed
    /// while it changes, and every name that is there all the time is seen once.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`].
    pub fn next_entry(&self, directory: Ino, after: Option<&[u8]>) -> Result<Option<Entry<'_>>, FsError> {
        let after = after.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.entries(directory)?.range::<[u8], _>((after, Bound::Unbounded)).next();
        next.map(|(name, &ino)| Ok((&**name, ino, self.inode(ino)?.kind()))).transpose()
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Invalid`] for what is none.
    pub fn target(&self, link: Ino) -> Result<&[u8], FsError> {
        match &self.inode(link)?.content {
            Content::Link { target } => Ok(target),
            _ => Err(FsError::Invalid),
        }
    }

    fn check_new_name(&self, directory: Ino, name: &[u8]) -> Result<(), FsError> {
        check_name(name)?;
        let taken = self.entries(directory)?.contains_key(name);
        if self.inode(directory)?.links == 0 {
            return Err(FsError::NotFound);
        }
        if taken { Err(FsError::Exists) } else { Ok(()) }
    }

    /// Gives an inode a name.
    #[inline(never)]
    fn enter(&mut self, directory: Ino, name: &[u8], ino: Ino, now_ns: u64) -> Result<(), FsError> {
        let is_directory = self.inode(ino)?.kind() == Kind::Directory;
        let inode = self.change(directory)?;
        inode.times.touch(now_ns);
        let Content::Directory { entries, subdirectories, .. } = &mut inode.content else {
            return Err(FsError::NotDirectory);
        };
        let old = entries.insert(name.to_vec(), ino);
        *subdirectories += u32::from(is_directory);
        if old.is_none() {
            self.weight = self.weight.and(Weight::name(name));
        }
        self.changes.entry(directory, name, ino);
        Ok(())
    }

    /// Takes a name away: whose it was.
    #[inline(never)]
    fn leave(&mut self, directory: Ino, name: &[u8], now_ns: u64) -> Result<Ino, FsError> {
        let ino = self.lookup(directory, name)?;
        let is_directory = self.inode(ino)?.kind() == Kind::Directory;
        let inode = self.change(directory)?;
        inode.times.touch(now_ns);
        if let Content::Directory { entries, subdirectories, .. } = &mut inode.content {
            entries.remove(name);
            *subdirectories -= u32::from(is_directory);
        }
        self.lighten(Weight::name(name));
        self.changes.entry(directory, name, 0);
        Ok(ino)
    }

    /// Makes an inode with a name.
    fn make(&mut self, directory: Ino, name: &[u8], content: Content, mode: u32, now_ns: u64) -> Result<Ino, FsError> {
        self.check_new_name(directory, name)?;
        let target = if let Content::Link { target } = &content { target } else { &Vec::new() };
        let weight = Weight::INODE.and(Weight::target(target));
        self.allow(weight.and(Weight::name(name)))?;
        self.weight = self.weight.and(weight);
        let ino = self.next_ino;
        self.next_ino += 1;
        self.inodes.insert(ino, Inode::new(content, mode & 0o7777, now_ns));
        self.changes.inodes.insert(ino);
        self.enter(directory, name, ino, now_ns)?;
        Ok(ino)
    }

    /// Makes an empty file.
    ///
    /// # Errors
    /// [`FsError::Exists`], [`FsError::NoSpace`], and what is wrong with the directory or the name.
    pub fn create_file(&mut self, directory: Ino, name: &[u8], mode: u32, now_ns: u64) -> Result<Ino, FsError> {
        self.make(directory, name, Content::File { bytes: 0, map: BlockMap::default() }, mode, now_ns)
    }

    /// Makes an empty directory.
    ///
    /// # Errors
    /// As [`create_file`](Self::create_file).
    pub fn create_directory(&mut self, directory: Ino, name: &[u8], mode: u32, now_ns: u64) -> Result<Ino, FsError> {
        let content = Content::Directory { parent: directory, entries: BTreeMap::new(), subdirectories: 0 };
        self.make(directory, name, content, mode, now_ns)
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// As [`create_file`](Self::create_file); [`FsError::NotFound`] for an empty target.
    pub fn create_link(&mut self, directory: Ino, name: &[u8], target: &[u8], now_ns: u64) -> Result<Ino, FsError> {
        match target {
            [] => Err(FsError::NotFound),
            target if target.len() > MAX_TARGET_BYTES => Err(FsError::NameTooLong),
            _ => self.make(directory, name, Content::Link { target: target.to_vec() }, 0o777, now_ns),
        }
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for a directory, [`FsError::TooManyLinks`], and as [`create_file`](Self::create_file).
    pub fn link(&mut self, ino: Ino, directory: Ino, name: &[u8], now_ns: u64) -> Result<(), FsError> {
        self.check_new_name(directory, name)?;
        let inode = self.inode(ino)?;
        match (inode.kind(), inode.links) {
            (Kind::Directory, _) => return Err(FsError::NotPermitted),
            (_, 0) => return Err(FsError::NotFound),
            (_, MAX_LINKS..) => return Err(FsError::TooManyLinks),
            _ => {}
        }
        self.allow(Weight::name(name))?;
        self.enter(directory, name, ino, now_ns)?;
        let inode = self.change(ino)?;
        inode.links += 1;
        inode.times.changed_ns = now_ns;
        Ok(())
    }

    /// One name fewer; with the last one, and when nobody has it open, the inode goes.
    fn unlinked(&mut self, ino: Ino, now_ns: u64) -> Result<(), FsError> {
        let inode = self.change(ino)?;
        inode.links -= 1;
        inode.times.changed_ns = now_ns;
        self.drop_if_unused(ino);
        Ok(())
    }

    /// Takes the name of a file or link away.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::IsDirectory`].
    pub fn unlink(&mut self, directory: Ino, name: &[u8], now_ns: u64) -> Result<(), FsError> {
        let ino = self.lookup(directory, name)?;
        if self.inode(ino)?.kind() == Kind::Directory {
            return Err(FsError::IsDirectory);
        }
        self.leave(directory, name, now_ns)?;
        self.unlinked(ino, now_ns)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotDirectory`], [`FsError::NotEmpty`].
    pub fn remove_directory(&mut self, directory: Ino, name: &[u8], now_ns: u64) -> Result<(), FsError> {
        let ino = self.lookup(directory, name)?;
        if !self.entries(ino)?.is_empty() {
            return Err(FsError::NotEmpty);
        }
        self.leave(directory, name, now_ns)?;
        self.unlinked(ino, now_ns)
    }

    /// Whether a directory is `above`, or lies in it, however deep.
    fn lies_in(&self, mut directory: Ino, above: Ino) -> Result<bool, FsError> {
        // No deeper than there are directories, whatever a device held.
        for _ in 0..=self.inodes.len() {
            if directory == above {
                return Ok(true);
            }
            if directory == ROOT {
                return Ok(false);
            }
            directory = self.parent(directory)?;
        }
        Err(FsError::Io)
    }

    /// Gives what has one name another, in place of what had that. With a crash it has the one or the other, and a name
    /// that was taken is never free.
    ///
    /// # Errors
    /// [`FsError::Exists`] if the name is taken and not to be replaced, [`FsError::NotEmpty`], [`FsError::IsDirectory`],
    /// [`FsError::NotDirectory`], [`FsError::Invalid`] for a directory that would lie in itself.
    pub fn rename(&mut self, from: (Ino, &[u8]), to: (Ino, &[u8]), replace: bool, now_ns: u64) -> Result<(), FsError> {
        let ino = self.lookup(from.0, from.1)?;
        let is_directory = self.inode(ino)?.kind() == Kind::Directory;
        check_name(from.1).and(check_name(to.1))?;
        if is_directory && self.lies_in(to.0, ino)? {
            return Err(FsError::Invalid);
        }
        match self.lookup(to.0, to.1) {
            Ok(_) if !replace => return Err(FsError::Exists),
            // Two names of one file: both stay, as everywhere.
            Ok(other) if other == ino => return Ok(()),
            Ok(other) => self.give_up_name(to, other, is_directory, now_ns)?,
            Err(FsError::NotFound) => {
                self.check_new_name(to.0, to.1)?;
                self.allow(Weight::name(to.1))?;
            }
            Err(error) => return Err(error),
        }
        self.leave(from.0, from.1, now_ns)?;
        self.enter(to.0, to.1, ino, now_ns)?;
        let inode = self.change(ino)?;
        inode.times.changed_ns = now_ns;
        if let Content::Directory { parent, .. } = &mut inode.content {
            *parent = to.0;
        }
        Ok(())
    }

    /// Makes room for another at a name that is taken.
    fn give_up_name(
        &mut self,
        to: (Ino, &[u8]),
        taken_by: Ino,
        by_directory: bool,
        now_ns: u64,
    ) -> Result<(), FsError> {
        match (&self.inode(taken_by)?.content, by_directory) {
            (Content::Directory { entries, .. }, true) if !entries.is_empty() => return Err(FsError::NotEmpty),
            (Content::Directory { .. }, false) => return Err(FsError::IsDirectory),
            (Content::File { .. } | Content::Link { .. }, true) => return Err(FsError::NotDirectory),
            _ => {}
        }
        self.leave(to.0, to.1, now_ns)?;
        self.unlinked(taken_by, now_ns)
    }
}
