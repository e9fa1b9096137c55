"""From a trap to the service that the guest called, and back.

Each slot of a service table points at a stub of its own, 8 bytes: `mov eax, number; out SERVICE_PORT, eax; ret`. The number says
which service it is (after SetVirtualAddressMap addresses change, numbers do not), and the OUT hands it over for nothing.
Stubs of runtime services lie in runtime memory, all others in boot services memory. They are written a block at a time, before
any is given out: a write to a page that the guest has executed would drop all translated code.
"""

from collections.abc import Callable
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from machine import registers as reg
from machine.callbacks import zero
from machine.cpu import Cpu
from machine.errors import BadAddress
from uefi import memory_types as mt
from uefi.guids import Guid
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware
    from uefi.interface import Interface, Slot

SERVICE_PORT = 0xE6
RETURN_PORT = 0xE7
INTERRUPT_PORT = 0xE5
STUB_SIZE = 8
_BLOCK_PAGES = 2
_PER_BLOCK = _BLOCK_PAGES * 4096 // STUB_SIZE

POLLS = frozenset(
    (
        *("EFI_SIMPLE_TEXT_INPUT_PROTOCOL.ReadKeyStroke", "EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL.ReadKeyStrokeEx"),
        *("EFI_SERIAL_IO_PROTOCOL.GetControl", "EFI_SERIAL_IO_PROTOCOL.Read"),
        *("EFI_SIMPLE_NETWORK_PROTOCOL.GetStatus", "EFI_SIMPLE_NETWORK_PROTOCOL.Receive"),
        *("EFI_BOOT_SERVICES.CheckEvent", "EFI_BOOT_SERVICES.RaiseTPL", "EFI_BOOT_SERVICES.RestoreTPL"),
        "EFI_RUNTIME_SERVICES.GetTime",
    )
)
"""What a guest that waits for input or a frame calls over and over; every other service is a sign that it works."""

PENDING = object()
"""What a handler returns that has arranged for the guest to go on by itself (see `uefi.calls`)."""


class Service:
    """What a stub's number stands for."""

    __slots__ = (
        *("count", "handler", "masks", "name", "narrow", "offset", "owner"),
        *("pointers", "polls", "runtime", "signature", "table"),
    )

    def __init__(self, table: "type[Interface]", slot: "Slot", owner: "Interface | None", runtime: bool) -> None:
        self.table = table
        self.offset = slot.offset
        self.owner = owner if slot.signature.static else None
        self.name = slot.name
        self.polls = slot.name in POLLS
        self.signature = slot.signature
        self.handler = slot.handler
        self.masks = slot.signature.masks
        self.count = len(self.masks)
        self.narrow = tuple((n, mask) for n, mask in enumerate(self.masks) if mask != 0xFFFF_FFFF_FFFF_FFFF)
        first = 0 if slot.signature.static else 1
        self.pointers = tuple(first + n for n, kind in enumerate(slot.signature.kinds) if kind == "guid")
        self.runtime = runtime

    def __getstate__(self) -> dict[str, Any]:
        return {"table": self.table, "offset": self.offset, "owner": self.owner, "runtime": self.runtime}

    def __setstate__(self, state: dict[str, Any]) -> None:
        slot = next(slot for slot in state["table"].SLOTS if slot.offset == state["offset"])
        self.__init__(state["table"], slot, state["owner"], state["runtime"])  # type: ignore[misc]


Observer = Callable[[Cpu, Service, list[Any], int], None]
"""(cpu, service, arguments, guest return address): called before a service is answered."""


class Dispatcher:
    """Gives out stubs and answers the traps they cause."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self._services: dict[int, Service] = {}
        self.objects: dict[int, Interface] = {}
        self._stubs: dict[tuple[type, int, int], int] = {}
        self._numbers = 0
        self._unused: dict[bool, range] = {True: range(0), False: range(0)}
        """Numbers of stubs that nobody has yet, by whether they lie in runtime memory."""
        self._next_stub: dict[bool, int] = {True: 0, False: 0}
        self._code = self._code_end = 0
        self.before: Observer | None = None
        self.after: Callable[[Cpu, Service, Any], None] | None = None
        self._warned: set[str] = set()
        self._strayed = False
        self.current: Service | None = None
        self.last: list[tuple[Service, list[Any], int]] = []
        bus = firmware.computer.bus
        bus.add_ports(SERVICE_PORT, 1, zero, self._trap)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "before": None, "after": None}  # a trace is the host's

    def stub(self, owner: "Interface", slot: "Slot") -> int:
        """The address of the stub for a slot of `owner`'s class of tables, made at the first request.

        Functions without a This pointer get a stub for each table.
        """
        table = type(owner)
        key = (table, slot.offset, owner.address if slot.signature.static else 0)
        address = self._stubs.get(key)
        if address is None:
            runtime = owner.MEMORY_TYPE in mt.RUNTIME_TYPES
            if not self._unused[runtime]:
                self._unused[runtime], self._next_stub[runtime] = self._block(runtime)
            number, address = self._unused[runtime][0], self._next_stub[runtime]
            self._unused[runtime] = self._unused[runtime][1:]
            self._next_stub[runtime] += STUB_SIZE
            self._services[number] = Service(table, slot, owner, runtime)
            self._stubs[key] = address
        return address

    def _block(self, runtime: bool) -> tuple[range, int]:
        """Pages full of new stubs: their numbers, and the address of the first one."""
        at = self._firmware.pages(_BLOCK_PAGES, mt.RUNTIME_CODE if runtime else mt.BOOT_CODE)
        numbers = range(self._numbers, self._numbers + _PER_BLOCK)
        self._numbers = numbers.stop
        out_and_return = bytes((0xE7, SERVICE_PORT, 0xC3))
        code = b"".join(b"\xb8" + number.to_bytes(4, "little") + out_and_return for number in numbers)
        self._firmware.memory.write(at, code)
        return numbers, at

    def code(self, code: bytes) -> int:
        """Place a few bytes of machine code in boot services memory, at a multiple of 8. Before the guest runs."""
        size = -(-len(code) // STUB_SIZE) * STUB_SIZE
        if self._code + size > self._code_end:
            self._code = self._firmware.pages(1, mt.BOOT_CODE)
            self._code_end = self._code + 4096
        address, self._code = self._code, self._code + size
        self._firmware.memory.write(address, code)
        return address

    def _trap(self, cpu: Cpu, _offset: int, _size: int, number: int) -> None:
        """A service stub executed its OUT."""
        rcx, rdx, r8, r9, rsp = cpu.arguments()
        firmware = self._firmware
        service = self._services.get(number)
        if service is None:
            return cpu.set(reg.RAX, Status.INVALID_PARAMETER)
        count = service.count
        if firmware.calls.several:
            firmware.calls.serve(cpu)
            if cpu.index:
                self._on_another_processor(cpu, service)
        depth = len(firmware.calls.stack)
        values: list[Any] = [rcx, rdx, r8, r9][:count]
        try:
            if not service.polls:
                firmware.computer.idle.effect()
            if firmware.left_boot_services:
                firmware.memory.linear = firmware.computer.linear(cpu)
            if count > 4:
                read = firmware.memory.read_u64
                values += [read(rsp + 40 + 8 * n) for n in range(count - 4)]
            for n, mask in service.narrow:
                values[n] &= mask
            self._remember(service, values, rsp)
            if self.before is not None:
                self.before(cpu, service, values, rsp)
            if firmware.left_boot_services and not service.runtime:
                return self._too_late(cpu, service)
            for n in service.pointers:
                values[n] = Guid(firmware.memory.read(values[n], 16)) if values[n] else None
            target = service.owner
            if target is None:
                target = self.objects.get(values[0])
                if not isinstance(target, service.table):
                    return self._finish(cpu, service, rsp, Status.INVALID_PARAMETER)
                del values[0]
            self.current = service
            result = service.handler(target, cpu, *values)
            if type(result) is GeneratorType:
                firmware.calls.start_steps(cpu, rsp, service, result)
                return None
        except EfiError as error:
            del firmware.calls.stack[depth:]
            result = error.status
        except BadAddress:
            del firmware.calls.stack[depth:]
            result = Status.INVALID_PARAMETER
        if result is not PENDING:
            self._finish(cpu, service, rsp, result or 0)
        return None

    def _finish(self, cpu: Cpu, service: Service, rsp: int, result: int) -> None:
        """Answer the guest, after the notifications that the service made pending."""
        if self.after is not None:
            self.after(cpu, service, result)
        firmware = self._firmware
        if firmware.events.waiting_above > firmware.events.tpl and firmware.calls.settle():
            firmware.calls.dispatch_then_return(cpu, rsp, result)
        else:
            cpu.set(reg.RAX, result)

    def _remember(self, service: Service, values: list[Any], rsp: int) -> None:
        last = self.last
        last.append((service, values[:], rsp))
        if len(last) > 64:
            del last[:32]

    def _on_another_processor(self, cpu: Cpu, service: Service) -> None:
        """Answered all the same, as firmware does that cannot tell; each processor has calls in progress of its own."""
        if not service.table.FOR_ALL_PROCESSORS and not self._firmware.left_boot_services and not self._strayed:
            self._strayed = True
            self._firmware.warn(
                f"{service.name} was called on processor {cpu.index}; UEFI services are for the boot processor, and other "
                "firmware may not survive it (PI 1.8 volume 2, 13.4.1). Further calls are not reported"
            )

    def _too_late(self, cpu: Cpu, service: Service) -> None:
        if service.name not in self._warned:
            self._warned.add(service.name)
            self._firmware.warn(f"{service.name} was called after ExitBootServices; answered EFI_UNSUPPORTED")
        if self.after is not None:
            self.after(cpu, service, Status.UNSUPPORTED)
        cpu.set(reg.RAX, Status.UNSUPPORTED)
