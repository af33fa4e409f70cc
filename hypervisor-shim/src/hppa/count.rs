//! Stopping a guest after an exact number of instructions.
//!
//! PA-RISC has a register for it, the recovery counter (CR0), which the hypervisor of Bressoud and Schneider's paper used.
//! QEMU has left it out, so [`CountedTimer`] does it by the interval timer (CR16): under `-icount shift=2` that advances by
//! one step an instruction and by nothing else while the processor runs. The distance between its readings on the way into
//! the guest and out of it (`native/start.S`), less the shim's own instructions in between, is what the guest has retired,
//! and a timer set that far ahead interrupts exactly then. Three kinds of instructions are the shim's own: those on the way
//! in, those on the way out, and those of the handlers that fill in translations, which count themselves. The first two are
//! measured at start, on code at the guest's privilege that counts itself, and all three are checked there.

use core::fmt;

use hypercall::layout::{GUEST_BASE, PAGE_BYTES};

use super::context::{Context, trap};
use super::{TIMER_INTERRUPT, native, native_address, pci, rights};
use crate::guest::GuestMemory;

/// What stops a guest after a number of instructions. The processor's recovery counter would be loaded with the budget less
/// one, counts down by one an instruction while PSW R is set, and traps (number 1) when it passes zero; [`CountedTimer`]
/// needs no such register.
pub trait RecoveryCounter {
    /// Runs the guest until it leaves by itself or has retired `budget` instructions, at least one (or fewer: there may be a
    /// longest slice). A budget that is spent ends with [`trap::INTERRUPT`], before the guest's next instruction. Returns
    /// how many instructions the guest has retired, or `None` if the machine does not count any more.
    ///
    /// # Safety
    /// As for [`native::run_guest`].
    unsafe fn run(&mut self, context: &mut Context, budget: u64) -> Option<u64>;
}

/// The shift of `-icount` with which a step of the interval timer, 4 ns, is an instruction.
const SHIFT: u32 = 2;
/// The timer takes no time that is nearer than 1000 ns, which is 250 steps. Shorter slices begin with a delay.
const LEAST_SLICE: u32 = 250;
/// Turns of the delay, of two instructions each.
const DELAY_TURNS: u32 = LEAST_SLICE / 2;
/// The longest slice: the shim wants to look after its devices now and then.
const MAX_SLICE: u64 = 1 << 19;

/// `1: stw %r0,0(%r5); b 1b; ldo 1(%r4),%r4`: register and instruction address say how many instructions were retired.
const LOOP: [u32; 3] = [0x0ca0_1280, 0xe81f_1fed, 0x3484_0002];
/// `break 6,0x1ff`.
const CALL: [u32; 1] = [0x003f_e006];
/// Linear addresses of a page of code and of one that it writes to.
const CODE_PAGE: u64 = GUEST_BASE;
const DATA_PAGE: u64 = GUEST_BASE + PAGE_BYTES;
const TURNS: usize = 4;
const POINTER: usize = 5;
/// Length of the slice by which both ways are measured, in instructions.
const PROBE: u64 = 1000;
/// Lengths of the slices that check them.
const CHECKS: [u64; 15] = [1, 2, 3, 4, 5, 17, 100, 249, 250, 251, 999, 1000, 4097, 65_536, 100_003];

/// Why instructions cannot be counted on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountError {
    /// The boot parameters name no `icount`.
    NotConfigured,
    /// They name one with which the timer does not count instructions.
    Shift {
        /// Which.
        got: u32,
    },
    /// There is no device from whose memory the timer can be set while instructions are counted.
    NoScriptMemory,
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
        /// Number of the trap.
        trap: u32,
        /// Where.
        instruction: u32,
    },
}

impl fmt::Display for CountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotConfigured => {
                f.write_str("the machine was not started with -icount, without which it cannot count instructions")
            }
            Self::Shift { got } => {
                write!(
                    f,
                    "the machine was started with -icount shift={got}, its timer counts instructions with shift={SHIFT}"
                )
            }
            Self::NoScriptMemory => f.write_str(
                "the machine has no lsi53c895a, from whose memory the timer is set while instructions are counted",
            ),
            Self::Mismatch { what, expected, got } => {
                write!(f, "{what}: {expected} instructions were retired, {got} were counted")
            }
            Self::Astray { trap, instruction } => {
                write!(f, "the calibration was left by trap {trap} at {instruction:#x}")
            }
        }
    }
}

/// The interval timer in place of the recovery counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CountedTimer {
    /// The shim's instructions between the reading on the way in, from which the timer is set, and the guest's first one.
    lead: u32,
    /// The shim's instructions between both readings when the guest is left by a trap other than a hypercall.
    trap_overhead: u32,
    /// The same when it is left by a hypercall; the hypercall itself counts as the guest's.
    call_overhead: u32,
}

/// Looks whether the machine counts instructions, and sees to it that its timer can be set if it does: to be called before
/// the timer is.
///
/// # Errors
/// [`CountError`]; [`CountError::NoScriptMemory`] is of a machine that counts and whose timer must not be set.
///
/// # Safety
/// Nobody else uses the device that [`pci::script_memory`] finds.
pub unsafe fn prepare(shift: Option<u32>) -> Result<(), CountError> {
    let shift = shift.ok_or(CountError::NotConfigured)?;
    let place = pci::script_memory().ok_or(CountError::NoScriptMemory)?;
    // SAFETY: the device's memory is ours, and it does nothing with it unless it is told to.
    unsafe { native::set_timer_at(place) };
    if shift == SHIFT { Ok(()) } else { Err(CountError::Shift { got: shift }) }
}

impl CountedTimer {
    /// Measures on a machine that [`prepare`] has found to count. Interrupts other than the timer's are masked meanwhile.
    ///
    /// # Errors
    /// [`CountError`]
    ///
    /// # Safety
    /// As for [`native::run_guest`]; the guest is not loaded yet, and `index` gives its map's number of a page by the
    /// page's offset in guest memory.
    pub unsafe fn calibrate(memory: &GuestMemory, index: impl Fn(u64) -> u32) -> Result<Self, CountError> {
        let pages = Pages { code: index(CODE_PAGE - GUEST_BASE), data: index(DATA_PAGE - GUEST_BASE) };
        // SAFETY: the caller's, here and below; nothing waits for an interrupt yet.
        unsafe {
            native::set_interrupt_mask(TIMER_INTERRUPT);
            let counter = Self::measure(memory, pages);
            native::set_interrupt_mask(u32::MAX);
            native::take_interrupts();
            native::set_rights(pages.code, 0);
            native::set_rights(pages.data, 0);
            memory.zero(0, 2 * PAGE_BYTES as usize);
            counter
        }
    }

    /// # Safety
    /// As for [`Self::calibrate`].
    unsafe fn measure(memory: &GuestMemory, pages: Pages) -> Result<Self, CountError> {
        let mut counter = Self { lead: 0, trap_overhead: 0, call_overhead: 0 };
        // SAFETY: the caller's, for all calls.
        unsafe {
            pages.put(memory, &LOOP);
            // The first run fills in translations, the second one is measured; so below.
            counter.turn(PROBE)?;
            let probe = counter.turn(PROBE)?;
            counter.lead = PROBE.saturating_sub(probe.retired) as u32;
            counter.trap_overhead = probe.distance.saturating_sub(probe.retired) as u32;
            for length in CHECKS {
                counter.turn(PROBE)?;
                let run = counter.turn(length)?;
                expect("timer", length, run.retired)?;
                expect("loop", run.retired, run.distance.wrapping_sub(counter.trap_overhead.into()))?;
                // With both translations to be filled in and a first write on the way, which come off the slice.
                pages.forget();
                let run = counter.turn(length)?;
                expect("misses", run.retired, run.distance.wrapping_sub(counter.trap_overhead.into()))?;
            }
            pages.put(memory, &CALL);
            counter.call()?;
            counter.call_overhead = counter.call()?.saturating_sub(1) as u32;
            expect("hypercall", 1, counter.call()?.wrapping_sub(counter.call_overhead.into()))?;
            pages.forget();
            expect("hypercall", 1, counter.call()?.wrapping_sub(counter.call_overhead.into()))?;
        }
        Ok(counter)
    }

    /// Runs the loop until the timer ends it.
    ///
    /// # Safety
    /// As for [`Self::calibrate`]; [`LOOP`] is in place.
    unsafe fn turn(&self, length: u64) -> Result<Turn, CountError> {
        let mut context = placed(LOOP.len());
        // SAFETY: the caller's.
        let distance = unsafe { self.enter(&mut context, length) };
        let at = (context.instructions[0] & !3).wrapping_sub(start(LOOP.len())) / 4;
        if context.trap != trap::INTERRUPT || at as usize >= LOOP.len() {
            return Err(CountError::Astray { trap: context.trap, instruction: context.instructions[0] });
        }
        // SAFETY: it was the timer's interrupt, which says nothing more.
        unsafe { native::take_interrupts() };
        Ok(Turn { retired: LOOP.len() as u64 * u64::from(context.general[TURNS]) + u64::from(at), distance })
    }

    /// One hypercall; the distance in instructions.
    ///
    /// # Safety
    /// As for [`Self::calibrate`]; [`CALL`] is in place.
    unsafe fn call(&self) -> Result<u64, CountError> {
        let mut context = placed(CALL.len());
        // SAFETY: the caller's.
        let distance = unsafe { self.enter(&mut context, PROBE) };
        if context.is_hypercall() {
            return Ok(distance);
        }
        Err(CountError::Astray { trap: context.trap, instruction: context.instructions[0] })
    }

    /// Runs the guest with the timer set to `length` of its instructions; the distance between both readings of the timer,
    /// without what is known not to be the guest's or of the ways in and out.
    ///
    /// # Safety
    /// As for [`native::run_guest`].
    unsafe fn enter(&self, context: &mut Context, length: u64) -> u64 {
        let length = length.min(MAX_SLICE) as u32;
        let delay = if length < LEAST_SLICE { DELAY_TURNS } else { 0 };
        let ticks = self.lead + 2 * delay + length;
        // SAFETY: the caller's.
        let left = unsafe { native::run_counted(&raw mut *context, ticks, delay) };
        context.trap = left as u32;
        (left >> 32).wrapping_sub(u64::from(2 * delay))
    }
}

impl RecoveryCounter for CountedTimer {
    unsafe fn run(&mut self, context: &mut Context, budget: u64) -> Option<u64> {
        // SAFETY: the caller's.
        let distance = unsafe { self.enter(context, budget) };
        let hypercall = context.is_hypercall();
        let overhead = if hypercall { self.call_overhead } else { self.trap_overhead };
        let retired = distance.checked_sub(overhead.into())?;
        if hypercall || context.trap == trap::INTERRUPT {
            return Some(retired).filter(|retired| *retired <= budget);
        }
        // A fault: the guest goes no further. A handler that has found no translation does not count itself; what it adds is
        // the same on every machine, and so is where that is cut off.
        Some(retired.min(budget))
    }
}

/// What a run of the loop has given.
#[derive(Debug, Clone, Copy)]
struct Turn {
    retired: u64,
    distance: u64,
}

/// The map's numbers of the pages that the calibration uses.
#[derive(Debug, Clone, Copy)]
struct Pages {
    code: u32,
    data: u32,
}

impl Pages {
    /// Puts code to the end of its page, which is where the machine's addresses of it begin.
    ///
    /// # Safety
    /// As for [`CountedTimer::calibrate`].
    unsafe fn put(self, memory: &GuestMemory, code: &[u32]) {
        for (index, word) in code.iter().enumerate() {
            let behind = 4 * (code.len() - index - 1) as u64;
            memory.write(CODE_PAGE + behind, &word.to_le_bytes());
        }
        // SAFETY: the caller's.
        unsafe { self.forget() };
    }

    /// Makes the next access to either page a miss, and the next write a first one.
    ///
    /// # Safety
    /// As for [`CountedTimer::calibrate`].
    unsafe fn forget(self) {
        // SAFETY: both pages are guest memory.
        unsafe {
            native::set_rights(self.code, rights::EXECUTE);
            native::set_rights(self.data, rights::WRITE);
        }
    }
}

/// The machine's address of so many instructions at the beginning of the page of code.
fn start(instructions: usize) -> u32 {
    native_address(CODE_PAGE, 4 * instructions as u32)
}

/// A processor at the beginning of so many instructions.
fn placed(instructions: usize) -> Context {
    let mut context = Context::new();
    context.reset(start(instructions), 0, 0);
    context.general[POINTER] = native_address(DATA_PAGE, 4);
    context
}

fn expect(what: &'static str, expected: u64, got: u64) -> Result<(), CountError> {
    if expected == got { Ok(()) } else { Err(CountError::Mismatch { what, expected, got }) }
}
