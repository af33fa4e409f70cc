# Ways into the guest and out of it. One virtual CPU, so the guest's registers have one fixed place: guest_context
# (context.rs holds its layout; the offsets below are checked there).
#
# enter_guest returns in rax why the guest was left: 0 for a hypercall, 1 for an exception or an interrupt, whose
# vector and error code are in the context.
#
# enter_counted is the same for a processor that counts instructions (count.rs). Between its time stamp and the guest's
# first instruction lies a fixed number of instructions, and between the guest's last one and the stamp of either way out
# another: what is left of the distance is the guest's own. These numbers are measured, so the code may change, but not
# branch there.

.set C_RAX, 0
.set C_RBX, 8
.set C_RCX, 16
.set C_RDX, 24
.set C_RSI, 32
.set C_RDI, 40
.set C_RBP, 48
.set C_RSP, 56
.set C_R8, 64
.set C_R9, 72
.set C_R10, 80
.set C_R11, 88
.set C_R12, 96
.set C_R13, 104
.set C_R14, 112
.set C_R15, 120
.set C_RIP, 128
.set C_RFLAGS, 136
.set C_VECTOR, 144
.set C_ERROR, 152
.set C_MXCSR, 160
.set C_FXSAVE, 176

.set USER_DATA, 0x1b
.set USER_CODE, 0x23
.set LAPIC_EOI, 0xfee000b0
.set LAPIC_TIMER_INITIAL, 0xfee00380

# What both ways out of the guest do: keep the registers in the context at rax.
.macro save_low
    mov [rax + C_RBX], rbx
    mov [rax + C_RCX], rcx
    mov [rax + C_RDX], rdx
    mov [rax + C_RSI], rsi
    mov [rax + C_RDI], rdi
    mov [rax + C_RBP], rbp
.endm
.macro save_high
    mov [rax + C_R8], r8
    mov [rax + C_R9], r9
    mov [rax + C_R10], r10
    mov [rax + C_R11], r11
    mov [rax + C_R12], r12
    mov [rax + C_R13], r13
    mov [rax + C_R14], r14
    mov [rax + C_R15], r15
.endm

# Time stamp on the way out; rax and rdx are saved already, rax points to the context again afterwards.
.macro stamp_exit
    rdtsc
    shl rdx, 32
    or rdx, rax
    mov [rip + guest_left_at], rdx
    lea rax, [rip + guest_context]
.endm
# Keeps what a call must preserve; then rax points to the context, and the flags say whether edi is 0.
.macro leave_shim
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    mov [rip + shim_rsp], rsp
    lea rax, [rip + guest_context]
    test edi, edi
.endm
# What a hypercall leaves in the vector registers, as the ABI says; rax points to the context.
.macro zero_vectors
    ldmxcsr [rax + C_MXCSR]
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pxor xmm\register, xmm\register
    .endr
.endm
# The vector registers after an interruption, where an fxsave64 image would have them; rax points to the context. The x87 registers
# stay in the processor all the time: the shim has no use for them.
.macro save_vectors
    stmxcsr [rax + C_FXSAVE + 24]
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps [rax + C_FXSAVE + 160 + 16 * \register], xmm\register
    .endr
.endm
.macro restore_vectors
    ldmxcsr [rax + C_FXSAVE + 24]
    .irp register, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps xmm\register, [rax + C_FXSAVE + 160 + 16 * \register]
    .endr
.endm
.macro push_guest_frame
    push USER_DATA
    push [rax + C_RSP]
    push [rax + C_RFLAGS]
    push USER_CODE
    push [rax + C_RIP]
.endm
# All general registers but rax, rcx, rdx, rsi and rsp.
.macro restore_most
    mov rbx, [rax + C_RBX]
    mov rdi, [rax + C_RDI]
    mov rbp, [rax + C_RBP]
    mov r8, [rax + C_R8]
    mov r9, [rax + C_R9]
    mov r10, [rax + C_R10]
    mov r11, [rax + C_R11]
    mov r12, [rax + C_R12]
    mov r13, [rax + C_R13]
    mov r14, [rax + C_R14]
    mov r15, [rax + C_R15]
.endm
# The rest, rax last, because it points to the context.
.macro restore_rest
    mov rcx, [rax + C_RCX]
    mov rdx, [rax + C_RDX]
    mov rsi, [rax + C_RSI]
    mov rax, [rax + C_RAX]
.endm

.section .text
.code64

# u64 enter_guest(u64 everything): everything = 0 goes on after a hypercall (vector registers are zeroed, as the ABI
# says), 1 restores all that an interruption saved.
.global enter_guest
enter_guest:
    leave_shim
    jnz 2f

    zero_vectors
    mov rcx, [rax + C_RIP]
    mov r11, [rax + C_RFLAGS]
    mov rbx, [rax + C_RBX]
    mov rdx, [rax + C_RDX]
    mov rsi, [rax + C_RSI]
    mov rdi, [rax + C_RDI]
    mov rbp, [rax + C_RBP]
    mov r8, [rax + C_R8]
    mov r9, [rax + C_R9]
    mov r10, [rax + C_R10]
    mov r12, [rax + C_R12]
    mov r13, [rax + C_R13]
    mov r14, [rax + C_R14]
    mov r15, [rax + C_R15]
    mov rsp, [rax + C_RSP]
    mov rax, [rax + C_RAX]
    sysretq

2:  restore_vectors
    push_guest_frame
    restore_most
    restore_rest
    iretq

# u64 enter_counted(u64 everything, u64 ticks): as enter_guest, and always by iretq; starts the timer with so many
# ticks, unless they are 0.
.global enter_counted
enter_counted:
    leave_shim
    jnz 1f
    zero_vectors
    jmp 2f
1:  restore_vectors
2:  push_guest_frame
    restore_most
    test esi, esi
    jz 3f
    mov edx, LAPIC_TIMER_INITIAL
    mov [rdx], esi
3:  rdtsc
    shl rdx, 32
    or rdx, rax
    mov [rip + guest_entered_at], rdx
    lea rax, [rip + guest_context]
    restore_rest
    iretq

# The target of `syscall`: rcx = guest rip, r11 = guest rflags, interrupts masked, still on the guest's stack,
# which is not touched.
.global syscall_entry
syscall_entry:
    mov [rip + guest_context + C_RAX], rax
    lea rax, [rip + guest_context]
    save_low
    stamp_exit
    mov [rax + C_RSP], rsp
    save_high
    mov [rax + C_RIP], rcx
    mov [rax + C_RFLAGS], r11
    stmxcsr [rax + C_MXCSR]
    xor eax, eax
    jmp leave_guest

# Stack: vector, error, rip, cs, rflags, rsp, ss.
common_trap:
    cld
    test byte ptr [rsp + 24], 3
    jz 3f
    mov [rip + guest_context + C_RAX], rax
    lea rax, [rip + guest_context]
    save_low
    stamp_exit
    save_high
    pop [rax + C_VECTOR]
    pop [rax + C_ERROR]
    pop [rax + C_RIP]
    pop rcx
    pop [rax + C_RFLAGS]
    pop [rax + C_RSP]
    save_vectors
    mov eax, 1

leave_guest:
    mov rsp, [rip + shim_rsp]
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret

# From ring 0: an interrupt that ended a halt, or a fault of the shim itself.
3:  cmp qword ptr [rsp], 32
    jb 4f
    push rax
    push rcx
    mov rcx, [rsp + 16]
    bts [rip + pending_interrupts], rcx
    cmp ecx, 255                # a spurious interrupt wants no end-of-interrupt
    je 5f
    mov eax, LAPIC_EOI
    mov dword ptr [rax], 0
5:  pop rcx
    pop rax
    add rsp, 16
    iretq
4:  mov rdi, rsp
    and rsp, -16
    call {shim_fault}
6:  hlt
    jmp 6b

.altmacro
.macro stub number
    .align 16
    .if (\number == 8) || (\number == 10) || (\number == 11) || (\number == 12) || (\number == 13) || (\number == 14) || (\number == 17) || (\number == 21)
    nop                         # as many instructions with an error code as without
    .else
    push 0
    .endif
    push \number
    jmp common_trap
.endm

    .align 16
.global trap_stubs
trap_stubs:
.set number, 0
.rept 256
    stub %number
    .set number, number + 1
.endr

.section .bss
    .align 16
shim_rsp: .skip 8
.global guest_entered_at
guest_entered_at: .skip 8
.global guest_left_at
guest_left_at: .skip 8
.global pending_interrupts
pending_interrupts: .skip 32
