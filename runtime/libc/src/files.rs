//! Files: an empty root directory that cannot be written to.
//!
//! So whatever is looked up is not there (`ENOENT`), whatever is to be made or changed cannot be (`EROFS`), and descriptors
//! are those of the console, which are no files (`EINVAL`, `ESPIPE`, `ENOTDIR`).

use core::ffi::{c_char, c_int, c_uint, c_void};
use core::ptr;

use libc::{DIR, gid_t, iovec, mode_t, off_t, ssize_t, timespec, uid_t};

use crate::errno::fail;
use crate::text::put;

type Path = *const c_char;

/// Defines functions that do nothing but fail with an error number.
macro_rules! failing {
    ($( $errno:ident: $name:ident($($argument:ident: $kind:ty),*) -> $result:ty; )*) => {
        c_functions! { $(
            #[doc = concat!("Fails with `", stringify!($errno), "`.")]
            fn $name($($argument: $kind),*) -> $result {
                $( let _ = $argument; )*
                fail(libc::$errno)
            }
        )* }
    };
}

failing! {
    ENOENT: stat64(path: Path, place: *mut libc::stat64) -> c_int;
    ENOENT: lstat64(path: Path, place: *mut libc::stat64) -> c_int;
    ENOENT: fstatat64(folder: c_int, path: Path, place: *mut libc::stat64, flags: c_int) -> c_int;
    ENOENT: readlink(path: Path, place: *mut c_char, bytes: usize) -> ssize_t;
    ENOENT: chdir(path: Path) -> c_int;
    ENOENT: chroot(path: Path) -> c_int;
    ENOENT: rename(old: Path, new: Path) -> c_int;
    ENOENT: unlink(path: Path) -> c_int;
    ENOENT: unlinkat(folder: c_int, path: Path, flags: c_int) -> c_int;
    ENOENT: rmdir(path: Path) -> c_int;
    ENOENT: chmod(path: Path, mode: mode_t) -> c_int;
    ENOENT: chown(path: Path, user: uid_t, group: gid_t) -> c_int;
    ENOENT: lchown(path: Path, user: uid_t, group: gid_t) -> c_int;
    ENOENT: utimensat(folder: c_int, path: Path, times: *const timespec, flags: c_int) -> c_int;
    ENOENT: linkat(folder: c_int, old: Path, new_folder: c_int, new: Path, flags: c_int) -> c_int;
    EROFS: mkdir(path: Path, mode: mode_t) -> c_int;
    EROFS: mkfifo(path: Path, mode: mode_t) -> c_int;
    EROFS: symlink(target: Path, path: Path) -> c_int;
    ENOSYS: statx(folder: c_int, path: Path, flags: c_int, mask: c_uint, place: *mut c_void) -> c_int;
    EROFS: fchmod(file: c_int, mode: mode_t) -> c_int;
    EROFS: fchown(file: c_int, user: uid_t, group: gid_t) -> c_int;
    EROFS: futimens(file: c_int, times: *const timespec) -> c_int;
    EINVAL: fsync(file: c_int) -> c_int;
    EINVAL: fdatasync(file: c_int) -> c_int;
    EINVAL: ftruncate64(file: c_int, bytes: off_t) -> c_int;
    EINVAL: flock(file: c_int, operation: c_int) -> c_int;
    EBADF: fstat64(file: c_int, place: *mut libc::stat64) -> c_int;
    ESPIPE: pread64(file: c_int, place: *mut c_void, bytes: usize, offset: off_t) -> ssize_t;
    ESPIPE: pwrite64(file: c_int, place: *const c_void, bytes: usize, offset: off_t) -> ssize_t;
    ESPIPE: preadv(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t;
    ESPIPE: pwritev(file: c_int, pieces: *const iovec, count: c_int, offset: off_t) -> ssize_t;
    ENOSYS: copy_file_range(
        from: c_int, from_offset: *mut off_t, to: c_int, to_offset: *mut off_t, bytes: usize, flags: c_uint
    ) -> ssize_t;
    EINVAL: sendfile64(to: c_int, from: c_int, offset: *mut off_t, bytes: usize) -> ssize_t;
    EINVAL: splice(
        from: c_int, from_offset: *mut off_t, to: c_int, to_offset: *mut off_t, bytes: usize, flags: c_uint
    ) -> ssize_t;
    EBADF: dirfd(folder: *mut DIR) -> c_int;
    EBADF: closedir(folder: *mut DIR) -> c_int;
}

c_functions! {
    /// `ENOENT`, or `EROFS` for a file that is to be made.
    fn open64(_path: Path, flags: c_int, _mode: mode_t) -> c_int {
        fail(if flags & libc::O_CREAT == 0 { libc::ENOENT } else { libc::EROFS })
    }

    /// As [`open64`].
    fn openat64(_folder: c_int, path: Path, flags: c_int, mode: mode_t) -> c_int {
        // SAFETY: the caller's.
        unsafe { open64(path, flags, mode) }
    }

    /// Null and `ENOENT`.
    fn opendir(_path: Path) -> *mut DIR {
        fail::<c_int>(libc::ENOENT);
        ptr::null_mut()
    }

    /// Null and `ENOTDIR`.
    fn fdopendir(_file: c_int) -> *mut DIR {
        fail::<c_int>(libc::ENOTDIR);
        ptr::null_mut()
    }

    /// Null and `EBADF`: no directory can be open.
    fn readdir64(_folder: *mut DIR) -> *mut libc::dirent64 {
        fail::<c_int>(libc::EBADF);
        ptr::null_mut()
    }

    /// Null and `ENOENT`.
    fn realpath(_path: Path, _place: *mut c_char) -> *mut c_char {
        fail::<c_int>(libc::ENOENT);
        ptr::null_mut()
    }

    /// The root directory. Null and `ERANGE` when even that does not fit.
    fn getcwd(place: *mut c_char, bytes: usize) -> *mut c_char {
        // SAFETY: the caller's.
        if !place.is_null() && unsafe { put(place, bytes, &[b"/"]) } {
            return place;
        }
        fail::<c_int>(libc::ERANGE);
        ptr::null_mut()
    }
}
