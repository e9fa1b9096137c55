"""Whether a certificate is made as AMD makes them: version, signature scheme, key, basic constraints, key usage, extensions.

AMD 57230 (certificate fields), RFC 4055 (RSASSA-PSS parameters), RFC 5280. What breaks the structure itself, a leaf without its
extensions, an extension twice, a negative serial number, is refused by sev.certificates before it gets here.
"""

from sev.certificates import (
    ARK,
    OID_CSP_ID,
    OID_HWID,
    OID_PREFIX,
    OID_PRODUCT,
    OID_STRUCT_VERSION,
    SPL_OIDS,
    VCEK,
    VLEK,
    Certificate,
)
from sev.tcb import places_of
from sev.verdict import Verdict

_LEAF_WANTED = "v3, EC P-384, signed with RSASSA-PSS SHA-384 salt 48, no CA"
_CA_WANTED = "v3, RSA-4096, signed with RSASSA-PSS SHA-384 salt 48, CA, key usage {}"
_SPL_PREFIX = OID_PREFIX + "3."
_OWN = frozenset({OID_STRUCT_VERSION, OID_PRODUCT, OID_HWID, OID_CSP_ID})
# Subject and authority key identifier, key usage, basic constraints, CRL distribution points, authority information access.
_COMMON = frozenset({"2.5.29.14", "2.5.29.35", "2.5.29.15", "2.5.29.19", "2.5.29.31", "1.3.6.1.5.5.7.1.1"})
_ZERO = b"\x02\x01\x00"


def check_profile(verdict: Verdict, certificate: Certificate) -> None:
    """Add the check of one certificate's profile to a verdict. An extension that nobody knows, and that says it may be ignored,
    is named in what was seen."""
    leaf = certificate.kind in (VCEK, VLEK)
    problems = _leaf_problems(certificate) if leaf else _authority_problems(certificate)
    if certificate.scheme:
        problems.insert(0, f"it is signed with {certificate.scheme}")
    unknown = _unknown(certificate)
    seen = (
        "v3, "
        + ("EC P-384" if leaf else certificate.key_kind)
        + (", no CA" if leaf else ", CA" if certificate.ca else "")
    )
    if unknown:
        seen += f"; extensions that nobody knows: {', '.join(unknown)}"
    verdict.add(
        f"profile of the {certificate.kind}",
        not problems,
        field="certificate",
        wanted=_LEAF_WANTED
        if leaf
        else _CA_WANTED.format("keyCertSign, cRLSign" if certificate.kind == ARK else "keyCertSign"),
        seen="; ".join(problems) or seen,
        reason=f"the {certificate.kind} is not as AMD makes them: {'; '.join(problems)}",
    )


def _leaf_problems(leaf: Certificate) -> list[str]:
    problems = []
    known = {SPL_OIDS[name] for name in places_of(leaf.line)}
    for oid, value in leaf.extensions.items():
        if oid.startswith(_SPL_PREFIX) and oid not in known and value != _ZERO:
            problems.append(f"SPL {oid} is {value.hex()}, and {leaf.line.name} has no such level")
    if leaf.key_cert_sign or leaf.crl_sign:
        problems.append("its key may sign certificates or CRLs")
    return problems


def _authority_problems(authority: Certificate) -> list[str]:
    problems = []
    if authority.rsa is None:
        problems.append(f"its key is {authority.key_kind}")
    if not authority.ca:
        problems.append("it is no CA (basic constraints)")
    if not authority.key_cert_sign:
        problems.append("its key may not sign certificates (key usage)")
    return problems


def _unknown(certificate: Certificate) -> list[str]:
    return [
        oid
        for oid in certificate.extensions
        if oid not in _COMMON and not (certificate.spl and (oid in _OWN or oid.startswith(_SPL_PREFIX)))
    ]
