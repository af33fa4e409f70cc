//! The edge to the shim: hypercalls, and what the shim says at boot.
//!
//! In an image a hypercall is an instruction. On a host it is a call into the machine that the thread runs, see
//! the module `host`.

#[cfg(not(feature = "image"))]
pub(crate) use crate::host::calls::{
    boot, console_write, entropy, exit, guard, preempt, thread_pointer, unguard, wait,
};
#[cfg(feature = "image")]
pub(crate) use image::{
    boot, console_write, entropy, exit, guard, install, panic_report, preempt, thread_pointer, unguard, wait,
};

#[cfg(feature = "image")]
mod image {
    use core::ptr;
    use core::sync::atomic::AtomicPtr;
    use core::sync::atomic::Ordering::Relaxed;

    use hypercall::layout::BootInfo;
    use hypercall::table::guest;

    /// Not by `local!`: computations may look at it.
    static BOOT: AtomicPtr<BootInfo> = AtomicPtr::new(ptr::null_mut());

    /// Remembers what the shim said at boot.
    pub(crate) fn install(boot: &'static BootInfo) {
        BOOT.store(ptr::from_ref(boot).cast_mut(), Relaxed);
    }

    /// What the shim said at boot. `None` only before the entry point has run.
    #[inline]
    pub(crate) fn boot() -> Option<&'static BootInfo> {
        // SAFETY: null, or what `install` has got; it is never written to.
        unsafe { BOOT.load(Relaxed).as_ref() }
    }

    /// Ends the epoch; see [`guest::wait`].
    #[inline]
    pub(crate) fn wait(deadline_ns: u64) {
        // SAFETY: no pointer is passed, and this build runs as a guest only.
        unsafe { guest::wait(deadline_ns) };
    }

    /// Ends the program.
    pub(crate) fn exit(code: i32) -> ! {
        loop {
            // SAFETY: as for `wait`.
            unsafe { guest::exit(u64::from(code as u32)) };
        }
    }

    /// Stops the guest with a report.
    pub(crate) fn panic_report(text: &[u8]) -> ! {
        loop {
            // SAFETY: the slice is readable memory of this guest.
            unsafe { guest::panic_report(text.as_ptr() as u64, text.len() as u64) };
        }
    }

    /// Registers for upcalls, see [`guest::preempt`]: 0, or a negative error number.
    pub(crate) fn preempt(block: u64, handler: u64) -> i64 {
        // SAFETY: the caller passes a static of its own that is made for this, and a handler that keeps all registers.
        unsafe { guest::preempt(block, handler) }
    }

    /// Sets the thread pointer, see [`guest::thread_pointer`]: 0, or a negative error number.
    pub(crate) fn thread_pointer(address: u64) -> i64 {
        // SAFETY: no memory is read or written; compiled code here uses no thread pointer but through what the caller sets.
        unsafe { guest::thread_pointer(address) }
    }

    /// Makes a page of the heap a guard with a text for reports, see [`guest::guard`]: 0, or a negative error number.
    pub(crate) fn guard(address: u64, text: &[u8]) -> i64 {
        // SAFETY: the caller passes a page of its own that nobody touches as long as it is a guard; the text is readable.
        unsafe { guest::guard(address, text.as_ptr() as u64, text.len() as u64) }
    }

    /// Makes a guard a page like any other, see [`guest::unguard`]: 0, or a negative error number.
    pub(crate) fn unguard(address: u64) -> i64 {
        // SAFETY: no memory is read or written.
        unsafe { guest::unguard(address) }
    }

    /// Appends to the console: bytes taken, or a negative error number.
    pub(crate) fn console_write(text: &[u8]) -> i64 {
        // SAFETY: as for `panic_report`.
        unsafe { guest::console_write(text.as_ptr() as u64, text.len() as u64) }
    }

    /// Fills `place` with the shim's random bytes: 0, or a negative error number.
    pub(crate) fn entropy(place: &mut [u8]) -> i64 {
        // SAFETY: the slice is writable memory of this guest, borrowed exclusively.
        unsafe { guest::entropy(place.as_mut_ptr() as u64, place.len() as u64) }
    }
}
