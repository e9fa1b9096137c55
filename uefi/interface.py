"""Tables of functions in guest memory that this program answers: protocols and the service tables themselves."""

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from uefi import memory_types as mt
from uefi.guids import Guid
from uefi.signature import Signature

if TYPE_CHECKING:
    from uefi.firmware import Firmware

Handler = Callable[..., Any]
_H = TypeVar("_H", bound=Handler)


class GuestCall:
    """Yielded by a service that is a generator: call guest code at `target`; the generator gets RAX back."""

    __slots__ = ("arguments", "target")

    def __init__(self, target: int, *arguments: int) -> None:
        self.target = target
        self.arguments = arguments


class Dispatch:
    """Yielded by a service that is a generator: run the pending notifications above the current TPL, then go on."""

    __slots__ = ()


DISPATCH = Dispatch()
Steps = Generator[GuestCall | Dispatch, int, int]
"""A service in several steps."""


def function(offset: int, signature: str) -> Callable[[_H], _H]:
    """Mark a method as the function in the slot at `offset` of the table; see `uefi.signature`."""

    def mark(handler: _H) -> _H:
        handler.slot = (offset, signature)  # type: ignore[attr-defined]
        return handler

    return mark


class Slot:
    """One function of a class of tables: where it stands, how it is called, which method answers."""

    __slots__ = ("handler", "name", "offset", "signature")

    def __init__(self, table: str, offset: int, signature: Signature, handler: Handler) -> None:
        self.offset = offset
        self.signature = signature
        self.name = f"{table}.{signature.name}"
        self.handler = handler


class Interface:
    """A table of functions and data members in guest memory. Subclasses name it and mark its functions.

    `NAME` is the specification's name, `GUID` the protocol's (None for tables that are none), `SIZE` the bytes of the C
    structure. `STATIC` tables are those whose functions take no This pointer; functions of tables `FOR_ALL_PROCESSORS` may be
    called by application processors, too. `place` allocates the table, writes a
    stub's address into each slot and lets `fill` write the data members.
    """

    NAME: ClassVar[str] = ""
    GUID: ClassVar[Guid | None] = None
    SIZE: ClassVar[int] = 0
    STATIC: ClassVar[bool] = False
    MEMORY_TYPE: ClassVar[int] = mt.BOOT_DATA
    FOR_ALL_PROCESSORS: ClassVar[bool] = False
    SLOTS: ClassVar[tuple[Slot, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        slots: dict[int, Slot] = {slot.offset: slot for base in cls.__bases__ for slot in getattr(base, "SLOTS", ())}
        for handler in cls.__dict__.values():
            marked = getattr(handler, "slot", None)
            if marked is not None:
                slots[marked[0]] = Slot(cls.NAME, marked[0], Signature(marked[1], cls.STATIC), handler)
        cls.SLOTS = tuple(slots[offset] for offset in sorted(slots))

    def __init__(self, firmware: "Firmware") -> None:
        self.firmware = firmware
        self.address = 0

    def place(self, address: int | None = None) -> int:
        """Lay the table out in guest memory (at `address` if given) and give its address."""
        firmware = self.firmware
        if address is None:
            address = firmware.pool(self.SIZE, self.MEMORY_TYPE)
        self.address = address
        table = bytearray(self.SIZE)
        for slot in self.SLOTS:
            table[slot.offset : slot.offset + 8] = firmware.dispatcher.stub(self, slot).to_bytes(8, "little")
        firmware.memory.write(address, table)
        firmware.dispatcher.objects[address] = self
        self.fill()
        return address

    def remove(self) -> None:
        """Forget the table and free its memory; a call through it gets EFI_INVALID_PARAMETER from now on."""
        self.firmware.dispatcher.objects.pop(self.address, None)
        self.firmware.free_pool(self.address)

    def fill(self) -> None:
        """Write the data members."""

    def put_u8(self, offset: int, value: int) -> None:
        """Store a byte member."""
        self.firmware.memory.write_u8(self.address + offset, value)

    def put_u32(self, offset: int, value: int) -> None:
        """Store a 32-bit member."""
        self.firmware.memory.write_u32(self.address + offset, value)

    def put_u64(self, offset: int, value: int) -> None:
        """Store a 64-bit member."""
        self.firmware.memory.write_u64(self.address + offset, value)
