//! What ring 3 may not do.

use alloc::format;
use alloc::string::String;
use core::arch::asm;
use core::hint::black_box;

use hypercall::layout::GUEST_BASE;

/// Bytes of machine code of a `ret`, as data.
static RETURN_AS_DATA: [u8; 16] = [0xc3; 16];

/// Commits the fault of this name: `null`, `write-code`, `execute-data`, `execute-stack`, `read-shim`, `write-direct-map`,
/// `read-device`, `stack`, `halt`, `port`, `divide`, `invalid`, `wild-jump`. Returns only if nobody minded.
pub fn commit(kind: &str) -> String {
    match kind {
        "null" => read(0),
        "read-shim" => read(0x0010_0000),
        "read-device" => read(0xfeb0_0000),
        "write-direct-map" => write(0xffff_8000_0010_0000),
        "write-code" => write(commit as *const () as u64),
        "execute-data" => call((&raw const RETURN_AS_DATA) as u64),
        "execute-stack" => {
            let code = black_box([0xc3u8; 16]);
            call(code.as_ptr() as u64);
        }
        "wild-jump" => call(GUEST_BASE - 0x1000),
        "stack" => drop(black_box(descend(1))),
        // SAFETY: the instruction is not allowed in ring 3; that is what is tested.
        "halt" => unsafe { asm!("hlt") },
        // SAFETY: as above.
        "port" => unsafe { asm!("in al, dx", in("dx") 0xe9_u16, out("al") _) },
        // SAFETY: as above.
        "divide" => unsafe { asm!("xor ecx, ecx", "div ecx", out("ecx") _, out("eax") _, out("edx") _) },
        // SAFETY: as above.
        "invalid" => unsafe { asm!("ud2") },
        _ => return format!("unknown fault {kind:?}"),
    }
    format!("the fault {kind:?} went unnoticed")
}

#[inline(never)]
fn read(address: u64) {
    // SAFETY: in assembly, so that the compiler knows nothing of the address; the shim must stop the guest here.
    unsafe { asm!("mov {value}, [{address}]", address = in(reg) address, value = out(reg) _, options(nostack)) }
}

#[inline(never)]
fn write(address: u64) {
    // SAFETY: as for `read`.
    unsafe { asm!("mov qword ptr [{address}], 0", address = in(reg) address, options(nostack)) }
}

#[inline(never)]
fn call(address: u64) {
    // SAFETY: as for `read`; were the code executed, it would return at once.
    unsafe { asm!("call {address}", address = in(reg) address, clobber_abi("C")) }
}

/// Uses the stack up.
#[inline(never)]
#[expect(unconditional_recursion, reason = "that is the point")]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    descend(depth + 1) + frame[(depth % 64) as usize]
}
