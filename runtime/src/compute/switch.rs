//! Changing stacks on x86-64.
//!
//! A computation (or a thread, [`crate::thread`]) leaves its stack in one of two ways. By itself, in a function call: then the registers that a call must
//! preserve are on its stack. Or by an upcall between any two instructions: then all registers are in its save area, from
//! where [`resume`] loads them, without the shim's help. The executor always leaves its stack by a call.

use core::arch::global_asm;
use core::mem::offset_of;

#[cfg(feature = "image")]
use hypercall::layout::PREEMPTION_ARMED;

#[cfg(feature = "image")]
use super::gate::{BLOCK, Block};

/// Whether this machine can change stacks.
pub(crate) const AVAILABLE: bool = true;

/// All registers of an interrupted computation or thread.
#[derive(Debug)]
#[repr(C, align(16))]
pub(crate) struct SaveArea {
    /// In the order rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    general: [u64; 15],
    stack: u64,
    instruction: u64,
    flags: u64,
    /// `fxsave64` image: what there is of vector and floating-point registers, because the shim enables no others.
    vectors: [u8; 512],
}

const _: () = assert!(offset_of!(SaveArea, vectors).is_multiple_of(16));

impl SaveArea {
    pub(crate) const fn new() -> Self {
        Self { general: [0; 15], stack: 0, instruction: 0, flags: 0, vectors: [0; 512] }
    }

    /// The stack pointer that it was interrupted with.
    #[cfg(feature = "image")]
    pub(crate) fn stack(&self) -> u64 {
        self.stack
    }
}

// pollux_switch(from: rdi, to: rsi): leaves the stack pointer at `from` and goes on with `to`, where an earlier call of it
// returns 0. How a stack's owner has set up the floating-point units (rounding, masked exceptions) stays with the stack.
global_asm!(
    ".pushsection .text.pollux_switch, \"ax\", @progbits",
    ".globl pollux_switch",
    ".type pollux_switch, @function",
    "pollux_switch:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rdi], rsp",
    "mov rsp, rsi",
    "fldcw [rsp + 4]",
    "ldmxcsr [rsp]",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "xor eax, eax",
    "ret",
    ".size pollux_switch, . - pollux_switch",
    ".popsection",
);

// pollux_resume(area: rdi): as pollux_switch, from the executor to a computation that was interrupted. Only three words
// pass through the computation's stack, below the 128 bytes under its stack pointer that belong to it; nothing is read from
// the save area any more when it is armed, because the next upcall may overwrite it from then on.
//
// pollux_preempted: where upcalls arrive, on the executor's stack as pollux_switch or pollux_resume has left it, with all
// other registers the computation's. Returns 1 to whoever called either.
#[cfg(feature = "image")]
global_asm!(
    ".pushsection .text.pollux_resume, \"ax\", @progbits",
    ".globl pollux_resume",
    ".type pollux_resume, @function",
    "pollux_resume:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "sub rsp, 8",
    "stmxcsr [rsp]",
    "fnstcw [rsp + 4]",
    "mov [rip + {block} + {stack}], rsp",
    "mov rax, rdi",
    "fxrstor64 [rax + {area_vectors}]",
    "mov rsp, [rax + {area_stack}]",
    "sub rsp, 128 + 24",
    "mov rcx, [rax]",
    "mov [rsp], rcx",
    "mov rcx, [rax + {area_flags}]",
    "mov [rsp + 8], rcx",
    "mov rcx, [rax + {area_instruction}]",
    "mov [rsp + 16], rcx",
    "mov rbx, [rax + 8]",
    "mov rcx, [rax + 16]",
    "mov rdx, [rax + 24]",
    "mov rsi, [rax + 32]",
    "mov rdi, [rax + 40]",
    "mov rbp, [rax + 48]",
    "mov r8, [rax + 56]",
    "mov r9, [rax + 64]",
    "mov r10, [rax + 72]",
    "mov r11, [rax + 80]",
    "mov r12, [rax + 88]",
    "mov r13, [rax + 96]",
    "mov r14, [rax + 104]",
    "mov r15, [rax + 112]",
    "mov qword ptr [rip + {block} + {state}], {armed}",
    "pop rax",
    "popfq",
    "ret 128",
    ".size pollux_resume, . - pollux_resume",
    ".popsection",
    ".pushsection .text.pollux_preempted, \"ax\", @progbits",
    ".globl pollux_preempted",
    ".type pollux_preempted, @function",
    "pollux_preempted:",
    "mov [rip + {block} + {scratch}], rax",
    "mov rax, [rip + {block} + {area}]",
    "mov [rax + 8], rbx",
    "mov [rax + 16], rcx",
    "mov [rax + 24], rdx",
    "mov [rax + 32], rsi",
    "mov [rax + 40], rdi",
    "mov [rax + 48], rbp",
    "mov [rax + 56], r8",
    "mov [rax + 64], r9",
    "mov [rax + 72], r10",
    "mov [rax + 80], r11",
    "mov [rax + 88], r12",
    "mov [rax + 96], r13",
    "mov [rax + 104], r14",
    "mov [rax + 112], r15",
    "mov rcx, [rip + {block} + {scratch}]",
    "mov [rax], rcx",
    "mov rcx, [rip + {block} + {saved_stack}]",
    "mov [rax + {area_stack}], rcx",
    "mov rcx, [rip + {block} + {saved_instruction}]",
    "mov [rax + {area_instruction}], rcx",
    "mov rcx, [rip + {block} + {saved_flags}]",
    "mov [rax + {area_flags}], rcx",
    "fxsave64 [rax + {area_vectors}]",
    // What the executor has left of the floating-point units, whatever the computation was about to do with them.
    "fninit",
    "fldcw [rsp + 4]",
    "ldmxcsr [rsp]",
    "add rsp, 8",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "mov eax, 1",
    "ret",
    ".size pollux_preempted, . - pollux_preempted",
    ".popsection",
    block = sym BLOCK,
    state = const offset_of!(Block, state),
    stack = const offset_of!(Block, stack),
    saved_instruction = const offset_of!(Block, saved_instruction),
    saved_stack = const offset_of!(Block, saved_stack),
    saved_flags = const offset_of!(Block, saved_flags),
    area = const offset_of!(Block, area),
    scratch = const offset_of!(Block, scratch),
    area_stack = const offset_of!(SaveArea, stack),
    area_instruction = const offset_of!(SaveArea, instruction),
    area_flags = const offset_of!(SaveArea, flags),
    area_vectors = const offset_of!(SaveArea, vectors),
    armed = const PREEMPTION_ARMED,
);

unsafe extern "C" {
    fn pollux_switch(from: *mut u64, to: u64) -> u64;
    #[cfg(feature = "image")]
    fn pollux_resume(area: *const SaveArea) -> u64;
    #[cfg(feature = "image")]
    fn pollux_preempted();
}

/// Goes on with the stack whose pointer is `to` and leaves that of this one at `from`. Returns when somebody goes on with
/// it: whether because of an upcall.
///
/// # Safety
/// `to` was left by this function or is the result of [`prepare`], and has not been gone on with since; its stack is still
/// there; `from` may be written to.
pub(crate) unsafe fn switch(from: *mut u64, to: u64) -> bool {
    // SAFETY: the caller's; the assembly preserves all that a call must.
    unsafe { pollux_switch(from, to) != 0 }
}

/// Goes on with a computation that an upcall has interrupted, from the executor. Returns as [`switch`].
///
/// # Safety
/// An upcall has filled `area`, which has not been gone on with since; the stack that it was on is still there, with 152
/// bytes to spare.
#[cfg(feature = "image")]
pub(crate) unsafe fn resume(area: *const SaveArea) -> bool {
    // SAFETY: the caller's; the assembly preserves all that a call must.
    unsafe { pollux_resume(area) != 0 }
}

/// Where upcalls are to arrive. There are none on a host.
pub(super) fn handler() -> u64 {
    #[cfg(feature = "image")]
    return pollux_preempted as *const () as u64;
    #[cfg(not(feature = "image"))]
    0
}

/// What a function may expect of the floating-point units: the processor's own defaults, all exceptions masked.
const FRESH_UNITS: u64 = 0x1f80 | 0x037f << 32;

/// Prepares a stack on which `entry` will be called, with a frame pointer and a return address of 0, where backtraces
/// end. Returns its stack pointer.
///
/// # Safety
/// The 72 bytes below `top` may be written to, and `top` is a multiple of 16.
pub(crate) unsafe fn prepare(top: *mut u8, entry: extern "C" fn() -> !) -> u64 {
    // Control words, six registers, the address of `entry`, and the return address that it finds: its stack pointer is then 8 below a
    // multiple of 16, as after a call.
    let words: [u64; 9] = [FRESH_UNITS, 0, 0, 0, 0, 0, 0, entry as *const () as u64, 0];
    // SAFETY: the caller's.
    unsafe {
        let pointer = top.sub(size_of_val(&words));
        pointer.cast::<[u64; 9]>().write(words);
        pointer as u64
    }
}
