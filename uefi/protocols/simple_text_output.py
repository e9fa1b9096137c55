"""EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL: ConOut and StdErr."""

import struct
from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.console.text_screen import TextScreen
from uefi.interface import Interface, function
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

MAX_STRING = 0x10000
"""CHAR16 characters printed of one string: a guest may forget the NUL."""

# SIMPLE_TEXT_OUTPUT_MODE: MaxMode, Mode, Attribute, CursorColumn, CursorRow, CursorVisible and its padding.
_MODE = struct.Struct("<5iB3x")


class SimpleTextOutput(Interface):
    """EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL (UEFI 2.10, 12.4)."""

    NAME = "EFI_SIMPLE_TEXT_OUTPUT_PROTOCOL"
    GUID = guids.SIMPLE_TEXT_OUTPUT_PROTOCOL
    SIZE = 0x50

    def __init__(self, firmware: "Firmware", screen: TextScreen) -> None:
        super().__init__(firmware)
        self._screen = screen
        self._mode = 0

    def fill(self) -> None:
        """Mode, which lies in memory of its own."""
        self._mode = self.firmware.pool(_MODE.size)
        self.put_u64(0x48, self._mode)
        self._update()

    def _update(self) -> None:
        screen = self._screen
        self.firmware.memory.write(
            self._mode,
            _MODE.pack(
                len(screen.modes), screen.mode, screen.attribute, screen.column, screen.row, screen.cursor_visible
            ),
        )

    def _string(self, address: int) -> str:
        """The string to print: no more than MAX_STRING characters, and no fault where RAM ends before a NUL."""
        if not address:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        # The usual caller prints one character at a time.
        raw = memory.read_u64(address) & 0xFFFFFFFF if address & 0xFFF <= 0xFF8 else 0xFFFFFFFF
        if raw < 0x10000:
            return chr(raw) if raw else ""
        text: str = memory.read_ucs2(address, MAX_STRING)
        return text

    @function(0x00, "Reset(bool ExtendedVerification)")
    def reset(self, cpu: Cpu, extended: int) -> int:
        """Default attribute, cleared screen, mode 0 (12.4.2)."""
        self._screen.reset()
        self._update()
        return Status.SUCCESS

    @function(0x08, "OutputString(ptr String)")
    def output_string(self, cpu: Cpu, string: int) -> int:
        """Print; EFI_WARN_UNKNOWN_GLYPH when a character has no glyph (12.4.3)."""
        known = self._screen.output(self._string(string))
        self._update()
        return Status.SUCCESS if known else Status.WARN_UNKNOWN_GLYPH

    @function(0x10, "TestString(ptr String)")
    def test_string(self, cpu: Cpu, string: int) -> int:
        """Whether OutputString could print all of it (12.4.4)."""
        return Status.SUCCESS if self._screen.test(self._string(string)) else Status.UNSUPPORTED

    @function(0x18, "QueryMode(u64 ModeNumber, ptr Columns, ptr Rows)")
    def query_mode(self, cpu: Cpu, number: int, columns: int, rows: int) -> int:
        """Columns and rows of a mode (12.4.5)."""
        if not columns or not rows:
            return Status.INVALID_PARAMETER
        if number >= len(self._screen.modes):
            return Status.UNSUPPORTED
        width, height = self._screen.modes[number]
        self.firmware.memory.write_u64(columns, width)
        self.firmware.memory.write_u64(rows, height)
        return Status.SUCCESS

    @function(0x20, "SetMode(u64 ModeNumber)")
    def set_mode(self, cpu: Cpu, number: int) -> int:
        """Switch to a mode and clear the screen (12.4.6)."""
        if not self._screen.set_mode(number):
            return Status.UNSUPPORTED
        self._update()
        return Status.SUCCESS

    @function(0x28, "SetAttribute(u64 Attribute)")
    def set_attribute(self, cpu: Cpu, attribute: int) -> int:
        """Colours of what is printed from now on (12.4.7)."""
        if not self._screen.set_attribute(attribute):
            return Status.UNSUPPORTED
        self._update()
        return Status.SUCCESS

    @function(0x30, "ClearScreen()")
    def clear_screen(self, cpu: Cpu) -> int:
        """Fill with the background colour (12.4.8)."""
        self._screen.clear()
        self._update()
        return Status.SUCCESS

    @function(0x38, "SetCursorPosition(u64 Column, u64 Row)")
    def set_cursor_position(self, cpu: Cpu, column: int, row: int) -> int:
        """Move the cursor (12.4.9)."""
        if not self._screen.set_cursor(column, row):
            return Status.UNSUPPORTED
        self._update()
        return Status.SUCCESS

    @function(0x40, "EnableCursor(bool Visible)")
    def enable_cursor(self, cpu: Cpu, visible: int) -> int:
        """Show or hide the cursor (12.4.10)."""
        self._screen.enable_cursor(bool(visible))
        self._update()
        return Status.SUCCESS
