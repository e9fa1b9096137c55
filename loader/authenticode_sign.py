"""Signs a PE image for Secure Boot: the same key, certificate and image give the same bytes (no signing time is put in).

UEFI 2.10, section 32.2; Microsoft "Windows Authenticode Portable Executable Signature Format". Signing tools put the
time into each signature, so that no two builds are alike; Secure Boot does not look at it.
"""

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loader import pe
from loader.authenticode import WIN_CERT_TYPE_PKCS_SIGNED_DATA, digest
from loader.errors import LoaderError, SigningError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.x509 import Certificate

_REVISION: Final = 0x0200
_HEADER_SIZE: Final = 8
_CHECKSUM_OFFSET: Final = 24 + 64
_DIRECTORIES_OFFSET: Final = 24 + 112
_MOST_KEY_FILE: Final = 1 << 20
_INTEGER, _OCTET_STRING, _SEQUENCE, _SET, _CONTEXT_0 = 0x02, 0x04, 0x30, 0x31, 0xA0
_VERSION_1: Final = bytes.fromhex("020101")
# Object identifiers and algorithm identifiers in DER.
_SIGNED_DATA: Final = bytes.fromhex("06092a864886f70d010702")
_SPC_INDIRECT_DATA: Final = bytes.fromhex("060a2b060104018237020104")
_CONTENT_TYPE: Final = bytes.fromhex("06092a864886f70d010903")
_MESSAGE_DIGEST: Final = bytes.fromhex("06092a864886f70d010904")
_SHA256: Final = bytes.fromhex("300d06096086480165030402010500")
_RSA: Final = bytes.fromhex("300d06092a864886f70d0101010500")
# SpcAttributeTypeAndOptionalValue: SPC_PE_IMAGE_DATA with no flags and an empty file name.
_SPC_PE_IMAGE_DATA: Final = bytes.fromhex("3017060a2b06010401823702010f3009030100a004a2028000")


class Signer:
    """An RSA key with its certificate, which is what Secure Boot's db holds (or the certificate that issued it)."""

    def __init__(self, key: "RSAPrivateKey", certificates: list["Certificate"]) -> None:
        """`certificates`: the signer's own first, then what goes into the signature beside it.

        Raises SigningError if key and certificate do not belong together.
        """
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self.key = key
        self.certificates = certificates
        wanted = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        own = certificates[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if own != wanted:
            raise SigningError("the key does not belong to the certificate; give the key that the certificate is of")

    @classmethod
    def load(cls, key: str | Path, certificate: str | Path) -> "Signer":
        """From files: a PEM or DER key without a password, one PEM or DER certificate or several in PEM.

        Raises SigningError naming the file that cannot be used; never with anything of the key in the message.
        """
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
        from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

        raw = _read(key)
        try:
            load = load_pem_private_key if b"-----BEGIN" in raw else load_der_private_key
            loaded = load(raw, None)
        except TypeError:
            advice = "remove it with openssl rsa, into a file that only you can read"
            raise SigningError(f"{key}: the key has a password; {advice}") from None
        except (ValueError, UnsupportedAlgorithm):
            raise SigningError(f"{key}: is no private key in PEM or DER") from None
        if not isinstance(loaded, RSAPrivateKey):
            raise SigningError(f"{key}: is no RSA key; Secure Boot wants RSA, of 2048 bits or more")
        raw = _read(certificate)
        try:
            is_pem = b"-----BEGIN" in raw
            certificates = x509.load_pem_x509_certificates(raw) if is_pem else [x509.load_der_x509_certificate(raw)]
        except (ValueError, UnsupportedAlgorithm):
            raise SigningError(f"{certificate}: is no certificate in PEM or DER") from None
        try:
            return cls(loaded, certificates)
        except SigningError as error:
            raise SigningError(f"{key}, {certificate}: {error}") from None


def sign(data: bytes, signer: Signer) -> bytes:
    """`data`, a PE image, with one more signature (SHA-256, RSA PKCS#1 1.5) at the end of its certificate table.

    Raises LoaderError if it is no image that can be signed.
    """
    padded = data if pe.parse(data).directory(pe.DIRECTORY_SECURITY)[1] else data + bytes(-len(data) % 8)
    image = pe.parse(padded)
    if len(image.directories) <= pe.DIRECTORY_SECURITY:
        raise LoaderError(
            f"the image has {len(image.directories)} data directories and none for certificates, want 5 or more"
        )
    offset, size = image.directory(pe.DIRECTORY_SECURITY)
    if not size:
        offset = len(padded)
    elif offset + size != len(padded) or offset % 8:
        raise LoaderError("the image is signed already, and its signatures are not at the end of the file")
    signature = _signed_data(digest(image), signer)
    signature += bytes(-len(signature) % 8)
    entry = struct.pack("<IHH", _HEADER_SIZE + len(signature), _REVISION, WIN_CERT_TYPE_PKCS_SIGNED_DATA) + signature
    result = bytearray(padded)
    result += bytes(-len(result) % 8) + entry
    place = image.pe_offset + _DIRECTORIES_OFFSET + 8 * pe.DIRECTORY_SECURITY
    struct.pack_into("<II", result, place, offset, len(result) - offset)
    struct.pack_into("<I", result, image.pe_offset + _CHECKSUM_OFFSET, _checksum(result, image.pe_offset))
    return bytes(result)


def _checksum(data: bytearray, pe_offset: int) -> int:
    """OptionalHeader.CheckSum: the folded sum of all 16-bit words, its own taken as zero, plus the length."""
    at = pe_offset + _CHECKSUM_OFFSET
    words = bytes(data[:at]) + bytes(4) + bytes(data[at + 4 :]) + bytes(len(data) % 2)
    total = int.from_bytes(words, "little") % 0xFFFF  # a sum with end-around carry is the remainder by 2**16 - 1
    return (total or (0xFFFF if any(words) else 0)) + len(data)


def _signed_data(image_digest: bytes, signer: Signer) -> bytes:
    """The DER of a PKCS#7 ContentInfo with SignedData over SpcIndirectDataContent (RFC 2315, 7 and 9; Authenticode)."""
    import hashlib

    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    content = _SPC_PE_IMAGE_DATA + _tlv(_SEQUENCE, _SHA256, _tlv(_OCTET_STRING, image_digest))
    attributes = (  # DER orders what is in a SET: the shorter one first
        _attribute(_CONTENT_TYPE, _SPC_INDIRECT_DATA),
        _attribute(_MESSAGE_DIGEST, _tlv(_OCTET_STRING, hashlib.sha256(content).digest())),
    )
    own = signer.certificates[0]
    serial = own.serial_number
    number = _tlv(_INTEGER, serial.to_bytes(serial.bit_length() // 8 + 1, "big", signed=True))
    info = _tlv(
        _SEQUENCE,
        _VERSION_1,
        _tlv(_SEQUENCE, own.issuer.public_bytes(), number),
        _SHA256,
        _tlv(_CONTEXT_0, *attributes),
        _RSA,
        # What is signed is the SET OF itself, not the implicit tag that it has here.
        _tlv(_OCTET_STRING, signer.key.sign(_tlv(_SET, *attributes), PKCS1v15(), SHA256())),
    )
    signed = _tlv(
        _SEQUENCE,
        _VERSION_1,
        _tlv(_SET, _SHA256),
        _tlv(_SEQUENCE, _SPC_INDIRECT_DATA, _tlv(_CONTEXT_0, _tlv(_SEQUENCE, content))),
        _tlv(_CONTEXT_0, *(one.public_bytes(Encoding.DER) for one in signer.certificates)),
        _tlv(_SET, info),
    )
    return _tlv(_SEQUENCE, _SIGNED_DATA, _tlv(_CONTEXT_0, signed))


def _attribute(kind: bytes, value: bytes) -> bytes:
    return _tlv(_SEQUENCE, kind, _tlv(_SET, value))


def _tlv(tag: int, *parts: bytes) -> bytes:
    """Tag, length and value in DER (X.690, 8.1 and 10.1)."""
    value = b"".join(parts)
    size = len(value)
    if size < 0x80:
        return bytes((tag, size)) + value
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + value


def _read(path: str | Path) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_MOST_KEY_FILE)
    except OSError as error:
        raise SigningError(f"{path}: cannot be read: {error.strerror}") from None
