"""Memory allocation services (UEFI 2.10, 7.2)."""

from collections.abc import Iterator

from machine.cpu import Cpu, Fault
from machine.errors import BadAddress
from machine.paging import FAULT_WRITE, READ, WRITE
from uefi import memory_types as mt
from uefi.boot_services.table import BootServicesPart, need
from uefi.interface import function
from uefi.memory_map import PAGE
from uefi.status import EfiError, Status

_MOST_OF_A_DEVICE = 16 << 20
"""Bytes; a copy from devices takes a microsecond for 4 of them."""
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
        memory = self.firmware.computer.memory
        if length:
            try:
                to, origin = memory.offset(destination, length), memory.offset(source, length)
            except BadAddress:
                data = self._load(cpu, "CopyMem", source, length)
                self._store(cpu, "CopyMem", destination, data)
            else:
                memory.view[to : to + length] = memory.view[origin : origin + length]
                memory.wrote(destination, length)
        return Status.SUCCESS

    @function(0x168, "SetMem(ptr Buffer, u64 Size, u8 Value)")
    def set_mem(self, cpu: Cpu, buffer: int, size: int, value: int) -> int:
        """Fill memory."""
        if size:
            try:
                self.firmware.computer.memory.fill(buffer, size, value)
            except BadAddress:
                self._check(cpu, "SetMem", WRITE, buffer, size)
                self._store(cpu, "SetMem", buffer, bytes((value,)) * size)
        return Status.SUCCESS

    # CopyMem and SetMem have no status to refuse with: they reach devices, and fault where the identity map ends.

    def _check(self, cpu: Cpu, name: str, access: int, address: int, size: int) -> None:
        """Crash the guest as the processor would if the range leaves the identity map, or is more than a device has."""
        end = self.firmware.processor.map.end
        if address + size <= end and size <= _MOST_OF_A_DEVICE:
            return
        bad = max(address, end) if size <= _MOST_OF_A_DEVICE else address
        text = f"{name} was given {size:#x} bytes at {address:#x}, which is no memory"
        self.firmware.crash(cpu, text, Fault(14, FAULT_WRITE if access == WRITE else 0, bad))
        raise EfiError(Status.INVALID_PARAMETER)

    def _load(self, cpu: Cpu, name: str, address: int, size: int) -> bytes:
        """Bytes of RAM or, by 32 bits where it is aligned, of devices."""
        computer = self.firmware.computer
        if self._is_ram(address, size):
            return computer.memory.read(address, size)
        self._check(cpu, name, READ, address, size)
        data = bytearray()
        for at, step in _accesses(address, size):
            if self._is_ram(at, step):
                data += computer.memory.read(at, step)
            else:
                data += computer.mmio_read(cpu, at, step).to_bytes(step, "little")
        return bytes(data)

    def _store(self, cpu: Cpu, name: str, address: int, data: bytes) -> None:
        """Store bytes to RAM or devices, in the same steps."""
        computer = self.firmware.computer
        if self._is_ram(address, len(data)):
            computer.memory.write(address, data)
            return
        self._check(cpu, name, WRITE, address, len(data))
        for at, step in _accesses(address, len(data)):
            part = data[at - address : at - address + step]
            if self._is_ram(at, step):
                computer.memory.write(at, part)
            else:
                computer.mmio_write(cpu, at, step, int.from_bytes(part, "little"))

    def _is_ram(self, address: int, size: int) -> bool:
        try:
            self.firmware.computer.memory.offset(address, size)
        except BadAddress:
            return False
        return True


def _accesses(address: int, size: int) -> Iterator[tuple[int, int]]:
    """The (address, bytes) of the loads or stores for a range: 4 bytes where it is aligned, else single ones."""
    end = address + size
    while address < end:
        step = 4 if address % 4 == 0 and end - address >= 4 else 1
        yield address, step
        address += step
