"""Makes a policy's checks: what a report must say beyond being genuine, before anyone should trust the guest.

The default policy: no DEBUG, no migration agent, VMPL 0, nothing reserved set. A sev.attestation_policy.Policy asks for more.
"""

from sev.attestation_policy import (
    CRL_IF_PRESENT,
    CRL_OFF,
    CRL_REQUIRED,
    DEBUG,
    MIGRATION,
    RESERVED,
    SETS,
    VALUES,
    Policy,
)
from sev.product import line_named
from sev.report import Report
from sev.tcb import KDS_NAMES, Tcb, places_of
from sev.verdict import FAILED, MISSING, NOT_ASKED, POLICY, SKIPPED, Verdict

_NO_AGENT = b"\xff" * 32
_NAMES = {"id_key_digest": "id key", "author_key_digest": "author key"}


def appraise(verdict: Verdict, report: Report, policy: Policy | None = None) -> None:
    """Add a policy's checks to a verdict of sev.verify.verify; without one, those of the default policy."""
    policy = policy or Policy()
    _judge_revocation(verdict, policy.crl)
    _check_defaults(verdict, report, policy)
    for name in SETS:
        _check_bytes(verdict, report, name, getattr(policy, name))
    for name in VALUES:
        value = getattr(policy, name)
        _check_bytes(verdict, report, name, frozenset() if value is None else frozenset([value]))
    _check_svn(verdict, report, policy.min_guest_svn)
    _check_min_tcb(verdict, report, policy.min_tcb)
    _check_firmware(verdict, report, policy.min_firmware)


def _judge_revocation(verdict: Verdict, crl: str) -> None:
    """What verify() found out about revocation, as the policy sees it."""
    if crl == CRL_IF_PRESENT:
        return
    for check in verdict.checks:
        if check.name != "revocation":
            continue
        if crl == CRL_OFF:
            check.outcome = NOT_ASKED
            check.wanted = check.seen = check.reason = ""
        elif crl == CRL_REQUIRED and check.outcome == SKIPPED:
            check.outcome, check.status = FAILED, MISSING
            check.wanted, check.seen = "a current CRL", check.reason
            check.reason = f"a CRL is required: {check.seen}"


def _check_bytes(verdict: Verdict, report: Report, name: str, wanted: frozenset[bytes]) -> None:
    field, title = name.upper(), _NAMES.get(name, name.replace("_", " "))
    if not wanted:
        verdict.not_asked(title, field)
        return
    seen: bytes = getattr(report, name)
    good = seen in wanted
    reason = f"{field} {seen.hex()[:16]}... is not "
    reason += f"{min(wanted).hex()[:16]}..." if len(wanted) == 1 else f"one of the {len(wanted)} wanted"
    if name == "author_key_digest" and good and any(seen) and not report.author_key_en:
        good, reason = False, "AUTHOR_KEY_DIGEST is as wanted, but AUTHOR_KEY_EN is clear: no author key signed"
    verdict.add(
        title,
        good,
        field=field,
        wanted=min(wanted).hex() if len(wanted) == 1 else f"one of {len(wanted)}",
        seen=seen.hex(),
        reason=reason,
        status=POLICY,
    )


def _check_svn(verdict: Verdict, report: Report, least: int | None) -> None:
    if least is None:
        verdict.not_asked("guest svn", "GUEST_SVN")
        return
    verdict.add(
        "guest svn",
        report.guest_svn >= least,
        field="GUEST_SVN",
        wanted=f"{least} or more",
        seen=str(report.guest_svn),
        reason=f"GUEST_SVN is {report.guest_svn}; wanted {least} or more",
        status=POLICY,
    )


def _check_min_tcb(verdict: Verdict, report: Report, least: dict[str, int]) -> None:
    """REPORTED_TCB against the minimum: it is the one that the leaf's key stands for."""
    line = line_named(verdict.line)
    if not least:
        verdict.not_asked("minimum tcb", "REPORTED_TCB")
        return
    if line is None:
        verdict.add("minimum tcb", False, field="REPORTED_TCB", reason="the line is not known", status=POLICY)
        return
    levels = Tcb(report.reported_tcb, line).spl
    for name, wanted in least.items():
        spl, seen = KDS_NAMES[name], levels.get(name)
        known = ", ".join(KDS_NAMES[place] for place in places_of(line))
        verdict.add(
            f"minimum {spl}",
            seen is not None and seen >= wanted,
            field="REPORTED_TCB",
            wanted=f"{wanted} or more",
            seen="none" if seen is None else str(seen),
            reason=f"{line.name} has no {spl}, only {known}"
            if seen is None
            else f"{spl} of REPORTED_TCB is {seen}; wanted {wanted} or more",
            status=POLICY,
        )


def _check_firmware(verdict: Verdict, report: Report, least: tuple[int, ...] | None) -> None:
    if least is None:
        verdict.not_asked("minimum firmware", "CURRENT_VERSION")
        return
    wanted, seen = ".".join(map(str, least)), ".".join(map(str, report.current_version))
    verdict.add(
        "minimum firmware",
        report.current_version[: len(least)] >= least,
        field="CURRENT_VERSION",
        wanted=f"{wanted} or later",
        seen=seen,
        reason=f"the firmware is {seen}; wanted {wanted} or later",
        status=POLICY,
    )


def _check_defaults(verdict: Verdict, report: Report, policy: Policy) -> None:
    if DEBUG in policy.allow:
        verdict.not_asked("debug", "POLICY")
    else:
        verdict.add(
            "debug",
            not report.policy.bit("DEBUG"),
            field="POLICY",
            wanted="DEBUG clear",
            seen=str(report.policy),
            reason="the guest policy allows DEBUG: the host can read and change the guest's memory",
            status=POLICY,
        )
    if MIGRATION in policy.allow:
        verdict.not_asked("migration", "POLICY")
    else:
        verdict.add(
            "migration",
            not report.policy.bit("MIGRATE_MA") and report.report_id_ma in (_NO_AGENT, bytes(32)),
            field="POLICY",
            wanted="no migration agent",
            seen=f"{report.policy}, REPORT_ID_MA {report.report_id_ma.hex()[:16]}...",
            reason="the guest has, or may have, a migration agent",
            status=POLICY,
        )
    if policy.vmpl is None:
        verdict.not_asked("vmpl", "VMPL")
    else:
        verdict.add(
            "vmpl",
            report.vmpl == policy.vmpl,
            field="VMPL",
            wanted=str(policy.vmpl),
            seen=str(report.vmpl),
            reason=f"the report was asked for at VMPL {report.vmpl}; wanted {policy.vmpl}",
            status=POLICY,
        )
    if RESERVED in policy.allow:
        verdict.not_asked("reserved", "POLICY")
    else:
        _check_reserved(verdict, report)


def _check_reserved(verdict: Verdict, report: Report) -> None:
    verdict.add(
        "policy bits",
        report.policy.well_formed,
        field="POLICY",
        wanted="bit 17 set, no unknown bit",
        seen=str(report.policy),
        reason=f"POLICY {report.policy}: bit 17 clear, or bits that nobody has named",
        status=POLICY,
    )
    verdict.add(
        "platform info bits",
        not report.platform_info.unknown,
        field="PLATFORM_INFO",
        wanted="no unknown bit",
        seen=str(report.platform_info),
        reason=f"PLATFORM_INFO {report.platform_info}: bits that nobody has named",
        status=POLICY,
    )
    places = ", ".join(f"{offset:#x}" for offset in report.reserved)
    verdict.add(
        "reserved bytes",
        not report.reserved and not report.key_info >> 5,
        field="reserved",
        wanted="zeros",
        seen=places or f"KEY_INFO {report.key_info:#x}",
        reason=f"reserved bytes are set at {places or '0x48'}",
        status=POLICY,
    )
