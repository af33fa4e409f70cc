//! How a program ends.

use core::fmt::Display;

pub use hypercall::layout::CODE_NAME;

/// What `main` may return.
pub trait Termination {
    /// Reports an error on the console if there is one, and gives the exit code: 0 for success.
    fn report(self) -> i32;
}

impl Termination for () {
    fn report(self) -> i32 {
        0
    }
}

impl Termination for i32 {
    fn report(self) -> i32 {
        self
    }
}

impl Termination for core::convert::Infallible {
    fn report(self) -> i32 {
        match self {}
    }
}

impl<T: Termination, E: Display> Termination for Result<T, E> {
    fn report(self) -> i32 {
        match self {
            Ok(value) => value.report(),
            Err(error) => {
                crate::println!("error: {error}");
                1
            }
        }
    }
}

/// Ends the program as failed, with a report: the message, and the addresses of the calls that have led here, for which the
/// supervisor finds names. Both replicas report the same.
pub fn abort(message: core::fmt::Arguments<'_>) -> ! {
    #[cfg(feature = "image")]
    crate::panic::abort(message);
    #[cfg(not(feature = "image"))]
    panic!("{message}");
}

/// As [`abort`], with the addresses of calls that were noted earlier instead of those that have led here.
#[cfg(feature = "image")]
pub fn abort_at(message: core::fmt::Arguments<'_>, calls: &[usize]) -> ! {
    crate::panic::abort_at(message, calls)
}

/// Ends the program at once, without running destructors. Console output still buffered is written first.
pub fn exit(code: i32) -> ! {
    // Also when a computation calls it.
    crate::compute::gate::disarm();
    crate::console::flush();
    crate::platform::exit(code)
}
