//! What there is no meaning for in an image.

use std::arch::{asm, global_asm};
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::fs;
use std::io::Error;
use std::process::Command;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlerror() -> *const c_char;
    fn syscall(number: c_long, ...) -> c_long;
}

/// Declares functions that look at none of their arguments, and a list of their names, each with what calls it.
macro_rules! refused {
    ($( $name:ident )*) => {
        unsafe extern "C" {
            $( fn $name(a: usize, b: usize, c: usize, d: usize, e: usize, f: usize) -> c_int; )*
        }
        // SAFETY: numbers are passed in registers, of which the function takes those that it wants.
        const REFUSED: &[(&str, fn() -> c_int)] = &[$( (stringify!($name), || unsafe { $name(0, 0, 0, 0, 0, 0) }) ),*];
    };
}

// Not every C library of Linux has these; where this program only computes, they are not called.
global_asm!(".weak pidfd_getpid", ".weak pidfd_spawnp");

refused! {
    chroot copy_file_range execvp fork mkfifo pidfd_getpid pidfd_spawnp posix_spawnp sendfile64 setgid setgroups setpgid setsid setuid
    splice waitid waitpid
}

const PTRACE: c_long = 101;

pub fn run() {
    for (name, call) in REFUSED {
        // Some give the number of their error, others leave it.
        let error = match call() {
            -1 => Error::last_os_error(),
            number => Error::from_raw_os_error(number),
        };
        println!("{name}: {error}");
    }
    // SAFETY: the arguments are texts that end, or null.
    unsafe {
        for _ in 0..2 {
            println!("syscall: {} {}", syscall(PTRACE, 0, 0, 0, 0), Error::last_os_error());
        }
        let library = dlopen(c"libssl.so.3".as_ptr(), 1);
        let error = dlerror();
        let error = if error.is_null() { c"(nothing)" } else { CStr::from_ptr(error) };
        println!("dlopen: {} {}", library.is_null(), error.to_string_lossy());
    }
    println!("spawn: {:?}", Command::new("ls").spawn().map(drop).map_err(|error| error.to_string()));
    for path in ["/proc/self/maps", "/sys/kernel", "/dev/urandom"] {
        println!("{path}: {:?}", fs::read_to_string(path).map_err(|error| error.to_string()));
    }
}

/// Makes a system call as programs do that know their kernel.
#[inline(never)]
pub fn system_call(number: u64) {
    let result: i64;
    // SAFETY: with these arguments none of those that are tried does anything on Linux, either.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as i64 => result,
            in("rdi") u64::MAX, in("rsi") 0, in("rdx") 0, in("r10") 0, in("r8") 0, in("r9") 0,
            out("rcx") _, out("r11") _,
            options(nostack),
        );
    }
    println!("answered: {result}");
}
