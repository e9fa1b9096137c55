"""X.509 certificates as Secure Boot uses them: chains to a trusted one, without validity dates (UEFI 2.10, 32.4)."""

from collections.abc import Iterable, Sequence
from typing import Any

from uefi.security.errors import Pkcs7Error, one_line

MAX_CERTIFICATE_SIZE = 1 << 16
"""Bytes of one DER certificate; real ones have one to two thousand."""

MAX_CHAIN = 10
"""Certificates between a signer and its trusted certificate, both counted."""

_HARMLESS_CRITICAL = frozenset(
    (
        "basic_constraints",
        "certificate_policies",
        "crl_distribution_points",
        "extended_key_usage",
        "inhibit_any_policy",
        "key_usage",
        "netscape_certificate_type",  # critical in Debian's Secure Boot CA
        "policy_constraints",
        "policy_mappings",
        "subject_alt_name",
    )
)
"""Critical extensions that are looked at, or that say nothing about who may sign an image (as OpenSSL in edk2)."""


class Certificate:
    """What Secure Boot needs of one X.509 certificate, copied out of its DER."""

    __slots__ = (
        "_key",
        "_key_info",
        "_outer_algorithm",
        "_signature",
        "common_name",
        "der",
        "issuer",
        "key_identifier",
        "may_sign",
        "path_length",
        "serial",
        "subject",
        "tbs",
        "unhandled",
    )

    def __init__(self, der: bytes) -> None:
        """From DER, perhaps with padding behind it; Pkcs7Error if it is no X.509 certificate."""
        from asn1crypto import x509  # type: ignore[import-untyped]

        if len(der) > MAX_CERTIFICATE_SIZE:
            raise Pkcs7Error(f"certificate of {len(der)} bytes, at most {MAX_CERTIFICATE_SIZE} are read")
        try:
            parsed = x509.Certificate.load(der)
            self.der: bytes = parsed.dump()
            self._copy(parsed)
        except Exception as error:  # asn1crypto parses lazily and raises whatever its layers meet in hostile bytes
            raise Pkcs7Error(f"not an X.509 certificate: {one_line(error)}") from None
        self._key: Any = None

    def _copy(self, parsed: Any) -> None:
        tbs = parsed["tbs_certificate"]
        self.tbs: bytes = tbs.dump()
        """TBSCertificate in DER: what X509_SHA256 entries of dbx hash."""
        self.subject: bytes = parsed.subject.dump()
        self.issuer: bytes = parsed.issuer.dump()
        self.serial: int = parsed.serial_number
        self.key_identifier: bytes | None = parsed.key_identifier
        names = parsed.subject.native.get("common_name", "")
        self.common_name: str = str(names[0] if isinstance(names, list) else names)
        algorithm = parsed["signature_algorithm"]
        if algorithm.dump() != tbs["signature"].dump():
            raise ValueError("its two signature algorithms differ")
        self._outer_algorithm: tuple[str, str] = _algorithm(algorithm)
        self._signature: bytes = parsed["signature_value"].native
        self._key_info: bytes = parsed.public_key.dump()
        self.unhandled: bool = bool(set(parsed.critical_extensions) - _HARMLESS_CRITICAL)
        constraints, usage = parsed.basic_constraints_value, parsed.key_usage_value
        may_sign_by_usage = usage is None or "key_cert_sign" in usage.native
        self.path_length: int | None = None
        if constraints is not None:
            self.may_sign: bool = bool(constraints["ca"].native) and may_sign_by_usage
            self.path_length = constraints["path_len_constraint"].native
        elif usage is not None:
            self.may_sign = may_sign_by_usage
        else:
            # Version 1 has no extensions; such a root signs, an end entity of it must not.
            self.may_sign = tbs["version"].native == "v1" and self.subject == self.issuer

    @property
    def self_issued(self) -> bool:
        """Whether subject and issuer are the same name."""
        return self.subject == self.issuer

    @property
    def key(self) -> Any:
        """The public key, an object of `cryptography`; Pkcs7Error if that cannot read it."""
        if self._key is None:
            from cryptography.hazmat.primitives.serialization import load_der_public_key

            try:
                self._key = load_der_public_key(self._key_info)
            except Exception as error:  # ValueError, UnsupportedAlgorithm and Rust-side errors alike
                raise Pkcs7Error(f"unusable public key: {one_line(error)}") from None
        return self._key

    def signed_by(self, issuer: "Certificate") -> bool:
        """Whether `issuer` is named as the issuer, may sign certificates, and its key verifies this signature."""
        if self.issuer != issuer.subject or not issuer.may_sign or issuer.unhandled:
            return False
        kind, digest = self._outer_algorithm
        return signature_is_good(issuer, kind, digest, self._signature, self.tbs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Certificate) and self.der == other.der

    def __hash__(self) -> int:
        return hash(self.der)

    def __repr__(self) -> str:
        return f"<Certificate {self.common_name!r}>"


def readable(ders: Iterable[bytes]) -> list[Certificate]:
    """The certificates of a database; one that cannot be read is left out, for it can neither permit nor forbid."""
    found = []
    for der in ders:
        try:
            found.append(Certificate(der))
        except Pkcs7Error:
            continue
    return found


def signature_is_good(signer: Certificate, kind: str, digest: str, signature: bytes, message: bytes) -> bool:
    """Verify `signature` over `message` by `signer`'s key.

    `kind` is asn1crypto's name, "rsassa_pkcs1v15" or "ecdsa"; `digest` a hashlib name. False for anything else or a key
    of another type.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    # SHA-1 still stands under certificates of 2010 and before; a signer's own digest is checked by pkcs7.
    known = {"sha1": hashes.SHA1(), "sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
    algorithm = known.get(digest)
    if algorithm is None:
        return False
    try:
        key = signer.key
        if kind == "rsassa_pkcs1v15" and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), algorithm)
        elif kind == "ecdsa" and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, message, ec.ECDSA(algorithm))
        else:
            return False
    except (InvalidSignature, UnsupportedAlgorithm, Pkcs7Error, ValueError):
        return False
    return True


def find_chain(
    leaf: Certificate, pool: Sequence[Certificate], anchors: Iterable[Certificate]
) -> list[Certificate] | None:
    """The shortest chain from `leaf` over certificates of `pool` to one of `anchors`, both ends included; None if none.

    Any certificate may be an anchor, the leaf itself or one below a root too. Validity dates are not looked at (a
    firmware cannot trust its clock, and edk2 ignores them too). Each certificate is tried once, so the work is bounded.
    """
    trusted = list(dict.fromkeys(anchors))
    if leaf.unhandled or not trusted:
        return None
    if leaf in trusted:
        return [leaf]
    paths = [[leaf]]
    seen = {leaf}
    for path in paths:
        if len(path) >= MAX_CHAIN:
            break
        below = sum(not each.self_issued for each in path[1:])
        for candidates, final in ((trusted, True), (pool, False)):
            for issuer in candidates:
                if issuer in seen or (issuer.path_length is not None and issuer.path_length < below):
                    continue
                if not path[-1].signed_by(issuer):
                    continue
                if final:
                    return [*path, issuer]
                seen.add(issuer)
                paths.append([*path, issuer])
    return None


def embedded_chain(leaf: Certificate, pool: Sequence[Certificate]) -> list[Certificate]:
    """The chain from `leaf` as far up as `pool` goes, to the "top-level issuer certificate" of UEFI 2.10, 8.2."""
    chain = [leaf]
    while len(chain) < MAX_CHAIN and not chain[-1].self_issued:
        issuer = next((each for each in pool if each not in chain and chain[-1].signed_by(each)), None)
        if issuer is None:
            break
        chain.append(issuer)
    return chain


def _algorithm(parsed: Any) -> tuple[str, str]:
    """(kind, digest) of a SignedDigestAlgorithm; ("", "") for one that has no such parts."""
    try:
        return parsed.signature_algo, parsed.hash_algo
    except ValueError:
        return "", ""
