//! The functions against the declarations of `hermit-abi`, and their behaviour on the fake shim.

use core::ptr;
use std::cell::RefCell;
use std::rc::Rc;

use super::*;
use crate::host::{Boundary, End, Setup, World, run};
use core::ffi::{c_char, c_void};
use hermit_abi::{EBADF, Tid, addrinfo, dirent64, iovec, nfds_t, pollfd, sem_t, sockaddr, socklen_t, stat};

/// Never called: it compiles only if each function has the type that `hermit-abi` declares.
#[allow(dead_code)]
fn types_are_those_of_hermit_abi() {
    let _: [unsafe extern "C" fn(i32, *const u8, usize) -> isize; 2] = [hermit_abi::write, sys_write];
    let _: [unsafe extern "C" fn(i32, *mut u8, usize) -> isize; 2] = [hermit_abi::read, sys_read];
    let _: [unsafe extern "C" fn(i32, *const iovec, usize) -> isize; 2] = [hermit_abi::writev, sys_writev];
    let _: [unsafe extern "C" fn(clockid_t, *mut timespec) -> i32; 2] = [hermit_abi::clock_gettime, sys_clock_gettime];
    let _: [unsafe extern "C" fn(*const timespec) -> i32; 2] = [hermit_abi::nanosleep, sys_nanosleep];
    let _: [unsafe extern "C" fn(u64); 2] = [hermit_abi::usleep, sys_usleep];
    let _: [unsafe extern "C" fn(*mut u8, usize, u32) -> isize; 2] = [hermit_abi::read_entropy, sys_read_entropy];
    let _: [unsafe extern "C" fn(i32) -> !; 2] = [hermit_abi::exit, sys_exit];
    let _: [unsafe extern "C" fn() -> !; 2] = [hermit_abi::abort, sys_abort];
    let _: [unsafe extern "C" fn(); 2] = [hermit_abi::yield_now, sys_yield];
    let _: [unsafe extern "C" fn() -> pid_t; 2] = [hermit_abi::getpid, sys_getpid];
    let _: [unsafe extern "C" fn() -> i32; 2] = [hermit_abi::getpagesize, sys_getpagesize];
    let _: [unsafe extern "C" fn() -> usize; 2] = [hermit_abi::available_parallelism, sys_available_parallelism];
    let _: [unsafe extern "C" fn(i32, *const iovec, usize) -> isize; 2] = [hermit_abi::readv, sys_readv];
    let _: [unsafe extern "C" fn(i32) -> i32; 2] = [hermit_abi::close, sys_close];
    let _: [unsafe extern "C" fn(i32) -> i32; 2] = [hermit_abi::dup, sys_dup];
    let _: [unsafe extern "C" fn(i32, i32, i32) -> i32; 2] = [hermit_abi::fcntl, sys_fcntl];
    let _: [unsafe extern "C" fn(i32, i32, *mut c_void) -> i32; 2] = [hermit_abi::ioctl, sys_ioctl];
    let _: [unsafe extern "C" fn(i32, isize, i32) -> isize; 2] = [hermit_abi::lseek, sys_lseek];
    let _: [unsafe extern "C" fn(i32, *mut stat) -> i32; 2] = [hermit_abi::fstat, sys_fstat];
    let _: [unsafe extern "C" fn(*mut pollfd, nfds_t, i32) -> i32; 2] = [hermit_abi::poll, sys_poll];
}

/// As above, for what waits, and for files.
#[allow(dead_code)]
#[allow(deprecated, reason = "what is deprecated is asked for by name all the same")]
fn types_of_what_waits_are_those_of_hermit_abi() {
    type Spawn = unsafe extern "C" fn(*mut Tid, extern "C" fn(usize), usize, u8, isize) -> i32;
    type SpawnSized = unsafe extern "C" fn(extern "C" fn(usize), usize, u8, usize, isize) -> Tid;
    type Named = unsafe extern "C" fn(*const c_char, *mut stat) -> i32;
    let _: [Spawn; 2] = [hermit_abi::spawn, sys_spawn];
    let _: [SpawnSized; 2] = [hermit_abi::spawn2, sys_spawn2];
    let _: [unsafe extern "C" fn(Tid) -> i32; 2] = [hermit_abi::join, sys_join];
    let _: [unsafe extern "C" fn(*mut u32, u32, *const timespec, u32) -> i32; 2] =
        [hermit_abi::futex_wait, sys_futex_wait];
    let _: [unsafe extern "C" fn(*mut u32, i32) -> i32; 2] = [hermit_abi::futex_wake, sys_futex_wake];
    let _: [unsafe extern "C" fn(); 2] = [hermit_abi::block_current_task, sys_block_current_task];
    let _: [unsafe extern "C" fn(u64); 2] =
        [hermit_abi::block_current_task_with_timeout, sys_block_current_task_with_timeout];
    let _: [unsafe extern "C" fn(Tid); 2] = [hermit_abi::wakeup_task, sys_wakeup_taskt];
    let _: [unsafe extern "C" fn(*mut sem_t, i32, u32) -> i32; 2] = [hermit_abi::sem_init, sys_sem_init];
    let _: [unsafe extern "C" fn(*mut sem_t, *const timespec) -> i32; 2] =
        [hermit_abi::sem_timedwait, sys_sem_timedwait];
    let _: [unsafe extern "C" fn(*mut sem_t) -> i32; 6] = [
        hermit_abi::sem_destroy,
        sys_sem_destroy,
        hermit_abi::sem_post,
        sys_sem_post,
        hermit_abi::sem_trywait,
        sys_sem_trywait,
    ];
    let _: [unsafe extern "C" fn(usize, i32) -> i32; 2] = [hermit_abi::notify, sys_notify];
    let _: [unsafe extern "C" fn(usize, i64) -> i32; 2] = [hermit_abi::add_queue, sys_add_queue];
    let _: [unsafe extern "C" fn(usize) -> i32; 6] = [
        hermit_abi::wait,
        sys_wait,
        hermit_abi::init_queue,
        sys_init_queue,
        hermit_abi::destroy_queue,
        sys_destroy_queue,
    ];
    let _: [unsafe extern "C" fn() -> i32; 6] = [
        hermit_abi::get_errno,
        sys_get_errno,
        hermit_abi::errno,
        sys_errno,
        hermit_abi::network_init,
        sys_network_init,
    ];
    let _: [unsafe extern "C" fn() -> usize; 2] = [hermit_abi::get_processor_count, sys_get_processor_count];
    // `mmap` has a reference for the place of its result, which is a pointer that is not null.
    let _: [unsafe extern "C" fn(*mut u8, usize) -> i32; 2] = [hermit_abi::munmap, sys_munmap];
    let _: [unsafe extern "C" fn(*mut u8, usize, u32) -> i32; 2] = [hermit_abi::mprotect, sys_mprotect];
    let _: [unsafe extern "C" fn(*const c_char, i32, i32) -> i32; 2] = [hermit_abi::open, sys_open];
    let _: [Named; 4] = [hermit_abi::stat, sys_stat, hermit_abi::lstat, sys_lstat];
    let _: [unsafe extern "C" fn(*const c_char) -> i32; 6] =
        [hermit_abi::opendir, sys_opendir, hermit_abi::unlink, sys_unlink, hermit_abi::rmdir, sys_rmdir];
    let _: [unsafe extern "C" fn(*const i8, u32) -> i32; 2] = [hermit_abi::mkdir, sys_mkdir];
    let _: [unsafe extern "C" fn(i32, *mut dirent64, usize) -> i64; 2] = [hermit_abi::getdents64, sys_getdents64];
    let _: [unsafe extern "C" fn(i32) -> i32; 2] = [hermit_abi::fsync, sys_fsync];
}

/// As above, for the heap.
#[allow(dead_code)]
fn types_of_the_heap_are_those_of_hermit_abi() {
    type Take = unsafe extern "C" fn(usize, usize) -> *mut u8;
    type Give = unsafe extern "C" fn(*mut u8, usize, usize);
    let _: [Take; 4] = [hermit_abi::malloc, sys_malloc, hermit_abi::alloc, sys_alloc];
    let _: [Take; 2] = [hermit_abi::alloc_zeroed, sys_alloc_zeroed];
    let _: [Give; 4] = [hermit_abi::free, sys_free, hermit_abi::dealloc, sys_dealloc];
    let _: [unsafe extern "C" fn(*mut u8, usize, usize, usize) -> *mut u8; 2] = [hermit_abi::realloc, sys_realloc];
}

/// As above, for sockets.
#[allow(dead_code)]
fn types_of_sockets_are_those_of_hermit_abi() {
    type Name = unsafe extern "C" fn(i32, *mut sockaddr, *mut socklen_t) -> i32;
    type Option = unsafe extern "C" fn(i32, i32, i32, *mut c_void, *mut socklen_t) -> i32;
    type SetOption = unsafe extern "C" fn(i32, i32, i32, *const c_void, socklen_t) -> i32;
    type Receive = unsafe extern "C" fn(i32, *mut u8, usize, i32, *mut sockaddr, *mut socklen_t) -> isize;
    type Lookup = unsafe extern "C" fn(*const c_char, *const c_char, *const addrinfo, *mut *mut addrinfo) -> i32;
    type Send = unsafe extern "C" fn(i32, *const c_void, usize, i32, *const sockaddr, socklen_t) -> isize;
    let _: [unsafe extern "C" fn(i32, i32, i32) -> i32; 2] = [hermit_abi::socket, sys_socket];
    let _: [unsafe extern "C" fn(i32, *const sockaddr, socklen_t) -> i32; 2] = [hermit_abi::bind, sys_bind];
    let _: [unsafe extern "C" fn(i32, *const sockaddr, socklen_t) -> i32; 2] = [hermit_abi::connect, sys_connect];
    let _: [unsafe extern "C" fn(i32, i32) -> i32; 2] = [hermit_abi::listen, sys_listen];
    let _: [unsafe extern "C" fn(i32, i32) -> i32; 2] = [hermit_abi::shutdown, sys_shutdown];
    let _: [unsafe extern "C" fn(*mut addrinfo); 2] = [hermit_abi::freeaddrinfo, sys_freeaddrinfo];
    let _: [Lookup; 2] = [hermit_abi::getaddrinfo, sys_getaddrinfo];
    let _: [Name; 2] = [hermit_abi::accept, sys_accept];
    let _: [Name; 2] = [hermit_abi::getsockname, sys_getsockname];
    let _: [Name; 2] = [hermit_abi::getpeername, sys_getpeername];
    let _: [Option; 2] = [hermit_abi::getsockopt, sys_getsockopt];
    let _: [SetOption; 2] = [hermit_abi::setsockopt, sys_setsockopt];
    let _: [unsafe extern "C" fn(i32, *mut u8, usize, i32) -> isize; 2] = [hermit_abi::recv, sys_recv];
    let _: [Receive; 2] = [hermit_abi::recvfrom, sys_recvfrom];
    let _: [unsafe extern "C" fn(i32, *const c_void, usize, i32) -> isize; 2] = [hermit_abi::send, sys_send];
    let _: [Send; 2] = [hermit_abi::sendto, sys_sendto];
    let _: [unsafe extern "C" fn(*const c_char, *mut u8, usize) -> i32; 2] =
        [hermit_abi::getaddrbyname, sys_getaddrbyname];
    let _: [unsafe extern "C" fn(u64, i16) -> i32; 2] = [hermit_abi::eventfd, sys_eventfd];
}

/// Moves the clock to the deadline and types a word once the guest waits for nothing else.
struct Typist {
    typed: bool,
}

impl World for Typist {
    fn boundary(&mut self, boundary: &mut Boundary<'_>) {
        if boundary.deadline_ns() == u64::MAX && !self.typed {
            self.typed = boundary.type_in(b"word");
        }
        boundary.set_now_ns(boundary.deadline_ns());
    }
}

fn on_machine<T: 'static>(program: impl AsyncFnOnce() -> T + 'static) -> (End<T>, std::vec::Vec<u8>) {
    let world = Rc::new(RefCell::new(Typist { typed: false }));
    let outcome = run(&Setup::default(), &world, move || async move { program().await });
    (outcome.end, outcome.console)
}

#[test]
fn clocks_advance_by_what_was_slept() {
    let (end, _) = on_machine(async || {
        let mut before = timespec::default();
        let mut after = timespec::default();
        // SAFETY: all pointers are to local variables.
        unsafe {
            assert_eq!(sys_clock_gettime(CLOCK_MONOTONIC, &mut before), 0);
            assert_eq!(sys_nanosleep(&timespec { tv_sec: 2, tv_nsec: 500 }), 0);
            sys_usleep(3);
            assert_eq!(sys_clock_gettime(CLOCK_MONOTONIC, &mut after), 0);
            assert_eq!((before.tv_sec, before.tv_nsec, after.tv_sec, after.tv_nsec), (0, 0, 2, 3500));
            assert_eq!(sys_clock_gettime(CLOCK_REALTIME, &mut after), 0);
            assert_eq!((after.tv_sec, after.tv_nsec), (1_700_000_002, 3500));
            assert_eq!(sys_clock_gettime(77, &mut after), -EINVAL);
            assert_eq!(sys_clock_gettime(CLOCK_REALTIME, ptr::null_mut()), -EFAULT);
            assert_eq!(sys_nanosleep(&timespec { tv_sec: 0, tv_nsec: 1_000_000_000 }), -EINVAL);
            assert_eq!(sys_nanosleep(&timespec { tv_sec: -1, tv_nsec: 0 }), -EINVAL);
            assert_eq!(sys_nanosleep(ptr::null()), -EFAULT);
        }
    });
    assert_eq!(end, End::Returned(()));
}

#[test]
fn the_console_reads_and_writes() {
    let (end, console) = on_machine(async || {
        let mut buffer = [0u8; 16];
        let text = b"one\n";
        let pieces = [
            iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: 4 },
            iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: 2 },
        ];
        // SAFETY: all pointers are to local variables.
        unsafe {
            assert_eq!(sys_read(0, buffer.as_mut_ptr(), 16), 4);
            assert_eq!(&buffer[..4], b"word");
            assert_eq!(sys_writev(1, pieces.as_ptr(), 3), 6);
            assert_eq!(sys_write(2, b"!".as_ptr(), 1), 1);
            assert_eq!(sys_write(3, b"!".as_ptr(), 1), -EBADF as isize);
            assert_eq!(sys_write(1, ptr::null(), 1), -EFAULT as isize);
            assert_eq!(sys_read(1, buffer.as_mut_ptr(), 1), -EBADF as isize);
        }
    });
    assert_eq!((end, &console[..]), (End::Returned(()), &b"one\nwo!"[..]));
}

#[test]
fn entropy_comes_in_any_length() {
    let (end, _) = on_machine(async || {
        let mut bytes = std::vec![0u8; 10_000];
        // SAFETY: pointer and length are the vector's.
        let filled = unsafe { sys_read_entropy(bytes.as_mut_ptr(), bytes.len(), 0) };
        assert_eq!(filled, 10_000);
        assert!(bytes[9000..].iter().any(|&byte| byte != 0));
        // SAFETY: as above.
        assert_eq!(unsafe { sys_read_entropy(bytes.as_mut_ptr(), 1, 9) }, -EINVAL as isize);
    });
    assert_eq!(end, End::Returned(()));
}

#[test]
fn exit_ends_the_machine() {
    let (end, console) = on_machine(async || {
        crate::print!("bye");
        // Not by way of `sys_exit`: on a host the machine's end unwinds, which a C function must not.
        crate::exit::exit(3);
    });
    assert_eq!((end, &console[..]), (End::Exited(3), &b"bye"[..]));
}
