"""MSG_KEY_REQ: what a guest asks to be mixed into a derived key, and what the secure processor refuses
(AMD 56860, "Key Derivation"; sizes and rules as the firmware shows them)."""

import struct

from sev.errors import Refused
from sev.firmware_status import INVALID_KEY, INVALID_PARAM

SIZE = 0x20
SIZE_WITH_VECTOR = 0x28
LARGEST = 0x40
ROOT_VCEK = 0
ROOT_VMRK = 1
KEY_SEL_DEFAULT, KEY_SEL_VCEK, KEY_SEL_VLEK = 0, 1, 2

SELECT_POLICY = 1 << 0
SELECT_IMAGE_ID = 1 << 1
SELECT_FAMILY_ID = 1 << 2
SELECT_MEASUREMENT = 1 << 3
SELECT_GUEST_SVN = 1 << 4
SELECT_TCB_VERSION = 1 << 5
SELECT_LAUNCH_MIT_VECTOR = 1 << 6
_SELECT_KNOWN = 0x7F


class GuestFields:
    """What the secure processor knows of the guest that asks: its launch context and the VMPL of its VMPCK.

    policy u64, image_id and family_id 16 bytes, measurement 48 bytes, guest_svn u32 (the ID block's), vmpl 0..3,
    launch_mit_vector u64, vmrk 32 bytes if a migration agent gave one.
    """

    __slots__ = ("family_id", "guest_svn", "image_id", "launch_mit_vector", "measurement", "policy", "vmpl", "vmrk")

    def __init__(
        self,
        policy: int = 0x30000,
        image_id: bytes = bytes(16),
        family_id: bytes = bytes(16),
        measurement: bytes = bytes(48),
        guest_svn: int = 0,
        vmpl: int = 0,
        launch_mit_vector: int = 0,
        vmrk: bytes | None = None,
    ) -> None:
        self.policy = policy
        self.image_id = image_id
        self.family_id = family_id
        self.measurement = measurement
        self.guest_svn = guest_svn
        self.vmpl = vmpl
        self.launch_mit_vector = launch_mit_vector
        self.vmrk = vmrk


class KeyRequest:
    """A decoded MSG_KEY_REQ. `tcb_version` is 8 raw bytes, as in a report."""

    __slots__ = (
        "field_select",
        "guest_svn",
        "has_vector",
        "key_select",
        "launch_mit_vector",
        "root_key",
        "tcb_version",
        "vmpl",
    )

    def __init__(
        self,
        *,
        root_key: int = ROOT_VCEK,
        key_select: int = KEY_SEL_DEFAULT,
        field_select: int = 0,
        vmpl: int = 0,
        guest_svn: int = 0,
        tcb_version: bytes = bytes(8),
        launch_mit_vector: int = 0,
        has_vector: bool = True,
    ) -> None:
        self.root_key = root_key
        self.key_select = key_select
        self.field_select = field_select
        self.vmpl = vmpl
        self.guest_svn = guest_svn
        self.tcb_version = tcb_version
        self.launch_mit_vector = launch_mit_vector
        self.has_vector = has_vector

    @classmethod
    def decode(cls, payload: bytes, version: int = 1) -> "KeyRequest":
        """Read a payload of 0x20 to 0x40 bytes (Linux sends 0x20, TamaGo 0x40) in message version 1 or 2.

        Refused(INVALID_PARAM) for another size, a reserved bit or byte that is set, or an unknown version.
        """
        if version not in (1, 2):
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ version {version}; wanted 1 or 2")
        needed = SIZE if version == 1 else SIZE_WITH_VECTOR
        if not needed <= len(payload) <= LARGEST:
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ of {len(payload)} bytes; wanted {needed} to {LARGEST}")
        root, reserved, select, vmpl, svn, tcb = struct.unpack_from("<IIQII8s", payload)
        # TamaGo sends the vector in messages of version 1, too: 0x40 bytes.
        has_vector = len(payload) >= SIZE_WITH_VECTOR
        vector = struct.unpack_from("<Q", payload, SIZE)[0] if has_vector else 0
        if root >> 3 or reserved or any(payload[SIZE_WITH_VECTOR if has_vector else SIZE :]):
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ with reserved bits set (ROOT_KEY_SELECT {root:#x})")
        if select & ~_SELECT_KNOWN:
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ GUEST_FIELD_SELECT {select:#x}; known are {_SELECT_KNOWN:#x}")
        return cls(
            root_key=root & 1,
            key_select=root >> 1 & 3,
            field_select=select,
            vmpl=vmpl,
            guest_svn=svn,
            tcb_version=tcb,
            launch_mit_vector=vector,
            has_vector=has_vector,
        )

    def encode(self) -> bytes:
        """The payload: 0x20 bytes, 0x28 with the vector, which version 2 always has."""
        raw = struct.pack(
            "<IIQII8s",
            self.root_key | self.key_select << 1,
            0,
            self.field_select,
            self.vmpl,
            self.guest_svn,
            self.tcb_version,
        )
        return raw + struct.pack("<Q", self.launch_mit_vector) if self.has_vector else raw

    def check(self, guest: GuestFields, committed_tcb: bytes, has_vlek: bool) -> None:
        """Refuse what the guest may not have: Refused(INVALID_PARAM), or INVALID_KEY for a root key that is not there."""
        if not guest.vmpl <= self.vmpl <= 3:
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ VMPL {self.vmpl}; the caller's is {guest.vmpl}, the last is 3")
        if self.key_select > KEY_SEL_VLEK:
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ KEY_SEL {self.key_select} is reserved")
        if self.field_select & ~_SELECT_KNOWN:
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ GUEST_FIELD_SELECT {self.field_select:#x} has reserved bits")
        if self.field_select & SELECT_LAUNCH_MIT_VECTOR and not self.has_vector:
            raise Refused(INVALID_PARAM, "MSG_KEY_REQ selects LAUNCH_MIT_VECTOR in a message that has none")
        if self.guest_svn > guest.guest_svn:
            raise Refused(INVALID_PARAM, f"MSG_KEY_REQ GUEST_SVN {self.guest_svn}; the ID block's is {guest.guest_svn}")
        if any(asked > committed for asked, committed in zip(self.tcb_version, committed_tcb, strict=True)):
            raise Refused(
                INVALID_PARAM, f"MSG_KEY_REQ TCB_VERSION {self.tcb_version.hex()}; committed is {committed_tcb.hex()}"
            )
        if self.root_key == ROOT_VMRK:
            if guest.vmrk is None:
                raise Refused(INVALID_KEY, "MSG_KEY_REQ asks for the VMRK, and the guest has no migration agent")
        elif self.key_select == KEY_SEL_VLEK and not has_vlek:
            raise Refused(INVALID_KEY, "MSG_KEY_REQ asks for the VLEK, and none is loaded")

    def mixed(self, guest: GuestFields) -> bytes:
        """What distinguishes the key: VMPL always, each selected field, and the selection itself."""
        parts = [struct.pack("<QI", self.field_select, self.vmpl)]
        for bit, value in (
            (SELECT_POLICY, guest.policy.to_bytes(8, "little")),
            (SELECT_IMAGE_ID, guest.image_id),
            (SELECT_FAMILY_ID, guest.family_id),
            (SELECT_MEASUREMENT, guest.measurement),
            (SELECT_GUEST_SVN, self.guest_svn.to_bytes(4, "little")),
            (SELECT_TCB_VERSION, self.tcb_version),
            (SELECT_LAUNCH_MIT_VECTOR, self.launch_mit_vector.to_bytes(8, "little")),
        ):
            if self.field_select & bit:
                parts.append(value)
        return b"".join(parts)
