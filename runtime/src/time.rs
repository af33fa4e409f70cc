//! The clock. It stands still during an epoch, so reading it is a load.

use core::fmt;
use core::ops::{Add, AddAssign, Sub};
use core::ptr;

pub use core::time::Duration;

use hypercall::layout::SharedPage;

use crate::platform;

pub use crate::executor::timers::{Elapsed, Interval, Sleep, interval, sleep, sleep_until, timeout};

/// A point on the monotonic clock: nanoseconds since the guest started, failovers included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant {
    ns: u64,
}

#[inline]
fn shared_page() -> Option<*const SharedPage> {
    platform::boot().map(|boot| boot.shared_page as *const SharedPage)
}

/// Nanoseconds on the monotonic clock; 0 before the guest has started.
#[inline]
pub(crate) fn monotonic_ns() -> u64 {
    // SAFETY: the shim keeps the page mapped and readable; volatile because the shim changes it between epochs.
    shared_page().map_or(0, |page| unsafe { ptr::read_volatile(&raw const (*page).monotonic_ns) })
}

/// Nanoseconds since 1970-01-01T00:00:00Z; 0 before the guest has started.
#[inline]
pub(crate) fn realtime_ns() -> u64 {
    // SAFETY: as above.
    shared_page().map_or(0, |page| unsafe { ptr::read_volatile(&raw const (*page).realtime_ns) })
}

/// The number of the running epoch. Equal in both replicas at the same instruction.
#[inline]
pub fn epoch() -> u64 {
    // SAFETY: as above.
    shared_page().map_or(0, |page| unsafe { ptr::read_volatile(&raw const (*page).epoch) })
}

impl Instant {
    /// The start of the running epoch.
    #[inline]
    pub fn now() -> Self {
        Self { ns: monotonic_ns() }
    }

    /// The instant this many nanoseconds after the guest's start.
    #[inline]
    pub const fn from_nanos(ns: u64) -> Self {
        Self { ns }
    }

    /// Nanoseconds since the guest's start.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.ns
    }

    /// Whole milliseconds since the guest's start.
    #[inline]
    pub const fn as_millis(self) -> u64 {
        self.ns / 1_000_000
    }

    /// Time since `earlier`; zero if that lies in the future.
    pub const fn duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.ns.saturating_sub(earlier.ns))
    }

    /// Time from this instant until now; zero if it lies in the future.
    pub fn elapsed(self) -> Duration {
        Self::now().duration_since(self)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates: the end of the clock, 584 years after the start, is never reached.
    fn add(self, duration: Duration) -> Self {
        Self { ns: self.ns.saturating_add(nanos(duration)) }
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self { ns: self.ns.saturating_sub(nanos(duration)) }
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

/// A point on the wall clock, as the shim gives it: the same in both replicas, but it may be set back or forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemTime {
    ns: u64,
}

impl SystemTime {
    /// The wall clock at the start of the running epoch.
    pub fn now() -> Self {
        Self { ns: realtime_ns() }
    }

    /// Time since 1970-01-01T00:00:00Z.
    pub const fn since_unix_epoch(self) -> Duration {
        Duration::from_nanos(self.ns)
    }

    /// Whole milliseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_millis(self) -> u64 {
        self.ns / 1_000_000
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09} s", self.ns / 1_000_000_000, self.ns % 1_000_000_000)
    }
}
