//! What the system is and has.

use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};
use core::ptr;

use runtime::sys;

use crate::errno::{fail, size};
use crate::refused;

c_functions! {
    /// Random bytes, the same in both replicas: how many.
    fn getrandom(place: *mut c_void, bytes: usize, _flags: c_uint) -> isize {
        // SAFETY: the caller's. All of them are fit for secrets, so no flag matters.
        size(unsafe { sys::sys_read_entropy(place.cast(), bytes, 0) })
    }

    /// A number about the system. `EINVAL` for one that it does not know.
    fn sysconf(name: c_int) -> c_long {
        match name {
            libc::_SC_PAGESIZE => sys::sys_getpagesize().into(),
            libc::_SC_NPROCESSORS_ONLN | libc::_SC_NPROCESSORS_CONF => sys::sys_available_parallelism() as c_long,
            libc::_SC_IOV_MAX => hermit_abi::IOV_MAX as c_long,
            libc::_SC_CLK_TCK => 100,
            // No limit that could be named.
            libc::_SC_GETPW_R_SIZE_MAX | libc::_SC_OPEN_MAX => -1,
            _ => fail(libc::EINVAL),
        }
    }

    /// The one processor.
    fn sched_getaffinity(_process: libc::pid_t, bytes: usize, set: *mut c_void) -> c_int {
        if bytes < size_of::<u64>() || !bytes.is_multiple_of(size_of::<u64>()) {
            return fail(libc::EINVAL);
        }
        // SAFETY: the caller's; at least a word.
        unsafe {
            set.write_bytes(0, bytes);
            set.cast::<u8>().write(1);
        }
        0
    }

    /// What Linux tells a program about itself: nothing.
    fn getauxval(_kind: c_ulong) -> c_ulong {
        fail::<c_int>(libc::ENOENT);
        0
    }

    /// The C library whose names and types these are: the oldest that `std` still knows.
    fn gnu_get_libc_version() -> *const c_char {
        c"2.17".as_ptr()
    }

    /// Whether a function exists in a later C library than `std` was linked for: none does.
    fn dlsym(_library: *mut c_void, _name: *const c_char) -> *mut c_void {
        ptr::null_mut()
    }

    /// Libraries are linked before a program starts: null, and a line on the console that says which was wanted.
    fn dlopen(name: *const c_char, _flags: c_int) -> *mut c_void {
        // SAFETY: the caller's.
        let name = if name.is_null() { c"the program itself" } else { unsafe { CStr::from_ptr(name) } };
        refused::note(format_args!("dlopen of {}", name.to_str().unwrap_or("?")));
        ptr::null_mut()
    }

    /// What every [`dlopen`] and [`dlsym`] has failed with.
    fn dlerror() -> *const c_char {
        c"there are no shared libraries in an image: link the library into the program".as_ptr()
    }

    /// There is nothing to close.
    fn dlclose(_library: *mut c_void) -> c_int {
        -1
    }

    /// The entry of a user in a file that there is not: none.
    fn getpwuid_r(
        _user: libc::uid_t, _entry: *mut libc::passwd, _place: *mut c_char, _bytes: usize,
        found: *mut *mut libc::passwd,
    ) -> c_int {
        // SAFETY: the caller's.
        unsafe { found.write(ptr::null_mut()) };
        0
    }
}
