/* The master boot record's code, and the ways between the processor's modes: real mode for the BIOS, protected mode for
 * main.c, and what an ELF unikernel expects. Loaded by the BIOS at 0x7c00; the sectors behind it follow at 0x7e00.
 */

    .set CODE32, 0x08
    .set CODE64, 0x10
    .set DATA32, 0x18
    .set CODE16, 0x20
    .set DATA16, 0x28
    .set TASK, 0x30
    .set EFER, 0xc0000080

    .section .mbr, "ax"
    .code16
    .globl boot
boot:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $boot, %sp
    sti
    cld
    ljmp $0, $1f                    /* some BIOSes come with CS 0x7c0 */
1:  movb %dl, drive
    movb $0x41, %ah                 /* INT 13h extensions: are they there? */
    movw $0x55aa, %bx
    int $0x13
    jc no_disk
    cmpw $0xaa55, %bx
    jne no_disk
    movb $0x42, %ah                 /* extended read of the other sectors */
    movb drive, %dl
    movw $packet, %si
    int $0x13
    jc no_disk
    jmp stage

no_disk:
    movw $message, %si
2:  lodsb
    testb %al, %al
    jz 3f
    movb $0x0e, %ah
    xorw %bx, %bx
    int $0x10
    movb -1(%si), %al               /* INT 10h need not keep AL */
    movw $0x3f8, %dx
    outb %al, %dx
    jmp 2b
3:  hlt
    jmp 3b

message:
    .asciz "cvmboot: the BIOS cannot read the disk\r\n"

    .balign 4
packet:
    .byte 16, 0
    .word stage_sectors             /* by the linker script */
    .word plan, 0
    .quad 1

    .globl drive
drive:
    .byte 0

    .section .stage, "ax"
    .code16
stage:
    movw $0x2401, %ax               /* A20 by the BIOS, then by port 0x92; main.c looks whether it is on */
    int $0x15
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al                 /* bit 0 would reset the machine */
    outb %al, $0x92
    cli
    lgdt gdt_pointer
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $CODE32, $1f
    .code32
1:  movw $DATA32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl $boot, %esp
    call main
2:  cli
    hlt
    jmp 2b

/* void bios(unsigned vector, struct registers *registers): INT `vector` in real mode. */
    .globl bios
bios:
    pushal
    movl 36(%esp), %eax
    movb %al, vector + 1
    movl 40(%esp), %esi
    movl $frame, %edi
    movl $7, %ecx
    rep movsl
    movl %esp, kept_stack
    ljmp $CODE16, $1f
    .code16
1:  movw $DATA16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    andb $0xfe, %al
    movl %eax, %cr0
    ljmp $0, $2f
2:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    lidt real_idt
    sti
    movl frame + 0, %eax
    movl frame + 4, %ebx
    movl frame + 8, %ecx
    movl frame + 12, %edx
    movl frame + 16, %esi
    movl frame + 20, %edi
vector:
    int $0
    cli
    movl %eax, %cs:frame + 0
    movl %ebx, %cs:frame + 4
    movl %ecx, %cs:frame + 8
    movl %edx, %cs:frame + 12
    movl %esi, %cs:frame + 16
    movl %edi, %cs:frame + 20
    pushfl
    popl %cs:frame + 24
    cld
    xorw %ax, %ax
    movw %ax, %ds
    lgdt gdt_pointer                /* a BIOS may have loaded its own */
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $CODE32, $3f
    .code32
3:  movw $DATA32, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw %ax, %fs
    movw %ax, %gs
    movl kept_stack, %esp
    movl 40(%esp), %edi
    movl $frame, %esi
    movl $7, %ecx
    rep movsl
    popal
    ret

/* void enter_pvh(unsigned entry, unsigned start_info, struct gdt_pointer *): Xen, docs/misc/pvh.pandoc. */
    .globl enter_pvh
enter_pvh:
    movl 4(%esp), %eax
    movl 8(%esp), %ebx
    movl 12(%esp), %ecx
    lgdt (%ecx)
    ljmp $CODE32, $1f
1:  movw $DATA32, %cx
    movw %cx, %ds
    movw %cx, %es
    movw %cx, %ss
    movw %cx, %fs
    movw %cx, %gs
    movw $TASK, %cx
    ltr %cx
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %ebp, %ebp
    pushl $2
    popfl
    jmp *%eax

/* void enter_linux64(unsigned entry, unsigned boot_params, struct gdt_pointer *, unsigned page_tables):
 * Linux, Documentation/arch/x86/boot.rst, "64-bit Boot Protocol". */
    .globl enter_linux64
enter_linux64:
    movl 4(%esp), %edi
    movl 8(%esp), %esi
    movl 12(%esp), %ecx
    movl 16(%esp), %ebx
    lgdt (%ecx)
    movl %cr4, %eax
    orl $0x20, %eax                 /* PAE */
    movl %eax, %cr4
    movl %ebx, %cr3
    movl $EFER, %ecx
    rdmsr
    orl $0x100, %eax                /* LME */
    wrmsr
    movl %cr0, %eax
    orl $0x80000001, %eax           /* PG, PE */
    movl %eax, %cr0
    ljmp $CODE64, $1f
    .code64
1:  movw $DATA32, %cx
    movw %cx, %ds
    movw %cx, %es
    movw %cx, %ss
    movl %edi, %eax
    xorl %ebx, %ebx
    xorl %edi, %edi
    xorl %ebp, %ebp
    pushq $2
    popfq
    jmp *%rax

    .section .data
    .balign 8
    .globl gdt
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* CODE32 */
    .quad 0x00af9b000000ffff        /* CODE64 */
    .quad 0x00cf93000000ffff        /* DATA32 */
    .quad 0x00009b000000ffff        /* CODE16 */
    .quad 0x000093000000ffff        /* DATA16 */
    .quad 0x0000890000000067        /* TASK: 32-bit TSS at 0, never used */
    .globl gdt_end
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
real_idt:
    .word 0x3ff
    .long 0
    .balign 4
kept_stack:
    .long 0
frame:
    .skip 28
