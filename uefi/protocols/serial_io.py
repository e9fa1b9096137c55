"""EFI_SERIAL_IO_PROTOCOL over the machine's COM1."""

import struct
from typing import TYPE_CHECKING

from machine.console import HostConsole
from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

# SERIAL_IO_MODE (UEFI 2.10, 12.8): ControlMask, Timeout (us), BaudRate, ReceiveFifoDepth, DataBits, Parity, StopBits.
_MODE = struct.Struct("<IIQIIII")
BAUD_RATE = 115_200
_DEFAULT = (0, 1_000_000, BAUD_RATE, 16, 8, 1, 1)
_INPUT_EMPTY, _OUTPUT_EMPTY, _CLEAR_TO_SEND, _DATA_SET_READY, _CARRIER = 0x100, 0x200, 0x10, 0x20, 0x80
_LOOPBACK = 0x1000 | 0x2000  # hardware, software
_SETTABLE = 0x1 | 0x2 | _LOOPBACK | 0x4000  # DTR, RTS, loopback, hardware flow control
_MAXIMUM_TRANSFER = 1 << 20
_PARITIES, _STOP_BITS = 5, 3


class SerialIo(Interface):
    """EFI_SERIAL_IO_PROTOCOL (UEFI 2.10, 12.8)."""

    NAME = "EFI_SERIAL_IO_PROTOCOL"
    GUID = guids.SERIAL_IO_PROTOCOL
    SIZE = 0x48
    REVISION = 0x0001_0000

    def __init__(self, firmware: "Firmware", console: HostConsole) -> None:
        super().__init__(firmware)
        self._console = console
        self._control = 0
        self._mode = 0
        self._looped = bytearray()

    def fill(self) -> None:
        """Revision and Mode."""
        self._mode = self.firmware.pool(_MODE.size)
        self.firmware.memory.write(self._mode, _MODE.pack(*_DEFAULT))
        self.put_u64(0x00, self.REVISION)
        self.put_u64(0x38, self._mode)

    @function(0x08, "Reset()")
    def reset(self, cpu: Cpu) -> int:
        """Back to the default attributes."""
        self._control = 0
        self._looped.clear()
        self.firmware.memory.write(self._mode, _MODE.pack(*_DEFAULT))
        return Status.SUCCESS

    @function(
        0x10,
        "SetAttributes(u64 BaudRate, u32 ReceiveFifoDepth, u32 Timeout, u32 Parity, u8 DataBits, u32 StopBits)",
    )
    def set_attributes(self, cpu: Cpu, baud: int, depth: int, timeout: int, parity: int, bits: int, stop: int) -> int:
        """Set line parameters; 0 means the default. They are kept and told, the line has no speed."""
        if baud > 4_000_000 or bits not in (0, 5, 6, 7, 8) or parity > _PARITIES or stop > _STOP_BITS or depth > 16:
            raise EfiError(Status.INVALID_PARAMETER)
        values = (timeout or _DEFAULT[1], baud or BAUD_RATE, depth or 16, bits or 8, parity or 1, stop or 1)
        self.firmware.memory.write(self._mode, _MODE.pack(0, *values))
        return Status.SUCCESS

    @function(0x18, "SetControl(u32 Control)")
    def set_control(self, cpu: Cpu, control: int) -> int:
        """Set control bits."""
        if control & ~_SETTABLE:
            raise EfiError(Status.UNSUPPORTED)
        self._control = control
        if not control & _LOOPBACK:
            self._looped.clear()
        return Status.SUCCESS

    @function(0x20, "GetControl(ptr Control)")
    def get_control(self, cpu: Cpu, result: int) -> int:
        """Control bits and the state of the line."""
        if not result:
            raise EfiError(Status.INVALID_PARAMETER)
        state = self._control | _OUTPUT_EMPTY | _CLEAR_TO_SEND | _DATA_SET_READY | _CARRIER
        if not (self._looped if self._control & _LOOPBACK else self._console.pending()):
            self.firmware.computer.idle.input_poll()
            state |= _INPUT_EMPTY
        self.firmware.memory.write_u32(result, state)
        return Status.SUCCESS

    @function(0x28, "Write(ptr BufferSize, ptr Buffer)")
    def write(self, cpu: Cpu, size_at: int, buffer: int) -> int:
        """Send bytes."""
        if not size_at or not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        size = min(memory.read_u64(size_at), _MAXIMUM_TRANSFER)
        data = memory.read(buffer, size)
        if self._control & _LOOPBACK:
            self._looped += data[: _MAXIMUM_TRANSFER - len(self._looped)]
        else:
            self._console.write(data)
        memory.write_u64(size_at, size)
        self.firmware.computer.idle.effect()
        return Status.SUCCESS

    @function(0x30, "Read(ptr BufferSize, ptr Buffer)")
    def read(self, cpu: Cpu, size_at: int, buffer: int) -> int:
        """Receive bytes that are there; TIMEOUT if they are fewer than asked for."""
        if not size_at or not buffer:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        wanted = memory.read_u64(size_at)
        data = bytearray()
        if self._control & _LOOPBACK:
            data += self._looped[:wanted]
            del self._looped[:wanted]
        while not self._control & _LOOPBACK and len(data) < wanted and (byte := self._console.read_byte()) is not None:
            data.append(byte)
        memory.write(buffer, data)
        memory.write_u64(size_at, len(data))
        if len(data) < wanted:
            self.firmware.computer.idle.input_poll()
            return Status.TIMEOUT
        return Status.SUCCESS
