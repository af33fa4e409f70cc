//! Epolls, counters and pipes.

use core::ffi::{c_int, c_uint, c_void};

use runtime::sys::descriptors::{self, Result};
use runtime::sys::epoll::{Epoll, Interest};
use runtime::sys::{events, poll, sys_eventfd};

use crate::errno::{fail, result};

fn returned(outcome: Result<c_int>) -> c_int {
    result(outcome.unwrap_or_else(|errno| -errno))
}

/// Bits of an interest that say how it is told, not what.
const WAYS: u32 = (libc::EPOLLET | libc::EPOLLONESHOT | libc::EPOLLWAKEUP | libc::EPOLLEXCLUSIVE) as u32;

fn interest(event: libc::epoll_event) -> Interest {
    let events = event.events;
    Interest {
        // What is left are the bits of poll(2), which fit.
        events: (events & !WAYS) as i16,
        edge: events & libc::EPOLLET as u32 != 0,
        once: events & libc::EPOLLONESHOT as u32 != 0,
        data: event.u64,
    }
}

c_functions! {
    /// Something that watches descriptors. `EINVAL` for a flag that there is not.
    fn epoll_create1(flags: c_int) -> c_int {
        if flags & !libc::EPOLL_CLOEXEC != 0 {
            return fail(libc::EINVAL);
        }
        returned(descriptors::open(Epoll::new(), flags != 0))
    }

    /// As [`epoll_create1`] without flags.
    fn epoll_create(size: c_int) -> c_int {
        if size <= 0 {
            return fail(libc::EINVAL);
        }
        returned(descriptors::open(Epoll::new(), false))
    }

    /// Begins or ends to watch a descriptor, or changes what is to be told.
    fn epoll_ctl(epoll: c_int, operation: c_int, file: c_int, event: *mut libc::epoll_event) -> c_int {
        let control = || {
            let epoll = descriptors::get_as::<Epoll>(epoll, libc::EINVAL)?;
            if operation == libc::EPOLL_CTL_DEL {
                return epoll.remove(file);
            }
            if event.is_null() {
                return Err(libc::EFAULT);
            }
            // SAFETY: the caller's.
            let interest = interest(unsafe { event.read_unaligned() });
            match operation {
                libc::EPOLL_CTL_ADD => epoll.add(file, interest),
                libc::EPOLL_CTL_MOD => epoll.change(file, interest),
                _ => Err(libc::EINVAL),
            }
        };
        returned(control().map(|()| 0))
    }

    /// Waits for at most `timeout_ms`, for ever if that is negative, until something that is watched is ready: how many
    /// entries were left at `place`.
    fn epoll_wait(epoll: c_int, place: *mut libc::epoll_event, most: c_int, timeout_ms: c_int) -> c_int {
        let wait = || {
            let epoll = descriptors::get_as::<Epoll>(epoll, libc::EINVAL)?;
            let most = usize::try_from(most).map_err(|_| libc::EINVAL)?;
            if place.is_null() {
                return Err(libc::EFAULT);
            }
            let mut used = 0;
            let told = epoll.wait(most, poll::deadline_ms(timeout_ms), &mut |events, data| {
                // SAFETY: the caller's; no more than `most` are told.
                unsafe { place.add(used).write_unaligned(libc::epoll_event { events: events as u16 as u32, u64: data }) };
                used += 1;
            })?;
            Ok(told as c_int)
        };
        returned(wait())
    }

    /// As [`epoll_wait`]: there are no signals that could be let through.
    fn epoll_pwait(
        epoll: c_int, place: *mut libc::epoll_event, most: c_int, timeout_ms: c_int, _signals: *const libc::sigset_t,
    ) -> c_int {
        // SAFETY: the caller's.
        unsafe { epoll_wait(epoll, place, most, timeout_ms) }
    }

    /// A counter that is added to by writing and taken by reading. `EINVAL` for a flag that there is not.
    fn eventfd(start: c_uint, flags: c_int) -> c_int {
        if flags & !(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK | libc::EFD_SEMAPHORE) != 0 {
            return fail(libc::EINVAL);
        }
        let bits = [
            (libc::EFD_CLOEXEC, hermit_abi::EFD_CLOEXEC),
            (libc::EFD_NONBLOCK, hermit_abi::EFD_NONBLOCK),
            (libc::EFD_SEMAPHORE, hermit_abi::EFD_SEMAPHORE),
        ];
        let flags = bits.into_iter().filter(|(linux, _)| flags & linux != 0).fold(0, |all, (_, bit)| all | bit);
        result(sys_eventfd(start.into(), flags))
    }

    /// A pipe: two descriptors.
    fn pipe2(place: *mut c_int, flags: c_int) -> c_int {
        if flags & !(libc::O_CLOEXEC | libc::O_NONBLOCK) != 0 {
            return fail(libc::EINVAL);
        }
        if place.is_null() {
            return fail(libc::EFAULT);
        }
        returned(events::pipe(flags & libc::O_NONBLOCK != 0, flags & libc::O_CLOEXEC != 0).map(|ends| {
            // SAFETY: the caller's.
            unsafe { place.cast::<[c_int; 2]>().write(ends) };
            0
        }))
    }

    /// As [`pipe2`] without flags.
    fn pipe(place: *mut c_int) -> c_int {
        // SAFETY: the caller's.
        unsafe { pipe2(place, 0) }
    }

    /// Waits for one of several descriptors, for at most a time: how many are ready.
    fn ppoll(
        files: *mut libc::pollfd, count: libc::nfds_t, timeout: *const libc::timespec, _signals: *const c_void,
    ) -> c_int {
        // SAFETY: the caller's.
        let timeout_ms = match unsafe { timeout.as_ref() } {
            None => -1,
            Some(timeout) => {
                let ns = i128::from(timeout.tv_sec) * 1_000_000_000 + i128::from(timeout.tv_nsec);
                i32::try_from((ns.max(0) + 999_999) / 1_000_000).unwrap_or(i32::MAX)
            }
        };
        // SAFETY: the caller's.
        unsafe { crate::io::poll(files, count, timeout_ms) }
    }
}
