"""`cvmboot attest`: decodes and verifies SEV-SNP attestation reports."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmboot.attest_fetch import (
    FETCH_STATUS,
    CacheOption,
    KdsOption,
    OfflineOption,
    cache_app,
    complete,
    explain_missing,
    fetch,
)
from cvmboot.attest_input import Certs, File, Json, OptionalFile, add_collateral, evidence_in, malformed
from cvmboot.attest_policy import (
    Allow,
    AuthorKeyDigest,
    CrlOption,
    FamilyId,
    HostData,
    IdKeyDigest,
    ImageId,
    Measurement,
    MinFirmware,
    MinGuestSvn,
    MinTcb,
    PolicyFile,
    ReportData,
    Vmpl,
    policy_of,
    policy_values,
)
from cvmboot.attest_policy_file import policy_app
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.fleet.command import (
    BATCH_HELP,
    BatchOptions,
    BatchSource,
    Cluster,
    Full,
    Jobs,
    Match,
    Output,
    Resume,
    verify_batch,
)

if TYPE_CHECKING:
    from sev.certificates import Certificate
    from sev.evidence import Evidence
    from sev.verdict import Verdict

STATUS_HELP = """Exit status: 0 verified; 1 an error of ours; 2 wrong usage; 3 malformed evidence; 4 signature or chain;
5 a certificate is missing or expired; 6 revoked; 7 policy.
"""
_MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped", "not asked": "not asked"}

app = typer.Typer(help="Decode and verify SEV-SNP attestation reports.", no_args_is_help=True)
app.command("fetch", epilog=FETCH_STATUS)(fetch)
app.add_typer(cache_app, name="cache")
app.add_typer(policy_app, name="policy")


@app.command("show")
def show(file: File, as_json: Json = False) -> None:
    """Decode a report. Nothing is verified.

    Exit status: 0; 1 the file cannot be read; 2 wrong usage; 3 it holds no report.
    """
    from sev.decoded import decoded
    from sev.errors import SevError
    from sev.report import Report

    evidence = evidence_in(file)
    try:
        report = Report.decode(evidence.report)
    except SevError as error:
        raise malformed(f"{file}: {error}") from None
    # A report of version 2 does not say of which line it is, but a certificate that came with it does.
    lines = {certificate.line.name for certificate in evidence.certificates}
    plain = decoded(report, lines.pop() if len(lines) == 1 else "")
    sys.stdout.write(json.dumps(plain, indent=2) + "\n" if as_json else _as_text(plain))


def _as_text(plain: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in plain.items():
        label = f"{indent}{name.replace('_', ' ') if not indent else name}"
        if isinstance(value, dict):
            rest = dict(value)
            head = rest.pop("value", rest.pop("raw", ""))
            bits = rest.pop("bits", {})
            words = [bit for bit, is_set in bits.items() if is_set]
            words += [f"bit {number} (unknown)" for number in rest.pop("unknown_bits", [])]
            words += [f"{key}={item}" for key, item in rest.items() if item is not None and item is not False]
            lines.append(f"{label:22} {' '.join([str(head), *words]).strip()}")
        elif isinstance(value, str) and len(value) > 96:
            parts = [value[at : at + 64] for at in range(0, len(value), 64)]
            while len(parts) > 1 and not parts[-1].strip("0"):
                parts.pop()
            lines.append(f"{label:22} {parts[0]}")
            lines.extend(f"{'':22} {part}" for part in parts[1:])
        else:
            lines.append(f"{label:22} {'unknown' if value is None else value}")
    return "\n".join(lines) + "\n"


@app.command("verify", epilog=f"{STATUS_HELP}\n{BATCH_HELP}")
def verify(
    file: OptionalFile = None,
    platform: Annotated[
        Path | None,
        typer.Option("--platform", help="Trust this emulated platform, too. The verdict says EMULATED.", metavar="DIR"),
    ] = None,
    certs: Certs = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="Time of verification (UTC), such as 2026-08-19; default now.", metavar="TIME"),
    ] = None,
    policy_file: PolicyFile = None,
    measurement: Measurement = None,
    report_data: ReportData = None,
    host_data: HostData = None,
    id_key_digest: IdKeyDigest = None,
    author_key_digest: AuthorKeyDigest = None,
    family_id: FamilyId = None,
    image_id: ImageId = None,
    min_guest_svn: MinGuestSvn = None,
    min_tcb: MinTcb = None,
    min_firmware: MinFirmware = None,
    vmpl: Vmpl = None,
    crl: CrlOption = None,
    allow: Allow = None,
    cache: CacheOption = None,
    kds: KdsOption = None,
    offline: OfflineOption = False,
    as_json: Json = False,
    batch: BatchSource = None,
    output: Output = None,
    resume: Resume = False,
    full: Full = False,
    jobs: Jobs = None,
    match: Match = None,
    cluster: Cluster = None,
) -> None:
    """Verify a report: signature, chain to a root of AMD's, chip, TCB, validity, revocation, and the default policy.

    Certificates come from the evidence, --certs, the cache, and only if one is missing from KDS.
    What was not asked for is listed as such. The default policy: no DEBUG, no migration agent, VMPL 0, nothing reserved set.
    """
    from sev.appraisal import appraise
    from sev.attestation_policy import CRL_REQUIRED
    from sev.report import Report
    from sev.verify import verify as verify_report

    moment = _moment(at)
    values = policy_values(
        {
            "measurement": measurement,
            "report_data": report_data,
            "host_data": host_data,
            "id_key_digest": id_key_digest,
            "author_key_digest": author_key_digest,
            "family_id": family_id,
            "image_id": image_id,
            "min_guest_svn": min_guest_svn,
            "min_tcb": min_tcb,
            "min_firmware": min_firmware,
            "vmpl": vmpl,
            "crl": crl,
            "allow": allow,
        },
        policy_file,
    )
    policy = policy_of(values)
    options = BatchOptions(output=output, resume=resume, full=full, jobs=jobs, match=match, cluster=cluster)
    if batch is not None:
        if file is not None or as_json:
            raise UsageError(f"--batch and {'--json' if file is None else 'FILE'}: give one of them")
        status = verify_batch(
            batch,
            options,
            values=values,
            at=moment,
            certs=certs or [],
            platform=platform,
            cache=cache,
            kds=kds,
            offline=offline,
        )
        raise typer.Exit(status)
    options.refuse_alone()
    if file is None:
        raise UsageError("wanted a FILE, or --batch SOURCE; see cvmboot attest verify --help")
    evidence = evidence_in(file)
    add_collateral(evidence, certs or ())
    roots = platform_certificates(evidence, platform) if platform else []
    found = complete(evidence, cache, kds, offline, roots, moment, policy.crl == CRL_REQUIRED)
    verdict = verify_report(evidence.report, evidence.certificates, roots=roots, crls=evidence.crls, at=moment)
    if any(check.name == "signature" for check in verdict.checks):
        appraise(verdict, Report.decode(evidence.report), policy)
    explain_missing(verdict, found)
    if as_json:
        sys.stdout.write(json.dumps(verdict.to_json(), indent=2) + "\n")
    else:
        print_verdict(verdict)
    raise typer.Exit(verdict.status)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text}: wanted a time such as 2026-08-19 or 2026-08-19T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def platform_certificates(evidence: "Evidence", folder: Path) -> list["Certificate"]:
    """Add what the platform's own KDS would give for this report; gives its ARK."""
    from sev.certificates import ARK
    from sev.errors import SevError
    from sev.platform import VCEK, VLEK, Platform
    from sev.report import SIGNER_VLEK, Report

    try:
        platform = Platform.load(folder)
        issued = platform.authority().certificates
    except SevError as error:
        raise CvmbootError(str(error)) from None
    evidence.certificates += issued.values()
    try:
        report = Report.decode(evidence.report)
        kind = VLEK if report.signing_key == SIGNER_VLEK else VCEK
        evidence.certificates.append(platform.leaf(kind, report.reported_tcb))
    except SevError:
        pass  # a malformed report, or a TCB that this platform cannot have: the verdict says so
    return [issued[ARK]]


def print_verdict(verdict: "Verdict") -> None:
    emulated = "EMULATED: " if verdict.emulated else ""
    signer = f"{emulated}{verdict.signer or 'no signer'} {verdict.line}".rstrip()
    head = f"VERIFIED ({signer})" if verdict.verified else f"NOT VERIFIED: {verdict.reason}"
    lines = [head]
    if verdict.emulated:
        lines.append("EMULATED: this says nothing about real hardware.")
    for check in verdict.checks:
        detail = check.reason or " ".join(part for part in (check.field, check.seen) if part)
        lines.append(f"  {_MARKS[check.outcome]:9} {check.name:22} {detail}".rstrip())
    sys.stdout.write("\n".join(lines) + "\n")
