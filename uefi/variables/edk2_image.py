"""Reads the variables of an OVMF_VARS.fd: a firmware volume with edk2's authenticated variable store.

The volume header is that of PI 1.8, volume 3, 3.2.1; the store is edk2's own format, unchanged since 2012.
"""

from struct import Struct

from uefi import guids
from uefi.guids import Guid, guid_name
from uefi.time import EfiTime
from uefi.variables.errors import VariableFileError
from uefi.variables.variable import Key, Variable

_VOLUME = Struct("<16s16sQ4sIHHHBB")
"""ZeroVector, FileSystemGuid, FvLength, Signature, Attributes, HeaderLength, Checksum, ExtHeaderOffset, -, Revision."""
_STORE = Struct("<16sIBBHI")
"""Signature, Size, Format, State, reserved."""
_VARIABLE = Struct("<HBBIQ16sIII16s")
"""StartId, State, reserved, Attributes, MonotonicCount, TimeStamp, PubKeyIndex, NameSize, DataSize, VendorGuid."""

_FORMATTED = 0x5A
_HEALTHY = 0xFE
_START_ID = 0x55AA
_ADDED = 0x3F
_ADDED_IN_TRANSITION = 0x3E
"""A variable whose successor was perhaps never completed."""


def is_image(data: bytes) -> bool:
    """Whether a firmware volume for variables begins somewhere in `data`."""
    return _find_volume(data) is not None


def parse(data: bytes) -> list[Variable]:
    """The valid variables, in the store's order; VariableFileError if the image is damaged or of another format."""
    volume = _find_volume(data)
    if volume is None:
        raise VariableFileError("no firmware volume for variables (_FVH with EFI_SYSTEM_NV_DATA_FV_GUID)")
    _, _, volume_size, _, _, header_size, *_ = _VOLUME.unpack_from(data, volume)
    start = volume + header_size
    if volume_size > len(data) - volume or header_size + _STORE.size > volume_size:
        raise VariableFileError(
            f"firmware volume of {volume_size:#x} bytes (header {header_size:#x}), {len(data) - volume:#x} are there"
        )
    signature, store_size, store_format, state, *_ = _STORE.unpack_from(data, start)
    if signature != guids.EDK2_AUTHENTICATED_VARIABLE:
        raise VariableFileError(f"variable store {guid_name(signature)}, wanted the authenticated one")
    if store_format != _FORMATTED or state != _HEALTHY:
        raise VariableFileError(f"variable store format {store_format:#x}, state {state:#x}, wanted 0x5a and 0xfe")
    if not _STORE.size <= store_size <= volume_size - header_size:
        raise VariableFileError(f"variable store of {store_size:#x} bytes in a volume of {volume_size:#x}")
    return _variables(data, start + _STORE.size, start + store_size)


def _variables(data: bytes, offset: int, end: int) -> list[Variable]:
    complete: dict[Key, Variable] = {}
    replaced: dict[Key, Variable] = {}
    while offset + _VARIABLE.size <= end:
        start_id, state, _, attributes, _, time, _, name_size, data_size, vendor = _VARIABLE.unpack_from(data, offset)
        if start_id != _START_ID:
            break
        name_end = offset + _VARIABLE.size + name_size
        if name_size + data_size > end - offset - _VARIABLE.size:
            # An interrupted write leaves sizes of all ones behind it; edk2 stops there, too.
            break
        if state in (_ADDED, _ADDED_IN_TRANSITION):
            raw_name = data[offset + _VARIABLE.size : name_end]
            variable = Variable(
                _name(raw_name, offset),
                Guid(vendor),
                attributes,
                bytes(data[name_end : name_end + data_size]),
                time=EfiTime.unpack(time),
            )
            (complete if state == _ADDED else replaced)[variable.key] = variable
        offset = (name_end + data_size + 3) & ~3
    return list((replaced | complete).values())


def _name(raw: bytes, offset: int) -> str:
    if len(raw) < 4 or len(raw) % 2 or raw[-2:] != b"\0\0":
        raise VariableFileError(f"variable at {offset:#x}: name of {len(raw)} bytes without a NUL at its end")
    name = raw[:-2].decode("utf-16-le", "surrogatepass")
    if "\0" in name:
        raise VariableFileError(f"variable at {offset:#x}: NUL inside its name {name[:40]!r}")
    return name


def _find_volume(data: bytes) -> int | None:
    """Offset of the first firmware volume header for variables."""
    offset = -1
    while (offset := data.find(guids.EDK2_SYSTEM_NV_DATA_FV, offset + 1)) >= 0:
        volume = offset - 16
        if volume >= 0 and data[volume + 40 : volume + 44] == b"_FVH" and len(data) - volume >= _VOLUME.size:
            return volume
    return None
