//! Timers: futures that complete when the clock has reached a point.
//!
//! Due timers wake their tasks in the order of their deadlines, equal ones in the order in which they were started.

use alloc::collections::BTreeMap;
use core::fmt;
use core::future::Future;
use core::pin::{Pin, pin};
use core::task::{Context, Poll};

use super::EXECUTOR;
use super::waker::Wake;
use crate::time::{Duration, Instant};

/// Names a running timer: its deadline in nanoseconds, and a number that tells equal deadlines apart.
type TimerId = (u64, u64);

/// The running timers.
pub(super) struct Timers {
    running: BTreeMap<TimerId, Wake>,
    started: u64,
}

impl Timers {
    pub(super) const fn new() -> Self {
        Self { running: BTreeMap::new(), started: 0 }
    }

    fn start(&mut self, deadline_ns: u64, wake: Wake) -> TimerId {
        self.started += 1;
        let id = (deadline_ns, self.started);
        self.running.insert(id, wake);
        id
    }

    /// Takes the next timer that is due.
    pub(super) fn pop_due(&mut self, now_ns: u64) -> Option<Wake> {
        let first = self.running.first_entry()?;
        (first.key().0 <= now_ns).then(|| first.remove())
    }

    /// When the next timer is due, or `u64::MAX`.
    pub(super) fn next_ns(&self) -> u64 {
        self.running.first_key_value().map_or(u64::MAX, |(id, _)| id.0)
    }
}

/// Completes when the clock has reached a point; see [`sleep_until`].
#[derive(Debug)]
#[must_use = "a timer does nothing unless it is awaited"]
pub struct Sleep {
    deadline: Instant,
    timer: Option<TimerId>,
}

impl Sleep {
    /// When it completes.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    fn stop(&mut self) {
        if let Some(id) = self.timer.take() {
            EXECUTOR.with(|executor| executor.tables.borrow_mut().timers.running.remove(&id));
        }
    }

    /// Moves the deadline.
    pub fn reset(&mut self, deadline: Instant) {
        self.stop();
        self.deadline = deadline;
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.deadline <= Instant::now() {
            self.stop();
            return Poll::Ready(());
        }
        let wake = Wake::of(context.waker());
        let deadline_ns = self.deadline.as_nanos();
        self.timer = Some(EXECUTOR.with(|executor| {
            let timers = &mut executor.tables.borrow_mut().timers;
            match self.timer.and_then(|id| timers.running.get_mut(&id).map(|stored| (id, stored))) {
                Some((id, stored)) => {
                    *stored = wake;
                    id
                }
                None => timers.start(deadline_ns, wake),
            }
        }));
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until the clock has reached `deadline`.
pub fn sleep_until(deadline: Instant) -> Sleep {
    Sleep { deadline, timer: None }
}

/// Waits this long.
pub fn sleep(duration: Duration) -> Sleep {
    sleep_until(Instant::now() + duration)
}

/// A clock that ticks; see [`interval`].
#[derive(Debug)]
pub struct Interval {
    sleep: Sleep,
    period: Duration,
}

impl Interval {
    /// Waits for the next tick and returns when it was due. Ticks that were missed are left out.
    pub async fn tick(&mut self) -> Instant {
        let due = self.sleep.deadline();
        Pin::new(&mut self.sleep).await;
        let now = Instant::now();
        let late_periods = (now - due).as_nanos() / self.period.as_nanos().max(1);
        let skip = u64::try_from(late_periods + 1).unwrap_or(u64::MAX);
        let period_ns = u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.sleep.reset(due + Duration::from_nanos(period_ns.saturating_mul(skip)));
        due
    }
}

/// Ticks every `period`, the first time one period from now. A period of zero is taken as one nanosecond.
pub fn interval(period: Duration) -> Interval {
    Interval { sleep: sleep(period), period }
}

/// The time was over before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the time limit was reached first")
    }
}

impl core::error::Error for Elapsed {}

/// Awaits `future` for at most `limit`.
pub async fn timeout<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = sleep(limit);
    core::future::poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        Pin::new(&mut sleep).poll(context).map(|()| Err(Elapsed))
    })
    .await
}
