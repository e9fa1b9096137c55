"""Unicorn's C interface as far as we use it, called through ctypes without the package's own Python layer.

The library file is that of the `unicorn` package on PyPI (2.1.x). Its Python layer costs 50 ms of start-up and 10 us a
register; these declarations cost 6 ms and 0.5 us. Constants: unicorn.h, x86.h of that release; a test compares them with
the package's own. Two handles on one library: `gil` keeps the interpreter lock (short calls), `free` releases it.
"""

import ctypes
import importlib.util
import struct
from pathlib import Path

from machine.errors import EngineError

ARCH_X86, MODE_64 = 4, 8
CPU_X86_EPYC_ROME = 37

HOOK_INTR, HOOK_INSN, HOOK_CODE, HOOK_BLOCK, HOOK_INSN_INVALID, HOOK_TLB_FILL = 1, 2, 4, 8, 1 << 14, 1 << 17
HOOK_MEM_FETCH_PROT, HOOK_MEM_READ, HOOK_MEM_WRITE = 1 << 9, 1 << 10, 1 << 11
INS_CPUID, INS_IN, INS_OUT, INS_SYSCALL = 113, 218, 500, 699

ERR_OK, ERR_INSN_INVALID, ERR_EXCEPTION = 0, 10, 21
PROT_READ, PROT_WRITE, PROT_EXEC, PROT_ALL = 1, 2, 4, 7
MEM_READ, MEM_WRITE, MEM_FETCH = 16, 17, 18
"""The kinds of access by which hooks are told; READ and WRITE of data, FETCH of code."""
TLB_VIRTUAL = 1

_WRITE = 1 << 30
CTL_USE_EXITS = 4 | 1 << 26 | _WRITE
CTL_CPU_MODEL = 7 | 1 << 26 | _WRITE
CTL_TB_REMOVE_CACHE = 9 | 2 << 26 | _WRITE
CTL_TB_FLUSH = 10 | _WRITE
CTL_TLB_FLUSH = 11 | _WRITE
CTL_TLB_TYPE = 12 | 1 << 26 | _WRITE
CTL_TCG_BUFFER_SIZE = 13 | 1 << 26 | _WRITE

NOWHERE = 0x8000_0000_0000
"""A non-canonical end of emulation, which no guest can reach."""

REG_IDTR, REG_GDTR, REG_TR, REG_MSR = 242, 243, 245, 248
REG_FP0, REG_XMM0 = 82, 122
REGISTERS = (
    *(35, 38, 40, 37, 44, 36, 43, 39, 106, 107, 108, 109, 110, 111, 112, 113),  # RAX RCX RDX RBX RSP RBP RSI RDI R8-R15
    *(41, 253, 50, 52, 53, 54, 58),  # RIP RFLAGS CR0 CR2 CR3 CR4 CR8
    *(28, 11, 49, 17, 32, 33),  # ES CS SS DS FS GS
    *(250, 251, 249, 246, 31, 247),  # FS_BASE GS_BASE MXCSR FPCW FPSW FPTAG
)
"""Unicorn's number of each register of `machine.registers`, in that order."""


class TlbEntry(ctypes.Structure):
    """uc_tlb_entry: physical page and permissions."""

    _fields_ = (("paddr", ctypes.c_uint64), ("perms", ctypes.c_uint32))


class Mmr(ctypes.Structure):
    """uc_x86_mmr: GDTR, IDTR, TR."""

    _fields_ = (
        ("selector", ctypes.c_uint16),
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
    )


class Msr(ctypes.Structure):
    """uc_x86_msr."""

    _fields_ = (("rid", ctypes.c_uint32), ("value", ctypes.c_uint64))


_VOID, _U32, _U64, _INT = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64, ctypes.c_int
INTR_CALLBACK = ctypes.CFUNCTYPE(None, _VOID, _U32, _VOID)
CODE_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _U64, _U32, _VOID)
"""To Unicorn a function without result: `StopFlag.around` looks at it."""
INVALID_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _VOID)
TLB_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _U64, _INT, ctypes.POINTER(TlbEntry), _VOID)
FETCH_PROT_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_bool, _VOID, _INT, _U64, _INT, ctypes.c_int64, _VOID)
MEMORY_CALLBACK = ctypes.CFUNCTYPE(None, _VOID, _INT, _U64, _INT, ctypes.c_int64, _VOID)
SYSCALL_CALLBACK = ctypes.CFUNCTYPE(None, _VOID, _VOID)
CPUID_CALLBACK = ctypes.CFUNCTYPE(_INT, _VOID, _VOID)
IN_CALLBACK = ctypes.CFUNCTYPE(_U32, _VOID, _U32, _INT, _VOID)
OUT_CALLBACK = ctypes.CFUNCTYPE(None, _VOID, _U32, _INT, _U32, _VOID)
MMIO_READ_CALLBACK = ctypes.CFUNCTYPE(_U64, _VOID, _U64, ctypes.c_uint, _VOID)
MMIO_WRITE_CALLBACK = ctypes.CFUNCTYPE(None, _VOID, _U64, ctypes.c_uint, _U64, _VOID)
EXIT_CPU = ctypes.PYFUNCTYPE(None, _VOID)
"""cpu_exit, which is no part of the interface."""


class Library:
    """The loaded library; EngineError if the package is not installed."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec("unicorn")
        if spec is None or not spec.submodule_search_locations:
            raise EngineError("the unicorn package is not installed; run `make` or `pip install unicorn`")
        folder = Path(spec.submodule_search_locations[0]) / "lib"
        names = ("libunicorn.so.2", "libunicorn.2.dylib", "unicorn.dll")
        path = next((folder / name for name in names if (folder / name).exists()), None)
        if path is None:
            raise EngineError(f"no Unicorn library among {', '.join(names)} in the unicorn package")
        gil, free = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
        self._symbols = gil
        self.open = gil.uc_open
        self.open.argtypes = (_INT, _INT, ctypes.POINTER(_VOID))
        self.close = gil.uc_close
        self.close.argtypes = (_VOID,)
        self.strerror = gil.uc_strerror
        self.strerror.argtypes, self.strerror.restype = (_INT,), ctypes.c_char_p
        self.reg_read = gil.uc_reg_read
        self.reg_read.argtypes = (_VOID, _INT, _VOID)
        self.reg_write = gil.uc_reg_write
        self.reg_write.argtypes = (_VOID, _INT, _VOID)
        self.reg_read_batch = gil.uc_reg_read_batch
        self.reg_write_batch = gil.uc_reg_write_batch
        # No argtypes: its arguments are ctypes objects already, and checking them takes as long as the call.
        self.mem_map_ptr = gil.uc_mem_map_ptr
        self.mem_map_ptr.argtypes = (_VOID, _U64, _U64, _U32, _VOID)
        self.mmio_map = gil.uc_mmio_map
        self.mmio_map.argtypes = (_VOID, _U64, _U64, MMIO_READ_CALLBACK, _VOID, MMIO_WRITE_CALLBACK, _VOID)
        # variadic: uc_hook_add(uc, hook *, type, callback, user, begin, end, ...), uc_ctl(uc, control, ...)
        self.hook_add = gil.uc_hook_add
        self.hook_del = gil.uc_hook_del
        self.hook_del.argtypes = (_VOID, ctypes.c_size_t)
        self.ctl = gil.uc_ctl
        self.context_alloc = gil.uc_context_alloc
        self.context_alloc.argtypes = (_VOID, ctypes.POINTER(_VOID))
        self.context_save = gil.uc_context_save
        self.context_save.argtypes = (_VOID, _VOID)
        self.context_restore = gil.uc_context_restore
        self.context_restore.argtypes = (_VOID, _VOID)
        self.context_size = gil.uc_context_size
        self.context_size.argtypes, self.context_size.restype = (_VOID,), ctypes.c_size_t
        self.context_free = gil.uc_context_free
        self.context_free.argtypes = (_VOID,)
        self.emu_start = free.uc_emu_start
        self.emu_start.argtypes = (_VOID, _U64, _U64, _U64, ctypes.c_size_t)
        self.emu_stop = gil.uc_emu_stop
        self.emu_stop.argtypes = (_VOID,)

    def address(self, name: str) -> int:
        """Where a function of the library is, one that is no part of its interface, too; 0 if this library shows none."""
        function = getattr(self._symbols, name, None)
        return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0

    def check(self, code: int, what: str) -> None:
        """EngineError with Unicorn's own words unless `code` is UC_ERR_OK."""
        if code != ERR_OK:
            raise EngineError(f"unicorn: {what}: {self.strerror(code).decode()} ({code})")


class Batch:
    """A fixed group of a CPU's registers, read or written by one call on preallocated arrays."""

    __slots__ = (
        "_count",
        "_handle",
        "_keep",
        "_numbers",
        "_pack",
        "_pointers",
        "_read",
        "_unpack",
        "_values",
        "_write",
    )

    def __init__(self, library: "Library", handle: ctypes.c_void_p, registers: tuple[int, ...]) -> None:
        count = len(registers)
        values = (ctypes.c_uint64 * count)()
        base = ctypes.addressof(values)
        numbers = (_INT * count)(*(REGISTERS[r] for r in registers))
        pointers = (_VOID * count)(*range(base, base + 8 * count, 8))
        self._keep = (numbers, pointers)
        self._numbers, self._pointers = _VOID(ctypes.addressof(numbers)), _VOID(ctypes.addressof(pointers))
        self._values = values
        self._count = _INT(count)
        self._handle = handle
        self._read = library.reg_read_batch
        self._write = library.reg_write_batch
        layout = struct.Struct(f"<{count}Q")
        self._unpack, self._pack = layout.unpack_from, layout.pack_into

    def read(self) -> tuple[int, ...]:
        """Their values now."""
        self._read(self._handle, self._numbers, self._pointers, self._count)
        return self._unpack(self._values)

    def write(self, *values: int) -> None:
        """Set them, all of 64 bits. Not RIP while guest code runs: Unicorn would put it back."""
        self._pack(self._values, 0, *values)
        self._write(self._handle, self._numbers, self._pointers, self._count)
