"""AMD's certificates: VCEK, VLEK, ASK, ASVK, ARK, decoded and checked against each other.

AMD 57230 (VCEK certificate and KDS interface), AMD 56860. All are signed by RSA-4096 with RSASSA-PSS, SHA-384, salt of 48 bytes.
An ARK is trusted for the SHA-256 of its DER, which stands here, never because it came with the evidence. The structure is read
by asn1crypto, because leaves have the serial number 0, which stricter readers refuse; signatures are checked by cryptography.
"""

import hashlib
from datetime import datetime
from functools import cache, lru_cache
from typing import Any

from sev.emulated import EMULATED
from sev.errors import MalformedCertificate
from sev.product import Line, line_named, line_of_extension
from sev.strict_der import require_der
from sev.tcb import KDS_NAMES, places_of

LARGEST_CERTIFICATE = 0x4000

ARK, ASK, ASVK, VCEK, VLEK = "ARK", "ASK", "ASVK", "VCEK", "VLEK"

# SHA-256 of the DER of AMD's roots.
AMD_ROOTS = {
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd": "ARK-Milan",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1": "ARK-Genoa",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a": "ARK-Turin",
}

OID_DESCRIPTION = "2.5.4.13"
OID_PREFIX = "1.3.6.1.4.1.3704.1."
OID_STRUCT_VERSION = OID_PREFIX + "1"
OID_PRODUCT = OID_PREFIX + "2"
OID_HWID = OID_PREFIX + "4"
OID_CSP_ID = OID_PREFIX + "5"
SPL_OIDS = {
    "boot_loader": OID_PREFIX + "3.1",
    "tee": OID_PREFIX + "3.2",
    "snp": OID_PREFIX + "3.3",
    "microcode": OID_PREFIX + "3.8",
    "fmc": OID_PREFIX + "3.9",
}
_KNOWN_CRITICAL = {"2.5.29.15", "2.5.29.19"}
_SALT = 48


class ForeignCertificate(MalformedCertificate):
    """A certificate that is none of AMD's, by its names."""


class Signed:
    """What certificates and CRLs have in common: a signed part, the issuer's name, the signature.

    `sha256` is the fingerprint: SHA-256 of the DER, lower-case hex.
    """

    __slots__ = ("der", "emulated", "issuer", "issuer_cn", "scheme", "sha256", "signature", "tbs")

    der: bytes
    sha256: str
    tbs: bytes
    issuer: bytes
    issuer_cn: str
    scheme: str
    signature: bytes
    emulated: bool

    def signature_problem(self, issuer: "Certificate") -> str | None:
        """Why this was not signed by `issuer`; None if it was: RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt 48."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        if self.scheme != "":
            return (
                f"signature scheme {self.scheme}; wanted RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt of 48 bytes"
            )
        if self.issuer != issuer.subject:
            return f"issued by {self.issuer_cn}, not by {issuer.subject_cn}"
        if issuer.rsa is None:
            return f"the key of {issuer.subject_cn} is {issuer.key_kind}; wanted RSA of 4096 bits"
        pss = padding.PSS(padding.MGF1(hashes.SHA384()), _SALT)
        try:
            key = rsa.RSAPublicNumbers(issuer.rsa[1], issuer.rsa[0]).public_key()
            key.verify(self.signature, self.tbs, pss, hashes.SHA384())
        except InvalidSignature:
            return f"the signature is not by the key of this {issuer.subject_cn}"
        except ValueError as error:
            return f"the key of {issuer.subject_cn} is unusable: {error}"
        return None


class Certificate(Signed):
    """A decoded certificate. `kind` is ARK, ASK, ASVK, VCEK or VLEK, from its names; `line` what they say.

    Leaves have `product_name`, `hwid` (VCEK; empty otherwise), `csp_id` (VLEK), `spl` (levels by the names of sev.tcb),
    `struct_version`, and `ec_point`, the uncompressed P-384 public key. CAs have `rsa`: modulus and exponent.
    `spl_encodings` are the DER bytes of the levels.
    """

    __slots__ = (
        *(
            "_public_key",
            "ca",
            "crl_sign",
            "csp_id",
            "ec_point",
            "extensions",
            "hwid",
            "key_cert_sign",
            "key_kind",
            "kind",
            "line",
        ),
        *("not_after", "not_before", "product_name", "rsa", "serial", "spl", "struct_version", "subject", "subject_cn"),
    )

    subject: bytes
    subject_cn: str
    serial: int
    not_before: datetime
    not_after: datetime
    kind: str
    line: Line
    ca: bool
    key_cert_sign: bool
    crl_sign: bool
    extensions: dict[str, bytes]
    key_kind: str
    rsa: tuple[int, int] | None
    ec_point: bytes
    product_name: str
    hwid: bytes
    csp_id: str
    spl: dict[str, int]
    struct_version: int
    _public_key: Any

    @classmethod
    def decode(cls, der: bytes) -> "Certificate":
        """Read one DER certificate of at most 16 KiB. MalformedCertificate for anything that is not one of AMD's kinds.

        Who reads the same bytes again may get the same object: nothing in it changes.
        """
        if not 0 < len(der) <= LARGEST_CERTIFICATE:
            raise MalformedCertificate(f"certificate of {len(der)} bytes; wanted 1 to {LARGEST_CERTIFICATE}")
        return _decoded(bytes(der))

    @classmethod
    def _decode(cls, der: bytes) -> "Certificate":
        from asn1crypto import x509  # type: ignore[import-untyped]

        self = cls()
        try:
            self._read(x509.Certificate.load(der, strict=True), der)
        except MalformedCertificate:
            raise
        except Exception as error:  # asn1crypto decodes lazily and has no exception of its own
            raise MalformedCertificate(f"no certificate in DER: {_first_line(error)}") from None
        return self

    def _read(self, parsed: Any, der: bytes) -> None:
        tbs = parsed["tbs_certificate"]
        self.der, self.sha256 = der, hashlib.sha256(der).hexdigest()
        self.tbs = tbs.dump()
        self.signature = parsed["signature_value"].native
        require_der(der, self.tbs, parsed["signature_algorithm"].dump(), self.signature)
        self.scheme = scheme_problem(parsed["signature_algorithm"], tbs["signature"])
        self.subject = tbs["subject"].dump()
        self.issuer = tbs["issuer"].dump()
        self.subject_cn = _common_name(tbs["subject"])
        self.issuer_cn = _common_name(tbs["issuer"])
        self.emulated = is_emulated(tbs["subject"]) or is_emulated(tbs["issuer"])
        self.serial = tbs["serial_number"].native
        self.not_before = tbs["validity"]["not_before"].native
        self.not_after = tbs["validity"]["not_after"].native
        if tbs["version"].native != "v3":
            raise MalformedCertificate(f"certificate of version {tbs['version'].native}; wanted v3")
        if self.serial < 0:
            raise MalformedCertificate(f"serial number {self.serial} of {self.subject_cn}; wanted 0 or more")
        self.kind, self.line = _kind_of(self.subject_cn, self.issuer_cn)
        self._read_extensions(tbs)
        self._read_key(tbs["subject_public_key_info"])
        self.product_name, self.csp_id, self.hwid, self.spl, self.struct_version = "", "", b"", {}, 0
        if self.kind in (VCEK, VLEK):
            self._read_leaf()

    def _read_extensions(self, tbs: Any) -> None:
        self.extensions = {}
        self.ca = self.key_cert_sign = self.crl_sign = False
        for extension in tbs["extensions"]:
            oid = extension["extn_id"].dotted
            if oid in self.extensions:
                raise MalformedCertificate(f"extension {oid} twice in the {self.kind}")
            if extension["critical"].native and oid not in _KNOWN_CRITICAL:
                raise MalformedCertificate(f"unknown critical extension {oid} in the {self.kind}")
            self.extensions[oid] = extension["extn_value"].contents
            if oid == "2.5.29.19":
                self.ca = bool(extension["extn_value"].parsed["ca"].native)
            elif oid == "2.5.29.15":
                usage = extension["extn_value"].parsed.native
                self.key_cert_sign = "key_cert_sign" in usage
                self.crl_sign = "crl_sign" in usage

    def _read_key(self, info: Any) -> None:
        self.rsa, self.ec_point, self._public_key = None, b"", None
        self.key_kind = info["algorithm"]["algorithm"].native
        if self.key_kind == "rsa":
            key = info["public_key"].parsed
            modulus, exponent = key["modulus"].native, key["public_exponent"].native
            self.key_kind = f"RSA of {modulus.bit_length()} bits, exponent {exponent}"
            if modulus.bit_length() == 4096 and exponent == 65537:
                self.rsa = modulus, exponent
        elif self.key_kind == "ec":
            curve = info["algorithm"]["parameters"].native
            point = info["public_key"].native
            self.key_kind = f"EC {curve}"
            if curve == "secp384r1" and len(point) == 97 and point[0] == 4:
                self.ec_point = point

    def _read_leaf(self) -> None:
        if not self.ec_point:
            raise MalformedCertificate(f"the {self.kind}'s key is {self.key_kind}; wanted EC P-384, uncompressed")
        if self.ca:
            raise MalformedCertificate(f"the {self.kind} says that it is a CA")
        self.struct_version = _integer(self._extension(OID_STRUCT_VERSION), "struct version")
        self.product_name = _ia5(self._extension(OID_PRODUCT), "product name")
        named = line_of_extension(self.product_name)
        if named is not self.line:
            raise MalformedCertificate(
                f"product name {self.product_name!r} in a {self.kind} issued by {self.issuer_cn}"
            )
        for name in places_of(self.line):
            self.spl[name] = _integer(self._extension(SPL_OIDS[name]), KDS_NAMES[name])
        if self.kind == VLEK:
            self.csp_id = _ia5(self._extension(OID_CSP_ID), "CSP id")
            return
        self.hwid = self._extension(OID_HWID)
        if len(self.hwid) != self.line.hwid_size:
            raise MalformedCertificate(
                f"HWID extension of {len(self.hwid)} bytes in the VCEK; wanted {self.line.hwid_size} for {self.line.name}"
            )

    def _extension(self, oid: str) -> bytes:
        value = self.extensions.get(oid)
        if value is None:
            raise MalformedCertificate(f"the {self.kind} lacks the extension {oid}")
        return value

    def verifies(self, r: int, s: int, data: bytes) -> bool:
        """Whether (r, s) is this leaf's ECDSA P-384 signature with SHA-384 over `data`."""
        try:
            key = self._public_key
            if key is None:
                key = self._public_key = _p384().key(self.ec_point)
            return _p384().verifies(key, r, s, data)
        except ValueError:  # the point is not on the curve, or r and s are no numbers of a signature
            return False

    @property
    def amd_root(self) -> bool:
        """Whether this is an ARK of AMD's, by its fingerprint."""
        return self.sha256 in AMD_ROOTS

    def __repr__(self) -> str:
        return f"Certificate({self.subject_cn}, issued by {self.issuer_cn}, serial {self.serial:#x})"


# A fleet's records bring the same few certificates again and again; 512 of them are at most 8 MiB of DER.
@lru_cache(maxsize=512)
def _decoded(der: bytes) -> Certificate:
    return Certificate._decode(der)


class _P384:
    """ECDSA P-384 with SHA-384, its parts imported and made once: this runs for each report."""

    __slots__ = ("_algorithm", "_curve", "_encode", "_from_point", "_invalid")

    def __init__(self) -> None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        self._algorithm = ec.ECDSA(hashes.SHA384())
        self._curve = ec.SECP384R1()
        self._encode = encode_dss_signature
        self._from_point = ec.EllipticCurvePublicKey.from_encoded_point
        self._invalid = InvalidSignature

    def key(self, point: bytes) -> Any:
        return self._from_point(self._curve, point)

    def verifies(self, key: Any, r: int, s: int, data: bytes) -> bool:
        try:
            key.verify(self._encode(r, s), data, self._algorithm)
        except self._invalid:
            return False
        return True


@cache
def _p384() -> _P384:
    return _P384()


def _kind_of(subject: str, issuer: str) -> tuple[str, Line]:
    """Kind and line by the common names of subject and issuer (AMD 57230, certificate fields)."""
    leaf = {"SEV-VCEK": (VCEK, "SEV-"), "SEV-VLEK": (VLEK, "SEV-VLEK-")}.get(subject)
    if leaf:
        kind, prefix = leaf
        line = line_named(issuer.removeprefix(prefix))
        if line and issuer.startswith(prefix):
            return kind, line
        raise MalformedCertificate(f"{subject} issued by {issuer!r}; wanted {prefix}<line>")
    for kind, prefix in ((ASVK, "SEV-VLEK-"), (ARK, "ARK-"), (ASK, "SEV-")):
        line = line_named(subject.removeprefix(prefix))
        if line and subject.startswith(prefix):
            return kind, line
    raise ForeignCertificate(f"certificate of {subject[:80]!r}; wanted a VCEK, VLEK, ASK, ASVK or ARK of AMD's")


def scheme_problem(outer: Any, inner: Any) -> str:
    """What is wrong with the AlgorithmIdentifiers (asn1crypto's) of a signature; "" if they are as AMD's."""
    if outer.dump() != inner.dump():
        return "named differently inside and outside of the signed part"
    if outer["algorithm"].native != "rsassa_pss":
        return str(outer["algorithm"].native)
    parameters = outer["parameters"].native
    found = (
        parameters["hash_algorithm"]["algorithm"],
        parameters["mask_gen_algorithm"]["algorithm"],
        parameters["mask_gen_algorithm"]["parameters"]["algorithm"],
        parameters["salt_length"],
        parameters["trailer_field"],
    )
    wanted = ("sha384", "mgf1", "sha384", _SALT, "trailer_field_bc")
    return "" if found == wanted else f"RSASSA-PSS with {', '.join(map(str, found))}"


def is_emulated(name: Any) -> bool:
    """Whether a Name (asn1crypto's) carries the mark of an emulated platform."""
    return any(
        pair["type"].dotted == OID_DESCRIPTION and pair["value"].native == EMULATED
        for relative in name.chosen
        for pair in relative
    )


def _common_name(name: Any) -> str:
    found = [pair["value"].native for relative in name.chosen for pair in relative if pair["type"].dotted == "2.5.4.3"]
    if len(found) != 1:
        raise MalformedCertificate(f"a name with {len(found)} common names; wanted 1")
    return str(found[0])


def _integer(der: bytes, what: str) -> int:
    """A DER INTEGER from 0 to 255: two bytes of value from 0x80 on."""
    if der[:1] == b"\x02" and len(der) >= 3 and der[1] == len(der) - 2:
        value = int.from_bytes(der[2:], "big", signed=True)
        if 0 <= value <= 255 and len(der) == (3 if value < 0x80 else 4):
            return value
    raise MalformedCertificate(f"{what} extension {der[:8].hex()}; wanted a DER INTEGER from 0 to 255")


def _ia5(der: bytes, what: str) -> str:
    """A DER IA5String of at most 127 characters."""
    if der[:1] == b"\x16" and len(der) >= 2 and der[1] == len(der) - 2 < 128:
        try:
            return der[2:].decode("ascii")
        except UnicodeDecodeError:
            pass
    raise MalformedCertificate(f"{what} extension {der[:8].hex()}; wanted a DER IA5String")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
