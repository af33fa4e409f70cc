//! Reading and writing by descriptor, and what there is to say about descriptors.

use core::cell::{Cell, RefCell};
use core::ffi::{c_int, c_long, c_ulong, c_void};

use runtime::sys::{self, descriptors};

use crate::errno::{fail, result, size};

/// What a program has written to standard error last: when it aborts, that is why. The backtraces that `std` has written are left
/// out: a report has one of its own, and they would take the room of the message.
struct LastWords {
    bytes: RefCell<[u8; Self::BYTES]>,
    used: Cell<usize>,
    /// Where the line begins that is being written.
    line: Cell<usize>,
    /// The line before it was one of a backtrace.
    in_backtrace: Cell<bool>,
}

// SAFETY: threads of a program take turns where they wait, and nothing here waits.
unsafe impl Sync for LastWords {}

static LAST_WORDS: LastWords = LastWords::new();

/// How the first line of a backtrace by `std` begins, and the last one of a short one; those between begin with a space.
const BACKTRACE: &[u8] = b"stack backtrace:";
const BACKTRACE_END: &[u8] = b"note: Some details are omitted";

impl LastWords {
    const BYTES: usize = 1024;

    const fn new() -> Self {
        Self {
            bytes: RefCell::new([0; Self::BYTES]),
            used: Cell::new(0),
            line: Cell::new(0),
            in_backtrace: Cell::new(false),
        }
    }

    fn add(&self, text: &[u8]) {
        for piece in text.split_inclusive(|byte| *byte == b'\n') {
            self.add_piece(piece);
            if piece.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    /// Adds a piece of a line.
    fn add_piece(&self, text: &[u8]) {
        let mut bytes = self.bytes.borrow_mut();
        let text = &text[text.len().saturating_sub(Self::BYTES)..];
        let kept = self.used.get().min(Self::BYTES - text.len());
        let start = self.used.get() - kept;
        bytes.copy_within(start..start + kept, 0);
        bytes[kept..kept + text.len()].copy_from_slice(text);
        self.used.set(kept + text.len());
        self.line.set(self.line.get().saturating_sub(start));
    }

    /// Forgets the line that has ended if it is one of a backtrace.
    fn end_line(&self) {
        let bytes = self.bytes.borrow();
        let line = &bytes[self.line.get()..self.used.get()];
        let goes_on = self.in_backtrace.get() && (line.starts_with(b" ") || line.starts_with(BACKTRACE_END));
        self.in_backtrace.set(goes_on || line.starts_with(BACKTRACE));
        if self.in_backtrace.get() {
            self.used.set(self.line.get());
        }
        self.line.set(self.used.get());
    }
}

/// How the message of a panic begins, and where it says that it has happened if a destructor has panicked while another panic unwound:
/// that message is the second one, and says less.
const PANIC: &[u8] = b"\nthread '";
const WITHIN_ANOTHER: &[u8] = b"library/core/src/panicking.rs:";

/// Calls `f` with what was written to standard error last, from the beginning of a panic's message if there is one.
pub(crate) fn with_last_words<R>(f: impl FnOnce(&[u8]) -> R) -> R {
    let bytes = LAST_WORDS.bytes.borrow();
    let words = &bytes[..LAST_WORDS.used.get()];
    f(&words[beginning(words)..])
}

/// Where the last message of a panic begins that is not about another panic.
fn beginning(words: &[u8]) -> usize {
    let messages = || (0..words.len()).rev().filter(|at| words[*at..].starts_with(PANIC));
    let is_about_another = |at: &usize| {
        let line = words[at + 1..].split(|byte| *byte == b'\n').next().unwrap_or_default();
        line.windows(WITHIN_ANOTHER.len()).any(|part| part == WITHIN_ANOTHER)
    };
    let first = messages().find(|at| !is_about_another(at));
    first.or_else(|| messages().next()).map_or(0, |at| at + 1)
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

    fn words_of(last: &LastWords) -> alloc::string::String {
        let words = last.bytes.borrow()[..last.used.get()].to_vec();
        alloc::string::String::from_utf8(words).expect("UTF-8")
    }

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
    fn backtraces_are_no_last_words() {
        let text = "\nthread 'main' (1) panicked at src/main.rs:1:1:\nno\nstack backtrace:\n   0: <code at 0x40000001>\n\
                    \x20  1: <code at 0x40000002>\n             at a.rs:1:2\nnote: Some details are omitted, run with more\nafter\n";
        // `std` writes in pieces, wherever it likes.
        for pieces in [1, 2, 3, 7, text.len()] {
            let last = LastWords::new();
            text.as_bytes().chunks(pieces).for_each(|piece| last.add(piece));
            let expected = "\nthread 'main' (1) panicked at src/main.rs:1:1:\nno\nafter\n";
            assert_eq!(words_of(&last), expected, "in pieces of {pieces}");
        }
        // A long one leaves the message where it is.
        let last = LastWords::new();
        last.add(b"the message\nstack backtrace:\n");
        (0..100).for_each(|_| last.add(b"  12:  0x4000000000000000 - <code at 0x40000001>\n"));
        last.add(b" not one\n 7");
        assert_eq!(words_of(&last), "the message\n 7");
        // What merely looks like it stays.
        let last = LastWords::new();
        last.add(b"  12: twelve\nnote: Some details are omitted\n");
        assert_eq!(words_of(&last), "  12: twelve\nnote: Some details are omitted\n");
        // A line that is longer than all there is room for.
        last.add(&[b'y'; 3 * LastWords::BYTES]);
        last.add(b"\nz");
        assert_eq!(words_of(&last).len(), LastWords::BYTES);
        assert!(words_of(&last).ends_with("y\nz"));
    }

    #[test]
    fn a_panic_about_another_is_not_the_first_word() {
        let (first, second) = (
            "\nthread 'a' (2) panicked at src/main.rs:1:1:\nwhy\n",
            "\nthread 'a' (2) panicked at \
            /rustc/0/library/core/src/panicking.rs:233:5:\npanic in a destructor during cleanup\nthread caused non-unwinding panic. aborting.\n",
        );
        let text = [first, second].concat();
        assert_eq!(beginning(text.as_bytes()), 1);
        assert_eq!(beginning(second.as_bytes()), 1);
        assert_eq!(beginning([second, first].concat().as_bytes()), second.len() + 1);
        assert_eq!((beginning(b"thread 'a' has nothing to say"), beginning(b"")), (0, 0));
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
