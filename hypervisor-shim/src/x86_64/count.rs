//! Counting the guest's instructions exactly, in place of the recovery counter of the paper's PA-RISC.
//!
//! Under QEMU's `-icount shift=S` the time stamp counter and the timer advance by 2^S nanoseconds an instruction and by
//! nothing else while the processor runs. So the distance between the stamps that `entry.s` takes on the way into the
//! guest and out of it, less the shim's own instructions between them, is the number of instructions that the guest has
//! retired; and a timer set to a number of instructions interrupts exactly after them. Three numbers of the shim's own
//! instructions are needed. They are measured at start, on code in ring 3 that counts itself, and checked.

use core::fmt;

use hypercall::layout::{GUEST_BASE, PAGE_BYTES};

use super::context::{Left, VirtualCpu, register};
use super::paging::AddressSpace;
use super::{apic, traps};
use crate::guest::{GuestMemory, Rights};

/// `1: inc r15; jmp 1b`: register and instruction pointer say how many instructions were retired.
const LOOP: [u8; 5] = [0x49, 0xff, 0xc7, 0xeb, 0xfb];
const LOOP_ADDRESS: u64 = GUEST_BASE;
const LOOP_JUMP: u64 = LOOP_ADDRESS + 3;
/// `syscall`.
const CALL: [u8; 2] = [0x0f, 0x05];
const CALL_ADDRESS: u64 = GUEST_BASE + 64;

const RFLAGS_FIXED: u64 = 0x2;
const RFLAGS_TRAP: u64 = 0x100;
const RFLAGS_INTERRUPT: u64 = 0x200;
const VECTOR_DEBUG: u64 = 1;

/// Steps of the single-stepped run.
const STEPS: u32 = 64;
/// Length of the slice by which the timer's lead is measured, in instructions.
const PROBE: u64 = 1000;
/// Lengths of the slices that check all three numbers.
const CHECKS: [u64; 12] = [1, 2, 3, 4, 5, 17, 100, 999, 1000, 4097, 65_536, 100_003];
/// The longest slice: the timer has 32 bits, and the shim wants to look after its devices now and then.
pub const MAX_SLICE: u64 = 1 << 19;
/// With it the longest slice still fits into the timer.
const MAX_SHIFT: u32 = 10;

/// Why instructions cannot be counted on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountError {
    /// The boot parameters name no `icount`.
    NotConfigured,
    /// The time stamp counter does not advance by whole instructions.
    Fraction {
        /// What lies between two stamps, in nanoseconds.
        distance_ns: u64,
    },
    /// A slice of known length was counted wrongly.
    Mismatch {
        /// What was measured.
        what: &'static str,
        /// Instructions that were retired.
        expected: u64,
        /// Instructions as counted.
        got: u64,
    },
    /// The code that counts itself did something else.
    Astray {
        /// Vector of the trap.
        vector: u64,
        /// Where.
        rip: u64,
    },
}

impl fmt::Display for CountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => {
                f.write_str("the machine was not started with -icount, without which it cannot count instructions")
            }
            Self::Fraction { distance_ns } => write!(
                f,
                "time stamps lie {distance_ns} ns apart, which is no whole number of instructions: is -icount on?"
            ),
            Self::Mismatch { what, expected, got } => {
                write!(f, "{what}: {expected} instructions were retired, {got} were counted")
            }
            Self::Astray { vector, rip } => {
                write!(f, "the calibration was left by trap {vector} at {rip:#x}")
            }
        }
    }
}

/// What was measured at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// An instruction takes 2^shift nanoseconds.
    shift: u32,
    /// The shim's instructions between the stamps when the guest is left by an exception or an interrupt.
    trap_overhead: u64,
    /// The same when it is left by a hypercall; the hypercall itself counts as the guest's.
    call_overhead: u64,
    /// The shim's instructions between the start of the timer and the guest's first one.
    lead: u64,
}

/// How a slice of the guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Why the guest was left.
    pub left: Left,
    /// Instructions retired, or `None` if the machine does not count any more.
    pub retired: Option<u64>,
}

impl Counter {
    /// Measures on a machine whose boot parameters say `icount=<shift>`.
    ///
    /// # Safety
    /// As for [`VirtualCpu::run`]; the guest is not loaded yet.
    pub unsafe fn calibrate(
        shift: Option<u32>,
        cpu: &mut VirtualCpu,
        space: &mut AddressSpace,
        memory: &GuestMemory,
    ) -> Result<Self, CountError> {
        let shift = shift.filter(|shift| *shift <= MAX_SHIFT).ok_or(CountError::NotConfigured)?;
        memory.write(LOOP_ADDRESS, &LOOP);
        memory.write(CALL_ADDRESS, &CALL);
        // SAFETY: the page is guest memory, and a page more than the caller's tables map does no harm.
        unsafe {
            space.map_guest(0, PAGE_BYTES, Rights::EXECUTE);
            space.activate();
        }
        // SAFETY: the caller vouches for the machine; the code just written does nothing but count and call.
        let counter = unsafe { Self::measure(shift, cpu) };
        space.unmap_guest(0, PAGE_BYTES);
        // SAFETY: as above.
        unsafe { space.activate() };
        memory.zero(0, PAGE_BYTES as usize);
        counter
    }

    /// # Safety
    /// As for [`VirtualCpu::run`]; [`LOOP`] and [`CALL`] are mapped.
    unsafe fn measure(shift: u32, cpu: &mut VirtualCpu) -> Result<Self, CountError> {
        let mut counter = Self { shift, trap_overhead: 0, call_overhead: 0, lead: 0 };
        // SAFETY: the caller's, for all calls.
        unsafe {
            counter.trap_overhead = counter.step(cpu)?.saturating_sub(1);
            for _ in 1..STEPS {
                expect("single step", 1, counter.step(cpu)?.wrapping_sub(counter.trap_overhead))?;
            }
            counter.lead = PROBE.saturating_sub(counter.timed(cpu, PROBE)?);
            for length in CHECKS {
                let retired = counter.timed(cpu, length + counter.lead)?;
                expect("timer", length, retired)?;
            }
            counter.call_overhead = counter.call(cpu)?.saturating_sub(1);
            expect("hypercall", 1, counter.call(cpu)?.wrapping_sub(counter.call_overhead))?;
        }
        Ok(counter)
    }

    /// One instruction of the loop, single-stepped; the distance in instructions.
    ///
    /// # Safety
    /// As for [`Self::measure`].
    unsafe fn step(&self, cpu: &mut VirtualCpu) -> Result<u64, CountError> {
        place(cpu, LOOP_ADDRESS, RFLAGS_FIXED | RFLAGS_TRAP);
        // SAFETY: the caller's.
        let (_, distance_ns) = unsafe { cpu.run_stamped(0) };
        let context = cpu.context();
        if context.vector != VECTOR_DEBUG || context.rip != LOOP_JUMP {
            return Err(CountError::Astray { vector: context.vector, rip: context.rip });
        }
        self.instructions(distance_ns).ok_or(CountError::Fraction { distance_ns })
    }

    /// Runs the loop until a timer of `ticks` instructions ends it; checks the count of instructions and returns it.
    ///
    /// # Safety
    /// As for [`Self::measure`].
    unsafe fn timed(&self, cpu: &mut VirtualCpu, ticks: u64) -> Result<u64, CountError> {
        place(cpu, LOOP_ADDRESS, RFLAGS_FIXED | RFLAGS_INTERRUPT);
        // SAFETY: the caller's.
        let (_, distance_ns) = unsafe { cpu.run_stamped((ticks << self.shift) as u32) };
        let context = cpu.context();
        if context.vector != u64::from(apic::VECTOR_TIMER) {
            return Err(CountError::Astray { vector: context.vector, rip: context.rip });
        }
        traps::classify(context);
        let counted = self.instructions(distance_ns).ok_or(CountError::Fraction { distance_ns })?;
        // Each turn retires two; one that has not jumped yet, one.
        let retired = 2 * context.general[register::R15] - u64::from(context.rip == LOOP_JUMP);
        expect("loop", retired, counted.wrapping_sub(self.trap_overhead))?;
        Ok(retired)
    }

    /// One hypercall; the distance in instructions.
    ///
    /// # Safety
    /// As for [`Self::measure`].
    unsafe fn call(&self, cpu: &mut VirtualCpu) -> Result<u64, CountError> {
        place(cpu, CALL_ADDRESS, RFLAGS_FIXED);
        // SAFETY: the caller's.
        let (left, distance_ns) = unsafe { cpu.run_stamped(0) };
        if left != Left::Hypercall {
            return Err(CountError::Astray { vector: cpu.context().vector, rip: cpu.context().rip });
        }
        self.instructions(distance_ns).ok_or(CountError::Fraction { distance_ns })
    }

    /// Runs the guest until it leaves by itself or has retired `budget` instructions (or fewer: at most [`MAX_SLICE`]).
    /// A budget that is spent ends with the timer's interrupt.
    ///
    /// # Safety
    /// As for [`VirtualCpu::run`].
    pub unsafe fn run(&self, cpu: &mut VirtualCpu, budget: u64) -> Slice {
        // An interrupt of an earlier timer comes before the guest's first instruction; a timer started now would run
        // while the shim handles it, and with a short budget the guest would never get on.
        let ticks = if apic::timer_is_pending() { 0 } else { (budget.min(MAX_SLICE) + self.lead) << self.shift };
        // SAFETY: the caller's.
        let (left, distance_ns) = unsafe { cpu.run_stamped(ticks as u32) };
        let overhead = if left == Left::Hypercall { self.call_overhead } else { self.trap_overhead };
        let retired = self.instructions(distance_ns).and_then(|all| all.checked_sub(overhead));
        Slice { left, retired: retired.filter(|retired| *retired <= budget) }
    }

    fn instructions(&self, distance_ns: u64) -> Option<u64> {
        let instructions = distance_ns >> self.shift;
        (instructions << self.shift == distance_ns).then_some(instructions)
    }
}

fn place(cpu: &mut VirtualCpu, rip: u64, rflags: u64) {
    cpu.reset(rip, 0, 0);
    cpu.context().rflags = rflags;
}

fn expect(what: &'static str, expected: u64, got: u64) -> Result<(), CountError> {
    if expected == got { Ok(()) } else { Err(CountError::Mismatch { what, expected, got }) }
}
