//! Thread-local storage: what each thread has of its own.
//!
//! The linker lays all thread-local variables out in one block, and the compiler finds them at fixed distances below the
//! thread pointer (*ELF Handling For Thread-Local Storage*, Drepper 2013, variant II): the block starts at the thread
//! pointer less its size, rounded up to its alignment, and the word at the thread pointer holds the thread pointer. Behind
//! that word lies what this library keeps for a thread.

use alloc::alloc::alloc_zeroed;
#[cfg(any(feature = "image", test))]
use alloc::alloc::dealloc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::{Cell, RefCell};
use core::ffi::c_void;
use core::ptr::{self, NonNull};

/// Thread-specific values (`pthread_key_create`) that there can be; key 0 is never given out, because `std` takes it for
/// none.
pub(crate) const KEYS: usize = 128;

/// A destructor of a thread-local variable, and the variable.
pub(crate) type Destructor = (unsafe extern "C" fn(*mut c_void), *mut c_void);

/// What lies at the thread pointer.
#[repr(C)]
pub(crate) struct Control {
    /// Its own address.
    itself: Cell<*const Control>,
    /// Compilers for other systems expect things here (a stack protector's word at 40).
    reserved: [usize; 7],
    /// The error number.
    pub(crate) errno: Cell<i32>,
    /// The thread's name, with its terminating zero.
    pub(crate) name: Cell<[u8; 16]>,
    /// Values by key.
    pub(crate) values: [Cell<*mut c_void>; KEYS],
    /// To be run when the thread ends, last first.
    pub(crate) destructors: RefCell<Vec<Destructor>>,
    /// Where it has panicked last.
    #[cfg(feature = "image")]
    pub(crate) panicked: crate::panics::Trace,
}

impl Control {
    fn new() -> Self {
        Self {
            itself: Cell::new(ptr::null()),
            reserved: [0; 7],
            errno: Cell::new(0),
            name: Cell::new([0; 16]),
            values: [const { Cell::new(ptr::null_mut()) }; KEYS],
            destructors: RefCell::new(Vec::new()),
            #[cfg(feature = "image")]
            panicked: crate::panics::Trace::new(),
        }
    }
}

/// How the linker has laid out the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Template {
    /// Its initial contents, of which zeros at the end are left out.
    pub(crate) contents: &'static [u8],
    /// Its size in bytes.
    pub(crate) bytes: usize,
    /// Its alignment in bytes, a power of two.
    pub(crate) align_bytes: usize,
}

/// Where things lie in the memory of a thread: an offset for the block, one for [`Control`], and all of it.
fn plan(template: &Template) -> (usize, usize, Layout) {
    let align_bytes = template.align_bytes.max(align_of::<Control>());
    let block_bytes = template.bytes.next_multiple_of(template.align_bytes);
    let control = block_bytes.next_multiple_of(align_bytes);
    let layout = Layout::from_size_align(control + size_of::<Control>(), align_bytes);
    // The linker would not have laid out what does not fit in memory.
    (control - block_bytes, control, layout.unwrap_or(Layout::new::<Control>()))
}

/// Makes the storage of a thread, if there is memory for it.
fn make(template: &Template) -> Option<NonNull<Control>> {
    let (block, control, layout) = plan(template);
    // SAFETY: the layout holds at least a `Control`.
    let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
    // SAFETY: both places lie in the new memory, `control` is aligned, and the contents are not longer than the block.
    unsafe {
        base.add(block).copy_from_nonoverlapping(NonNull::from(template.contents).cast(), template.contents.len());
        let control = base.add(control).cast::<Control>();
        control.write(Control::new());
        control.as_ref().itself.set(control.as_ptr());
        Some(control)
    }
}

/// Gives the storage of a thread back.
///
/// # Safety
/// `control` came from `make` with this template, and is not used any more.
#[cfg(any(feature = "image", test))]
unsafe fn unmake(template: &Template, control: NonNull<Control>) {
    let (_, offset, layout) = plan(template);
    // SAFETY: the caller's.
    unsafe {
        control.drop_in_place();
        dealloc(control.cast::<u8>().sub(offset).as_ptr(), layout);
    }
}

#[cfg(feature = "image")]
mod place {
    use core::arch::asm;
    use core::ptr::NonNull;
    use core::slice;

    use super::{Control, Template};

    unsafe extern "C" {
        // From the linker script; the last two are numbers, not places.
        static __tls_start: u8;
        static __tls_file_bytes: u8;
        static __tls_bytes: u8;
        static __tls_align_bytes: u8;
    }

    /// The template of this program.
    fn template() -> Template {
        let number = |symbol: *const u8| symbol.addr();
        // SAFETY: the linker script puts that many bytes there.
        let contents = unsafe { slice::from_raw_parts(&raw const __tls_start, number(&raw const __tls_file_bytes)) };
        let align_bytes = number(&raw const __tls_align_bytes).max(1);
        Template { contents, bytes: number(&raw const __tls_bytes), align_bytes }
    }

    /// The storage of a thread that has not started.
    #[derive(Debug)]
    pub(crate) struct Storage(NonNull<Control>);

    impl Storage {
        /// Makes it, if there is memory for it.
        pub(crate) fn new() -> Option<Self> {
            super::make(&template()).map(Self)
        }

        /// Gives it to the running thread. To be called before anything that uses it.
        pub(crate) fn enter(self) {
            runtime::thread::set_pointer(self.0.as_ptr().addr() as u64);
            core::mem::forget(self);
        }
    }

    impl Drop for Storage {
        fn drop(&mut self) {
            // SAFETY: it was made by `new`, and no thread has it.
            unsafe { super::unmake(&template(), self.0) };
        }
    }

    /// Takes the running thread's storage away. Nothing that uses it may run on this thread afterwards.
    pub(crate) fn leave() {
        let control = NonNull::from(current());
        runtime::thread::set_pointer(0);
        // SAFETY: it was made by `Storage::new`, and is out of reach now.
        unsafe { super::unmake(&template(), control) };
    }

    /// The running thread's.
    pub(super) fn current<'a>() -> &'a Control {
        let control: *const Control;
        // SAFETY: every thread of a program in an image has entered its storage first; the word at the thread pointer is the
        // address of its own `Control`, which lives until `leave`.
        unsafe {
            asm!("mov {}, fs:[0]", out(reg) control, options(nostack, preserves_flags, readonly));
            &*control
        }
    }
}

#[cfg(feature = "image")]
pub(crate) use place::{Storage, leave};

/// Calls `f` with what the running thread has.
#[cfg(feature = "image")]
pub(crate) fn with_control<R>(f: impl FnOnce(&Control) -> R) -> R {
    f(place::current())
}

/// Calls `f` with what the running thread has. On a host the thread pointer is the host's; all threads of a test's machine
/// share one storage.
#[cfg(not(feature = "image"))]
pub(crate) fn with_control<R>(f: impl FnOnce(&Control) -> R) -> R {
    extern crate std;
    std::thread_local! {
        static CONTROL: &'static Control = {
            // SAFETY: it is never given back.
            unsafe { make(&Template { contents: &[], bytes: 0, align_bytes: 1 }).expect("memory").as_ref() }
        };
    }
    CONTROL.with(|control| f(control))
}

/// On a host there is one storage, and it is there.
#[cfg(not(feature = "image"))]
#[derive(Debug)]
pub(crate) struct Storage;

#[cfg(not(feature = "image"))]
impl Storage {
    #[expect(clippy::unnecessary_wraps, reason = "in an image there may be no memory for it")]
    pub(crate) fn new() -> Option<Self> {
        Some(Self)
    }

    pub(crate) fn enter(self) {}
}

#[cfg(not(feature = "image"))]
pub(crate) fn leave() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_block_ends_at_the_thread_pointer_whatever_its_size_and_alignment() {
        for align_bytes in [1, 4, 8, 16, 64, 4096] {
            for bytes in [5, 8, 100, 4097] {
                let contents = &[1, 2, 3, 4, 5];
                let template = Template { contents, bytes, align_bytes };
                let control = make(&template).expect("memory");
                let pointer = control.as_ptr().addr();
                assert!(pointer.is_multiple_of(align_bytes), "{template:?}");
                // SAFETY: the storage was just made; the block lies below the thread pointer.
                unsafe {
                    assert_eq!(control.as_ref().itself.get(), control.as_ptr().cast_const());
                    let start = control.cast::<u8>().sub(bytes.next_multiple_of(align_bytes));
                    let block = core::slice::from_raw_parts(start.as_ptr(), bytes);
                    assert_eq!(block[..5], *contents);
                    assert!(block[5..].iter().all(|byte| *byte == 0));
                    unmake(&template, control);
                }
            }
        }
    }
}
