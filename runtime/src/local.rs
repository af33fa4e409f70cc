//! State of the one thread of a guest.
//!
//! In an image there is one thread, and it is interrupted only where it has said so, so a plain static serves; on a host
//! every thread is a machine of its own.

/// A static of the guest's only thread.
#[cfg(feature = "image")]
pub(crate) struct Local<T>(T);

#[cfg(feature = "image")]
impl<T> Local<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }

    /// Calls `f` with the value.
    ///
    /// # Panics
    /// If a computation calls it that could be interrupted meanwhile.
    #[inline(always)]
    pub(crate) fn with<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        crate::compute::gate::assert_disarmed();
        f(&self.0)
    }

    /// Calls `f` with the value; a computation that calls it is not interrupted meanwhile.
    #[inline(always)]
    pub(crate) fn with_masked<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        crate::compute::gate::masked(|| f(&self.0))
    }
}

// SAFETY: an image has exactly one thread and takes no interrupts but upcalls. Those come only while the gate is armed:
// `with` refuses to access the value then, and `with_masked` changes that. So it is never accessed concurrently.
#[cfg(feature = "image")]
unsafe impl<T> Sync for Local<T> {}

/// What [`Local`] has on a host.
#[cfg(not(feature = "image"))]
pub(crate) trait WithMasked<T> {
    /// As in an image: what a computation asks to be interrupted by meanwhile waits until it is over.
    fn with_masked<R>(&'static self, f: impl FnOnce(&T) -> R) -> R;
}

#[cfg(not(feature = "image"))]
impl<T> WithMasked<T> for std::thread::LocalKey<T> {
    fn with_masked<R>(&'static self, f: impl FnOnce(&T) -> R) -> R {
        crate::compute::gate::masked(|| self.with(f))
    }
}

/// Declares statics of the guest's only thread; each has `with(|value| …)`, for tasks, and `with_masked(|value| …)`, for
/// computations too.
macro_rules! local {
    ($( $(#[$attribute:meta])* $visibility:vis static $name:ident: $type:ty = $value:expr; )*) => { $(
        #[cfg(feature = "image")]
        $(#[$attribute])* $visibility static $name: $crate::local::Local<$type> = $crate::local::Local::new($value);
        #[cfg(not(feature = "image"))]
        std::thread_local! { $(#[$attribute])* $visibility static $name: $type = const { $value }; }
    )* };
}
