"""EFI_SIGNATURE_LIST: the format of PK, KEK, db, dbx, dbt, dbr and shim's MokList (UEFI 2.10, 32.4.1)."""

from collections.abc import Iterable, Iterator
from struct import Struct

from uefi import guids
from uefi.guids import Guid, guid_name
from uefi.security.errors import SignatureListError

_HEADER = Struct("<16sIII")
"""SignatureType, SignatureListSize, SignatureHeaderSize, SignatureSize."""

_OWNER_SIZE = 16

DATA_SIZES: dict[bytes, int | None] = {
    guids.CERT_SHA256: 32,
    guids.CERT_RSA2048: 256,
    guids.CERT_RSA2048_SHA256: 256,
    guids.CERT_SHA1: 20,
    guids.CERT_RSA2048_SHA1: 256,
    guids.CERT_X509: None,
    guids.CERT_SHA224: 28,
    guids.CERT_SHA384: 48,
    guids.CERT_SHA512: 64,
    guids.CERT_X509_SHA256: 32 + 16,
    guids.CERT_X509_SHA384: 48 + 16,
    guids.CERT_X509_SHA512: 64 + 16,
    guids.CERT_EXTERNAL_MANAGEMENT: 1,
}
"""Bytes of SignatureData, the owner not counted, by SignatureType; None where it varies (UEFI 2.10, 32.4.1)."""


class Signature:
    """An EFI_SIGNATURE_DATA: whose it is, and a hash, key or DER certificate according to its list's type."""

    __slots__ = ("data", "owner")

    def __init__(self, owner: Guid, data: bytes) -> None:
        self.owner = owner
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and (self.owner, self.data) == (other.owner, other.data)

    def __hash__(self) -> int:
        return hash((self.owner, self.data))

    def __repr__(self) -> str:
        return f"<Signature owner {self.owner}, {len(self.data)} bytes>"


class SignatureList:
    """An EFI_SIGNATURE_LIST: signatures of one type and one size, behind a header that no type uses so far."""

    __slots__ = ("header", "signatures", "type")

    def __init__(self, kind: Guid, signatures: list[Signature], header: bytes = b"") -> None:
        self.type = kind
        self.signatures = signatures
        self.header = header

    def __repr__(self) -> str:
        return f"<SignatureList {guid_name(self.type)}, {len(self.signatures)} signatures>"


def parse(data: bytes) -> list[SignatureList]:
    """All lists in `data` (a variable's value); no bytes are no lists. SignatureListError names what is wrong where.

    Types that this file does not know are kept as they are (`check` refuses them).
    """
    lists = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise SignatureListError(
                f"signature list at {offset:#x}: {len(data) - offset} bytes left, a header needs {_HEADER.size}"
            )
        raw_type, list_size, header_size, signature_size = _HEADER.unpack_from(data, offset)
        if not _HEADER.size <= list_size <= len(data) - offset:
            raise SignatureListError(
                f"signature list at {offset:#x}: SignatureListSize {list_size:#x}, {len(data) - offset:#x} are left"
            )
        room = list_size - _HEADER.size - header_size
        if room < 0:
            raise SignatureListError(
                f"signature list at {offset:#x}: SignatureHeaderSize {header_size:#x} exceeds the list's {list_size:#x}"
            )
        if signature_size < _OWNER_SIZE or room % signature_size:
            raise SignatureListError(
                f"signature list at {offset:#x}: SignatureSize {signature_size:#x} does not divide {room:#x} bytes"
            )
        start = offset + _HEADER.size
        header = data[start : start + header_size]
        first = start + header_size
        signatures = [
            Signature(Guid(data[at : at + _OWNER_SIZE]), bytes(data[at + _OWNER_SIZE : at + signature_size]))
            for at in range(first, first + room, signature_size)
        ]
        lists.append(SignatureList(Guid(raw_type), signatures, bytes(header)))
        offset += list_size
    return lists


def build(lists: Iterable[SignatureList]) -> bytes:
    """The bytes of `lists`, one behind the other; SignatureListError if one list's signatures differ in size."""
    out = bytearray()
    for signature_list in lists:
        sizes = {len(signature.data) for signature in signature_list.signatures}
        if len(sizes) > 1:
            raise SignatureListError(f"one signature list holds signatures of one size, not of {sorted(sizes)} bytes")
        size = _OWNER_SIZE + (sizes.pop() if sizes else DATA_SIZES.get(signature_list.type) or 0)
        total = _HEADER.size + len(signature_list.header) + size * len(signature_list.signatures)
        out += _HEADER.pack(signature_list.type, total, len(signature_list.header), size) + signature_list.header
        for signature in signature_list.signatures:
            out += signature.owner + signature.data
    return bytes(out)


def check(data: bytes, *, most: int | None = None) -> list[SignatureList]:
    """`parse`, and refuse what a Secure Boot variable may not hold; SignatureListError names it.

    That is a type outside DATA_SIZES, a wrong size for the type, a header (no type has one), or more than `most`
    signatures in all (1 for PK: UEFI 2.10, 32.3). Certificates are not looked into.
    """
    lists = parse(data)
    for signature_list in lists:
        if signature_list.type not in DATA_SIZES:
            raise SignatureListError(f"signature type {guid_name(signature_list.type)} is not supported")
        if signature_list.header:
            raise SignatureListError(
                f"{guid_name(signature_list.type)} list has a header of {len(signature_list.header)} bytes, wanted none"
            )
        wanted = DATA_SIZES[signature_list.type]
        for signature in signature_list.signatures:
            if wanted is not None and len(signature.data) != wanted:
                raise SignatureListError(
                    f"{guid_name(signature_list.type)} signature has {len(signature.data)} bytes, wanted {wanted}"
                )
    count = sum(len(signature_list.signatures) for signature_list in lists)
    if most is not None and count > most:
        raise SignatureListError(f"{count} signatures, at most {most} may be in this variable")
    return lists


def without_known(existing: bytes, addition: bytes) -> bytes:
    """The part of `addition` that an append has to add: no EFI_SIGNATURE_DATA that `existing` already has.

    UEFI 2.10, 8.2: the same type, owner and data are the same; a duplicate is no error. Repetitions inside `addition`
    are dropped too. SignatureListError if either is malformed.
    """
    known = {(each.type, signature) for each in parse(existing) for signature in each.signatures}
    fresh = []
    for signature_list in parse(addition):
        new = []
        for signature in signature_list.signatures:
            if (signature_list.type, signature) not in known:
                known.add((signature_list.type, signature))
                new.append(signature)
        if new:
            fresh.append(SignatureList(signature_list.type, new, signature_list.header))
    return build(fresh)


def of_type(lists: Iterable[SignatureList], kind: bytes) -> Iterator[bytes]:
    """SignatureData of every signature of the given type, in order."""
    for signature_list in lists:
        if signature_list.type == kind:
            for signature in signature_list.signatures:
                yield signature.data
