//! x86-64.

use core::arch::asm;
use core::hint::black_box;

use hypercall::layout::GUEST_BASE;

/// Where the shim lies.
pub const SHIM: u64 = 0x0010_0000;
/// Where devices are.
pub const DEVICE: u64 = 0xfeb0_0000;

/// Bytes of machine code of a `ret`, as data.
static RETURN_AS_DATA: [u8; 16] = [0xc3; 16];

/// Commits a fault that other processors do not know: `write-code`, `execute-data`, `execute-stack`, `write-direct-map`,
/// `halt`, `port`, `divide`, `wild-jump`. Returns whether there is one of this name, if nobody minded.
pub fn fault(kind: &str) -> bool {
    match kind {
        "write-direct-map" => write(0xffff_8000_0010_0000),
        "write-code" => write(crate::faults::commit as *const () as u64),
        "execute-data" => call((&raw const RETURN_AS_DATA) as u64),
        "execute-stack" => {
            let code = black_box([0xc3u8; 16]);
            call(code.as_ptr() as u64);
        }
        "wild-jump" => call(GUEST_BASE - 0x1000),
        // SAFETY: the instruction is not allowed in ring 3; that is what is tested.
        "halt" => unsafe { asm!("hlt") },
        // SAFETY: as above.
        "port" => unsafe { asm!("in al, dx", in("dx") 0xe9_u16, out("al") _) },
        // SAFETY: as above.
        "divide" => unsafe { asm!("xor ecx, ecx", "div ecx", out("ecx") _, out("eax") _, out("edx") _) },
        _ => return false,
    }
    true
}

/// An instruction that there is not.
pub fn invalid() {
    // SAFETY: that is what is tested.
    unsafe { asm!("ud2") }
}

/// Reads from anywhere.
#[inline(never)]
pub fn read(address: u64) {
    // SAFETY: in assembly, so that the compiler knows nothing of the address; the shim must stop the guest here.
    unsafe { asm!("mov {value}, [{address}]", address = in(reg) address, value = out(reg) _, options(nostack)) }
}

/// Writes to anywhere.
#[inline(never)]
pub fn write(address: u64) {
    // SAFETY: as for `read`.
    unsafe { asm!("mov qword ptr [{address}], 0", address = in(reg) address, options(nostack)) }
}

#[inline(never)]
fn call(address: u64) {
    // SAFETY: as for `read`; were the code executed, it would return at once.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) }
}

/// The time stamp.
pub fn time_stamp() -> Option<u64> {
    let (low, high): (u64, u64);
    // SAFETY: reads a counter; the shim carries the instruction out.
    unsafe { asm!("rdtsc", out("rax") low, out("rdx") high, options(nomem, nostack)) };
    Some(high << 32 | low)
}

/// A number of the processor's own random generator.
pub fn random() -> Option<u64> {
    let number: u64;
    // SAFETY: has no effect but on the register; a processor without the instruction faults.
    unsafe { asm!("rdrand {}", out(reg) number, options(nomem, nostack)) };
    Some(number)
}

/// Stores such a number, which is left nowhere else; whether there is one.
///
/// # Safety
/// Eight bytes may be written there.
#[inline(always)]
pub unsafe fn store_random(place: *mut u64) -> bool {
    // SAFETY: the caller's; a processor without the instruction faults.
    unsafe {
        asm!("rdrand {number}", "mov [{place}], {number}", "xor {number:e}, {number:e}",
            number = out(reg) _, place = in(reg) place, options(nostack));
    }
    true
}

/// The first leaf of the processor's name, in sixteen letters.
const NAME_LEAF: u32 = 0x8000_0002;

/// Stores four letters of the processor's name, which are left nowhere else; whether it has one.
///
/// # Safety
/// Four bytes may be written there.
#[inline(always)]
pub unsafe fn store_name(place: *mut u64) -> bool {
    // SAFETY: the caller's; the instruction changes four registers. One of them is the compiler's own: it is put back.
    unsafe {
        asm!("mov {kept}, rbx", "cpuid", "mov [{place}], eax", "mov rbx, {kept}",
            "xor eax, eax", "xor ecx, ecx", "xor edx, edx",
            kept = out(reg) _, place = in(reg) place,
            inout("eax") NAME_LEAF => _, out("ecx") _, out("edx") _, options(nostack));
    }
    true
}

/// Fills every register, the flags and the red zone, counts, and looks whether all of it is still there. The loop is
/// written by hand: it counts no ticks.
#[inline(never)]
pub fn registers_are_kept(rounds: u64) -> bool {
    let kept: u64;
    // SAFETY: everything that is changed is restored or said to be changed; the words below the stack pointer belong to the
    // function that runs.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov [rsp - 8], rcx",
            ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "mov rcx, \\number + 100",
            "movq xmm\\number, rcx",
            "pshufd xmm\\number, xmm\\number, 0x44",
            ".endr",
            ".irp number, 8, 9, 10, 11, 12, 13, 14, 15",
            "mov r\\number, \\number",
            ".endr",
            "mov eax, 1",
            "mov ebx, 2",
            "mov edx, 3",
            "mov esi, 4",
            "mov edi, 5",
            "mov ebp, 6",
            "mov rcx, [rsp - 8]",
            "mov [rsp - 128], r15",
            "fldpi",
            "fld1",
            "std",
            "stc",
            "2: dec rcx",
            "jnz 2b",
            // The count leaves the carry alone.
            "jnc 3f",
            "pushfq",
            "pop rcx",
            "cld",
            "test ecx, 0x400",
            "jz 3f",
            "cmp qword ptr [rsp - 128], 15",
            "jne 3f",
            "fld1",
            "fcomip st, st(1)",
            "jne 3f",
            "jp 3f",
            "fldpi",
            "fcomip st, st(2)",
            "jne 3f",
            "jp 3f",
            "cmp rax, 1",
            "jne 3f",
            "cmp rbx, 2",
            "jne 3f",
            "cmp rdx, 3",
            "jne 3f",
            "cmp rsi, 4",
            "jne 3f",
            "cmp rdi, 5",
            "jne 3f",
            "cmp rbp, 6",
            "jne 3f",
            ".irp number, 8, 9, 10, 11, 12, 13, 14, 15",
            "cmp r\\number, \\number",
            "jne 3f",
            ".endr",
            ".irp number, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            "movq rcx, xmm\\number",
            "cmp rcx, \\number + 100",
            "jne 3f",
            "psrldq xmm\\number, 8",
            "movq rcx, xmm\\number",
            "cmp rcx, \\number + 100",
            "jne 3f",
            ".endr",
            "mov eax, 1",
            "jmp 4f",
            "3: xor eax, eax",
            "cld",
            "4: fninit",
            "pop rbp",
            "pop rbx",
            inlateout("rcx") rounds => _,
            out("rax") kept,
            out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
            out("xmm14") _, out("xmm15") _,
        );
    }
    kept == 1
}
