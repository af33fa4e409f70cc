//! Texts.

use core::ffi::{c_char, c_int};

/// The messages of the C library of Linux for the numbers that this one gives, so that what a program prints is the same.
fn message(errno: c_int) -> Option<&'static str> {
    Some(match errno {
        0 => "Success",
        libc::EPERM => "Operation not permitted",
        libc::ENOENT => "No such file or directory",
        libc::ESRCH => "No such process",
        libc::EINTR => "Interrupted system call",
        libc::EIO => "Input/output error",
        libc::E2BIG => "Argument list too long",
        libc::EBADF => "Bad file descriptor",
        libc::ECHILD => "No child processes",
        libc::EAGAIN => "Resource temporarily unavailable",
        libc::ENOMEM => "Cannot allocate memory",
        libc::EACCES => "Permission denied",
        libc::EFAULT => "Bad address",
        libc::EBUSY => "Device or resource busy",
        libc::EEXIST => "File exists",
        libc::ENODEV => "No such device",
        libc::ENOTDIR => "Not a directory",
        libc::EISDIR => "Is a directory",
        libc::EINVAL => "Invalid argument",
        libc::EMFILE => "Too many open files",
        libc::ENOTTY => "Inappropriate ioctl for device",
        libc::EFBIG => "File too large",
        libc::ENOSPC => "No space left on device",
        libc::ESPIPE => "Illegal seek",
        libc::EROFS => "Read-only file system",
        libc::EPIPE => "Broken pipe",
        libc::ERANGE => "Numerical result out of range",
        libc::EDEADLK => "Resource deadlock avoided",
        libc::ENAMETOOLONG => "File name too long",
        libc::ENOSYS => "Function not implemented",
        libc::ENOTSOCK => "Socket operation on non-socket",
        libc::EDESTADDRREQ => "Destination address required",
        libc::EMSGSIZE => "Message too long",
        libc::ENOPROTOOPT => "Protocol not available",
        libc::EPROTONOSUPPORT => "Protocol not supported",
        libc::EOPNOTSUPP => "Operation not supported",
        libc::EAFNOSUPPORT => "Address family not supported by protocol",
        libc::EADDRINUSE => "Address already in use",
        libc::EADDRNOTAVAIL => "Cannot assign requested address",
        libc::ENETUNREACH => "Network is unreachable",
        libc::ECONNABORTED => "Software caused connection abort",
        libc::ECONNRESET => "Connection reset by peer",
        libc::ENOBUFS => "No buffer space available",
        libc::EISCONN => "Transport endpoint is already connected",
        libc::ENOTCONN => "Transport endpoint is not connected",
        libc::ETIMEDOUT => "Connection timed out",
        libc::ECONNREFUSED => "Connection refused",
        libc::ESOCKTNOSUPPORT => "Socket type not supported",
        libc::EHOSTUNREACH => "No route to host",
        libc::EALREADY => "Operation already in progress",
        libc::EINPROGRESS => "Operation now in progress",
        _ => return None,
    })
}

/// Puts as much of the pieces as fits, and a zero, at `place`. Returns whether all fitted.
///
/// # Safety
/// `bytes` bytes can be written at `place`.
pub(crate) unsafe fn put(place: *mut c_char, bytes: usize, pieces: &[&[u8]]) -> bool {
    let Some(room) = bytes.checked_sub(1) else { return false };
    let wanted: usize = pieces.iter().map(|piece| piece.len()).sum();
    let text = pieces.iter().copied().flatten().take(room);
    let mut used = 0;
    for byte in text {
        // SAFETY: less than `bytes`.
        unsafe { place.add(used).write(*byte as c_char) };
        used += 1;
    }
    // SAFETY: at most the last of them.
    unsafe { place.add(used).write(0) };
    wanted <= room
}

c_functions! {
    /// The message of an error number. `ERANGE` when it does not fit; it is cut then.
    fn __xpg_strerror_r(errno: c_int, place: *mut c_char, bytes: usize) -> c_int {
        // SAFETY: the caller's.
        let fits = unsafe {
            match message(errno) {
                Some(text) => put(place, bytes, &[text.as_bytes()]),
                None => {
                    let (digits, used) = decimal(errno.unsigned_abs());
                    let sign: &[u8] = if errno < 0 { b"-" } else { b"" };
                    put(place, bytes, &[b"Unknown error ", sign, &digits[digits.len() - used..]])
                }
            }
        };
        if fits { 0 } else { libc::ERANGE }
    }

    /// Bytes of a text without its end, `limit` if that is further.
    fn strnlen(text: *const c_char, limit: usize) -> usize {
        // SAFETY: the caller's; no byte beyond the first zero is read.
        (0..limit).find(|at| unsafe { *text.add(*at) } == 0).unwrap_or(limit)
    }
}

/// The digits of a number, at the end of an array, and how many they are.
fn decimal(mut number: u32) -> ([u8; 10], usize) {
    let mut digits = [b'0'; 10];
    let mut used = 0;
    while number > 0 || used == 0 {
        used += 1;
        digits[10 - used] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    (digits, used)
}

#[cfg(test)]
mod tests {
    use core::ffi::CStr;

    use super::*;

    fn text(errno: c_int, bytes: usize) -> (c_int, alloc::string::String) {
        let mut place = [1; 64];
        // SAFETY: `bytes` is at most the array's length.
        let result = unsafe { __xpg_strerror_r(errno, place.as_mut_ptr(), bytes) };
        // SAFETY: it was given a text with its end.
        (result, unsafe { CStr::from_ptr(place.as_ptr()) }.to_str().expect("UTF-8").into())
    }

    #[test]
    fn messages_are_those_of_the_host() {
        for errno in 0..140 {
            if message(errno).is_none() {
                continue;
            }
            let mut place = [0; 128];
            // SAFETY: the place has that length.
            let result = unsafe { libc::strerror_r(errno, place.as_mut_ptr(), place.len()) };
            assert_eq!(result, 0);
            // SAFETY: the host's library has put a text there.
            let theirs = unsafe { CStr::from_ptr(place.as_ptr()) }.to_str().expect("UTF-8");
            assert_eq!(message(errno), Some(theirs), "{errno}");
        }
        assert_eq!(text(12345, 64), (0, "Unknown error 12345".into()));
        assert_eq!(text(-7, 64), (0, "Unknown error -7".into()));
        assert_eq!(text(libc::ENOENT, 8), (libc::ERANGE, "No such".into()));
    }
}
