"""`cvmboot attest policy`: writes a policy file from a report, checks one, shows the schema."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cvmboot.attest_input import File, evidence_in, malformed
from cvmboot.errors import CvmbootError, UsageError

policy_app = typer.Typer(help="Policy files: what to ask of a report.", no_args_is_help=True)
_Output = Annotated[Path | None, typer.Option("-o", "--output", help="Write it here.", metavar="FILE")]


def values_in(path: Path) -> dict[str, Any]:
    """Keys and values of a policy file, or of a deployment's record. CvmbootError if it cannot be read, UsageError."""
    from cvmboot.deploy_record import is_record, policy_in
    from sev.policy_file import LARGEST, BadPolicyFile, read_values

    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with path.open("rb") as file:
                data = file.read(LARGEST + 1)
    except OSError as error:
        raise CvmbootError(f"{path}: {error.strerror}") from None
    if is_record(data):
        return policy_in(path, data)
    try:
        return read_values(data)
    except BadPolicyFile as error:
        raise UsageError(f"{path}: {error}") from None


@policy_app.command("init")
def init(file: File, output: _Output = None) -> None:
    """Write a commented policy that asks for what a report says. Nothing is verified.

    A file that exists is left alone. Exit status: 0; 1 an error of ours; 2 wrong usage; 3 there is no report.
    """
    from sev.errors import SevError
    from sev.policy_file import commented_policy
    from sev.report import Report

    evidence = evidence_in(file)
    lines = {certificate.line.name for certificate in evidence.certificates}
    try:
        text = commented_policy(Report.decode(evidence.report), lines.pop() if len(lines) == 1 else "")
    except SevError as error:
        raise malformed(file, error) from None
    if output is None or str(output) == "-":
        sys.stdout.write(text)
        return
    try:
        with output.open("x") as new:
            new.write(text)
    except OSError as error:
        raise CvmbootError(f"{output}: {error.strerror}") from None


@policy_app.command("check")
def check(
    file: Annotated[Path, typer.Argument(help="The policy file; - for standard input.", metavar="FILE")],
) -> None:
    """Check a policy file, and say what it asks for.

    Exit status: 0 it is fine; 1 it cannot be read; 2 it is no policy: the line and the key are named.
    """
    values = values_in(file)
    sys.stdout.write(f"{file}: asks for {', '.join(values) or 'the default policy'}\n")


@policy_app.command("schema")
def schema() -> None:
    """Write the JSON Schema of policy files."""
    from importlib.resources import files

    from sev.policy_file import SCHEMA

    sys.stdout.write(files("sev").joinpath(SCHEMA).read_text())
