"""The registers of one Unicorn CPU: one by one, the hot ones by a call for several, and what an interrupted thread needs."""

import ctypes
from typing import Any

from machine import registers as reg
from machine.engine import unicorn_abi as abi
from machine.engine.unicorn_abi import Batch
from machine.msr import EFER
from machine.paging import CR0_PE, Mode


class UnicornRegisters:
    """What `machine.cpu.Cpu` says of registers, for the instance of the library that `handle` names."""

    def __init__(self, library: abi.Library, handle: ctypes.c_void_p) -> None:
        self._lib = library
        self.handle = handle
        self._scratch = ctypes.create_string_buffer(64)
        self._value = ctypes.c_uint64.from_buffer(self._scratch)
        self._value_at = ctypes.c_void_p(ctypes.addressof(self._scratch))
        self._arguments = Batch(library, handle, (reg.RCX, reg.RDX, reg.R8, reg.R9, reg.RSP))
        self._control = Batch(library, handle, (reg.CR0, reg.CR3, reg.CR4, reg.CS))
        self._general = Batch(library, handle, reg.GENERAL)
        self._pair = Batch(library, handle, (reg.RAX, reg.RDX))
        self._mode_key: tuple[int, ...] | None = None
        self._mode = Mode(0, 0, 0, 0)
        self._user = False
        self._efer = 0

    def get(self, register: int) -> int:
        """Read one register."""
        self._value.value = 0
        self._lib.reg_read(self.handle, abi.REGISTERS[register], self._value_at)
        return self._value.value

    def set(self, register: int, value: int) -> None:
        """Write one register."""
        self._value.value = value
        self._lib.reg_write(self.handle, abi.REGISTERS[register], self._value_at)

    def arguments(self) -> tuple[int, int, int, int, int]:
        """RCX, RDX, R8, R9, RSP."""
        rcx, rdx, r8, r9, rsp = self._arguments.read()
        return rcx, rdx, r8, r9, rsp

    def general(self) -> list[int]:
        """RAX to R15, RIP, RFLAGS by one call."""
        return list(self._general.read())

    def set_edx_eax(self, value: int) -> None:
        """A result of 64 bits in EDX and EAX; the upper halves of RDX and RAX are cleared."""
        self._pair.write(value & 0xFFFF_FFFF, value >> 32)

    def read_msr(self, index: int) -> int:
        """Read an MSR that Unicorn keeps."""
        if index == EFER:
            return self._efer
        record = abi.Msr(index, 0)
        self._lib.reg_read(self.handle, abi.REG_MSR, ctypes.addressof(record))
        value: int = record.value
        return value

    def write_msr(self, index: int, value: int) -> None:
        """Write an MSR that Unicorn keeps."""
        if index == EFER:
            self._efer = value
            self._mode_key = None
        record = abi.Msr(index, value)
        self._lib.reg_write(self.handle, abi.REG_MSR, ctypes.addressof(record))

    _TABLES = {"gdtr": abi.REG_GDTR, "idtr": abi.REG_IDTR, "tr": abi.REG_TR}  # noqa: RUF012

    def table(self, name: str) -> tuple[int, int]:
        """(base, limit) of a descriptor table register or TR."""
        record = abi.Mmr()
        self._lib.reg_read(self.handle, self._TABLES[name], ctypes.addressof(record))
        return record.base, record.limit

    def set_table(self, name: str, base: int, limit: int, selector: int = 0) -> None:
        """Load a descriptor table register or TR."""
        record = abi.Mmr(selector, base, limit, 0x8B00 if name == "tr" else 0)
        self._lib.reg_write(self.handle, self._TABLES[name], ctypes.addressof(record))

    _VECTORS = (
        *((f"xmm{n}", abi.REG_XMM0 + n, 16) for n in range(16)),
        *((f"fp{n}", abi.REG_FP0 + n, 10) for n in range(8)),
    )
    _SCALARS = (reg.FS_BASE, reg.GS_BASE, reg.MXCSR, reg.FPCW, reg.FPSW, reg.FPTAG)

    def save(self) -> dict[str, Any]:
        """All state that interrupted guest code can notice, as plain data."""
        state: dict[str, Any] = {"general": self.general(), "scalars": [self.get(r) for r in self._SCALARS]}
        for name, number, size in self._VECTORS:
            self._lib.reg_read(self.handle, number, self._value_at)
            state[name] = self._scratch.raw[:size]
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        for register, value in zip(reg.GENERAL, state["general"], strict=True):
            self.set(register, value)
        for register, value in zip(self._SCALARS, state["scalars"], strict=True):
            self.set(register, value)
        for name, number, size in self._VECTORS:
            ctypes.memmove(self._value_at, state[name], size)
            self._lib.reg_write(self.handle, number, self._value_at)

    def read_raw(self, number: int, address: int) -> None:
        """Read Unicorn's register `number`, in its own form, to host `address`."""
        self._lib.reg_read(self.handle, number, ctypes.c_void_p(address))

    def write_raw(self, number: int, address: int) -> None:
        """Write Unicorn's register `number` from host `address`."""
        self._lib.reg_write(self.handle, number, ctypes.c_void_p(address))

    def mode(self) -> Mode:
        """The paging mode as the control registers have it now."""
        values = self._control.read()
        if values != self._mode_key:
            self._mode_key = values
            cr0, cr3, cr4, cs = values
            self._mode = Mode(cr0, cr3, cr4, self._efer)
            self._user = cs & 3 == 3 and bool(cr0 & CR0_PE)
        return self._mode
