//! Error numbers: `sys_` functions return them negated, C functions leave them at a place of each thread.

use crate::tls;

c_functions! {
    /// Where the calling thread's error number is.
    fn __errno_location() -> *mut i32 {
        tls::with_control(|control| control.errno.as_ptr())
    }
}

/// Leaves an error number and gives what C functions return then.
pub(crate) fn fail<T: From<i8>>(errno: i32) -> T {
    tls::with_control(|control| control.errno.set(errno));
    T::from(-1)
}

/// The result of a `sys_` function as C has it.
pub(crate) fn result(returned: i32) -> i32 {
    if returned < 0 { fail(-returned) } else { returned }
}

/// As [`result`], for sizes.
pub(crate) fn size(returned: isize) -> isize {
    if returned < 0 { fail(returned.unsigned_abs() as i32) } else { returned }
}
