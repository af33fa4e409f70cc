//! The bootable shim. Everything is in the library; the platform's assembly enters it.
#![no_std]
#![no_main]

use core::fmt::Write as _;

use hypervisor_shim::platform::{DebugConsole, stop_machine};

/// An error in the shim itself. It is reported on the debug console and ends this replica; its peer goes on.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    let _ = writeln!(DebugConsole, "shim panic: {info}");
    stop_machine()
}
