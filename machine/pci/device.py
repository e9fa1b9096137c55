"""What every PCI function has: a type 0 header, base address registers, an option ROM and an INTx line."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from machine.callbacks import nothing
from machine.pci import config_space
from machine.pci.config_space import ConfigSpace

if TYPE_CHECKING:
    from machine.cpu import Cpu

IO, MEMORY32, MEMORY64 = 0x1, 0x0, 0x4
"""Kinds of BAR, as the low bits of the register (PCI 3.0, 6.2.5.1)."""

PREFETCHABLE = 0x8
BARS = 6
ROM_INDEX = BARS
_ROM_ENABLE = 0x1

Read = Callable[["Cpu", int, int], int]
Write = Callable[["Cpu", int, int, int], None]


class Bar:
    """One base address register and the handlers of the region behind it; `base` is where it is mapped, or None."""

    __slots__ = ("base", "index", "kind", "offset", "read", "size", "write")

    def __init__(self, index: int, kind: int, size: int, read: Read, write: Write) -> None:
        self.index = index
        self.kind = kind
        self.size = size
        self.read = read
        self.write = write
        self.offset = config_space.ROM_ADDRESS if index == ROM_INDEX else config_space.BASE_ADDRESS + 4 * index
        self.base: int | None = None

    @property
    def is_io(self) -> bool:
        """True for a BAR in port space."""
        return self.kind == IO

    @property
    def is_wide(self) -> bool:
        """True for a BAR that takes two registers."""
        return self.kind & ~PREFETCHABLE == MEMORY64


class Slot(Protocol):
    """The place that a device is plugged into: maps its regions, carries its interrupt."""

    def map(self, bar: Bar, base: int) -> None:
        """Make the region answer at `base`."""

    def unmap(self, bar: Bar) -> None:
        """Make the region answer no more."""

    def set_intx(self, pin: int, level: bool) -> None:
        """Drive INTA# (1) to INTD# (4)."""


class PciDevice:
    """A PCI function. Subclasses add BARs and capabilities in their constructor, and extend `save` and `load`."""

    def __init__(
        self,
        *,
        vendor: int,
        device: int,
        class_code: int,
        revision: int = 0,
        subsystem_vendor: int = 0,
        subsystem: int = 0,
        interrupt_pin: int = 0,
    ) -> None:
        self.config = ConfigSpace(
            vendor=vendor,
            device=device,
            class_code=class_code,
            revision=revision,
            subsystem_vendor=subsystem_vendor,
            subsystem=subsystem,
        )
        self.config.set(config_space.INTERRUPT_PIN, 1, interrupt_pin)
        self.config.watch(config_space.COMMAND, 2, self._command_changed)
        self.config.watch(config_space.BASE_ADDRESS, 4 * BARS, self._remap)
        self.config.watch(config_space.ROM_ADDRESS, 4, self._remap)
        self.bars: dict[int, Bar] = {}
        self._slot: Slot | None = None
        self._intx = False
        self._intx_driven = False

    def add_bar(self, index: int, kind: int, size: int, read: Read, write: Write) -> Bar:
        """Give BAR `index` (0 to 5) a region of `size` bytes, a power of two: at least 4 of ports or 16 of memory.

        `kind` is IO, MEMORY32 or MEMORY64 (which takes BAR `index + 1`, too), with PREFETCHABLE where it applies.
        Raises ValueError for a size or place that the registers cannot express.
        """
        least, most = (4, 256) if kind == IO else (16, 1 << 31)
        if size & (size - 1) or not least <= size <= most:
            raise ValueError(f"BAR {index} of {size:#x} bytes, wanted a power of two from {least:#x} to {most:#x}")
        bar = Bar(index, kind, size, read, write)
        registers = {index, index + 1} if bar.is_wide else {index}
        taken = {at for other in self.bars.values() for at in (other.index, other.index + other.is_wide)}
        if registers & taken or not registers <= set(range(BARS)):
            raise ValueError(f"BAR {index}: register taken, or not one of 0 to {BARS - 1}")
        mask = -size & (0xFFFF if kind == IO else 0xFFFFFFFF)
        self.config.set(bar.offset, 4, kind)
        self.config.allow(bar.offset, 4, mask)
        if bar.is_wide:
            self.config.allow(bar.offset + 4, 4, 0xFFFFFFFF)
        self.bars[index] = bar
        return bar

    def add_rom(self, image: bytes) -> Bar:
        """Give the function an option ROM (6.2.5.2); its size is rounded up to a power of two of at least 2 KiB."""
        size = max(2048, 1 << (len(image) - 1).bit_length())
        padded = image.ljust(size, b"\xff")
        bar = Bar(ROM_INDEX, MEMORY32, size, partial(self._read_rom, padded), nothing)
        self.config.allow(bar.offset, 4, -size & 0xFFFFFFFF | _ROM_ENABLE)
        self.bars[ROM_INDEX] = bar
        return bar

    def _read_rom(self, image: bytes, _cpu: "Cpu", offset: int, length: int) -> int:
        return int.from_bytes(image[offset : offset + length], "little")

    def plug(self, slot: Slot) -> None:
        """Put the function into its place; from now on regions are mapped as the command register says."""
        self._slot = slot
        self._remap()
        self._drive_intx()

    # Configuration accesses; a subclass may watch what is written with `config.watch`

    def read_config(self, offset: int, size: int) -> int:
        """`size` bytes (1, 2, 4, 8) of configuration space. This is a conventional function: ones above 255."""
        return self.config.get(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The guest's write of `size` bytes to configuration space."""
        self.config.write(offset, size, value)

    @property
    def bus_master(self) -> bool:
        """True when the guest lets the function read and write memory, which messages (MSI-X) do, too."""
        return bool(self.config.data[config_space.COMMAND] & config_space.COMMAND_MASTER)

    def set_intx(self, level: bool) -> None:
        """Assert or release the function's INTx; what the line shows also depends on the command register (6.2.3)."""
        self._intx = level
        status = self.config.data[config_space.STATUS] & ~config_space.STATUS_INTX
        self.config.data[config_space.STATUS] = status | (config_space.STATUS_INTX if level else 0)
        self._drive_intx()

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"config": bytes(self.config.data), "intx": self._intx}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state: regions are mapped and the interrupt line is driven as saved."""
        self.config.data[:] = state["config"]
        self.set_intx(state["intx"])
        self._remap()

    # Consequences

    def bar_address(self, bar: Bar) -> int:
        """The address in the register, whether decoding is enabled or not."""
        value = self.config.get(bar.offset, 8 if bar.is_wide else 4)
        return value & -bar.size

    def set_bar_address(self, bar: Bar, address: int) -> None:
        """Write the register as firmware does when it hands out addresses."""
        low_bits = self.config.data[bar.offset] & 0x0F
        self.write_config(bar.offset, 4, (address & 0xFFFFFFFF) | low_bits)
        if bar.is_wide:
            self.write_config(bar.offset + 4, 4, address >> 32)

    def _command_changed(self) -> None:
        self._remap()
        self._drive_intx()

    def _decoded_base(self, bar: Bar) -> int | None:
        """Where the region answers. Address 0 and the all-ones of a size probe mean nowhere."""
        command = self.config.data[config_space.COMMAND]
        if not command & (config_space.COMMAND_IO if bar.is_io else config_space.COMMAND_MEMORY):
            return None
        if bar.index == ROM_INDEX and not self.config.data[bar.offset] & _ROM_ENABLE:
            return None
        base = self.bar_address(bar)
        top = 1 << (16 if bar.is_io else 52)
        probing = not bar.is_io and base == -bar.size & 0xFFFFFFFF
        return None if base == 0 or probing or base + bar.size >= top else base

    def _remap(self) -> None:
        if self._slot is None:
            return
        moved = [(bar, base) for bar in self.bars.values() if (base := self._decoded_base(bar)) != bar.base]
        for bar, _ in moved:
            if bar.base is not None:
                self._slot.unmap(bar)
                bar.base = None
        for bar, base in moved:
            if base is not None:
                bar.base = base
                self._slot.map(bar, base)

    def _drive_intx(self) -> None:
        disabled = self.config.data[config_space.COMMAND + 1] & config_space.COMMAND_NO_INTX >> 8
        driven = self._intx and not disabled
        pin = self.config.data[config_space.INTERRUPT_PIN]
        if self._slot is not None and pin and driven != self._intx_driven:
            self._intx_driven = driven
            self._slot.set_intx(pin, driven)
