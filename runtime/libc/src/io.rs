//! Reading and writing by descriptor, and what there is to say about descriptors.

use core::cell::{Cell, RefCell};
use core::ffi::{c_int, c_long, c_ulong, c_void};

use runtime::sys;

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

/// Whether a descriptor is open.
fn is_open(file: c_int) -> bool {
    (libc::STDIN_FILENO..=libc::STDERR_FILENO).contains(&file)
}

/// Calls `each` for the pieces until one is not done as a whole: how much was done, or the first error.
///
/// # Safety
/// `pieces` points to `count` descriptions of memory that `each` may use.
unsafe fn in_pieces(
    pieces: *const libc::iovec,
    count: c_int,
    mut each: impl FnMut(*mut c_void, usize) -> isize,
) -> isize {
    let Ok(count) = usize::try_from(count) else { return fail(libc::EINVAL) };
    let mut total = 0;
    for index in 0..count {
        // SAFETY: the caller's.
        let libc::iovec { iov_base, iov_len } = unsafe { pieces.add(index).read() };
        if iov_len == 0 {
            continue;
        }
        let done = each(iov_base, iov_len);
        if done < 0 {
            return if total > 0 { total } else { done };
        }
        total += done;
        if done.unsigned_abs() < iov_len {
            break;
        }
    }
    total
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
        if !is_open(file) {
            return fail(libc::EBADF);
        }
        // SAFETY: the caller's.
        unsafe { in_pieces(pieces, count, |place, bytes| write(file, place, bytes)) }
    }

    /// Reads: how many bytes, 0 at the end.
    fn read(file: c_int, place: *mut c_void, bytes: usize) -> isize {
        // SAFETY: the caller's.
        size(unsafe { sys::sys_read(file, place.cast(), bytes) })
    }

    /// Reads into pieces one after the other: how many bytes in all.
    fn readv(file: c_int, pieces: *const libc::iovec, count: c_int) -> isize {
        if !is_open(file) {
            return fail(libc::EBADF);
        }
        // SAFETY: the caller's.
        unsafe { in_pieces(pieces, count, |place, bytes| read(file, place, bytes)) }
    }

    /// Closes a descriptor. The console stays open whoever closes it.
    fn close(file: c_int) -> c_int {
        if is_open(file) { 0 } else { fail(libc::EBADF) }
    }

    /// Whether a descriptor is open, and its flags; flags that change nothing are taken.
    fn fcntl(file: c_int, command: c_int, _argument: c_long) -> c_int {
        match command {
            _ if !is_open(file) => fail(libc::EBADF),
            libc::F_GETFD | libc::F_SETFD | libc::F_SETFL => 0,
            libc::F_GETFL => libc::O_RDWR,
            _ => fail(libc::EINVAL),
        }
    }

    /// `ENOTTY`: the console is no terminal.
    fn ioctl(file: c_int, _request: c_ulong, _argument: *mut c_void) -> c_int {
        fail(if is_open(file) { libc::ENOTTY } else { libc::EBADF })
    }

    /// Whether a descriptor is a terminal: none is.
    fn isatty(file: c_int) -> c_int {
        fail::<c_int>(if is_open(file) { libc::ENOTTY } else { libc::EBADF });
        0
    }

    /// What can be done with descriptors now: the console can always be written to. Waits, for at most `timeout_ms`, if that
    /// is all that is asked.
    fn poll(files: *mut libc::pollfd, count: libc::nfds_t, timeout_ms: c_int) -> c_int {
        let mut ready = 0;
        for index in 0..count as usize {
            // SAFETY: the caller's.
            let entry = unsafe { &mut *files.add(index) };
            entry.revents = match entry.fd {
                ..0 => 0,
                libc::STDOUT_FILENO | libc::STDERR_FILENO => entry.events & libc::POLLOUT,
                libc::STDIN_FILENO => 0,
                _ => libc::POLLNVAL,
            };
            ready += c_int::from(entry.revents != 0);
        }
        if ready == 0 && timeout_ms != 0 {
            let us = u64::try_from(timeout_ms).map_or(u64::MAX, |ms| ms * 1000);
            sys::sys_usleep(us);
        }
        result(ready)
    }

    /// The console has no positions: `ESPIPE`.
    fn lseek64(file: c_int, _offset: i64, _whence: c_int) -> i64 {
        fail(if is_open(file) { libc::ESPIPE } else { libc::EBADF })
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
