"""`cvmboot snapshot`: boots a machine up to a point and freezes it in a file; `cvmboot snapshot info` says what is in one."""

import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cvmboot.arguments import OPTIONS, fields_of, seconds
from cvmboot.cli import complain
from cvmboot.errors import UsageError
from cvmboot.option_parameters import parameter
from cvmboot.options import RunOptions
from cvmboot.progress import progress_bar
from cvmboot.snapshots.errors import printable

EXAMPLES = """Examples:

\b
  cvmboot snapshot go-boot.efi -o prompt.snap --at "boot manager" --at "> "
  cvmboot run --restore prompt.snap
  printf 'info\\n' | cvmboot run --restore prompt.snap --timeout 5
  printf 'linux\\n' | cvmboot snapshot go-boot.efi --esp ./esp -o shell.snap --at "~ # " --timeout 120
  cvmboot snapshot tamago-sev-example.efi --snp --nic virtio -o sev.snap --after 2
  cvmboot snapshot info prompt.snap
"""
TAKE_HELP = """Boot IMAGE, wait for a text on its console or for a time, and freeze the machine in a file.

The console goes to standard output. Standard input, if it is a pipe or a file, is typed on the console.
The file holds the guest's memory with all secrets in it, and those of an emulated platform that the guest has: only you can
read it, and it is as worthy of trust as who made it.
"""
_DEFAULT_TIMEOUT = 60.0
_LEFT_OUT = frozenset(("restore", "gdb", "screenshot", "trace", "reboot", "debug"))
_OPTIONS = tuple(option for option in OPTIONS if option.field not in _LEFT_OUT)


class _Group(TyperGroup):
    """`cvmboot snapshot IMAGE ...` is short for `cvmboot snapshot take IMAGE ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["take", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


app = typer.Typer(
    cls=_Group,
    help="Freeze a booted machine in a file; `cvmboot run --restore` goes on from there.",
    no_args_is_help=True,
    epilog=EXAMPLES,
)


def _take(image: Path, output: Path, at: list[str] | None, after: str | None, **given: Any) -> None:
    texts = [text.encode() for text in at or ()]
    if bool(texts) == (after is not None):
        raise UsageError("when is the machine to be frozen? Give --at TEXT, or --after SECONDS")
    if not all(texts):
        raise UsageError("--at: wanted a text; '' is on every console")
    if str(output) == "-":
        raise UsageError("-o -: machines that go on from a snapshot map it; name a file")
    pause = None if after is None else seconds(after)
    for option in OPTIONS:
        given.setdefault(option.name, None)
    fields = fields_of(given)
    limit = fields.pop("timeout", _DEFAULT_TIMEOUT)
    from cvmboot.snapshots.freezer import Freezer

    typed = b"" if os.isatty(0) else sys.stdin.buffer.read()
    with (
        progress_bar(str(output)) as progress,
        Freezer(image, RunOptions(**fields), output, progress, texts, typed) as freezer,
        freezer.wait(limit, pause) as snapshot,
    ):
        facts = snapshot.facts
    complain(
        f"{output}: {_size(facts['memory_in_file'])} of {_size(facts['memory'])} RAM are in it; "
        f"cvmboot run --restore {output} goes on from there"
    )


def _size(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB" if count < 1 << 30 else f"{count / (1 << 30):g} GiB"


_IMAGE = typer.Argument(help="The EFI application, disk or ELF unikernel.", metavar="IMAGE", show_default=False)
_take.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("image", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Annotated[Path, _IMAGE]),
        inspect.Parameter(
            "output",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[
                Path, typer.Option("--output", "-o", help="The file to write.", metavar="FILE", show_default=False)
            ],
        ),
        inspect.Parameter(
            "at",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                list[str] | None,
                typer.Option(
                    "--at",
                    help="Freeze when this is on the console; repeated: one text after the other.",
                    metavar="TEXT",
                    show_default=False,
                ),
            ],
        ),
        inspect.Parameter(
            "after",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                str | None, typer.Option("--after", help="Freeze after so many seconds.", metavar="SECONDS")
            ],
        ),
        *(parameter(option) for option in _OPTIONS),
    ]
)
_take.__annotations__ = {}
app.command("take", help=TAKE_HELP, epilog=EXAMPLES)(_take)


@app.command("info")
def _info(
    file: Annotated[Path, typer.Argument(help="A snapshot.", metavar="FILE", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Say what is in a snapshot, without restoring it."""
    from cvmboot.snapshots.snapshot import Snapshot

    with Snapshot.open(file) as snapshot:
        facts = snapshot.facts
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["created"]))
    rows = [
        ("image", f"{facts['name']} ({_size(facts['image'])}, in the file)"),
        ("frozen", f"{made} by cvmboot {facts['version']}, {facts['cpus']} CPU, engine {facts['engine']}"),
        ("memory", f"{_size(facts['memory'])}, of which {_size(facts['memory_in_file'])} are in the file"),
        *(("option", f"{name} = {_shown(value)}") for name, value in facts["options"].items()),
        *(("disk", f"{disk['path']} ({disk['kind']}; must stay as it is)") for disk in facts["disks"]),
    ]
    if facts["platform"] is not None:
        rows.append(("platform", f"{facts['platform']['folder']} (must be there)"))
    if not facts["restorable"]:
        rows.append(("restore", "not by this cvmboot: it was written by another version"))
    for name, text in rows:
        typer.echo(f"{name:<9} {printable(text)}")


def _shown(value: Any) -> str:
    return str(next(iter(value.values()))) if isinstance(value, dict) else str(value)
