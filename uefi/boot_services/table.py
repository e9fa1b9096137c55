"""What the chapters of EFI_BOOT_SERVICES share."""

from uefi.interface import Interface
from uefi.status import EfiError, Status


class BootServicesPart(Interface):
    """A part of the boot services table: no This pointer, boot services memory."""

    NAME = "EFI_BOOT_SERVICES"
    STATIC = True


def need(*values: object) -> None:
    """EfiError(INVALID_PARAMETER) if one of the pointers is NULL."""
    if not all(values):
        raise EfiError(Status.INVALID_PARAMETER)
