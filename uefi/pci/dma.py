"""Memory that drivers share with devices: Map, Unmap, AllocateBuffer, FreeBuffer (UEFI 2.10, 14.2 and 14.4).

Devices see physical addresses as the CPU does. Where they cannot use the caller's memory, a buffer in between is mapped
instead and copied: for a device of 32 address bits above 4 GiB, and in a confidential guest for all memory but what
AllocateBuffer gave, which is shared with the host.
"""

from typing import TYPE_CHECKING, Protocol

from uefi import memory_types as mt
from uefi.memory_map import PAGE
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

BUS_MASTER_READ, BUS_MASTER_WRITE, COMMON_BUFFER, OPERATIONS = 0, 1, 2, 3
"""EFI_PCI_IO_PROTOCOL_OPERATION, as the device sees it: read is of memory."""

NO_MAPPING = (1 << 64) - 1
"""What Map gives where the caller's own memory is used."""

_FOUR_GIB = 1 << 32
_MEMORY_TYPES = (mt.BOOT_DATA, mt.RUNTIME_DATA)


class PageSharing(Protocol):
    """A confidential machine's: turns pages that are private to the guest into shared ones and back."""

    def share(self, address: int, size: int) -> None:
        """Let the host have whole pages; what was in them is lost. EfiError(OUT_OF_RESOURCES)."""

    def unshare(self, address: int, size: int) -> None:
        """Take whole pages back; what was in them is lost."""


class _Mapping:
    """A buffer in between: `address`, `pages`, and the caller's `size` bytes at `host`."""

    __slots__ = ("address", "host", "operation", "pages", "size")

    def __init__(self, operation: int, host: int, size: int, address: int, pages: int) -> None:
        self.operation = operation
        self.host = host
        self.size = size
        self.address = address
        self.pages = pages


class DmaBuffers:
    """The buffers and mappings of all functions."""

    def __init__(self, firmware: "Firmware") -> None:
        self._firmware = firmware
        self._buffers: dict[int, int] = {}
        self._mappings: dict[int, _Mapping] = {}

    def allocate(self, memory_type: int, pages: int, *, wide: bool) -> int:
        """The address of a new common buffer, below 4 GiB unless `wide`.

        EfiError: INVALID_PARAMETER for another type than boot or runtime services data, OUT_OF_RESOURCES.
        """
        if memory_type not in _MEMORY_TYPES:
            raise EfiError(Status.INVALID_PARAMETER)
        address = self._take(memory_type, pages, wide)
        self._buffers[address] = pages
        return address

    def free(self, address: int, pages: int) -> None:
        """Give a buffer back. EfiError(INVALID_PARAMETER) if `allocate` gave none of that size there."""
        if self._buffers.get(address) != pages:
            raise EfiError(Status.INVALID_PARAMETER)
        del self._buffers[address]
        self._give_back(address, pages)

    def map(self, operation: int, host: int, size: int, *, wide: bool) -> tuple[int, int]:
        """(device address, mapping) of `size` bytes at `host` for a device that reaches beyond 4 GiB if `wide`.

        BadAddress if that is no memory; EfiError: UNSUPPORTED for a common buffer that the device cannot reach,
        OUT_OF_RESOURCES.
        """
        firmware = self._firmware
        firmware.memory.check(host, size)
        confidential = firmware.page_sharing is not None
        if self._is_buffer(host, size) if confidential else wide or host + size <= _FOUR_GIB:
            return host, NO_MAPPING
        if operation == COMMON_BUFFER:
            raise EfiError(Status.UNSUPPORTED)
        pages = max(-(-size // PAGE), 1)
        address = self._take(mt.BOOT_DATA, pages, wide)
        if operation == BUS_MASTER_READ:
            firmware.memory.write(address, firmware.memory.read(host, size))
        self._mappings[address] = _Mapping(operation, host, size, address, pages)
        return address, address

    def unmap(self, mapping: int) -> None:
        """End a mapping; what the device has written is copied. EfiError(INVALID_PARAMETER) if it is none."""
        if mapping == NO_MAPPING:
            return
        found = self._mappings.pop(mapping, None)
        if found is None:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self._firmware.memory
        if found.operation == BUS_MASTER_WRITE:
            memory.write(found.host, memory.read(found.address, found.size))
        self._give_back(found.address, found.pages)

    def _is_buffer(self, host: int, size: int) -> bool:
        return any(start <= host and host + size <= start + n * PAGE for start, n in self._buffers.items())

    def _take(self, memory_type: int, pages: int, wide: bool) -> int:
        firmware = self._firmware
        if not 0 < pages < 1 << 40:
            raise EfiError(Status.OUT_OF_RESOURCES)
        address = firmware.memory_map.allocate(pages, memory_type, 1 << 63 if wide else _FOUR_GIB)
        if firmware.page_sharing is not None:
            try:
                firmware.page_sharing.share(address, pages * PAGE)
            except EfiError:
                firmware.memory_map.free(address, pages)
                raise
        return address

    def _give_back(self, address: int, pages: int) -> None:
        firmware = self._firmware
        if firmware.memory_map.type_at(address) in (None, mt.CONVENTIONAL):
            raise EfiError(Status.NOT_FOUND)  # the caller has given the pages away by FreePages before
        if firmware.page_sharing is not None:
            firmware.page_sharing.unshare(address, pages * PAGE)
        firmware.memory_map.free(address, pages)
