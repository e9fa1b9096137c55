"""The default policy: what a report must say beyond being genuine, before anyone should trust the guest.

No DEBUG, no migration agent, VMPL 0, nothing reserved set. `attest verify` asks for these unless it is told to allow one.
"""

from collections.abc import Collection

from sev.report import Report
from sev.verdict import POLICY, Verdict

DEBUG, MIGRATION, VMPL, RESERVED = "debug", "migration", "vmpl", "reserved"
ALL = (DEBUG, MIGRATION, VMPL, RESERVED)
_NO_AGENT = b"\xff" * 32
_NOT_ASKED = (
    ("measurement", "MEASUREMENT"),
    ("report data", "REPORT_DATA"),
    ("host data", "HOST_DATA"),
    ("id key", "ID_KEY_DIGEST"),
    ("author key", "AUTHOR_KEY_DIGEST"),
    ("minimum tcb", "REPORTED_TCB"),
)


def appraise(verdict: Verdict, report: Report, allow: Collection[str] = ()) -> None:
    """Add the default policy's checks to a verdict; `allow` names those in ALL that are not to be made."""
    if DEBUG in allow:
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
    if MIGRATION in allow:
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
    if VMPL in allow:
        verdict.not_asked("vmpl", "VMPL")
    else:
        verdict.add(
            "vmpl",
            report.vmpl == 0,
            field="VMPL",
            wanted="0",
            seen=str(report.vmpl),
            reason=f"the report was asked for at VMPL {report.vmpl}; wanted 0",
            status=POLICY,
        )
    if RESERVED in allow:
        verdict.not_asked("reserved", "POLICY")
    else:
        _check_reserved(verdict, report)
    for name, field in _NOT_ASKED:
        verdict.not_asked(name, field)


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
