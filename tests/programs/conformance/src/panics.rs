//! Panics: what they unwind, who catches them, what others see of them.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, Once, RwLock, mpsc};
use std::thread;

use crate::check;

/// What a panic has said.
fn said(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "something else".to_owned())
}

/// Notes its name when it is dropped.
struct Noting<'a>(&'a RefCell<Vec<&'static str>>, &'static str);

impl Drop for Noting<'_> {
    fn drop(&mut self) {
        self.0.borrow_mut().push(if thread::panicking() { self.1 } else { "dropped without a panic" });
    }
}

pub fn run() {
    // Nothing of what the usual hook prints is the same everywhere.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    caught();
    across_threads();
    check("a panic is told to the hook", told());
    panic::set_hook(hook);
}

fn caught() {
    check("no panic", catch_unwind(|| 5).ok());
    check("a text", catch_unwind(|| panic!("plain")).map_err(said));
    check("a formatted text", catch_unwind(|| panic!("number {}", 7)).map_err(said));
    check("a value", catch_unwind(|| panic_any(17_u64)).map_err(|value| value.downcast_ref::<u64>().copied()));
    let index = std::hint::black_box(7);
    check("an index", catch_unwind(|| [1, 2, 3][index]).map_err(said));
    check("an overflow", catch_unwind(|| u8::try_from(300 + index).unwrap()).map_err(said));
    check("a division", catch_unwind(|| 1 / (index - 7)).map_err(said));
    check("a missing value", catch_unwind(|| None::<u8>.expect("there is one")).map_err(said));
    check(
        "a borrow",
        catch_unwind(|| {
            let cell = RefCell::new(1);
            let _borrowed = cell.borrow_mut();
            *cell.borrow()
        })
        .map_err(said)
        .is_err(),
    );
    let order = RefCell::new(Vec::new());
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _first = Noting(&order, "first");
        let _second = Noting(&order, "second");
        nested(&order, 3);
    }));
    check("what lies on the way is dropped", (result.map_err(said), order.take()));
    let again = catch_unwind(|| resume_unwind(catch_unwind(|| panic!("inner")).unwrap_err()));
    check("a panic goes on", again.map_err(said));
    let within = catch_unwind(|| catch_unwind(|| panic!("deep")).map_err(said).unwrap_err() + " and out");
    check("a panic within another's catch", within.map_err(said));
    check("nobody panics now", thread::panicking());
    let deep = catch_unwind(|| recurse(500));
    check("out of five hundred calls", deep.map_err(said));
    let iterated = catch_unwind(|| (0..10).map(|n| if n == 7 { panic!("at {n}") } else { n }).sum::<i32>());
    check("out of an iterator", iterated.map_err(said));
    let sorted = catch_unwind(|| {
        let mut words = vec!["c", "a", "b"];
        words.sort_by(|_, _| panic!("no order"));
    });
    check("out of a sort", sorted.map_err(said));
}

#[inline(never)]
fn nested(order: &RefCell<Vec<&'static str>>, depth: u32) {
    let _here = Noting(order, "nested");
    if depth == 0 {
        panic!("at the bottom");
    }
    nested(order, depth - 1);
}

#[inline(never)]
fn recurse(depth: u32) -> u32 {
    if depth == 0 { panic!("deep down") } else { 1 + recurse(std::hint::black_box(depth - 1)) }
}

fn across_threads() {
    let joined = thread::spawn(|| {
        if std::hint::black_box(true) {
            panic!("in a thread")
        }
    })
    .join();
    check("a thread that has panicked", joined.map_err(said));
    let lock = Arc::new(Mutex::new(1));
    let held = lock.clone();
    let _ = thread::spawn(move || {
        let mut value = held.lock().unwrap();
        *value = 2;
        panic!("with a lock");
    })
    .join();
    check("a poisoned lock", (lock.is_poisoned(), lock.lock().map_err(|error| *error.into_inner()).err()));
    lock.clear_poison();
    check("and a clean one", lock.lock().map(|value| *value).ok());
    let shared = Arc::new(RwLock::new(5));
    let writer = shared.clone();
    let _ = thread::spawn(move || {
        let _write = writer.write().unwrap();
        panic!("while writing");
    })
    .join();
    check("a poisoned lock of readers", shared.read().is_err());
    let once = Arc::new(Once::new());
    let tried = once.clone();
    let _ = thread::spawn(move || tried.call_once(|| panic!("once"))).join();
    check("a once that has failed", catch_unwind(AssertUnwindSafe(|| once.call_once(|| ()))).is_err());
    once.call_once_force(|state| check("is poisoned", state.is_poisoned()));
    let (sender, receiver) = mpsc::channel::<u32>();
    let _ = thread::spawn(move || {
        sender.send(1).unwrap();
        panic!("after one");
    })
    .join();
    check("a channel whose sender has panicked", receiver.iter().collect::<Vec<_>>());
    let scope = catch_unwind(|| {
        thread::scope(|scope| {
            scope.spawn(|| {
                if std::hint::black_box(true) {
                    panic!("in a scope")
                }
            });
            7
        })
    });
    check("a scope whose thread has panicked", scope.map_err(said));
    let handled = thread::scope(|scope| {
        scope
            .spawn(|| {
                if std::hint::black_box(true) {
                    panic!("handled")
                }
            })
            .join()
            .map_err(said)
    });
    check("a scoped thread that was joined", handled);
    static DROPPED: AtomicU32 = AtomicU32::new(0);
    struct Last;
    impl Drop for Last {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, SeqCst);
        }
    }
    thread_local!(static LAST: Last = const { Last });
    let _ = thread::spawn(|| LAST.with(|_| panic!("with a value"))).join();
    check("a panicked thread's values are dropped", DROPPED.load(SeqCst));
    let many: Vec<_> = (0..20).map(|n| thread::spawn(move || if n % 2 == 0 { panic!("{n}") } else { n })).collect();
    let ends: Vec<_> = many.into_iter().map(|thread| thread.join().map_err(said)).collect();
    check("ten of twenty", ends.iter().filter(|end| end.is_err()).count());
    check("the others' results", ends.into_iter().filter_map(Result::ok).sum::<i32>());
}

fn told() -> Option<(String, bool)> {
    static TOLD: Mutex<Option<(String, bool)>> = Mutex::new(None);
    panic::set_hook(Box::new(|info| {
        let text = info.payload().downcast_ref::<&str>().copied().unwrap_or("");
        let here = info.location().is_some_and(|place| place.file().ends_with("panics.rs") && place.line() > 100);
        *TOLD.lock().unwrap() = Some((text.to_owned(), here));
    }));
    let _ = catch_unwind(|| panic!("for the hook"));
    TOLD.lock().unwrap().take()
}
