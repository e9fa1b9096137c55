/* Where a unikernel begins: by its PVH note in 32-bit mode, or by the ELF entry point in 64-bit mode. Also the pattern whose
 * sum main.c checks: larger than what a boot loader reads at once, so that no piece may be missing or lie elsewhere.
 */
#ifdef PVH
    .section .note.pvh, "a", @note
    .long 4, 4, 18                  /* XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long start

    .section .text
    .code32
    .globl start
start:
    movl $stack_end, %esp
    pushl %ebx                      /* hvm_start_info */
    call main
#else
    .section .text
    .code64
    .globl start
start:
    leaq stack_end(%rip), %rsp
    movq %rsi, %rdi                 /* boot_params */
    call main
#endif
1:  hlt
    jmp 1b

    .section .rodata
    .balign 4
    .globl pattern, pattern_end
pattern:
    .set value, 0
    .rept 12000
    .long value * 2654435761 & 0xffffffff
    .set value, value + 1
    .endr
pattern_end:

    .section .bss
    .balign 16
    .skip 8192
stack_end:
