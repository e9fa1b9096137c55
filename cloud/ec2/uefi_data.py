"""UefiData of RegisterImage: the non-volatile UEFI variables that a machine starts with, in AWS's own format.

Base64 of "AMZNUEFI", CRC32C of all that follows, version 0, and a zlib stream with a preset dictionary. In the stream: a
count, then for each variable name (UTF-8), data, vendor GUID, attributes, and for authenticated ones timestamp and digest.
Numbers are little-endian; texts and data have their lengths before them, 64 bits wide. The format's description is
awslabs/python-uefivars.
"""

import zlib
from base64 import b64encode
from struct import pack
from uuid import UUID

import google_crc32c

from cloud.errors import Unfit
from cloud.secure_boot_keys import SecureBootKeys

MOST_CHARACTERS = 64_000
"""RegisterImage takes no more."""
_MAGIC, _VERSION = b"AMZNUEFI", 0
_GLOBAL_VARIABLE = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
_IMAGE_SECURITY_DATABASE = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f").bytes_le
_VENDORS = {
    "PK": _GLOBAL_VARIABLE,
    "KEK": _GLOBAL_VARIABLE,
    "db": _IMAGE_SECURITY_DATABASE,
    "dbx": _IMAGE_SECURITY_DATABASE,
}
"""UEFI 2.10, 3.3 and 32.4.1."""
# UEFI 2.10, 8.2.1: NON_VOLATILE, BOOTSERVICE_ACCESS, RUNTIME_ACCESS, TIME_BASED_AUTHENTICATED_WRITE_ACCESS.
_ATTRIBUTES = 0x01 | 0x02 | 0x04 | 0x20
_NO_TIME, _NO_DIGEST = bytes(16), bytes(32)


def uefi_data(keys: SecureBootKeys) -> str:
    """The text for UefiData that gives a machine these keys, and with them Secure Boot. Unfit if it is too long for AWS."""
    variables = list(keys.items())
    stream = pack("<Q", len(variables)) + b"".join(_variable(name, contents) for name, contents in variables)
    # The format's preset dictionary is published there, and nowhere else.
    from pyuefivars.aws_v0 import UEFIVarStoreV0  # type: ignore[import-untyped]

    compressor = zlib.compressobj(9, zdict=UEFIVarStoreV0.dict)
    body = pack("<I", _VERSION) + compressor.compress(stream) + compressor.flush()
    text = b64encode(_MAGIC + pack("<I", google_crc32c.value(body)) + body).decode()
    if len(text) > MOST_CHARACTERS:
        raise Unfit(
            f"Secure Boot keys of {len(stream)} bytes make UefiData of {len(text)} characters, at most {MOST_CHARACTERS} fit",
            next_step="leave entries of dbx out",
        )
    return text


def _variable(name: str, contents: bytes) -> bytes:
    return (
        _sized(name.encode())
        + _sized(contents)
        + _VENDORS[name]
        + pack("<I", _ATTRIBUTES)
        + _NO_TIME
        + _sized(_NO_DIGEST)
    )


def _sized(data: bytes) -> bytes:
    return pack("<Q", len(data)) + data
