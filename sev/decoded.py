"""A report as plain data: numbers, hex text and names, for --json and for people."""

from typing import Any

from sev.bits import Bits
from sev.certificates import Certificate
from sev.product import LINES, Line, product_of, signature_of
from sev.report import FIELDS, Report
from sev.tcb import KDS_NAMES, Tcb

_TCBS = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
_FLAGS = ("policy", "platform_info")
_CPUID = ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")


def _flags(value: Bits) -> dict[str, Any]:
    return {"value": f"{int(value):#x}", "bits": value.named, "unknown_bits": value.unknown}


def _tcb(raw: bytes, line: Line | None) -> dict[str, Any]:
    decoded: dict[str, Any] = {"raw": raw.hex()}
    if line is not None:
        tcb = Tcb(raw, line)
        decoded |= {KDS_NAMES[name]: level for name, level in tcb.spl.items()}
        decoded["reserved_set"] = tcb.reserved_set
    return decoded


def decoded(report: Report, line: str = "") -> dict[str, Any]:
    """The report's fields by name; `line` names the TCB layout of a report without CPUID (Milan, Genoa, Turin, Venice).

    Integers that are numbers stay numbers, 64-bit fields become hex text, bytes become hex text. TCB_VERSIONs are decoded
    only where the line is known: nothing in a report of version 2 says it.
    """
    product = report.product
    known = product.line if product else next((each for each in LINES if each.name == line), None)
    plain: dict[str, Any] = {}
    for name, (_, _, is_int, since) in FIELDS.items():
        value = getattr(report, name)
        if since > report.version or name in _CPUID:
            continue
        if name in _FLAGS:
            plain[name] = _flags(value)
            if name == "policy":
                plain[name]["abi"] = ".".join(map(str, value.abi))
        elif name in _TCBS:
            plain[name] = _tcb(value, known)
        elif name.endswith("_mit_vector"):
            plain[name] = f"{value:#x}"
        else:
            plain[name] = value if is_int else value.hex()
    if report.version >= 3:
        family, model, stepping = report.cpuid_fam_id, report.cpuid_mod_id, report.cpuid_step
        found = product_of(family, model)
        plain["cpuid"] = {
            "family": family,
            "model": model,
            "stepping": stepping,
            "signature": f"{signature_of(family, model, stepping):#010x}",
            "product": found.name if found else None,
        }
    plain["product_line"] = known.name if known else None
    plain["signer"] = report.signer
    plain["author_key_en"] = report.author_key_en
    plain["mask_chip_key"] = report.mask_chip_key
    plain["current_version"] = ".".join(map(str, report.current_version))
    plain["committed_version"] = ".".join(map(str, report.committed_version))
    plain["reserved"] = {f"{offset:#x}": data.hex() for offset, data in report.reserved.items()}
    return plain


def described(certificate: Certificate) -> dict[str, Any]:
    """A certificate as plain data: its kind, names, times and what it is for."""
    plain: dict[str, Any] = {
        "kind": certificate.kind,
        "line": certificate.line.name,
        "subject": certificate.subject_cn,
        "issuer": certificate.issuer_cn,
        "serial": f"{certificate.serial:#x}",
        "not_before": f"{certificate.not_before:%Y-%m-%dT%H:%M:%SZ}",
        "not_after": f"{certificate.not_after:%Y-%m-%dT%H:%M:%SZ}",
        "sha256": certificate.sha256,
        "emulated": certificate.emulated,
    }
    if certificate.spl:
        plain["tcb"] = {KDS_NAMES[name]: level for name, level in certificate.spl.items()}
    if certificate.hwid:
        plain["hwid"] = certificate.hwid.hex()
    if certificate.csp_id:
        plain["csp_id"] = certificate.csp_id
    return plain
