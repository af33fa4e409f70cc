//! Clocks.

use core::ffi::c_int;

use runtime::sys;

use crate::errno::result;

/// The runtime's number of a clock of Linux.
fn clock(number: c_int) -> Option<c_int> {
    match number {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => Some(hermit_abi::CLOCK_REALTIME),
        libc::CLOCK_MONOTONIC | libc::CLOCK_MONOTONIC_RAW | libc::CLOCK_MONOTONIC_COARSE | libc::CLOCK_BOOTTIME => {
            Some(hermit_abi::CLOCK_MONOTONIC)
        }
        _ => None,
    }
}

/// A time as the runtime wants it; `None` for what is no time.
pub(crate) fn time(time: libc::timespec) -> Option<hermit_abi::timespec> {
    let tv_nsec = i32::try_from(time.tv_nsec).ok().filter(|ns| (0..1_000_000_000).contains(ns))?;
    (time.tv_sec >= 0).then_some(hermit_abi::timespec { tv_sec: time.tv_sec, tv_nsec })
}

/// The time of a clock of the runtime.
fn now(clock: c_int) -> Result<hermit_abi::timespec, c_int> {
    let mut now = hermit_abi::timespec::default();
    // SAFETY: the place is a variable.
    let error = unsafe { sys::sys_clock_gettime(clock, &raw mut now) };
    if error < 0 { Err(-error) } else { Ok(now) }
}

/// What lies between two times; zero if the later one is earlier.
fn between(earlier: hermit_abi::timespec, later: hermit_abi::timespec) -> hermit_abi::timespec {
    let ns = |time: hermit_abi::timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    let difference = (ns(later) - ns(earlier)).max(0);
    let tv_sec = i64::try_from(difference / 1_000_000_000).unwrap_or(i64::MAX);
    hermit_abi::timespec { tv_sec, tv_nsec: (difference % 1_000_000_000) as i32 }
}

c_functions! {
    /// The time of a clock, as it was at the start of the epoch. `EINVAL` for a clock that there is not.
    fn clock_gettime(number: c_int, place: *mut libc::timespec) -> c_int {
        match clock(number).ok_or(libc::EINVAL).and_then(now) {
            Ok(time) => {
                let time = libc::timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec.into() };
                // SAFETY: the caller's.
                unsafe { place.write(time) };
                0
            }
            Err(errno) => result(-errno),
        }
    }

    /// Sleeps for a time, or until one. Returns the error number. Nothing interrupts it, so nothing is left over.
    fn clock_nanosleep(
        number: c_int, flags: c_int, request: *const libc::timespec, _left: *mut libc::timespec,
    ) -> c_int {
        // SAFETY: the caller's.
        let (Some(clock), Some(request)) = (clock(number), time(unsafe { request.read() })) else { return libc::EINVAL };
        let duration = if flags & libc::TIMER_ABSTIME == 0 {
            request
        } else {
            match now(clock) {
                Ok(now) => between(now, request),
                Err(errno) => return errno,
            }
        };
        // SAFETY: the argument is a variable.
        -unsafe { sys::sys_nanosleep(&raw const duration) }
    }

    /// Sleeps. `EINVAL` for what is no time.
    fn nanosleep(request: *const libc::timespec, _left: *mut libc::timespec) -> c_int {
        // SAFETY: the caller's.
        result(-unsafe { clock_nanosleep(libc::CLOCK_MONOTONIC, 0, request, core::ptr::null_mut()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_apart_and_checked() {
        let linux = |tv_sec, tv_nsec| time(libc::timespec { tv_sec, tv_nsec }).map(|time| (time.tv_sec, time.tv_nsec));
        assert_eq!(linux(3, 999_999_999), Some((3, 999_999_999)));
        assert_eq!((linux(-1, 0), linux(0, -1), linux(0, 1_000_000_000)), (None, None, None));
        let hermit = |tv_sec, tv_nsec| hermit_abi::timespec { tv_sec, tv_nsec };
        let distance = |a, b| {
            let between = between(a, b);
            (between.tv_sec, between.tv_nsec)
        };
        assert_eq!(distance(hermit(1, 999_999_999), hermit(3, 0)), (1, 1));
        assert_eq!(distance(hermit(3, 0), hermit(1, 0)), (0, 0));
        assert_eq!(distance(hermit(0, 0), hermit(i64::MAX, 5)), (i64::MAX, 5));
    }
}
