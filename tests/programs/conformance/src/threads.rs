//! Threads and what they have of their own.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::thread::{self, Builder};
use std::time::Duration;

use crate::check;

static DROPPED: AtomicUsize = AtomicUsize::new(0);

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.fetch_add(1, SeqCst);
    }
}

thread_local! {
    static CONSTANT: Cell<u32> = const { Cell::new(7) };
    static LAZY: RefCell<Vec<u32>> = RefCell::new(vec![1, 2, 3]);
    static DROPS: RefCell<Option<Counted>> = const { RefCell::new(None) };
}

#[repr(align(64))]
struct Aligned(Cell<u8>);

thread_local! {
    static ALIGNED: Aligned = const { Aligned(Cell::new(9)) };
}

pub fn run() {
    check("a thread's result", thread::spawn(|| 6 * 7).join().ok());
    let threads: Vec<_> = (0..10).map(|n| thread::spawn(move || n * n)).collect();
    check("ten threads", threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<u32>>());
    let named = Builder::new().name("worker".to_owned()).stack_size(64 * 1024);
    let name = named.spawn(|| thread::current().name().map(str::to_owned)).unwrap().join().unwrap();
    check("names", (name, thread::current().name().map(str::to_owned)));
    check("identities differ", thread::spawn(|| thread::current().id()).join().unwrap() != thread::current().id());
    own_values();
    let mut values = [1, 2, 3];
    let sum = thread::scope(|scope| {
        let (left, right) = values.split_at_mut(1);
        let other = scope.spawn(|| right.iter_mut().map(|value| std::mem::replace(value, 0)).sum::<i32>());
        left[0] += 10;
        other.join().unwrap()
    });
    check("scoped threads", (sum, values));
    let (waiting, parked) = mpsc::channel();
    let sleeper = thread::spawn(move || {
        waiting.send(()).unwrap();
        thread::park();
        "unparked"
    });
    parked.recv().unwrap();
    sleeper.thread().unpark();
    check("park", sleeper.join().unwrap());
    thread::park_timeout(Duration::from_millis(2));
    check("park with a time limit ends", true);
    thread::current().unpark();
    thread::park();
    check("a token given before is kept", true);
    let many: Vec<_> = (0..200).map(|n| Builder::new().stack_size(32 * 1024).spawn(move || n).unwrap()).collect();
    check("two hundred threads", many.into_iter().map(|thread| thread.join().unwrap()).sum::<u32>());
    let one_after_the_other: u32 = (0..1000).map(|_| thread::spawn(|| 1).join().unwrap()).sum();
    check("a thousand threads, one after the other", one_after_the_other);
    check("more stack than there is memory", Builder::new().stack_size(1 << 46).spawn(|| ()).is_err());
}

fn own_values() {
    CONSTANT.set(8);
    LAZY.with_borrow_mut(|values| values.push(4));
    let other = thread::spawn(|| {
        let first = (CONSTANT.get(), LAZY.with_borrow(Vec::len), ALIGNED.with(|value| value.0.get()));
        CONSTANT.set(100);
        DROPS.set(Some(Counted));
        (first, ALIGNED.with(|value| (value as *const Aligned).addr().is_multiple_of(64)))
    });
    check("a thread has values of its own", other.join().unwrap());
    check("others keep theirs", (CONSTANT.get(), LAZY.with_borrow(Clone::clone)));
    check("a thread's values are dropped at its end", DROPPED.load(SeqCst));
}
