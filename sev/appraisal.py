"""Makes a policy's checks: what a report must say beyond being genuine, before anyone should trust the guest.

The default policy: no DEBUG, no migration agent, VMPL 0, nothing reserved set, TCBs that are possible. A
sev.attestation_policy.Policy asks for more. Here is what is asked of the guest; sev.platform_checks has what is asked of the
platform. Every check that could be asked for is listed, as not asked where it was not.
"""

from sev.attestation_policy import CRL_OFF, CRL_REQUIRED, MIGRATION, RESERVED, SETS, VALUES, Policy
from sev.platform_checks import check_bits, check_platform, unknown_bits
from sev.report import HOST_VMPL, LAST_KNOWN_VERSION, Report
from sev.verdict import FAILED, MISSING, NOT_ASKED, PASSED, POLICY, SKIPPED, Verdict

_NO_AGENT, _ZEROS = b"\xff" * 32, bytes(32)
_NAMES = {"id_key_digest": "id key", "author_key_digest": "author key"}


def appraise(verdict: Verdict, report: Report, policy: Policy | None = None) -> None:
    """Add a policy's checks to a verdict of sev.verify; without one, those of the default policy."""
    policy = policy or Policy()
    _judge_revocation(verdict, policy)
    _check_guest_policy(verdict, report, policy)
    _check_vmpl(verdict, report, policy)
    _check_reserved(verdict, report, policy)
    check_platform(verdict, report, policy)
    for name in SETS:
        _check_bytes(verdict, report, name, getattr(policy, name))
    for name in VALUES:
        value = getattr(policy, name)
        _check_bytes(verdict, report, name, frozenset() if value is None else frozenset([value]))
    _check_svn(verdict, report, policy.min_guest_svn)
    _check_csp(verdict, policy.csp_id)


def _judge_revocation(verdict: Verdict, policy: Policy) -> None:
    """What verify() found out about revocation, as the policy sees it."""
    for check in verdict.checks:
        if check.name != "revocation":
            continue
        if policy.crl == CRL_OFF:
            check.outcome = NOT_ASKED
            check.wanted = check.seen = check.reason = ""
        elif check.outcome == SKIPPED:
            days = verdict.stale_days
            if days is not None and days <= policy.stale_days:
                check.outcome, check.reason = PASSED, ""
                check.wanted, check.seen = "not listed", f"not listed; the CRL is {days} days past its next update"
            elif policy.crl == CRL_REQUIRED:
                check.outcome, check.status = FAILED, MISSING
                check.wanted, check.seen = "a current CRL", check.reason
                check.reason = f"a CRL is required: {check.seen}"
                if days is not None:
                    check.reason += f", {days} days ago"


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


def _check_csp(verdict: Verdict, wanted: frozenset[str]) -> None:
    if not wanted:
        verdict.not_asked("csp id", "CSP_ID")
        return
    seen = verdict.csp_id
    verdict.add(
        "csp id",
        seen in wanted,
        field="CSP_ID",
        wanted=min(wanted) if len(wanted) == 1 else f"one of {len(wanted)}",
        seen=seen or "none: the report is not signed by a VLEK",
        reason=f"the VLEK is of {seen}" if seen else "a cloud provider is asked for, and only a VLEK names one",
        status=POLICY,
    )


def _check_vmpl(verdict: Verdict, report: Report, policy: Policy) -> None:
    if policy.vmpl is None:
        verdict.not_asked("vmpl", "VMPL")
        return
    host = " (the host asked for it, no guest)" if report.vmpl == HOST_VMPL else ""
    verdict.add(
        "vmpl",
        report.vmpl == policy.vmpl,
        field="VMPL",
        wanted=str(policy.vmpl),
        seen=f"{report.vmpl}{host}",
        reason=f"the report was asked for at VMPL {report.vmpl}{host}; wanted {policy.vmpl}",
        status=POLICY,
    )


def _check_guest_policy(verdict: Verdict, report: Report, policy: Policy) -> None:
    """POLICY bit by bit, and REPORT_ID_MA, which names the migration agent that a guest has."""
    check_bits(verdict, report.policy, "guest_policy", policy)
    if MIGRATION in policy.allow:
        verdict.not_asked("migration", "REPORT_ID_MA")
        return
    verdict.add(
        "migration",
        report.report_id_ma in (_NO_AGENT, _ZEROS),
        field="REPORT_ID_MA",
        wanted="no migration agent",
        seen=report.report_id_ma.hex(),
        reason=f"the guest has a migration agent, {report.report_id_ma.hex()[:16]}...",
        status=POLICY,
    )


def _check_reserved(verdict: Verdict, report: Report, policy: Policy) -> None:
    if report.version > LAST_KNOWN_VERSION:
        known = f"fields that are newer than version {LAST_KNOWN_VERSION} are not known here"
        verdict.skip("later fields", f"the report is of version {report.version}: {known}", "VERSION")
    if RESERVED in policy.allow:
        verdict.not_asked("guest policy unknown bits", "POLICY")
        verdict.not_asked("reserved bytes", "reserved")
        return
    unknown = unknown_bits(report.policy, policy.guest_policy)
    verdict.add(
        "guest policy unknown bits",
        not unknown and report.policy.bit("RESERVED_ONE"),
        field="POLICY",
        wanted="bit 17 set, no unknown bit",
        seen=str(report.policy),
        reason=f"POLICY {report.policy}: bit 17 clear, or bits that nobody has named",
        status=POLICY,
    )
    places = ", ".join(f"{offset:#x}" for offset in report.reserved)
    newer = f", and version {report.version} is newer than this program" if report.version > LAST_KNOWN_VERSION else ""
    verdict.add(
        "reserved bytes",
        not report.reserved and not report.key_info >> 5,
        field="reserved",
        wanted="zeros",
        seen=places or f"KEY_INFO {report.key_info:#x}",
        reason=f"reserved bytes are set at {places or '0x48'}{newer}",
        status=POLICY,
    )
