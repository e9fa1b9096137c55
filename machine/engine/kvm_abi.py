"""/dev/kvm as far as we use it: its ioctls, the page that the kernel shares with us for each processor, and their layouts.

Linux, include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h; Documentation/virt/kvm/api.rst. Registers travel in the
shared page (KVM_CAP_SYNC_REGS), so that an exit costs one system call and no more.
"""

import ctypes
import mmap
import os
import struct
from collections.abc import Callable

from machine.errors import EngineError

DEVICE = "/dev/kvm"
API_VERSION = 12

_GET_API_VERSION, _CREATE_VM, _CHECK_EXTENSION, _GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE03, 0xAE04
_GET_SUPPORTED_CPUID = 0xC008AE05
_CREATE_VCPU, _SET_USER_MEMORY_REGION, _SET_TSS_ADDR = 0xAE41, 0x4020AE46, 0xAE47
_RUN = 0xAE80
_GET_MSRS, _SET_MSRS, _GET_FPU, _SET_FPU, _SET_CPUID2 = 0xC008AE88, 0x4008AE89, 0x81A0AE8C, 0x41A0AE8D, 0x4008AE90
_GET_SREGS, _SET_TSC_KHZ, _GET_XCRS, _SET_XCRS = 0x8138AE83, 0xAEA2, 0x8188AEA6, 0x4188AEA7
_GET_DEBUG_REGISTERS, _SET_DEBUG_REGISTERS = 0x8080AEA1, 0x4080AEA2
_ENABLE_CAP, _SET_MSR_FILTER = 0x4068AEA3, 0x4188AEC6
_CAP_USER_SPACE_MSR, _MSR_EXIT_FILTERED, _FILTER_DENIES = 188, 1 << 2, 1
_FILTER_RANGES, _READ_AND_WRITE = 16, 3
_CAP_SYNC_REGS, _CAP_IMMEDIATE_EXIT = 74, 136
SYNC_REGS, SYNC_SREGS, SYNC_EVENTS = 1, 2, 4

EXIT_IO, EXIT_HLT, EXIT_MMIO, EXIT_IRQ_WINDOW, EXIT_SHUTDOWN, EXIT_FAIL_ENTRY, EXIT_INTERNAL_ERROR = (
    2,
    5,
    6,
    7,
    8,
    9,
    17,
)
EXIT_RDMSR, EXIT_WRMSR = 29, 30
EINTR, EINVAL = 4, 22

# struct kvm_run
REQUEST_WINDOW, IMMEDIATE_EXIT, EXIT_REASON, EXIT_UNION = 0, 1, 8, 32
VALID_REGS, DIRTY_REGS = 288, 296
REGS_AT, REGS_SIZE = 304, 144
SREGS_AT, SREGS_SIZE = 448, 312
EVENTS_AT = 760
SHADOW_AT = EVENTS_AT + 11
"""Not 0 behind STI, MOV SS and POP SS: no interrupt may come there."""
IO = struct.Struct("<BBHIQ")
"""direction, size, port, count, offset of the data"""

# struct kvm_regs, in units of 8 bytes
RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP = range(8)
RIP, RFLAGS = 16, 17

# struct kvm_sregs
SEGMENT = struct.Struct("<QIHBBBBBBBBBB")
"""base, limit, selector, type, present, dpl, db, s, l, g, avl, unusable, padding"""
CS_AT, DS_AT, ES_AT, FS_AT, GS_AT, SS_AT, TR_AT, LDT_AT, GDT_AT, IDT_AT, CONTROL_AT = (
    *(0, 24, 48, 72, 96, 120, 144, 168),
    *(192, 208, 224),
)
TABLE = struct.Struct("<QH6x")
CONTROL = struct.Struct("<6Q")
"""CR0, CR2, CR3, CR4, CR8, EFER"""

FPU = struct.Struct("<128sHHBxHQQ256sII")
"""struct kvm_fpu: ST0 to ST7 in 16 bytes each, FCW, FSW, abridged tag, opcode, IP, DP, XMM0 to XMM15, MXCSR, padding"""

_XCRS_SIZE = 392
_DEBUG_REGISTERS = struct.Struct("<6Q80x")
"""struct kvm_debugregs: DR0 to DR3, DR6, DR7, flags"""
_CPUID_ENTRY = 40
_MOST_CPUID_ENTRIES = 256

# No argtypes: an ioctl's last argument is a number or an address, and checking takes as long as the call.
_libc = ctypes.CDLL(None, use_errno=True)


def _ioctl(descriptor: int, request: int, argument: "int | bytearray" = 0) -> int:
    """The ioctl's answer; OSError."""
    if isinstance(argument, bytearray):
        value: ctypes.c_void_p | ctypes.c_ulong = ctypes.c_void_p(
            ctypes.addressof((ctypes.c_char * len(argument)).from_buffer(argument))
        )
    else:
        value = ctypes.c_ulong(argument)
    result: int = _libc.ioctl(descriptor, ctypes.c_ulong(request), value)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{DEVICE}: {os.strerror(error)} (ioctl {request:#x})")
    return result


class Vcpu:
    """One processor of a Vm. `page` is struct kvm_run; `regs` its struct kvm_regs as numbers of 64 bits."""

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.page = mmap.mmap(descriptor, size)
        view = memoryview(self.page)
        self.regs = view[REGS_AT : REGS_AT + REGS_SIZE].cast("Q")
        view[VALID_REGS : VALID_REGS + 8] = struct.pack("<Q", SYNC_REGS | SYNC_SREGS | SYNC_EVENTS)
        view.release()
        self._run = _libc.ioctl
        self._arguments = ctypes.c_int(descriptor), ctypes.c_ulong(_RUN), ctypes.c_ulong(0)

    def run(self) -> int:
        """KVM_RUN: 0, or the errno for which it came back without an exit."""
        return 0 if self._run(*self._arguments) >= 0 else ctypes.get_errno()

    def set_msr(self, index: int, value: int) -> None:
        """KVM_SET_MSRS for one; OSError if KVM does not take it."""
        if _ioctl(self.descriptor, _SET_MSRS, bytearray(struct.pack("<IIIIQ", 1, 0, index, 0, value))) != 1:
            raise OSError(22, f"{DEVICE}: MSR {index:#x} was refused")

    def get_msr(self, index: int) -> int:
        """KVM_GET_MSRS for one; OSError if KVM does not have it."""
        data = bytearray(struct.pack("<IIIIQ", 1, 0, index, 0, 0))
        if _ioctl(self.descriptor, _GET_MSRS, data) != 1:
            raise OSError(22, f"{DEVICE}: MSR {index:#x} was refused")
        return int.from_bytes(data[16:], "little")

    def set_cpuid(self, entries: list[tuple[int, int, bool, tuple[int, int, int, int]]]) -> None:
        """KVM_SET_CPUID2: (leaf, subleaf, whether subleaves count, (EAX, EBX, ECX, EDX)) each."""
        table = struct.pack("<II", len(entries), 0) + b"".join(
            struct.pack("<7I12x", leaf, subleaf, int(counts), *answer) for leaf, subleaf, counts, answer in entries
        )
        _ioctl(self.descriptor, _SET_CPUID2, bytearray(table))

    def set_tsc_frequency(self, hertz: int) -> None:
        """KVM_SET_TSC_KHZ; OSError if the processor cannot scale its own to that."""
        _ioctl(self.descriptor, _SET_TSC_KHZ, hertz // 1000)

    def get_xcr0(self) -> int:
        """XCR0."""
        data = bytearray(_XCRS_SIZE)
        _ioctl(self.descriptor, _GET_XCRS, data)
        return int.from_bytes(data[16:24], "little")

    def set_xcr0(self, value: int) -> None:
        """The same back."""
        data = bytearray(_XCRS_SIZE)
        struct.pack_into("<IIIIQ", data, 0, 1, 0, 0, 0, value)
        _ioctl(self.descriptor, _SET_XCRS, data)

    def get_debug_registers(self) -> list[int]:
        """DR0 to DR3, DR6, DR7."""
        data = bytearray(_DEBUG_REGISTERS.size)
        _ioctl(self.descriptor, _GET_DEBUG_REGISTERS, data)
        return list(_DEBUG_REGISTERS.unpack(data))

    def set_debug_registers(self, values: list[int]) -> None:
        """The same back."""
        _ioctl(self.descriptor, _SET_DEBUG_REGISTERS, bytearray(_DEBUG_REGISTERS.pack(*values)))

    def get_fpu(self) -> bytearray:
        """struct kvm_fpu."""
        data = bytearray(FPU.size)
        _ioctl(self.descriptor, _GET_FPU, data)
        return data

    def set_fpu(self, data: bytearray) -> None:
        """The same back."""
        _ioctl(self.descriptor, _SET_FPU, data)

    def get_sregs(self) -> bytearray:
        """struct kvm_sregs, as KVM makes a new processor."""
        data = bytearray(SREGS_SIZE)
        _ioctl(self.descriptor, _GET_SREGS, data)
        return data

    def close(self) -> None:
        """Give it back."""
        self.regs.release()
        self.page.close()
        os.close(self.descriptor)


class Vm:
    """One virtual machine of KVM. EngineError, in one line, where there is no KVM or it lacks what we need."""

    def __init__(self) -> None:
        try:
            self._kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise EngineError(
                f"no {DEVICE} on this machine: its kernel has no KVM, or the module is not loaded"
            ) from None
        except PermissionError:
            raise EngineError(f"{DEVICE}: no permission; on most systems the group `kvm` may use it") from None
        except OSError as error:
            raise EngineError(f"{DEVICE}: {error.strerror}") from None
        self._vm = -1
        try:
            if _ioctl(self._kvm, _GET_API_VERSION) != API_VERSION:
                raise EngineError(f"{DEVICE} is not version {API_VERSION} of KVM's interface")
            for capability in (_CAP_SYNC_REGS, _CAP_IMMEDIATE_EXIT):
                if _ioctl(self._kvm, _CHECK_EXTENSION, capability) <= 0:
                    raise EngineError(f"{DEVICE} has no KVM capability {capability}; Linux 4.17 or newer has it")
            self._vm = _ioctl(self._kvm, _CREATE_VM)
            self._size = _ioctl(self._kvm, _GET_VCPU_MMAP_SIZE)
            self._unless_refused(lambda: _ioctl(self._vm, _SET_TSS_ADDR, 0xFFFB_D000))
            self._cpuid = self._supported_cpuid()
        except OSError as error:
            self.close()
            raise EngineError(str(error.strerror)) from None
        except EngineError:
            self.close()
            raise

    @staticmethod
    def _unless_refused(action: Callable[[], object]) -> None:
        """What only some processors of Intel's need, and other KVMs need not know."""
        try:
            action()
        except OSError as error:
            if error.errno not in (EINVAL, 25):  # 25 is ENOTTY
                raise

    def _supported_cpuid(self) -> bytearray:
        """What KVM must believe of the processor before it enters long mode; guests are answered by us."""
        table = bytearray(8 + _CPUID_ENTRY * _MOST_CPUID_ENTRIES)
        struct.pack_into("<I", table, 0, _MOST_CPUID_ENTRIES)
        _ioctl(self._kvm, _GET_SUPPORTED_CPUID, table)
        count = int.from_bytes(table[:4], "little")
        return table[: 8 + _CPUID_ENTRY * count]

    def vcpu(self, index: int) -> Vcpu:
        """Make processor `index`."""
        vcpu = Vcpu(_ioctl(self._vm, _CREATE_VCPU, index), self._size)
        _ioctl(vcpu.descriptor, _SET_CPUID2, self._cpuid)
        return vcpu

    def trap_msrs(self, kept: list[tuple[int, int]]) -> None:
        """Have all MSRs but the (first, count) ranges of `kept` come out as EXIT_RDMSR and EXIT_WRMSR. OSError without that."""
        request = bytearray(0x68)
        struct.pack_into("<IIQ", request, 0, _CAP_USER_SPACE_MSR, 0, _MSR_EXIT_FILTERED)
        _ioctl(self._vm, _ENABLE_CAP, request)
        allowed = ctypes.create_string_buffer(b"\xff" * 64)
        data = bytearray(8 + 24 * _FILTER_RANGES)
        struct.pack_into("<I", data, 0, _FILTER_DENIES)
        for number, (first, count) in enumerate(kept):
            struct.pack_into(
                "<IIIxxxxQ", data, 8 + 24 * number, _READ_AND_WRITE, count, first, ctypes.addressof(allowed)
            )
        _ioctl(self._vm, _SET_MSR_FILTER, data)

    def map(self, slot: int, physical: int, size: int, host: int) -> None:
        """Let the guest see `size` bytes of our memory at `host` at guest-physical `physical`; size 0 takes them away."""
        _ioctl(self._vm, _SET_USER_MEMORY_REGION, bytearray(struct.pack("<IIQQQ", slot, 0, physical, size, host)))

    def close(self) -> None:
        """Give it back; its processors must be closed already."""
        if self._vm >= 0:
            os.close(self._vm)
        os.close(self._kvm)
