//! Locks and everything that waits for other threads.

use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Barrier, Condvar, LazyLock, Mutex, Once, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::check;

const SHORT: Duration = Duration::from_millis(3);

static LAZY: LazyLock<String> = LazyLock::new(|| "made once".to_owned());

pub fn run() {
    mutexes();
    condition_variables();
    let lock = RwLock::new(1);
    {
        let (one, two) = (lock.read().unwrap(), lock.read().unwrap());
        check("readers share", (*one, *two, lock.try_write().is_err()));
    }
    *lock.write().unwrap() = 2;
    check("a writer writes", lock.into_inner().unwrap());
    let (once, count) = (Once::new(), AtomicU32::new(0));
    thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| once.call_once(|| _ = count.fetch_add(1, SeqCst)));
        }
    });
    check("once is once", count.into_inner());
    let cell = OnceLock::new();
    check("once cells", (*cell.get_or_init(|| 3), cell.set(4), cell.get().copied()));
    check("lazy", LAZY.as_str());
    let barrier = Arc::new(Barrier::new(4));
    let waiting: Vec<_> = (0..4)
        .map(|_| {
            let barrier = barrier.clone();
            thread::spawn(move || barrier.wait().is_leader())
        })
        .collect();
    check("a barrier has one leader", waiting.into_iter().map(|t| t.join().unwrap()).filter(|l| *l).count());
    channels();
}

fn mutexes() {
    let total = Arc::new(Mutex::new(0));
    let threads: Vec<_> = (1..=8)
        .map(|n| {
            let total = total.clone();
            thread::spawn(move || {
                for _ in 0..100 {
                    let mut total = total.lock().unwrap();
                    let old = *total;
                    thread::yield_now();
                    *total = old + n;
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    check("a lock is held across a yield", *total.lock().unwrap());
    let held = total.lock().unwrap();
    check("a lock that is held", total.try_lock().is_err());
    drop(held);
    check("a lock that is free", total.try_lock().is_ok());
}

fn condition_variables() {
    let state = Arc::new((Mutex::new(0), Condvar::new()));
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let state = state.clone();
            thread::Builder::new()
                .stack_size(32 * 1024)
                .spawn(move || {
                    let mut count = state.0.lock().unwrap();
                    *count += 1;
                    state.1.notify_all();
                    drop(state.1.wait_while(count, |count| *count < 1000).unwrap());
                })
                .unwrap()
        })
        .collect();
    let mut count = state.1.wait_while(state.0.lock().unwrap(), |count| *count < 100).unwrap();
    check("a hundred threads wait", *count);
    *count = 1000;
    drop(count);
    state.1.notify_all();
    check("and are woken", waiting.into_iter().map(|thread| thread.join().is_ok()).filter(|joined| *joined).count());
    let start = Instant::now();
    let result = state.1.wait_timeout(state.0.lock().unwrap(), SHORT).map(|(_, result)| result).unwrap();
    check("a wait with a time limit", (result.timed_out(), start.elapsed() >= SHORT));
}

fn channels() {
    let (sender, receiver) = mpsc::channel();
    let others = sender.clone();
    thread::spawn(move || (0..3).for_each(|n| others.send(n).unwrap())).join().unwrap();
    check("a channel keeps its order", receiver.try_iter().collect::<Vec<u32>>());
    check("an empty channel", receiver.try_recv());
    check("a channel with a time limit", receiver.recv_timeout(SHORT) == Err(RecvTimeoutError::Timeout));
    drop(sender);
    check("a channel without senders", receiver.recv());
    let (sender, receiver) = mpsc::sync_channel(1);
    let filler = thread::spawn(move || (0..5).for_each(|n| sender.send(n).unwrap()));
    check("a bounded channel holds its sender back", receiver.iter().collect::<Vec<u32>>());
    filler.join().unwrap();
}
