//! The report of a guest that has done what nobody may.

use core::fmt::{self, Write};

use hypercall::layout::GUEST_BASE;

use super::Guest;
use crate::machine::{Fault, Registers};

/// Most frames of a backtrace.
const MAX_FRAMES: usize = 32;

/// What it has done.
#[derive(Debug, Clone)]
pub enum Cause {
    /// The processor has refused an instruction.
    Fault(Fault),
    /// A system call with this number.
    SystemCall(u64),
}

/// Writes what it was, the registers, and a backtrace by frame pointers. Only deterministic state goes in, so
/// that both replicas write the same.
pub fn write_report(
    out: &mut impl Write,
    guest: &Guest,
    epoch: u64,
    cause: &Cause,
    registers: &impl Registers,
) -> fmt::Result {
    match cause {
        Cause::Fault(fault) => write_fault(out, guest, epoch, fault)?,
        Cause::SystemCall(number) => writeln!(
            out,
            "system call {number}, made by an instruction of the program's own, in epoch {epoch}: there is no kernel to answer it; \
             what the C library or hermit-abi offers works"
        )?,
    }
    write_calls(out, guest, registers)
}

fn write_fault(out: &mut impl Write, guest: &Guest, epoch: u64, fault: &Fault) -> fmt::Result {
    write!(out, "{} (error {:#x})", fault.name, fault.error)?;
    if let Some(address) = fault.address {
        write!(out, " at address {address:#x}")?;
        if address.wrapping_sub(GUEST_BASE) >= guest.memory().bytes() as u64 {
            write!(out, ", outside guest memory")?;
        }
    }
    writeln!(out, " in epoch {epoch}")?;
    if let Some(text) = fault.address.and_then(|address| guest.guard_text(address)) {
        writeln!(out, "{}", if text.is_empty() { "the page is a guard of the guest's" } else { &text })?;
    }
    Ok(())
}

fn write_calls(out: &mut impl Write, guest: &Guest, registers: &impl Registers) -> fmt::Result {
    registers.describe(out)?;
    write!(out, "\nbacktrace:\n  {:#x}", registers.instruction_pointer())?;
    let mut frame = registers.frame_pointer();
    for _ in 0..MAX_FRAMES {
        let (Some(next), Some(return_address)) =
            (guest.memory().read_u64(frame), frame.checked_add(8).and_then(|at| guest.memory().read_u64(at)))
        else {
            break;
        };
        if return_address == 0 {
            break;
        }
        write!(out, "\n  {return_address:#x}")?;
        // Frames lie higher and higher; anything else is no chain.
        if next <= frame {
            break;
        }
        frame = next;
    }
    writeln!(out)
}
