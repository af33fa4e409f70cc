//! What the native half of the platform does for the shim: instructions that no compiler writes, and memory that is not the
//! shim's linear memory. `native/machine.c` and `native/start.S` have it.
//!
//! The native half is trusted as an instruction is; it checks nothing. Addresses of type `u32` are the machine's own,
//! pointers are the shim's.

use super::context::Context;

#[link(wasm_import_module = "machine")]
unsafe extern "C" {
    /// Writes to the serial port.
    pub fn console(text: *const u8, bytes: usize);
    /// Copies the command line, cut to `bytes`, and returns its length there.
    pub fn command_line(text: *mut u8, bytes: usize) -> usize;
    /// Ends the machine.
    pub fn power_off() -> !;
    /// The interval timer (CR16), which counts up.
    pub safe fn ticks() -> u32;
    /// The interval timer interrupts when it reaches this.
    pub fn set_alarm(ticks: u32);
    /// From now on the timer is set by an instruction at this address, which is put there.
    pub fn set_timer_at(address: u32);
    /// Sleeps until an interrupt is pending.
    pub fn sleep();
    /// The interrupts that are pending (CR23), which are so no more.
    pub fn take_interrupts() -> u32;
    /// Which interrupts wake and, while the guest runs, interrupt (CR15).
    pub fn set_interrupt_mask(mask: u32);
    /// Lets the guest run until a trap, whose number is returned.
    pub fn run_guest(context: *mut Context) -> u32;
    /// As [`run_guest`], with the interval timer set to `ticks` steps from a reading shortly before; then `delay` turns of two
    /// instructions pass before the guest goes on. The upper half of the result is the distance from that reading to the one
    /// on the way out, without the instructions of the handlers that have filled in translations.
    pub fn run_counted(context: *mut Context, ticks: u32, delay: u32) -> u64;
    /// The guest's translations: `pages` pages from the virtual address `low` on; `distance` less is the physical one.
    pub fn map_guest(low: u32, pages: u32, distance: u32);
    /// The rights of a page of the guest, as `idtlbp` has them; 0: not mapped.
    pub fn rights(page: u32) -> u32;
    /// Sets them, and forgets what the processor knows of the page.
    pub fn set_rights(page: u32, rights: u32);
    /// Loads of the machine's memory and devices, in its own byte order.
    pub fn load_u8(address: u32) -> u32;
    /// See [`load_u8`].
    pub fn load_u16(address: u32) -> u32;
    /// See [`load_u8`].
    pub fn load_u32(address: u32) -> u32;
    /// Stores there.
    pub fn store_u8(address: u32, value: u32);
    /// See [`store_u8`].
    pub fn store_u16(address: u32, value: u32);
    /// See [`store_u8`].
    pub fn store_u32(address: u32, value: u32);
    /// Everything before is done before everything behind.
    pub fn barrier();
    /// Copies from the machine's memory.
    pub fn copy_in(to: *mut u8, from: u32, bytes: usize);
    /// Copies to the machine's memory.
    pub fn copy_out(to: u32, from: *const u8, bytes: usize);
}

/// A little-endian register of a device, or a word of memory that a device reads and writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub u32);

impl Place {
    /// The place so many bytes further.
    pub fn at(self, offset_bytes: u32) -> Self {
        Self(self.0.wrapping_add(offset_bytes))
    }

    /// Reads a byte.
    ///
    /// # Safety
    /// There is a device or memory of the shim's own at the place, here and below.
    pub unsafe fn read_u8(self) -> u8 {
        // SAFETY: the caller vouches for the place.
        unsafe { load_u8(self.0) as u8 }
    }

    /// Reads two bytes.
    ///
    /// # Safety
    /// As for [`Self::read_u8`], and aligned.
    pub unsafe fn read_u16(self) -> u16 {
        // SAFETY: as above.
        unsafe { (load_u16(self.0) as u16).swap_bytes() }
    }

    /// Reads four bytes.
    ///
    /// # Safety
    /// As for [`Self::read_u8`], and aligned.
    pub unsafe fn read_u32(self) -> u32 {
        // SAFETY: as above.
        unsafe { load_u32(self.0).swap_bytes() }
    }

    /// Writes a byte.
    ///
    /// # Safety
    /// As for [`Self::read_u8`], and what the device does with it is harmless.
    pub unsafe fn write_u8(self, value: u8) {
        // SAFETY: as above.
        unsafe { store_u8(self.0, value.into()) }
    }

    /// Writes two bytes.
    ///
    /// # Safety
    /// As for [`Self::write_u8`], and aligned.
    pub unsafe fn write_u16(self, value: u16) {
        // SAFETY: as above.
        unsafe { store_u16(self.0, value.swap_bytes().into()) }
    }

    /// Writes four bytes.
    ///
    /// # Safety
    /// As for [`Self::write_u8`], and aligned.
    pub unsafe fn write_u32(self, value: u32) {
        // SAFETY: as above.
        unsafe { store_u32(self.0, value.swap_bytes()) }
    }
}
