"""What the chapters of EFI_RUNTIME_SERVICES share."""

from uefi import memory_types as mt
from uefi.interface import Interface


class RuntimeServicesPart(Interface):
    """A part of the runtime services table: no This pointer, runtime memory."""

    NAME = "EFI_RUNTIME_SERVICES"
    STATIC = True
    MEMORY_TYPE = mt.RUNTIME_DATA
