//! Order, timers, ends and the epoch's budget, on the fake shim.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::{Context, Poll, Waker};
use std::format;

use super::{Aborted, tasks, yield_now};
use crate::future::{Either, join, join_all, select};
use crate::host::{Boundary, End, Outcome, Setup, World, run};
use crate::spawn;
use crate::time::{Duration, Instant, interval, sleep, sleep_until, timeout};

/// Jumps to each deadline, and notes them.
#[derive(Default)]
struct Clock {
    deadlines_ns: Vec<u64>,
}

impl World for Clock {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        self.deadlines_ns.push(boundary.deadline_ns());
        boundary.set_now_ns(boundary.deadline_ns());
    }
}

fn machine<T: 'static>(program: impl AsyncFnOnce() -> T + 'static) -> (Outcome<T>, Vec<u64>) {
    let world = Rc::new(RefCell::new(Clock::default()));
    let outcome = run(&Setup::default(), &world, move || async move { program().await });
    let deadlines_ns = world.borrow().deadlines_ns.clone();
    (outcome, deadlines_ns)
}

fn on_machine<T: 'static + core::fmt::Debug>(program: impl AsyncFnOnce() -> T + 'static) -> T {
    match machine(program).0.end {
        End::Returned(value) => value,
        other => panic!("the program did not return but ended as {other:?}"),
    }
}

type Log = Rc<RefCell<Vec<String>>>;

fn note(log: &Log, text: impl Into<String>) {
    log.borrow_mut().push(text.into());
}

#[test]
fn tasks_run_in_the_order_of_their_wakes() {
    let order = on_machine(async || {
        let log = Log::default();
        let handles: Vec<_> = (0..3)
            .map(|task| {
                let log = Rc::clone(&log);
                spawn(async move {
                    for round in 0..3 {
                        note(&log, format!("{task}{round}"));
                        yield_now().await;
                    }
                })
            })
            .collect();
        for handle in handles {
            handle.await.expect("not aborted");
        }
        log.take()
    });
    assert_eq!(order, ["00", "10", "20", "01", "11", "21", "02", "12", "22"]);
}

#[test]
fn a_task_is_queued_once_however_often_it_is_woken() {
    let polls = on_machine(async || {
        let polls = Rc::new(Cell::new(0));
        let waker = Rc::new(RefCell::new(None::<Waker>));
        let (counted, place) = (Rc::clone(&polls), Rc::clone(&waker));
        spawn(poll_fn(move |context| {
            counted.set(counted.get() + 1);
            *place.borrow_mut() = Some(context.waker().clone());
            Poll::<()>::Pending
        }));
        yield_now().await;
        for _ in 0..5 {
            waker.borrow().as_ref().expect("polled once").wake_by_ref();
        }
        yield_now().await;
        yield_now().await;
        polls.get()
    });
    assert_eq!(polls, 2);
}

#[test]
fn a_waker_that_outlived_its_task_wakes_nobody() {
    on_machine(async || {
        let waker = Rc::new(RefCell::new(None::<Waker>));
        let place = Rc::clone(&waker);
        let handle = spawn(poll_fn(move |context| {
            *place.borrow_mut() = Some(context.waker().clone());
            Poll::Ready(())
        }));
        handle.await.expect("not aborted");
        // The next task takes the same slot.
        let polls = Rc::new(Cell::new(0));
        let counted = Rc::clone(&polls);
        spawn(poll_fn(move |_| {
            counted.set(counted.get() + 1);
            Poll::<()>::Pending
        }));
        yield_now().await;
        waker.borrow().as_ref().expect("kept").wake_by_ref();
        yield_now().await;
        assert_eq!(polls.get(), 1);
    });
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines_and_then_of_their_start() {
    let (outcome, deadlines_ns) = machine(async || {
        let log = Log::default();
        let handles: Vec<_> = [30, 10, 20, 10, 0]
            .into_iter()
            .enumerate()
            .map(|(task, ms)| {
                let log = Rc::clone(&log);
                spawn(async move {
                    sleep(Duration::from_millis(ms)).await;
                    note(&log, format!("{task} at {}", Instant::now().as_millis()));
                })
            })
            .collect();
        for handle in handles {
            handle.await.expect("not aborted");
        }
        log.take()
    });
    let order = ["4 at 0", "1 at 10", "3 at 10", "2 at 20", "0 at 30"].map(String::from).to_vec();
    assert_eq!(outcome.end, End::Returned(order));
    assert_eq!(deadlines_ns, [10_000_000, 20_000_000, 30_000_000], "an epoch for each deadline and no other");
}

#[test]
fn a_dropped_timer_asks_for_nothing() {
    let (outcome, deadlines_ns) = machine(async || {
        assert_eq!(timeout(Duration::from_millis(5), sleep(Duration::from_secs(5))).await, Err(crate::time::Elapsed));
        assert_eq!(timeout(Duration::from_secs(9), async { 7 }).await, Ok(7));
        sleep(Duration::from_millis(1)).await;
    });
    assert_eq!((outcome.end, deadlines_ns), (End::Returned(()), vec![5_000_000, 6_000_000]));
}

#[test]
fn an_interval_leaves_out_what_it_missed() {
    on_machine(async || {
        let mut ticks = interval(Duration::from_millis(10));
        let mut due = vec![];
        due.push(ticks.tick().await.as_millis());
        sleep_until(Instant::from_nanos(35_000_000)).await;
        due.push(ticks.tick().await.as_millis());
        due.push(ticks.tick().await.as_millis());
        assert_eq!(due, [10, 20, 40]);
        assert_eq!(Instant::now().as_millis(), 40);
    });
}

#[test]
fn aborting_drops_a_task_wherever_it_stands() {
    struct Dropped(Log, &'static str);
    impl Drop for Dropped {
        fn drop(&mut self) {
            note(&self.0, self.1);
        }
    }
    let log = on_machine(async || {
        let log = Log::default();
        let task = |name| {
            let dropped = Dropped(Rc::clone(&log), name);
            spawn(async move {
                let _dropped = dropped;
                sleep(Duration::from_secs(1)).await;
                note(&_dropped.0, "never");
            })
        };
        let queued = task("queued");
        queued.abort();
        let idle = task("idle");
        yield_now().await;
        idle.abort();
        assert_eq!((queued.await, idle.await), (Err(Aborted), Err(Aborted)));
        let own = Rc::new(RefCell::new(None::<crate::JoinHandle<()>>));
        let (place, dropped) = (Rc::clone(&own), Dropped(Rc::clone(&log), "running"));
        *own.borrow_mut() = Some(spawn(async move {
            let _dropped = dropped;
            place.borrow().as_ref().expect("stored").abort();
            note(&_dropped.0, "up to here");
            sleep(Duration::from_secs(1)).await;
        }));
        yield_now().await;
        assert!(own.borrow().as_ref().expect("stored").is_finished());
        assert_eq!(tasks(), 1, "only main is left");
        log.take()
    });
    assert_eq!(log, ["queued", "idle", "up to here", "running"]);
}

#[test]
fn a_busy_program_still_ends_its_epochs() {
    let (outcome, deadlines_ns) = machine(async || {
        let start = crate::time::epoch();
        while crate::time::epoch() < start + 3 {
            yield_now().await;
        }
        super::polls()
    });
    assert_eq!(deadlines_ns, [0, 0, 0], "each is given back at once");
    let End::Returned(polls) = outcome.end else { panic!("it returned") };
    let budget_polls = u64::from(super::EPOCH_BUDGET / super::POLL_COST);
    assert_eq!(polls, 3 * budget_polls + 1);
}

#[test]
fn charged_work_shortens_an_epoch() {
    let (_, deadlines_ns) = machine(async || {
        for _ in 0..10 {
            super::charge(super::EPOCH_BUDGET);
            yield_now().await;
        }
    });
    assert_eq!(deadlines_ns, [0; 10]);
}

#[test]
fn waiting_for_nothing_is_found_out() {
    let (outcome, _) = machine(async || core::future::pending::<()>().await);
    assert_eq!(outcome.end, End::Stuck);
    // The thread can run another machine.
    on_machine(async || assert_eq!(tasks(), 1));
}

#[test]
fn combinators_with_wakers_of_their_own_are_woken_too() {
    struct Relay(Waker, Cell<u32>);
    impl std::task::Wake for Relay {
        fn wake(self: std::sync::Arc<Self>) {
            self.1.set(self.1.get() + 1);
            self.0.wake_by_ref();
        }
    }
    // SAFETY: the test's wakers stay on their thread.
    unsafe impl Sync for Relay {}
    on_machine(async || {
        let mut inner = pin!(sleep(Duration::from_millis(3)));
        let mut relays = vec![];
        poll_fn(|context| {
            let relay = std::sync::Arc::new(Relay(context.waker().clone(), Cell::new(0)));
            relays.push(std::sync::Arc::clone(&relay));
            inner.as_mut().poll(&mut Context::from_waker(&Waker::from(relay)))
        })
        .await;
        assert_eq!(relays[0].1.get(), 1);
        assert_eq!(Instant::now().as_millis(), 3);
    });
}

#[test]
fn several_things_can_be_awaited_at_once() {
    on_machine(async || {
        let after = |ms| async move {
            sleep(Duration::from_millis(ms)).await;
            ms
        };
        assert_eq!(select(after(5), after(3)).await, Either::Second(3));
        assert_eq!(select(async { 1 }, async { 2 }).await, Either::First(1));
        assert_eq!(join(after(2), after(1)).await, (2, 1));
        assert_eq!(join_all([3, 1, 2].map(after)).await, [3, 1, 2]);
        assert_eq!(Instant::now().as_millis(), 8);
    });
}

#[test]
fn console_output_beyond_an_epoch_waits_for_the_next() {
    let (outcome, deadlines_ns) = machine(async || {
        for line in 0..1000 {
            crate::println!("line {line:04} {:0>90}", "");
        }
    });
    let lines: Vec<_> = std::str::from_utf8(&outcome.console).expect("text").lines().collect();
    assert_eq!(lines.len(), 1000);
    assert!(lines.iter().enumerate().all(|(index, line)| line.starts_with(&format!("line {index:04} "))));
    assert_eq!(deadlines_ns.len(), 101 * 1000 / hypercall::layout::CONSOLE_EPOCH_BYTES);
}
