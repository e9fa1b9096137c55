"""The disks of a run: opened once, so that what a guest has written is still there after a reset."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from images.disk import Disk
    from images.memory_folder import MemoryFolder
    from machine.net.pcap import Capture


class Media:
    """What outlives the machines of one run, as a disk outlives a reset of the computer that it is in."""

    def __init__(self) -> None:
        self._disks: dict[Path, Disk] = {}
        self._folders: dict[Path, MemoryFolder] = {}
        self._capture: Capture | None = None
        self.mac: bytes | None = None
        """The network device's random address."""

    def disk(self, source: Path, make: "Callable[[], Disk]") -> "Disk":
        """The disk behind `source`, which `make` opens at the first request."""
        disk = self._disks.get(source)
        if disk is None:
            disk = self._disks[source] = make()
        return disk

    def folder(self, source: Path, make: "Callable[[], MemoryFolder]") -> "MemoryFolder":
        """The volume in memory that was made for the image `source`."""
        folder = self._folders.get(source)
        if folder is None:
            folder = self._folders[source] = make()
        return folder

    def capture(self, make: "Callable[[], Capture]") -> "Capture":
        """The file of captured frames."""
        if self._capture is None:
            self._capture = make()
        return self._capture

    def close(self) -> None:
        """Close the files behind the disks."""
        for disk in self._disks.values():
            disk.close()
        if self._capture is not None:
            self._capture.close()
        self._disks.clear()
        self._folders.clear()
