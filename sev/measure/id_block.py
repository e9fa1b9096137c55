"""ID blocks: what a guest's owner signs so that the secure processor starts no other guest under their name.

AMD 56860 "SEV Secure Nested Paging Firmware ABI", SNP_LAUNCH_FINISH: tables "ID Block Structure", "ID Authentication
Information Structure", and "Format for an ECDSA P-384 Public Key" and "... Signature" in its appendix.
"""

import struct
from hashlib import sha384
from typing import TYPE_CHECKING

from sev.measure.errors import MalformedIdBlock, MeasureError
from sev.measure.launch_digest import DIGEST_SIZE
from sev.policy import GuestPolicy

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

ID_BLOCK_SIZE = 0x60
ID_AUTH_SIZE = 0x1000
PUBLIC_KEY_SIZE = 0x404
SIGNATURE_SIZE = 0x200
ECDSA_P384_SHA384 = 1
DEFAULT_POLICY = GuestPolicy(0x30000)
"""SMT allowed; bit 17 is always one."""

_ID_BLOCK = struct.Struct("<48s16s16sIIQ")
_VERSION = 1
_CURVE_P384 = 2
_COMPONENT = 72
_ID_SIGNATURE = slice(0x40, 0x240)
_ID_KEY = slice(0x240, 0x644)
_ID_KEY_SIGNATURE = slice(0x680, 0x880)
_AUTHOR_KEY = slice(0x880, 0xC84)
_RESERVED = (slice(0x08, 0x40), slice(0x644, 0x680), slice(0xC84, ID_AUTH_SIZE))


class IdBlock:
    """ID_BLOCK: the launch digest, identity and policy that a guest must have. `pack` gives its 96 bytes."""

    __slots__ = ("family_id", "guest_svn", "image_id", "launch_digest", "policy")

    def __init__(
        self,
        launch_digest: bytes,
        *,
        family_id: bytes = bytes(16),
        image_id: bytes = bytes(16),
        guest_svn: int = 0,
        policy: int = DEFAULT_POLICY,
    ) -> None:
        """MalformedIdBlock for values of another size than 48, 16 and 16 bytes, 32 and 64 bits."""
        for name, value, size in (
            ("launch digest", launch_digest, DIGEST_SIZE),
            ("family id", family_id, 16),
            ("image id", image_id, 16),
        ):
            if len(value) != size:
                raise MalformedIdBlock(f"{name} has {len(value)} bytes; wanted {size}")
        if not 0 <= guest_svn < 1 << 32:
            raise MalformedIdBlock(f"guest SVN {guest_svn}; wanted 32 bits")
        if not 0 <= policy < 1 << 64:
            raise MalformedIdBlock(f"guest policy {policy:#x}; wanted 64 bits")
        self.launch_digest = launch_digest
        self.family_id = family_id
        self.image_id = image_id
        self.guest_svn = guest_svn
        self.policy = GuestPolicy(policy)

    @classmethod
    def unpack(cls, data: bytes) -> "IdBlock":
        """Read 96 bytes. MalformedIdBlock for another size or version."""
        if len(data) != ID_BLOCK_SIZE:
            raise MalformedIdBlock(f"ID block of {len(data)} bytes; wanted {ID_BLOCK_SIZE}")
        digest, family_id, image_id, version, guest_svn, policy = _ID_BLOCK.unpack(data)
        if version != _VERSION:
            raise MalformedIdBlock(f"ID block has version {version}; wanted {_VERSION}")
        return cls(digest, family_id=family_id, image_id=image_id, guest_svn=guest_svn, policy=policy)

    def pack(self) -> bytes:
        """The 96 bytes that are signed."""
        return _ID_BLOCK.pack(
            self.launch_digest, self.family_id, self.image_id, _VERSION, self.guest_svn, int(self.policy)
        )


class IdAuth:
    """ID_AUTH_INFO: the ID key and its signature of the block; if wanted, an author key and its signature of the ID key.

    `id_key` and `author_key` are in AMD's form (0x404 bytes), the signatures too (0x200 bytes); the author's are None if absent.
    """

    __slots__ = ("author_key", "id_key", "id_key_signature", "signature")

    def __init__(
        self, id_key: bytes, signature: bytes, author_key: bytes | None = None, id_key_signature: bytes | None = None
    ) -> None:
        self.id_key = id_key
        self.signature = signature
        self.author_key = author_key
        self.id_key_signature = id_key_signature

    @classmethod
    def sign(
        cls, block: IdBlock, id_key: "EllipticCurvePrivateKey", author_key: "EllipticCurvePrivateKey | None" = None
    ) -> "IdAuth":
        """Sign a block with P-384 keys. MeasureError for a key of another curve."""
        public = encode_public_key(id_key.public_key())
        signature = _sign(id_key, block.pack())
        if author_key is None:
            return cls(public, signature)
        return cls(public, signature, encode_public_key(author_key.public_key()), _sign(author_key, public))

    @classmethod
    def unpack(cls, data: bytes) -> "IdAuth":
        """Read 4096 bytes. MalformedIdBlock for another size, algorithm, or bytes where zeros have to be."""
        if len(data) != ID_AUTH_SIZE:
            raise MalformedIdBlock(f"ID authentication information of {len(data)} bytes; wanted {ID_AUTH_SIZE}")
        id_algorithm, author_algorithm = struct.unpack_from("<II", data)
        if id_algorithm != ECDSA_P384_SHA384:
            raise MalformedIdBlock(f"ID key algorithm is {id_algorithm}; wanted {ECDSA_P384_SHA384}")
        if author_algorithm not in (0, ECDSA_P384_SHA384):
            raise MalformedIdBlock(f"author key algorithm is {author_algorithm}; wanted 0 or {ECDSA_P384_SHA384}")
        for reserved in _RESERVED:
            if any(data[reserved]):
                raise MalformedIdBlock(f"reserved bytes {reserved.start:#x} to {reserved.stop - 1:#x} are not zero")
        author_key = data[_AUTHOR_KEY]
        if not any(author_key):
            return cls(data[_ID_KEY], data[_ID_SIGNATURE])
        return cls(data[_ID_KEY], data[_ID_SIGNATURE], author_key, data[_ID_KEY_SIGNATURE])

    def pack(self) -> bytes:
        """The 4096 bytes."""
        data = bytearray(ID_AUTH_SIZE)
        struct.pack_into("<II", data, 0, ECDSA_P384_SHA384, ECDSA_P384_SHA384 if self.author_key is not None else 0)
        data[_ID_SIGNATURE] = self.signature
        data[_ID_KEY] = self.id_key
        if self.author_key is not None and self.id_key_signature is not None:
            data[_ID_KEY_SIGNATURE] = self.id_key_signature
            data[_AUTHOR_KEY] = self.author_key
        return bytes(data)

    @property
    def id_key_digest(self) -> bytes:
        """ID_KEY_DIGEST of a report (48 bytes)."""
        return sha384(self.id_key).digest()

    @property
    def author_key_digest(self) -> bytes:
        """AUTHOR_KEY_DIGEST of a report (48 bytes; zeros without an author key)."""
        return bytes(DIGEST_SIZE) if self.author_key is None else sha384(self.author_key).digest()

    def verify(self, block: IdBlock) -> None:
        """MeasureError unless the ID key signed this block, and the author key, if there is one, the ID key."""
        _verify(self.id_key, self.signature, block.pack(), "the ID key did not sign this ID block")
        if self.author_key is not None and self.id_key_signature is not None:
            _verify(self.author_key, self.id_key_signature, self.id_key, "the author key did not sign the ID key")


def encode_public_key(key: "EllipticCurvePublicKey") -> bytes:
    """A P-384 key in AMD's form: 0x404 bytes. MeasureError for another curve."""
    if key.curve.name != "secp384r1":
        raise MeasureError(f"key on the curve {key.curve.name}; wanted secp384r1 (P-384)")
    numbers = key.public_numbers()
    return (struct.pack("<I", _CURVE_P384) + _pair(numbers.x, numbers.y)).ljust(PUBLIC_KEY_SIZE, b"\0")


def decode_public_key(data: bytes) -> "EllipticCurvePublicKey":
    """A P-384 key from AMD's form. MalformedIdBlock for another size or curve, a point off it, or reserved bytes that are set."""
    from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicNumbers

    if len(data) != PUBLIC_KEY_SIZE:
        raise MalformedIdBlock(f"public key of {len(data)} bytes; wanted {PUBLIC_KEY_SIZE}")
    curve = int.from_bytes(data[:4], "little")
    if curve != _CURVE_P384:
        raise MalformedIdBlock(f"public key on curve {curve}; wanted {_CURVE_P384} (P-384)")
    if any(data[4 + 2 * _COMPONENT :]):
        # They would change the digest of the key, and nobody has signed them.
        raise MalformedIdBlock("public key with reserved bytes after its point that are not zero")
    try:
        return EllipticCurvePublicNumbers(*_numbers(data[4:]), SECP384R1()).public_key()
    except ValueError:
        raise MalformedIdBlock("public key is no point of the curve P-384") from None


def load_private_key(pem: bytes) -> "EllipticCurvePrivateKey":
    """An unencrypted P-384 key from PEM. MeasureError for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MeasureError(f"no private key in PEM without a password: {str(error).splitlines()[0][:100]}") from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise MeasureError(f"private key is a {type(key).__name__}; wanted one on the curve P-384")
    encode_public_key(key.public_key())
    return key


def _pair(first: int, second: int) -> bytes:
    return first.to_bytes(_COMPONENT, "little") + second.to_bytes(_COMPONENT, "little")


def _numbers(data: bytes) -> tuple[int, int]:
    return (
        int.from_bytes(data[:_COMPONENT], "little"),
        int.from_bytes(data[_COMPONENT : 2 * _COMPONENT], "little"),
    )


def _sign(key: "EllipticCurvePrivateKey", message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA384

    return _pair(*decode_dss_signature(key.sign(message, ECDSA(SHA384())))).ljust(SIGNATURE_SIZE, b"\0")


def _verify(key: bytes, signature: bytes, message: bytes, complaint: str) -> None:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
    from cryptography.hazmat.primitives.hashes import SHA384

    if any(signature[2 * _COMPONENT :]):
        raise MalformedIdBlock("signature with reserved bytes after r and s that are not zero")
    try:
        decode_public_key(key).verify(encode_dss_signature(*_numbers(signature)), message, ECDSA(SHA384()))
    except InvalidSignature:
        raise MeasureError(complaint) from None
