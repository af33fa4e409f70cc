//! A timer finer than a poll's timeout, which counts in milliseconds.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::token;

/// Wakes the loop once.
#[derive(Debug)]
pub struct Pacer {
    fd: OwnedFd,
    armed: bool,
}

impl Pacer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// The system's.
    pub fn new(registry: &Registry) -> io::Result<Self> {
        let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&fd.as_raw_fd()), Token(token::PACER), Interest::READABLE)?;
        Ok(Self { fd, armed: false })
    }

    /// Wakes the loop after this time, unless it is to be woken already.
    pub fn set(&mut self, after_ns: u64) {
        if self.armed {
            return;
        }
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let after =
            Timespec { tv_sec: (after_ns / 1_000_000_000) as i64, tv_nsec: (after_ns % 1_000_000_000).max(1) as i64 };
        let time = Itimerspec { it_interval: zero, it_value: after };
        // It cannot fail for a valid time; if it did, the next event would do what the timer should.
        self.armed = timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &time).is_ok();
    }

    /// The timer has fired.
    pub fn clear(&mut self) {
        self.armed = false;
    }
}
