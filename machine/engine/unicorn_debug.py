"""Break- and watchpoints of a Unicorn CPU: hooks that end the run.

A breakpoint is a hook at one linear address; it ends the run before the instruction there. A watchpoint is a memory hook at
physical addresses. Unicorn calls it in the middle of an instruction, which cannot be left there: the run ends, what the
instruction has stored is taken back, and it is carried out once more, alone, from its beginning.
"""

import ctypes
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Watch
from machine.engine import unicorn_abi as abi

if TYPE_CHECKING:
    from machine.engine.unicorn_cpu import UnicornCpu

_WIDEST = 16
"""Bytes of the widest access that Unicorn reports as one."""


class DebugHooks:
    """What a debugger asked for on one CPU. `hit`: a breakpoint ended the run; `last_touch`: what a watchpoint saw last."""

    def __init__(self, cpu: "UnicornCpu") -> None:
        self._cpu = cpu
        self._breakpoints: frozenset[int] = frozenset()
        self._hooked: set[int] = set()
        self._watches: tuple[Watch, ...] = ()
        self._watch_hooks: list[ctypes.c_size_t] = []
        self._callback = abi.CODE_CALLBACK(self._at_breakpoint)
        self._memory_callback = abi.MEMORY_CALLBACK(self._accessed)
        self._passing: int | None = None
        self._undo: list[tuple[int, bytes]] = []
        self._watched: tuple[Watch, int] | None = None
        self.hit = False
        self.last_touch: tuple[Watch, int] = (Watch(0, 0, False, False), 0)

    def set_breakpoints(self, addresses: frozenset[int]) -> None:
        """Break before the instructions at these linear addresses. A hook once placed stays, and passes if not wanted."""
        for address in addresses - self._hooked:
            self._hooked.add(address)
            self._cpu.hook(abi.HOOK_CODE, self._callback, address, address)
        self._breakpoints = addresses
        self._cpu.flush_code()

    def set_watches(self, watches: tuple[Watch, ...]) -> None:
        """Watch accesses to physical memory. Any memory hook makes all accesses slow, so none stays behind."""
        for number in self._watch_hooks:
            self._cpu.unhook(number)
        self._watch_hooks = [
            # Unicorn looks at where an access begins.
            self._cpu.hook(
                kind, self._memory_callback, max(watch.address - _WIDEST + 1, 0), watch.address + watch.size - 1
            )
            for watch in watches
            for kind in self._kinds(watch)
        ]
        self._watches = watches
        self._cpu.stop.at_accesses(wanted=bool(watches))
        self._cpu.flush_code()
        self._cpu.flush_translations()

    @staticmethod
    def _kinds(watch: Watch) -> list[int]:
        kinds = [abi.HOOK_MEM_READ] if watch.reads else []
        return [*kinds, abi.HOOK_MEM_WRITE] if watch.writes else kinds

    def resume(self) -> None:
        """A breakpoint at RIP is not to end the next run."""
        self._passing = self._cpu.get(reg.RIP)

    def breaks_at(self, address: int) -> bool:
        """Whether the run ends before the instruction at `address`; called when it is about to be executed."""
        passing, self._passing = self._passing, None
        if address not in self._breakpoints or address == passing:
            return False
        self.hit = True
        self._cpu.stop_now()
        return True

    def _at_breakpoint(self, _uc: int, address: int, _size: int, _user: int) -> bool:
        # A trap at the same address has been asked first, by the hook that carries the trapped instruction out.
        return self.hit or (not self._cpu.traps_at(address) and self.breaks_at(address))

    def _accessed(self, _uc: int, kind: int, address: int, size: int, value: int, _user: int) -> None:
        memory = self._cpu.memory
        if kind == abi.MEM_WRITE:
            self._undo.append((address, memory.read(address, size)))
        if self._watched is None:
            for watch in self._watches:
                if address < watch.address + watch.size and watch.address < address + size:
                    self._watched = self.last_touch = watch, max(address, watch.address)
                    self._cpu.stop_now()
                    return

    def take_back(self) -> bool:
        """Undo the stores of the instruction that a watchpoint ended; False if none did."""
        touched = self._watched is not None
        if touched:
            for address, data in reversed(self._undo):
                self._cpu.memory.write(address, data)
        self._undo.clear()
        return touched

    def forget(self) -> None:
        """The instruction has been carried out."""
        self._watched = None
        self._undo.clear()
