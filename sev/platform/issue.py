"""Issues certificates and CRLs with AMD's structure, byte for byte as AMD's authorities encode them, for an emulated platform.

AMD 57230 (VCEK certificate fields). The names are AMD's, too, so that parsers of AMD's certificates take these, but each begins
with a description that says that they are emulated; and CRL addresses are under .invalid.
"""

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING

from sev.certificates import (
    OID_CSP_ID,
    OID_DESCRIPTION,
    OID_HWID,
    OID_PREFIX,
    OID_PRODUCT,
    OID_STRUCT_VERSION,
    SPL_OIDS,
)
from sev.emulated import EMULATED
from sev.platform import der
from sev.product import LINES, MILAN, Line
from sev.tcb import Tcb

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

# In the order of AMD's certificates; digits are the spare SPLs, always 0.
_SPL_ORDER = ("boot_loader", "tee", "4", "5", "6", "7", "snp", "microcode")
_SPL_ORDER_FMC = ("fmc", "boot_loader", "tee", "snp", "5", "6", "7", "microcode")
_SALT = 48

# RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt 48 (RFC 4055).
_SHA384 = der.sequence(der.oid("2.16.840.1.101.3.4.2.2"), der.null())
_PSS = der.sequence(
    der.oid("1.2.840.113549.1.1.10"),
    der.sequence(
        der.context(0, _SHA384),
        der.context(1, der.sequence(der.oid("1.2.840.113549.1.1.8"), _SHA384)),
        der.context(2, der.integer(_SALT)),
    ),
)


def distinguished_name(common_name: str) -> bytes:
    """A Name as AMD's certificates have it, with the mark of an emulated platform in front."""
    parts = (
        (OID_DESCRIPTION, der.utf8(EMULATED)),
        ("2.5.4.11", der.utf8("Engineering")),
        ("2.5.4.6", der.printable("US")),
        ("2.5.4.7", der.utf8("Santa Clara")),
        ("2.5.4.8", der.utf8("CA")),
        ("2.5.4.10", der.utf8("Advanced Micro Devices")),
        ("2.5.4.3", der.utf8(common_name)),
    )
    return der.sequence(*(der.set_of(der.sequence(der.oid(oid), value)) for oid, value in parts))


def _extension(oid: str, value: bytes, critical: bool = False) -> bytes:
    return der.sequence(der.oid(oid), der.boolean_true() if critical else b"", der.octets(value))


def _sign(tbs: bytes, key: "RSAPrivateKey") -> bytes:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import padding

    signature = key.sign(tbs, padding.PSS(padding.MGF1(hashes.SHA384()), _SALT), hashes.SHA384())
    return der.sequence(tbs, _PSS, der.bits(signature))


def _certificate(
    serial: int,
    names: tuple[str, str],
    validity: tuple[datetime, datetime],
    public_key: bytes,
    extensions: list[bytes],
    issuer_key: "RSAPrivateKey",
) -> bytes:
    subject, issuer = names
    tbs = der.sequence(
        der.context(0, der.integer(2)),
        der.integer(serial),
        _PSS,
        distinguished_name(issuer),
        der.sequence(der.time(validity[0]), der.time(validity[1])),
        distinguished_name(subject),
        public_key,
        der.context(3, der.sequence(*extensions)),
    )
    return _sign(tbs, issuer_key)


def _public_bytes(key: "RSAPrivateKey") -> tuple[bytes, bytes]:
    """SubjectPublicKeyInfo and key identifier (RFC 5280, 4.2.1.2, method 1)."""
    from cryptography.hazmat.primitives import serialization

    encoding, form = serialization.Encoding.DER, serialization.PublicFormat
    bare = key.public_key().public_bytes(encoding, form.PKCS1)
    return key.public_key().public_bytes(encoding, form.SubjectPublicKeyInfo), hashlib.sha1(bare).digest()


def _crl_address(line: Line, kind: str) -> bytes:
    address = f"https://kds.cvmboot.invalid/{kind}/v1/{line.name}/crl"
    point = der.context(0, der.context(0, der.tagged(0x86, address.encode())))
    return _extension("2.5.29.31", der.sequence(der.sequence(point)))


def issue_ark(line: Line, key: "RSAPrivateKey", validity: tuple[datetime, datetime]) -> bytes:
    """The self-signed root of a line, in DER."""
    public_key, identifier = _public_bytes(key)
    extensions = [
        _extension("2.5.29.15", der.bits(b"\x06", 1), critical=True),
        _extension("2.5.29.14", der.octets(identifier)),
        _extension("2.5.29.19", der.sequence(der.boolean_true()), critical=True),
        _crl_address(line, "vcek"),
    ]
    name = f"ARK-{line.name}"
    return _certificate(LINES.index(line) + 1 << 16, (name, name), validity, public_key, extensions, key)


def issue_intermediate(
    line: Line, vlek: bool, key: "RSAPrivateKey", ark: "RSAPrivateKey", validity: tuple[datetime, datetime]
) -> bytes:
    """The ASK of a line, or with `vlek` its ASVK, in DER."""
    public_key, identifier = _public_bytes(key)
    extensions = [
        _extension("2.5.29.14", der.octets(identifier)),
        _extension("2.5.29.35", der.sequence(der.tagged(0x80, _public_bytes(ark)[1]))),
        _extension("2.5.29.19", der.sequence(der.boolean_true(), der.integer(0)), critical=True),
        _extension("2.5.29.15", der.bits(b"\x04", 1), critical=True),
        _crl_address(line, "vlek" if vlek else "vcek"),
    ]
    serial = (LINES.index(line) + 1 << 16) + (0x101 if vlek else 1)
    names = f"SEV-VLEK-{line.name}" if vlek else f"SEV-{line.name}", f"ARK-{line.name}"
    return _certificate(serial, names, validity, public_key, extensions, ark)


def issue_leaf(
    tcb: Tcb,
    identity: bytes | str,
    point: bytes,
    issuer_key: "RSAPrivateKey",
    validity: tuple[datetime, datetime],
) -> bytes:
    """A VCEK for the HWID (bytes) or a VLEK for the CSP id (text) `identity`, in DER, for an uncompressed P-384 point."""
    line = tcb.line
    vlek = isinstance(identity, str)
    product = "Milan-B0" if line is MILAN and not vlek else line.name
    extensions = [
        _extension(OID_STRUCT_VERSION, der.integer(1 if line.has_fmc else 0)),
        _extension(OID_PRODUCT, der.ia5(product)),
    ]
    for name in _SPL_ORDER_FMC if line.has_fmc else _SPL_ORDER:
        oid = f"{OID_PREFIX}3.{name}" if name.isdigit() else SPL_OIDS[name]
        extensions.append(_extension(oid, der.integer(tcb.spl.get(name, 0))))
    if isinstance(identity, str):
        extensions.append(_extension(OID_CSP_ID, der.ia5(identity)))
    else:
        extensions.append(_extension(OID_HWID, identity))
    curve = der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.3.132.0.34"))
    names = ("SEV-VLEK", f"SEV-VLEK-{line.name}") if vlek else ("SEV-VCEK", f"SEV-{line.name}")
    return _certificate(0, names, validity, der.sequence(curve, der.bits(point)), extensions, issuer_key)


def issue_crl(
    line: Line, ark: "RSAPrivateKey", number: int, times: tuple[datetime, datetime], revoked: dict[int, datetime]
) -> bytes:
    """The CRL of a line's ARK, in DER: `times` are thisUpdate and nextUpdate, `revoked` serial numbers with their time."""
    entries = [der.sequence(der.integer(serial), der.time(moment)) for serial, moment in sorted(revoked.items())]
    extensions = der.sequence(
        _extension("2.5.29.35", der.sequence(der.tagged(0x80, _public_bytes(ark)[1]))),
        _extension("2.5.29.20", der.integer(number)),
    )
    tbs = der.sequence(
        der.integer(1),
        _PSS,
        distinguished_name(f"ARK-{line.name}"),
        der.time(times[0]),
        der.time(times[1]),
        der.sequence(*entries) if entries else b"",
        der.context(0, extensions),
    )
    return _sign(tbs, ark)
