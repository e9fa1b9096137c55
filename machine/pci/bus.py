"""PCI bus 0: configuration by ports 0xCF8/0xCFC and by the ECAM window, mapped regions, shared INTx lines.

(PCI Local Bus 3.0, 3.2.2.3.2 configuration mechanism #1; PCI Express Base 3.0, 7.2.2 ECAM.)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from machine.errors import BusConflict
from machine.pci.device import Bar, PciDevice

if TYPE_CHECKING:
    from machine.bus import Bus
    from machine.cpu import Cpu

ADDRESS_PORT = 0xCF8
DATA_PORT = 0xCFC
DATA_PORTS = 4

ECAM_BYTES_PER_BUS = 1 << 20
PIRQS = 4

_ENABLE = 0x800000
_ONES = [(1 << 8 * size) - 1 for size in range(9)]


class _Slot:
    """One function's place on the bus."""

    def __init__(self, bus: "PciBus", slot: int) -> None:
        self._bus = bus
        self._number = slot

    def map(self, bar: Bar, base: int) -> None:
        self._bus.map(bar, base)

    def unmap(self, bar: Bar) -> None:
        self._bus.unmap(bar)

    def set_intx(self, pin: int, level: bool) -> None:
        self._bus.set_intx(self._number, pin, level)


class PciBus:
    """Functions on bus 0 and how guests reach them.

    `set_pirq(number, level)` drives one of the four interrupt lines; INTA# of slot s is line s modulo 4, INTB# the
    next one, and so on. Ports: `read_address`/`write_address` at 0xCF8 (one port: 0xCF9 is the reset control register,
    and mechanism #1 takes 32-bit accesses at 0xCF8 only), `read_data`/`write_data` at 0xCFC (four ports).
    """

    def __init__(self, bus: "Bus", set_pirq: Callable[[int, bool], None]) -> None:
        self._bus = bus
        self._set_pirq = set_pirq
        self._address = 0
        self._functions: dict[int, PciDevice] = {}
        self._unplaced: list[tuple[Bar, int]] = []
        self._asserted: list[set[tuple[int, int]]] = [set() for _ in range(PIRQS)]

    def add(self, device: PciDevice, slot: int, function: int = 0) -> None:
        """Plug a function in at 00:`slot`.`function`. Raises BusConflict when the place is taken.

        A function behind function 0 sets that one's multi-function bit, so function 0 must come first.
        """
        if not 0 <= slot < 32 or not 0 <= function < 8:
            raise BusConflict(f"PCI 00:{slot:02x}.{function:x} is no place, wanted slot 0 to 31 and function 0 to 7")
        key = _ENABLE | slot << 3 | function
        if key in self._functions:
            raise BusConflict(f"PCI 00:{slot:02x}.{function:x} is already taken")
        if function:
            first = self._functions.get(_ENABLE | slot << 3)
            if first is None:
                raise BusConflict(f"PCI 00:{slot:02x}.{function:x} needs a function 0 in its slot")
            first.config.data[0x0E] |= 0x80
        self._functions[key] = device
        device.plug(_Slot(self, slot))

    def functions(self) -> list[tuple[int, int, PciDevice]]:
        """(slot, function, device) of every function, in order."""
        return [(key >> 3 & 0x1F, key & 7, device) for key, device in sorted(self._functions.items())]

    def pirq_of(self, slot: int, pin: int) -> int:
        """The interrupt line (0 to 3) of a slot's INTA# (1) to INTD# (4), for the firmware's routing table."""
        return (slot + pin - 1) % PIRQS

    # Configuration mechanism #1. A scan of all buses is mostly `write_address` and `read_data` of what is not there.

    def read_address(self, cpu: "Cpu", offset: int, size: int) -> int:
        """CONFIG_ADDRESS at 0xCF8."""
        return self._address if size == 4 else _ONES[size]

    def write_address(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """CONFIG_ADDRESS: 32-bit writes only; others are no configuration accesses. Reserved bits read as 0."""
        if size == 4:
            self._address = value & 0x80FFFFFC

    def read_data(self, cpu: "Cpu", offset: int, size: int) -> int:
        """CONFIG_DATA at 0xCFC to 0xCFF: 1, 2 or 4 bytes of the addressed function, ones where there is none."""
        device = self._functions.get(self._address >> 8)
        if device is None:
            return _ONES[size]
        return device.read_config((self._address & 0xFC) + offset, size)

    def write_data(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """CONFIG_DATA: write 1, 2 or 4 bytes of the addressed function."""
        device = self._functions.get(self._address >> 8)
        if device is not None:
            device.write_config((self._address & 0xFC) + offset, size, value)

    # ECAM

    def read_ecam(self, cpu: "Cpu", offset: int, size: int) -> int:
        """`size` bytes at `offset` into the ECAM window (bus 20-27, device and function 12-19, register 0-11)."""
        device = self._functions.get(_ENABLE | offset >> 12)
        return _ONES[size] if device is None else device.read_config(offset & 0xFFF, size)

    def write_ecam(self, cpu: "Cpu", offset: int, size: int, value: int) -> None:
        """Write `size` bytes at `offset` into the ECAM window."""
        device = self._functions.get(_ENABLE | offset >> 12)
        if device is not None:
            device.write_config(offset & 0xFFF, size, value)

    # What the functions ask for

    def map(self, bar: Bar, base: int) -> None:
        """Make a region answer at `base`; one whose addresses are taken waits until they are free."""
        try:
            if bar.is_io:
                self._bus.add_ports(base, bar.size, bar.read, bar.write)
            else:
                self._bus.add_mmio(base, bar.size, bar.read, bar.write)
        except BusConflict:
            self._unplaced.append((bar, base))

    def unmap(self, bar: Bar) -> None:
        """Take a region off the bus, and place those that waited for its addresses."""
        waiting, self._unplaced = self._unplaced, []
        if not any(other is bar for other, _ in waiting) and bar.base is not None:
            if bar.is_io:
                self._bus.remove_ports(bar.base, bar.size)
            else:
                self._bus.remove_mmio(bar.base)
        for other, base in waiting:
            if other is not bar:
                self.map(other, base)

    def set_intx(self, slot: int, pin: int, level: bool) -> None:
        """Drive INTA# (1) to INTD# (4) of a slot; functions share the lines."""
        pirq = self.pirq_of(slot, pin)
        asserted = self._asserted[pirq]
        if level:
            asserted.add((slot, pin))
        else:
            asserted.discard((slot, pin))
        self._set_pirq(pirq, bool(asserted))

    # State

    def save(self) -> dict[str, Any]:
        """Plain data for `load`, the functions' own state included."""
        return {
            "address": self._address,
            "functions": [[key, device.save()] for key, device in sorted(self._functions.items())],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state; the same functions must be plugged in."""
        self._address = state["address"]
        for key, saved in state["functions"]:
            self._functions[key].load(saved)
