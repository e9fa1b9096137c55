"""ATTESTATION_REPORT, versions 2 to 5 and tolerantly later ones, decoded and encoded byte for byte.

AMD 56860, table "ATTESTATION_REPORT Structure": 1184 bytes, of which SIGNATURE covers the first 0x2A0. Bytes that a version
has no field for are kept in `reserved`, so that encode() gives back exactly what decode() took.
"""

from struct import Struct
from typing import Any

from sev.errors import MalformedReport
from sev.platform_info import PlatformInfo
from sev.policy import GuestPolicy
from sev.product import Product, product_of

SIZE = 0x4A0
SIGNED_SIZE = 0x2A0
FIRST_VERSION = 1
LAST_KNOWN_VERSION = 5
LAST_TOLERATED_VERSION = 255
ECDSA_P384_SHA384 = 1
SIGNER_VCEK, SIGNER_VLEK, SIGNER_NONE = 0, 1, 7
HOST_VMPL = 0xFFFFFFFF

# name: offset, size, integer or bytes, first version that has it
_INT, _BYTES = True, False
FIELDS: dict[str, tuple[int, int, bool, int]] = {
    "version": (0x000, 4, _INT, 1),
    "guest_svn": (0x004, 4, _INT, 1),
    "policy": (0x008, 8, _INT, 1),
    "family_id": (0x010, 16, _BYTES, 1),
    "image_id": (0x020, 16, _BYTES, 1),
    "vmpl": (0x030, 4, _INT, 1),
    "signature_algo": (0x034, 4, _INT, 1),
    "current_tcb": (0x038, 8, _BYTES, 1),
    "platform_info": (0x040, 8, _INT, 1),
    "key_info": (0x048, 4, _INT, 1),
    "report_data": (0x050, 64, _BYTES, 1),
    "measurement": (0x090, 48, _BYTES, 1),
    "host_data": (0x0C0, 32, _BYTES, 1),
    "id_key_digest": (0x0E0, 48, _BYTES, 1),
    "author_key_digest": (0x110, 48, _BYTES, 1),
    "report_id": (0x140, 32, _BYTES, 1),
    "report_id_ma": (0x160, 32, _BYTES, 1),
    "reported_tcb": (0x180, 8, _BYTES, 1),
    "cpuid_fam_id": (0x188, 1, _INT, 3),
    "cpuid_mod_id": (0x189, 1, _INT, 3),
    "cpuid_step": (0x18A, 1, _INT, 3),
    "chip_id": (0x1A0, 64, _BYTES, 1),
    "committed_tcb": (0x1E0, 8, _BYTES, 1),
    "current_build": (0x1E8, 1, _INT, 1),
    "current_minor": (0x1E9, 1, _INT, 1),
    "current_major": (0x1EA, 1, _INT, 1),
    "committed_build": (0x1EC, 1, _INT, 1),
    "committed_minor": (0x1ED, 1, _INT, 1),
    "committed_major": (0x1EE, 1, _INT, 1),
    "launch_tcb": (0x1F0, 8, _BYTES, 1),
    "launch_mit_vector": (0x1F8, 8, _INT, 5),
    "current_mit_vector": (0x200, 8, _INT, 5),
    "signature": (0x2A0, 512, _BYTES, 1),
}


class _Layout:
    """A version of the structure, to be taken apart in one go: `fields` unpacks the fields `names`, `reserved` the stretches
    in between, which begin at `gaps` and should be `zeros`; `absent` are the fields that this version lacks, all zero."""

    __slots__ = ("absent", "fields", "gaps", "names", "reserved", "zeros")

    def __init__(self, version: int) -> None:
        names, fields, gaps, reserved = [], "<", [], "<"
        end = 0
        for name, (offset, size, is_int, since) in FIELDS.items():
            if since > version:
                continue
            if offset > end:
                gaps.append(end)
                reserved += f"{offset - end}s"
                fields += f"{offset - end}x"
            code = {1: "B", 4: "I", 8: "Q"}[size] if is_int else f"{size}s"
            names.append(name)
            fields += code
            reserved += f"{size}x"
            end = offset + size
        self.names = tuple(names)
        self.fields = Struct(fields)
        self.gaps = tuple(gaps)
        self.reserved = Struct(reserved)
        self.zeros = self.reserved.unpack(bytes(SIZE))
        self.absent = tuple(
            (name, 0 if is_int else bytes(size)) for name, (_, size, is_int, since) in FIELDS.items() if since > version
        )


_LAYOUTS = {version: _Layout(version) for version in range(FIRST_VERSION, LAST_KNOWN_VERSION + 1)}


class Report:
    """A report. Integers are as numbers, identifiers, digests and TCB_VERSIONs as bytes; `reserved` maps the offset of a
    stretch of reserved bytes to the bytes there, if any is not zero."""

    __slots__ = (*FIELDS, "reserved")

    version: int
    guest_svn: int
    policy: GuestPolicy
    family_id: bytes
    image_id: bytes
    vmpl: int
    signature_algo: int
    current_tcb: bytes
    platform_info: PlatformInfo
    key_info: int
    report_data: bytes
    measurement: bytes
    host_data: bytes
    id_key_digest: bytes
    author_key_digest: bytes
    report_id: bytes
    report_id_ma: bytes
    reported_tcb: bytes
    cpuid_fam_id: int
    cpuid_mod_id: int
    cpuid_step: int
    chip_id: bytes
    committed_tcb: bytes
    current_build: int
    current_minor: int
    current_major: int
    committed_build: int
    committed_minor: int
    committed_major: int
    launch_tcb: bytes
    launch_mit_vector: int
    current_mit_vector: int
    signature: bytes
    reserved: dict[int, bytes]

    def __init__(self, version: int = LAST_KNOWN_VERSION, **fields: Any) -> None:
        """A report with the named fields; all others are zero. MalformedReport for a field of another name or size."""
        self.reserved = fields.pop("reserved", {})
        if not FIRST_VERSION <= version <= LAST_TOLERATED_VERSION:
            raise MalformedReport(f"report version {version}; wanted 2 to {LAST_KNOWN_VERSION}")
        fields["version"] = version
        for name, (_, size, is_int, _) in FIELDS.items():
            value = fields.pop(name, 0 if is_int else bytes(size))
            if is_int:
                if not 0 <= value < 1 << 8 * size:
                    raise MalformedReport(f"{name} {value:#x} does not fit into {size} bytes")
                if name == "policy":
                    value = GuestPolicy(value)
                elif name == "platform_info":
                    value = PlatformInfo(value)
            elif len(value) != size:
                raise MalformedReport(f"{name} of {len(value)} bytes; wanted {size}")
            setattr(self, name, value)
        if fields:
            raise MalformedReport(f"a report has no field {', '.join(fields)}")

    @classmethod
    def decode(cls, raw: bytes) -> "Report":
        """Read 1184 bytes. MalformedReport for another size, another version, or a report of zeros alone."""
        if len(raw) != SIZE:
            raise MalformedReport(f"report of {len(raw)} bytes; wanted {SIZE}")
        if not any(raw):
            raise MalformedReport(
                "the report is all zeros: the request for it failed, and its status was not looked at"
            )
        version = int.from_bytes(raw[:4], "little")
        if not FIRST_VERSION <= version <= LAST_TOLERATED_VERSION:
            raise MalformedReport(f"report version {version:#x}; wanted 2 to {LAST_KNOWN_VERSION}")
        layout = _LAYOUTS[min(version, LAST_KNOWN_VERSION)]
        self = cls.__new__(cls)
        for name, value in zip(layout.names, layout.fields.unpack(raw), strict=True):
            setattr(self, name, value)
        for name, value in layout.absent:
            setattr(self, name, value)
        self.policy = GuestPolicy(self.policy)
        self.platform_info = PlatformInfo(self.platform_info)
        found = layout.reserved.unpack(raw)
        self.reserved = {}
        if found != layout.zeros:
            self.reserved = {at: part for at, part in zip(layout.gaps, found, strict=True) if any(part)}
        return self

    def encode(self) -> bytes:
        """The 1184 bytes. MalformedReport if a field is set that this version does not have."""
        raw = bytearray(SIZE)
        layout = min(self.version, LAST_KNOWN_VERSION)
        for offset, data in self.reserved.items():
            raw[offset : offset + len(data)] = data
        for name, (offset, size, is_int, since) in FIELDS.items():
            value = getattr(self, name)
            if since > layout:
                if value:
                    raise MalformedReport(f"{name} is set, and a report of version {self.version} does not have it")
            elif is_int:
                raw[offset : offset + size] = value.to_bytes(size, "little")
            else:
                raw[offset : offset + size] = value
        if len(raw) != SIZE:
            raise MalformedReport(f"reserved bytes reach past the report's {SIZE}")
        return bytes(raw)

    @property
    def author_key_en(self) -> bool:
        """AUTHOR_KEY_EN: author_key_digest is that of the key that signed the ID key."""
        return bool(self.key_info & 1)

    @property
    def mask_chip_key(self) -> bool:
        """MASK_CHIP_KEY: the host has the signature left out."""
        return bool(self.key_info >> 1 & 1)

    @property
    def signing_key(self) -> int:
        """SIGNING_KEY: 0 VCEK, 1 VLEK, 7 none."""
        return self.key_info >> 2 & 7

    @property
    def signer(self) -> str:
        """Name of the key that signs."""
        return {SIGNER_VCEK: "VCEK", SIGNER_VLEK: "VLEK", SIGNER_NONE: "none"}.get(
            self.signing_key, f"reserved {self.signing_key}"
        )

    @property
    def product(self) -> Product | None:
        """The product that CPUID_FAM_ID and CPUID_MOD_ID name; None before version 3 or if it is not known."""
        return product_of(self.cpuid_fam_id, self.cpuid_mod_id) if self.version >= 3 else None

    @property
    def current_version(self) -> tuple[int, int, int]:
        """Firmware that runs: major, minor, build."""
        return self.current_major, self.current_minor, self.current_build

    @property
    def committed_version(self) -> tuple[int, int, int]:
        """Firmware below which the host cannot go back: major, minor, build."""
        return self.committed_major, self.committed_minor, self.committed_build

    @property
    def chip_id_masked(self) -> bool:
        """MASK_CHIP_ID, or signed by a VLEK: CHIP_ID is zero."""
        return not any(self.chip_id)
