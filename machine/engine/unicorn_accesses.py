"""Ports, devices and CPUID of a Unicorn CPU: what the library calls back is passed on to the handlers.

An exception must not cross the library, so it is kept, and ends the run.
"""

from typing import TYPE_CHECKING

from machine import registers as reg
from machine.engine.base import Handlers

if TYPE_CHECKING:
    from machine.engine.unicorn_cpu import UnicornCpu


class Accesses:
    """Callbacks of one CPU."""

    def __init__(self, cpu: "UnicornCpu", handlers: Handlers) -> None:
        self._cpu = cpu
        self._handlers = handlers

    def port_in(self, _uc: int, port: int, size: int, _user: int) -> int:
        """IN: `size` bytes."""
        try:
            return self._handlers.port_read(self._cpu.face, port, size)
        except BaseException as error:
            self._cpu.failed(error)
            return 0

    def port_out(self, _uc: int, port: int, size: int, value: int, _user: int) -> None:
        """OUT: `size` bytes."""
        try:
            self._handlers.port_write(self._cpu.face, port, size, value)
        except BaseException as error:
            self._cpu.failed(error)

    def load(self, address: int, size: int) -> int:
        """A load of `size` bytes from a physical address outside RAM."""
        try:
            return self._handlers.mmio_read(self._cpu.face, address, size)
        except BaseException as error:
            self._cpu.failed(error)
            return 0

    def store(self, address: int, size: int, value: int) -> None:
        """A store of `size` bytes to one."""
        try:
            self._handlers.mmio_write(self._cpu.face, address, size, value)
        except BaseException as error:
            self._cpu.failed(error)

    def cpuid(self, _uc: int, _user: int) -> int:
        """CPUID; 1: it is not to be carried out by Unicorn."""
        try:
            leaf, subleaf = self._cpu.get(reg.RAX) & 0xFFFF_FFFF, self._cpu.get(reg.RCX) & 0xFFFF_FFFF
            eax, ebx, ecx, edx = self._handlers.cpuid(self._cpu.face, leaf, subleaf)
            self._cpu.set(reg.RAX, eax)
            self._cpu.set(reg.RBX, ebx)
            self._cpu.set(reg.RCX, ecx)
            self._cpu.set(reg.RDX, edx)
        except BaseException as error:
            self._cpu.failed(error)
        return 1
