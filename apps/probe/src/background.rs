//! Computations beside the other tasks, and what might go wrong there.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::arch::asm;
use core::hint::black_box;

use runtime::compute::spawn;

use crate::{loops, measure};

/// Stack of a computation, in bytes.
const STACK_BYTES: usize = 64 * 1024;

/// Computes so many rounds, or tries what the word says.
pub async fn run(what: &str) -> String {
    if let Ok(rounds) = what.parse() {
        return format!("computed {:x}", spawn(STACK_BYTES, move || measure::compute(rounds)).await);
    }
    if let Some(kind) = what.strip_prefix("loop ") {
        let kind = String::from(kind);
        return spawn(STACK_BYTES, move || loops::go_round(&kind)).await.into();
    }
    if let Some(rounds) = what.strip_prefix("floats ").and_then(|rounds| rounds.parse().ok()) {
        return format!("floats {:x}", spawn(STACK_BYTES, move || measure::floats(rounds)).await);
    }
    match what {
        "registers" => format!("kept {}", spawn(STACK_BYTES, || registers_are_kept(20_000_000)).await),
        "allocate" => format!("allocated {}", spawn(STACK_BYTES, || churn(500_000)).await),
        "panic" => spawn(STACK_BYTES, || crate::outer_caller(1)).await,
        "spawn" => {
            spawn(STACK_BYTES, || drop(runtime::spawn(async {}))).await;
            "a computation has started a task".into()
        }
        "overflow" => format!("descended {}", spawn(0, || descend(100)).await),
        _ => format!("unknown computation {what:?}"),
    }
}

/// Fills every register, the flags and the red zone, counts, and looks whether all of it is still there. The loop is
/// written by hand: it counts no ticks.
#[inline(never)]
fn registers_are_kept(rounds: u64) -> bool {
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
            "4: pop rbp",
            "pop rbx",
            inlateout("rcx") rounds => _,
            out("rax") kept,
            out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _, out("r12") _, out("r13") _, out("r14") _, out("r15") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
            out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
            out("xmm14") _, out("xmm15") _,
        );
    }
    kept == 1
}

/// Takes memory and gives it back, over and over, and looks whether it is its own alone. Returns how many pieces it had.
fn churn(rounds: u64) -> u64 {
    let mut held: Vec<(u8, Box<[u8]>)> = Vec::new();
    let mut state = 1_u64;
    for round in 0..rounds {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let fill = round as u8;
        held.push((fill, alloc::vec![fill; (state >> 54) as usize].into_boxed_slice()));
        if held.len() > 64 {
            let (fill, piece) = held.swap_remove((state >> 40) as usize % 64);
            assert!(piece.iter().all(|&byte| byte == fill), "memory of a computation was written to by somebody else");
        }
    }
    rounds
}

/// Uses more stack than there is, but not without end.
#[inline(never)]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    if depth == 0 { 0 } else { descend(depth - 1) + 1 + (frame[(depth % 64) as usize] - depth) }
}
