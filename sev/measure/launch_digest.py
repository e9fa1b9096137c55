"""LaunchDigest: the chain of PAGE_INFO hashes that the secure processor keeps while a guest is launched.

AMD 56860 "SEV Secure Nested Paging Firmware ABI", SNP_LAUNCH_UPDATE: section "Page Type", table "PAGE_INFO".
"""

import struct
from hashlib import sha384

from sev.measure.errors import MeasureError

PAGE_SIZE = 4096
DIGEST_SIZE = 48
INITIAL_DIGEST = bytes(DIGEST_SIZE)

PAGE_NORMAL = 1
PAGE_VMSA = 2
PAGE_ZERO = 3
PAGE_UNMEASURED = 4
PAGE_SECRETS = 5
PAGE_CPUID = 6
PAGE_TYPE_NAMES = {
    PAGE_NORMAL: "normal",
    PAGE_VMSA: "VMSA",
    PAGE_ZERO: "zero",
    PAGE_UNMEASURED: "unmeasured",
    PAGE_SECRETS: "secrets",
    PAGE_CPUID: "CPUID",
}

VMSA_GPA = 0xFFFF_FFFF_F000
"""Where KVM records every VMSA: -1, page aligned, without the bits above 51 of which 48 to 51 are zero too."""

_PAGE_INFO_SIZE = 0x70
_PAGE_INFO_TAIL = struct.Struct("<HBBIQ")
_NO_CONTENTS = bytes(DIGEST_SIZE)


def page_info_tail(page_type: int, gpa: int) -> bytes:
    """PAGE_INFO after the digest so far and the hash of the contents: 16 bytes."""
    return _PAGE_INFO_TAIL.pack(_PAGE_INFO_SIZE, page_type, 0, 0, gpa)


class LaunchDigest:
    """The digest of a launch so far. `value` is 48 bytes; updates take the pages in the order of the launch."""

    __slots__ = ("value",)

    def __init__(self, value: bytes = INITIAL_DIGEST) -> None:
        """Start a launch, or go on from the 48 bytes of another one. MeasureError for another length."""
        if len(value) != DIGEST_SIZE:
            raise MeasureError(f"a launch digest has {DIGEST_SIZE} bytes, not {len(value)}")
        self.value = value

    def copy(self) -> "LaunchDigest":
        """Another launch that has seen the same pages."""
        return LaunchDigest(self.value)

    def update(self, page_type: int, gpa: int, contents: bytes = _NO_CONTENTS) -> None:
        """Add one page by the SHA-384 of what it holds (48 bytes; zeros for types that are not measured)."""
        self.value = sha384(self.value + contents + page_info_tail(page_type, gpa)).digest()

    def normal_pages(self, gpa: int, data: bytes | memoryview) -> None:
        """Add pages with their contents; `gpa` is the first page's. MeasureError unless they are whole pages."""
        view = memoryview(data)
        whole_pages("contents", len(view))
        for offset in range(0, len(view), PAGE_SIZE):
            self.update(PAGE_NORMAL, gpa + offset, sha384(view[offset : offset + PAGE_SIZE]).digest())

    def pages_without_contents(self, page_type: int, gpa: int, size: int) -> None:
        """Add `size` bytes of zero, unmeasured, secrets or CPUID pages. MeasureError unless they are whole pages."""
        whole_pages(f"{PAGE_TYPE_NAMES[page_type]} pages", size)
        for offset in range(0, size, PAGE_SIZE):
            self.update(page_type, gpa + offset)

    def vmsa_page(self, contents: bytes, gpa: int = VMSA_GPA) -> None:
        """Add a processor by the SHA-384 of its VMSA page (48 bytes)."""
        self.update(PAGE_VMSA, gpa, contents)


def whole_pages(what: str, size: int) -> None:
    """MeasureError unless `size` bytes are whole 4096-byte pages."""
    if size % PAGE_SIZE:
        raise MeasureError(f"{what} of {size:#x} bytes; wanted a multiple of {PAGE_SIZE:#x}")
