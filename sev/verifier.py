"""Verifies a report: its signature, the chain to a trusted ARK, and that leaf and report speak of the same chip and TCB.

AMD 56860 (ATTESTATION_REPORT, "Verification"), AMD 57230. Trusted are AMD's ARKs, by the fingerprints in sev.certificates, and
those that the caller names. Certificates are never trusted because they were handed over.

    verdict = verify(raw, certificates)                 # one report
    verifier = Verifier(certificates, crls=crls)        # many: a leaf's chain is followed once
    verdicts = [verifier.verify(raw) for raw in reports]
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sev.certificates import VCEK, VLEK, Certificate, Signed
from sev.chain import EMULATED_REPORT, NAME_IT, Standing
from sev.emulated import is_emulated_chip
from sev.errors import MalformedReport
from sev.leaves import Leaves
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
from sev.verdict import MALFORMED, MISSING, Verdict

_COMPONENT = 72
MOST_STANDINGS = 4096
MOST_SIGNATURES = 16384


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
    return Verifier(certificates, roots=roots, crls=crls, at=at).verify(raw)


class Verifier:
    """Verifies many reports under the same certificates, trusted roots, CRLs and time; the arguments are those of verify().

    What was found out about a leaf (its chain, validity, revocation) is kept, under its digest and those of all that came
    with the report, and for no longer than the time of verification changes nothing in it. Each report is decoded, its
    signature verified, and held against its leaf, always. Not for several threads at once.
    """

    def __init__(
        self,
        certificates: Iterable[Certificate] = (),
        *,
        roots: Sequence[Certificate] = (),
        crls: Iterable[Crl] = (),
        at: datetime | None = None,
    ) -> None:
        self._at = None if at is None else _utc(at)
        self._known = (*certificates, *roots)
        self._named = frozenset(root.sha256 for root in roots)
        self._crls = tuple(crls)
        self._leaves = Leaves(self._known)
        self._standings: OrderedDict[tuple[str, ...], Standing] = OrderedDict()
        self._problems: OrderedDict[tuple[str, str], str | None] = OrderedDict()

    def verify(self, raw: bytes, certificates: Sequence[Certificate] = (), crls: Sequence[Crl] = ()) -> Verdict:
        """Check 1184 bytes of report; `certificates` and `crls` came with this one, and are looked at before the others.

        Never raises for bad evidence: the verdict says what is wrong with it.
        """
        verdict = Verdict()
        try:
            report = Report.decode(raw)
        except MalformedReport as error:
            verdict.add("format", False, reason=str(error), status=MALFORMED)
            return verdict
        verdict.report = report
        if not _check_format(verdict, report):
            if verdict.failed[0].status != MALFORMED:
                _skip_the_rest(verdict, "nothing signed this report")
            return verdict
        leaves = Leaves(certificates, self._leaves) if certificates else self._leaves
        leaf, signed = _leaf(verdict, report, raw, leaves)
        if leaf is None:
            _skip_the_rest(verdict, f"there is no {report.signer} to check it with")
            return verdict
        verdict.signer, verdict.line, verdict.csp_id = leaf.kind, leaf.line.name, leaf.csp_id
        standing = self._standing(leaf, certificates, crls)
        verdict.emulated, verdict.root, verdict.stale_days = standing.emulated, standing.root, standing.stale_days
        _check_signature(verdict, report, leaf, signed)
        verdict.extend(standing.chain)
        _check_line(verdict, report, leaf)
        _check_hwid(verdict, report, leaf)
        _check_tcb(verdict, report, leaf)
        verdict.extend(standing.dates)
        return verdict

    def leaves_for(self, report: Report) -> list[Certificate]:
        """The leaves at hand for the chip and TCB that a report names."""
        kind = VLEK if report.signing_key == SIGNER_VLEK else VCEK
        return list(self._leaves.fitting(kind, report))

    def _standing(self, leaf: Certificate, certificates: Sequence[Certificate], crls: Sequence[Crl]) -> Standing:
        """What the leaf is worth now: kept, or found out."""
        moment = self._at or datetime.now(UTC)
        key = (leaf.sha256, *(c.sha256 for c in certificates), "", *(crl.sha256 for crl in crls))
        standing = self._standings.get(key)
        if standing is None or not standing.lasts(moment):
            known = (*certificates, *self._known)
            standing = Standing(leaf, known, self._named, (*crls, *self._crls), moment, self._problem)
            _keep(self._standings, key, standing, MOST_STANDINGS)
        return standing

    def _problem(self, signed: Signed, issuer: Certificate) -> str | None:
        """Why `issuer` did not sign something; the same two need only one RSA verification, whatever leaf they are for."""
        key = signed.sha256, issuer.sha256
        if key in self._problems:
            return self._problems[key]
        problem = signed.signature_problem(issuer)
        _keep(self._problems, key, problem, MOST_SIGNATURES)
        return problem


_NEEDS_A_LEAF = (
    *(("signature", "SIGNATURE"), ("chain", "ARK"), ("product", "CPUID_FAM_ID"), ("hwid", "CHIP_ID")),
    *(("tcb", "REPORTED_TCB"), ("validity", "validity"), ("revocation", "CRL")),
)


def _skip_the_rest(verdict: Verdict, reason: str) -> None:
    """Note the checks that cannot be made without a leaf."""
    for name, field in _NEEDS_A_LEAF:
        verdict.skip(name, reason, field)


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    """Keep a value, and drop the oldest if there are too many."""
    kept[key] = value
    if len(kept) > most:
        kept.popitem(last=False)


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


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


def _signature(report: Report) -> tuple[int, int, bytes]:
    """r, s and what follows them in SIGNATURE."""
    signature, end = report.signature, 2 * _COMPONENT
    return (
        int.from_bytes(signature[:_COMPONENT], "little"),
        int.from_bytes(signature[_COMPONENT:end], "little"),
        signature[end:],
    )


def _matches(report: Report, leaf: Certificate) -> tuple[bool, bool]:
    """Whether a leaf is of the report's chip, and of its TCB."""
    same_chip = leaf.kind == VLEK or report.chip_id_masked or leaf.hwid.ljust(64, b"\0") == report.chip_id
    return same_chip, leaf.spl == Tcb(report.reported_tcb, leaf.line).spl


def _leaf(verdict: Verdict, report: Report, raw: bytes, leaves: Leaves) -> tuple[Certificate | None, bool]:
    """The leaf that the report names, and whether it signed: the one that did, or else the one that comes closest."""
    kind = VLEK if report.signing_key == SIGNER_VLEK else VCEK
    count = leaves.count(kind)
    if count:
        verdict.add("leaf", True, field="certificate", wanted=kind, seen=f"{count} of that kind")
        r, s, rest = _signature(report)
        closest = None
        for leaf in leaves.candidates(kind, report):
            closest = closest or leaf
            if not any(rest) and leaf.verifies(r, s, raw[:SIGNED_SIZE]):
                return leaf, True
        return closest, False
    other = leaves.other(kind)
    reason = f"the report is signed by a {kind}, and no {kind} certificate is at hand"
    if other:
        reason += f", only a {other}"
    if is_emulated_chip(report.chip_id):
        verdict.emulated = True
        reason = f"{EMULATED_REPORT}; {NAME_IT}"
    verdict.add("leaf", False, field="certificate", wanted=kind, seen="none", reason=reason, status=MISSING)
    return None, False


def _check_signature(verdict: Verdict, report: Report, leaf: Certificate, signed: bool) -> None:
    reason, seen = "", "valid"
    if not signed:
        r, s, rest = _signature(report)
        same_chip, same_tcb = _matches(report, leaf)
        seen = "" if r or s else "zeros"
        if not r and not s:
            reason = "SIGNATURE is zero: nobody signed this report"
        elif any(rest):
            reason = "SIGNATURE has bytes set behind r and s"
        elif not same_chip:
            reason = (
                f"the {leaf.kind} is of another chip: HWID {leaf.hwid.hex()[:16]}, CHIP_ID {report.chip_id.hex()[:16]}"
            )
        elif not same_tcb:
            levels = " ".join(f"{KDS_NAMES[name]}={level}" for name, level in leaf.spl.items())
            reason = f"the {leaf.kind} is of another TCB: {levels}; reported is {Tcb(report.reported_tcb, leaf.line)}"
        else:
            reason = f"the {leaf.kind} did not sign this report, or the report was changed"
    verdict.add(
        "signature", signed, field="SIGNATURE", wanted=f"ECDSA P-384 by the {leaf.kind}", seen=seen, reason=reason
    )


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
    levels = reported.spl
    for name, level in leaf.spl.items():
        spl, seen = KDS_NAMES[name], levels[name]
        good = seen == level
        verdict.add(
            f"tcb {spl}",
            good,
            field="REPORTED_TCB",
            wanted=str(level),
            seen=str(seen),
            reason="" if good else f"{spl} of REPORTED_TCB is {seen}, the {leaf.kind} is for {level}",
        )
    verdict.add(
        "tcb reserved",
        not reported.reserved_set,
        field="REPORTED_TCB",
        wanted="zeros in reserved bytes",
        seen=report.reported_tcb.hex(),
    )
