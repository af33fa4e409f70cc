//! The way from the shim into `main`.

use core::future::Future;

use hypercall::layout::{BootInfo, GuestNote};
use hypercall::table::guest;
use hypercall::{ABI_FINGERPRINT, ABI_VERSION};

use crate::exit::Termination;
use crate::{block, executor, heap, net, platform};

#[used]
#[unsafe(link_section = ".note.pollux")]
static NOTE: GuestNote = GuestNote::CURRENT;

// The shim enters here in ring 3 with the address of the BootInfo in rdi. A zero frame pointer ends backtraces.
// Elsewhere the platform's native half calls `pollux_main` (hypervisor-shim/src/hppa/native/guest.c).
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".section .text.entry, \"ax\", @progbits",
    ".globl _start",
    ".type _start, @function",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call pollux_main",
    "ud2",
    ".size _start, . - _start",
    ".text",
);

/// Prepares the guest and runs `main` to its end. Only [`main!`](crate::main) calls it.
///
/// # Safety
/// `boot` is what the shim passed to the entry point, and this is called once.
pub unsafe fn start<M, F>(boot: *const BootInfo, main: M) -> !
where
    M: FnOnce() -> F + 'static,
    F: Future<Output: Termination> + 'static,
{
    // SAFETY: no pointers. A shim of another ABI stops the guest here, before its structures are read.
    if unsafe { guest::hello(u64::from(ABI_VERSION), ABI_FINGERPRINT) } != 0 {
        platform::exit(1);
    }
    // SAFETY: the shim keeps the structure mapped read-only for as long as the guest runs.
    let boot = unsafe { &*boot };
    platform::install(boot);
    // SAFETY: the shim hands this range to the guest as free memory, and nothing was allocated before.
    unsafe { heap::install(boot.heap_base as usize, boot.heap_bytes as usize) };
    net::attach();
    block::attach();
    let code = executor::block_on(async move { main().await.report() });
    crate::exit::exit(code)
}

/// Makes an `async fn` without arguments the program: defines the entry point of the image.
///
/// The function returns a [`Termination`](crate::exit::Termination): nothing, an exit code, or a `Result` whose
/// error is printed.
#[macro_export]
macro_rules! main {
    ($main:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn pollux_main(boot: *const $crate::entry::Boot) -> ! {
            // SAFETY: the entry code passes on what the shim gave, once.
            unsafe { $crate::entry::start(boot, $main) }
        }
    };
}

/// What the entry code passes on.
pub type Boot = BootInfo;
