"""EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL: ConIn with shift state and key notifications."""

import struct
from typing import TYPE_CHECKING

from machine.cpu import Cpu
from uefi import guids
from uefi.console.keyboard import (
    KEY_STATE_EXPOSED,
    LEFT_CONTROL,
    SHIFT_STATE_VALID,
    TOGGLE_STATE_VALID,
    TOGGLES,
    Key,
    Keyboard,
)
from uefi.events import EVT_NOTIFY_SIGNAL, TPL_CALLBACK
from uefi.interface import Interface, function
from uefi.protocols.simple_text_input import key_ready
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

# EFI_KEY_DATA: ScanCode, UnicodeChar, KeyShiftState, KeyToggleState and its padding.
_KEY_DATA = struct.Struct("<HHIB3x")

LOOK_INTERVAL = 50_000_000
"""Nanoseconds between two looks for a key that somebody wants to be notified of and that nobody reads."""

MAX_REGISTRATIONS = 4096


class SimpleTextInputEx(Interface):
    """EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL (UEFI 2.10, 12.2)."""

    NAME = "EFI_SIMPLE_TEXT_INPUT_EX_PROTOCOL"
    GUID = guids.SIMPLE_TEXT_INPUT_EX_PROTOCOL
    SIZE = 0x30

    def __init__(self, firmware: "Firmware", keyboard: Keyboard) -> None:
        super().__init__(firmware)
        self._keyboard = keyboard
        # Notification event -> (scan code, character, shift state, toggle state, function). The event's address is the
        # notification handle, too.
        self._registered: dict[int, tuple[int, int, int, int, int]] = {}
        self._look_event = 0
        keyboard.listeners.append(self._key_arrived)

    def fill(self) -> None:
        """WaitForKeyEx."""
        self.put_u64(0x10, self.firmware.events.create_host(self._ready))

    def _ready(self) -> bool:
        return key_ready(self.firmware, self._keyboard)

    def _data(self, key: Key) -> tuple[int, int, int, int]:
        """The fields of EFI_KEY_DATA: here a control character is its letter, with the shift state telling of Ctrl."""
        character = key.unicode_char
        if key.shift_state & LEFT_CONTROL and 1 <= character <= 26:
            character += 0x60
        return key.scan_code, character, key.shift_state, self._keyboard.toggle_state

    @function(0x00, "Reset(bool ExtendedVerification)")
    def reset(self, cpu: Cpu, extended: int) -> int:
        """As EFI_SIMPLE_TEXT_INPUT_PROTOCOL.Reset (12.2.2)."""
        return Status.SUCCESS

    @function(0x08, "ReadKeyStrokeEx(ptr KeyData)")
    def read_key_stroke_ex(self, cpu: Cpu, key_data: int) -> int:
        """The next EFI_KEY_DATA; EFI_NOT_READY, with the state filled in, when there is none (12.2.3)."""
        if not key_data:
            return Status.INVALID_PARAMETER
        pressed = self._keyboard.read()
        if pressed is None:
            self.firmware.computer.idle.input_poll()
            self.firmware.memory.write(key_data, _KEY_DATA.pack(0, 0, SHIFT_STATE_VALID, self._keyboard.toggle_state))
            return Status.NOT_READY
        self.firmware.memory.write(key_data, _KEY_DATA.pack(*self._data(pressed)))
        return Status.SUCCESS

    @function(0x18, "SetState(ptr KeyToggleState)")
    def set_state(self, cpu: Cpu, toggle_state: int) -> int:
        """Scroll, Num and Caps Lock as the guest wants them shown (12.2.4)."""
        if not toggle_state:
            return Status.INVALID_PARAMETER
        value = self.firmware.memory.read_u8(toggle_state)
        if not value & TOGGLE_STATE_VALID or value & ~(TOGGLE_STATE_VALID | KEY_STATE_EXPOSED | TOGGLES):
            return Status.UNSUPPORTED
        self._keyboard.toggle_state = value
        return Status.SUCCESS

    @function(0x20, "RegisterKeyNotify(ptr KeyData, ptr KeyNotificationFunction, ptr NotifyHandle)")
    def register_key_notify(self, cpu: Cpu, key_data: int, notify: int, handle: int) -> int:
        """Have a function called when the key is pressed; a state of 0 means any (12.2.5)."""
        if not key_data or not notify or not handle:
            return Status.INVALID_PARAMETER
        scan_code, character, shift, toggle = _KEY_DATA.unpack(self.firmware.memory.read(key_data, _KEY_DATA.size))
        wanted = (scan_code, character, shift, toggle, notify)
        known = next((event for event, other in self._registered.items() if other == wanted), 0)
        if not known and len(self._registered) >= MAX_REGISTRATIONS:
            return Status.OUT_OF_RESOURCES
        event = known or self.firmware.events.create(EVT_NOTIFY_SIGNAL, TPL_CALLBACK, notify)
        self.firmware.memory.write_u64(handle, event)
        self._registered[event] = wanted
        if not self._look_event:
            self._start_looking()
        return Status.SUCCESS

    @function(0x28, "UnregisterKeyNotify(ptr NotificationHandle)")
    def unregister_key_notify(self, cpu: Cpu, handle: int) -> int:
        """End a registration (12.2.6)."""
        if self._registered.pop(handle, None) is None:
            return Status.INVALID_PARAMETER
        self.firmware.events.close(handle)
        if not self._registered:
            self.firmware.events.close(self._look_event)
            self._look_event = 0
        return Status.SUCCESS

    def _start_looking(self) -> None:
        """A program that runs without reading keys can still be interrupted by one."""
        events = self.firmware.events
        self._look_event = events.create_host(notify=self._look, tpl=TPL_CALLBACK)
        deadline = self.firmware.clock.now() + LOOK_INTERVAL
        events.set_timer(events.get(self._look_event), deadline, LOOK_INTERVAL)

    def _look(self) -> None:
        self._ready()

    def _key_arrived(self, key: Key) -> None:
        scan_code, character, shift, toggle = self._data(key)
        for event, (want_scan, want_character, want_shift, want_toggle, _) in list(self._registered.items()):
            same_key = want_scan == scan_code and want_character in (character, key.unicode_char)
            if same_key and want_shift in (0, shift) and want_toggle in (0, toggle):
                self._notify(event, scan_code, want_character, shift, toggle)

    def _notify(self, event: int, *data: int) -> None:
        try:
            self.firmware.events.get(event)
        except EfiError:
            # The guest closed the handle as if it were an event of its own.
            self._registered.pop(event, None)
            return
        # A notification function gets the event's address; the memory there is the EFI_KEY_DATA that its type wants.
        self.firmware.memory.write(event, _KEY_DATA.pack(*data))
        self.firmware.events.signal(event)
