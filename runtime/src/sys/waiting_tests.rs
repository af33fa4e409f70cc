//! What waits by hermit's names, on threads of the fake shim's: semaphores, queues, threads that block; and error numbers.

use core::ptr;
use std::cell::RefCell;
use std::rc::Rc;
use std::vec::Vec;

use hermit_abi::{
    CLOCK_REALTIME, EAGAIN, EBADF, EBUSY, EINVAL, ENOENT, ENOSYS, EOVERFLOW, ETIMEDOUT, O_RDONLY, sem_t, timespec,
};

use super::*;
use crate::thread::tests::{STACK_BYTES, on_a_thread};
use crate::thread::{join, spawn};
use crate::time::{Duration, Instant};

/// A log that threads write to in their turns.
type Log = Rc<RefCell<Vec<i32>>>;

/// A place for a semaphore or a queue that several threads know.
fn shared(value: sem_t) -> &'static mut sem_t {
    std::boxed::Box::leak(std::boxed::Box::new(value))
}

fn realtime_in(duration: Duration) -> timespec {
    let mut now = timespec::default();
    // SAFETY: the place is a variable.
    assert_eq!(unsafe { sys_clock_gettime(CLOCK_REALTIME, &raw mut now) }, 0);
    let ns = now.tv_sec as u64 * NS_PER_S + now.tv_nsec as u64 + duration.as_nanos() as u64;
    timespec { tv_sec: (ns / NS_PER_S) as i64, tv_nsec: (ns % NS_PER_S) as i32 }
}

#[test]
fn a_semaphore_lets_as_many_through_as_it_was_posted_in_the_order_of_their_coming() {
    let log = on_a_thread(|| {
        let semaphore: *mut sem_t = shared(ptr::null());
        let log = Log::default();
        // SAFETY: the place is never freed.
        unsafe {
            assert_eq!(sys_sem_init(semaphore, 0, 1), 0);
            assert_eq!((sys_sem_trywait(semaphore), sys_sem_trywait(semaphore)), (0, -EAGAIN));
            assert_eq!(sys_get_errno(), EAGAIN);
        }
        let waiting: Vec<_> = (0..3)
            .map(|name| {
                let log = Rc::clone(&log);
                let body = move || {
                    // SAFETY: as above.
                    let waited = unsafe { sys_sem_timedwait(semaphore, ptr::null()) };
                    log.borrow_mut().push(name + waited * 100);
                };
                spawn(STACK_BYTES, body).expect("a thread")
            })
            .collect();
        sys_yield();
        // SAFETY: as above.
        unsafe {
            assert_eq!(sys_sem_destroy(semaphore), -EBUSY, "three wait for it");
            assert_eq!((sys_sem_post(semaphore), sys_sem_post(semaphore)), (0, 0));
            sys_yield();
            assert_eq!(log.borrow().len(), 2);
            assert_eq!(sys_sem_post(semaphore), 0);
        }
        waiting.into_iter().for_each(|id| join(id).expect("joined"));
        // SAFETY: as above.
        unsafe {
            assert_eq!(sys_sem_destroy(semaphore), 0);
            assert_eq!((sys_sem_destroy(semaphore), sys_sem_post(semaphore)), (-EINVAL, -EINVAL));
        }
        log.take()
    });
    assert_eq!(log, [0, 1, 2]);
}

#[test]
fn a_semaphore_is_waited_for_until_a_time_and_holds_no_more_than_it_can() {
    on_a_thread(|| {
        let semaphore: *mut sem_t = shared(ptr::null());
        let limit = Duration::from_millis(30);
        // SAFETY: the place is never freed; times are variables.
        unsafe {
            assert_eq!(sys_sem_init(semaphore, 0, 0), 0);
            let (start, until) = (Instant::now(), realtime_in(limit));
            assert_eq!(sys_sem_timedwait(semaphore, &raw const until), -ETIMEDOUT);
            assert_eq!(start.elapsed(), limit);
            assert_eq!(sys_sem_timedwait(semaphore, &raw const until), -ETIMEDOUT, "it is over at once");
            assert_eq!(start.elapsed(), limit);
            let never = timespec { tv_sec: 0, tv_nsec: 1_000_000_000 };
            assert_eq!(sys_sem_timedwait(semaphore, &raw const never), -EINVAL);
            assert_eq!(sys_sem_post(semaphore), 0);
            assert_eq!(sys_sem_timedwait(semaphore, &raw const never), 0, "nobody has to wait");
            assert_eq!(sys_sem_destroy(semaphore), 0);
            assert_eq!(sys_sem_init(semaphore, 0, i32::MAX as u32), 0);
            assert_eq!(sys_sem_post(semaphore), -EOVERFLOW);
            assert_eq!(sys_sem_destroy(semaphore), 0);
            assert_eq!(sys_sem_init(semaphore, 1, 0), -EINVAL, "there is one process");
            assert_eq!(sys_sem_init(semaphore, 0, u32::MAX), -EINVAL);
            assert_eq!((sys_sem_init(ptr::null_mut(), 0, 0), sys_sem_post(ptr::null_mut())), (-EINVAL, -EINVAL));
        }
    });
}

#[test]
fn a_queue_notifies_those_who_were_added_and_nobody_else() {
    let log = on_a_thread(|| {
        let place: *mut sem_t = shared(ptr::null());
        let queue = place.expose_provenance();
        let log = Log::default();
        // SAFETY: the place is never freed.
        unsafe {
            assert_eq!((sys_wait(queue), sys_notify(queue, 1)), (-EINVAL, -EINVAL), "there is none yet");
            let waiting: Vec<_> = (0..3)
                .map(|name| {
                    let log = Rc::clone(&log);
                    assert_eq!(sys_add_queue(queue, -1), 0);
                    let body = move || {
                        assert_eq!(sys_wait(queue), 0);
                        log.borrow_mut().push(name);
                    };
                    spawn(STACK_BYTES, body).expect("a thread")
                })
                .collect();
            sys_yield();
            assert_eq!(sys_destroy_queue(queue), -EBUSY);
            assert_eq!(sys_notify(queue, 1), 0);
            sys_yield();
            assert_eq!(log.borrow().len(), 1);
            assert_eq!(sys_notify(queue, -1), 0);
            waiting.into_iter().for_each(|id| join(id).expect("joined"));
            assert_eq!((sys_add_queue(queue, 5), sys_add_queue(1, 0), sys_init_queue(0)), (-ENOSYS, -EINVAL, -EINVAL));
            assert_eq!((sys_destroy_queue(queue), sys_destroy_queue(queue)), (0, 0));
        }
        log.take()
    });
    assert_eq!(log, [0, 1, 2]);
}

#[test]
fn a_thread_that_blocks_goes_on_when_it_is_woken_and_not_before() {
    let log = on_a_thread(|| {
        let log = Log::default();
        let noting = Rc::clone(&log);
        let body = move || {
            for turn in 0..2 {
                sys_block_current_task();
                sys_yield();
                noting.borrow_mut().push(turn);
            }
        };
        let blocked = spawn(STACK_BYTES, body).expect("a thread");
        for _ in 0..5 {
            sys_yield();
        }
        assert!(log.borrow().is_empty(), "nobody has woken it");
        sys_wakeup_taskt(blocked);
        sys_yield();
        assert_eq!(*log.borrow(), [0]);
        sys_wakeup_taskt(blocked);
        sys_wakeup_taskt(blocked + 50);
        join(blocked).expect("joined");
        // Who is woken before he yields does not wait.
        sys_block_current_task();
        sys_wakeup_taskt(thread::current());
        sys_yield();
        let start = Instant::now();
        sys_block_current_task_with_timeout(7);
        sys_yield();
        assert_eq!(start.elapsed(), Duration::from_millis(7));
        log.take()
    });
    assert_eq!(log, [0, 1]);
}

#[test]
fn error_numbers_and_priorities_are_each_threads_own() {
    on_a_thread(|| {
        assert_eq!(sys_get_errno(), 0);
        // SAFETY: the name is a text.
        assert_eq!(unsafe { sys_open(c"/nowhere".as_ptr(), O_RDONLY, 0) }, -ENOENT);
        assert_eq!((sys_get_errno(), sys_errno()), (ENOENT, ENOENT));
        let other = spawn(STACK_BYTES, || {
            assert_eq!(sys_get_errno(), 0);
            assert_eq!(sys_close(99), -EBADF);
            sys_set_priority(thread::current(), 3);
            assert_eq!((sys_get_errno(), sys_get_priority()), (EBADF, 3));
        });
        join(other.expect("a thread")).expect("joined");
        assert_eq!((sys_getpid(), sys_get_priority()), (1, 0));
        assert_eq!(sys_get_errno(), ENOENT, "what succeeds leaves it");
    });
}

/// Each function that can fail keeps what it returns.
#[test]
fn what_a_function_returns_is_kept() {
    fn kept(what: &str, returned: impl Into<i64>) {
        let returned = returned.into();
        assert!(returned < 0, "{what}: {returned}");
        assert_eq!(i64::from(sys_get_errno()), -returned, "{what}");
        thread::set_errno(0);
    }
    on_a_thread(|| {
        let nowhere: *mut core::ffi::c_void = ptr::null_mut();
        // SAFETY: null pointers are what the functions are to refuse.
        unsafe {
            kept("clock", sys_clock_gettime(77, nowhere.cast()));
            kept("time", sys_clock_gettime(CLOCK_REALTIME, nowhere.cast()));
            kept("sleep", sys_nanosleep(nowhere.cast()));
            kept("entropy", sys_read_entropy(nowhere.cast(), 1, 1) as i64);
            kept("read", sys_read(77, nowhere.cast(), 1) as i64);
            kept("write", sys_write(77, nowhere.cast(), 1) as i64);
            kept("seek", sys_lseek(1, 0, 0) as i64);
            kept("flags", sys_fcntl(0, 99, 0));
            kept("request", sys_ioctl(0, 5, nowhere));
            kept("listing", sys_getdents64(0, nowhere.cast(), 0));
            kept("counter", sys_eventfd(0, 1 << 13));
            kept("poll", sys_poll(nowhere.cast(), 5, 0));
            kept("socket", sys_socket(0, 0, 0));
            kept("name", sys_getaddrbyname(nowhere.cast(), nowhere.cast(), 4));
            kept("start", sys_spawn(nowhere.cast(), nothing, 0, 0, 0));
            kept("end", sys_join(77));
            kept("wait", sys_futex_wait(nowhere.cast(), 0, nowhere.cast(), 0));
            kept("wake", sys_futex_wake(nowhere.cast(), 1));
            kept("semaphore", sys_sem_post(nowhere.cast()));
            kept("queue", sys_wait(0));
            kept("pages", sys_munmap(nowhere.cast(), 0));
            kept("directory", sys_mkdir(nowhere.cast(), 0));
        }
    });
}

extern "C" fn nothing(_argument: usize) {}
