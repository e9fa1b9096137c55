"""Launch digests of IGVM files: guest memory and registers as a list of directives.

The format is that of the crate igvm_defs (Independent Guest Virtual Machine file format); each structure is named here as
there. A file may serve several kinds of platform: a compatibility mask says which directives belong to which.
"""

import struct
import zlib
from collections.abc import Iterator
from hashlib import sha384
from typing import Any

from sev.measure.errors import MalformedIgvm
from sev.measure.igvm_id_block import STRUCTURE, IgvmIdBlock
from sev.measure.launch_digest import (
    PAGE_CPUID,
    PAGE_NORMAL,
    PAGE_SECRETS,
    PAGE_SIZE,
    PAGE_UNMEASURED,
    PAGE_ZERO,
    VMSA_GPA,
    LaunchDigest,
)

LARGEST_FILE = 1 << 30
"""Bytes; an IGVM file carries a firmware, and sometimes a kernel with its initial RAM disk."""

MAGIC = b"IGVM"
_FIXED_HEADER = struct.Struct("<4sIIIII")
_SECOND_VERSION = struct.Struct("<II")
_CHECKSUM_OFFSET = 20
_VARIABLE_HEADER = struct.Struct("<II")
_OPTIONAL = 1 << 31

_SUPPORTED_PLATFORM = 0x001
_GUEST_POLICY = 0x101
_PARAMETER_AREA = 0x301
_PAGE_DATA = 0x302
_PARAMETER_INSERT = 0x303
_VP_CONTEXT = 0x304
_SNP_ID_BLOCK = 0x30B
_STRUCTURES = {
    _SUPPORTED_PLATFORM: struct.Struct("<IBBHQ"),
    _GUEST_POLICY: struct.Struct("<QII"),
    _PARAMETER_AREA: struct.Struct("<QII"),
    _PAGE_DATA: struct.Struct("<QIIIHH"),
    _PARAMETER_INSERT: struct.Struct("<QII"),
    _VP_CONTEXT: struct.Struct("<QIIHH"),
    _SNP_ID_BLOCK: STRUCTURE,
}
_WITHOUT_EFFECT = {*range(0x102, 0x107), *range(0x305, 0x30B), *range(0x30C, 0x314)}
"""Relocation, CoRIM, required memory, parameters that a host fills in, error ranges, VBS: nothing of it is measured."""
_PLATFORM_SEV_SNP = 2

_FLAG_2_MIB = 1
_FLAG_UNMEASURED = 2
_FLAG_SHARED = 4
_TWO_MIB = 2 << 20
_DATA_NORMAL = 0
_DATA_SECRETS = 1
_DATA_CPUID = (2, 3)
_MOST_PAGES = 1 << 20
"""4 GiB, so that a hostile file cannot keep us hashing for hours."""
_ZERO_PAGE_HASH = sha384(bytes(PAGE_SIZE)).digest()


class Igvm:
    """An IGVM file as a SEV-SNP host reads it.

    `guest_policy` is the policy that it asks for, `id_block` its signed ID block; None if absent.
    """

    __slots__ = ("_directives", "data", "guest_policy", "id_block", "mask")

    def __init__(self, data: bytes) -> None:
        """Read the headers. MalformedIgvm if they are damaged, of an unknown type without being optional, or not for SEV-SNP."""
        if not _FIXED_HEADER.size <= len(data) <= LARGEST_FILE:
            raise MalformedIgvm(
                f"IGVM file of {len(data)} bytes; wanted {_FIXED_HEADER.size} to {LARGEST_FILE} (1 GiB)"
            )
        self.data = data
        self.guest_policy: int | None = None
        self.id_block: IgvmIdBlock | None = None
        headers = list(_variable_headers(data, *_fixed_header(data)))
        self.mask = _mask(headers)
        self._directives = headers
        for kind, fields in headers:
            if kind == _GUEST_POLICY and fields[1] & self.mask:
                self.guest_policy = fields[0]
            elif kind == _SNP_ID_BLOCK and fields[0] & self.mask:
                if self.id_block is not None:
                    raise MalformedIgvm("IGVM file has two ID blocks for SEV-SNP")
                self.id_block = IgvmIdBlock(fields)

    def launch_digest(self, native_zero: bool = False) -> bytes:
        """MEASUREMENT (48 bytes) of a guest started from this file.

        Parameter areas count as unmeasured pages, as the format says. A page without data counts as a normal one full of
        zeros, as the format says and QEMU and Hyper-V do; with `native_zero` as a zero page of the secure processor's, as
        igvmmeasure does for COCONUT-SVSM's target vanadium. MalformedIgvm for directives that refer to nothing.
        """
        digest = LaunchDigest()
        areas: dict[int, int] = {}
        pages = 0
        for kind, fields in self._directives:
            if kind == _PARAMETER_AREA:
                areas[fields[1]] = fields[0]
            elif kind in (_PAGE_DATA, _PARAMETER_INSERT, _VP_CONTEXT) and fields[1] & self.mask:
                if fields[0] % PAGE_SIZE or fields[0] >> 52:
                    raise MalformedIgvm(f"directive {kind:#x} for the address {fields[0]:#x}; wanted a page below 2^52")
                if kind == _PAGE_DATA:
                    pages += _page_data_size(*fields) // PAGE_SIZE
                elif kind == _PARAMETER_INSERT:
                    pages += _parameter_size(areas, fields[2]) // PAGE_SIZE
                if pages > _MOST_PAGES:
                    raise MalformedIgvm(f"IGVM file fills more than {_MOST_PAGES} pages (4 GiB)")
                if kind == _PAGE_DATA:
                    self._add_page_data(digest, native_zero, *fields)
                elif kind == _VP_CONTEXT:
                    digest.vmsa_page(sha384(self._contents(fields[2], PAGE_SIZE)).digest(), fields[0])
                else:
                    digest.pages_without_contents(PAGE_UNMEASURED, fields[0], areas.pop(fields[2]))
        return digest.value

    def _contents(self, offset: int, size: int) -> memoryview:
        if offset + size > len(self.data):
            raise MalformedIgvm(
                f"directive refers to {size:#x} bytes at offset {offset:#x} of a file of {len(self.data):#x} bytes"
            )
        return memoryview(self.data)[offset : offset + size]

    def kvm_differences(self) -> list[str]:
        """Why QEMU on KVM would measure another digest; empty if it would not.

        KVM measures the processors' states itself, last and at one fixed address, and starts only the first one from the file.
        """
        found = []
        own = [
            (kind, fields)
            for kind, fields in self._directives
            if kind in (_PAGE_DATA, _PARAMETER_INSERT, _VP_CONTEXT) and fields[1] & self.mask
        ]
        states = [(number, fields) for number, (kind, fields) in enumerate(own) if kind == _VP_CONTEXT]
        if len(states) > 1:
            found.append(f"it has the states of {len(states)} processors, and KVM takes that of the first")
        if any(fields[0] != VMSA_GPA for _, fields in states):
            found.append(f"it puts a processor's state elsewhere than at {VMSA_GPA:#x}, where KVM measures it")
        if states and states[0][0] < len(own) - len(states):
            found.append("it has pages after a processor's state, which KVM measures last")
        return found

    def page_counts(self) -> dict[str, int]:
        """How many pages of each kind the file fills, and how many processors' states it has."""
        counts = dict.fromkeys(("normal", "unmeasured", "secrets", "CPUID", "shared", "parameter", "VMSA"), 0)
        areas: dict[int, int] = {}
        for kind, fields in self._directives:
            if kind == _PARAMETER_AREA:
                areas[fields[1]] = fields[0]
            elif kind == _VP_CONTEXT and fields[1] & self.mask:
                counts["VMSA"] += 1
            elif kind == _PARAMETER_INSERT and fields[1] & self.mask:
                counts["parameter"] += areas.get(fields[2], 0) // PAGE_SIZE
            elif kind == _PAGE_DATA and fields[1] & self.mask:
                flags, data_type = fields[3], fields[4]
                pages = _TWO_MIB // PAGE_SIZE if flags & _FLAG_2_MIB else 1
                name = {_DATA_SECRETS: "secrets", 2: "CPUID", 3: "CPUID"}.get(data_type, "normal")
                if name == "normal" and flags & _FLAG_UNMEASURED:
                    name = "unmeasured"
                counts["shared" if flags & _FLAG_SHARED else name] += pages
        return counts

    def _add_page_data(
        self,
        digest: LaunchDigest,
        native_zero: bool,
        gpa: int,
        mask: int,
        offset: int,
        flags: int,
        kind: int,
        reserved: int,
    ) -> None:
        if flags & _FLAG_SHARED:
            return
        size = _page_data_size(gpa, mask, offset, flags, kind, reserved)
        if kind == _DATA_SECRETS:
            digest.pages_without_contents(PAGE_SECRETS, gpa, size)
        elif kind in _DATA_CPUID:
            digest.pages_without_contents(PAGE_CPUID, gpa, size)
        elif kind != _DATA_NORMAL:
            raise MalformedIgvm(f"page data for {gpa:#x} has type {kind}; wanted 0 to 3")
        elif flags & _FLAG_UNMEASURED:
            digest.pages_without_contents(PAGE_UNMEASURED, gpa, size)
        elif offset:
            digest.normal_pages(gpa, self._contents(offset, size))
        elif native_zero:
            digest.pages_without_contents(PAGE_ZERO, gpa, size)
        else:
            # A file offset of zero stands for zeros, which are measured like any other contents.
            for address in range(gpa, gpa + size, PAGE_SIZE):
                digest.update(PAGE_NORMAL, address, _ZERO_PAGE_HASH)


def _fixed_header(data: bytes) -> tuple[int, int]:
    magic, version, offset, size, total, checksum = _FIXED_HEADER.unpack_from(data)
    if magic != MAGIC:
        raise MalformedIgvm(f"IGVM file begins with {magic!r}; wanted {MAGIC!r}")
    if version not in (1, 2):
        raise MalformedIgvm(f"IGVM file has format version {version}; wanted 1 or 2")
    fixed = _FIXED_HEADER.size + (_SECOND_VERSION.size if version == 2 else 0)
    if offset % 8 or offset < fixed or offset + size > len(data):
        raise MalformedIgvm(f"variable headers at {offset:#x} with {size:#x} bytes in a file of {len(data):#x} bytes")
    if version == 2:
        architecture, page_size = _SECOND_VERSION.unpack_from(data, _FIXED_HEADER.size)
        if architecture != 0 or page_size != PAGE_SIZE:
            raise MalformedIgvm(
                f"IGVM file for architecture {architecture} with pages of {page_size} bytes; wanted 0 (x64) and {PAGE_SIZE}"
            )
    if total != len(data):
        raise MalformedIgvm(f"IGVM file says that it has {total} bytes; it has {len(data)}")
    crc = zlib.crc32(data[:_CHECKSUM_OFFSET] + bytes(4))
    crc = zlib.crc32(data[_CHECKSUM_OFFSET + 4 : offset + size], crc)
    if crc != checksum:
        raise MalformedIgvm(f"IGVM file has the checksum {checksum:#010x}; its headers give {crc:#010x}")
    return offset, offset + size


def _variable_headers(data: bytes, position: int, end: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    while position < end:
        if position + _VARIABLE_HEADER.size > end:
            raise MalformedIgvm(f"variable headers end with {end - position} bytes that are no header")
        kind, length = _VARIABLE_HEADER.unpack_from(data, position)
        position += _VARIABLE_HEADER.size
        if length > end - position:
            raise MalformedIgvm(f"header of type {kind:#x} has {length} bytes; only {end - position} are left")
        optional, kind = kind & _OPTIONAL, kind & ~_OPTIONAL
        structure = _STRUCTURES.get(kind)
        if structure is None and kind not in _WITHOUT_EFFECT and not optional:
            raise MalformedIgvm(f"header of the unknown type {kind:#x}, which is not marked as optional")
        if structure is not None:
            if length < structure.size:
                raise MalformedIgvm(f"header of type {kind:#x} has {length} bytes; wanted {structure.size}")
            yield kind, structure.unpack_from(data, position)
        position += (length + 7) & ~7


def _mask(headers: list[tuple[int, tuple[Any, ...]]]) -> int:
    platforms = [(fields[2], fields[0]) for kind, fields in headers if kind == _SUPPORTED_PLATFORM]
    for platform, mask in platforms:
        if platform == _PLATFORM_SEV_SNP:
            return int(mask)
    kinds = ", ".join(str(platform) for platform, _ in platforms) or "none"
    raise MalformedIgvm(f"IGVM file is for platforms of the types: {kinds}; wanted {_PLATFORM_SEV_SNP} (SEV-SNP)")


def _page_data_size(gpa: int, _mask: int, _offset: int, flags: int, _kind: int, _reserved: int) -> int:
    if flags & ~(_FLAG_2_MIB | _FLAG_UNMEASURED | _FLAG_SHARED):
        raise MalformedIgvm(f"page data for {gpa:#x} has flags {flags:#x}; wanted no others than 0x7")
    size = _TWO_MIB if flags & _FLAG_2_MIB else PAGE_SIZE
    if gpa % size:
        raise MalformedIgvm(f"page data of 2 MiB for {gpa:#x}; wanted a multiple of {_TWO_MIB:#x}")
    return size


def _parameter_size(areas: dict[int, int], index: int) -> int:
    size = areas.get(index)
    if size is None:
        raise MalformedIgvm(f"parameter area {index} is inserted, but not declared before, or inserted twice")
    if size % PAGE_SIZE:
        raise MalformedIgvm(f"parameter area {index} has {size:#x} bytes; wanted whole pages")
    return size
