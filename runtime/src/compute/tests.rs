//! Computations on the host: they give way and end, and nothing interrupts them.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::vec::Vec;

use super::*;
use crate::host::{Boundary, End, Outcome, Setup, World, run};
use crate::time::{Duration, sleep};

const STACK_BYTES: usize = 256 * 1024;

struct Clock;

impl World for Clock {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        let next_ns = boundary.deadline_ns().max(boundary.now_ns() + 1000);
        boundary.set_now_ns(next_ns);
    }
}

fn go<F>(main: impl FnOnce() -> F + 'static) -> Outcome<F::Output>
where
    F: Future<Output: 'static> + 'static,
{
    run(&Setup::default(), &Rc::new(RefCell::new(Clock)), main)
}

#[test]
fn a_result_is_awaited() {
    let outcome = go(|| async { spawn(STACK_BYTES, || (1..=10_u64).product::<u64>()).await });
    assert_eq!(outcome.end, End::Returned(3_628_800));
}

#[test]
fn tasks_run_while_a_computation_gives_way() {
    let outcome = go(|| async {
        let steps = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&steps);
        let computing = spawn(STACK_BYTES, move || {
            for _ in 0..100 {
                steps.fetch_add(1, Ordering::Relaxed);
                yield_now();
            }
            "done"
        });
        let mut between = 0;
        while seen.load(Ordering::Relaxed) < 100 {
            let before = seen.load(Ordering::Relaxed);
            sleep(Duration::from_micros(1)).await;
            between += u32::from(seen.load(Ordering::Relaxed) > before);
        }
        assert!(between > 50, "{between}");
        computing.await
    });
    assert_eq!(outcome.end, End::Returned("done"));
}

#[test]
fn computations_take_turns() {
    let outcome = go(|| async {
        let order = Arc::new(Mutex::new(Vec::new()));
        let computings: Vec<_> = (0..3)
            .map(|number| {
                let order = Arc::clone(&order);
                spawn(STACK_BYTES, move || {
                    for _ in 0..3 {
                        order.lock().unwrap().push(number);
                        yield_now();
                    }
                })
            })
            .collect();
        for computing in computings {
            computing.await;
        }
        Arc::into_inner(order).unwrap().into_inner().unwrap()
    });
    assert_eq!(outcome.end, End::Returned([0, 1, 2].repeat(3)));
}

#[test]
fn a_computation_outlives_its_handle_and_prints() {
    let outcome = go(|| async {
        drop(spawn(STACK_BYTES, || {
            crate::println!("half");
            yield_now();
            crate::println!("whole");
        }));
        sleep(Duration::from_millis(1)).await;
    });
    assert_eq!(outcome.console, b"half\nwhole\n");
}

#[test]
fn a_panic_comes_through_and_leaves_a_machine_that_works() {
    for _ in 0..2 {
        let panic = std::panic::catch_unwind(|| go(|| async { spawn(STACK_BYTES, || panic!("on purpose")).await }));
        assert_eq!(panic.expect_err("it panics").downcast_ref(), Some(&"on purpose"));
        assert_eq!(go(|| async { spawn(STACK_BYTES, || 7).await }).end, End::Returned(7));
    }
}

#[test]
fn a_computation_may_end_the_program_but_not_start_a_task() {
    let outcome = go(|| async { spawn(STACK_BYTES, || crate::exit::exit(3)).await });
    assert_eq!(outcome.end, End::Exited(3));
    let refused = std::panic::catch_unwind(|| {
        go(|| async { spawn(STACK_BYTES, || drop(crate::spawn(async {}))).await });
    });
    let text = refused.expect_err("it panics");
    assert!(text.downcast_ref::<&str>().is_some_and(|text| text.contains("the rest is for tasks")));
}

#[test]
fn one_that_has_begun_may_be_left_behind() {
    let outcome = go(|| async {
        drop(spawn(STACK_BYTES, || {
            loop {
                yield_now();
            }
        }));
        drop(spawn(STACK_BYTES, || 1));
        sleep(Duration::from_micros(10)).await;
    });
    assert_eq!(outcome.end, End::Returned(()));
}

#[test]
fn giving_way_outside_a_computation_does_nothing() {
    assert_eq!(go(|| async { yield_now() }).end, End::Returned(()));
}

#[test]
fn a_stack_that_was_too_small_is_noticed() {
    let stack = Stack::new(0);
    assert_eq!(stack.range().end - stack.range().start, MIN_STACK_BYTES as u64);
    stack.check(None);
    stack.check(Some(stack.range().end - 64));
    let panics = |pointer| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| stack.check(pointer))).is_err();
    assert!(panics(Some(stack.range().start + 100)));
    assert!(panics(Some(stack.range().end)));
    // SAFETY: the lowest word of the stack.
    unsafe { stack.base_for_tests().cast::<u64>().write(0) };
    assert!(panics(None));
}

#[test]
fn what_is_due_while_masked_is_made_up_for() {
    let outcome = go(|| async {
        let others = Arc::new(AtomicU64::new(0));
        let (first, second) = (Arc::clone(&others), others);
        let computing = spawn(STACK_BYTES, move || {
            let within = gate::masked(|| {
                yield_now();
                first.load(Ordering::Relaxed)
            });
            (within, first.load(Ordering::Relaxed))
        });
        drop(spawn(STACK_BYTES, move || second.store(1, Ordering::Relaxed)));
        computing.await
    });
    assert_eq!(outcome.end, End::Returned((0, 1)));
}

#[test]
fn a_contained_panic_is_a_result_and_everybody_else_goes_on() {
    let outcome = go(|| async {
        let lost = Arc::new(());
        let seen = Arc::downgrade(&lost);
        let other = spawn(STACK_BYTES, || {
            (0..10).for_each(|_| yield_now());
            "the other one"
        });
        let panicked = spawn_contained(STACK_BYTES, move || -> u32 {
            yield_now();
            panic!("on purpose, number {}", Arc::strong_count(&lost))
        });
        let panicked = panicked.await.expect_err("it panics");
        assert_eq!(panicked.message(), "on purpose, number 1");
        // On a host the stack is unwound; in an image what it owned is lost.
        assert!(seen.upgrade().is_none());
        (other.await, spawn_contained(STACK_BYTES, || 7).await.expect("it does not"))
    });
    assert_eq!(outcome.end, End::Returned(("the other one", 7)));
}

#[test]
fn a_message_is_cut_at_a_character() {
    let text = "ü".repeat(MAX_MESSAGE_BYTES);
    let panicked = Panicked::new(format_args!("x{text}"));
    assert_eq!(panicked.message().len(), MAX_MESSAGE_BYTES - 1);
    assert!(panicked.message().ends_with('ü'));
}
