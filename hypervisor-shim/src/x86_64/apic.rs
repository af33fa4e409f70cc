//! Interrupt controllers: the local APIC with its timer, and the I/O APIC. (Intel SDM volume 3, chapter 11;
//! 82093AA data sheet.)

use super::port;

const LOCAL_APIC: u64 = 0xfee0_0000;
const IO_APIC: u64 = 0xfec0_0000;

const END_OF_INTERRUPT: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const REQUESTS: u64 = 0x200;
const TIMER_VECTOR: u64 = 0x320;
const TIMER_INITIAL: u64 = 0x380;
const TIMER_CURRENT: u64 = 0x390;
const TIMER_DIVIDE: u64 = 0x3e0;

const SPURIOUS_ENABLE: u32 = 0x100;
const DIVIDE_BY_ONE: u32 = 0b1011;

/// Vector of the timer.
pub const VECTOR_TIMER: u8 = 0x20;
/// Vectors of the I/O APIC's pins start here.
pub const VECTOR_PINS: u8 = 0x30;
/// Vector of spurious interrupts.
pub const VECTOR_SPURIOUS: u8 = 0xff;

fn write(register: u64, value: u32) {
    // SAFETY: the local APIC's page is mapped and nothing else is there.
    unsafe { core::ptr::write_volatile((LOCAL_APIC + register) as *mut u32, value) }
}

fn read(register: u64) -> u32 {
    // SAFETY: as for `write`.
    unsafe { core::ptr::read_volatile((LOCAL_APIC + register) as *const u32) }
}

/// Switches the local APIC on and the old interrupt controllers off.
///
/// # Safety
/// The interrupt descriptor table is loaded.
pub unsafe fn initialise() {
    // SAFETY: the ports are the two 8259 masks, or nobody's.
    unsafe {
        port::write_u8(0x21, 0xff);
        port::write_u8(0xa1, 0xff);
    }
    write(SPURIOUS, SPURIOUS_ENABLE | u32::from(VECTOR_SPURIOUS));
    write(TIMER_DIVIDE, DIVIDE_BY_ONE);
    write(TIMER_VECTOR, u32::from(VECTOR_TIMER));
}

/// Tells the local APIC that the interrupt was handled.
pub fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Starts the timer, one-shot. QEMU's local APIC counts nanoseconds.
pub fn arm_timer(ticks: u32) {
    write(TIMER_INITIAL, ticks.max(1));
}

/// Whether the timer's interrupt waits to be taken.
pub fn timer_is_pending() -> bool {
    read(REQUESTS + 0x10 * u64::from(VECTOR_TIMER / 32)) & (1 << (VECTOR_TIMER % 32)) != 0
}

/// Ticks left.
pub fn timer_left() -> u32 {
    read(TIMER_CURRENT)
}

/// Routes a pin of the I/O APIC to its vector, edge triggered, and returns the vector.
///
/// Edge triggering saves an exchange with the I/O APIC an interrupt; the price is that a device must be
/// acknowledged before it can raise the next one, which `acknowledge_interrupts` does before every halt.
pub fn route_pin(pin: u8) -> u8 {
    let vector = VECTOR_PINS + pin;
    // SAFETY: the I/O APIC's page is mapped and nothing else is there.
    unsafe {
        let select = IO_APIC as *mut u32;
        let window = (IO_APIC + 0x10) as *mut u32;
        core::ptr::write_volatile(select, 0x10 + 2 * u32::from(pin) + 1);
        core::ptr::write_volatile(window, 0);
        core::ptr::write_volatile(select, 0x10 + 2 * u32::from(pin));
        core::ptr::write_volatile(window, u32::from(vector));
    }
    vector
}
