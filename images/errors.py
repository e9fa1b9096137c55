"""The errors of the package: one tree, each message one line that names the value seen and the value wanted."""


class ImageError(Exception):
    """Anything that images refuses or cannot do."""


class DeviceFailure(ImageError):
    """A block device or host file did not give or take the bytes asked for (EFI_DEVICE_ERROR)."""


class OutputExists(ImageError):
    """The file to be written is there already, and nobody said that it may be overwritten."""


class UnfitInput(ImageError):
    """What an image was to be made of cannot be used: no EFI image, the wrong machine, too large, a name taken twice."""


class UnsupportedFormat(ImageError):
    """The file is a disk image, but of a format that is not read here; the message says how to convert it."""


class ContainerError(ImageError):
    """The file that a disk lies in (VMDK, VHD, qcow2, tar.gz) contradicts itself or is cut off."""


class PartitionError(ImageError):
    """A partition table that is not valid."""


class FileSystemError(ImageError):
    """What an operation on a file system reports; each subclass is one EFI_STATUS (UEFI 2.10, 13.5)."""


class NotFound(FileSystemError):
    """No such file or directory (EFI_NOT_FOUND)."""


class AccessDenied(FileSystemError):
    """The file, its attributes or the way it was opened forbid it (EFI_ACCESS_DENIED)."""


class DirectoryNotEmpty(AccessDenied):
    """A directory that still has entries cannot be deleted (EFI_WARN_DELETE_FAILURE from Delete())."""


class WriteProtected(FileSystemError):
    """The volume or device is read-only (EFI_WRITE_PROTECTED)."""


class VolumeFull(FileSystemError):
    """No room is left (EFI_VOLUME_FULL)."""


class NotADirectory(FileSystemError):
    """A directory was wanted (EFI_NOT_FOUND in a path, EFI_INVALID_PARAMETER elsewhere)."""


class IsADirectory(FileSystemError):
    """A file was wanted (EFI_UNSUPPORTED)."""


class InvalidName(FileSystemError):
    """A name that no file may have, or a path that leaves the root (EFI_INVALID_PARAMETER)."""


class VolumeCorrupted(FileSystemError):
    """The structures of the volume contradict themselves (EFI_VOLUME_CORRUPTED)."""


class FatError(VolumeCorrupted):
    """A FAT volume that is not one, or whose boot sector, table or directories are damaged."""
