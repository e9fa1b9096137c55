"""A firmware just large enough to call a protocol's functions: real memory, pool, events and clock, no CPU."""

from collections.abc import Callable, Generator
from typing import Any

from machine.clock import VirtualClock
from machine.errors import BadAddress
from machine.memory import PhysicalMemory
from uefi import memory_types as mt
from uefi.events import Events
from uefi.guest_memory import GuestMemory
from uefi.guids import Guid
from uefi.handles import Handles
from uefi.interface import GuestCall, Interface, Slot
from uefi.memory_map import MemoryMap
from uefi.pool import Pool
from uefi.status import EfiError, Status

RAM = 64 << 20


class _Dispatcher:
    def __init__(self) -> None:
        self.objects: dict[int, Interface] = {}
        self._next = 0x3F00000

    def stub(self, owner: Interface, slot: Slot) -> int:
        self._next += 8
        return self._next


class _Idle:
    polls = 0
    time_polls = 0

    def input_poll(self) -> None:
        self.polls += 1

    def time_poll(self) -> None:
        self.time_polls += 1


class _Computer:
    def __init__(self) -> None:
        self.idle = _Idle()


class Harness:
    """Stands for uefi.firmware.Firmware."""

    def __init__(self) -> None:
        self.ram = PhysicalMemory(RAM)
        self.memory = GuestMemory(self.ram)
        self.memory_map = MemoryMap()
        self.memory_map.add(0x100000, 0x3000000, mt.CONVENTIONAL)
        self._pool = Pool(self.memory_map)
        self.clock = VirtualClock()
        self.computer = _Computer()
        self.dispatcher = _Dispatcher()
        self.left_boot_services = False
        self.events = Events(self)  # type: ignore[arg-type]
        self.handles = Handles(self)  # type: ignore[arg-type]
        self.guest_calls: list[tuple[int, tuple[int, ...]]] = []
        self.guest_answer: Callable[[int, tuple[int, ...]], int] = lambda _target, _arguments: 0
        self.scratch = 0x3100000

    def pool(self, size: int, memory_type: int = mt.BOOT_DATA) -> int:
        return self._pool.allocate(size, memory_type)

    def free_pool(self, address: int) -> None:
        self._pool.free(address)

    def pages(self, count: int, memory_type: int = mt.BOOT_DATA) -> int:
        return self.memory_map.allocate(count, memory_type)

    def object_at(self, address: int) -> Interface | None:
        return self.dispatcher.objects.get(address)

    # What a test needs.

    def put(self, data: bytes) -> int:
        """Bytes in fresh guest memory."""
        address = self.scratch
        self.memory.write(address, data)
        self.scratch += len(data) + 16 & ~15
        return address

    def put_text(self, text: str) -> int:
        return self.put(text.encode("utf-16-le", "surrogatepass") + b"\0\0")

    def room(self, size: int = 8) -> int:
        return self.put(bytes(size))

    def call(self, interface: Interface, name: str, *arguments: int) -> int:
        """RAX after a guest called this function: widths, GUIDs, errors and guest calls as the dispatcher has them."""
        slot = next(slot for slot in interface.SLOTS if slot.signature.name == name)
        kinds = slot.signature.kinds
        assert len(arguments) == len(kinds), f"{name} takes {len(kinds)} arguments"
        masks = slot.signature.masks[-len(kinds) :] if kinds else ()
        try:
            values: list[Any] = [value & mask for value, mask in zip(arguments, masks, strict=True)]
            for n, kind in enumerate(kinds):
                if kind == "guid":
                    values[n] = Guid(self.memory.read(values[n], 16)) if values[n] else None
            result = slot.handler(interface, None, *values)
            if isinstance(result, Generator):
                result = self._finish(result)
        except EfiError as error:
            return error.status
        except BadAddress:
            return Status.INVALID_PARAMETER
        return result or 0

    def _finish(self, steps: Generator[Any, int, int]) -> int:
        try:
            wish = next(steps)
            while True:
                answer = 0
                if isinstance(wish, GuestCall):
                    self.guest_calls.append((wish.target, wish.arguments))
                    answer = self.guest_answer(wish.target, wish.arguments)
                wish = steps.send(answer)
        except StopIteration as end:
            return end.value or 0

    def notified(self) -> list[tuple[int, int, int]]:
        """(function, first argument, second argument) of all pending notifications, which are run now."""
        found = []
        while (event := self.events.take_pending(4)) is not None:
            if event.host_notify is None:
                found.append((event.notify, event.address, event.context))
            else:
                event.host_notify()
        return found
