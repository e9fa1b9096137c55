"""SEV-SNP without a machine: attestation reports, certificates, verification, and the emulated platform that signs.

    from sev import Certificate, Policy, Verifier, appraise, read_evidence

Everything here works on bytes and knows nothing else of this project; `sev.guest` is the half that a running guest talks to.
docs/library.md shows how to use it. What is named here is imported when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sev.appraisal import appraise
    from sev.attestation_policy import BadPolicy, Policy
    from sev.binding import check_evidence
    from sev.certificates import Certificate
    from sev.collateral.bundle import Bundle
    from sev.collateral.cache import Cache
    from sev.collateral.kds_client import KdsClient
    from sev.collateral.resolver import Resolver
    from sev.errors import MalformedCertificate, MalformedReport, SevError
    from sev.evidence import Evidence, add_certificates, read_evidence
    from sev.platform import Platform
    from sev.policy import GuestPolicy
    from sev.policy_file import read_policy
    from sev.product import Line, Product
    from sev.report import Report
    from sev.revocation import Crl
    from sev.tcb import Tcb
    from sev.verdict import Check, Verdict
    from sev.verifier import Verifier, verify

_PLACES = {
    "BadPolicy": "attestation_policy",
    "Bundle": "collateral.bundle",
    "Cache": "collateral.cache",
    "Certificate": "certificates",
    "Check": "verdict",
    "Crl": "revocation",
    "Evidence": "evidence",
    "GuestPolicy": "policy",
    "KdsClient": "collateral.kds_client",
    "Line": "product",
    "MalformedCertificate": "errors",
    "MalformedReport": "errors",
    "Platform": "platform",
    "Policy": "attestation_policy",
    "Product": "product",
    "Report": "report",
    "Resolver": "collateral.resolver",
    "SevError": "errors",
    "Tcb": "tcb",
    "Verdict": "verdict",
    "Verifier": "verifier",
    "add_certificates": "evidence",
    "appraise": "appraisal",
    "check_evidence": "binding",
    "read_evidence": "evidence",
    "read_policy": "policy_file",
    "verify": "verifier",
}

__all__ = [
    "BadPolicy",
    "Bundle",
    "Cache",
    "Certificate",
    "Check",
    "Crl",
    "Evidence",
    "GuestPolicy",
    "KdsClient",
    "Line",
    "MalformedCertificate",
    "MalformedReport",
    "Platform",
    "Policy",
    "Product",
    "Report",
    "Resolver",
    "SevError",
    "Tcb",
    "Verdict",
    "Verifier",
    "add_certificates",
    "appraise",
    "check_evidence",
    "read_evidence",
    "read_policy",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for only now (PEP 562): who decodes a report needs no cryptography."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
