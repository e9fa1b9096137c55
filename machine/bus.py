"""The I/O bus: which device answers at which port and at which physical address outside RAM."""

from bisect import bisect_right
from collections.abc import Callable

from machine.callbacks import nothing
from machine.cpu import Cpu
from machine.errors import BusConflict
from machine.memory import HIGH_START, PAGE

Read = Callable[[Cpu, int, int], int]
"""(cpu, offset, size in bytes) -> value"""
Write = Callable[[Cpu, int, int, int], None]
"""(cpu, offset, size in bytes, value)"""

PORTS = 0x10000


class Bus:
    """Port and memory-mapped registers. What nobody claims reads as all ones and swallows writes, as on a PC."""

    def __init__(self) -> None:
        self._port_reads: dict[int, tuple[Read, int]] = {}
        self._port_writes: dict[int, tuple[Write, int]] = {}
        self._starts: list[int] = []
        self._regions: list[tuple[int, int, Read, Write]] = []
        self._windows: list[range] = []
        self.on_window: Callable[[int, int], None] = nothing

    def add_ports(self, first: int, count: int, read: Read, write: Write) -> None:
        """Give ports `first` to `first + count - 1` to a device; offsets are relative to `first`. BusConflict if taken."""
        if first < 0 or count < 1 or first + count > PORTS:
            raise BusConflict(f"ports {first:#x}+{count:#x} are outside the 64 Ki port space")
        for port in range(first, first + count):
            if port in self._port_reads:
                raise BusConflict(f"port {port:#x} is already taken")
        for port in range(first, first + count):
            self._port_reads[port] = (read, port - first)
            self._port_writes[port] = (write, port - first)

    def remove_ports(self, first: int, count: int) -> None:
        """Take ports away from their device again."""
        for port in range(first, first + count):
            self._port_reads.pop(port, None)
            self._port_writes.pop(port, None)

    def open_window(self, base: int, size: int) -> None:
        """Let devices answer at `size` bytes of physical addresses from `base`, which is not below 4 GiB. Whole pages.

        Below 4 GiB all that is not RAM is one. BusConflict if RAM or another window is there.
        """
        if base < HIGH_START or base % PAGE or size % PAGE or size <= 0:
            raise BusConflict(f"a window of {size:#x} bytes at {base:#x}: wanted whole pages from {HIGH_START:#x} on")
        if any(base < window.stop and window.start < base + size for window in self._windows):
            raise BusConflict(f"addresses {base:#x}+{size:#x} are in a window already")
        self.on_window(base, size)
        self._windows.append(range(base, base + size))

    def reopen_windows(self) -> None:
        """Call `on_window` for each window that is open: there is another engine."""
        for window in self._windows:
            self.on_window(window.start, len(window))

    def add_mmio(self, base: int, size: int, read: Read, write: Write) -> None:
        """Give physical addresses `base` to `base + size - 1` to a device. BusConflict if they overlap another's."""
        at = bisect_right(self._starts, base)
        before = self._regions[at - 1] if at else None
        after = self._regions[at] if at < len(self._regions) else None
        if (before and before[1] > base) or (after and after[0] < base + size):
            raise BusConflict(f"addresses {base:#x}+{size:#x} are already taken")
        self._starts.insert(at, base)
        self._regions.insert(at, (base, base + size, read, write))

    def remove_mmio(self, base: int) -> None:
        """Take the region that starts at `base` away from its device again."""
        at = bisect_right(self._starts, base) - 1
        if at >= 0 and self._starts[at] == base:
            del self._starts[at], self._regions[at]

    def port_read(self, cpu: Cpu, port: int, size: int) -> int:
        """The value of an IN of `size` bytes from `port`."""
        found = self._port_reads.get(port)
        if found is None:
            return (1 << (8 * size)) - 1
        return found[0](cpu, found[1], size)

    def port_write(self, cpu: Cpu, port: int, size: int, value: int) -> None:
        """Carry out an OUT of `size` bytes to `port`."""
        found = self._port_writes.get(port)
        if found is not None:
            found[0](cpu, found[1], size, value)

    def mmio_read(self, cpu: Cpu, address: int, size: int) -> int:
        """The value of a load of `size` bytes from physical `address`."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            base, end, read, _ = self._regions[at]
            if address + size <= end:
                return read(cpu, address - base, size)
        return (1 << (8 * size)) - 1

    def mmio_write(self, cpu: Cpu, address: int, size: int, value: int) -> None:
        """Carry out a store of `size` bytes to physical `address`."""
        at = bisect_right(self._starts, address) - 1
        if at >= 0:
            base, end, _, write = self._regions[at]
            if address + size <= end:
                write(cpu, address - base, size, value)
