"""Keys, certificates, PKCS#7 signatures and time stamps for tests, built independently of uefi.security."""

import datetime
import functools
import hashlib
from collections.abc import Sequence

from asn1crypto import core  # type: ignore[import-untyped]
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha1": hashes.SHA1(),
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
DIGEST_OIDS = {
    "sha1": "1.3.14.3.2.26",
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
SPC = "1.3.6.1.4.1.311.2.1.4"
DATA = "1.2.840.113549.1.7.1"
TST_INFO = "1.2.840.113549.1.9.16.1.4"


@functools.cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """One of a few keys, made once in a test run: making them is slow."""
    return rsa.generate_private_key(65537, 2048)


_NUMBERS: dict[str, int] = {}


class Identity:
    """A private key and its certificate."""

    def __init__(
        self,
        name: str,
        issuer: "Identity | None" = None,
        *,
        key: PrivateKey | None = None,
        ca: bool | None = None,
        path_length: int | None = None,
        serial: int = 1,
        expired: bool = False,
        key_usage: bool | None = None,
        key_identifier: bool = False,
        unknown_extension: bool = False,
        digest: str = "sha256",
    ) -> None:
        """`ca` None leaves BasicConstraints out; `key_usage` says whether keyCertSign is set, None leaves it out.

        `unknown_extension` adds a critical extension that nobody knows.
        """
        self.name = name
        self.key: PrivateKey = key or rsa_key(_NUMBERS.setdefault(name, len(_NUMBERS) % 7))
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        year = 1999 if expired else 2021
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(self.key.public_key())
            .serial_number(serial)
            .not_valid_before(datetime.datetime(year, 1, 1))
            .not_valid_after(datetime.datetime(year + 1, 1, 1))
        )
        if ca is not None:
            builder = builder.add_extension(x509.BasicConstraints(ca, path_length), critical=True)
        if key_usage is not None:
            usage = x509.KeyUsage(True, False, False, False, False, key_usage, False, False, False)
            builder = builder.add_extension(usage, critical=True)
        if key_identifier:
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False)
        if unknown_extension:
            unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\5\0")
            builder = builder.add_extension(unknown, critical=True)
        signing_key = issuer.key if issuer else self.key
        self.certificate: x509.Certificate = builder.sign(signing_key, HASHES[digest])  # type: ignore[arg-type]
        self.der = self.certificate.public_bytes(serialization.Encoding.DER)
        self.tbs = self.certificate.tbs_certificate_bytes

    def sign(self, message: bytes, digest: str = "sha256") -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            return self.key.sign(message, padding.PKCS1v15(), HASHES[digest])
        return self.key.sign(message, ec.ECDSA(HASHES[digest]))

    def pem_key(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def pem_certificate(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


def tlv(tag: int, *parts: bytes) -> bytes:
    """A DER element."""
    contents = b"".join(parts)
    size = len(contents)
    if size < 0x80:
        return bytes((tag, size)) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + contents


def oid(dotted: str) -> bytes:
    encoded: bytes = core.ObjectIdentifier(dotted).dump()
    return encoded


def attribute(dotted: str, *values: bytes) -> bytes:
    return tlv(0x30, oid(dotted), tlv(0x31, *values))


def algorithm(digest: str) -> bytes:
    return tlv(0x30, oid(DIGEST_OIDS[digest]), tlv(0x05))


def signer_info(
    signer: Identity,
    content: bytes,
    *,
    content_type: str = DATA,
    digest: str = "sha256",
    attributes: bool = True,
    timestamp: bytes | None = None,
    signed_digest: bytes | None = None,
    signed_type: str | None = None,
    extra_attributes: bytes = b"",
) -> bytes:
    """A SignerInfo over `content` (the value bytes); `signed_digest` and `signed_type` put other attributes in."""
    certificate = signer.certificate
    sid = tlv(0x30, certificate.issuer.public_bytes(), core.Integer(certificate.serial_number).dump())
    message, attribute_set = content, b""
    if attributes:
        hashed = signed_digest or hashlib.new(digest, content).digest()
        rows = attribute("1.2.840.113549.1.9.3", oid(signed_type or content_type))
        rows += attribute("1.2.840.113549.1.9.4", tlv(0x04, hashed))
        rows += extra_attributes
        message, attribute_set = tlv(0x31, rows), tlv(0xA0, rows)
    unsigned = tlv(0xA1, attribute("1.3.6.1.4.1.311.3.3.1", timestamp)) if timestamp else b""
    kind = "1.2.840.113549.1.1.1" if isinstance(signer.key, rsa.RSAPrivateKey) else "1.2.840.10045.4.3.2"
    kind_parameters = tlv(0x05) if isinstance(signer.key, rsa.RSAPrivateKey) else b""
    return tlv(
        0x30,
        tlv(0x02, b"\1"),
        sid,
        algorithm(digest),
        attribute_set,
        tlv(0x30, oid(kind), kind_parameters),
        tlv(0x04, signer.sign(message, digest)),
        unsigned,
    )


def signed_data(
    infos: Sequence[bytes],
    certificates: Sequence[Identity],
    *,
    content_type: str = DATA,
    content: bytes | None = None,
    wrapped: bool = True,
    version: int = 1,
) -> bytes:
    """A SignedData, in a ContentInfo if `wrapped`; `content` is the whole DER element, None for a detached one."""
    inner = tlv(0x30, oid(content_type), tlv(0xA0, content) if content is not None else b"")
    embedded = tlv(0xA0, *(each.der for each in certificates)) if certificates else b""
    bare = tlv(0x30, tlv(0x02, bytes([version])), tlv(0x31, algorithm("sha256")), inner, embedded, tlv(0x31, *infos))
    return tlv(0x30, oid("1.2.840.113549.1.7.2"), tlv(0xA0, bare)) if wrapped else bare


def detached(signer: Identity, content: bytes, *others: Identity, wrapped: bool = False) -> bytes:
    """What sign-efi-sig-list makes: detached, no attributes, the signer's certificate and `others` along."""
    return signed_data([signer_info(signer, content, attributes=False)], [signer, *others], wrapped=wrapped)


def timestamp_token(authority: Identity, signature: bytes, moment: str, *, content_type: str = TST_INFO) -> bytes:
    """An RFC 3161 token of `authority` for `signature`; `moment` as "20240102030405Z"."""
    digest = "sha256"
    info = tlv(
        0x30,
        tlv(0x02, b"\1"),
        oid("1.2.3.4"),
        tlv(0x30, algorithm(digest), tlv(0x04, hashlib.new(digest, signature).digest())),
        tlv(0x02, b"\7"),
        tlv(0x18, moment.encode()),
    )
    return signed_data(
        [signer_info(authority, info, content_type=content_type)],
        [authority],
        content_type=content_type,
        content=tlv(0x04, info),
        version=3,
    )


def authenticode(
    signer: Identity,
    image_hash: bytes,
    *others: Identity,
    digest: str = "sha256",
    embed_signer: bool = True,
    authority: Identity | None = None,
    moment: str = "",
) -> bytes:
    """An Authenticode signature for an image with that hash, time-stamped by `authority` at `moment` if given."""
    value = tlv(0x30, oid("1.3.6.1.4.1.311.2.1.15"), tlv(0x30, tlv(0x03, b"\0"), tlv(0xA0, tlv(0xA2, tlv(0x80)))))
    contents = value + tlv(0x30, algorithm(digest), tlv(0x04, image_hash))
    info = signer_info(signer, contents, content_type=SPC, digest=digest)
    if authority:
        # PKCS #1 v1.5 signatures of one message are the same each time: the token's is the one in the next SignerInfo.
        signature = core.load(info)
        token = timestamp_token(authority, signature[5].native, moment)
        info = signer_info(signer, contents, content_type=SPC, digest=digest, timestamp=token)
    certificates = [signer, *others] if embed_signer else list(others)
    return signed_data([info], certificates, content_type=SPC, content=tlv(0x30, contents))
