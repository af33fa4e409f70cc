//! Port-mapped input and output.

use core::arch::asm;

/// QEMU's debug console (`-device isa-debugcon,iobase=0xe9`).
const DEBUG_CONSOLE: u16 = 0xe9;

/// Writes a byte.
///
/// # Safety
/// The port's device does nothing that breaks memory safety.
pub unsafe fn write_u8(port: u16, value: u8) {
    // SAFETY: the caller vouches for the device.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes a 32-bit word.
///
/// # Safety
/// As for [`write_u8`].
pub unsafe fn write_u32(port: u16, value: u32) {
    // SAFETY: the caller vouches for the device.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a 32-bit word.
///
/// # Safety
/// As for [`write_u8`].
pub unsafe fn read_u32(port: u16) -> u32 {
    let value;
    // SAFETY: the caller vouches for the device.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// The debug console as a formatter. Works from the first instruction on.
pub struct DebugConsole;

impl core::fmt::Write for DebugConsole {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            // SAFETY: the port belongs to the debug console, or to nobody.
            unsafe { write_u8(DEBUG_CONSOLE, byte) };
        }
        Ok(())
    }
}
