"""Reads and writes of PCI memory, ports and configuration space for the PCI protocols (UEFI 2.10, 14.2 and 14.4)."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from machine import registers as reg
from machine.cpu import Cpu
from uefi.calls import Record
from uefi.dispatcher import INTERRUPT_PORT, PENDING, RETURN_PORT, SERVICE_PORT
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from machine.pci.bus import PciBus
    from machine.pci.device import PciDevice
    from uefi.firmware import Firmware

FIFO, FILL, WIDTHS = 4, 8, 12
"""EFI_PCI_IO_PROTOCOL_WIDTH: 0 to 3 are 1, 2, 4 and 8 bytes; FIFO of them from 4 on, FILL from 8 on."""

ISA_PORTS = range(0x1000)
"""What the bridge passes on besides its windows: ports of devices on the mainboard."""

MOST = 1 << 20
"""Elements of one call; each takes a microsecond or more, and nothing can stop it."""

_OWN_PORTS = frozenset((SERVICE_PORT, RETURN_PORT, INTERRUPT_PORT))
_POLL_STEP = 100_000
_LONGEST = 1 << 62

Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]


class PciAccess:
    """Accesses below one root bridge. `memory` and `ports` are its windows.

    `space` is "memory" or "io". Nothing here checks which function an address belongs to.
    """

    def __init__(self, firmware: "Firmware", bus: "PciBus", memory: range, ports: range) -> None:
        self.bus = bus
        self.windows = {"memory": (memory,), "io": (ports, ISA_PORTS)}
        self._firmware = firmware
        self._functions: dict[tuple[int, int], PciDevice] = {
            (slot, function): device for slot, function, device in bus.functions()
        }
        firmware.calls.register("pci-poll", self._poll)

    # -- memory and ports

    def check(self, space: str, width: int, address: int, count: int) -> int:
        """The bytes of an element of an access that may be made.

        EfiError: INVALID_PARAMETER for a bad width or an address outside of the windows, UNSUPPORTED for one that is
        not aligned.
        """
        if width >= WIDTHS or (space == "io" and width & 3 == 3):
            raise EfiError(Status.INVALID_PARAMETER)
        size = 1 << (width & 3)
        if address % size:
            raise EfiError(Status.UNSUPPORTED)
        length = size * (1 if FIFO <= width < FILL else count)
        if not any(w.start <= address and address + length <= w.stop for w in self.windows[space]):
            raise EfiError(Status.INVALID_PARAMETER)
        return size

    def transfer(self, cpu: Cpu, space: str, width: int, address: int, count: int, buffer: int, *, write: bool) -> int:
        """Mem.Read, Mem.Write, Io.Read, Io.Write at a bus address."""
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        size = self.check(space, width, address, count)
        read, store = self._ends(cpu, space)
        return self.move(width, size, address, count, buffer, store if write else read, write=write)

    def _ends(self, cpu: Cpu, space: str) -> tuple[Read, Write]:
        """How one element of a space is read and written."""
        bus = self._firmware.computer.bus
        if space == "memory":
            return (
                lambda address, size: bus.mmio_read(cpu, address, size),
                lambda address, size, value: bus.mmio_write(cpu, address, size, value),
            )

        def read(port: int, size: int) -> int:
            return (1 << 8 * size) - 1 if port in _OWN_PORTS else bus.port_read(cpu, port, size)

        def write(port: int, size: int, value: int) -> None:
            # A service must not be entered from inside of another one.
            if port not in _OWN_PORTS:
                bus.port_write(cpu, port, size, value)

        return read, write

    def move(
        self,
        width: int,
        size: int,
        address: int,
        count: int,
        buffer: int,
        access: Callable[..., int | None],
        *,
        write: bool,
    ) -> int:
        """Carry out `count` accesses between an address and guest memory.

        A FIFO stays at its address and FILL stays in its buffer. BadAddress for a buffer that is no memory,
        EfiError(OUT_OF_RESOURCES) for more elements than anybody has a use for.
        """
        memory = self._firmware.memory
        if not count:
            return Status.SUCCESS
        memory.check(buffer, size if width >= FILL else size * count)
        if count > MOST:
            raise EfiError(Status.OUT_OF_RESOURCES)
        step = 0 if FIFO <= width < FILL else size
        if write:
            data = memory.read(buffer, size if width >= FILL else size * count)
            for n in range(count):
                at = 0 if width >= FILL else n * size
                access(address + n * step, size, int.from_bytes(data[at : at + size], "little"))
            return Status.SUCCESS
        values = [(access(address + n * step, size) or 0).to_bytes(size, "little") for n in range(count)]
        memory.write(buffer, values[-1] if width >= FILL else b"".join(values))
        return Status.SUCCESS

    def copy(self, cpu: Cpu, width: int, destination: int, source: int, count: int) -> int:
        """CopyMem between two bus addresses; they may overlap."""
        if width >= FIFO:
            raise EfiError(Status.INVALID_PARAMETER)
        size = self.check("memory", width, destination, count)
        self.check("memory", width, source, count)
        if count > MOST:
            raise EfiError(Status.OUT_OF_RESOURCES)
        read, write = self._ends(cpu, "memory")
        order = range(count) if destination <= source else range(count - 1, -1, -1)
        for n in order:
            write(destination + n * size, size, read(source + n * size, size))
        return Status.SUCCESS

    # -- polling

    def poll(
        self, cpu: Cpu, space: str, width: int, address: int, mask: int, value: int, delay: int, result: int
    ) -> object:
        """PollMem and PollIo: read until the bits of `mask` are `value`, for at most `delay` times 100 ns.

        TIMEOUT after that; without a delay one read is all, and SUCCESS.
        """
        if not result or width >= FIFO:
            raise EfiError(Status.INVALID_PARAMETER)
        size = self.check(space, width, address, 1)
        self._firmware.memory.check(result, 8)
        state = {
            "space": space,
            "access": (address, size),
            "wanted": (mask, value),
            "result": result,
            "deadline": self._firmware.clock.now() + min(delay * 100, _LONGEST) if delay else None,
        }
        record = Record("pci-poll", cpu.get(reg.RSP), state, self._firmware.dispatcher.current)
        self._firmware.calls.push(record)
        self._poll(cpu, record, 0)
        return PENDING

    def _poll(self, cpu: Cpu, record: Record, _value: int) -> None:
        """Go on polling."""
        firmware = self._firmware
        state = record.state
        mask, wanted = state["wanted"]
        deadline = state["deadline"]
        read, _ = self._ends(cpu, state["space"])
        while True:
            value = read(*state["access"])
            firmware.memory.write_u64(state["result"], value)
            now = firmware.clock.now()
            if value & mask == wanted or deadline is None:
                return firmware.calls.finish(cpu, record, Status.SUCCESS)
            if now >= deadline:
                return firmware.calls.finish(cpu, record, Status.TIMEOUT)
            if not firmware.computer.wait_until(min(now + _POLL_STEP, deadline)):
                return firmware.calls.yield_to_loop(cpu, record)
            if firmware.calls.settle():
                return firmware.calls.dispatch_nested(cpu, record.rsp)

    # -- configuration space

    def configuration(
        self, slot: int, function: int, width: int, offset: int, count: int, buffer: int, *, write: bool
    ) -> int:
        """Pci.Read and Pci.Write of one function; where there is none, ones are read and writes are lost."""
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        if width >= WIDTHS:
            raise EfiError(Status.INVALID_PARAMETER)
        size = 1 << (width & 3)
        if offset % size:
            raise EfiError(Status.UNSUPPORTED)
        device = self._functions.get((slot, function))

        def read(at: int, size: int) -> int:
            if device is None:
                return (1 << 8 * size) - 1
            if size < 8:
                return device.read_config(at, size)
            return device.read_config(at, 4) | device.read_config(at + 4, 4) << 32

        def store(at: int, size: int, value: int) -> None:
            if device is not None:
                for part in range(0, size, 4):  # a configuration cycle moves 4 bytes at most
                    device.write_config(at + part, min(size, 4), value >> 8 * part & 0xFFFF_FFFF)

        return self.move(width, size, offset, count, buffer, store if write else read, write=write)
