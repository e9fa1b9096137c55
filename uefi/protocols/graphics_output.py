"""EFI_GRAPHICS_OUTPUT_PROTOCOL: modes, block transfers and the framebuffer's address."""

import struct
from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.graphics import blt
from uefi.graphics.framebuffer import BYTES_PER_PIXEL, Framebuffer
from uefi.interface import Interface, function
from uefi.status import Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_BLUE_GREEN_RED_RESERVED = 1

# EFI_GRAPHICS_OUTPUT_MODE_INFORMATION: Version, resolution, PixelFormat, PixelInformation (unused), PixelsPerScanLine.
_INFO = struct.Struct("<4I16xI")
# EFI_GRAPHICS_OUTPUT_PROTOCOL_MODE: MaxMode, Mode, Info, SizeOfInfo, FrameBufferBase, FrameBufferSize.
_MODE = struct.Struct("<IIQQQQ")


class GraphicsOutput(Interface):
    """EFI_GRAPHICS_OUTPUT_PROTOCOL (UEFI 2.10, 12.9)."""

    NAME = "EFI_GRAPHICS_OUTPUT_PROTOCOL"
    GUID = guids.GRAPHICS_OUTPUT_PROTOCOL
    SIZE = 0x20

    def __init__(self, firmware: "Firmware", screen: Framebuffer) -> None:
        super().__init__(firmware)
        self._screen = screen
        self._mode = 0
        self._info = 0

    def fill(self) -> None:
        """Mode and its Info, which lie in memory of their own."""
        self._info = self.firmware.pool(_INFO.size)
        self._mode = self.firmware.pool(_MODE.size)
        self.put_u64(0x18, self._mode)
        self._update()

    def _update(self) -> None:
        screen, memory = self._screen, self.firmware.memory
        memory.write(self._info, self._information(screen.mode))
        memory.write(
            self._mode,
            _MODE.pack(len(screen.modes), screen.mode, self._info, _INFO.size, screen.base, screen.size),
        )

    def _information(self, mode: int) -> bytes:
        width, height = self._screen.modes[mode]
        return _INFO.pack(0, width, height, _BLUE_GREEN_RED_RESERVED, width)

    @function(0x00, "QueryMode(u32 ModeNumber, ptr SizeOfInfo, ptr Info)")
    def query_mode(self, cpu: Cpu, number: int, size_of_info: int, info: int) -> int:
        """A mode's information in pool memory that the caller frees (12.9.2.1)."""
        if not size_of_info or not info or number >= len(self._screen.modes):
            return Status.INVALID_PARAMETER
        address = self.firmware.pool(_INFO.size)
        self.firmware.memory.write(address, self._information(number))
        self.firmware.memory.write_u64(size_of_info, _INFO.size)
        self.firmware.memory.write_u64(info, address)
        return Status.SUCCESS

    @function(0x08, "SetMode(u32 ModeNumber)")
    def set_mode(self, cpu: Cpu, number: int) -> int:
        """Switch to a mode and clear to black (12.9.2.2)."""
        if not self._screen.set_mode(number):
            return Status.UNSUPPORTED
        self._update()
        return Status.SUCCESS

    @function(
        0x10,
        "Blt(ptr BltBuffer, u32 BltOperation, u64 SourceX, u64 SourceY, u64 DestinationX, u64 DestinationY, "
        "u64 Width, u64 Height, u64 Delta)",
    )
    def blt(self, cpu: Cpu, buffer: int, operation: int, *rectangle: int) -> int:
        """Draw, read or move a rectangle (12.9.2.3)."""
        source_x, source_y, destination_x, destination_y, width, height, delta = rectangle
        source, destination, size = (source_x, source_y), (destination_x, destination_y), (width, height)
        screen, memory = self._screen, self.firmware.memory
        if operation > blt.VIDEO_TO_VIDEO or (not buffer and operation != blt.VIDEO_TO_VIDEO):
            return Status.INVALID_PARAMETER
        try:
            if operation == blt.VIDEO_FILL:
                blt.fill(screen, memory.read(buffer, BYTES_PER_PIXEL), destination, size)
            elif operation == blt.VIDEO_TO_BUFFER:
                blt.to_buffer(screen, blt.BltBuffer(memory, buffer, delta), source, destination, size)
            elif operation == blt.BUFFER_TO_VIDEO:
                blt.to_video(screen, blt.BltBuffer(memory, buffer, delta), source, destination, size)
            else:
                blt.within_video(screen, source, destination, size)
        except blt.BltError:
            return Status.INVALID_PARAMETER
        return Status.SUCCESS
