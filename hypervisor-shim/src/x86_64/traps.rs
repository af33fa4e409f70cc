//! Descriptor tables, system call registers, and what a trap means.

use core::arch::asm;
use core::fmt::Write as _;

use x86_64::VirtAddr;
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::{Cr4, Cr4Flags};
use x86_64::registers::model_specific::{LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::registers::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

use super::apic::VECTOR_SPURIOUS;
use super::context::Context;
use super::port::DebugConsole;
use crate::machine::{Exit, Fault};

const STACK_BYTES: usize = 16 * 1024;
const GENERAL_PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
const FIRST_INTERRUPT: u64 = 32;

#[repr(C, align(16))]
struct Stack([u8; STACK_BYTES]);

/// Stack on which interrupts and exceptions of ring 3 arrive; empty between them.
static mut TRAP_STACK: Stack = Stack([0; STACK_BYTES]);
/// Stack for what may come at any time: NMI, double fault, machine check.
static mut EMERGENCY_STACK: Stack = Stack([0; STACK_BYTES]);
static mut TASK: TaskStateSegment = TaskStateSegment::new();
static mut DESCRIPTORS: GlobalDescriptorTable = GlobalDescriptorTable::new();
static mut GATES: [[u64; 2]; 256] = [[0; 2]; 256];

unsafe extern "C" {
    fn syscall_entry();
    static trap_stubs: [u8; 256 * 16];
    static mut pending_interrupts: [u64; 4];
}

/// Loads the descriptor tables and opens the way for `syscall`.
///
/// # Safety
/// To be called once, early, in ring 0 with interrupts off.
pub unsafe fn initialise() {
    // SAFETY: the statics are used by nobody else yet; afterwards only the processor reads them.
    unsafe {
        let top = |stack: *mut Stack| VirtAddr::from_ptr(stack.add(1));
        let task = &mut *(&raw mut TASK);
        task.privilege_stack_table[0] = top(&raw mut TRAP_STACK);
        task.interrupt_stack_table[0] = top(&raw mut EMERGENCY_STACK);

        // The order is that which `syscall` and `sysret` expect.
        let table = &mut *(&raw mut DESCRIPTORS);
        let code = table.append(Descriptor::kernel_code_segment());
        let data = table.append(Descriptor::kernel_data_segment());
        let user_data = table.append(Descriptor::user_data_segment());
        let user_code = table.append(Descriptor::user_code_segment());
        let task_selector = table.append(Descriptor::tss_segment_unchecked(task));
        table.load_unsafe();
        CS::set_reg(code);
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(task_selector);

        load_gates();

        // Only a wrong order of the descriptors above could make this fail.
        Star::write(user_code, user_data, code, data).expect("segments are in the order that sysret wants");
        LStar::write(VirtAddr::new(syscall_entry as *const () as u64));
        SFMask::write(
            RFlags::INTERRUPT_FLAG
                | RFlags::TRAP_FLAG
                | RFlags::DIRECTION_FLAG
                | RFlags::NESTED_TASK
                | RFlags::ALIGNMENT_CHECK,
        );
        protect();
        asm!("fninit", options(nomem, nostack));
    }
}

/// Fills and loads the interrupt descriptor table.
///
/// # Safety
/// As for [`initialise`].
unsafe fn load_gates() {
    const INTERRUPT_GATE: u64 = 0x8e00;
    const CODE_SELECTOR: u64 = 8;
    // SAFETY: as for `initialise`; the stubs are 16 bytes each.
    unsafe {
        let gates = &mut *(&raw mut GATES);
        let stubs = &raw const trap_stubs as u64;
        for (vector, gate) in gates.iter_mut().enumerate() {
            let handler = stubs + 16 * vector as u64;
            let emergency = u64::from(matches!(vector, 2 | 8 | 18));
            gate[0] = (handler & 0xffff)
                | (CODE_SELECTOR << 16)
                | (emergency << 32)
                | (INTERRUPT_GATE << 32)
                | ((handler >> 16 & 0xffff) << 48);
            gate[1] = handler >> 32;
        }
        let pointer =
            DescriptorTablePointer { limit: (size_of_val(gates) - 1) as u16, base: VirtAddr::from_ptr(gates.as_ptr()) };
        x86_64::instructions::tables::lidt(&pointer);
    }
}

/// Switches on what keeps ring 3 from seeing or touching more than it should: time stamps trap; where the processor
/// can, ring 0 neither executes nor touches user pages, and ring 3 cannot read descriptor table addresses.
fn protect() {
    let features = core::arch::x86_64::__cpuid_count(7, 0);
    let mut flags = Cr4Flags::TIMESTAMP_DISABLE | Cr4Flags::PAGE_GLOBAL;
    for (present, flag) in [
        (features.ebx & (1 << 7), Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION),
        (features.ebx & (1 << 20), Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        (features.ecx & (1 << 2), Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
    ] {
        if present != 0 {
            flags |= flag;
        }
    }
    // SAFETY: the flags take nothing away from ring 0 that the shim uses.
    unsafe { Cr4::update(|cr4| *cr4 |= flags) };
}

/// Says why the guest was left. An interrupt is noted in the pending set.
pub fn classify(context: &mut Context) -> Exit {
    match context.vector {
        vector @ FIRST_INTERRUPT.. => {
            note_interrupt(vector as u8);
            Exit::Interrupt
        }
        GENERAL_PROTECTION if context.error == 0 && reads_time_stamp(context.rip).is_some() => Exit::TimeStamp,
        vector => Exit::Fault(Fault {
            name: exception_name(vector),
            error: context.error,
            address: (vector == PAGE_FAULT).then(|| {
                let address: u64;
                // SAFETY: reading CR2 has no effect.
                unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
                address
            }),
        }),
    }
}

/// Length of the time stamp instruction at `rip`, if there is one.
pub fn reads_time_stamp(rip: u64) -> Option<u64> {
    let bytes = super::guest_code(rip)?;
    match bytes {
        [0x0f, 0x31, ..] => Some(2),
        [0x0f, 0x01, 0xf9] => Some(3),
        _ => None,
    }
}

fn note_interrupt(vector: u8) {
    // SAFETY: interrupts are off in ring 0 except inside `halt`.
    unsafe {
        let words = &mut *(&raw mut pending_interrupts);
        words[usize::from(vector / 64)] |= 1 << (vector % 64);
    }
    if vector != VECTOR_SPURIOUS {
        super::apic::end_of_interrupt();
    }
}

/// Takes the set of vectors that came since the last call.
pub fn take_pending() -> [u64; 4] {
    // SAFETY: interrupts are off in ring 0 except inside `halt`.
    unsafe { core::mem::take(&mut *(&raw mut pending_interrupts)) }
}

/// Halts until an interrupt comes, unless one is pending already.
pub fn halt() {
    // SAFETY: the handler in entry.s only notes the interrupt; `sti` takes effect after `hlt` has started, so none is
    // missed.
    unsafe {
        let pending = (&raw const pending_interrupts).read();
        if pending == [0; 4] {
            asm!("sti", "hlt", "cli", options(nostack));
        }
    }
}

/// What a fault in ring 0 leaves on its stack.
#[derive(Debug)]
#[repr(C)]
pub struct ShimFrame {
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// A fault of the shim itself: an error in the shim, never something that a guest or a device can cause. Reports and
/// stops this replica; its peer goes on.
pub extern "C" fn shim_fault(frame: &ShimFrame) -> ! {
    let address: u64;
    // SAFETY: reading CR2 has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack, preserves_flags)) };
    let _ = writeln!(
        DebugConsole,
        "shim fault: {} ({}) error {:#x} rip {:#x} rsp {:#x} address {address:#x}",
        exception_name(frame.vector),
        frame.vector,
        frame.error,
        frame.rip,
        frame.rsp,
    );
    super::stop_machine()
}

fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "divide error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid instruction",
        7 => "device not available",
        8 => "double fault",
        10 => "invalid task state",
        11 => "segment not present",
        12 => "stack fault",
        GENERAL_PROTECTION => "general protection fault",
        PAGE_FAULT => "page fault",
        16 => "x87 floating-point error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD floating-point error",
        _ => "unexpected exception",
    }
}
