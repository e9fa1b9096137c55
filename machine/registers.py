"""Register numbers of an x64 processor as every engine of ours knows them.

Small integers, so that an engine maps them to its own by indexing a tuple. Order: the encoding order of the instruction
set (AMD64 Architecture Programmer's Manual volume 3, table 1-10), then the system registers.
"""

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
R8, R9, R10, R11, R12, R13, R14, R15 = range(8, 16)
RIP, RFLAGS = 16, 17
CR0, CR2, CR3, CR4, CR8 = 18, 19, 20, 21, 22
ES, CS, SS, DS, FS, GS = range(23, 29)
FS_BASE, GS_BASE = 29, 30
MXCSR, FPCW, FPSW, FPTAG = 31, 32, 33, 34
COUNT = 35

GENERAL = tuple(range(18))
"""RAX to R15, RIP and RFLAGS."""

NONVOLATILE = (RBX, RBP, RSI, RDI, R12, R13, R14, R15)
"""What a callee preserves under the Microsoft x64 calling convention (UEFI 2.10, 2.3.4.1), without the stack pointer."""

NAMES = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("rip", "rflags", "cr0", "cr2", "cr3", "cr4", "cr8"),
    *("es", "cs", "ss", "ds", "fs", "gs", "fs_base", "gs_base", "mxcsr", "fpcw", "fpsw", "fptag"),
)

RFLAGS_CF = 1 << 0
RFLAGS_TF = 1 << 8
RFLAGS_IF = 1 << 9
RFLAGS_NT = 1 << 14
RFLAGS_RF = 1 << 16
RFLAGS_VM = 1 << 17
