//! Reading and writing by descriptor, and what there is to say about descriptors.

use core::cell::{Cell, RefCell};
use core::ffi::{c_int, c_long, c_ulong, c_void};

use runtime::sys::{self, descriptors};

use crate::errno::{fail, result, size};

/// What a program has written to standard error last: when it aborts, that is why.
struct LastWords {
    bytes: RefCell<[u8; Self::BYTES]>,
    used: Cell<usize>,
}

// SAFETY: threads of a program take turns where they wait, and nothing here waits.
unsafe impl Sync for LastWords {}

static LAST_WORDS: LastWords = LastWords { bytes: RefCell::new([0; LastWords::BYTES]), used: Cell::new(0) };

impl LastWords {
    const BYTES: usize = 1024;

    fn add(&self, text: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        let text = &text[text.len().saturating_sub(Self::BYTES)..];
        let kept = self.used.get().min(Self::BYTES - text.len());
        let start = self.used.get() - kept;
        bytes.copy_within(start..start + kept, 0);
        bytes[kept..kept + text.len()].copy_from_slice(text);
        self.used.set(kept + text.len());
    }
}

/// Calls `f` with what was written to standard error last, from the beginning of a panic's message if there is one.
pub(crate) fn with_last_words<R>(f: impl FnOnce(&[u8]) -> R) -> R {
    let bytes = LAST_WORDS.bytes.borrow();
    let words = &bytes[..LAST_WORDS.used.get()];
    let start = words.windows(8).rposition(|window| window == b"\nthread ").map_or(0, |at| at + 1);
    f(&words[start..])
}

/// # Safety
/// `bytes` bytes can be read at `place`.
unsafe fn note_last_words(file: c_int, place: *const c_void, written: isize) {
    if let (libc::STDERR_FILENO, Ok(bytes)) = (file, usize::try_from(written)) {
        // SAFETY: the caller's; no more than that was written.
        LAST_WORDS.add(unsafe { core::slice::from_raw_parts(place.cast(), bytes) });
    }
}

c_functions! {
    /// Writes: how many bytes.
    fn write(file: c_int, place: *const c_void, bytes: usize) -> isize {
        // SAFETY: the caller's.
        unsafe {
            let written = size(sys::sys_write(file, place.cast(), bytes));
            note_last_words(file, place, written);
            written
        }
    }

    /// Writes pieces one after the other: how many bytes in all.
    fn writev(file: c_int, pieces: *const libc::iovec, count: c_int) -> isize {
        let Ok(count) = usize::try_from(count) else { return fail(libc::EINVAL) };
        // SAFETY: the caller's; both have the same layout.
        let written = size(unsafe { sys::sys_writev(file, pieces.cast(), count) });
        if file == libc::STDERR_FILENO && written > 0 {
            let mut left = written.unsigned_abs();
            for index in 0..count {
                // SAFETY: the caller's; no more than was written is looked at.
                unsafe {
                    let piece = pieces.add(index).read();
                    let bytes = piece.iov_len.min(left);
                    note_last_words(file, piece.iov_base, bytes as isize);
                    left -= bytes;
                }
            }
        }
        written
    }

    /// Reads: how many bytes, 0 at the end.
    fn read(file: c_int, place: *mut c_void, bytes: usize) -> isize {
        // SAFETY: the caller's.
        size(unsafe { sys::sys_read(file, place.cast(), bytes) })
    }

    /// Reads into pieces one after the other: how many bytes in all.
    fn readv(file: c_int, pieces: *const libc::iovec, count: c_int) -> isize {
        let Ok(count) = usize::try_from(count) else { return fail(libc::EINVAL) };
        // SAFETY: the caller's; both have the same layout.
        size(unsafe { sys::sys_readv(file, pieces.cast(), count) })
    }

    /// Closes a descriptor.
    fn close(file: c_int) -> c_int {
        result(sys::sys_close(file))
    }

    /// Another descriptor of the same: the lowest that is free.
    fn dup(file: c_int) -> c_int {
        result(sys::sys_dup(file))
    }

    /// Makes `place` another descriptor of the same.
    fn dup2(file: c_int, place: c_int) -> c_int {
        result(descriptors::duplicate_to(file, place, false).unwrap_or_else(|errno| -errno))
    }

    /// As [`dup2`], with flags; `EINVAL` for equal descriptors.
    fn dup3(file: c_int, place: c_int, flags: c_int) -> c_int {
        if file == place || flags & !libc::O_CLOEXEC != 0 {
            return fail(libc::EINVAL);
        }
        let marked = flags & libc::O_CLOEXEC != 0;
        result(descriptors::duplicate_to(file, place, marked).unwrap_or_else(|errno| -errno))
    }

    /// Flags of a descriptor and of what it stands for; duplicates it.
    fn fcntl(file: c_int, command: c_int, pointer: c_long) -> c_int {
        let argument = pointer as c_int;
        match command {
            libc::F_DUPFD_CLOEXEC => {
                result(descriptors::duplicate(file, argument, true).unwrap_or_else(|errno| -errno))
            }
            // The numbers of these and of their flags are the same.
            libc::F_DUPFD | libc::F_GETFD | libc::F_SETFD | libc::F_GETFL | libc::F_SETFL => {
                result(sys::sys_fcntl(file, command, argument))
            }
            // Such a lock belongs to a process, and there is one.
            libc::F_SETLK | libc::F_SETLKW => result(descriptors::get(file).map_or_else(|errno| -errno, |_| 0)),
            libc::F_GETLK => {
                let lock = pointer as *mut libc::flock;
                if lock.is_null() {
                    return fail(libc::EFAULT);
                }
                // SAFETY: the caller's: it points to a description of a lock.
                unsafe { (*lock).l_type = libc::F_UNLCK as _ };
                result(descriptors::get(file).map_or_else(|errno| -errno, |_| 0))
            }
            _ => fail(descriptors::get(file).map_or(libc::EBADF, |_| libc::EINVAL)),
        }
    }

    /// `FIONBIO`: whether calls wait; `FIOCLEX`, `FIONCLEX`: the mark of the descriptor. `ENOTTY` for all else: no terminal.
    fn ioctl(file: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
        match request {
            // SAFETY: the caller's: it points to a number.
            libc::FIONBIO => result(unsafe { sys::sys_ioctl(file, hermit_abi::FIONBIO, argument) }),
            libc::FIOCLEX => result(sys::sys_fcntl(file, libc::F_SETFD, libc::FD_CLOEXEC)),
            libc::FIONCLEX => result(sys::sys_fcntl(file, libc::F_SETFD, 0)),
            _ => fail(descriptors::get(file).map_or(libc::EBADF, |_| libc::ENOTTY)),
        }
    }

    /// Whether a descriptor is a terminal: none is.
    fn isatty(file: c_int) -> c_int {
        fail::<c_int>(descriptors::get(file).map_or(libc::EBADF, |_| libc::ENOTTY));
        0
    }

    /// Waits for one of several descriptors, for at most `timeout_ms`, for ever if that is negative: how many are ready.
    fn poll(files: *mut libc::pollfd, count: libc::nfds_t, timeout_ms: c_int) -> c_int {
        // SAFETY: the caller's; both have the same layout and the same bits.
        result(unsafe { sys::sys_poll(files.cast(), count as usize, timeout_ms) })
    }

    /// Moves the position of a file. `ESPIPE` for what has none.
    fn lseek64(file: c_int, offset: i64, whence: c_int) -> i64 {
        size(sys::sys_lseek(file, offset as isize, whence)) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_begin_with_the_last_panic_and_are_bounded() {
        let words = || with_last_words(<[u8]>::to_vec);
        LAST_WORDS.add(b"noise");
        assert_eq!(words(), b"noise");
        LAST_WORDS.add(b"\nthread 'main' panicked");
        LAST_WORDS.add(b" at src/main.rs:1:1:\nno\n");
        assert_eq!(words(), b"thread 'main' panicked at src/main.rs:1:1:\nno\n");
        LAST_WORDS.add(&[b'x'; LastWords::BYTES + 5]);
        assert_eq!(words(), [b'x'; LastWords::BYTES]);
        LAST_WORDS.add(b"end");
        assert_eq!(words().len(), LastWords::BYTES);
        assert!(words().ends_with(b"xend"));
    }

    #[test]
    fn what_is_not_open_is_ebadf() {
        let mut entry = libc::pollfd { fd: 7, events: libc::POLLIN, revents: 0 };
        // SAFETY: all pointers are to variables.
        unsafe {
            let errno = || *crate::errno::__errno_location();
            assert_eq!((close(7), errno()), (-1, libc::EBADF));
            assert_eq!((fcntl(7, libc::F_GETFD, 0), errno()), (-1, libc::EBADF));
            assert_eq!((writev(7, core::ptr::null(), 0), errno()), (-1, libc::EBADF));
            assert_eq!((lseek64(1, 0, 0), errno()), (-1, libc::ESPIPE));
            assert_eq!((poll(&raw mut entry, 1, -1), entry.revents), (1, libc::POLLNVAL));
        }
    }
}
