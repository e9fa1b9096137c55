"""The ID block in an IGVM file (IGVM_VHS_SNP_ID_BLOCK of the crate igvm_defs): what its owner signed, and the keys.

The file has the parts of ID_BLOCK and ID_AUTH_INFO (AMD 56860, SNP_LAUNCH_FINISH) in an order of its own, without the policy,
which stands in another header, and with a reserved field inside of each public key.
"""

import struct
from typing import Any

from sev.measure.errors import MalformedIgvm
from sev.measure.id_block import ECDSA_P384_SHA384, PUBLIC_KEY_SIZE, SIGNATURE_SIZE, IdAuth, IdBlock

STRUCTURE = struct.Struct("<IB3s48s16s16sIIII144sII144s144sII144s")
_VERSION = 1


class IgvmIdBlock:
    """`launch_digest` is what the guest must measure (48 bytes)."""

    __slots__ = ("_fields",)

    def __init__(self, fields: tuple[Any, ...]) -> None:
        """Take the fields as STRUCTURE unpacks them."""
        self._fields = fields

    @property
    def launch_digest(self) -> bytes:
        """The launch digest that was signed, 48 bytes."""
        return bytes(self._fields[3])

    def signed(self, policy: int) -> tuple[IdBlock, IdAuth]:
        """The block with the file's guest policy, and its signatures, as the secure processor gets them.

        MalformedIgvm for a version or an algorithm that it does not know. Whether the signatures fit, `IdAuth.verify` says.
        """
        _, author_enabled, _, digest, family_id, image_id, version, guest_svn = self._fields[:8]
        id_algorithm, author_algorithm, signature, curve, _, point = self._fields[8:14]
        key_signature, author_curve, _, author_point = self._fields[14:]
        if version != _VERSION:
            raise MalformedIgvm(f"ID block of the IGVM file has version {version}; wanted {_VERSION}")
        if id_algorithm != ECDSA_P384_SHA384 or (author_enabled and author_algorithm != ECDSA_P384_SHA384):
            raise MalformedIgvm(
                f"ID block of the IGVM file has algorithms {id_algorithm} and {author_algorithm}; wanted {ECDSA_P384_SHA384}"
            )
        block = IdBlock(digest, family_id=family_id, image_id=image_id, guest_svn=guest_svn, policy=policy)
        auth = IdAuth(_key(curve, point), signature.ljust(SIGNATURE_SIZE, b"\0"))
        if author_enabled:
            auth.author_key = _key(author_curve, author_point)
            auth.id_key_signature = key_signature.ljust(SIGNATURE_SIZE, b"\0")
        return block, auth


def _key(curve: int, point: bytes) -> bytes:
    """A public key in AMD's form."""
    return (struct.pack("<I", curve) + point).ljust(PUBLIC_KEY_SIZE, b"\0")
