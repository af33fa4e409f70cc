# Entry from the PVH loader: 32-bit protected mode, paging off, ebx = address of hvm_start_info.
# Builds an identity mapping of the first 4 GiB with 2 MiB pages, enters long mode and calls shim_main.
# The final page tables are built in Rust.

.section .note.pvh, "a", @note
    .align 4
    .long 4, 4, 18              # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long _start32

.section .boot, "ax"
.code32
.global _start32
_start32:
    cli
    cld
    mov esi, ebx
    mov esp, offset shim_stack_top

    mov edi, offset boot_pd
    mov eax, 0x83               # present, writable, 2 MiB
    xor edx, edx
    mov ecx, 2048
2:  mov [edi], eax
    mov [edi + 4], edx
    add eax, 0x200000
    adc edx, 0
    add edi, 8
    dec ecx
    jnz 2b

    mov edi, offset boot_pdpt
    mov eax, offset boot_pd
    or eax, 3
    mov ecx, 4
3:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add eax, 0x1000
    add edi, 8
    dec ecx
    jnz 3b

    mov eax, offset boot_pdpt
    or eax, 3
    mov edi, offset boot_pml4
    mov [edi], eax
    mov cr3, edi

    mov eax, cr4
    or eax, 0x620               # PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov ecx, 0xc0000080         # EFER
    rdmsr
    or eax, 0x901               # SCE, LME, NXE
    wrmsr
    mov eax, cr0
    and eax, 0xfffffff3         # EM = 0, TS = 0
    or eax, 0x80010023          # PG, WP, NE, MP, PE
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    .byte 0xea                  # far jump to 8:4f, which not every assembler spells alike
    .long 4f
    .word 8

.code64
4:  mov ax, 0x10
    mov ds, ax
    mov es, ax
    mov ss, ax
    xor eax, eax
    mov fs, ax
    mov gs, ax
    mov edi, esi
    lea rsp, [rip + shim_stack_top]
    xor ebp, ebp
    call {main}
5:  hlt
    jmp 5b

.section .rodata.boot, "a"
    .align 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
    .quad 0x00cf93000000ffff    # data
boot_gdt_pointer:
    .word 23
    .long boot_gdt

.section .bss.boot, "aw", @nobits
    .align 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 16384
.global shim_stack_guard
shim_stack_guard: .skip 4096    # unmapped by the final page tables
    .skip 131072
.global shim_stack_top
shim_stack_top:
