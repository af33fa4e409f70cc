//! Waiting for one of several descriptors.

use core::future::poll_fn;
use core::slice;
use core::task::Poll;

use hermit_abi::{EFAULT, EINVAL, POLLNVAL, nfds_t, pollfd};

use super::descriptors::{self, MOST_DESCRIPTORS, Result};
use super::io::returned;
use super::signal::ALWAYS;
use super::wait::block_on_until;
use crate::thread::{self, Masked};
use crate::time::{Duration, Instant};

/// Says for each descriptor what it is ready for, out of what is asked: how many are ready for something.
fn look(entries: &mut [pollfd]) -> usize {
    let mut ready = 0;
    for entry in entries {
        entry.revents = match (entry.fd, descriptors::get(entry.fd)) {
            (..0, _) => 0,
            (_, Ok(open)) => open.readiness() & (entry.events | ALWAYS),
            (_, Err(_)) => POLLNVAL,
        };
        ready += usize::from(entry.revents != 0);
    }
    ready
}

/// Waits until one of `entries` is ready, or the deadline has come: how many are.
pub fn poll(entries: &mut [pollfd], deadline: Option<Instant>) -> usize {
    let ready = look(entries);
    if ready > 0 {
        return ready;
    }
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        thread::look_in_vain();
        return 0;
    }
    let some = poll_fn(|context| {
        let ready = look(entries);
        if ready > 0 {
            return Poll::Ready(ready);
        }
        for entry in &*entries {
            if let Ok(open) = descriptors::get(entry.fd)
                && let Some(signal) = open.signal()
            {
                signal.register(context.waker(), entry.events);
            }
        }
        Poll::Pending
    });
    block_on_until(deadline, some).unwrap_or(0)
}

/// When a wait of so many milliseconds is over; never for a negative number.
pub fn deadline_ms(timeout_ms: i32) -> Option<Instant> {
    u64::try_from(timeout_ms).ok().map(|ms| Instant::now() + Duration::from_millis(ms))
}

/// Waits for at most `timeout` milliseconds, for ever if it is negative, until one of the descriptors is ready for what its
/// entry asks: how many are. One that is not open is ready (`POLLNVAL`); one below 0 is passed over. `-EFAULT` for a null
/// pointer, `-EINVAL` for more entries than there can be descriptors.
///
/// # Safety
/// `fds` is null or points to `nfds` entries.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub unsafe extern "C" fn sys_poll(fds: *mut pollfd, nfds: nfds_t, timeout: i32) -> i32 {
    let _masked = Masked::new();
    let entries = || -> Result<&mut [pollfd]> {
        match nfds {
            0 => Ok(&mut []),
            _ if nfds > MOST_DESCRIPTORS => Err(EINVAL),
            _ if fds.is_null() => Err(EFAULT),
            // SAFETY: the caller's.
            _ => Ok(unsafe { slice::from_raw_parts_mut(fds, nfds) }),
        }
    };
    returned(entries().map(|entries| poll(entries, deadline_ms(timeout)) as i32))
}
