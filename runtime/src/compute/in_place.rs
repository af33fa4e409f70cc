//! A machine on which stacks cannot be changed: computations run to their ends where they are called.

/// Whether this machine can change stacks.
pub(crate) const AVAILABLE: bool = false;

/// Nothing is ever saved.
#[derive(Debug)]
pub(crate) struct SaveArea;

impl SaveArea {
    pub(crate) const fn new() -> Self {
        Self
    }

    /// Nothing is ever interrupted.
    #[cfg(feature = "image")]
    pub(crate) fn stack(&self) -> u64 {
        0
    }
}

/// There are no upcalls.
pub(super) fn handler() -> u64 {
    0
}

/// # Safety
/// Never to be called.
pub(crate) unsafe fn switch(_from: *mut u64, _to: u64) -> bool {
    unreachable!("computations are run in place")
}

/// # Safety
/// None is needed.
pub(crate) unsafe fn prepare(_top: *mut u8, _entry: extern "C" fn() -> !) -> u64 {
    0
}

/// # Safety
/// Never to be called.
#[cfg(feature = "image")]
pub(crate) unsafe fn resume(_area: *const SaveArea) -> bool {
    unreachable!("computations are run in place")
}
