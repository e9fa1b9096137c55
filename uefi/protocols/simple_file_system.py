"""EFI_SIMPLE_FILE_SYSTEM_PROTOCOL: a volume of the package `images` as the guest sees it."""

from typing import TYPE_CHECKING

from images import errors
from images.tree import FileSystem
from machine.cpu import Cpu
from uefi import guids
from uefi.interface import Interface, function
from uefi.status import EfiError, Status

if TYPE_CHECKING:
    from uefi.firmware import Firmware

_CHUNK = 1 << 20
_STATUS_OF: tuple[tuple[type[errors.ImageError], int], ...] = (
    (errors.NotFound, Status.NOT_FOUND),
    (errors.AccessDenied, Status.ACCESS_DENIED),
    (errors.WriteProtected, Status.WRITE_PROTECTED),
    (errors.VolumeFull, Status.VOLUME_FULL),
    (errors.NotADirectory, Status.NOT_FOUND),
    (errors.IsADirectory, Status.UNSUPPORTED),
    (errors.InvalidName, Status.INVALID_PARAMETER),
    (errors.VolumeCorrupted, Status.VOLUME_CORRUPTED),
    (errors.DeviceFailure, Status.DEVICE_ERROR),
)


def status_of(error: errors.ImageError) -> int:
    """The EFI_STATUS that EFI_FILE_PROTOCOL has for an error of `images` (UEFI 2.10, 13.5)."""
    return next((status for kind, status in _STATUS_OF if isinstance(error, kind)), Status.DEVICE_ERROR)


class SimpleFileSystem(Interface):
    """EFI_SIMPLE_FILE_SYSTEM_PROTOCOL (UEFI 2.10, 13.4)."""

    NAME = "EFI_SIMPLE_FILE_SYSTEM_PROTOCOL"
    GUID = guids.SIMPLE_FILE_SYSTEM_PROTOCOL
    SIZE = 0x10
    REVISION = 0x0001_0000

    def __init__(self, firmware: "Firmware", volume: FileSystem) -> None:
        super().__init__(firmware)
        self.volume = volume

    def fill(self) -> None:
        """Revision."""
        self.put_u64(0, self.REVISION)

    @function(0x08, "OpenVolume(ptr Root)")
    def open_volume(self, cpu: Cpu, root_at: int) -> int:
        """The root directory."""
        from uefi.protocols.file import File

        if not root_at:
            raise EfiError(Status.INVALID_PARAMETER)
        memory = self.firmware.memory
        memory.check(root_at, 8)
        try:
            file = File(self.firmware, self.volume, self.volume.root())
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
        memory.write_u64(root_at, file.place())
        return Status.SUCCESS

    def load(self, name: str) -> bytes:
        """A whole file, for LoadImage. EfiError as EFI_FILE_PROTOCOL has it."""
        try:
            file = self.volume.root().open("\\" + name.lstrip("\\"))
            if file.is_dir:
                raise EfiError(Status.NOT_FOUND)
            size = file.info().size
            parts: list[bytes] = []
            offset = 0
            while offset < size:
                data = file.read(offset, min(_CHUNK, size - offset))
                if not data:
                    break
                parts.append(data)
                offset += len(data)
            return b"".join(parts)
        except errors.ImageError as error:
            raise EfiError(status_of(error)) from None
