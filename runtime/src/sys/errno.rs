//! The error number of each thread. Functions return theirs, negated; who has not kept the result may ask for it later.

use crate::thread::{self, Masked};

/// What a function returns: a number that is an error number, negated, if it is below zero.
pub(super) trait Returned: Copy {
    /// The error number, if it is one.
    fn errno(self) -> Option<i32>;
}

macro_rules! returned {
    ($($integer:ty)*) => { $(
        impl Returned for $integer {
            fn errno(self) -> Option<i32> {
                (self < 0).then_some((self as i32).wrapping_neg())
            }
        }
    )* };
}

returned!(i32 i64 isize);

/// Keeps the error number of what a function returns, if that is one.
pub(super) fn noted<T: Returned>(returned: T) -> T {
    if let Some(errno) = returned.errno() {
        thread::set_errno(errno);
    }
    returned
}

/// The error number of the calling thread's last function that has failed; 0 when none has.
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_get_errno() -> i32 {
    let _masked = Masked::new();
    thread::errno()
}

/// As [`sys_get_errno`].
#[cfg_attr(feature = "image", unsafe(no_mangle))]
pub extern "C" fn sys_errno() -> i32 {
    sys_get_errno()
}
