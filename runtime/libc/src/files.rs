//! Files by C names, over the runtime's.

use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use core::ptr;

use libc::{gid_t, iovec, mode_t, off_t, ssize_t, timespec, uid_t};
use runtime::fs::{self, Metadata, NewTimes};
use runtime::sys::descriptors;

use crate::errno::fail;
use crate::text::put;
use crate::{names, refused};

type Path = *const c_char;

const NS_PER_S: u64 = 1_000_000_000;

/// What a call gives that gives nothing else.
pub(crate) fn nothing(result: fs::Result<()>) -> c_int {
    number(result.map(|()| 0))
}

fn number(result: fs::Result<c_int>) -> c_int {
    result.unwrap_or_else(fail)
}

fn size(result: fs::Result<usize>) -> ssize_t {
    result.map_or_else(fail, |bytes| bytes as ssize_t)
}

/// A path's bytes. `EFAULT` for a null pointer.
///
/// # Safety
/// It is null or a text that lives as long as the result.
pub(crate) unsafe fn text<'a>(path: Path) -> fs::Result<&'a [u8]> {
    if path.is_null() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller's.
    Ok(unsafe { CStr::from_ptr(path) }.to_bytes())
}

/// The directory that a relative path begins at.
fn base(folder: c_int) -> Option<i32> {
    (folder != libc::AT_FDCWD).then_some(folder)
}

/// A caller's memory. `EFAULT` for a null pointer.
///
/// # Safety
/// It is null, or `bytes` bytes can be written there while the result lives.
unsafe fn room<'a>(place: *mut c_void, bytes: usize) -> fs::Result<&'a mut [u8]> {
    if bytes == 0 {
        return Ok(&mut []);
    }
    if place.is_null() || isize::try_from(bytes).is_err() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller's; the bytes are read only after having been given a value.
    Ok(unsafe {
        place.write_bytes(0, bytes);
        core::slice::from_raw_parts_mut(place.cast(), bytes)
    })
}

/// A caller's bytes. `EFAULT` for a null pointer.
///
/// # Safety
/// It is null, or `bytes` bytes can be read there while the result lives.
unsafe fn data<'a>(place: *const c_void, bytes: usize) -> fs::Result<&'a [u8]> {
    if bytes == 0 {
        return Ok(&[]);
    }
    if place.is_null() || isize::try_from(bytes).is_err() {
        return Err(libc::EFAULT);
    }
    // SAFETY: the caller's.
    Ok(unsafe { core::slice::from_raw_parts(place.cast(), bytes) })
}

/// What there is to know of an open object, as Linux has it.
fn described(file: c_int) -> fs::Result<libc::stat64> {
    let stat = descriptors::get(file)?.stat()?;
    // SAFETY: all of it are numbers.
    let mut found: libc::stat64 = unsafe { core::mem::zeroed() };
    found.st_dev = stat.st_dev;
    found.st_ino = stat.st_ino;
    found.st_nlink = stat.st_nlink;
    found.st_mode = stat.st_mode;
    found.st_size = stat.st_size;
    found.st_blksize = stat.st_blksize;
    found.st_blocks = stat.st_blocks;
    (found.st_atime, found.st_atime_nsec) = (stat.st_atim.tv_sec, stat.st_atim.tv_nsec.into());
    (found.st_mtime, found.st_mtime_nsec) = (stat.st_mtim.tv_sec, stat.st_mtim.tv_nsec.into());
    (found.st_ctime, found.st_ctime_nsec) = (stat.st_ctim.tv_sec, stat.st_ctim.tv_nsec.into());
    Ok(found)
}

fn stat_of(metadata: &Metadata) -> libc::stat64 {
    // SAFETY: all of it are numbers.
    let mut found: libc::stat64 = unsafe { core::mem::zeroed() };
    let attributes = &metadata.attributes;
    let seconds = |ns: u64| ((ns / NS_PER_S) as i64, (ns % NS_PER_S) as i64);
    found.st_dev = metadata.device;
    found.st_ino = metadata.ino;
    found.st_nlink = attributes.links.into();
    found.st_mode = metadata.mode();
    found.st_size = attributes.bytes as i64;
    found.st_blksize = 4096;
    found.st_blocks = (attributes.stored_bytes / 512) as i64;
    (found.st_atime, found.st_atime_nsec) = seconds(attributes.times.accessed_ns);
    (found.st_mtime, found.st_mtime_nsec) = seconds(attributes.times.modified_ns);
    (found.st_ctime, found.st_ctime_nsec) = seconds(attributes.times.changed_ns);
    found
}

/// Gives the caller what was found.
///
/// # Safety
/// `place` is null or writable.
unsafe fn give<T>(place: *mut T, found: fs::Result<T>) -> c_int {
    nothing(found.and_then(|found| {
        if place.is_null() {
            return Err(libc::EFAULT);
        }
        // SAFETY: the caller's.
        unsafe { place.write(found) };
        Ok(())
    }))
}

/// What lies at a path; an empty one means the descriptor itself, if the flags allow that.
///
/// # Safety
/// `path` is null or a text.
unsafe fn find_at(folder: c_int, path: Path, flags: c_int) -> fs::Result<Metadata> {
    // SAFETY: the caller's.
    let path = unsafe { text(path) }?;
    if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
        return fs::metadata_of(folder);
    }
    fs::metadata(base(folder), path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
}

/// Times as a caller gives them: access and modification.
///
/// # Safety
/// `times` is null (now), or points to two of them.
unsafe fn new_times(times: *const timespec) -> fs::Result<NewTimes> {
    let now_ns = runtime::time::SystemTime::now().since_unix_epoch().as_nanos() as u64;
    if times.is_null() {
        return Ok(NewTimes { accessed_ns: Some(now_ns), modified_ns: Some(now_ns) });
    }
    let time = |time: timespec| match time.tv_nsec {
        libc::UTIME_NOW => Ok(Some(now_ns)),
        libc::UTIME_OMIT => Ok(None),
        0..1_000_000_000 => {
            // What lies before 1970 is 1970.
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            Ok(Some(seconds.saturating_mul(NS_PER_S).saturating_add(time.tv_nsec as u64)))
        }
        _ => Err(libc::EINVAL),
    };
    // SAFETY: the caller's.
    let (accessed, modified) = unsafe { (times.read(), times.add(1).read()) };
    Ok(NewTimes { accessed_ns: time(accessed)?, modified_ns: time(modified)? })
}

/// Whether a thing may belong to these: there is one user and one group, 0; the largest number means no change.
fn check_owner(user: uid_t, group: gid_t) -> fs::Result<()> {
    let is_ours = |id: u32| id == 0 || id == u32::MAX;
    if is_ours(user) && is_ours(group) { Ok(()) } else { Err(libc::EPERM) }
}

/// Calls `each` for pieces of memory at growing offsets until one is not done as a whole.
///
/// # Safety
/// `pieces` points to `count` descriptions of memory that `each` may use.
unsafe fn in_pieces(
    pieces: *const iovec,
    count: c_int,
    mut offset: off_t,
    mut each: impl FnMut(*mut c_void, usize, off_t) -> fs::Result<usize>,
) -> ssize_t {
    let Ok(count) = usize::try_from(count) else { return fail(libc::EINVAL) };
    let mut total = 0;
    for index in 0..count {
        // SAFETY: the caller's.
        let iovec { iov_base, iov_len } = unsafe { pieces.add(index).read() };
        match each(iov_base, iov_len, offset) {
            Ok(bytes) => {
                total += bytes;
                offset = offset.saturating_add(bytes as off_t);
                if bytes < iov_len {
                    break;
                }
            }
            Err(errno) if total == 0 => return fail(errno),
            Err(_) => break,
        }
    }
    total as ssize_t
}

/// A text that the caller frees by `free`, or at a place of the caller's.
///
/// # Safety
/// `place` is null or has room for `PATH_MAX` bytes.
unsafe fn give_text(place: *mut c_char, text: &[u8]) -> *mut c_char {
    // SAFETY: it asks for memory.
    let place = if place.is_null() { unsafe { crate::memory::malloc(text.len() + 1) }.cast() } else { place };
    if place.is_null() {
        fail::<c_int>(libc::ENOMEM);
    } else {
        // SAFETY: there is room for it: the memory is as long as that, and paths are shorter than `PATH_MAX`.
        unsafe { put(place, text.len() + 1, &[text]) };
    }
    place
}

c_functions! {
    /// Opens what lies at a path, or makes a file there.
    fn open64(path: Path, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        let opened = unsafe { text(path) }.and_then(|path| match names::open(path) {
            Some(opened) => opened,
            None => fs::open(None, path, flags, mode & !UMASK),
        });
        if opened == Err(libc::ENOENT) {
            // SAFETY: it is a text, or it would not have been looked for.
            refused::note_missing(unsafe { CStr::from_ptr(path) });
        }
        number(opened)
    }

    /// As [`open64`]: files are as long as they can be in any case.
    fn open(path: Path, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        unsafe { open64(path, flags, mode) }
    }

    /// As [`open64`], from a directory on.
    fn openat64(folder: c_int, path: Path, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        number(unsafe { text(path) }.and_then(|path| fs::open(base(folder), path, flags, mode & !UMASK)))
    }

    /// As [`openat64`].
    fn openat(folder: c_int, path: Path, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        unsafe { openat64(folder, path, flags, mode) }
    }

    /// Reads at an offset: how many bytes.
    fn pread64(file: c_int, place: *mut c_void, bytes: usize, offset: off_t) -> ssize_t {
        // SAFETY: the caller's.
        size(unsafe { room(place, bytes) }.and_then(|room| fs::read_at(file, room, offset)))
    }

    /// Writes at an offset: how many bytes.
    fn pwrite64(file: c_int, place: *const c_void, bytes: usize, offset: off_t) -> ssize_t {
        // SAFETY: the caller's.
        size(unsafe { data(place, bytes) }.and_then(|data| fs::write_at(file, data, offset)))
    }

    /// Reads pieces at an offset: how many bytes.
    fn preadv(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        // SAFETY: the caller's.
        unsafe {
            in_pieces(pieces, count, offset, |place, bytes, offset| fs::read_at(file, room(place, bytes)?, offset))
        }
    }

    /// Writes pieces at an offset: how many bytes.
    fn pwritev(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t {
        // SAFETY: the caller's.
        unsafe {
            in_pieces(pieces, count, offset, |place, bytes, offset| fs::write_at(file, data(place, bytes)?, offset))
        }
    }

    /// Makes a file shorter, or longer by zeros.
    fn ftruncate64(file: c_int, bytes: off_t) -> c_int {
        nothing(fs::truncate(file, bytes))
    }

    /// Returns when what was written is stable.
    fn fsync(file: c_int) -> c_int {
        nothing(fs::sync_all(file))
    }

    /// As [`fsync`].
    fn fdatasync(file: c_int) -> c_int {
        nothing(fs::sync_all(file))
    }

    /// Advice changes nothing: the error number of what is no file, or 0.
    fn posix_fadvise64(file: c_int, _offset: off_t, _bytes: off_t, _advice: c_int) -> c_int {
        fs::metadata_of(file).map_or_else(|errno| errno, |_| 0)
    }

    /// Room is taken when something is written: `EOPNOTSUPP`.
    fn fallocate64(_file: c_int, _mode: c_int, _offset: off_t, _bytes: off_t) -> c_int {
        fail(libc::EOPNOTSUPP)
    }

    /// As [`fallocate64`], the error number being the result.
    fn posix_fallocate64(_file: c_int, _offset: off_t, _bytes: off_t) -> c_int {
        libc::EOPNOTSUPP
    }

    /// Locks a file for an open file. `EWOULDBLOCK` if others have it and it is not to wait.
    fn flock(file: c_int, operation: c_int) -> c_int {
        let exclusive = match operation & !libc::LOCK_NB {
            libc::LOCK_SH => Some(false),
            libc::LOCK_EX => Some(true),
            libc::LOCK_UN => None,
            _ => return fail(libc::EINVAL),
        };
        nothing(fs::lock(file, exclusive, operation & libc::LOCK_NB == 0))
    }

    /// What there is to know of what lies at a path.
    fn stat64(path: Path, place: *mut libc::stat64) -> c_int {
        // SAFETY: the caller's.
        unsafe { give(place, find_at(libc::AT_FDCWD, path, 0).map(|found| stat_of(&found))) }
    }

    /// As [`stat64`], of a link itself.
    fn lstat64(path: Path, place: *mut libc::stat64) -> c_int {
        // SAFETY: the caller's.
        unsafe {
            give(place, find_at(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW).map(|found| stat_of(&found)))
        }
    }

    /// As [`stat64`], from a directory on.
    fn fstatat64(folder: c_int, path: Path, place: *mut libc::stat64, flags: c_int) -> c_int {
        // SAFETY: the caller's.
        unsafe { give(place, find_at(folder, path, flags).map(|found| stat_of(&found))) }
    }

    /// What there is to know of an open object.
    fn fstat64(file: c_int, place: *mut libc::stat64) -> c_int {
        // SAFETY: the caller's.
        unsafe { give(place, described(file)) }
    }

    /// What there is to know of what lies at a path, with the time at which it was made.
    fn statx(folder: c_int, path: Path, flags: c_int, _mask: c_uint, place: *mut libc::statx) -> c_int {
        // SAFETY: the caller's.
        let found = match unsafe { find_at(folder, path, flags) } {
            // The console and sockets.
            Err(libc::EBADF) => described(folder).map(|found| statx_of_other(&found)),
            found => found.map(|found| statx_of(&found)),
        };
        // SAFETY: the caller's.
        unsafe { give(place, found) }
    }

    /// Whether something lies at a path. All that is there may be used.
    fn access(path: Path, mode: c_int) -> c_int {
        // SAFETY: the caller's.
        unsafe { faccessat(libc::AT_FDCWD, path, mode, 0) }
    }

    /// As [`access`], from a directory on.
    fn faccessat(folder: c_int, path: Path, mode: c_int, flags: c_int) -> c_int {
        // SAFETY: the caller's.
        let found = unsafe { find_at(folder, path, flags) };
        let is_packed = |found: &Metadata| found.attributes.mode & 0o222 == 0 && found.device == 1;
        nothing(found.and_then(|found| {
            if mode & libc::W_OK != 0 && is_packed(&found) { Err(libc::EROFS) } else { Ok(()) }
        }))
    }

    /// The target of a symbolic link, without an end: how many bytes were put, as many as fit.
    fn readlink(path: Path, place: *mut c_char, bytes: usize) -> ssize_t {
        // SAFETY: the caller's.
        unsafe { readlinkat(libc::AT_FDCWD, path, place, bytes) }
    }

    /// As [`readlink`], from a directory on.
    fn readlinkat(folder: c_int, path: Path, place: *mut c_char, bytes: usize) -> ssize_t {
        // SAFETY: the caller's.
        let target = unsafe { text(path) }.and_then(|path| fs::read_link(base(folder), path));
        size(target.and_then(|target| {
            // SAFETY: the caller's.
            let room = unsafe { room(place.cast(), bytes) }?;
            let bytes = room.len().min(target.len());
            room[..bytes].copy_from_slice(&target[..bytes]);
            Ok(bytes)
        }))
    }

    /// Gives what has one name another.
    fn rename(old: Path, new: Path) -> c_int {
        // SAFETY: the caller's.
        unsafe { renameat2(libc::AT_FDCWD, old, libc::AT_FDCWD, new, 0) }
    }

    /// As [`rename`], from directories on.
    fn renameat(old_folder: c_int, old: Path, new_folder: c_int, new: Path) -> c_int {
        // SAFETY: the caller's.
        unsafe { renameat2(old_folder, old, new_folder, new, 0) }
    }

    /// As [`renameat`]; with `RENAME_NOREPLACE` the new name must be free. `EINVAL` for other flags.
    fn renameat2(old_folder: c_int, old: Path, new_folder: c_int, new: Path, flags: c_uint) -> c_int {
        if flags & !libc::RENAME_NOREPLACE != 0 {
            return fail(libc::EINVAL);
        }
        // SAFETY: the caller's.
        let paths = unsafe { text(old).and_then(|old| Ok((old, text(new)?))) };
        nothing(paths.and_then(|(old, new)| fs::rename(base(old_folder), old, base(new_folder), new, flags == 0)))
    }

    /// Takes a name away.
    fn unlink(path: Path) -> c_int {
        // SAFETY: the caller's.
        unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
    }

    /// As [`unlink`], from a directory on; with `AT_REMOVEDIR` as [`rmdir`].
    fn unlinkat(folder: c_int, path: Path, flags: c_int) -> c_int {
        // SAFETY: the caller's.
        nothing(unsafe { text(path) }.and_then(|path| fs::remove(base(folder), path, flags & libc::AT_REMOVEDIR != 0)))
    }

    /// Removes an empty directory.
    fn rmdir(path: Path) -> c_int {
        // SAFETY: the caller's.
        unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
    }

    /// Makes a directory.
    fn mkdir(path: Path, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        unsafe { mkdirat(libc::AT_FDCWD, path, mode) }
    }

    /// As [`mkdir`], from a directory on.
    fn mkdirat(folder: c_int, path: Path, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        nothing(unsafe { text(path) }.and_then(|path| fs::make_directory(base(folder), path, mode & !UMASK)))
    }

    /// Makes a symbolic link.
    fn symlink(target: Path, path: Path) -> c_int {
        // SAFETY: the caller's.
        unsafe { symlinkat(target, libc::AT_FDCWD, path) }
    }

    /// As [`symlink`], from a directory on.
    fn symlinkat(target: Path, folder: c_int, path: Path) -> c_int {
        // SAFETY: the caller's.
        let texts = unsafe { text(target).and_then(|target| Ok((target, text(path)?))) };
        nothing(texts.and_then(|(target, path)| fs::symlink(target, base(folder), path)))
    }

    /// Gives a file another name.
    fn linkat(old_folder: c_int, old: Path, new_folder: c_int, new: Path, flags: c_int) -> c_int {
        // SAFETY: the caller's.
        let paths = unsafe { text(old).and_then(|old| Ok((old, text(new)?))) };
        let follow = flags & libc::AT_SYMLINK_FOLLOW != 0;
        nothing(paths.and_then(|(old, new)| fs::link(base(old_folder), old, base(new_folder), new, follow)))
    }

    /// As [`linkat`].
    fn link(old: Path, new: Path) -> c_int {
        // SAFETY: the caller's.
        unsafe { linkat(libc::AT_FDCWD, old, libc::AT_FDCWD, new, 0) }
    }

    /// Sets permission bits, which nobody looks at.
    fn chmod(path: Path, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        nothing(unsafe { text(path) }.and_then(|path| fs::set_mode(None, path, mode)))
    }

    /// As [`chmod`], of an open file.
    fn fchmod(file: c_int, mode: mode_t) -> c_int {
        nothing(fs::set_mode_of(file, mode))
    }

    /// Everything belongs to user 0: `EPERM` for another.
    fn chown(path: Path, user: uid_t, group: gid_t) -> c_int {
        // SAFETY: the caller's.
        let found = unsafe { find_at(libc::AT_FDCWD, path, 0) };
        nothing(found.and_then(|_| check_owner(user, group)))
    }

    /// As [`chown`], of a link itself.
    fn lchown(path: Path, user: uid_t, group: gid_t) -> c_int {
        // SAFETY: the caller's.
        let found = unsafe { find_at(libc::AT_FDCWD, path, libc::AT_SYMLINK_NOFOLLOW) };
        nothing(found.and_then(|_| check_owner(user, group)))
    }

    /// As [`chown`], of an open file.
    fn fchown(file: c_int, user: uid_t, group: gid_t) -> c_int {
        nothing(fs::metadata_of(file).and_then(|_| check_owner(user, group)))
    }

    /// Sets times.
    fn utimensat(folder: c_int, path: Path, times: *const timespec, flags: c_int) -> c_int {
        // SAFETY: the caller's.
        let given = unsafe { text(path).and_then(|path| Ok((path, new_times(times)?))) };
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW == 0;
        nothing(given.and_then(|(path, times)| fs::set_times(base(folder), path, times, follow)))
    }

    /// As [`utimensat`], of an open file.
    fn futimens(file: c_int, times: *const timespec) -> c_int {
        // SAFETY: the caller's.
        nothing(unsafe { new_times(times) }.and_then(|times| fs::set_times_of(file, times)))
    }

    /// Changes the current directory.
    fn chdir(path: Path) -> c_int {
        // SAFETY: the caller's.
        nothing(unsafe { text(path) }.and_then(fs::change_directory))
    }

    /// The path of the current directory. Null and `ERANGE` when it does not fit.
    fn getcwd(place: *mut c_char, bytes: usize) -> *mut c_char {
        match fs::current_directory() {
            // SAFETY: the caller's.
            Ok(path) if !place.is_null() && unsafe { put(place, bytes, &[&path]) } => return place,
            Ok(_) => fail::<c_int>(libc::ERANGE),
            Err(errno) => fail(errno),
        };
        ptr::null_mut()
    }

    /// A path without links, at `place`, or where `free` takes it back.
    fn realpath(path: Path, place: *mut c_char) -> *mut c_char {
        // SAFETY: the caller's.
        match unsafe { text(path) }.and_then(fs::real_path) {
            // SAFETY: the caller's.
            Ok(path) => unsafe { give_text(place, &path) },
            Err(errno) => {
                fail::<c_int>(errno);
                ptr::null_mut()
            }
        }
    }
}

/// Permission bits that new files and directories do not have: Linux's default.
const UMASK: mode_t = 0o022;

fn statx_of(metadata: &Metadata) -> libc::statx {
    // SAFETY: all of it are numbers.
    let mut found: libc::statx = unsafe { core::mem::zeroed() };
    let attributes = &metadata.attributes;
    let time = |ns: u64| {
        // SAFETY: all of it are numbers.
        let mut time: libc::statx_timestamp = unsafe { core::mem::zeroed() };
        (time.tv_sec, time.tv_nsec) = ((ns / NS_PER_S) as i64, (ns % NS_PER_S) as u32);
        time
    };
    found.stx_mask = libc::STATX_BASIC_STATS | libc::STATX_BTIME;
    found.stx_blksize = 4096;
    found.stx_nlink = attributes.links;
    found.stx_mode = metadata.mode() as u16;
    found.stx_ino = metadata.ino;
    found.stx_size = attributes.bytes;
    found.stx_blocks = attributes.stored_bytes / 512;
    found.stx_atime = time(attributes.times.accessed_ns);
    found.stx_mtime = time(attributes.times.modified_ns);
    found.stx_ctime = time(attributes.times.changed_ns);
    found.stx_btime = time(attributes.times.born_ns);
    found.stx_dev_minor = metadata.device as u32;
    found
}

/// Of what is no file, and was made at no time.
fn statx_of_other(stat: &libc::stat64) -> libc::statx {
    // SAFETY: all of it are numbers.
    let mut found: libc::statx = unsafe { core::mem::zeroed() };
    found.stx_mask = libc::STATX_BASIC_STATS;
    found.stx_blksize = 4096;
    found.stx_nlink = stat.st_nlink as u32;
    found.stx_mode = stat.st_mode as u16;
    found.stx_ino = stat.st_ino;
    found.stx_size = stat.st_size as u64;
    found.stx_dev_minor = stat.st_dev as u32;
    found
}
