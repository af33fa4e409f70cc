//! From the entry point to `main`.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int};
use core::ptr;

use runtime::entry::Boot;
use runtime::thread;

use crate::{environment, panics, process, tls, unwind};

/// Stack of the thread that runs `main`: as Linux gives it.
const MAIN_STACK_BYTES: usize = 8 * 1024 * 1024;
/// Status of a program that is not started, because it would lack its files.
const CANNOT_START: i32 = 70;
/// Where there is little memory: at most this part of the heap.
const MAIN_STACK_PART: usize = 16;

/// A constructor, as the C library of Linux calls it: `std` gets its arguments by one.
type Constructor = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char);

unsafe extern "C" {
    fn main(argc: c_int, argv: *const *const c_char) -> c_int;
    // A number: where `std` for hermit begins; 0 with `std` for Linux.
    static __runtime_entry: u8;
    // From the linker script.
    static __init_array_start: Constructor;
    static __init_array_end: Constructor;
    static __bundle_start: u8;
    static __bundle_end: u8;
}

/// What the build has packed into the image: files, and which disks are mounted where.
fn bundle() -> &'static [u8] {
    let (start, end) = (&raw const __bundle_start, &raw const __bundle_end);
    // SAFETY: the linker script puts both around the bundle, which nobody changes.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

#[unsafe(no_mangle)]
extern "C" fn pollux_main(boot: *const Boot) -> ! {
    // SAFETY: the entry code passes on what the shim gave, once.
    unsafe { runtime::entry::start(boot, program) }
}

/// The task that starts the first thread; it never ends, the thread ends the program.
async fn program() -> i32 {
    if let Err(error) = runtime::fs::mount(bundle()).await {
        runtime::println!("error: {error}");
        return CANNOT_START;
    }
    let stack_bytes = MAIN_STACK_BYTES.min(runtime::env::heap_bytes() / MAIN_STACK_PART);
    if let Err(error) = thread::spawn(stack_bytes, first_thread) {
        runtime::println!("error: no thread for main: {error}");
        return 1;
    }
    core::future::pending().await
}

fn first_thread() {
    let Some(storage) = tls::Storage::new() else {
        runtime::exit::abort(format_args!("there is no memory for the variables of main's thread; raise --memory-mib"))
    };
    storage.enter();
    thread::set_name("main");
    unwind::install();
    let arguments = arguments();
    let count = (arguments.len() - 1) as c_int;
    let arguments = Box::leak(arguments.into_boxed_slice()).as_ptr();
    environment::install();
    if let Some(entry) = entry_of_hermit() {
        // All that it calls are `sys_` functions, which mask it as those of the C library do. Its threads need storage like any
        // others.
        let enter = || match tls::Storage::new() {
            Some(storage) => storage.enter(),
            None => runtime::exit::abort(format_args!("there is no memory for a new thread's variables")),
        };
        thread::set_hooks(Some(thread::Hooks { enter, leave: tls::leave, preemptible: true }));
        // SAFETY: it is what the linker script says, and the arrays end in null pointers and are never given back.
        thread::preemptible(|| unsafe { entry(count, arguments, environment::environ) })
    }
    // SAFETY: the linker script puts nothing but constructors between the two; `main` is the one that rustc has made. The
    // arrays end in null pointers and are never given back.
    let status = thread::preemptible(|| unsafe {
        let mut constructor = &raw const __init_array_start;
        while constructor < &raw const __init_array_end {
            (*constructor)(count, arguments, environment::environ);
            constructor = constructor.add(1);
        }
        main(count, arguments)
    });
    panics::end_if_panicked(status);
    process::leave(status)
}

/// How `std` for hermit is begun: it calls `main` itself, and ends the program.
type Entry = unsafe extern "C" fn(c_int, *const *const c_char, *const *const c_char) -> !;

/// Where the program's `std` begins, if it is the one for hermit.
fn entry_of_hermit() -> Option<Entry> {
    // The compiler takes it for granted that nothing of a program lies at 0.
    let address = core::hint::black_box((&raw const __runtime_entry).addr());
    // SAFETY: null is the one value that is none; any other is the address of that function, as the linker script says.
    unsafe { core::mem::transmute::<usize, Option<Entry>>(address) }
}

/// The program's name and the words of the argument text, each with a terminating zero, and a null pointer.
fn arguments() -> Vec<*const c_char> {
    let owned = |word: &str| -> *const c_char {
        let bytes: Vec<u8> = word.bytes().chain([0]).collect();
        Box::leak(bytes.into_boxed_slice()).as_ptr().cast()
    };
    let words = runtime::env::words().map(owned);
    [owned("program")].into_iter().chain(words).chain([ptr::null()]).collect()
}
