"""The typer application: help, errors, and every command line that is not plain enough for the quick way."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from cvmboot import attest, deploy_commands, image_commands, measure_command, platform_commands, snapshot_commands
from cvmboot.arguments import OPTIONS, fields_of
from cvmboot.errors import UsageError
from cvmboot.help_text import lay_out
from cvmboot.matrix.command import MATRIX_EXAMPLES, MATRIX_HELP, matrix
from cvmboot.option_parameters import parameter
from cvmboot.status import USAGE

RUN_HELP = """Boot an EFI application, a disk image or an ELF unikernel. The terminal becomes its console.

Keys: Ctrl-A X leaves, Ctrl-A H shows the keys; all others go to the guest, Ctrl-C too.
Standard input may be a pipe: it is typed on the console, and its end does not end the guest.

Exit status: 0 the guest shut down or returned EFI_SUCCESS; 1 an error of ours; 2 wrong usage; 3 the guest returned an
error; 4 it crashed; 5 --timeout ran out; 6 it broke SEV-SNP's rules under --snp-check strict; 130 Ctrl-C; 141 nobody
reads the output.
"""
EXAMPLES = """Examples:

\b
  cvmboot run go-boot.efi
  printf 'info\\nshutdown\\n' | cvmboot run go-boot.efi --timeout 10
  cvmboot run BOOTX64.EFI --esp ./esp --vars vars.json --memory 4G
  cvmboot run --snp --platform ./chip tamago-sev-example.efi
  cvmboot run app.efi --args "-v one two" --trace calls.jsonl
  cvmboot run --restore prompt.snap
"""

OVERVIEW = """Boot EFI applications in a fraction of a second: no firmware image, no hypervisor, no root.

Emulates SEV-SNP guests, verifies attestation reports, makes disk images, deploys them to clouds. More: cvmboot COMMAND --help.
"""
OVERVIEW_EXAMPLES = """Examples:

\b
  cvmboot demo
  cvmboot run go-boot.efi
  printf 'info\\nshutdown\\n' | cvmboot run go-boot.efi --timeout 10
  cvmboot run --snp tamago-sev-example.efi
  cvmboot matrix boots.toml --junit junit.xml
  cvmboot attest verify report.bin
  cvmboot image build app.efi -o disk.raw
  cvmboot deploy ec2 app.efi --snp --dry-run
"""

app = typer.Typer(
    name="cvmboot",
    help=OVERVIEW,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _run(image: Path | None = None, **given: Any) -> None:
    from cvmboot.run import run

    raise typer.Exit(run(image, fields_of(given)))


def _version(wanted: bool) -> None:
    if wanted:
        from cvmboot.version import version

        typer.echo(f"cvmboot {version()}")
        raise typer.Exit


@app.callback(epilog=OVERVIEW_EXAMPLES)
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command("demo")
def _demo() -> None:
    """Boot the samples that ship with this program."""
    from cvmboot.demo import demo

    raise typer.Exit(demo())


_IMAGE = typer.Argument(help="What to boot; nothing with --restore.", metavar="[IMAGE]", show_default=False)
_run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            "image", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[Path | None, _IMAGE]
        ),
        *(parameter(option) for option in OPTIONS),
    ]
)
_run.__annotations__ = {}
app.add_typer(attest.app, name="attest")
app.add_typer(platform_commands.app, name="platform")
app.add_typer(measure_command.app, name="measure")
app.add_typer(image_commands.app, name="image")
app.add_typer(deploy_commands.app, name="deploy")
app.add_typer(snapshot_commands.app, name="snapshot")
for _command in (deploy_commands.status, deploy_commands.console, deploy_commands.destroy, deploy_commands.gc):
    app.command(_command.__name__, hidden=True)(_command)  # the short way to `deploy status` and the others
app.command("run", help=RUN_HELP, epilog=EXAMPLES)(_run)
app.command("matrix", help=MATRIX_HELP, epilog=MATRIX_EXAMPLES)(matrix)


lay_out(app)


def run_command_line(words: list[str]) -> int:
    """Run a command line through typer; gives the exit status. UsageError for one that makes no sense."""
    try:
        result = app(args=words or ["--help"], prog_name="cvmboot", standalone_mode=False)
    except Exception as error:
        # typer has click's exceptions in a package of its own; what they have in common is this method.
        if not hasattr(error, "format_message"):
            raise
        if not error.format_message():
            return USAGE  # a group of commands without one of them: its help has been shown
        command = getattr(getattr(error, "ctx", None), "command_path", "cvmboot")
        raise UsageError(f"{error.format_message().rstrip('.')}; see {command} --help") from None
    return int(result or 0)
