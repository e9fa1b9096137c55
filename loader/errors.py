"""The errors of the loader package: one tree, every message one line."""


class LoaderError(Exception):
    """A file cannot be loaded; the message names the value seen and the value wanted."""


class NotPeError(LoaderError):
    """The file is no PE image at all (empty, ELF, a disk image, ...). UEFI: EFI_UNSUPPORTED."""


class UnsupportedImageError(LoaderError):
    """A PE image, but not for an x86-64 UEFI firmware (32-bit, ARM64, a Windows program). UEFI: EFI_UNSUPPORTED."""


class DamagedImageError(LoaderError):
    """A PE image for us whose headers, sections or tables contradict themselves or the file. UEFI: EFI_LOAD_ERROR."""


class BaseTakenError(LoaderError):
    """The image has no relocations and cannot lie where it was asked to. UEFI: EFI_LOAD_ERROR."""


class SigningError(LoaderError):
    """A key or certificate that an image cannot be signed with; the message never has anything of the key in it."""


class NotElfError(LoaderError):
    """The file is no ELF program."""
