"""The admin queue: a ring of 64-byte commands that the device executes when its doorbell is written.

A slot is {be32 opcode, be32 status, 56 bytes of command}; the device stores the status in the slot and then moves the
event counter. Linux and iPXE count commands in 32 bits, TamaGo modulo the number of slots: the counter answers with the
value that was written to the doorbell, whichever it was.
"""

import struct
from collections.abc import Callable
from typing import Any

from machine.devices.dma import Dma
from machine.devices.gvnic.errors import INVALID_ARGUMENT, PASSED, BrokenQueue, Refused
from machine.errors import BadAddress

SLOT = 64
DEFAULT_LENGTH = 4096

_OPCODE = struct.Struct(">I")
_HEADER = 8
_M32 = 0xFFFFFFFF


class AdminQueue:
    """`execute(opcode, command)` carries out one command: its 56 bytes; Refused or BadAddress if it cannot."""

    def __init__(self, dma: Dma, execute: Callable[[int, bytes], None]) -> None:
        self._dma = dma
        self._execute = execute
        self._doorbell = 0
        self.event_counter = 0
        self.last_problem = ""
        """Why the last command that failed was refused; for people."""

    @property
    def used(self) -> bool:
        """Whether the driver has given any command since the last reset."""
        return self._doorbell != 0 or self.event_counter != 0

    def ring(self, value: int) -> None:
        """The doorbell: commands up to `value` are there."""
        self._doorbell = value

    def clear(self) -> None:
        """As after a reset."""
        self._doorbell = self.event_counter = 0

    def run(self, base: int, length: int) -> None:
        """Execute what waits in the ring of `length` bytes at `base`, at most one command for each slot.

        BrokenQueue for a length that is no power of two of slots, BadAddress if the ring is not memory.
        """
        waiting = self._doorbell - self.event_counter & _M32
        if not waiting:
            return
        slots = length // SLOT
        if length % SLOT or not slots or slots & (slots - 1):
            raise BrokenQueue(f"admin queue of {length} bytes, wanted a power of two from {SLOT}")
        if waiting > slots:  # a driver that counts modulo the slots has gone round
            waiting &= slots - 1
        first, self.event_counter = self.event_counter, self._doorbell
        for number in range(first, first + waiting):
            at = base + number % slots * SLOT
            slot = self._dma.read(at, SLOT)
            status = self._status(_OPCODE.unpack_from(slot)[0], slot[_HEADER:])
            self._dma.write(at + 4, status.to_bytes(4, "big"))

    def _status(self, opcode: int, command: bytes) -> int:
        try:
            self._execute(opcode, command)
        except Refused as refusal:
            self.last_problem = f"command {opcode:#x}: {refusal}"
            return refusal.status
        except BadAddress as error:
            self.last_problem = f"command {opcode:#x}: {error}"
            return INVALID_ARGUMENT
        return PASSED

    def save(self) -> dict[str, Any]:
        """Plain data for `load`."""
        return {"doorbell": self._doorbell, "event_counter": self.event_counter}

    def load(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""
        self._doorbell = state["doorbell"]
        self.event_counter = state["event_counter"]
