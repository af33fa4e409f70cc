//! Open files and directories.

use alloc::rc::Rc;
use core::cell::RefCell;

use filesystem::{Ino, Kind};
use hermit_abi::{
    EBADF, EEXIST, EINVAL, EISDIR, ELOOP, ENOENT, ENOTDIR, EOPNOTSUPP, O_APPEND, O_CREAT, O_DIRECTORY, O_EXCL,
    O_RDONLY, O_TRUNC, O_WRONLY, stat,
};

use super::directory::Cursor;
use super::flags::{O_CLOEXEC, O_DSYNC, O_NOFOLLOW, O_PATH, O_TMPFILE};
use super::locks::{self, Lock, Opening};
use super::path::{MOST_LINKS, Name, Place, resolve, resolve_name, resolve_name_from};
use super::status::{Metadata, metadata_at};
use super::tree::Node;
use super::volume::Volume;
use super::{Result, the_tree, volume};
use crate::sync::Mutex;
use crate::sys::descriptors::{self, Open, Status};
use crate::sys::wait::block_on;
use crate::time;

/// Access mode in the flags of `open`.
const ACCESS: i32 = 3;
const SEEK_SET: i32 = 0;
const SEEK_CUR: i32 = 1;
const SEEK_END: i32 = 2;

/// An open file or directory.
pub struct File {
    status: Status,
    place: Place,
    /// Where it lies, if not in the image.
    stored: Option<(Rc<Volume>, Ino)>,
    kind: Kind,
    /// Held while it is read or written from there: threads that share it take turns.
    position: Mutex<u64>,
    opening: Opening,
    pub(super) cursor: RefCell<Cursor>,
}

impl File {
    fn new(place: Place, flags: i32) -> Result<Self> {
        let kind = place.kind()?;
        let stored = match place {
            Place::Packed(_) => None,
            Place::Stored(at, ino) => {
                let volume = volume(at)?;
                block_on(volume.with(async |fs| fs.open(ino)))?;
                Some((volume, ino))
            }
        };
        Ok(Self {
            status: Status::new(flags & !(O_CREAT | O_EXCL | O_TRUNC | O_CLOEXEC)),
            place,
            stored,
            kind,
            position: Mutex::new(0),
            opening: locks::new_opening(),
            cursor: RefCell::default(),
        })
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    fn may(&self, other: i32) -> Result<()> {
        let flags = self.status.flags();
        if flags & ACCESS == other || flags & O_PATH != 0 { Err(EBADF) } else { Ok(()) }
    }

    fn content(&self) -> &'static [u8] {
        match self.place {
            Place::Packed(index) => match the_tree().node(index) {
                Node::File(content) => content,
                _ => &[],
            },
            Place::Stored(..) => &[],
        }
    }

    fn read_from(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.may(O_WRONLY)?;
        if self.kind == Kind::Directory {
            return Err(EISDIR);
        }
        if let Some((volume, ino)) = &self.stored {
            return block_on(volume.with(async |fs| fs.read(*ino, offset, buffer).await));
        }
        let content = self.content();
        let from = content.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let bytes = from.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&from[..bytes]);
        Ok(bytes)
    }

    /// Writes at an offset, or at the end of a file that is only appended to: how many bytes, and where they end.
    fn write_to(&self, offset: u64, pieces: &[&[u8]]) -> Result<(usize, u64)> {
        self.may(O_RDONLY)?;
        let (volume, ino) = self.stored.as_ref().ok_or(EBADF)?;
        let flags = self.status.flags();
        block_on(volume.with(async |fs| {
            let offset = if flags & O_APPEND == 0 { offset } else { fs.attributes(*ino)?.bytes };
            let mut written = 0;
            for piece in pieces {
                match fs.write(*ino, offset + written as u64, piece, time::realtime_ns()).await {
                    Ok(bytes) => written += bytes,
                    Err(error) if written == 0 => return Err(error),
                    Err(_) => break,
                }
            }
            if flags & O_DSYNC != 0 {
                fs.sync().await?;
            }
            Ok((written, offset + written as u64))
        }))
    }

    fn truncate(&self, bytes: u64) -> Result<()> {
        self.may(O_RDONLY).map_err(|_| EINVAL)?;
        let (volume, ino) = self.stored.as_ref().ok_or(EINVAL)?;
        block_on(volume.with(async |fs| fs.truncate(*ino, bytes, time::realtime_ns()).await))
    }

    fn sync(&self) -> Result<()> {
        match &self.stored {
            Some((volume, _)) => block_on(volume.sync()),
            None => Ok(()),
        }
    }

    /// What there is to know of it.
    ///
    /// # Errors
    /// `EIO`.
    pub fn metadata(&self) -> Result<Metadata> {
        metadata_at(self.place)
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }
}

impl Drop for File {
    fn drop(&mut self) {
        locks::release(self.place, self.opening);
        if let Some((volume, ino)) = &self.stored {
            volume.close(*ino);
        }
    }
}

impl Open for File {
    fn status(&self) -> &Status {
        &self.status
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut position = block_on(self.position.lock());
        let bytes = self.read_from(*position, buffer)?;
        *position += bytes as u64;
        Ok(bytes)
    }

    fn write(&self, data: &[u8]) -> Result<usize> {
        self.write_pieces(&[data])
    }

    /// As one: nobody else's data comes between the pieces.
    fn write_pieces(&self, pieces: &[&[u8]]) -> Result<usize> {
        let mut position = block_on(self.position.lock());
        let (bytes, end) = self.write_to(*position, pieces)?;
        *position = end;
        Ok(bytes)
    }

    fn seek(&self, offset_bytes: i64, whence: i32) -> Result<i64> {
        let mut position = block_on(self.position.lock());
        let from = match whence {
            SEEK_SET => 0,
            SEEK_CUR => *position,
            SEEK_END => self.metadata()?.attributes.bytes,
            _ => return Err(EINVAL),
        };
        let new = from.checked_add_signed(offset_bytes).filter(|at| i64::try_from(*at).is_ok()).ok_or(EINVAL)?;
        if self.kind == Kind::Directory {
            self.cursor.borrow_mut().seek(new)?;
        }
        *position = new;
        Ok(new as i64)
    }

    fn stat(&self) -> Result<stat> {
        Ok(self.metadata()?.stat())
    }
}

/// The open file of a descriptor.
///
/// # Errors
/// `EBADF`; `other` for what is no file.
pub(super) fn file(descriptor: i32, other: i32) -> Result<Rc<File>> {
    descriptors::get_as(descriptor, other)
}

/// Opens what lies at a path, or makes a file there: its descriptor. `base` is the descriptor of the directory that a relative
/// path begins at; without one that is the current directory.
///
/// # Errors
/// `ENOENT`, `EEXIST`, `EISDIR`, `ENOTDIR`, `EROFS`, `ELOOP`, `ENOSPC`, `EMFILE`, `EOPNOTSUPP` for a file without a name.
pub fn open(base: Option<i32>, path: &[u8], flags: i32, mode: u32) -> Result<i32> {
    let access = flags & ACCESS;
    if access == ACCESS {
        return Err(EINVAL);
    }
    if flags & O_TMPFILE != 0 {
        return Err(EOPNOTSUPP);
    }
    let place = if flags & O_CREAT == 0 {
        resolve(base, path, flags & O_NOFOLLOW == 0)?
    } else {
        create(base, path, flags, mode)?
    };
    let kind = place.kind()?;
    let changes = access != O_RDONLY || flags & O_TRUNC != 0;
    match kind {
        Kind::Link if flags & O_DIRECTORY != 0 => return Err(ENOTDIR),
        Kind::Link if flags & O_PATH == 0 => return Err(ELOOP),
        Kind::Directory if changes || flags & O_CREAT != 0 => return Err(EISDIR),
        Kind::File if flags & O_DIRECTORY != 0 => return Err(ENOTDIR),
        _ => {}
    }
    if changes {
        place.stored()?;
    }
    let file = Rc::new(File::new(place, flags)?);
    if flags & O_TRUNC != 0 && access != O_RDONLY {
        file.truncate(0)?;
    }
    descriptors::open(file, flags & O_CLOEXEC != 0)
}

/// What lies at a path, made if it is not there.
fn create(base: Option<i32>, path: &[u8], flags: i32, mode: u32) -> Result<Place> {
    let mut name = match resolve_name(base, path) {
        Err(EINVAL) => return resolve(base, path, true),
        name => name?,
    };
    for _ in 0..MOST_LINKS {
        let found = match name.directory.child(&name.name) {
            Err(ENOENT) => return make_file(&name, mode),
            found => found?,
        };
        if flags & O_EXCL != 0 {
            return Err(EEXIST);
        }
        let target = found.link_target()?.filter(|_| flags & O_NOFOLLOW == 0);
        let Some(target) = target else { return Ok(found) };
        let directory = name.directory;
        name = match resolve_name_from(|| Ok(directory), &target) {
            // It ends in a directory by its name.
            Err(EINVAL) => return Err(EISDIR),
            name => name?,
        };
    }
    Err(ELOOP)
}

fn make_file(name: &Name, mode: u32) -> Result<Place> {
    if name.is_directory {
        return Err(EISDIR);
    }
    let (at, directory) = name.directory.stored()?;
    let volume = volume(at)?;
    let ino = block_on(volume.with(async |fs| match fs.lookup(directory, &name.name) {
        // Somebody else was quicker.
        Ok(ino) => Ok(ino),
        Err(_) => fs.create_file(directory, &name.name, mode, time::realtime_ns()),
    }))?;
    Ok(Place::Stored(at, ino))
}

/// Reads at an offset, whatever the file's position is.
///
/// # Errors
/// `EBADF`, `ESPIPE` for what is no file, `EISDIR`, `EIO`, `EINVAL` for a negative offset.
pub fn read_at(descriptor: i32, buffer: &mut [u8], offset: i64) -> Result<usize> {
    let offset = u64::try_from(offset).map_err(|_| EINVAL)?;
    file(descriptor, hermit_abi::ESPIPE)?.read_from(offset, buffer)
}

/// Writes at an offset, whatever the file's position is.
///
/// # Errors
/// As [`read_at`], and `ENOSPC`, `EFBIG`.
pub fn write_at(descriptor: i32, data: &[u8], offset: i64) -> Result<usize> {
    let offset = u64::try_from(offset).map_err(|_| EINVAL)?;
    file(descriptor, hermit_abi::ESPIPE)?.write_to(offset, &[data]).map(|(bytes, _)| bytes)
}

/// Makes an open file shorter, or longer by zeros.
///
/// # Errors
/// `EBADF`, `EINVAL` for what is no file that can be written to, `EFBIG`, `ENOSPC`, `EIO`.
pub fn truncate(descriptor: i32, bytes: i64) -> Result<()> {
    let bytes = u64::try_from(bytes).map_err(|_| EINVAL)?;
    file(descriptor, EINVAL)?.truncate(bytes)
}

/// Returns when everything that was written to the file's disk is stable.
///
/// # Errors
/// `EBADF`, `EINVAL` for what is no file, `EIO`, `ENOSPC`.
pub fn sync_all(descriptor: i32) -> Result<()> {
    file(descriptor, EINVAL)?.sync()
}

/// Takes a lock of the whole file, or gives it up (`wanted` is [`None`]).
///
/// # Errors
/// `EBADF`, `EINVAL` for what is no file, `EAGAIN` if others hold it and it is not to wait.
pub fn lock(descriptor: i32, exclusive: Option<bool>, waits: bool) -> Result<()> {
    let wanted = match exclusive {
        None => Lock::None,
        Some(true) => Lock::Exclusive,
        Some(false) => Lock::Shared,
    };
    let file = file(descriptor, EINVAL)?;
    locks::set(file.place, file.opening, wanted, waits)
}
