"""EFI_BLOCK_IO_PROTOCOL and EFI_DISK_IO_PROTOCOL over a block device of the package `images`."""

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from images import errors
from images.block import BlockDevice
from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.protocols.simple_file_system import status_of
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

MEDIA_ID = 1
# EFI_BLOCK_IO_MEDIA (UEFI 2.10, 13.9), revision 3.
_MEDIA = struct.Struct("<IBBBBBxxxIIxxxxQQII")
_MAXIMUM_TRANSFER = 1 << 30


class BlockIo(Interface):
    """EFI_BLOCK_IO_PROTOCOL (UEFI 2.10, 13.9)."""

    NAME = "EFI_BLOCK_IO_PROTOCOL"
    GUID = guids.BLOCK_IO_PROTOCOL
    SIZE = 0x30
    REVISION = 0x0002_001F

    def __init__(self, firmware: "Firmware", device: BlockDevice, partition: bool, written: Callable[[], None]) -> None:
        """`written` is called after every write: who else keeps blocks of the same disk has to read them anew."""
        super().__init__(firmware)
        self.device = device
        self._partition = partition
        self._written = written

    def fill(self) -> None:
        """Revision and the media description."""
        device = self.device
        blocks = device.size // device.block_size
        media = self.firmware.pool(_MEDIA.size)
        facts = (MEDIA_ID, 0, 1, self._partition, device.read_only, 0)
        raw = _MEDIA.pack(*facts, device.block_size, 0, max(blocks - 1, 0), 0, 1, 0)
        self.firmware.memory.write(media, raw)
        self.put_u64(0x00, self.REVISION)
        self.put_u64(0x08, media)

    @function(0x10, "Reset(bool ExtendedVerification)")
    def reset(self, cpu: Cpu, extended: int) -> int:
        """Nothing to reset."""
        return Status.SUCCESS

    def _check(self, media: int, lba: int, size: int, buffer: int) -> int:
        """The byte offset of a transfer; EfiError in the order of checks that the specification's table gives."""
        device = self.device
        if media != MEDIA_ID:
            raise EfiError(Status.MEDIA_CHANGED)
        if size and not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        if size % device.block_size:
            raise EfiError(Status.BAD_BUFFER_SIZE)
        blocks = device.size // device.block_size
        if lba >= blocks or lba + size // device.block_size > blocks or size > _MAXIMUM_TRANSFER:
            raise EfiError(Status.INVALID_PARAMETER)
        return lba * device.block_size

    @function(0x18, "ReadBlocks(u32 MediaId, u64 LBA, u64 BufferSize, ptr Buffer)")
    def read_blocks(self, cpu: Cpu, media: int, lba: int, size: int, buffer: int) -> int:
        """Read whole blocks."""
        offset = self._check(media, lba, size, buffer)
        if size:
            self.firmware.memory.check(buffer, size)
            try:
                self.firmware.memory.write(buffer, self.device.read(offset, size))
            except errors.ImageError as error:
                raise EfiError(status_of(error)) from None
        return Status.SUCCESS

    @function(0x20, "WriteBlocks(u32 MediaId, u64 LBA, u64 BufferSize, ptr Buffer)")
    def write_blocks(self, cpu: Cpu, media: int, lba: int, size: int, buffer: int) -> int:
        """Write whole blocks."""
        offset = self._check(media, lba, size, buffer)
        if self.device.read_only:
            raise EfiError(Status.WRITE_PROTECTED)
        if size:
            try:
                self.device.write(offset, self.firmware.memory.read(buffer, size))
            except errors.ImageError as error:
                raise EfiError(status_of(error)) from None
            finally:
                self._written()
        return Status.SUCCESS

    @function(0x28, "FlushBlocks()")
    def flush_blocks(self, cpu: Cpu) -> int:
        """Make changes lasting."""
        try:
            self.device.flush()
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        return Status.SUCCESS


class DiskIo(Interface):
    """EFI_DISK_IO_PROTOCOL (UEFI 2.10, 13.7): any offset, any length."""

    NAME = "EFI_DISK_IO_PROTOCOL"
    GUID = guids.DISK_IO_PROTOCOL
    SIZE = 0x18
    REVISION = 0x0001_0000

    def __init__(self, firmware: "Firmware", device: BlockDevice, written: Callable[[], None]) -> None:
        """`written` as for BlockIo."""
        super().__init__(firmware)
        self.device = device
        self._written = written

    def fill(self) -> None:
        """Revision."""
        self.put_u64(0, self.REVISION)

    def _check(self, media: int, offset: int, size: int, buffer: int) -> None:
        if media != MEDIA_ID:
            raise EfiError(Status.MEDIA_CHANGED)
        if (size and not buffer) or offset + size > self.device.size or size > _MAXIMUM_TRANSFER:
            raise EfiError(Status.INVALID_PARAMETER)

    @function(0x08, "ReadDisk(u32 MediaId, u64 Offset, u64 BufferSize, ptr Buffer)")
    def read_disk(self, cpu: Cpu, media: int, offset: int, size: int, buffer: int) -> int:
        """Read bytes."""
        self._check(media, offset, size, buffer)
        try:
            self.firmware.memory.write(buffer, self.device.read(offset, size))
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        return Status.SUCCESS

    @function(0x10, "WriteDisk(u32 MediaId, u64 Offset, u64 BufferSize, ptr Buffer)")
    def write_disk(self, cpu: Cpu, media: int, offset: int, size: int, buffer: int) -> int:
        """Write bytes."""
        self._check(media, offset, size, buffer)
        if self.device.read_only:
            raise EfiError(Status.WRITE_PROTECTED)
        try:
            self.device.write(offset, self.firmware.memory.read(buffer, size))
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        finally:
            self._written()
        return Status.SUCCESS
