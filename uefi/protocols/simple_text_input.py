"""EFI_SIMPLE_TEXT_INPUT_PROTOCOL: ConIn."""

from functools import partial
from typing import TYPE_CHECKING

from machine.callbacks import nothing
from machine.cpu import Cpu
from uefi import guids
from uefi.console.keyboard import Keyboard
from uefi.interface import Interface, function
from uefi.status import Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware


def key_ready(firmware: "Firmware", keyboard: Keyboard) -> bool:
    """Whether a key can be read. While a lone ESC waits for the rest of its sequence, a timer forces a later look."""
    if keyboard.ready():
        return True
    deadline = keyboard.pending_deadline()
    if deadline is not None and deadline > firmware.clock.now():
        firmware.clock.call_at(deadline, nothing)
    return False


class SimpleTextInput(Interface):
    """EFI_SIMPLE_TEXT_INPUT_PROTOCOL (UEFI 2.10, 12.3)."""

    NAME = "EFI_SIMPLE_TEXT_INPUT_PROTOCOL"
    GUID = guids.SIMPLE_TEXT_INPUT_PROTOCOL
    SIZE = 0x18

    def __init__(self, firmware: "Firmware", keyboard: Keyboard) -> None:
        super().__init__(firmware)
        self._keyboard = keyboard

    def fill(self) -> None:
        """WaitForKey."""
        self.put_u64(0x10, self.firmware.events.create_host(partial(key_ready, self.firmware, self._keyboard)))

    @function(0x00, "Reset(bool ExtendedVerification)")
    def reset(self, cpu: Cpu, extended: int) -> int:
        """Nothing to reset (12.3.2). Type-ahead stays: programs call this when they start, and a pipe must not lose."""
        return Status.SUCCESS

    @function(0x08, "ReadKeyStroke(ptr Key)")
    def read_key_stroke(self, cpu: Cpu, key: int) -> int:
        """The next EFI_INPUT_KEY, EFI_NOT_READY when there is none (12.3.3)."""
        if not key:
            return Status.INVALID_PARAMETER
        pressed = self._keyboard.read()
        if pressed is None:
            self.firmware.computer.idle.input_poll()
            return Status.NOT_READY
        self.firmware.memory.write_u32(key, pressed.scan_code | pressed.unicode_char << 16)
        return Status.SUCCESS
