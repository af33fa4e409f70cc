use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use super::futex::{Waited, wait, wake};
use super::{JoinError, block_on, current, detach, is_thread, join, spawn, yield_now};
use crate::host::{Boundary, End, Setup, World, run};
use crate::sync::oneshot;
use crate::time::{Duration, Instant, sleep};

pub(crate) const STACK_BYTES: usize = 64 * 1024;

/// Time passes, and nothing else happens.
struct Nobody;

impl World for Nobody {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        boundary.set_now_ns(boundary.deadline_ns());
    }
}

/// Runs `main` as the first thread.
pub(crate) fn on_a_thread<T: 'static>(main: impl FnOnce() -> T + 'static) -> T {
    let outcome = run(&Setup::default(), &Rc::new(RefCell::new(Nobody)), || async {
        let (result, done) = oneshot::channel();
        spawn(STACK_BYTES, move || drop(result.send(main()))).expect("a thread");
        done.await
    });
    match outcome.end {
        End::Returned(result) => result.expect("the thread has ended"),
        other => panic!("expected a result, the program ended otherwise: {}", matches!(other, End::Stuck)),
    }
}

#[test]
fn threads_run_in_the_order_of_their_start_and_take_turns() {
    let log = on_a_thread(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let threads: Vec<_> = (0..3)
            .map(|name| {
                let log = Rc::clone(&log);
                let body = move || {
                    for turn in 0..2 {
                        log.borrow_mut().push((name, turn));
                        yield_now();
                    }
                };
                spawn(STACK_BYTES, body).expect("a thread")
            })
            .collect();
        threads.into_iter().for_each(|id| join(id).expect("joined"));
        log.take()
    });
    assert_eq!(log, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]);
}

#[test]
fn a_thread_waits_for_a_time_on_its_own_stack() {
    let (before, after) = on_a_thread(|| {
        let before = Instant::now();
        block_on(sleep(Duration::from_secs(5)));
        (before, Instant::now())
    });
    assert_eq!(after.duration_since(before), Duration::from_secs(5));
}

#[test]
fn a_thread_is_joined_once_and_not_by_itself() {
    on_a_thread(|| {
        let id = spawn(STACK_BYTES, || assert!(is_thread())).expect("a thread");
        assert_eq!(join(id), Ok(()));
        assert_eq!(join(id), Err(JoinError::Unknown));
        assert_eq!(join(current()), Err(JoinError::Itself));
        let detached = spawn(STACK_BYTES, || {}).expect("a thread");
        assert_eq!(detach(detached), Ok(()));
        assert_eq!(join(detached), Err(JoinError::Taken));
        yield_now();
        assert_eq!(join(detached), Err(JoinError::Unknown), "it has ended and nobody will ask for it");
    });
}

#[test]
fn a_futex_wakes_the_longest_waiting_and_only_as_many_as_asked() {
    let woken = on_a_thread(|| {
        let word = 0_u32;
        let address = (&raw const word).addr();
        let woken = Rc::new(RefCell::new(Vec::new()));
        let threads: Vec<_> = (0..4)
            .map(|name| {
                let woken = Rc::clone(&woken);
                let body = move || {
                    let how = wait(address, None);
                    woken.borrow_mut().push((name, how));
                };
                spawn(STACK_BYTES, body).expect("a thread")
            })
            .collect();
        yield_now();
        assert_eq!(wake(address, 2), 2);
        yield_now();
        assert_eq!(woken.borrow().len(), 2);
        assert_eq!(wake(address, usize::MAX), 2);
        threads.into_iter().for_each(|id| join(id).expect("joined"));
        assert_eq!(wake(address, 1), 0, "nobody waits any more");
        woken.take()
    });
    assert_eq!(woken, [0, 1, 2, 3].map(|name| (name, Waited::Woken)));
}

#[test]
fn a_futex_gives_up_at_its_deadline_and_is_forgotten() {
    on_a_thread(|| {
        let start = Instant::now();
        assert_eq!(wait(64, Some(start + Duration::from_millis(3))), Waited::TimedOut);
        assert_eq!(start.elapsed(), Duration::from_millis(3));
        assert_eq!(wake(64, 1), 0);
    });
}

#[test]
fn a_thousand_threads_at_once_end_and_are_joined() {
    let sum = on_a_thread(|| {
        let sum = Rc::new(RefCell::new(0));
        let threads: Vec<_> = (1..=1000)
            .map(|number| {
                let sum = Rc::clone(&sum);
                let body = move || {
                    block_on(sleep(Duration::from_micros(number)));
                    *sum.borrow_mut() += number;
                };
                spawn(16 * 1024, body).expect("a thread")
            })
            .collect();
        threads.into_iter().for_each(|id| join(id).expect("joined"));
        sum.take()
    });
    assert_eq!(sum, 500_500);
}
