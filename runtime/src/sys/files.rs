//! Files by hermit's names.

use core::ffi::{CStr, c_char};
use core::mem::offset_of;

use hermit_abi::{DT_DIR, DT_LNK, DT_REG, EFAULT, EINVAL, ENOTDIR, O_DIRECTORY, O_RDONLY, dirent64, stat};

use super::descriptors::{self, Result};
use super::errno::noted;
use super::io::returned;
use crate::fs;
use crate::thread::Masked;

/// Entries are aligned to this.
const ENTRY_ALIGN: usize = 8;

/// A caller's path. `EFAULT` for a null pointer.
///
/// # Safety
/// `path` is null or a text that lives as long as the result.
unsafe fn text<'a>(path: *const c_char) -> Result<&'a [u8]> {
    if path.is_null() {
        return Err(EFAULT);
    }
    // SAFETY: the caller's.
    Ok(unsafe { CStr::from_ptr(path) }.to_bytes())
}

/// What a call returns that gives nothing.
fn nothing(result: Result<()>) -> i32 {
    returned(result.map(|()| 0))
}

/// Opens what lies at a path: its descriptor. See [`fs::open`] for errors, which are negated; `-EFAULT` for a null pointer.
///
/// # Safety
/// `name` is null or a text.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_open(name: *const c_char, flags: i32, mode: i32) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    returned(unsafe { text(name) }.and_then(|path| fs::open(None, path, flags, mode as u32)))
}

/// Opens a directory: its descriptor. As [`sys_open`].
///
/// # Safety
/// `name` is null or a text.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_opendir(name: *const c_char) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    unsafe { sys_open(name, O_RDONLY | O_DIRECTORY, 0) }
}

/// Takes the name of a file away. See [`fs::remove`] for errors.
///
/// # Safety
/// `name` is null or a text.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_unlink(name: *const c_char) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    nothing(unsafe { text(name) }.and_then(|path| fs::remove(None, path, false)))
}

/// Removes an empty directory. See [`fs::remove`] for errors.
///
/// # Safety
/// `name` is null or a text.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_rmdir(name: *const c_char) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    nothing(unsafe { text(name) }.and_then(|path| fs::remove(None, path, true)))
}

/// Makes an empty directory. See [`fs::make_directory`] for errors.
///
/// # Safety
/// `name` is null or a text.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_mkdir(name: *const i8, mode: u32) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    nothing(unsafe { text(name.cast()) }.and_then(|path| fs::make_directory(None, path, mode)))
}

/// # Safety
/// `name` is null or a text, `place` null or writable.
unsafe fn stat_of(name: *const c_char, place: *mut stat, follow: bool) -> i32 {
    // SAFETY: the caller's.
    let found = unsafe { text(name) }.and_then(|path| fs::metadata(None, path, follow));
    nothing(found.and_then(|found| {
        if place.is_null() {
            return Err(EFAULT);
        }
        // SAFETY: the caller's.
        unsafe { place.write(found.stat()) };
        Ok(())
    }))
}

/// What there is to know of what lies at a path. See [`fs::metadata`] for errors; `-EFAULT` for a null pointer.
///
/// # Safety
/// `name` is null or a text, `stat` null or writable.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_stat(name: *const c_char, stat: *mut stat) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    unsafe { stat_of(name, stat, true) }
}

/// As [`sys_stat`], of a symbolic link itself.
///
/// # Safety
/// As [`sys_stat`].
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_lstat(name: *const c_char, stat: *mut stat) -> i32 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    unsafe { stat_of(name, stat, false) }
}

/// Makes what was written to a file stable. See [`fs::sync_all`] for errors.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_fsync(fd: i32) -> i32 {
    let _masked = Masked::new();
    nothing(fs::sync_all(fd))
}

/// All entries of a directory that are left, in the order of their names and without `.` and `..`: how many bytes they take, 0
/// when none is left. `-EINVAL`, and nothing has changed, when not all of them fit into `count` bytes: the `std` for hermit asks
/// once, with more and more room while that is the answer, and takes what it gets for the whole directory. `-EBADF`,
/// `-ENOTDIR`, `-EFAULT` for a null pointer.
///
/// # Safety
/// `dirp` is null or points to `count` writable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_getdents64(fd: i32, dirp: *mut dirent64, count: usize) -> i64 {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    let listed = descriptors::get_as::<fs::File>(fd, ENOTDIR).and_then(|file| unsafe { list(&file, dirp, count) });
    noted(listed.map_or_else(|errno| -i64::from(errno), |bytes| bytes as i64))
}

/// # Safety
/// `place` is null or points to `count` writable bytes.
unsafe fn list(file: &fs::File, place: *mut dirent64, count: usize) -> Result<usize> {
    if place.is_null() {
        return Err(EFAULT);
    }
    let before = file.listed();
    let mut used = 0;
    while let Some(entry) = file.next_entry()? {
        if matches!(entry.name.as_slice(), b"." | b"..") {
            continue;
        }
        let bytes = (offset_of!(dirent64, d_name) + entry.name.len() + 1).next_multiple_of(ENTRY_ALIGN);
        if bytes > count - used {
            file.list_from(before);
            return Err(EINVAL);
        }
        // SAFETY: the caller's; there is room for so many bytes.
        unsafe { put_entry(&entry, place.cast::<u8>().add(used), bytes) };
        used += bytes;
    }
    Ok(used)
}

/// Leaves an entry in hermit's form. Fields are written one by one, because there may not be room for the longest name, and
/// without regard to alignment.
///
/// # Safety
/// `bytes` bytes can be written at `place`; that is enough for the name and its end.
unsafe fn put_entry(entry: &fs::Entry, place: *mut u8, bytes: usize) {
    let d_type = match entry.kind {
        filesystem::Kind::File => DT_REG,
        filesystem::Kind::Directory => DT_DIR,
        filesystem::Kind::Link => DT_LNK,
    };
    // SAFETY: the caller's; each field lies within.
    unsafe {
        place.write_bytes(0, bytes);
        let field = |offset: usize, bytes: &[u8]| place.add(offset).copy_from(bytes.as_ptr(), bytes.len());
        field(offset_of!(dirent64, d_ino), &entry.ino.to_le_bytes());
        field(offset_of!(dirent64, d_off), &entry.position.to_le_bytes());
        field(offset_of!(dirent64, d_reclen), &(bytes as u16).to_le_bytes());
        field(offset_of!(dirent64, d_type), &[d_type]);
        field(offset_of!(dirent64, d_name), &entry.name);
    }
}
