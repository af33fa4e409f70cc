//! WebAssembly, which the images for PA-RISC are translated from: there are no instructions but those that every program is
//! made of. A linear address A of four bytes is the machine's address -A - 4.

use core::hint::black_box;

/// Where the shim lies, as the guest's linear memory would have it: 1 MiB in the machine's.
pub const SHIM: u64 = 0xffef_fffc;
/// Where the bridge to the devices is: 0xfff80000 in the machine's.
pub const DEVICE: u64 = 0x0007_fffc;

/// Commits a fault that other processors do not know: there is none.
pub fn fault(_kind: &str) -> bool {
    false
}

/// An instruction that there is not.
pub fn invalid() {
    core::arch::wasm32::unreachable()
}

/// Reads from anywhere.
#[inline(never)]
pub fn read(address: u64) {
    // SAFETY: none; the shim must stop the guest here. The compiler knows nothing of the address.
    black_box(unsafe { black_box(address as usize as *const u32).read_volatile() });
}

/// Writes to anywhere.
#[inline(never)]
pub fn write(address: u64) {
    // SAFETY: as for `read`.
    unsafe { black_box(address as usize as *mut u32).write_volatile(0) }
}

/// The time stamp: the timer is out of a program's reach.
pub fn time_stamp() -> Option<u64> {
    None
}

/// A number of the processor's own random generator: it has none.
pub fn random() -> Option<u64> {
    None
}

/// Stores such a number; whether there is one.
///
/// # Safety
/// None: it never does.
pub unsafe fn store_random(_place: *mut u64) -> bool {
    false
}

/// Stores a part of the processor's name; whether it has one.
///
/// # Safety
/// None: it never does.
pub unsafe fn store_name(_place: *mut u64) -> bool {
    false
}

/// Whether every register is kept while others run: a program here has none of its own that it could look at.
pub fn registers_are_kept(_rounds: u64) -> bool {
    false
}
