//! What there is no meaning for in an image.

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::fs;
use std::io::Error;
use std::process::Command;

unsafe extern "C" {
    fn fork() -> c_int;
    fn execvp(path: *const c_char, arguments: *const *const c_char) -> c_int;
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlerror() -> *const c_char;
    fn syscall(number: c_long, ...) -> c_long;
}

const PTRACE: c_long = 101;

pub fn run() {
    let failed = || Error::last_os_error().to_string();
    // SAFETY: the arguments are texts that end, or null.
    unsafe {
        println!("fork: {} {}", fork(), failed());
        println!("execvp: {} {}", execvp(c"ls".as_ptr(), [c"ls".as_ptr(), std::ptr::null()].as_ptr()), failed());
        println!("syscall: {} {}", syscall(PTRACE, 0, 0, 0, 0), failed());
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
