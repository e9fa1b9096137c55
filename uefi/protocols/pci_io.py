"""EFI_PCI_IO_PROTOCOL: what a driver of a PCI function gets at it by."""

from typing import TYPE_CHECKING

from machine.cpu import Cpu
from machine.pci import config_space
from machine.pci.device import BARS, PREFETCHABLE, Bar, PciDevice
from uefi import guids
from uefi.interface import Interface, function
from uefi.pci import descriptors
from uefi.pci.access import FIFO, FILL, WIDTHS, PciAccess
from uefi.pci.dma import OPERATIONS, DmaBuffers
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

PASS_THROUGH = 0xFF
"""A BAR index that stands for absolute addresses."""

IO, MEMORY, BUS_MASTER = 0x100, 0x200, 0x400
EMBEDDED_DEVICE, DUAL_ADDRESS_CYCLE = 0x2000, 0x8000
WRITE_COMBINE, CACHED = 0x80, 0x800
DEVICE_ENABLE = IO | MEMORY | BUS_MASTER
"""EFI_PCI_IO_ATTRIBUTE_*. Those of the command register are not kept but read from it."""

_GET, _SET, _ENABLE, _DISABLE, _SUPPORTED = range(5)
_COMMAND_BITS = (
    (IO, config_space.COMMAND_IO),
    (MEMORY, config_space.COMMAND_MEMORY),
    (BUS_MASTER, config_space.COMMAND_MASTER),
)
_SUPPORTS = DEVICE_ENABLE | EMBEDDED_DEVICE | DUAL_ADDRESS_CYCLE


class PciIo(Interface):
    """EFI_PCI_IO_PROTOCOL (UEFI 2.10, 14.4) of the function at 00:`slot`.`function`."""

    NAME = "EFI_PCI_IO_PROTOCOL"
    GUID = guids.PCI_IO_PROTOCOL
    SIZE = 0xA0

    def __init__(
        self, firmware: "Firmware", access: PciAccess, buffers: DmaBuffers, device: PciDevice, slot: int, number: int
    ) -> None:
        super().__init__(firmware)
        self.device = device
        self._access = access
        self._buffers = buffers
        self._slot = slot
        self._number = number
        self._attributes = EMBEDDED_DEVICE

    # -- accesses

    def _address(self, kind: str, width: int, index: int, offset: int, count: int) -> int:
        """The bus address of an access to a BAR. EfiError: INVALID_PARAMETER for a bad width, UNSUPPORTED for all else."""
        if width >= WIDTHS:
            raise EfiError(Status.INVALID_PARAMETER)
        if index == PASS_THROUGH:
            return offset
        bar = self.device.bars.get(index)
        if bar is None or index >= BARS or bar.is_io != (kind == "io"):
            raise EfiError(Status.UNSUPPORTED)
        if FIFO <= width < FILL:
            count = 1
        if offset + (count << (width & 3)) > bar.size:
            raise EfiError(Status.UNSUPPORTED)
        return self.device.bar_address(bar) + offset

    def _transfer(
        self, cpu: Cpu, kind: str, width: int, index: int, offset: int, count: int, buffer: int, *, write: bool
    ) -> int:
        if not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        address = self._address(kind, width, index, offset, count)
        return self._access.transfer(cpu, kind, width, address, count, buffer, write=write)

    @function(0x00, "PollMem(u32 Width, u8 BarIndex, u64 Offset, u64 Mask, u64 Value, u64 Delay, ptr Result)")
    def poll_mem(
        self, cpu: Cpu, width: int, index: int, offset: int, mask: int, value: int, delay: int, result: int
    ) -> object:
        """Read memory until it shows a value."""
        address = self._address("memory", width, index, offset, 1)
        return self._access.poll(cpu, "memory", width, address, mask, value, delay, result)

    @function(0x08, "PollIo(u32 Width, u8 BarIndex, u64 Offset, u64 Mask, u64 Value, u64 Delay, ptr Result)")
    def poll_io(
        self, cpu: Cpu, width: int, index: int, offset: int, mask: int, value: int, delay: int, result: int
    ) -> object:
        """Read a port until it shows a value."""
        address = self._address("io", width, index, offset, 1)
        return self._access.poll(cpu, "io", width, address, mask, value, delay, result)

    @function(0x10, "Mem.Read(u32 Width, u8 BarIndex, u64 Offset, u64 Count, ptr Buffer)")
    def mem_read(self, cpu: Cpu, width: int, index: int, offset: int, count: int, buffer: int) -> int:
        """Read from a memory BAR."""
        return self._transfer(cpu, "memory", width, index, offset, count, buffer, write=False)

    @function(0x18, "Mem.Write(u32 Width, u8 BarIndex, u64 Offset, u64 Count, ptr Buffer)")
    def mem_write(self, cpu: Cpu, width: int, index: int, offset: int, count: int, buffer: int) -> int:
        """Write to a memory BAR."""
        return self._transfer(cpu, "memory", width, index, offset, count, buffer, write=True)

    @function(0x20, "Io.Read(u32 Width, u8 BarIndex, u64 Offset, u64 Count, ptr Buffer)")
    def io_read(self, cpu: Cpu, width: int, index: int, offset: int, count: int, buffer: int) -> int:
        """Read from a BAR of ports."""
        return self._transfer(cpu, "io", width, index, offset, count, buffer, write=False)

    @function(0x28, "Io.Write(u32 Width, u8 BarIndex, u64 Offset, u64 Count, ptr Buffer)")
    def io_write(self, cpu: Cpu, width: int, index: int, offset: int, count: int, buffer: int) -> int:
        """Write to a BAR of ports."""
        return self._transfer(cpu, "io", width, index, offset, count, buffer, write=True)

    def _configuration(self, width: int, offset: int, count: int, buffer: int, *, write: bool) -> int:
        if width >= WIDTHS:
            raise EfiError(Status.INVALID_PARAMETER)
        if offset + (count << (width & 3)) > config_space.SIZE:
            raise EfiError(Status.UNSUPPORTED)
        return self._access.configuration(self._slot, self._number, width, offset, count, buffer, write=write)

    @function(0x30, "Pci.Read(u32 Width, u32 Offset, u64 Count, ptr Buffer)")
    def pci_read(self, cpu: Cpu, width: int, offset: int, count: int, buffer: int) -> int:
        """Read configuration space."""
        return self._configuration(width, offset, count, buffer, write=False)

    @function(0x38, "Pci.Write(u32 Width, u32 Offset, u64 Count, ptr Buffer)")
    def pci_write(self, cpu: Cpu, width: int, offset: int, count: int, buffer: int) -> int:
        """Write configuration space."""
        return self._configuration(width, offset, count, buffer, write=True)

    @function(0x40, "CopyMem(u32 Width, u8 DestBarIndex, u64 DestOffset, u8 SrcBarIndex, u64 SrcOffset, u64 Count)")
    def copy_mem(
        self, cpu: Cpu, width: int, to_index: int, to_offset: int, from_index: int, from_offset: int, count: int
    ) -> int:
        """Copy from one memory BAR to another."""
        if width >= FIFO:
            raise EfiError(Status.INVALID_PARAMETER)
        destination = self._address("memory", width, to_index, to_offset, count)
        source = self._address("memory", width, from_index, from_offset, count)
        return self._access.copy(cpu, width, destination, source, count)

    # -- DMA

    @property
    def _wide(self) -> bool:
        return bool(self._attributes & DUAL_ADDRESS_CYCLE)

    @function(0x48, "Map(u32 Operation, ptr HostAddress, ptr NumberOfBytes, ptr DeviceAddress, ptr Mapping)")
    def map(self, cpu: Cpu, operation: int, host: int, size_at: int, address_at: int, mapping_at: int) -> int:
        """Give the device access to memory."""
        if operation >= OPERATIONS or not (host and size_at and address_at and mapping_at):
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        memory.check(address_at, 8)
        memory.check(mapping_at, 8)
        address, mapping = self._buffers.map(operation, host, memory.read_u64(size_at), wide=self._wide)
        memory.write_u64(address_at, address)
        memory.write_u64(mapping_at, mapping)
        return Status.SUCCESS

    @function(0x50, "Unmap(ptr Mapping)")
    def unmap(self, cpu: Cpu, mapping: int) -> int:
        """End the access."""
        self._buffers.unmap(mapping)
        return Status.SUCCESS

    @function(0x58, "AllocateBuffer(u32 Type, u32 MemoryType, u64 Pages, ptr HostAddress, u64 Attributes)")
    def allocate_buffer(self, cpu: Cpu, kind: int, memory_type: int, pages: int, result: int, attributes: int) -> int:
        """Pages that both the CPU and the device use; `kind` does not matter (14.4.14)."""
        if attributes & ~(WRITE_COMBINE | CACHED):
            raise EfiError(Status.UNSUPPORTED)
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.memory.check(result, 8)
        self.firmware.memory.write_u64(result, self._buffers.allocate(memory_type, pages, wide=self._wide))
        return Status.SUCCESS

    @function(0x60, "FreeBuffer(u64 Pages, ptr HostAddress)")
    def free_buffer(self, cpu: Cpu, pages: int, address: int) -> int:
        """Give back what AllocateBuffer gave."""
        self._buffers.free(address, pages)
        return Status.SUCCESS

    @function(0x68, "Flush()")
    def flush(self, cpu: Cpu) -> int:
        """Posted writes are never on their way for long."""
        return Status.SUCCESS

    # -- the function itself

    @function(0x70, "GetLocation(ptr SegmentNumber, ptr BusNumber, ptr DeviceNumber, ptr FunctionNumber)")
    def get_location(self, cpu: Cpu, segment_at: int, bus_at: int, device_at: int, function_at: int) -> int:
        """Where the function is."""
        places = (segment_at, bus_at, device_at, function_at)
        if not all(places):
            raise EfiError(Status.INVALID_PARAMETER)
        for at, value in zip(places, (0, 0, self._slot, self._number), strict=True):
            self.firmware.memory.write_u64(at, value)
        return Status.SUCCESS

    @function(0x78, "Attributes(u32 Operation, u64 Attributes, ptr Result)")
    def attributes(self, cpu: Cpu, operation: int, attributes: int, result: int) -> int:
        """Decoding, bus mastering and the rest: tell or change them."""
        if operation in (_GET, _SUPPORTED):
            if not result:
                raise EfiError(Status.INVALID_PARAMETER)
            self.firmware.memory.write_u64(result, _SUPPORTS if operation == _SUPPORTED else self._current())
            return Status.SUCCESS
        if operation not in (_SET, _ENABLE, _DISABLE):
            raise EfiError(Status.INVALID_PARAMETER)
        if attributes & DEVICE_ENABLE == DEVICE_ENABLE:
            attributes &= _SUPPORTS  # a driver that wants all of these takes what there is (14.4.19)
        if attributes & ~_SUPPORTS:
            raise EfiError(Status.UNSUPPORTED)
        current = self._current()
        if operation == _ENABLE:
            attributes |= current
        elif operation == _DISABLE:
            attributes = current & ~attributes
        self._attributes = attributes & ~DEVICE_ENABLE
        command = self.device.read_config(config_space.COMMAND, 2)
        wanted = command
        for attribute, bit in _COMMAND_BITS:
            wanted = wanted | bit if attributes & attribute else wanted & ~bit
        if wanted != command:
            self.device.write_config(config_space.COMMAND, 2, wanted)
        return Status.SUCCESS

    def _current(self) -> int:
        command = self.device.read_config(config_space.COMMAND, 2)
        return self._attributes | sum(attribute for attribute, bit in _COMMAND_BITS if command & bit)

    def _bar(self, index: int) -> Bar:
        bar = self.device.bars.get(index)
        if bar is None or index >= BARS:
            raise EfiError(Status.UNSUPPORTED)
        return bar

    @function(0x80, "GetBarAttributes(u8 BarIndex, ptr Supports, ptr Resources)")
    def get_bar_attributes(self, cpu: Cpu, index: int, supports_at: int, resources_at: int) -> int:
        """What a BAR decodes, as a descriptor in pool memory; its maximum is the alignment, as EDK II has it."""
        if not supports_at and not resources_at:
            raise EfiError(Status.INVALID_PARAMETER)
        bar = self._bar(index)
        memory = self.firmware.memory
        if supports_at:
            memory.write_u64(supports_at, 0)
        if resources_at:
            memory.check(resources_at, 8)
            kind = descriptors.IO if bar.is_io else descriptors.MEMORY
            bits = 0 if bar.is_io else 64 if bar.is_wide else 32
            prefetchable = not bar.is_io and bool(bar.kind & PREFETCHABLE)
            base = self.device.bar_address(bar)
            told = descriptors.resources(
                descriptors.address_space(kind, base, bar.size - 1, bar.size, bits=bits, prefetchable=prefetchable)
            )
            address = self.firmware.pool(len(told))
            memory.write(address, told)
            memory.write_u64(resources_at, address)
        return Status.SUCCESS

    @function(0x88, "SetBarAttributes(u64 Attributes, u8 BarIndex, ptr Offset, ptr Length)")
    def set_bar_attributes(self, cpu: Cpu, attributes: int, index: int, offset_at: int, length_at: int) -> int:
        """Caching of a part of a BAR: there is no choice."""
        if not offset_at or not length_at:
            raise EfiError(Status.INVALID_PARAMETER)
        bar = self._bar(index)
        memory = self.firmware.memory
        if attributes or bar.is_io or memory.read_u64(offset_at) + memory.read_u64(length_at) > bar.size:
            raise EfiError(Status.UNSUPPORTED)
        return Status.SUCCESS
