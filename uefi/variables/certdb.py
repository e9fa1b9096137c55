"""edk2's "certdb" variable: which signer each private authenticated variable belongs to.

In a file the signers stand there, as OVMF keeps them, so that a file may go to OVMF and back; in memory each variable
carries its own.
"""

from struct import Struct

from uefi import guids
from uefi.variables import attributes as attr
from uefi.variables.errors import VariableFileError
from uefi.variables.variable import Key, Variable

KEY = ("certdb", guids.EDK2_CERT_DB)

DIGEST_SIZE = 32

_ENTRY = Struct("<16sIII")
"""VendorGuid, bytes of the whole entry, CHAR16 units of the name (no NUL), bytes of the signer's digest."""


def parse(data: bytes) -> dict[Key, bytes]:
    """(name, vendor GUID) -> the signer's digest. VariableFileError if the entries do not fit `data`.

    Entries that hold whole certificates, as edk2 wrote them before 2017, are left out.
    """
    if len(data) < 4 or int.from_bytes(data[:4], "little") != len(data):
        raise VariableFileError(f"certdb says {data[:4].hex()} for its length of {len(data)} bytes")
    signers = {}
    offset = 4
    while offset < len(data):
        if len(data) - offset < _ENTRY.size:
            raise VariableFileError(f"certdb: {len(data) - offset} bytes left for an entry, wanted {_ENTRY.size}")
        raw_guid, entry_size, name_units, digest_size = _ENTRY.unpack_from(data, offset)
        if entry_size != _ENTRY.size + 2 * name_units + digest_size or entry_size > len(data) - offset:
            raise VariableFileError(f"certdb: entry at {offset:#x} of {entry_size:#x} bytes does not add up")
        name_end = offset + _ENTRY.size + 2 * name_units
        name = data[offset + _ENTRY.size : name_end].decode("utf-16-le", "surrogatepass")
        if digest_size == DIGEST_SIZE:
            signers[name, guids.Guid(raw_guid)] = bytes(data[name_end : name_end + digest_size])
        offset += entry_size
    return signers


def build(variables: list[Variable]) -> Variable:
    """The certdb variable for the private authenticated ones among `variables`."""
    out = bytearray(4)
    for each in variables:
        if each.signer_digest is not None:
            name = each.name.encode("utf-16-le", "surrogatepass")
            size = _ENTRY.size + len(name) + len(each.signer_digest)
            out += _ENTRY.pack(each.guid, size, len(name) // 2, len(each.signer_digest)) + name + each.signer_digest
    out[:4] = len(out).to_bytes(4, "little")
    return Variable(*KEY, attr.NV_BS_RT_AT, bytes(out))


def absorb(variables: list[Variable]) -> list[Variable]:
    """`variables` of a file without certdb, each with the signer that it had there."""
    certdb = next((each for each in variables if each.key == KEY), None)
    if certdb is None:
        return variables
    signers = parse(certdb.data)
    rest = [each for each in variables if each is not certdb]
    for each in rest:
        if each.attributes & attr.TIME_BASED_AUTHENTICATED_WRITE_ACCESS:
            each.signer_digest = signers.get(each.key)
    return rest
