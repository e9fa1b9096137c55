"""The image and the disks of a run: opened once, so that what a guest has written is still there after a reset."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from images.disk import Disk
    from images.memory_folder import MemoryFolder
    from machine.net.pcap import Capture


class Media:
    """What outlives the machines of one run, as a disk outlives a reset of the computer that it is in."""

    def __init__(self) -> None:
        self._disks: dict[Path, Disk] = {}
        self._folders: dict[Path, MemoryFolder] = {}
        self._images: dict[Path, bytes | memoryview] = {}
        self._capture: Capture | None = None
        self.mac: bytes | None = None
        """The network device's random address."""

    def image(self, source: Path, read: "Callable[[], bytes | memoryview]") -> bytes | memoryview:
        """The bytes of the image `source`, which `read` reads at the first request."""
        data = self._images.get(source)
        if data is None:
            data = self._images[source] = read()
        return data

    def known_image(self, source: Path) -> bytes | memoryview | None:
        """The bytes of the image `source` if they were read already."""
        return self._images.get(source)

    def freeze(self) -> dict[str, Any]:
        """What a snapshot keeps: disks and volumes by name, with what the guest wrote."""
        return {
            "disks": {str(path): disk for path, disk in self._disks.items()},
            "folders": {str(path): folder for path, folder in self._folders.items()},
            "mac": self.mac,
        }

    def thaw(self, state: dict[str, Any]) -> None:
        """Have what `freeze` gave."""
        self._disks = {Path(path): disk for path, disk in state["disks"].items()}
        self._folders = {Path(path): folder for path, folder in state["folders"].items()}
        self.mac = state["mac"]

    def disks(self) -> "dict[Path, Disk]":
        """Every disk by the path that it came from."""
        return dict(self._disks)

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
        for data in self._images.values():
            if isinstance(data, memoryview):
                with contextlib.suppress(BufferError):
                    data.release()  # whoever still holds it: the file goes with it
        self._images.clear()
