//! The guest's registers and the ways into the guest.

use core::arch::global_asm;
use core::mem::{offset_of, replace};
use core::ops::Range;

use protocol::digest::{BulkSums, Digest64};
use x86_64::VirtAddr;
use x86_64::registers::model_specific::FsBase;

use super::x87;
use crate::machine::{Diverted, Registers};

global_asm!(include_str!("entry.s"), shim_fault = sym super::traps::shim_fault);

/// Everything of the virtual CPU that a guest can see. `entry.s` knows the layout.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct Context {
    /// General registers in the order rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, r8 to r15.
    pub general: [u64; 16],
    /// Instruction pointer.
    pub rip: u64,
    /// Flags.
    pub rflags: u64,
    /// Vector of the exception or interrupt that left the guest.
    pub vector: u64,
    /// Its error code, or 0.
    pub error: u64,
    /// SSE control and status, as saved by a hypercall.
    pub mxcsr: u64,
    /// Instructions that the guest has retired in this epoch, where they are counted.
    pub retired: u64,
    /// Vector registers and MXCSR as an exception or an interrupt saved them, at their places in an `fxsave64` image. The rest of it,
    /// the x87 registers, is in the processor all the time: see [`super::x87`].
    pub fxsave: [u8; FXSAVE_BYTES],
    /// Base of `fs`. The processor holds it all the time: the shim has no use for that segment.
    pub thread_pointer: u64,
}

/// Indices into [`Context::general`].
pub mod register {
    #![allow(missing_docs)]
    pub const RAX: usize = 0;
    pub const RCX: usize = 2;
    pub const RDX: usize = 3;
    pub const RSI: usize = 4;
    pub const RDI: usize = 5;
    pub const RBP: usize = 6;
    pub const RSP: usize = 7;
    pub const R8: usize = 8;
    pub const R15: usize = 15;
}

const GENERAL_NAMES: [&str; 16] =
    ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"];

// entry.s has these offsets as numbers.
const _: () = {
    assert!(offset_of!(Context, rip) == 128);
    assert!(offset_of!(Context, rflags) == 136);
    assert!(offset_of!(Context, vector) == 144);
    assert!(offset_of!(Context, error) == 152);
    assert!(offset_of!(Context, mxcsr) == 160);
    assert!(offset_of!(Context, fxsave) == 176);
};

/// [`Context::vector`] after a hypercall: none, and the vector registers hold nothing of the guest's.
const HYPERCALL: u64 = u64::MAX;
/// An `fxsave64` image (Intel SDM volume 1, section 10.5.1),
pub(super) const FXSAVE_BYTES: usize = 512;
/// where it holds MXCSR,
pub(super) const FXSAVE_MXCSR: Range<usize> = 24..28;
/// and the vector registers.
pub(super) const FXSAVE_VECTORS: Range<usize> = 160..416;

/// Power-on value of MXCSR: all exceptions masked, round to nearest.
const MXCSR_RESET: u64 = 0x1f80;
/// Reserved bit 1 and the interrupt flag: the guest runs with interrupts on, the shim never does.
pub(super) const RFLAGS_GUEST: u64 = 0x202;

#[unsafe(export_name = "guest_context")]
static mut CONTEXT: Context = Context {
    general: [0; 16],
    rip: 0,
    rflags: RFLAGS_GUEST,
    vector: 0,
    error: 0,
    mxcsr: MXCSR_RESET,
    retired: 0,
    fxsave: [0; FXSAVE_BYTES],
    thread_pointer: 0,
};

unsafe extern "C" {
    fn enter_guest(everything: u64) -> u64;
    fn enter_counted(everything: u64, ticks: u64) -> u64;
    static guest_entered_at: u64;
    static guest_left_at: u64;
}

/// Why the guest was left, before anybody looked at the vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By a hypercall.
    Hypercall,
    /// By an exception or an interrupt; the vector is in the context.
    Trap,
}

/// The one virtual CPU. There is one value of this type, owned by the machine.
#[derive(Debug)]
pub struct VirtualCpu {
    pub(super) last: Left,
}

impl VirtualCpu {
    /// A CPU that will start at `entry` with `stack` and one argument.
    ///
    /// # Safety
    /// To be called once.
    pub unsafe fn new() -> Self {
        Self { last: Left::Hypercall }
    }

    /// The guest's registers.
    pub fn context(&mut self) -> &mut Context {
        // SAFETY: the context is written only by `enter_guest`, which runs only inside `run`, and by the holder of
        // this borrow; `self` is the only value of its type and borrowed mutably.
        unsafe { &mut *(&raw mut CONTEXT) }
    }

    /// Puts the registers where a fresh guest finds them.
    pub fn reset(&mut self, entry: u64, stack_top: u64, argument: u64) {
        let context = self.context();
        context.general = [0; 16];
        context.general[register::RSP] = stack_top;
        context.general[register::RDI] = argument;
        context.rip = entry;
        context.rflags = RFLAGS_GUEST;
        context.mxcsr = MXCSR_RESET;
        context.retired = 0;
        self.last = Left::Hypercall;
        self.set_thread_pointer(0);
    }

    /// Changes the base of `fs`: an address of guest memory, or 0.
    pub fn set_thread_pointer(&mut self, address: u64) {
        self.context().thread_pointer = address;
        FsBase::write(VirtAddr::new(address));
    }

    /// Runs the guest until it leaves.
    ///
    /// # Safety
    /// Page tables, descriptor tables and MSRs are set up; the guest's mappings give it no access to the shim.
    pub unsafe fn run(&mut self) -> Left {
        // SAFETY: the assembly saves and restores all callee-saved registers and returns on the shim's stack; the
        // context holds only what the guest itself may set (flags are those that ring 3 can change plus the fixed
        // ones, because they come from `reset`, `syscall` or an interrupt frame of ring 3).
        let left = unsafe { enter_guest(u64::from(self.last == Left::Trap)) };
        self.note(left)
    }

    /// Runs the guest as [`Self::run`] does, with the timer started shortly before for `ticks` nanoseconds (0: it is
    /// left alone). Returns with why it was left how far the time stamps of entry and exit lie apart.
    ///
    /// # Safety
    /// As for [`Self::run`].
    pub unsafe fn run_stamped(&mut self, ticks: u32) -> (Left, u64) {
        // SAFETY: as in `run`; the assembly has written both stamps when it returns.
        let (left, distance) = unsafe {
            let left = enter_counted(u64::from(self.last == Left::Trap), u64::from(ticks));
            (left, (&raw const guest_left_at).read().wrapping_sub((&raw const guest_entered_at).read()))
        };
        (self.note(left), distance)
    }

    fn note(&mut self, left: u64) -> Left {
        self.last = if left == 0 { Left::Hypercall } else { Left::Trap };
        if self.last == Left::Hypercall {
            self.context().vector = HYPERCALL;
        }
        self.last
    }
}

impl Registers for Context {
    fn hypercall(&self) -> (u64, [u64; 4]) {
        use register::*;
        let general = &self.general;
        (general[RAX], [general[RDI], general[RSI], general[RDX], general[R8]])
    }

    fn set_result(&mut self, result: i64) {
        self.general[register::RAX] = result as u64;
    }

    fn digest(&self, digest: &mut Digest64) {
        // Bulk: every instruction of this is one of each boundary.
        let mut sums = BulkSums::default();
        for value in self.general {
            sums.add_u64(value);
        }
        let interrupted = self.vector != HYPERCALL;
        if interrupted {
            sums.add(&self.fxsave[FXSAVE_VECTORS]);
        }
        digest.write_sums(sums);
        for word in [self.rip, self.rflags, self.retired, self.thread_pointer] {
            digest.write_u64(word);
        }
        if interrupted {
            digest.write_bytes(&self.fxsave[FXSAVE_MXCSR]);
            x87::digest(digest);
        }
    }

    fn frame_pointer(&self) -> u64 {
        self.general[register::RBP]
    }

    fn instruction_pointer(&self) -> u64 {
        self.rip
    }

    fn divert(&mut self, instruction: u64, stack: u64) -> Diverted {
        // Whichever way the guest is entered, `sysretq` after a hypercall or `iretq`, takes all three from here, and an
        // address of guest memory is canonical, which is all that either asks of them.
        Diverted {
            instruction: replace(&mut self.rip, instruction),
            stack: replace(&mut self.general[register::RSP], stack),
            flags: replace(&mut self.rflags, RFLAGS_GUEST),
        }
    }

    fn describe(&self, out: &mut dyn core::fmt::Write) -> core::fmt::Result {
        write!(out, "rip {:016x} rflags {:08x} fs {:016x}", self.rip, self.rflags, self.thread_pointer)?;
        for (index, (name, value)) in GENERAL_NAMES.iter().zip(self.general).enumerate() {
            let separator = if index % 4 == 0 { '\n' } else { ' ' };
            write!(out, "{separator}{name} {value:016x}")?;
        }
        Ok(())
    }
}
