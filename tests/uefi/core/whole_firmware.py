"""A whole Firmware over a small computer whose CPU never runs: services are called from here, guest functions too."""

from collections.abc import Callable, Generator
from typing import Any

from machine.clock import VirtualClock
from machine.computer import Computer
from machine.errors import BadAddress
from uefi.firmware import Firmware
from uefi.guids import Guid
from uefi.interface import GuestCall, Interface
from uefi.status import EfiError, Status
from uefi.variables.store import VariableStore


class WholeFirmware:
    """`call` is what a guest's call of a service comes to; `guest_functions` answer the addresses that services call."""

    def __init__(self, variables: VariableStore | None = None) -> None:
        self.computer = Computer(64 << 20, 1, VirtualClock())
        self.firmware = Firmware(self.computer)
        self.firmware.variables = variables or VariableStore()
        self.firmware.time.restore()
        self.cpu = self.computer.engine.cpus[0]
        self.firmware.processor.reset(self.cpu)
        self.memory = self.firmware.memory
        self.guest_functions: dict[int, Callable[..., int]] = {}
        self._next_function = 0x10

    def close(self) -> None:
        self.computer.close()

    def put(self, data: bytes) -> int:
        """Bytes in pool memory."""
        address = self.firmware.pool(len(data) or 8)
        self.memory.write(address, data)
        return address

    def words(self, *values: int) -> int:
        return self.put(b"".join(value.to_bytes(8, "little") for value in values))

    def function(self, answer: Callable[..., int]) -> int:
        """An address that stands for a guest's function."""
        self._next_function += 0x10
        self.guest_functions[self._next_function] = answer
        return self._next_function

    def install(self, guid: Guid, interface: int = 0, handle: int | None = None) -> int:
        return self.firmware.handles.install(handle, guid, interface)

    def call(self, table: Interface, name: str, *arguments: int | Guid | None) -> int:
        """The status that the service answers. Exceptions other than those that become a status come through."""
        slot = next(slot for slot in type(table).SLOTS if slot.signature.name == name)
        assert len(arguments) == len(slot.signature.kinds)
        try:
            result = slot.handler(table, self.cpu, *arguments)
            if isinstance(result, Generator):
                result = self._finish(result)
        except EfiError as error:
            return error.status
        except BadAddress:
            return Status.INVALID_PARAMETER
        return result or 0

    def _finish(self, steps: Generator[Any, int, int]) -> int:
        answer: Any = None
        try:
            while True:
                wish = steps.send(answer)
                answer = self.guest_functions[wish.target](*wish.arguments) if isinstance(wish, GuestCall) else 0
        except StopIteration as end:
            return end.value or 0

    def boot(self, name: str, *arguments: int | Guid | None) -> int:
        return self.call(self.firmware.boot_services, name, *arguments)

    def runtime(self, name: str, *arguments: int | Guid | None) -> int:
        return self.call(self.firmware.runtime_services, name, *arguments)
