"""What the launch leaves in guest memory: secrets page, CPUID page, and the blob by which UEFI guests find them.

AMD 56860, tables "Secrets Page" and "CPUID Page"; confidential computing blob as in OVMF (GUID 067b1f5f-cf26-44c5-8554-...).
Addresses are OVMF's, in the 2 MiB page at 8 MiB.
"""

import struct
from collections.abc import Callable

PAGE_SIZE = 4096
SECRETS_PAGE = 0x80D000
CPUID_PAGE = 0x80E000
FIRST_GHCB = 0x820000
"""GHCB pages, one for each CPU, from here on."""

SECRETS_VERSION = 4
"""The version with LAUNCH_MIT_VECTOR, the only one that TamaGo accepts."""

CC_BLOB_GUID = "067b1f5f-cf26-44c5-8554-93d777912d42"
_CC_BLOB_MAGIC = 0x45444D41
_CC_BLOB_VERSION = 1

_SECRETS = struct.Struct("<IIII16s32s32s32s32s96s64s32sIIQ")
_BLOB = struct.Struct("<IHHQIIQII")
_CPUID_ENTRY = struct.Struct("<IIQQIIIIQ")
MOST_CPUID_ENTRIES = 64
_SUBLEAVES = {0x0B: 2, 0x0D: 2, 0x8000_001D: 4}
_XCR0_X87_SSE = 3


def secrets_page(signature: int, vmpcks: list[bytes], tsc_factor: int, mitigation_vector: int) -> bytes:
    """4096 bytes: `signature` is CPUID Fn1 EAX, `vmpcks` are four keys of 32 bytes (zeros for one that is not the guest's)."""
    fields = _SECRETS.pack(
        *(SECRETS_VERSION, 0, signature, 0, bytes(16), *vmpcks, bytes(96), bytes(64), bytes(32)),
        *(tsc_factor, 0, mitigation_vector),
    )
    return fields.ljust(PAGE_SIZE, b"\0")


def cpuid_page(leaves: list[int], cpuid: Callable[[int, int], tuple[int, int, int, int]]) -> bytes:
    """4096 bytes: COUNT and an entry for each leaf and subleaf, answered by `cpuid(leaf, subleaf)`; at most 64."""
    entries = []
    for leaf in leaves:
        for subleaf in range(_SUBLEAVES.get(leaf, 1)):
            xcr0 = _XCR0_X87_SSE if leaf == 0x0D else 0
            entries.append(_CPUID_ENTRY.pack(leaf, subleaf, xcr0, 0, *cpuid(leaf, subleaf), 0))
    entries = entries[:MOST_CPUID_ENTRIES]
    head = len(entries).to_bytes(16, "little")
    return (head + b"".join(entries)).ljust(PAGE_SIZE, b"\0")


def cc_blob(secrets: int = SECRETS_PAGE, cpuid: int = CPUID_PAGE) -> bytes:
    """The configuration table's 40 bytes, for pages at these guest physical addresses."""
    return _BLOB.pack(_CC_BLOB_MAGIC, _CC_BLOB_VERSION, 0, secrets, PAGE_SIZE, 0, cpuid, PAGE_SIZE, 0)
