//! Threads, thread-specific values, futexes.

use alloc::boxed::Box;
use core::cell::Cell;
use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_void};
use core::ptr;

use runtime::{sys, thread};

use crate::errno::{fail, result};
use crate::tls::{self, KEYS};
use crate::{refused, system, time};

/// Stack of a thread for which nobody has chosen one. `std` would choose 2 MiB, of which an operating system gives out what is
/// used; a guest's memory has room for what is there. `std` is told by the variable `RUST_MIN_STACK`
/// ([`crate::environment`]), so that a program that asks for 2 MiB itself gets them.
pub(crate) const STACK_BYTES: usize = 256 * 1024;
/// The least that a thread can have (`PTHREAD_STACK_MIN`).
const MIN_STACK_BYTES: usize = 16 * 1024;

/// How often destructors of values are run (`PTHREAD_DESTRUCTOR_ITERATIONS`).
const DESTRUCTOR_ROUNDS: usize = 4;

/// What a `pthread_attr_t` holds here; the rest of it is not used.
#[repr(C)]
struct Attributes {
    stack_bytes: usize,
    /// Lowest address of the stack of a thread that runs, or 0.
    stack_base: usize,
}

const _: () = assert!(size_of::<Attributes>() <= size_of::<libc::pthread_attr_t>());

type Attr = *mut libc::pthread_attr_t;

/// What a new thread is to do.
struct Start {
    function: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
    storage: tls::Storage,
}

/// Where every thread but the first begins.
fn begin(start: usize) {
    // SAFETY: `pthread_create` has made it of a box for this thread alone.
    let Start { function, argument, storage } =
        *unsafe { Box::from_raw(ptr::with_exposed_provenance_mut::<Start>(start)) };
    storage.enter();
    thread::preemptible(|| function(argument));
    run_destructors();
    tls::leave();
}

/// Runs what is to be run at the end of the calling thread: destructors of its thread-local variables, then of its values.
pub(crate) fn run_destructors() {
    run_thread_local_destructors();
    // Destructors may set values.
    for _ in 0..DESTRUCTOR_ROUNDS {
        let mut left = false;
        for key in 1..KEYS {
            let value = tls::with_control(|control| control.values[key].replace(ptr::null_mut()));
            if !value.is_null()
                && let Key::Used(Some(destructor)) = KEY_TABLE.0[key].get()
            {
                left = true;
                // SAFETY: whoever made the key has said that this is to be done with its values.
                unsafe { destructor(value) };
            }
        }
        run_thread_local_destructors();
        if !left {
            return;
        }
    }
}

fn run_thread_local_destructors() {
    while let Some((destructor, variable)) = tls::with_control(|control| control.destructors.borrow_mut().pop()) {
        // SAFETY: whoever has registered it has said that this is to be done at the end of the thread.
        unsafe { destructor(variable) };
    }
}

type KeyDestructor = unsafe extern "C" fn(*mut c_void);

/// What is known of a key.
#[derive(Clone, Copy)]
enum Key {
    Free,
    Used(Option<KeyDestructor>),
}

struct KeyTable([Cell<Key>; KEYS]);

// SAFETY: threads of a program take turns where they wait, and nothing here waits.
unsafe impl Sync for KeyTable {}

static KEY_TABLE: KeyTable = KeyTable([const { Cell::new(Key::Free) }; KEYS]);

/// Names of threads that others have given before they ran; only the running thread's own is kept.
fn own_name(name: &CStr) {
    let mut bytes = [0; 16];
    for (place, byte) in bytes[..15].iter_mut().zip(name.to_bytes()) {
        *place = *byte;
    }
    tls::with_control(|control| control.name.set(bytes));
}

c_functions! {
    /// Starts a thread. `EAGAIN` when there is no memory for its stack.
    fn pthread_create(
        place: *mut libc::pthread_t, attr: *const libc::pthread_attr_t,
        function: extern "C" fn(*mut c_void) -> *mut c_void, argument: *mut c_void,
    ) -> c_int {
        // SAFETY: the caller's: null, or what `pthread_attr_init` has filled.
        let wanted = unsafe { attr.cast::<Attributes>().as_ref() }.map_or(STACK_BYTES, |attr| attr.stack_bytes);
        let Some(storage) = tls::Storage::new() else { return libc::EAGAIN };
        let start = Box::into_raw(Box::new(Start { function, argument, storage }));
        let number = start.expose_provenance();
        match thread::spawn_or_say(wanted, move || begin(number)) {
            Ok(id) => {
                // SAFETY: the caller's.
                unsafe { place.write(id.into()) };
                0
            }
            Err(_) => {
                // SAFETY: it was not handed on.
                drop(unsafe { Box::from_raw(start) });
                libc::EAGAIN
            }
        }
    }

    /// Waits for the end of a thread. What it has returned is not kept: `value`, unless null, is given a null pointer.
    fn pthread_join(id: libc::pthread_t, value: *mut *mut c_void) -> c_int {
        let Ok(id) = u32::try_from(id) else { return libc::ESRCH };
        let error = sys::sys_join(id);
        if error == 0 && !value.is_null() {
            // SAFETY: the caller's.
            unsafe { value.write(ptr::null_mut()) };
        }
        -error
    }

    /// Lets a thread be forgotten when it ends.
    fn pthread_detach(id: libc::pthread_t) -> c_int {
        match u32::try_from(id).map_err(|_| thread::JoinError::Unknown).and_then(thread::detach) {
            Ok(()) => 0,
            Err(thread::JoinError::Unknown) => libc::ESRCH,
            Err(_) => libc::EINVAL,
        }
    }

    /// The calling thread.
    fn pthread_self() -> libc::pthread_t {
        thread::current().into()
    }

    /// Names the calling thread; other names are not kept.
    fn pthread_setname_np(id: libc::pthread_t, name: *const c_char) -> c_int {
        if id == thread::current().into() {
            // SAFETY: the caller's.
            let name = unsafe { CStr::from_ptr(name) };
            own_name(name);
            thread::set_name(name.to_str().unwrap_or_default());
        }
        0
    }

    /// Attributes of a thread, with their defaults.
    fn pthread_attr_init(attr: Attr) -> c_int {
        // SAFETY: the caller's; it is long enough.
        unsafe { attr.cast::<Attributes>().write(Attributes { stack_bytes: STACK_BYTES, stack_base: 0 }) };
        0
    }

    /// There is nothing to give back.
    fn pthread_attr_destroy(_attr: Attr) -> c_int {
        0
    }

    /// Chooses a stack's size. `EINVAL` below the least.
    fn pthread_attr_setstacksize(attr: Attr, bytes: usize) -> c_int {
        if bytes < MIN_STACK_BYTES {
            return libc::EINVAL;
        }
        // SAFETY: the caller's: `pthread_attr_init` has filled it.
        unsafe { (*attr.cast::<Attributes>()).stack_bytes = bytes };
        0
    }

    /// The attributes of the calling thread. `ESRCH` for another.
    fn pthread_getattr_np(id: libc::pthread_t, attr: Attr) -> c_int {
        let Some(stack) = thread::current_stack().filter(|_| id == thread::current().into()) else {
            return libc::ESRCH;
        };
        let attributes =
            Attributes { stack_bytes: (stack.end - stack.start) as usize, stack_base: stack.start as usize };
        // SAFETY: the caller's; it is long enough.
        unsafe { attr.cast::<Attributes>().write(attributes) };
        0
    }

    /// Where a stack lies.
    fn pthread_attr_getstack(attr: *const libc::pthread_attr_t, base: *mut *mut c_void, bytes: *mut usize) -> c_int {
        // SAFETY: the caller's: `pthread_getattr_np` has filled it.
        unsafe {
            let attributes = &*attr.cast::<Attributes>();
            base.write(ptr::with_exposed_provenance_mut(attributes.stack_base));
            bytes.write(attributes.stack_bytes);
        }
        0
    }

    /// Bytes of a stack's guard: a page.
    fn pthread_attr_getguardsize(_attr: *const libc::pthread_attr_t, bytes: *mut usize) -> c_int {
        // SAFETY: the caller's.
        unsafe { bytes.write(sys::sys_getpagesize() as usize) };
        0
    }

    /// A key by which each thread has a value. `EAGAIN` when there are no more.
    fn pthread_key_create(place: *mut libc::pthread_key_t, destructor: Option<KeyDestructor>) -> c_int {
        // Key 0 would be taken for none.
        let free = (1..KEYS).find(|key| matches!(KEY_TABLE.0[*key].get(), Key::Free));
        let Some(key) = free else { return libc::EAGAIN };
        KEY_TABLE.0[key].set(Key::Used(destructor));
        // SAFETY: the caller's.
        unsafe { place.write(key as libc::pthread_key_t) };
        0
    }

    /// Gives a key back.
    fn pthread_key_delete(key: libc::pthread_key_t) -> c_int {
        match KEY_TABLE.0.get(key as usize) {
            Some(place) if matches!(place.get(), Key::Used(_)) => {
                place.set(Key::Free);
                0
            }
            _ => libc::EINVAL,
        }
    }

    /// Sets the calling thread's value.
    fn pthread_setspecific(key: libc::pthread_key_t, value: *const c_void) -> c_int {
        match KEY_TABLE.0.get(key as usize).map(Cell::get) {
            Some(Key::Used(_)) => {
                tls::with_control(|control| control.values[key as usize].set(value.cast_mut()));
                0
            }
            _ => libc::EINVAL,
        }
    }

    /// The calling thread's value, or null.
    fn pthread_getspecific(key: libc::pthread_key_t) -> *mut c_void {
        tls::with_control(|control| control.values.get(key as usize).map_or(ptr::null_mut(), Cell::get))
    }

    /// Has a thread-local variable's destructor run at the end of the calling thread.
    fn __cxa_thread_atexit_impl(
        destructor: unsafe extern "C" fn(*mut c_void), variable: *mut c_void, _object: *mut c_void,
    ) -> c_int {
        tls::with_control(|control| control.destructors.borrow_mut().push((destructor, variable)));
        0
    }

    /// Lets others run.
    fn sched_yield() -> c_int {
        sys::sys_yield();
        0
    }

    /// The calling thread's number.
    fn gettid() -> libc::pid_t {
        thread::current() as libc::pid_t
    }

    /// Functions of Linux that have no name in the C library: `futex`, `getrandom`, `gettid`. `ENOSYS` for others, and a line
    /// on the console that says which, once.
    fn syscall(number: c_long, first: usize, second: usize, third: usize, fourth: usize) -> c_long {
        let word = ptr::with_exposed_provenance_mut(first);
        match number {
            // SAFETY: the caller's.
            libc::SYS_futex => unsafe {
                futex(word, second as c_int, third as u32, ptr::with_exposed_provenance(fourth)).into()
            },
            // SAFETY: the caller's.
            libc::SYS_getrandom => unsafe { system::getrandom(word.cast(), second, third as c_uint) as c_long },
            // SAFETY: there are no pointers.
            libc::SYS_gettid => unsafe { gettid().into() },
            _ => {
                refused::note_system_call(number);
                fail(libc::ENOSYS)
            }
        }
    }
}

/// futex(2): waits with an absolute or a relative time, wakes.
///
/// # Safety
/// `word` is null or points to a word, `timeout` to a time.
unsafe fn futex(word: *mut u32, operation: c_int, value: u32, timeout: *const libc::timespec) -> c_int {
    match operation & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) {
        wait @ (libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET) => {
            let flags = if wait == libc::FUTEX_WAIT { hermit_abi::FUTEX_RELATIVE_TIMEOUT } else { 0 };
            if timeout.is_null() {
                // SAFETY: the caller's.
                return result(unsafe { sys::sys_futex_wait(word, value, ptr::null(), flags) });
            }
            if operation & libc::FUTEX_CLOCK_REALTIME != 0 {
                refused::note(format_args!("futex with CLOCK_REALTIME"));
                return fail(libc::ENOSYS);
            }
            // SAFETY: the caller's.
            let Some(timeout) = time::time(unsafe { timeout.read() }) else { return fail(libc::EINVAL) };
            // SAFETY: the caller's; the time is a variable.
            result(unsafe { sys::sys_futex_wait(word, value, &raw const timeout, flags) })
        }
        libc::FUTEX_WAKE | libc::FUTEX_WAKE_BITSET => {
            result(sys::sys_futex_wake(word, i32::try_from(value).unwrap_or(i32::MAX)))
        }
        other => {
            refused::note(format_args!("futex operation {other}"));
            fail(libc::ENOSYS)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use core::cell::RefCell;

    static DESTROYED: DestroyedOrder = DestroyedOrder(RefCell::new(alloc::vec::Vec::new()));
    struct DestroyedOrder(RefCell<alloc::vec::Vec<usize>>);
    // SAFETY: one test alone uses it.
    unsafe impl Sync for DestroyedOrder {}

    unsafe extern "C" fn destroy(value: *mut c_void) {
        DESTROYED.0.borrow_mut().push(value.addr());
    }

    #[test]
    fn destructors_run_last_first_and_values_after_variables() {
        // SAFETY: the values are numbers, and the destructor takes them for such.
        unsafe {
            let mut key = 0;
            assert_eq!(pthread_key_create(&raw mut key, Some(destroy)), 0);
            assert_ne!(key, 0);
            assert_eq!(pthread_setspecific(key, ptr::without_provenance(3)), 0);
            assert_eq!(pthread_getspecific(key).addr(), 3);
            for number in [1, 2] {
                __cxa_thread_atexit_impl(destroy, ptr::without_provenance_mut(number), ptr::null_mut());
            }
            run_destructors();
            assert_eq!(DESTROYED.0.take(), [2, 1, 3]);
            assert!(pthread_getspecific(key).is_null());
            assert_eq!((pthread_key_delete(key), pthread_key_delete(key)), (0, libc::EINVAL));
            assert_eq!(pthread_setspecific(key, ptr::null()), libc::EINVAL);
        }
    }

    #[test]
    fn attributes_hold_the_size_of_a_stack() {
        // SAFETY: the attributes are a variable.
        unsafe {
            let mut attr = core::mem::zeroed::<libc::pthread_attr_t>();
            assert_eq!(pthread_attr_init(&raw mut attr), 0);
            assert_eq!(pthread_attr_setstacksize(&raw mut attr, 1), libc::EINVAL);
            assert_eq!(pthread_attr_setstacksize(&raw mut attr, 1 << 20), 0);
            let (mut base, mut bytes) = (ptr::null_mut(), 0);
            pthread_attr_getstack(&raw const attr, &raw mut base, &raw mut bytes);
            assert_eq!((base.addr(), bytes), (0, 1 << 20));
        }
    }
}
