"""EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL: the whole of PCI bus 0 at once, without regard to drivers."""

from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.pci import descriptors
from uefi.pci.access import ISA_PORTS, WIDTHS, PciAccess
from uefi.pci.dma import OPERATIONS, DmaBuffers
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

WRITE_COMBINE, CACHED, DUAL_ADDRESS_CYCLE = 0x80, 0x800, 0x8000
SUPPORTS = 0x1 | 0x2 | 0x20 | 0x40 | 0x10000 | DUAL_ADDRESS_CYCLE
"""EFI_PCI_ATTRIBUTE_*: ISA mainboard devices, ISA, both IDE channels, ISA with 16 address bits."""

_FIRST_64_BIT_OPERATION = OPERATIONS


class PciRootBridgeIo(Interface):
    """EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL (UEFI 2.10, 14.2) of the only root bridge, which has `buses` bus numbers."""

    NAME = "EFI_PCI_ROOT_BRIDGE_IO_PROTOCOL"
    GUID = guids.PCI_ROOT_BRIDGE_IO_PROTOCOL
    SIZE = 0x98

    def __init__(self, firmware: "Firmware", access: PciAccess, buffers: DmaBuffers, buses: int) -> None:
        super().__init__(firmware)
        self._access = access
        self._buffers = buffers
        self._buses = buses
        self._attributes = SUPPORTS
        self._resources = 0

    def set_parent(self, handle: int) -> None:
        """Name the handle of the host bridge."""
        self.put_u64(0x00, handle)

    # -- accesses

    @function(0x08, "PollMem(u32 Width, u64 Address, u64 Mask, u64 Value, u64 Delay, ptr Result)")
    def poll_mem(self, cpu: Cpu, width: int, address: int, mask: int, value: int, delay: int, result: int) -> object:
        """Read memory until it shows a value."""
        return self._access.poll(cpu, "memory", width, address, mask, value, delay, result)

    @function(0x10, "PollIo(u32 Width, u64 Address, u64 Mask, u64 Value, u64 Delay, ptr Result)")
    def poll_io(self, cpu: Cpu, width: int, address: int, mask: int, value: int, delay: int, result: int) -> object:
        """Read a port until it shows a value."""
        return self._access.poll(cpu, "io", width, address, mask, value, delay, result)

    @function(0x18, "Mem.Read(u32 Width, u64 Address, u64 Count, ptr Buffer)")
    def mem_read(self, cpu: Cpu, width: int, address: int, count: int, buffer: int) -> int:
        """Read PCI memory."""
        return self._access.transfer(cpu, "memory", width, address, count, buffer, write=False)

    @function(0x20, "Mem.Write(u32 Width, u64 Address, u64 Count, ptr Buffer)")
    def mem_write(self, cpu: Cpu, width: int, address: int, count: int, buffer: int) -> int:
        """Write PCI memory."""
        return self._access.transfer(cpu, "memory", width, address, count, buffer, write=True)

    @function(0x28, "Io.Read(u32 Width, u64 Address, u64 Count, ptr Buffer)")
    def io_read(self, cpu: Cpu, width: int, address: int, count: int, buffer: int) -> int:
        """Read ports."""
        return self._access.transfer(cpu, "io", width, address, count, buffer, write=False)

    @function(0x30, "Io.Write(u32 Width, u64 Address, u64 Count, ptr Buffer)")
    def io_write(self, cpu: Cpu, width: int, address: int, count: int, buffer: int) -> int:
        """Write ports."""
        return self._access.transfer(cpu, "io", width, address, count, buffer, write=True)

    def _configuration(self, width: int, address: int, count: int, buffer: int, *, write: bool) -> int:
        """Address (table 14.2): register, function, device, bus, one byte each, then 32 bits of extended register."""
        if width >= WIDTHS:
            raise EfiError(Status.INVALID_PARAMETER)
        register, number, slot, bus = (address >> shift & 0xFF for shift in (0, 8, 16, 24))
        offset = address >> 32 or register
        end = offset + (count << (width & 3))
        if bus >= self._buses or slot > 31 or number > 7 or end > 4096:
            raise EfiError(Status.INVALID_PARAMETER)
        if bus:
            slot = 32  # there is nothing
        return self._access.configuration(slot, number, width, offset, count, buffer, write=write)

    @function(0x38, "Pci.Read(u32 Width, u64 Address, u64 Count, ptr Buffer)")
    def pci_read(self, cpu: Cpu, width: int, address: int, count: int, buffer: int) -> int:
        """Read configuration space."""
        return self._configuration(width, address, count, buffer, write=False)

    @function(0x40, "Pci.Write(u32 Width, u64 Address, u64 Count, ptr Buffer)")
    def pci_write(self, cpu: Cpu, width: int, address: int, count: int, buffer: int) -> int:
        """Write configuration space."""
        return self._configuration(width, address, count, buffer, write=True)

    @function(0x48, "CopyMem(u32 Width, u64 DestAddress, u64 SrcAddress, u64 Count)")
    def copy_mem(self, cpu: Cpu, width: int, destination: int, source: int, count: int) -> int:
        """Copy within PCI memory."""
        return self._access.copy(cpu, width, destination, source, count)

    # -- DMA

    @function(0x50, "Map(u32 Operation, ptr HostAddress, ptr NumberOfBytes, ptr DeviceAddress, ptr Mapping)")
    def map(self, cpu: Cpu, operation: int, host: int, size_at: int, address_at: int, mapping_at: int) -> int:
        """Give devices access to memory; operations from 3 on are for devices with 64 address bits."""
        if operation >= 2 * OPERATIONS or not (host and size_at and address_at and mapping_at):
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        memory.check(address_at, 8)
        memory.check(mapping_at, 8)
        wide = operation >= _FIRST_64_BIT_OPERATION
        address, mapping = self._buffers.map(operation % OPERATIONS, host, memory.read_u64(size_at), wide=wide)
        memory.write_u64(address_at, address)
        memory.write_u64(mapping_at, mapping)
        return Status.SUCCESS

    @function(0x58, "Unmap(ptr Mapping)")
    def unmap(self, cpu: Cpu, mapping: int) -> int:
        """End the access."""
        self._buffers.unmap(mapping)
        return Status.SUCCESS

    @function(0x60, "AllocateBuffer(u32 Type, u32 MemoryType, u64 Pages, ptr HostAddress, u64 Attributes)")
    def allocate_buffer(self, cpu: Cpu, kind: int, memory_type: int, pages: int, result: int, attributes: int) -> int:
        """Pages that both the CPU and devices use."""
        if attributes & ~(WRITE_COMBINE | CACHED | DUAL_ADDRESS_CYCLE):
            raise EfiError(Status.UNSUPPORTED)
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        self.firmware.memory.check(result, 8)
        wide = bool(attributes & DUAL_ADDRESS_CYCLE)
        self.firmware.memory.write_u64(result, self._buffers.allocate(memory_type, pages, wide=wide))
        return Status.SUCCESS

    @function(0x68, "FreeBuffer(u64 Pages, ptr HostAddress)")
    def free_buffer(self, cpu: Cpu, pages: int, address: int) -> int:
        """Give back what AllocateBuffer gave."""
        self._buffers.free(address, pages)
        return Status.SUCCESS

    @function(0x70, "Flush()")
    def flush(self, cpu: Cpu) -> int:
        """Posted writes are never on their way for long."""
        return Status.SUCCESS

    # -- the bridge itself

    @function(0x78, "GetAttributes(ptr Supports, ptr Attributes)")
    def get_attributes(self, cpu: Cpu, supports_at: int, attributes_at: int) -> int:
        """What the bridge can pass on, and what it does."""
        if not supports_at and not attributes_at:
            raise EfiError(Status.INVALID_PARAMETER)
        if supports_at:
            self.firmware.memory.write_u64(supports_at, SUPPORTS)
        if attributes_at:
            self.firmware.memory.write_u64(attributes_at, self._attributes)
        return Status.SUCCESS

    @function(0x80, "SetAttributes(u64 Attributes, ptr ResourceBase, ptr ResourceLength)")
    def set_attributes(self, cpu: Cpu, attributes: int, base_at: int, length_at: int) -> int:
        """Change them. They are kept and told; the mainboard's devices answer in any case."""
        if attributes & ~SUPPORTS:
            raise EfiError(Status.UNSUPPORTED)
        self._attributes = attributes
        return Status.SUCCESS

    @function(0x88, "Configuration(ptr Resources)")
    def configuration(self, cpu: Cpu, result: int) -> int:
        """The bridge's resources, in memory that stays the firmware's.

        Of the bus numbers those that there is a bus for, as a bus driver assigns them: iPXE 2.0 looks at each function of each.
        """
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        windows = self._access.windows
        told = descriptors.resources(
            *(descriptors.window(descriptors.IO, ports) for ports in windows["io"] if ports is not ISA_PORTS),
            *(descriptors.window(descriptors.MEMORY, addresses) for addresses in windows["memory"]),
            descriptors.window(descriptors.BUS, range(1)),
        )
        if not self._resources:
            self._resources = self.firmware.pool(len(told))
        self.firmware.memory.write(self._resources, told)
        self.firmware.memory.write_u64(result, self._resources)
        return Status.SUCCESS
