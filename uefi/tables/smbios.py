"""SMBIOS 3 tables as bytes: entry point and structures that describe the machine (DMTF DSP0134 3.4)."""

import struct

ENTRY_POINT_SIZE = 24
MAJOR, MINOR = 3, 4

_NO_HANDLE = 0xFFFF
_NO_ERROR_INFORMATION = 0xFFFE
_MIB = 1 << 20

# Handles: the structure's type in the high byte, its number in the low one.
_BIOS, _SYSTEM, _CHASSIS, _PROCESSOR = 0x0000, 0x0100, 0x0300, 0x0400
_MEMORY_ARRAY, _MEMORY_DEVICE, _MAPPED, _BOOT, _END = 0x1000, 0x1100, 0x1300, 0x2000, 0x7F00

# The sizes from which a memory size or address needs its extended field (7.17.1, 7.18.5, 7.20.1).
_ARRAY_EXTENDED_KIB = 0x80000000
_DEVICE_EXTENDED_MIB = 0x7FFF
_MAPPED_EXTENDED_KIB = 0xFFFFFFFF


class SmbiosSettings:
    """What the structures tell of the machine. `ram` is a list of (first byte, size in bytes) ranges."""

    def __init__(
        self,
        *,
        ram: list[tuple[int, int]],
        cpus: int = 1,
        uuid: bytes = bytes(16),
        processor_manufacturer: str = "AMD",
        processor_version: str = "",
        processor_id: int = 0,
        speed_mhz: int = 2000,
        firmware_version: str = "0.1",
        serial: str = "",
    ) -> None:
        """`uuid` lies in memory order; `processor_id` is EDX:EAX of CPUID leaf 1."""
        self.ram = ram
        self.cpus = cpus
        self.uuid = uuid
        self.processor_manufacturer = processor_manufacturer
        self.processor_version = processor_version
        self.processor_id = processor_id
        self.speed_mhz = speed_mhz
        self.firmware_version = firmware_version
        self.serial = serial


def entry_point(table_address: int, table_size: int) -> bytes:
    """The 64-bit entry point (5.2.2); `table_size` is the structures' size in bytes."""
    raw = struct.pack("<5sBBBBBBBIQ", b"_SM3_", 0, ENTRY_POINT_SIZE, MAJOR, MINOR, 0, 1, 0, table_size, table_address)
    return raw[:5] + bytes((-sum(raw) & 0xFF,)) + raw[6:]


def structures(settings: SmbiosSettings) -> bytes:
    """All structures in a row, the end-of-table one last."""
    parts = [_firmware(settings), _system(settings), _chassis(), _processor(settings)]
    parts += _memory(settings)
    parts.append(_structure(32, _BOOT, bytes(7)))
    parts.append(_structure(127, _END, b""))
    return b"".join(parts)


class _Strings:
    """The strings behind a structure's fixed part; fields refer to them by number, 0 for none (6.1.3)."""

    def __init__(self) -> None:
        self._texts: list[bytes] = []

    def __call__(self, text: str) -> int:
        if not text:
            return 0
        self._texts.append(text.encode("ascii", "replace").replace(b"\0", b"?"))
        return len(self._texts)

    def to_bytes(self) -> bytes:
        return b"".join(text + b"\0" for text in self._texts) + (b"\0" if self._texts else b"\0\0")


def _structure(kind: int, handle: int, body: bytes, strings: _Strings | None = None) -> bytes:
    header = struct.pack("<BBH", kind, 4 + len(body), handle)
    return header + body + (strings or _Strings()).to_bytes()


def _firmware(settings: SmbiosSettings) -> bytes:
    """Type 0 (7.1): PCI is supported, this is UEFI, this is a virtual machine."""
    text = _Strings()
    body = struct.pack(
        "<BBHBBQBBBBBBH",
        *(text("cvmboot"), text(settings.firmware_version), 0, text("01/01/2026"), 0),
        *(1 << 7, 0, 0x18, 0, 0, 0xFF, 0xFF, 0),
    )
    return _structure(0, _BIOS, body, text)


def _system(settings: SmbiosSettings) -> bytes:
    """Type 1 (7.2)."""
    text = _Strings()
    body = bytes(
        (text("cvmboot"), text("UEFI virtual machine"), text(settings.firmware_version), text(settings.serial))
    )
    body += settings.uuid + bytes((6, 0, text("Virtual machine")))
    return _structure(1, _SYSTEM, body, text)


def _chassis() -> bytes:
    """Type 3 (7.4): "other", all states safe."""
    text = _Strings()
    body = struct.pack("<9BIBBBBB", text("cvmboot"), 1, 0, 0, 0, 3, 3, 3, 2, 0, 0, 0, 0, 0, 0)
    return _structure(3, _CHASSIS, body, text)


def _processor(settings: SmbiosSettings) -> bytes:
    """Type 4 (7.5): one socket that holds all processors, each a core of one thread."""
    text = _Strings()
    cores = min(settings.cpus, 0xFF)
    body = struct.pack("<BBBB", text("CPU 0"), 3, 1, text(settings.processor_manufacturer))
    body += struct.pack(
        "<QBBHHH", settings.processor_id, text(settings.processor_version), 0, 0, *[settings.speed_mhz] * 2
    )
    body += struct.pack("<BBHHHBBB", 0x41, 1, _NO_HANDLE, _NO_HANDLE, _NO_HANDLE, 0, 0, 0)
    # Characteristics: 64-bit capable, and multi-core where it is.
    characteristics = 1 << 2 | (settings.cpus > 1) << 3
    body += struct.pack("<BBBHHHHH", cores, cores, cores, characteristics, 1, *[settings.cpus] * 3)
    return _structure(4, _PROCESSOR, body, text)


def _memory(settings: SmbiosSettings) -> list[bytes]:
    """Types 16, 17, 19 (7.17, 7.18, 7.20): one module holds all of RAM."""
    total = sum(size for _, size in settings.ram)
    kib = total >> 10
    array = struct.pack(
        "<BBBIHHQ",
        *(3, 3, 3, min(kib, _ARRAY_EXTENDED_KIB), _NO_ERROR_INFORMATION, 1),
        total if kib >= _ARRAY_EXTENDED_KIB else 0,
    )
    text = _Strings()
    mib = total // _MIB
    device = struct.pack("<HHHHH", _MEMORY_ARRAY, _NO_ERROR_INFORMATION, 64, 64, min(mib, _DEVICE_EXTENDED_MIB))
    device += bytes((9, 0, text("DIMM 0"), 0, 7)) + struct.pack("<HH", 1 << 1, 0)
    device += bytes((text("cvmboot"), 0, 0, 0, 0))
    device += struct.pack("<IHHHH", mib if mib >= _DEVICE_EXTENDED_MIB else 0, 0, 0, 0, 0)
    parts = [_structure(16, _MEMORY_ARRAY, array), _structure(17, _MEMORY_DEVICE, device, text)]
    for number, (first, size) in enumerate(settings.ram):
        parts.append(_structure(19, _MAPPED + number, _mapped(first, first + size - 1)))
    return parts


def _mapped(first: int, last: int) -> bytes:
    if last >> 10 >= _MAPPED_EXTENDED_KIB:
        return struct.pack("<IIHBQQ", 0xFFFFFFFF, 0xFFFFFFFF, _MEMORY_ARRAY, 1, first, last)
    return struct.pack("<IIHBQQ", first >> 10, last >> 10, _MEMORY_ARRAY, 1, 0, 0)
