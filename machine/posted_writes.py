"""Posted writes: what a device offers to an engine for which each trap is dear.

A write is posted when whoever makes it goes on before it has arrived (PCI Local Bus Specification 3.0, 3.2.5). Here the bytes
of a serial port's transmitter are collected where the guest runs, and arrive together; until then its line status register
has no other value than that of an empty transmitter.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from machine.cpu import Cpu


class PostedWrites:
    """A port whose bytes may be posted, and the port that says whether it takes another one."""

    __slots__ = ("allowed", "data_port", "ready", "status_port", "write")

    def __init__(
        self,
        data_port: int,
        status_port: int,
        ready: int,
        allowed: Callable[[], bool],
        write: "Callable[[Cpu, bytes], None]",
    ) -> None:
        """While `allowed()`: a byte written to `data_port` has no effect but that `write` hands it on, and a byte read from
        `status_port` is `ready`, without an effect. It stays so until the guest traps, or `Engine.kick` is called.

        `allowed` changes nothing. What has been posted is written before anything else that the guest does is looked at.
        """
        self.data_port = data_port
        self.status_port = status_port
        self.ready = ready
        self.allowed = allowed
        self.write = write
