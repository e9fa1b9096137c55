"""EFI_DECOMPRESS_PROTOCOL: unpacks data that option ROMs and firmware volumes hold compressed."""

from machine.cpu import Cpu
from uefi import guids
from uefi.compression import HEADER_SIZE, CompressionError, decompress, sizes
from uefi.interface import Interface, function
from uefi.status import Status

SCRATCH_SIZE = 0x4000
"""What GetInfo asks for. Nothing is kept there, but callers allocate it and may refuse to allocate nothing."""


class Decompress(Interface):
    """EFI_DECOMPRESS_PROTOCOL (UEFI 2.10, 19.5)."""

    NAME = "EFI_DECOMPRESS_PROTOCOL"
    GUID = guids.DECOMPRESS_PROTOCOL
    SIZE = 0x10

    @function(0x00, "GetInfo(ptr Source, u32 SourceSize, ptr DestinationSize, ptr ScratchSize)")
    def get_info(self, cpu: Cpu, source: int, source_size: int, destination_size: int, scratch_size: int) -> int:
        """Sizes of the buffers that Decompress wants."""
        if not (source and destination_size and scratch_size) or source_size < HEADER_SIZE:
            return Status.INVALID_PARAMETER
        memory = self.firmware.memory
        compressed, original = sizes(memory.read(source, HEADER_SIZE))
        if compressed > source_size - HEADER_SIZE:
            return Status.INVALID_PARAMETER
        memory.write_u32(destination_size, original)
        memory.write_u32(scratch_size, SCRATCH_SIZE)
        return Status.SUCCESS

    @function(
        0x08,
        "Decompress(ptr Source, u32 SourceSize, ptr Destination, u32 DestinationSize, ptr Scratch, u32 ScratchSize)",
    )
    def decompress(self, cpu: Cpu, source: int, source_size: int, *buffers: int) -> int:
        """Unpack; EFI_INVALID_PARAMETER for damaged data and for a buffer that is too small."""
        destination, destination_size, _scratch, scratch_size = buffers
        if not source or not destination or scratch_size < SCRATCH_SIZE:
            return Status.INVALID_PARAMETER
        memory = self.firmware.memory
        packed = memory.read(source, source_size)
        try:
            # The buffer must be there before a small input is let grow to whatever its header says.
            memory.check(destination, min(sizes(packed)[1], destination_size))
            data = decompress(packed, destination_size)
        except CompressionError:
            return Status.INVALID_PARAMETER
        memory.write(destination, data)
        return Status.SUCCESS
