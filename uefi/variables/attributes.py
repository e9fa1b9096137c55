"""Attribute bits of variables, and which combinations a caller may ask for (UEFI 2.10, 8.2)."""

from uefi.status import EfiError, Status

NON_VOLATILE = 0x01
BOOTSERVICE_ACCESS = 0x02
RUNTIME_ACCESS = 0x04
HARDWARE_ERROR_RECORD = 0x08
AUTHENTICATED_WRITE_ACCESS = 0x10
"""Deprecated by the specification, and not supported."""
TIME_BASED_AUTHENTICATED_WRITE_ACCESS = 0x20
APPEND_WRITE = 0x40
ENHANCED_AUTHENTICATED_ACCESS = 0x80

ACCESS = BOOTSERVICE_ACCESS | RUNTIME_ACCESS
NV_BS = NON_VOLATILE | BOOTSERVICE_ACCESS
BS_RT = BOOTSERVICE_ACCESS | RUNTIME_ACCESS
NV_BS_RT = NON_VOLATILE | BS_RT
NV_BS_RT_AT = NV_BS_RT | TIME_BASED_AUTHENTICATED_WRITE_ACCESS

_KNOWN = 0xFF
_NAMES = ("NV", "BS", "RT", "HR", "AW", "AT", "APPEND", "EA")


def text(attributes: int) -> str:
    """Short form for messages, such as "NV|BS|RT (0x7)"."""
    names = "|".join(name for bit, name in enumerate(_NAMES) if attributes >> bit & 1) or "none"
    return f"{names} ({attributes:#x})"


def check(attributes: int) -> None:
    """EfiError for a combination that neither SetVariable nor QueryVariableInfo takes (UEFI 2.10, 8.2).

    UNSUPPORTED for the deprecated and the enhanced authentication; INVALID_PARAMETER for unknown bits, RT without BS,
    NV alone (as edk2), and a hardware error record that is not NV|BS|RT.
    """
    if attributes & ~_KNOWN:
        raise EfiError(Status.INVALID_PARAMETER, f"unknown attribute bits {attributes & ~_KNOWN:#x}")
    if attributes & (AUTHENTICATED_WRITE_ACCESS | ENHANCED_AUTHENTICATED_ACCESS):
        raise EfiError(Status.UNSUPPORTED, f"attributes {text(attributes)}")
    if attributes & ACCESS == RUNTIME_ACCESS:
        raise EfiError(Status.INVALID_PARAMETER, f"attributes {text(attributes)}: RT needs BS")
    if attributes == NON_VOLATILE:
        raise EfiError(Status.INVALID_PARAMETER, f"attributes {text(attributes)}: NV needs an access bit")
    if attributes & HARDWARE_ERROR_RECORD and attributes & NV_BS_RT != NV_BS_RT:
        raise EfiError(Status.INVALID_PARAMETER, f"attributes {text(attributes)}: HR needs NV|BS|RT")
