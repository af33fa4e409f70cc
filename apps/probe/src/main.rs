//! The bootable image of [`probe`].
#![no_std]
#![no_main]

/// Like `runtime::main!`, but the boot information is remembered: it says where the rings lie.
#[unsafe(no_mangle)]
extern "C" fn pollux_main(boot: *const runtime::entry::Boot) -> ! {
    probe::rings::remember(boot as u64);
    // SAFETY: the entry code passes on what the shim gave, once.
    unsafe { runtime::entry::start(boot, probe::main) }
}
