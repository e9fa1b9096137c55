"""VMSA pages: the registers with which each processor of a guest starts (AMD64 APM volume 2, table B-4)."""

import struct
from collections.abc import Iterator
from hashlib import sha384

from sev.measure.errors import MeasureError
from sev.measure.launch_digest import PAGE_SIZE
from sev.measure.vmm import PAT_AT_RESET, QEMU, Vmm

RESET_VECTOR = 0xFFFF_FFF0
"""Where the first processor starts."""
MOST_PROCESSORS = 4096
"""KVM_MAX_VCPUS of an x86 host: nothing launches a guest with more."""

_SEGMENT = struct.Struct("<HHIQ")
_U64 = struct.Struct("<Q")
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "gdtr", "ldtr", "idtr", "tr")
_SEGMENT_OFFSETS = {name: 16 * index for index, name in enumerate(_SEGMENTS)}
_REGISTER_OFFSETS = {
    "efer": 0x0D0,
    "cr4": 0x148,
    "cr0": 0x158,
    "dr7": 0x160,
    "dr6": 0x168,
    "rflags": 0x170,
    "rip": 0x178,
    "g_pat": 0x268,
    "rdx": 0x310,
    "sev_features": 0x3B0,
    "xcr0": 0x3E8,
}
_MXCSR = 0x408
_X87_FCW = 0x410


def _page(segments: dict[str, tuple[int, int, int, int]], registers: dict[str, int], mxcsr: int, fcw: int) -> bytes:
    page = bytearray(PAGE_SIZE)
    for name, segment in segments.items():
        _SEGMENT.pack_into(page, _SEGMENT_OFFSETS[name], *segment)
    for name, value in registers.items():
        _U64.pack_into(page, _REGISTER_OFFSETS[name], value)
    struct.pack_into("<I", page, _MXCSR, mxcsr)
    struct.pack_into("<H", page, _X87_FCW, fcw)
    return bytes(page)


def _registers(entry: int, signature: int, guest_features: int) -> dict[str, int]:
    if not 0 <= guest_features < 1 << 64:
        raise MeasureError(f"guest features {guest_features:#x}: wanted 64 bits")
    if not 0 <= signature < 1 << 32:
        raise MeasureError(f"processor signature {signature:#x}: wanted 32 bits")
    return {
        "efer": 0x1000,  # KVM sets EFER.SVME
        "cr4": 0x40,  # KVM sets CR4.MCE
        "cr0": 0x10,
        "dr7": 0x400,
        "dr6": 0xFFFF_0FF0,
        "rflags": 0x2,
        "rip": entry,
        "g_pat": PAT_AT_RESET,
        "rdx": signature,
        "sev_features": guest_features,
        "xcr0": 0x1,
    }


def vmsa_page(entry: int, signature: int, guest_features: int, vmm: Vmm = QEMU) -> bytes:
    """The 4096 bytes of a processor that starts in real mode at the 32-bit address `entry`.

    `signature` is the processor's (32 bits), `guest_features` SEV_FEATURES (64 bits, 0 for SEV-ES).
    MeasureError for values of another size.
    """
    if not 0 <= entry < 1 << 32:
        raise MeasureError(f"entry address {entry:#x}: wanted 32 bits")
    registers = _registers(entry & 0xFFFF, signature, guest_features)
    registers["g_pat"] = vmm.g_pat
    if vmm.rdx is not None:
        registers["rdx"] = vmm.rdx
    cs_attributes = vmm.boot_cs_attributes if entry == RESET_VECTOR else vmm.cs_attributes
    data = (0, 0x93, 0xFFFF, 0)
    segments = {
        **dict.fromkeys(("es", "ds", "fs", "gs"), data),
        "cs": (0xF000, cs_attributes, 0xFFFF, entry & 0xFFFF_0000),
        "ss": (0, vmm.ss_attributes, 0xFFFF, 0),
        "gdtr": (0, 0, 0xFFFF, 0),
        "ldtr": (0, 0x82, 0xFFFF, 0),
        "idtr": (0, 0, 0xFFFF, 0),
        "tr": (0, vmm.tr_attributes, 0xFFFF, 0),
    }
    return _page(segments, registers, vmm.mxcsr, vmm.fcw)


def svsm_vmsa_page(entry: int, signature: int, guest_features: int) -> bytes:
    """The 4096 bytes of a processor that starts an SVSM under QEMU: protected mode with flat segments.

    FCW stays zero, unlike in `vmsa_page`: so does sev-snp-measure. MeasureError for values of another size.
    """
    if not 0 <= entry < 1 << 64:
        raise MeasureError(f"entry address {entry:#x}: wanted 64 bits")
    registers = _registers(entry, signature, guest_features) | {"cr0": 0x11}
    data = (0x10, 0xC93, 0xFFFF_FFFF, 0)
    segments = {
        **dict.fromkeys(("es", "ss", "ds", "fs"), data),
        "cs": (0x08, 0xC9B, 0xFFFF_FFFF, 0),
        "gs": (0, 0x93, 0xFFFF, 0),
        "gdtr": (0, 0, 0xFFFF, 0),
        "ldtr": (0, 0x82, 0xFFFF, 0),
        "idtr": (0, 0, 0xFFFF, 0),
        "tr": (0, 0x8B, 0xFFFF, 0),
    }
    return _page(segments, registers, QEMU.mxcsr, 0)


class Processors:
    """The processors of a guest: `boot` is the first one's page, `others` that of each other one."""

    __slots__ = ("boot", "count", "others")

    def __init__(self, count: int, boot: bytes, others: bytes) -> None:
        """MeasureError unless there are 1 to 4096."""
        if not 1 <= count <= MOST_PROCESSORS:
            raise MeasureError(f"{count} processors; wanted 1 to {MOST_PROCESSORS}")
        self.count = count
        self.boot = boot
        self.others = others

    def pages(self) -> Iterator[bytes]:
        """The VMSA page of each processor, in order."""
        yield self.boot
        for _ in range(1, self.count):
            yield self.others

    def hashes(self) -> Iterator[bytes]:
        """The SHA-384 of each processor's page, in order."""
        yield sha384(self.boot).digest()
        others = sha384(self.others).digest()
        for _ in range(1, self.count):
            yield others
