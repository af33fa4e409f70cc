//! Calls on descriptors of any kind.

use core::ffi::c_void;
use core::slice;

use alloc::vec::Vec;
use hermit_abi::{
    EFAULT, EINVAL, ENOTTY, F_DUPFD, F_GETFD, F_GETFL, F_SETFD, F_SETFL, FD_CLOEXEC, FIONBIO, IOV_MAX, O_APPEND,
    O_NONBLOCK, iovec, stat,
};

use super::descriptors::{self, Errno, Result};
use super::errno::noted;
use crate::thread::Masked;

/// What a call returns for a result that is a number or nothing. An error number is kept, too.
pub(super) fn returned(result: Result<i32>) -> i32 {
    noted(result.unwrap_or_else(|errno: Errno| -errno))
}

/// What a call returns for a size. An error number is kept, too.
pub(super) fn size(result: Result<usize>) -> isize {
    noted(result.map_or_else(|errno| -(errno as isize), |bytes| bytes as isize))
}

/// A caller's bytes. `EFAULT` for a null pointer, unless there are none of them, or a length that no object has.
///
/// # Safety
/// `place` is null or points to `bytes` bytes that can be read while the slice lives.
pub(super) unsafe fn bytes_at<'a>(place: *const u8, bytes: usize) -> Result<&'a [u8]> {
    if bytes == 0 {
        return Ok(&[]);
    }
    if place.is_null() || isize::try_from(bytes).is_err() {
        return Err(EFAULT);
    }
    // SAFETY: the caller's.
    Ok(unsafe { slice::from_raw_parts(place, bytes) })
}

/// Writes: how many bytes. `-EBADF`, `-EFAULT` for a null pointer, or what the object says.
///
/// # Safety
/// `buf` is null or points to `len` readable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_write(fd: i32, buf: *const u8, len: usize) -> isize {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    size(descriptors::get(fd).and_then(|open| open.write(unsafe { bytes_at(buf, len) }?)))
}

/// The caller's descriptions of memory.
///
/// # Safety
/// `iov` is null or points to `count` descriptions.
unsafe fn described<'a>(iov: *const iovec, count: usize) -> Result<&'a [iovec]> {
    if count > IOV_MAX {
        return Err(EINVAL);
    }
    match count {
        0 => Ok(&[]),
        _ if iov.is_null() => Err(EFAULT),
        // SAFETY: the caller's.
        _ => Ok(unsafe { slice::from_raw_parts(iov, count) }),
    }
}

/// Calls `f` with the memory that `descriptions` describe, without allocating for a few.
///
/// # Safety
/// It can be read.
pub(super) unsafe fn with_pieces<R>(descriptions: &[iovec], f: impl FnOnce(&[&[u8]]) -> Result<R>) -> Result<R> {
    const FEW: usize = 16;
    // SAFETY: the caller's.
    let piece = |iovec: &iovec| unsafe { bytes_at(iovec.iov_base.cast(), iovec.iov_len) };
    let mut few: [&[u8]; FEW] = [&[]; FEW];
    if descriptions.len() > FEW {
        let pieces: Vec<&[u8]> = descriptions.iter().map(piece).collect::<Result<_>>()?;
        return f(&pieces);
    }
    for (place, described) in few.iter_mut().zip(descriptions) {
        *place = piece(described)?;
    }
    f(&few[..descriptions.len()])
}

/// Writes several pieces one after the other: how many bytes altogether. Errors as for [`sys_write`].
///
/// # Safety
/// `iov` is null or points to `iovcnt` descriptions of readable memory.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_writev(fd: i32, iov: *const iovec, iovcnt: usize) -> isize {
    let _masked = Masked::new();
    // SAFETY: the caller's.
    size(
        descriptors::get(fd)
            .and_then(|open| unsafe { with_pieces(described(iov, iovcnt)?, |pieces| open.write_pieces(pieces)) }),
    )
}

/// Reads: how many bytes, 0 at the end. Waits for at least one, unless the object is not to wait (`-EAGAIN`). `-EBADF`,
/// `-EFAULT` for a null pointer, or what the object says.
///
/// # Safety
/// `buf` is null or points to `len` writable bytes.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_read(fd: i32, buf: *mut u8, len: usize) -> isize {
    let _masked = Masked::new();
    size(descriptors::get(fd).and_then(|open| {
        if len == 0 {
            return open.read(&mut []);
        }
        if buf.is_null() || isize::try_from(len).is_err() {
            return Err(EFAULT);
        }
        // SAFETY: the caller's.
        unsafe { open.read_raw(buf, len) }
    }))
}

/// Reads into several places one after the other, until one is not filled: how many bytes altogether. Errors as for
/// [`sys_read`].
///
/// # Safety
/// `iov` is null or points to `iovcnt` descriptions of writable memory.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_readv(fd: i32, iov: *const iovec, iovcnt: usize) -> isize {
    let _masked = Masked::new();
    let read = || {
        let open = descriptors::get(fd)?;
        // SAFETY: the caller's.
        let places = unsafe { described(iov, iovcnt) }?;
        let mut total = 0;
        for place in places.iter().filter(|place| place.iov_len > 0) {
            if place.iov_base.is_null() || isize::try_from(place.iov_len).is_err() {
                return if total > 0 { Ok(total) } else { Err(EFAULT) };
            }
            // What has been read must not wait for more.
            if total > 0 && open.readiness() & hermit_abi::POLLIN == 0 {
                break;
            }
            // SAFETY: the caller's.
            match unsafe { open.read_raw(place.iov_base.cast(), place.iov_len) } {
                Ok(bytes) => {
                    total += bytes;
                    if bytes < place.iov_len {
                        break;
                    }
                }
                Err(errno) if total == 0 => return Err(errno),
                Err(_) => break,
            }
        }
        Ok(total)
    };
    size(read())
}

/// Closes a descriptor; what it stands for goes with the last one of it. `-EBADF`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_close(fd: i32) -> i32 {
    let _masked = Masked::new();
    returned(descriptors::close(fd).map(|()| 0))
}

/// Another descriptor of the same object: the lowest that is free. `-EBADF`, `-EMFILE`.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_dup(fd: i32) -> i32 {
    let _masked = Masked::new();
    returned(descriptors::duplicate(fd, 0, false))
}

/// Asks for or sets flags of a descriptor (`F_GETFD`, `F_SETFD`) or of what it stands for (`F_GETFL`, `F_SETFL`:
/// `O_NONBLOCK` and `O_APPEND`), or duplicates it (`F_DUPFD`). `-EBADF`, `-EINVAL` for another command.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_fcntl(fd: i32, cmd: i32, arg: i32) -> i32 {
    let _masked = Masked::new();
    returned(match cmd {
        F_DUPFD => descriptors::duplicate(fd, arg, false),
        F_GETFD => descriptors::close_on_exec(fd).map(|marked| if marked { FD_CLOEXEC } else { 0 }),
        F_SETFD => descriptors::set_close_on_exec(fd, arg & FD_CLOEXEC != 0).map(|()| 0),
        F_GETFL => descriptors::get(fd).map(|open| open.status().flags()),
        F_SETFL => descriptors::get(fd).map(|open| {
            open.status().set(O_NONBLOCK | O_APPEND, arg);
            0
        }),
        _ => descriptors::get(fd).and(Err(EINVAL)),
    })
}

/// `FIONBIO`: whether calls wait. `-ENOTTY` for another request, `-EFAULT` for a null pointer.
///
/// # Safety
/// `argp` is null or points to what the request says.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_ioctl(s: i32, cmd: i32, argp: *mut c_void) -> i32 {
    let _masked = Masked::new();
    returned(descriptors::get(s).and_then(|open| match cmd {
        FIONBIO if argp.is_null() => Err(EFAULT),
        FIONBIO => {
            // SAFETY: the caller's: it is a number.
            let nonblocking = unsafe { argp.cast::<i32>().read() } != 0;
            open.status().set(O_NONBLOCK, if nonblocking { O_NONBLOCK } else { 0 });
            Ok(0)
        }
        _ => Err(ENOTTY),
    }))
}

/// Moves the position of a file and returns it. `-ESPIPE` for what has none.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_lseek(fd: i32, offset: isize, whence: i32) -> isize {
    let _masked = Masked::new();
    let moved = descriptors::get(fd).and_then(|open| open.seek(offset as i64, whence));
    noted(moved.map_or_else(|errno| -(errno as isize), |position| position as isize))
}

/// What there is to know about an open object. `-EBADF`, `-EFAULT` for a null pointer.
///
/// # Safety
/// `stat` is null or points to writable memory.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_fstat(fd: i32, stat: *mut stat) -> i32 {
    let _masked = Masked::new();
    returned(descriptors::get(fd).and_then(|open| {
        let found = open.stat()?;
        if stat.is_null() {
            return Err(EFAULT);
        }
        // SAFETY: the caller's.
        unsafe { stat.write(found) };
        Ok(0)
    }))
}
