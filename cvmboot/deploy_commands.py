"""`cvmboot deploy`: clouds. `deploy ec2|gce APP` makes; status, console, destroy and gc look after what was made."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmboot import deploy_ec2, deploy_gce
from cvmboot.deploy_common import AsJson, DryRun, State, cloud_errors, follow_console, journal_in
from cvmboot.errors import CvmbootError, UsageError

if TYPE_CHECKING:
    from cloud.destroy import Run
    from cloud.journal import Journal
    from cloud.provider import Provider

HELP = """Put an EFI application into a cloud as a VM, confidential with --snp, and take it away again.

A deployment that was broken off, at any moment, is finished by the same command again; nothing is made twice.
"""
EPILOG = """Examples:

\b
  cvmboot deploy ec2 app.efi --region eu-west-1 --snp --dry-run
  cvmboot deploy ec2 app.efi --region eu-west-1 --snp --console --record app.json
  cvmboot deploy status
  cvmboot deploy console app --follow
  cvmboot deploy destroy app
  cvmboot deploy gc --older-than 7d
"""
app = typer.Typer(help=HELP, epilog=EPILOG, no_args_is_help=True)
app.command("ec2", help=deploy_ec2.HELP, epilog=deploy_ec2.EPILOG)(deploy_ec2.deploy)
app.command("gce", help=deploy_gce.HELP, epilog=deploy_gce.EPILOG)(deploy_gce.deploy)

_Wanted = Annotated[
    str | None, typer.Argument(help="A run, or a deployment's name.", metavar="RUN|NAME", show_default=False)
]
_Ec2 = Annotated[
    list[str] | None,
    typer.Option("--ec2", help="Look in this region too, whatever the journal knows.", metavar="REGION"),
]
_Gce = Annotated[
    list[str] | None,
    typer.Option(
        "--gce", help="Look in this project and zone too, whatever the journal knows.", metavar="PROJECT/ZONE"
    ),
]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _providers(journal: "Journal", ec2: list[str] | None, gce: list[str] | None) -> "Iterator[Provider]":
    """Those of the places that the journal knows, and of those named; each once."""
    from cloud.providers import provider_at

    places: dict[tuple[str, str], dict[str, Any]] = {}
    for record in journal.records():
        access = places.setdefault((record.order.provider, record.order.place), {})
        for key, value in record.order.access.items():
            # What several runs know of a place is put together: regions of copies, buckets.
            access[key] = list(dict.fromkeys([*access.get(key, []), *value])) if isinstance(value, list) else value
    for name, given in (("ec2", ec2), ("gce", gce)):
        for where in given or ():
            places.setdefault((name, where), {})
    for (name, where), access in places.items():
        yield provider_at(name, where, access)


def _runs(journal: "Journal", ec2: list[str] | None, gce: list[str] | None) -> "Iterator[tuple[Provider, Run]]":
    from cloud.destroy import merge

    for provider in _providers(journal, ec2, gce):
        for run in merge(journal, provider):
            yield provider, run


def _matching(
    wanted: str, journal: "Journal", ec2: list[str] | None, gce: list[str] | None
) -> "list[tuple[Provider, Run]]":
    found = [(provider, run) for provider, run in _runs(journal, ec2, gce) if wanted in (run.run, run.name)]
    if not found:
        raise CvmbootError(
            f"no run or deployment {wanted[:60]!r} in {journal.folder}; see `cvmboot deploy status`, or say where it is "
            f"with --ec2 REGION or --gce PROJECT/ZONE"
        )
    return found


def _plain(provider: "Provider", run: "Run") -> dict[str, Any]:
    return {
        "run": run.run,
        "name": run.name,
        "provider": provider.name,
        "place": provider.place,
        "state": run.record.state if run.record else None,
        "error": run.record.error if run.record else None,
        "resources": [
            {
                **found.resource.to_json(),
                "state": found.state,
                "created": found.created,
                "facts": found.facts,
            }
            for found in run.found
        ],
    }


def _write(plain: dict[str, Any]) -> None:
    state = {None: "not in the journal", "complete": "complete", "open": "unfinished"}.get(plain["state"], "destroying")
    sys.stdout.write(f"{plain['name']}  {plain['run']}  {plain['provider']} {plain['place']}  {state}\n")
    if plain["error"]:
        sys.stdout.write(f"  last error: {plain['error']}\n")
    for resource in plain["resources"]:
        facts = "".join(f"  {key}={value}" for key, value in resource["facts"].items() if value not in (None, ""))
        sys.stdout.write(f"  {resource['kind']:10} {resource['id']}  {resource['place']}  {resource['state']}{facts}\n")
    if not plain["resources"]:
        sys.stdout.write("  nothing in the cloud\n")


@app.command("status")
def status(
    wanted: _Wanted = None, ec2: _Ec2 = None, gce: _Gce = None, state: State = None, as_json: AsJson = False
) -> None:
    """Show what the journal and the clouds have of our runs."""
    with cloud_errors():
        journal = journal_in(state)
        found = _matching(wanted, journal, ec2, gce) if wanted else list(_runs(journal, ec2, gce))
        plain = [_plain(provider, run) for provider, run in found]
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    for one in plain:
        _write(one)
    if not plain:
        sys.stdout.write("no deployments\n")


@app.command("console")
def console(
    wanted: Annotated[str, typer.Argument(help="A run, or a deployment's name.", metavar="RUN|NAME")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine ends, or Ctrl-C.")] = False,
    ec2: _Ec2 = None,
    gce: _Gce = None,
    state: State = None,
) -> None:
    """Show the serial console of a machine."""
    with cloud_errors():
        for provider, run in _matching(wanted, journal_in(state), ec2, gce):
            for found in run.found:
                if found.resource.kind == "instance":
                    follow_console(provider, found.resource, follow=follow)
                    return
    raise CvmbootError(f"{wanted[:60]}: has no machine; `cvmboot deploy status` shows what there is")


@app.command("destroy")
def destroy(
    wanted: _Wanted = None,
    everything: Annotated[bool, typer.Option("--all", help="All runs of the journal and of places named.")] = False,
    dry_run: DryRun = False,
    ec2: _Ec2 = None,
    gce: _Gce = None,
    state: State = None,
) -> None:
    """Delete machine, image, snapshots and all else of a run, of a name, or of all runs."""
    from cloud.destroy import destroy_run

    if (wanted is None) != everything:
        raise UsageError("name a run or a deployment, or say --all; see cvmboot deploy destroy --help")
    with cloud_errors():
        journal = journal_in(state)
        found = _matching(wanted, journal, ec2, gce) if wanted else list(_runs(journal, ec2, gce))
        for provider, run in found:
            if dry_run:
                _write(_plain(provider, run))
                continue
            count = len(destroy_run(provider, journal, run.run, _tell))
            sys.stdout.write(f"{run.name} {run.run}: destroyed, {count} resources deleted\n")
    if not found:
        sys.stdout.write("nothing to destroy\n")


@app.command("uefi-data")
def uefi_data(
    folder: Annotated[Path, typer.Argument(help="Folder with PK, KEK, db, dbx.", metavar="DIR")],
) -> None:
    """Write Secure Boot keys as Amazon's UefiData: for terraform/ec2, and for `aws ec2 register-image`."""
    from cloud.ec2 import uefi_data as format_of
    from cloud.secure_boot_keys import read_keys

    with cloud_errors():
        sys.stdout.write(format_of.uefi_data(read_keys(folder)) + "\n")


@app.command("gc")
def gc(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Age by the cloud's clock: 90m, 12h, 7d, 2w.", metavar="AGE")
    ] = "7d",
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; without it they are only shown.")] = False,
    ec2: _Ec2 = None,
    gce: _Gce = None,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show leftovers of runs that have no machine (any more), found by their labels; with --delete, delete them."""
    from cloud.destroy import destroy_run, leftovers

    age = _seconds(older_than)
    with cloud_errors():
        journal = journal_in(state)
        found = [(each, run) for each in _providers(journal, ec2, gce) for run in leftovers(each, journal, age)]
        if as_json:
            sys.stdout.write(json.dumps([_plain(provider, run) for provider, run in found], indent=2) + "\n")
        for provider, run in found:
            if not as_json:
                _write(_plain(provider, run))
            if delete:
                destroy_run(provider, journal, run.run, _tell)
    if not as_json:
        what = f"{len(found)} runs left over" if found else "no leftovers"
        hint = "" if delete or not found else "; --delete deletes them"
        sys.stdout.write(f"{what}{hint}\n")


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    if not match:
        raise UsageError(f"--older-than {text[:40]}: wanted a number and a unit, such as 90m, 12h, 7d or 2w")
    return int(match[1]) * _UNITS[match[2]]
