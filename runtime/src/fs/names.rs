//! What is done by paths.

use alloc::rc::Rc;
use alloc::vec::Vec;

use filesystem::{Ino, Kind};
use hermit_abi::{EBUSY, EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY, EXDEV};

use super::file::file;
use super::path::{Name, Place, resolve, resolve_name};
use super::status::{Metadata, NewTimes, metadata_at};
use super::volume::Volume;
use super::{Result, volume, with_state};
use crate::sys::wait::block_on;
use crate::time;

/// A name on a disk: the disk, and the directory's number there.
fn stored(name: &Name) -> Result<(usize, Rc<Volume>, Ino)> {
    let (at, directory) = name.directory.stored()?;
    Ok((at, volume(at)?, directory))
}

/// A name that is to be given to something new. `EEXIST` if it is taken, also where nothing can be made.
fn new_name(base: Option<i32>, path: &[u8]) -> Result<Name> {
    let name = match resolve_name(base, path) {
        // The root, `.`, `..`: they are there.
        Err(EINVAL) => return Err(EEXIST),
        name => name?,
    };
    match name.directory.child(&name.name) {
        Ok(_) => Err(EEXIST),
        Err(ENOENT) => Ok(name),
        Err(errno) => Err(errno),
    }
}

/// Makes an empty directory.
///
/// # Errors
/// `EEXIST`, `ENOENT`, `ENOTDIR`, `EROFS`, `ENOSPC`.
pub fn make_directory(base: Option<i32>, path: &[u8], mode: u32) -> Result<()> {
    let name = new_name(base, path)?;
    let (_, volume, directory) = stored(&name)?;
    let now_ns = time::realtime_ns();
    block_on(volume.with(async |fs| fs.create_directory(directory, &name.name, mode, now_ns))).map(drop)
}

/// Makes a symbolic link.
///
/// # Errors
/// As [`make_directory`].
pub fn symlink(target: &[u8], base: Option<i32>, path: &[u8]) -> Result<()> {
    let name = new_name(base, path)?;
    if name.is_directory {
        return Err(ENOENT);
    }
    let (_, volume, directory) = stored(&name)?;
    let now_ns = time::realtime_ns();
    block_on(volume.with(async |fs| fs.create_link(directory, &name.name, target, now_ns))).map(drop)
}

/// Gives a file another name; a link at the end of `old` is followed if `follow` says so.
///
/// # Errors
/// `EEXIST`, `EXDEV` for another disk, `EPERM` for a directory, and as [`make_directory`].
pub fn link(old_base: Option<i32>, old: &[u8], new_base: Option<i32>, new: &[u8], follow: bool) -> Result<()> {
    let place = resolve(old_base, old, follow)?;
    let name = new_name(new_base, new)?;
    let (at, volume, directory) = stored(&name)?;
    match place {
        Place::Stored(from, ino) if from == at => {
            block_on(volume.with(async |fs| fs.link(ino, directory, &name.name, time::realtime_ns())))
        }
        _ => Err(EXDEV),
    }
}

/// Takes a name away: an empty directory's if `directory` says so, otherwise a file's or link's.
///
/// # Errors
/// `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, `EROFS`, `EBUSY` for what is mounted, `EINVAL` for `.`.
pub fn remove(base: Option<i32>, path: &[u8], directory: bool) -> Result<()> {
    let name = match resolve_name(base, path) {
        Err(EINVAL) => return Err(if !directory { EISDIR } else { refusal_of(path) }),
        name => name?,
    };
    let found = name.directory.child(&name.name)?;
    if is_mount(found) {
        return Err(if directory { EBUSY } else { EISDIR });
    }
    let is_directory = found.kind()? == Kind::Directory;
    match (directory, is_directory) {
        (false, true) => return Err(EISDIR),
        (true, false) => return Err(ENOTDIR),
        (false, false) if name.is_directory => return Err(ENOTDIR),
        _ => {}
    }
    let (_, volume, parent) = stored(&name)?;
    let now_ns = time::realtime_ns();
    block_on(volume.with(async |fs| match directory {
        true => fs.remove_directory(parent, &name.name, now_ns),
        false => fs.unlink(parent, &name.name, now_ns),
    }))
}

/// Why a directory that a path names by `.`, `..` or as the root cannot be removed.
fn refusal_of(path: &[u8]) -> i32 {
    let end = path.iter().rposition(|&byte| byte != b'/').map_or(&path[..0], |last| &path[..=last]);
    if end.is_empty() {
        EBUSY
    } else if end.ends_with(b"..") {
        ENOTEMPTY
    } else {
        EINVAL
    }
}

fn is_mount(place: Place) -> bool {
    matches!(place, Place::Stored(_, filesystem::ROOT))
}

/// Gives what has one name another, in place of what had it, unless `replace` forbids it.
///
/// # Errors
/// `ENOENT`, `EXDEV` for another disk, `EROFS`, `EBUSY` for what is mounted, `EEXIST`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`,
/// `EINVAL` for a directory that would lie in itself.
pub fn rename(old_base: Option<i32>, old: &[u8], new_base: Option<i32>, new: &[u8], replace: bool) -> Result<()> {
    let busy = |name: Result<Name>| name.map_err(|errno| if errno == EINVAL { EBUSY } else { errno });
    let from = busy(resolve_name(old_base, old))?;
    let to = busy(resolve_name(new_base, new))?;
    let found = from.directory.child(&from.name)?;
    let is_directory = found.kind()? == Kind::Directory;
    if (from.is_directory || to.is_directory) && !is_directory {
        return Err(ENOTDIR);
    }
    if is_mount(found) || to.directory.child(&to.name).is_ok_and(is_mount) {
        return Err(EBUSY);
    }
    let ((from_at, volume, from_directory), (to_at, _, to_directory)) = (stored(&from)?, stored(&to)?);
    if from_at != to_at {
        return Err(EXDEV);
    }
    let now_ns = time::realtime_ns();
    block_on(volume.with(async |fs| fs.rename((from_directory, &from.name), (to_directory, &to.name), replace, now_ns)))
}

/// What there is to know of what lies at a path.
///
/// # Errors
/// `ENOENT`, `ENOTDIR`, `ELOOP`.
pub fn metadata(base: Option<i32>, path: &[u8], follow: bool) -> Result<Metadata> {
    metadata_at(resolve(base, path, follow)?)
}

/// What there is to know of an open file.
///
/// # Errors
/// `EBADF`, also for what is no file.
pub fn metadata_of(descriptor: i32) -> Result<Metadata> {
    file(descriptor, hermit_abi::EBADF)?.metadata()
}

/// The target of a symbolic link.
///
/// # Errors
/// `EINVAL` for what is none, and as [`metadata`].
pub fn read_link(base: Option<i32>, path: &[u8]) -> Result<Vec<u8>> {
    resolve(base, path, false)?.link_target()?.ok_or(EINVAL)
}

fn set_mode_at(place: Place, mode: u32) -> Result<()> {
    let (at, ino) = place.stored()?;
    block_on(volume(at)?.with(async |fs| fs.set_mode(ino, mode, time::realtime_ns())))
}

/// Sets permission bits. They are kept, and nobody looks at them: the program may do everything.
///
/// # Errors
/// As [`metadata`]; `EROFS`.
pub fn set_mode(base: Option<i32>, path: &[u8], mode: u32) -> Result<()> {
    set_mode_at(resolve(base, path, true)?, mode)
}

/// As [`set_mode`], of an open file.
///
/// # Errors
/// `EBADF`, `EROFS`, `EINVAL` for what is no file.
pub fn set_mode_of(descriptor: i32, mode: u32) -> Result<()> {
    set_mode_at(file(descriptor, EINVAL)?.place(), mode)
}

fn set_times_at(place: Place, times: NewTimes) -> Result<()> {
    let (at, ino) = place.stored()?;
    let NewTimes { accessed_ns, modified_ns } = times;
    block_on(volume(at)?.with(async |fs| fs.set_times(ino, accessed_ns, modified_ns, time::realtime_ns())))
}

/// Sets times.
///
/// # Errors
/// As [`metadata`]; `EROFS`.
pub fn set_times(base: Option<i32>, path: &[u8], times: NewTimes, follow: bool) -> Result<()> {
    set_times_at(resolve(base, path, follow)?, times)
}

/// As [`set_times`], of an open file.
///
/// # Errors
/// `EBADF`, `EROFS`, `EINVAL` for what is no file.
pub fn set_times_of(descriptor: i32, times: NewTimes) -> Result<()> {
    set_times_at(file(descriptor, EINVAL)?.place(), times)
}

/// The path without links, `.` and `..`.
///
/// # Errors
/// As [`metadata`].
pub fn real_path(path: &[u8]) -> Result<Vec<u8>> {
    let place = resolve(None, path, true)?;
    if place.kind()? == Kind::Directory {
        return place.path();
    }
    real_path_of_file(path)
}

/// Of what is no directory: the directory's, and the name at the end of all links.
fn real_path_of_file(path: &[u8]) -> Result<Vec<u8>> {
    let mut name = resolve_name(None, path)?;
    for _ in 0..super::path::MOST_LINKS {
        let Some(target) = name.directory.child(&name.name)?.link_target()? else {
            let mut path = name.directory.path()?;
            if path.len() > 1 {
                path.push(b'/');
            }
            path.extend_from_slice(&name.name);
            return Ok(path);
        };
        let directory = name.directory;
        name = super::path::resolve_name_from(|| Ok(directory), &target)?;
    }
    Err(hermit_abi::ELOOP)
}

/// The path of the current directory.
///
/// # Errors
/// `ENOENT` if it was removed.
pub fn current_directory() -> Result<Vec<u8>> {
    with_state(|state| state.current).path()
}

/// Changes the directory that relative paths begin at.
///
/// # Errors
/// As [`metadata`]; `ENOTDIR`.
pub fn change_directory(path: &[u8]) -> Result<()> {
    let place = resolve(None, path, true)?;
    if place.kind()? != Kind::Directory {
        return Err(ENOTDIR);
    }
    with_state(|state| state.current = place);
    Ok(())
}
