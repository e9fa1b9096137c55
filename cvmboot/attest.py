"""`cvmboot attest`: decodes and verifies SEV-SNP attestation reports."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from cvmboot.attest_input import Certs, Json, Malformed, OptionalFile, add_collateral, evidence_in, trusted_roots
from cvmboot.attest_policy import (
    Allow,
    AuthorKeyDigest,
    ChipId,
    CrlOption,
    CspId,
    CurrentMitigations,
    FamilyId,
    GuestPolicyBits,
    HostData,
    IdKeyDigest,
    ImageId,
    LaunchMitigations,
    Measurement,
    MinCommittedFirmware,
    MinFirmware,
    MinGuestSvn,
    MinTcb,
    PlatformInfoBits,
    PolicyFile,
    ReportData,
    TcbRelations,
    Vmpl,
    policy_of,
    policy_values,
)
from cvmboot.attest_policy_file import policy_app
from cvmboot.attest_show import show
from cvmboot.attest_verdict import print_verdict
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

SCHEMAS = {
    "report": "report.schema.json",
    "verdict": "verdict.schema.json",
    "policy": "attestation_policy.schema.json",
}

app = typer.Typer(help="Decode and verify SEV-SNP attestation reports.", no_args_is_help=True)
app.command("show")(show)
app.command("fetch", epilog=FETCH_STATUS)(fetch)
app.add_typer(cache_app, name="cache")
app.add_typer(policy_app, name="policy")


@app.command("schema")
def schema(
    which: Annotated[str, typer.Argument(help="report, verdict or policy.", metavar="WHICH")],
) -> None:
    """Write the JSON Schema of what `attest show --json` or `attest verify --json` writes, or of policy files.

    Exit status: 0; 2 there is no such schema.
    """
    from importlib.resources import files

    if which not in SCHEMAS:
        raise UsageError(f"{which[:40]}: no such schema; wanted {', '.join(SCHEMAS)}")
    sys.stdout.write(files("sev").joinpath(SCHEMAS[which]).read_text())


@app.command("verify", epilog=f"{STATUS_HELP}\n{BATCH_HELP}")
def verify(
    file: OptionalFile = None,
    platform: Annotated[
        Path | None,
        typer.Option("--platform", help="Trust this emulated platform, too. The verdict says EMULATED.", metavar="DIR"),
    ] = None,
    trust_root: Annotated[
        list[Path] | None,
        typer.Option(
            "--trust-root",
            help="Trust the ARK in this file, too: an emulated platform's, or that of a line that is newer than this program. "
            "The verdict says so; may be repeated.",
            metavar="FILE",
        ),
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
    min_committed_firmware: MinCommittedFirmware = None,
    tcb_relations: TcbRelations = None,
    launch_mitigations: LaunchMitigations = None,
    current_mitigations: CurrentMitigations = None,
    guest_policy: GuestPolicyBits = None,
    platform_info: PlatformInfoBits = None,
    csp_id: CspId = None,
    chip_id: ChipId = None,
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
    What was not asked for is listed as such. The default policy: no DEBUG, no migration agent, VMPL 0, nothing reserved set,
    committed and reported TCB at most the current one.

    Examples: cvmboot attest verify report.bin --measurement 5feee30d... --report-data 0123...

    cvmboot attest verify evidence.json --policy policy.toml --crl required,stale-ok:30 --json

    cvmboot attest verify console.log --platform-info SMT_EN=forbid --guest-policy SMT=forbid --tcb-relations committed=current

    cvmboot attest verify --batch fleet.jsonl --certs certs/ -o verdicts.jsonl --resume
    """
    from sev.appraisal import appraise
    from sev.attestation_policy import CRL_REQUIRED
    from sev.binding import check_evidence, refusal
    from sev.evidence import Evidence
    from sev.verifier import verify as verify_report

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
            "min_committed_firmware": min_committed_firmware,
            "tcb_relations": tcb_relations,
            "launch_mitigations": launch_mitigations,
            "current_mitigations": current_mitigations,
            "guest_policy": guest_policy,
            "platform_info": platform_info,
            "csp_id": csp_id,
            "chip_id": chip_id,
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
            trusted=trusted_roots(Evidence(b""), trust_root or ()),
            cache=cache,
            kds=kds,
            offline=offline,
        )
        raise typer.Exit(status)
    options.refuse_alone()
    if file is None:
        raise UsageError("wanted a FILE, or --batch SOURCE; see cvmboot attest verify --help")
    try:
        evidence = evidence_in(file)
        add_collateral(evidence, certs or ())
        roots = trusted_roots(evidence, trust_root or ())
    except Malformed as error:
        if as_json:
            _write_json(refusal(error.reason))
        raise
    roots += platform_certificates(evidence, platform) if platform else []
    found = complete(evidence, cache, kds, offline, roots, moment, policy.crl == CRL_REQUIRED)
    verdict = verify_report(evidence.report, evidence.certificates, roots=roots, crls=evidence.crls, at=moment)
    check_evidence(verdict, evidence)
    if verdict.report is not None and any(check.name == "signature" for check in verdict.checks):
        appraise(verdict, verdict.report, policy)
    explain_missing(verdict, found)
    if as_json:
        _write_json(verdict)
    else:
        print_verdict(verdict)
    raise typer.Exit(verdict.status)


def _write_json(verdict: "Verdict") -> None:
    sys.stdout.write(json.dumps(verdict.to_json(), indent=2) + "\n")


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"--at {text}: wanted a time such as 2026-08-19 or 2026-08-19T12:00:00Z") from None
    return moment


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
