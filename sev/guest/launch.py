"""The launch of one guest: what the firmware and the host have settled before its first instruction, and report about it.

AMD 56860, SNP_LAUNCH_START (policy), SNP_LAUNCH_FINISH (ID block, ID authentication, host data).
"""

import hashlib
import struct
from collections.abc import Callable
from typing import Any

from sev.guest.errors import LaunchRefused
from sev.guest.message import KEY_SIZE, VMPCKS
from sev.policy import GuestPolicy

DEFAULT_POLICY = 0x30000
"""SMT allowed, and the bit that must be one: what QEMU starts guests with, and TamaGo accepts."""
DEFAULT_TSC_FACTOR = 0xC8
MEASUREMENT_SIZE, HOST_DATA_SIZE = 48, 32
ID_BLOCK_SIZE, ID_AUTH_SIZE = 96, 4096
REPORT_VERSIONS = (2, 3, 5)

_ID_BLOCK = struct.Struct("<48s16s16sIIQ")
_PUBLIC_KEY_SIZE = 0x404
_ID_BLOCK_SIGNATURE, _ID_KEY, _ID_KEY_SIGNATURE, _AUTHOR_KEY = 0x40, 0x240, 0x680, 0x880
_CURVE_P384, _ALGO_ECDSA_P384_SHA384 = 2, 1
_COMPONENT, _COORDINATE = 72, 48


def image_digest(data: bytes | memoryview) -> bytes:
    """The default MEASUREMENT: SHA-384 of the EFI application's file, what `sha384sum` says of it."""
    return hashlib.sha384(data).digest()


class IdBlock:
    """ID_BLOCK: LD (48 bytes), FAMILY_ID, IMAGE_ID (16 each), VERSION, GUEST_SVN, POLICY."""

    __slots__ = ("family_id", "guest_svn", "image_id", "measurement", "policy", "raw")

    def __init__(self, raw: bytes) -> None:
        """Read 96 bytes. LaunchRefused for another size or version."""
        if len(raw) != ID_BLOCK_SIZE:
            raise LaunchRefused(f"ID block of {len(raw)} bytes; wanted {ID_BLOCK_SIZE}")
        self.raw = raw
        self.measurement, self.family_id, self.image_id, version, self.guest_svn, self.policy = _ID_BLOCK.unpack(raw)
        if version != 1:
            raise LaunchRefused(f"ID block of version {version}; wanted 1")


class IdAuth:
    """ID_AUTHENTICATION: the ID key's signature over the ID block, and perhaps the author key's over the ID key."""

    __slots__ = ("author_key_digest", "id_key_digest")

    def __init__(self, raw: bytes, block: IdBlock) -> None:
        """Read 4096 bytes and check the signatures. LaunchRefused if they are malformed or do not verify."""
        if len(raw) != ID_AUTH_SIZE:
            raise LaunchRefused(f"ID authentication of {len(raw)} bytes; wanted {ID_AUTH_SIZE}")
        id_algo, author_algo = struct.unpack_from("<II", raw)
        id_key = raw[_ID_KEY : _ID_KEY + _PUBLIC_KEY_SIZE]
        author_key = raw[_AUTHOR_KEY : _AUTHOR_KEY + _PUBLIC_KEY_SIZE]
        if id_algo != _ALGO_ECDSA_P384_SHA384:
            raise LaunchRefused(f"ID_KEY_ALGO {id_algo}; wanted 1, ECDSA P-384 with SHA-384")
        _verify("ID block", id_key, raw[_ID_BLOCK_SIGNATURE:_ID_KEY], block.raw)
        self.id_key_digest = hashlib.sha384(id_key).digest()
        self.author_key_digest = b""
        if author_algo:
            if author_algo != _ALGO_ECDSA_P384_SHA384:
                raise LaunchRefused(f"AUTHOR_KEY_ALGO {author_algo}; wanted 0 or 1")
            _verify("ID key", author_key, raw[_ID_KEY_SIGNATURE:_AUTHOR_KEY], id_key)
            self.author_key_digest = hashlib.sha384(author_key).digest()


def _verify(what: str, key: bytes, signature: bytes, data: bytes) -> None:
    """Check r and s (72 bytes each, little-endian) under a public key structure of 0x404 bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    curve = int.from_bytes(key[:4], "little")
    if curve != _CURVE_P384:
        raise LaunchRefused(f"key of curve {curve} over the {what}; wanted 2, P-384")
    x, y, r, s = (
        int.from_bytes(part, "little")
        for part in (key[4:76], key[76:148], signature[:_COMPONENT], signature[_COMPONENT : 2 * _COMPONENT])
    )
    try:
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP384R1()).public_key()
        public.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA384()))
    except (ValueError, InvalidSignature):
        raise LaunchRefused(f"the signature over the {what} does not verify") from None


_SAVED = (
    *("policy", "host_data", "vmpl", "report_version", "tsc_factor", "vmpcks", "report_id", "family_id", "image_id"),
    *("guest_svn", "id_key_digest", "author_key_digest", "author_key_en"),
)


class Launch:
    """The guest context. `measurement` may be a function that is called when the digest is first wanted.

    policy u64, host_data 32 bytes, vmpl 0..3 of the guest's software, report_version 2, 3 or 5. All of it is checked here:
    LaunchRefused.
    """

    def __init__(
        self,
        measurement: bytes | Callable[[], bytes],
        random_bytes: Callable[[int], bytes],
        *,
        policy: int = DEFAULT_POLICY,
        host_data: bytes = bytes(HOST_DATA_SIZE),
        vmpl: int = 0,
        report_version: int = 5,
        tsc_factor: int = DEFAULT_TSC_FACTOR,
    ) -> None:
        self._measurement = measurement
        self.policy = policy
        self.host_data = host_data
        self.vmpl = vmpl
        self.report_version = report_version
        self.tsc_factor = tsc_factor
        self.vmpcks = [random_bytes(KEY_SIZE) for _ in range(VMPCKS)]
        self.report_id = random_bytes(32)
        self.family_id = self.image_id = bytes(16)
        self.guest_svn = 0
        self.id_key_digest = self.author_key_digest = bytes(48)
        self.author_key_en = False
        self._check()

    @property
    def measurement(self) -> bytes:
        """MEASUREMENT, 48 bytes."""
        if not isinstance(self._measurement, bytes):
            self._measurement = self._measurement()
        return self._measurement

    @property
    def guest_vmpcks(self) -> list[bytes]:
        """The keys that lie in the guest's secrets page: those of more privileged VMPLs than its own are zeros."""
        return [key if number >= self.vmpl else bytes(KEY_SIZE) for number, key in enumerate(self.vmpcks)]

    def save(self) -> dict[str, Any]:
        """Plain data for a snapshot."""
        return {"measurement": self.measurement, **{name: getattr(self, name) for name in _SAVED}}

    def load(self, state: dict[str, Any]) -> None:
        """Put back what `save` gave."""
        self._measurement = state["measurement"]
        for name in _SAVED:
            setattr(self, name, state[name])

    def _check(self) -> None:
        policy = GuestPolicy(self.policy)
        if not 0 <= self.policy < 1 << 64 or not policy.well_formed:
            raise LaunchRefused(f"guest policy {self.policy:#x}: bit 17 must be one, bits 63 to 26 zero")
        if isinstance(self._measurement, bytes) and len(self._measurement) != MEASUREMENT_SIZE:
            raise LaunchRefused(f"measurement of {len(self._measurement)} bytes; wanted {MEASUREMENT_SIZE}")
        if len(self.host_data) != HOST_DATA_SIZE:
            raise LaunchRefused(f"host data of {len(self.host_data)} bytes; wanted {HOST_DATA_SIZE}")
        if not 0 <= self.vmpl <= 3:
            raise LaunchRefused(f"VMPL {self.vmpl}; wanted 0 to 3")
        if self.report_version not in REPORT_VERSIONS:
            raise LaunchRefused(f"report version {self.report_version}; wanted 2, 3 or 5")

    def finish(self, id_block: bytes, id_auth: bytes) -> None:
        """SNP_LAUNCH_FINISH with an ID block (96 bytes) and its authentication (4096). LaunchRefused if they do not fit."""
        block = IdBlock(id_block)
        auth = IdAuth(id_auth, block)
        if block.measurement != self.measurement:
            raise LaunchRefused(
                f"BAD_MEASUREMENT: the ID block is for {block.measurement.hex()}; this guest is {self.measurement.hex()}"
            )
        if block.policy != self.policy:
            raise LaunchRefused(
                f"POLICY_FAILURE: the ID block's policy is {block.policy:#x}; the guest's {self.policy:#x}"
            )
        self.family_id, self.image_id, self.guest_svn = block.family_id, block.image_id, block.guest_svn
        self.id_key_digest = auth.id_key_digest
        if auth.author_key_digest:
            self.author_key_digest, self.author_key_en = auth.author_key_digest, True
