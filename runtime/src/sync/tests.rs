//! Channels and locks, on the fake shim.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use super::{Mutex, Notify, Semaphore, mpsc, oneshot, watch};
use crate::host::{Boundary, End, Setup, World, run};
use crate::time::{Duration, sleep, timeout};
use crate::{spawn, yield_now};

struct Clock;

impl World for Clock {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        boundary.set_now_ns(boundary.deadline_ns());
    }
}

fn on_machine<T: 'static + core::fmt::Debug>(program: impl AsyncFnOnce() -> T + 'static) -> T {
    let outcome = run(&Setup::default(), &Rc::new(RefCell::new(Clock)), move || async move { program().await });
    match outcome.end {
        End::Returned(value) => value,
        other => panic!("the program did not return but ended as {other:?}"),
    }
}

/// What tasks did, in order.
type Log = Rc<RefCell<Vec<String>>>;

fn note(log: &Log, text: impl Into<String>) {
    log.borrow_mut().push(text.into());
}

#[test]
fn a_queue_keeps_order_and_bounds_its_senders() {
    let received = on_machine(async || {
        let (sender, mut receiver) = mpsc::channel(2);
        for task in 0..3 {
            let sender = sender.clone();
            spawn(async move {
                for value in 0..4 {
                    sender.send(task * 10 + value).await.expect("the receiver is there");
                }
            });
        }
        drop(sender);
        yield_now().await;
        let mut received = vec![];
        while let Some(value) = receiver.recv().await {
            received.push(value);
        }
        received
    });
    for task in 0..3 {
        let of_task: Vec<_> = received.iter().copied().filter(|value| value / 10 == task).collect();
        assert_eq!(of_task, [0, 1, 2, 3].map(|value| task * 10 + value));
    }
    assert_eq!(received.len(), 12);
    assert_eq!(&received[..4], [0, 1, 2, 10], "each gets its turn");
}

#[test]
fn a_queue_without_receiver_refuses_even_those_who_wait() {
    let refused = on_machine(async || {
        let (sender, receiver) = mpsc::channel(1);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Err(mpsc::TrySendError::Full(2)));
        let waiting: Vec<_> = (3..6)
            .map(|value| {
                let sender = sender.clone();
                spawn(async move { sender.send(value).await })
            })
            .collect();
        yield_now().await;
        drop(receiver);
        assert_eq!(sender.try_send(7), Err(mpsc::TrySendError::Closed(7)));
        let mut refused = vec![];
        for handle in waiting {
            refused.push(handle.await.expect("not aborted"));
        }
        refused
    });
    assert_eq!(refused, [3, 4, 5].map(|value| Err(mpsc::SendError(value))));
}

#[test]
fn a_oneshot_carries_its_value_or_the_loss_of_its_sender() {
    on_machine(async || {
        let (sender, receiver) = oneshot::channel();
        spawn(async move { sender.send(5) });
        assert_eq!(receiver.await, Ok(5));
        let (sender, receiver) = oneshot::channel::<u8>();
        spawn(async move { drop(sender) });
        assert_eq!(receiver.await, Err(oneshot::Closed));
        let (sender, receiver) = oneshot::channel();
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.send(9), Err(9));
    });
}

#[test]
fn watchers_see_the_last_value() {
    on_machine(async || {
        let (sender, mut receiver) = watch::channel(0);
        let mut other = receiver.clone();
        let waiting = spawn(async move {
            other.changed().await.expect("a change");
            *other.borrow()
        });
        yield_now().await;
        sender.send(1);
        assert_eq!(sender.send(2), 1);
        assert_eq!(waiting.await, Ok(2));
        assert_eq!((receiver.changed().await, *receiver.borrow()), (Ok(()), 2));
        assert!(timeout(Duration::from_millis(1), receiver.changed()).await.is_err(), "seen already");
        drop(sender);
        assert_eq!(receiver.changed().await, Err(watch::Closed));
    });
}

#[test]
fn locks_are_handed_over_in_order_also_past_those_who_gave_up() {
    let log = Log::default();
    let shared = Rc::clone(&log);
    on_machine(async move || {
        let mutex = Rc::new(Mutex::new(0));
        let guard = mutex.lock().await;
        assert!(mutex.try_lock().is_none());
        let mut handles = vec![];
        for name in ["a", "b", "c"] {
            let (mutex, log) = (Rc::clone(&mutex), Rc::clone(&shared));
            handles.push(spawn(async move {
                *mutex.lock().await += 1;
                note(&log, name);
            }));
        }
        yield_now().await;
        drop(guard);
        // "a" has been woken for the lock but has not run yet: its turn must go to "b".
        handles[0].abort();
        for handle in handles.drain(1..) {
            handle.await.expect("not aborted");
        }
        assert_eq!(*mutex.lock().await, 2);
    });
    assert_eq!(*log.borrow(), ["b", "c"]);
}

#[test]
fn a_late_comer_does_not_overtake() {
    let log = Log::default();
    let shared = Rc::clone(&log);
    on_machine(async move || {
        let semaphore = Rc::new(Semaphore::new(1));
        let permit = semaphore.acquire().await;
        let (waiting, waiting_log) = (Rc::clone(&semaphore), Rc::clone(&shared));
        let first = spawn(async move {
            let _permit = waiting.acquire().await;
            note(&waiting_log, "first");
        });
        yield_now().await;
        drop(permit);
        assert!(semaphore.try_acquire().is_none(), "it belongs to the task that was woken for it");
        let _again = semaphore.acquire().await;
        note(&shared, "late");
        first.await.expect("not aborted");
    });
    assert_eq!(*log.borrow(), ["first", "late"]);
}

#[test]
fn a_bell_is_remembered_once_and_rings_for_all() {
    on_machine(async || {
        let bell = Rc::new(Notify::new());
        bell.notify_one();
        bell.notify_one();
        bell.notified().await;
        assert!(timeout(Duration::from_millis(1), bell.notified()).await.is_err(), "remembered once only");
        let handles: Vec<_> = (0..3)
            .map(|_| {
                let bell = Rc::clone(&bell);
                spawn(async move { bell.notified().await })
            })
            .collect();
        yield_now().await;
        bell.notify_all();
        for handle in handles {
            handle.await.expect("not aborted");
        }
        let slow = Rc::clone(&bell);
        let handle = spawn(async move {
            sleep(Duration::from_millis(2)).await;
            slow.notify_one();
        });
        bell.notified().await;
        handle.await.expect("not aborted");
    });
}
