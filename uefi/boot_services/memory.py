"""Memory allocation services (UEFI 2.10, 7.2)."""

from machine.cpu import Cpu
from uefi import memory_types as mt
from uefi.boot_services.table import BootServicesPart, need
from uefi.interface import function
from uefi.memory_map import PAGE
from uefi.status import EfiError, Status

ANY_PAGES, MAX_ADDRESS, AT_ADDRESS = 0, 1, 2


def check_type(memory_type: int) -> None:
    """EfiError(INVALID_PARAMETER) for a type that nobody may allocate."""
    if (mt.MAXIMUM <= memory_type < mt.OEM_FIRST) or memory_type in (mt.CONVENTIONAL, mt.PERSISTENT, mt.UNACCEPTED):
        raise EfiError(Status.INVALID_PARAMETER)


class MemoryServices(BootServicesPart):
    """Pages, pool, the memory map, copying."""

    @function(0x28, "AllocatePages(u32 Type, u32 MemoryType, u64 Pages, ptr Memory)")
    def allocate_pages(self, cpu: Cpu, kind: int, memory_type: int, pages: int, result: int) -> int:
        """Allocate by any address, below an address or at one."""
        need(result)
        check_type(memory_type)
        if kind > AT_ADDRESS:
            raise EfiError(Status.INVALID_PARAMETER)
        firmware = self.firmware
        wanted = firmware.memory.read_u64(result)
        if not pages or pages > 1 << 40:
            raise EfiError(Status.NOT_FOUND if kind == AT_ADDRESS else Status.OUT_OF_RESOURCES)
        if kind == AT_ADDRESS:
            if wanted % PAGE:
                raise EfiError(Status.NOT_FOUND)
            firmware.memory_map.allocate_at(wanted, pages, memory_type)
            return Status.SUCCESS
        limit = wanted + 1 if kind == MAX_ADDRESS else 1 << 63
        # Runtime regions are mapped by the OS one by one; 64 KiB keeps them apart on systems with larger pages too.
        firmware.memory.write_u64(result, firmware.memory_map.allocate(pages, memory_type, limit & ~(PAGE - 1)))
        return Status.SUCCESS

    @function(0x30, "FreePages(u64 Memory, u64 Pages)")
    def free_pages(self, cpu: Cpu, address: int, pages: int) -> int:
        """Free pages that AllocatePages gave."""
        if not pages or address % PAGE:
            raise EfiError(Status.INVALID_PARAMETER)
        if address + pages * PAGE >= 1 << 64:
            raise EfiError(Status.NOT_FOUND)
        self.firmware.memory_map.free(address, pages)
        return Status.SUCCESS

    @function(
        0x38, "GetMemoryMap(ptr MemoryMapSize, ptr MemoryMap, ptr MapKey, ptr DescriptorSize, ptr DescriptorVersion)"
    )
    def get_memory_map(self, cpu: Cpu, size_at: int, buffer: int, key_at: int, stride_at: int, version_at: int) -> int:
        """The map and its key; BUFFER_TOO_SMALL with the size that is wanted."""
        need(size_at)
        memory = self.firmware.memory
        room = memory.read_u64(size_at)
        data = self.firmware.memory_map.descriptors()
        memory.write_u64(size_at, len(data))
        if stride_at:
            memory.write_u64(stride_at, mt.DESCRIPTOR_SIZE)
        if version_at:
            memory.write_u32(version_at, 1)
        if room < len(data):
            return Status.BUFFER_TOO_SMALL
        need(buffer, key_at)
        memory.write(buffer, data)
        memory.write_u64(key_at, self.firmware.memory_map.key)
        return Status.SUCCESS

    @function(0x40, "AllocatePool(u32 PoolType, u64 Size, ptr Buffer)")
    def allocate_pool(self, cpu: Cpu, memory_type: int, size: int, result: int) -> int:
        """Allocate pool memory."""
        need(result)
        check_type(memory_type)
        if size > 1 << 46:
            raise EfiError(Status.OUT_OF_RESOURCES)
        self.firmware.memory.check(result, 8)
        self.firmware.memory.write_u64(result, self.firmware.pool(size, memory_type))
        return Status.SUCCESS

    @function(0x48, "FreePool(ptr Buffer)")
    def free_pool(self, cpu: Cpu, address: int) -> int:
        """Free pool memory."""
        need(address)
        self.firmware.free_pool(address)
        return Status.SUCCESS

    @function(0x160, "CopyMem(ptr Destination, ptr Source, u64 Length)")
    def copy_mem(self, cpu: Cpu, destination: int, source: int, length: int) -> int:
        """Copy memory; the areas may overlap."""
        if length:
            memory = self.firmware.memory
            memory.check(destination, length)
            memory.write(destination, memory.read(source, length))
        return Status.SUCCESS

    @function(0x168, "SetMem(ptr Buffer, u64 Size, u8 Value)")
    def set_mem(self, cpu: Cpu, buffer: int, size: int, value: int) -> int:
        """Fill memory."""
        if size:
            self.firmware.computer.memory.fill(buffer, size, value)
        return Status.SUCCESS
