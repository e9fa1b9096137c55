"""Verifies a report: its signature, the chain to a trusted ARK, and that leaf and report speak of the same chip and TCB.

AMD 56860 (ATTESTATION_REPORT, "Verification"), AMD 57230. Trusted are AMD's ARKs, by the fingerprints in sev.certificates, and
those that the caller names. Certificates are never trusted because they were handed over.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sev.certificates import ARK, ASK, ASVK, VCEK, VLEK, Certificate
from sev.emulated import is_emulated_chip
from sev.errors import MalformedReport
from sev.report import (
    ECDSA_P384_SHA384,
    LAST_KNOWN_VERSION,
    SIGNED_SIZE,
    SIGNER_NONE,
    SIGNER_VCEK,
    SIGNER_VLEK,
    Report,
)
from sev.revocation import Crl
from sev.tcb import KDS_NAMES, Tcb
from sev.verdict import MALFORMED, MISSING, REVOKED, UNTRUSTED, Verdict

_COMPONENT = 72
_EMULATED_REPORT = "this is an emulated platform's report"
_NAME_IT = "it verifies only with its platform named (--platform)"


def verify(
    raw: bytes,
    certificates: Iterable[Certificate],
    *,
    roots: Sequence[Certificate] = (),
    crls: Iterable[Crl] = (),
    at: datetime | None = None,
) -> Verdict:
    """Check 1184 bytes of report against certificates; `at` is the time of verification, now by default.

    `roots` are ARKs to be trusted besides AMD's own, an emulated platform's for instance. Never raises for bad evidence: the
    verdict says what is wrong with it.
    """
    verdict = Verdict()
    moment = at or datetime.now(UTC)
    try:
        report = Report.decode(raw)
    except MalformedReport as error:
        verdict.add("format", False, reason=str(error), status=MALFORMED)
        return verdict
    if not _check_format(verdict, report):
        return verdict
    known = [*certificates, *roots]
    leaf = _leaf(verdict, report, raw, known)
    if leaf is None:
        return verdict
    verdict.signer, verdict.line = leaf.kind, leaf.line.name
    verdict.emulated = leaf.emulated
    _check_signature(verdict, report, raw, leaf)
    chain = _check_chain(verdict, leaf, known, {root.sha256 for root in roots})
    _check_line(verdict, report, leaf)
    _check_hwid(verdict, report, leaf)
    _check_tcb(verdict, report, leaf)
    _check_validity(verdict, [leaf, *chain], moment)
    _check_crl(verdict, chain, list(crls), moment)
    return verdict


def _check_format(verdict: Verdict, report: Report) -> bool:
    """Whether the report is of a kind that can be checked at all."""
    if not verdict.add(
        "format",
        report.version >= 2,
        field="VERSION",
        wanted=f"2 to {LAST_KNOWN_VERSION}",
        seen=str(report.version),
        reason=f"report version {report.version}: a sketch from before the first release; wanted 2 or later",
        status=MALFORMED,
    ):
        return False
    if not verdict.add(
        "algorithm",
        report.signature_algo == ECDSA_P384_SHA384,
        field="SIGNATURE_ALGO",
        wanted="1 (ECDSA P-384 with SHA-384)",
        seen=str(report.signature_algo),
        reason=f"SIGNATURE_ALGO {report.signature_algo}; wanted 1, ECDSA P-384 with SHA-384",
        status=MALFORMED,
    ):
        return False
    if report.signing_key == SIGNER_NONE or report.mask_chip_key:
        reason = "the host had the signature left out (MASK_CHIP_KEY)"
    else:
        reason = f"SIGNING_KEY {report.signing_key} is reserved"
    return verdict.add(
        "signer",
        report.signing_key in (SIGNER_VCEK, SIGNER_VLEK) and not report.mask_chip_key,
        field="SIGNING_KEY",
        wanted="VCEK or VLEK",
        seen=report.signer,
        reason=reason,
    )


def _signature(raw: bytes) -> tuple[int, int, bytes]:
    """r, s and what follows them in SIGNATURE."""
    r, s = SIGNED_SIZE, SIGNED_SIZE + _COMPONENT
    end = s + _COMPONENT
    return int.from_bytes(raw[r:s], "little"), int.from_bytes(raw[s:end], "little"), raw[end:]


def _is_signed_by(raw: bytes, leaf: Certificate) -> bool:
    r, s, rest = _signature(raw)
    return not any(rest) and leaf.verifies(r, s, raw[:SIGNED_SIZE])


def _matches(report: Report, leaf: Certificate) -> tuple[bool, bool]:
    """Whether a leaf is of the report's chip, and of its TCB."""
    same_chip = leaf.kind == VLEK or report.chip_id_masked or leaf.hwid.ljust(64, b"\0") == report.chip_id
    return same_chip, leaf.spl == Tcb(report.reported_tcb, leaf.line).spl


def _leaf(verdict: Verdict, report: Report, raw: bytes, known: list[Certificate]) -> Certificate | None:
    """The leaf that the report names: the one that signed it, or else the one that comes closest."""
    kind = VLEK if report.signing_key == SIGNER_VLEK else VCEK
    leaves = [certificate for certificate in known if certificate.kind == kind]
    if leaves:
        verdict.add("leaf", True, field="certificate", wanted=kind, seen=f"{len(leaves)} of that kind")
        signed = next((leaf for leaf in leaves if _is_signed_by(raw, leaf)), None)
        return signed or max(leaves, key=lambda leaf: sum(_matches(report, leaf)))
    other = sorted({c.kind for c in known if c.kind in (VCEK, VLEK)})
    reason = f"the report is signed by a {kind}, and no {kind} certificate is at hand"
    if other:
        reason += f", only a {other[0]}"
    if is_emulated_chip(report.chip_id):
        verdict.emulated = True
        reason = f"{_EMULATED_REPORT}; {_NAME_IT}"
    verdict.add("leaf", False, field="certificate", wanted=kind, seen="none", reason=reason, status=MISSING)
    return None


def _check_signature(verdict: Verdict, report: Report, raw: bytes, leaf: Certificate) -> None:
    r, s, rest = _signature(raw)
    same_chip, same_tcb = _matches(report, leaf)
    if not r and not s:
        reason = "SIGNATURE is zero: nobody signed this report"
    elif any(rest):
        reason = "SIGNATURE has bytes set behind r and s"
    elif not same_chip:
        reason = f"the {leaf.kind} is of another chip: HWID {leaf.hwid.hex()[:16]}, CHIP_ID {report.chip_id.hex()[:16]}"
    elif not same_tcb:
        levels = " ".join(f"{KDS_NAMES[name]}={level}" for name, level in leaf.spl.items())
        reason = f"the {leaf.kind} is of another TCB: {levels}; reported is {Tcb(report.reported_tcb, leaf.line)}"
    else:
        reason = f"the {leaf.kind} did not sign this report, or the report was changed"
    verdict.add(
        "signature",
        _is_signed_by(raw, leaf),
        field="SIGNATURE",
        wanted=f"ECDSA P-384 by the {leaf.kind}",
        seen="" if r or s else "zeros",
        reason=reason,
    )


def _check_chain(verdict: Verdict, leaf: Certificate, known: list[Certificate], named: set[str]) -> list[Certificate]:
    """Follow leaf, ASK or ASVK, ARK; gives the CAs found, in that order."""
    kind = ASVK if leaf.kind == VLEK else ASK
    chain: list[Certificate] = []
    subject = leaf
    for wanted in (kind, ARK):
        candidates = [certificate for certificate in known if certificate.kind == wanted]
        same_name = [certificate for certificate in candidates if certificate.subject == subject.issuer]
        # A root that is trusted comes before one of the same name that only came along.
        same_name.sort(key=lambda certificate: not (certificate.amd_root or certificate.sha256 in named))
        problems = {certificate: subject.signature_problem(certificate) for certificate in same_name}
        issuer = next((certificate for certificate in same_name if problems[certificate] is None), None)
        if issuer is None:
            _chain_broken(verdict, subject, wanted, candidates, next(iter(problems.values()), None))
            return chain
        if not issuer.ca or not issuer.key_cert_sign:
            reason = f"the {wanted} is no certificate authority (basic constraints, key usage)"
            verdict.add("chain", False, field="certificate", wanted=wanted, seen=issuer.subject_cn, reason=reason)
            return chain
        chain.append(issuer)
        subject = issuer
    root = chain[-1]
    problem = root.signature_problem(root)
    trusted = root.amd_root or root.sha256 in named
    verdict.emulated = root.emulated
    if problem:
        reason = f"the ARK is not signed by itself: {problem}"
    elif root.emulated:
        reason = f"{_EMULATED_REPORT}; {_NAME_IT}" + (", and another one is named" if named else "")
    else:
        reason = f"{root.subject_cn} with SHA-256 {root.sha256} is not AMD's"
    verdict.add(
        "chain",
        trusted and problem is None,
        field="ARK",
        wanted="one of AMD's, or one that is named",
        seen=f"{'EMULATED ' if root.emulated else ''}{root.subject_cn} {root.sha256[:16]}",
        reason=reason,
    )
    return chain


def _chain_broken(
    verdict: Verdict, subject: Certificate, wanted: str, candidates: list[Certificate], problem: str | None
) -> None:
    if problem:
        status, reason = UNTRUSTED, f"the {subject.kind} does not chain to this {wanted}: {problem}"
    elif subject.emulated:
        status, reason = UNTRUSTED, f"{_EMULATED_REPORT}; {_NAME_IT}"
    else:
        found = ", ".join(sorted({certificate.subject_cn for certificate in candidates})) or "none"
        status, reason = MISSING, f"no certificate of {subject.issuer_cn} at hand to check the {subject.kind} ({found})"
    verdict.add("chain", False, field="certificate", wanted=subject.issuer_cn, seen="", reason=reason, status=status)


def _check_line(verdict: Verdict, report: Report, leaf: Certificate) -> None:
    if report.version < 3:
        verdict.skip("product", "version 2 has no CPUID; the line is that of the certificates", "CPUID_FAM_ID")
        return
    product = report.product
    cpuid = f"family {report.cpuid_fam_id:#x}, model {report.cpuid_mod_id:#x}, stepping {report.cpuid_step}"
    verdict.add(
        "product",
        product is not None and product.line is leaf.line,
        field="CPUID_FAM_ID",
        wanted=leaf.line.name,
        seen=product.name if product else cpuid,
        reason=f"the report is from {product.name if product else 'an unknown CPU'} ({cpuid}), "
        f"the {leaf.kind} is for {leaf.line.name}",
    )


def _check_hwid(verdict: Verdict, report: Report, leaf: Certificate) -> None:
    if leaf.kind == VLEK:
        verdict.skip("hwid", "a VLEK names no chip", "CHIP_ID")
    elif report.chip_id_masked:
        verdict.skip("hwid", "the host masks CHIP_ID", "CHIP_ID")
    else:
        verdict.add(
            "hwid",
            _matches(report, leaf)[0],
            field="CHIP_ID",
            wanted=leaf.hwid.hex(),
            seen=report.chip_id.hex(),
            reason=f"CHIP_ID {report.chip_id.hex()[:16]}... is not the VCEK's HWID {leaf.hwid.hex()[:16]}...",
        )


def _check_tcb(verdict: Verdict, report: Report, leaf: Certificate) -> None:
    reported = Tcb(report.reported_tcb, leaf.line)
    for name, level in leaf.spl.items():
        verdict.add(
            f"tcb {KDS_NAMES[name]}",
            reported.spl[name] == level,
            field="REPORTED_TCB",
            wanted=str(level),
            seen=str(reported.spl[name]),
            reason=f"{KDS_NAMES[name]} of REPORTED_TCB is {reported.spl[name]}, the {leaf.kind} is for {level}",
        )
    verdict.add(
        "tcb reserved",
        not reported.reserved_set,
        field="REPORTED_TCB",
        wanted="zeros in reserved bytes",
        seen=report.reported_tcb.hex(),
    )


def _check_validity(verdict: Verdict, certificates: list[Certificate], moment: datetime) -> None:
    for certificate in certificates:
        begin, end = certificate.not_before, certificate.not_after
        state = "expired" if moment > end else "is not valid yet"
        verdict.add(
            f"validity of the {certificate.kind}",
            begin <= moment <= end,
            field="validity",
            wanted=f"{begin:%Y-%m-%d} to {end:%Y-%m-%d}",
            seen=f"{moment:%Y-%m-%d}",
            reason=f"the {certificate.kind} {state} on {moment:%Y-%m-%d}: valid {begin:%Y-%m-%d} to {end:%Y-%m-%d}",
            status=MISSING,
        )


def _check_crl(verdict: Verdict, chain: list[Certificate], crls: list[Crl], moment: datetime) -> None:
    if len(chain) < 2:
        verdict.skip("revocation", "without a chain there is nothing to look up", "CRL")
        return
    issuer, root = chain
    lists = [crl for crl in crls if crl.covers(issuer)]
    if not lists:
        verdict.skip("revocation", f"no CRL of {root.subject_cn} at hand", "CRL")
        return
    problem = None if root.crl_sign else "the ARK may not sign CRLs"
    signed = []
    for crl in lists:
        fault = crl.signature_problem(root)
        problem = problem or fault
        signed += [] if fault else [crl]
    if not signed or not root.crl_sign:
        verdict.add("revocation", False, field="CRL", wanted=f"by {root.subject_cn}", seen="", reason=f"CRL: {problem}")
        return
    latest = max(signed, key=lambda crl: crl.this_update)
    revoked = [certificate for certificate in chain if certificate.serial in latest.revoked]
    if not revoked and latest.next_update is not None and moment > latest.next_update:
        verdict.skip("revocation", f"the CRL is stale: next update {latest.next_update:%Y-%m-%d}", "CRL")
        return
    verdict.add(
        "revocation",
        not revoked,
        field="CRL",
        wanted="not listed",
        seen=", ".join(f"{certificate.kind} {certificate.serial:#x}" for certificate in revoked),
        reason=", ".join(f"the {c.kind} with serial {c.serial:#x} is revoked" for c in revoked),
        status=REVOKED,
    )
