"""`cvmboot attest`: decodes and verifies SEV-SNP attestation reports."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmboot.errors import CvmbootError, UsageError

if TYPE_CHECKING:
    from sev.certificates import Certificate
    from sev.evidence import Evidence
    from sev.verdict import Verdict

STATUS_HELP = """Exit status: 0 verified; 1 an error of ours; 2 wrong usage; 3 malformed evidence; 4 signature or chain;
5 a certificate is missing or expired; 6 revoked; 7 policy.
"""
_LARGEST_FILE = 4 << 20
_CERTIFICATE_SUFFIXES = {".pem", ".der", ".crt", ".cer", ".crl", ".table"}
_MARKS = {"passed": "ok", "failed": "FAILED", "skipped": "skipped", "not asked": "not asked"}

app = typer.Typer(help="Decode and verify SEV-SNP attestation reports.", no_args_is_help=True)

_File = Annotated[
    Path,
    typer.Argument(
        help="The report: 1184 raw bytes, hex or base64 text, or MSG_REPORT_RSP; - for standard input.", metavar="FILE"
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Write JSON.")]


def read_limited(path: Path) -> bytes:
    """A file's bytes, or standard input's for "-"; CvmbootError if it cannot be read or is larger than 4 MiB."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_LARGEST_FILE + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror}") from None
    if len(data) > _LARGEST_FILE:
        raise CvmbootError(f"{path}: more than {_LARGEST_FILE} bytes")
    return data


def _evidence(path: Path) -> "Evidence":
    """The evidence in a file. Exit with MALFORMED if there is none."""
    from sev.errors import SevError
    from sev.evidence import read_evidence

    data = read_limited(path)
    try:
        return read_evidence(data)
    except SevError as error:
        raise _malformed(f"{path}: {error}") from None


def _malformed(text: str) -> typer.Exit:
    from cvmboot.cli import complain
    from sev.verdict import MALFORMED

    complain(text)
    return typer.Exit(MALFORMED)


@app.command("show")
def show(file: _File, as_json: _Json = False) -> None:
    """Decode a report. Nothing is verified.

    Exit status: 0; 1 the file cannot be read; 2 wrong usage; 3 it holds no report.
    """
    from sev.decoded import decoded
    from sev.errors import SevError
    from sev.report import Report

    evidence = _evidence(file)
    try:
        report = Report.decode(evidence.report)
    except SevError as error:
        raise _malformed(f"{file}: {error}") from None
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


@app.command("verify", epilog=STATUS_HELP)
def verify(
    file: _File,
    platform: Annotated[
        Path | None,
        typer.Option("--platform", help="Trust this emulated platform, too. The verdict says EMULATED.", metavar="DIR"),
    ] = None,
    certs: Annotated[
        list[Path] | None,
        typer.Option("--certs", help="Certificates and CRLs, PEM or DER; may be repeated.", metavar="FILE_OR_DIR"),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="Time of verification (UTC), such as 2026-08-19; default now.", metavar="TIME"),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow", help="Do not ask for: debug, migration, vmpl, reserved; may be repeated.", metavar="WHAT"
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Verify a report: signature, chain to a root of AMD's, chip, TCB, validity, revocation, and the default policy.

    The default policy: no DEBUG, no migration agent, VMPL 0, nothing reserved set.
    """
    from sev.appraisal import ALL, appraise
    from sev.report import Report
    from sev.verify import verify as verify_report

    moment = _moment(at)
    if unknown := set(allow or ()) - set(ALL):
        raise UsageError(f"--allow {sorted(unknown)[0]}: wanted {', '.join(ALL)}")
    evidence = _evidence(file)
    for path in certs or ():
        _add_collateral(evidence, path)
    roots = _platform_certificates(evidence, platform) if platform else []
    verdict = verify_report(evidence.report, evidence.certificates, roots=roots, crls=evidence.crls, at=moment)
    if any(check.name == "signature" for check in verdict.checks):
        appraise(verdict, Report.decode(evidence.report), allow or ())
    if as_json:
        sys.stdout.write(json.dumps(verdict.to_json(), indent=2) + "\n")
    else:
        _print_verdict(verdict)
    raise typer.Exit(verdict.status)


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at {text}: wanted a time such as 2026-08-19 or 2026-08-19T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _add_collateral(evidence: "Evidence", path: Path) -> None:
    """Add a file's certificates, or those of a folder's files; in a folder, what is no certificate of AMD's is left out."""
    from cvmboot.cli import complain
    from sev.errors import SevError
    from sev.evidence import add_certificates

    if not path.is_dir():
        try:
            add_certificates(evidence, read_limited(path))
        except SevError as error:
            raise _malformed(f"{path}: {error}") from None
        return
    for file in sorted(path.iterdir()):
        if file.suffix.lower() in _CERTIFICATE_SUFFIXES and file.is_file():
            try:
                add_certificates(evidence, read_limited(file))
            except SevError as error:
                complain(f"{file}: left out: {error}")


def _platform_certificates(evidence: "Evidence", folder: Path) -> list["Certificate"]:
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


def _print_verdict(verdict: "Verdict") -> None:
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
