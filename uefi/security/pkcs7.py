"""PKCS#7 SignedData (RFC 2315, RFC 5652): parse, and verify against trusted certificates.

Both users are in UEFI 2.10: authenticated variables (8.2, detached) and signed images (32.2.4, embedded content).
"""

from collections.abc import Iterable
from typing import Any

from uefi.security.certificates import Certificate, find_chain, signature_is_good
from uefi.security.errors import Pkcs7Error, VerificationError, one_line

MAX_SIZE = 1 << 20
"""Bytes of one SignedData that are looked at."""

MAX_CERTIFICATES = 32
MAX_SIGNERS = 8

DATA = "1.2.840.113549.1.7.1"
"""Content type id-data."""
SIGNED_DATA = "1.2.840.113549.1.7.2"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
"""Content type of an RFC 3161 time stamp token."""
SPC_INDIRECT_DATA = "1.3.6.1.4.1.311.2.1.4"
"""Content type of Authenticode."""

_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_RFC3161_TOKEN = "1.3.6.1.4.1.311.3.3.1"

DIGESTS = ("sha256", "sha384", "sha512")
"""Digest algorithms of a signer that are accepted."""


class Signer:
    """One SignerInfo, copied out of its DER."""

    __slots__ = (
        "attribute_content_type",
        "digest",
        "issuer",
        "key_identifier",
        "kind",
        "message_digest",
        "serial",
        "signature",
        "signed_attributes",
        "timestamps",
    )

    def __init__(self, parsed: Any) -> None:
        self.digest: str = parsed["digest_algorithm"]["algorithm"].native
        self.kind: str = parsed["signature_algorithm"].signature_algo
        self.signature: bytes = parsed["signature"].native
        self.issuer: bytes | None = None
        self.serial: int | None = None
        self.key_identifier: bytes | None = None
        sid = parsed["sid"]
        if sid.name == "issuer_and_serial_number":
            self.issuer = sid.chosen["issuer"].dump()
            self.serial = sid.chosen["serial_number"].native
        else:
            self.key_identifier = sid.chosen.native
        self.signed_attributes: bytes | None = None
        """The authenticated attributes as the SET OF that the signature covers."""
        self.attribute_content_type: str | None = None
        self.message_digest: bytes | None = None
        attributes = parsed["signed_attrs"]
        if _present(attributes):
            self.signed_attributes = _tlv(0x31, attributes.contents)
            self.attribute_content_type = _single(attributes, _CONTENT_TYPE).dotted
            self.message_digest = _single(attributes, _MESSAGE_DIGEST).native
        self.timestamps: list[bytes] = []
        """The RFC 3161 tokens among the unauthenticated attributes, each a ContentInfo in DER."""
        unsigned = parsed["unsigned_attrs"]
        if _present(unsigned):
            for attribute in unsigned:
                if attribute["type"].dotted == _RFC3161_TOKEN:
                    self.timestamps += [value.dump() for value in attribute["values"]]

    def certificate(self, pool: Iterable[Certificate]) -> Certificate | None:
        """The signer's certificate, found in `pool` by issuer and serial number or by key identifier."""
        for each in pool:
            if self.key_identifier is not None:
                if each.key_identifier == self.key_identifier:
                    return each
            elif each.serial == self.serial and each.issuer == self.issuer:
                return each
        return None


class SignedData:
    """A parsed SignedData: `content_type` (dotted), `content` (None if detached), `certificates`, `signers`."""

    __slots__ = ("certificates", "content", "content_type", "signers")

    def __init__(self, parsed: Any) -> None:
        inner = parsed["encap_content_info"]
        self.content_type: str = inner["content_type"].dotted
        self.content: bytes | None = _content(inner.dump())
        """The value bytes of the content, without its tag and length: what the digest is over."""
        embedded = parsed["certificates"]
        choices = [each for each in embedded if each.name == "certificate"] if _present(embedded) else []
        infos = parsed["signer_infos"]
        if len(choices) > MAX_CERTIFICATES or len(infos) > MAX_SIGNERS:
            raise Pkcs7Error(
                f"{len(choices)} certificates and {len(infos)} signers, "
                f"at most {MAX_CERTIFICATES} and {MAX_SIGNERS} are looked at"
            )
        self.certificates = [Certificate(each.chosen.dump()) for each in choices]
        self.signers = [Signer(each) for each in infos]


def parse(data: bytes) -> SignedData:
    """A SignedData from DER, bare or inside a ContentInfo, perhaps with padding behind it; Pkcs7Error otherwise."""
    from asn1crypto import cms  # type: ignore[import-untyped]

    if len(data) > MAX_SIZE:
        raise Pkcs7Error(f"PKCS#7 data of {len(data)} bytes, at most {MAX_SIZE} are read")
    try:
        _, _, _, _, contents, _ = _element(data)
        # A ContentInfo begins with an object identifier, a SignedData with its version number.
        if contents[:1] == b"\x06":
            outer = cms.ContentInfo.load(data)
            if outer["content_type"].dotted != SIGNED_DATA:
                raise Pkcs7Error(
                    f"PKCS#7 content type {outer['content_type'].dotted}, wanted SignedData ({SIGNED_DATA})"
                )
            return SignedData(outer["content"])
        return SignedData(cms.SignedData.load(data))
    except Pkcs7Error:
        raise
    except Exception as error:  # asn1crypto parses lazily and raises whatever its layers meet in hostile bytes
        raise Pkcs7Error(f"not a PKCS#7 SignedData: {one_line(error)}") from None


def verify(
    signed: SignedData, anchors: Iterable[Certificate], detached: bytes | None = None
) -> list[list[Certificate]]:
    """Verify every signer of `signed` and lead each to one of `anchors`; the chains, in the signers' order.

    `detached` is the content if `signed` carries none. No validity dates, no revocation. VerificationError says what
    failed: no signer, no certificate, another digest, a bad signature, or no trusted certificate.
    """
    trusted = list(anchors)
    chains = []
    for signer, certificate in zip(signed.signers, verify_signatures(signed, detached, trusted), strict=True):
        chain = find_chain(certificate, signed.certificates, trusted)
        if chain is None:
            raise VerificationError(
                f"signer {certificate.common_name!r} (serial {signer.serial}) leads to no trusted certificate"
            )
        chains.append(chain)
    return chains


def verify_signatures(
    signed: SignedData, detached: bytes | None = None, more: Iterable[Certificate] = ()
) -> list[Certificate]:
    """The first half of `verify`: every signature is good by its signer's certificate, trusted or not.

    Certificates are looked for in `signed` and in `more`. Returns the signers' certificates.
    """
    if not signed.signers:
        raise VerificationError("the SignedData has no signer")
    if signed.content is not None and detached is not None:
        raise VerificationError("the SignedData has content of its own, wanted a detached signature")
    content = signed.content if detached is None else detached
    if content is None:
        raise VerificationError("the SignedData is detached and no content was given")
    pool = [*signed.certificates, *more]
    found = []
    for signer in signed.signers:
        certificate = signer.certificate(pool)
        if certificate is None:
            raise VerificationError("the signer's certificate is not in the SignedData")
        _verify_signer(signed, signer, certificate, content)
        found.append(certificate)
    return found


def _verify_signer(signed: SignedData, signer: Signer, certificate: Certificate, content: bytes) -> None:
    import hashlib

    if signer.digest not in DIGESTS:
        raise VerificationError(f"digest algorithm {signer.digest}, wanted one of {', '.join(DIGESTS)}")
    message = content
    if signer.signed_attributes is not None:
        message = signer.signed_attributes
        if signer.attribute_content_type != signed.content_type:
            raise VerificationError(
                f"signed content type {signer.attribute_content_type} differs from {signed.content_type}"
            )
        digest = hashlib.new(signer.digest, content).digest()
        if signer.message_digest != digest:
            seen = (signer.message_digest or b"").hex()
            raise VerificationError(f"signed {signer.digest} digest is {seen}, the content's is {digest.hex()}")
    elif signed.content_type != DATA:
        # RFC 5652, 5.3; else a signature over attributes could pass for one over content.
        raise VerificationError(f"content of type {signed.content_type} is signed without attributes")
    if not signature_is_good(certificate, signer.kind, signer.digest, signer.signature, message):
        raise VerificationError(f"the signature is not by the key of {certificate.common_name!r}")


def _present(field: Any) -> bool:
    """Whether an optional field is there, if only empty."""
    from asn1crypto import core

    return not isinstance(field, core.Void)


def _single(attributes: Any, dotted: str) -> Any:
    """The one value of the one attribute of that type (RFC 5652, 11.1 and 11.2)."""
    found = [each for each in attributes if each["type"].dotted == dotted]
    if len(found) != 1 or len(found[0]["values"]) != 1:
        raise Pkcs7Error(f"{len(found)} signed attributes {dotted}, wanted one with one value")
    return found[0]["values"][0]


def _content(inner: bytes) -> bytes | None:
    """The value bytes of the content of a ContentInfo or EncapsulatedContentInfo in DER."""
    fields = _element(inner)[4]
    _, _, _, header, oid, trailer = _element(fields)
    explicit = fields[len(header) + len(oid) + len(trailer) :]
    if not explicit:
        return None
    _, method, tag, _, contents, _ = _element(_element(explicit)[4])
    if tag == 4 and method:
        raise Pkcs7Error("the content is an OCTET STRING in pieces, wanted one in DER")
    return contents


def _element(data: bytes) -> tuple[int, int, int, bytes, bytes, bytes]:
    """(class, method, tag, header, contents, trailer) of the first element in `data`."""
    from asn1crypto import parser

    element: tuple[int, int, int, bytes, bytes, bytes] = parser.parse(data)
    return element


def _tlv(tag: int, contents: bytes) -> bytes:
    size = len(contents)
    if size < 0x80:
        return bytes((tag, size)) + contents
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + contents
