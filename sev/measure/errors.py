"""What a measurement refuses: malformed firmware or IGVM files, and settings that give no digest."""

from sev.errors import SevError


class MeasureError(SevError):
    """A digest that cannot be computed; the message is one line with the value seen and the value wanted."""


class MalformedFirmware(MeasureError):
    """Bytes that are no OVMF image of the kind asked for."""


class MalformedIgvm(MeasureError):
    """Bytes that are no IGVM file for SEV-SNP."""


class MalformedIdBlock(MeasureError):
    """Bytes that are no ID block, or no ID authentication information structure."""
