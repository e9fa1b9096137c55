"""Holds what came with a report against the report: runtime data whose hash REPORT_DATA must begin with.

Azure's VMs ask for their report once, at boot, and bind a JSON text with the vTPM's attestation key by its hash (Microsoft,
"Guest attestation for confidential VMs"). A report may be genuine without that, but then the key means nothing.
"""

import hashlib

from sev.evidence.finds import Evidence, RuntimeData
from sev.verdict import MALFORMED, UNTRUSTED, Verdict

_NAME, _FIELD = "runtime data", "REPORT_DATA"


def check_evidence(verdict: Verdict, evidence: Evidence) -> None:
    """Note in a verdict of sev.verifier what the evidence was, and add the check of the runtime data in it."""
    verdict.form, verdict.left_out = evidence.form, evidence.notes
    if evidence.notes:
        for check in verdict.failed:
            if check.name == "leaf":
                check.reason += f" ({evidence.notes[0]})"
    report = verdict.report
    if report is None or report.version < 2:
        return
    if not evidence.runtime_data:
        verdict.not_asked(_NAME, _FIELD)
    for runtime in evidence.runtime_data:
        _check(verdict, report.report_data, runtime)


def refusal(reason: str) -> Verdict:
    """The verdict on what holds no report, or a certificate that is none."""
    verdict = Verdict()
    verdict.add("format", False, reason=reason, status=MALFORMED)
    return verdict


def _check(verdict: Verdict, report_data: bytes, runtime: RuntimeData) -> None:
    digests = [hashlib.new(runtime.algorithm, form).digest() for form in runtime.forms]
    name = runtime.algorithm.upper().replace("SHA", "SHA-")
    verdict.add(
        _NAME,
        any(report_data.startswith(digest) for digest in digests),
        field=_FIELD,
        wanted=f"{name} {digests[-1].hex()} of the runtime data in {runtime.source}",
        seen=report_data.hex(),
        reason=f"REPORT_DATA {report_data.hex()[:16]}... does not bind the runtime data in {runtime.source}, whose {name} is "
        f"{digests[-1].hex()[:16]}...",
        status=UNTRUSTED,
    )
