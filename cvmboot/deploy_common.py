"""What `cvmboot deploy ec2` and `deploy gce` share: their common options, the journal, the plan, the record, errors."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cvmboot.errors import CvmbootError, UsageError

if TYPE_CHECKING:
    from cloud.journal import Journal, Record
    from cloud.order import Order
    from cloud.plan import Plan
    from cloud.provider import Provider
    from cloud.resource import Resource
    from cloud.source import Source

Application = Annotated[
    Path,
    typer.Argument(
        help="An EFI application, an ELF unikernel, or a disk image that `image build` made.",
        metavar="APP",
        show_default=False,
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="The deployment's name: letters, digits, hyphens. Default: APP's.", metavar="NAME"),
]
Snp = Annotated[bool, typer.Option("--snp", help="An SEV-SNP confidential VM; it is asserted after the start.")]
ImageOnly = Annotated[bool, typer.Option("--image-only", help="Make the cloud's image, and start no machine.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Look, show the plan, and stop. Nothing is made.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Destroy other runs of this name, after the new one is ready.")
]
Console = Annotated[bool, typer.Option("--console", help="Follow the serial console when the machine runs.")]
Keys = Annotated[
    Path | None,
    typer.Option(
        "--secure-boot-keys",
        help="Folder with PK, KEK, db and dbx (.der, .pem, .crt, .esl or .auth) for the firmware.",
        metavar="DIR",
    ),
]
RecordFile = Annotated[
    Path | None,
    typer.Option("--record", help="Write digests and ids here, for `attest verify --policy`.", metavar="FILE"),
]
Ovmf = Annotated[
    Path | None,
    typer.Option("--ovmf", help="The cloud's firmware: --record then has the launch digest.", metavar="FILE"),
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Folder of the journal. Default: the user's state folder.", metavar="DIR"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Size = Annotated[str | None, typer.Option("--size", help="Size of the disk, such as 2G.", metavar="SIZE")]
Add = Annotated[
    list[str] | None,
    typer.Option("--add", help="Another file for the ESP: host path, colon, path there.", metavar="SRC:DEST"),
]


@dataclass(frozen=True)
class Common:
    """The common options of one command line."""

    app: Path
    name: str | None
    snp: bool
    image_only: bool
    dry_run: bool
    replace: bool
    console: bool
    record: Path | None
    ovmf: Path | None
    state: Path | None
    as_json: bool
    quiet: bool


@contextmanager
def cloud_errors() -> Iterator[None]:
    """Turn what cloud/ and images/ refuse into one line."""
    from cloud.errors import CloudError
    from images.errors import ImageError

    try:
        yield
    except (CloudError, ImageError) as error:
        raise CvmbootError(str(error)) from None


def journal_in(folder: Path | None) -> "Journal":
    """The journal in `folder`, or the user's."""
    from cloud.journal import Journal

    if folder is None:
        from platformdirs import user_state_path

        folder = user_state_path("cvmboot", appauthor=False) / "runs"
    return Journal(folder)


def name_of(common: Common) -> str:
    """The deployment's name. UsageError for one that no cloud takes."""
    from cloud.labels import LONGEST_NAME, is_name, name_from

    if common.name is None:
        return name_from(common.app.stem)
    if not is_name(common.name):
        raise UsageError(
            f"--name {common.name[:60]!r}: wanted lower-case letters, digits and hyphens, first a letter, "
            f"at most {LONGEST_NAME}"
        )
    return common.name


def deploy(
    cloud: str,
    given: Common,
    place: str,
    options: dict[str, Any],
    access: dict[str, Any],
    keys: Path | None,
    size: str | None,
    add: list[str] | None,
) -> int:
    """Deploy what the command line asks for; gives the exit status.

    `place` is where in the cloud, as its provider has it; `options` make the order, `access` is about how to reach the cloud.
    """
    from cloud.labels import PRODUCT_IMAGE, PRODUCT_INSTANCE
    from cloud.order import Order
    from cloud.providers import provider_at
    from cloud.secure_boot_keys import read_keys
    from cvmboot.deploy_image import source_of

    name = name_of(given)
    with cloud_errors():
        read = read_keys(keys) if keys is not None else None
        source = source_of(given.app, size=size, add=add)
        provider = provider_at(cloud, place, access)
        product = PRODUCT_IMAGE if given.image_only else PRODUCT_INSTANCE
        order = Order(cloud, provider.place, name, source.facts, product, options, access, read)
    return _carry_out(given, provider, order, source)


def _launch_digest(given: Common, run: "Record") -> tuple[str, str]:
    """The launch digest of the instance with the firmware given by --ovmf; ("", "") if it is not known."""
    if given.ovmf is None or not given.snp:
        return "", ""
    from cvmboot.deploy_measure import launch_digest

    return launch_digest(given.ovmf, run.order.provider, int(run.steps["instance"].facts["vcpus"]))


def _carry_out(common: Common, provider: "Provider", order: "Order", source: "Source") -> int:
    """Carry an order out and show what came of it; gives the exit status."""
    from cloud.deploy import Deployment, deploy
    from cloud.progress import Report
    from cloud.record import record_of, write_record
    from cvmboot.version import version

    report = Report(quiet=common.quiet)
    if common.record is not None:
        _check_writable(common.record)
    with cloud_errors():
        deployment = Deployment(
            provider, source, journal_in(common.state), report, version(), lambda plan: _show(common, plan)
        )
        run = deploy(deployment, order, dry_run=common.dry_run, replace=common.replace)
        if run is None:
            return 0
        digest, digest_source = _launch_digest(common, run)
        record = record_of(run, launch_digest=digest, digest_source=digest_source)
        if common.record is not None:
            write_record(common.record, record)
        if common.as_json:
            sys.stdout.write(json.dumps(record, indent=2) + "\n")
        else:
            show_run(run)
        if common.console and "instance" in run.steps:
            instance = run.steps["instance"].resource
            if instance is not None:
                follow_console(provider, instance, follow=True)
    return 0


def _check_writable(path: Path) -> None:
    import os

    if not os.access(path if path.exists() else path.absolute().parent, os.W_OK):
        raise CvmbootError(f"{path}: cannot be written; name another file with --record")


def _show(common: Common, plan: "Plan") -> None:
    from cloud.plan import write_plan

    if common.dry_run and common.as_json:
        sys.stdout.write(json.dumps(plan.to_json(), indent=2) + "\n")
    elif common.dry_run:
        write_plan(plan, sys.stdout)
    elif not common.quiet:
        write_plan(plan, sys.stderr)


def show_run(run: "Record") -> None:
    """A complete run, one line for each resource, then the facts of its instance."""
    for name, step in run.steps.items():
        if step.resource is not None and step.state == "done":
            sys.stdout.write(f"{name:12} {step.resource.id}  {step.resource.place}\n")
    for key, value in _instance_facts(run).items():
        if value not in (None, ""):
            sys.stdout.write(f"{key:12} {value}\n")
    sys.stdout.write(f"{'run':12} {run.run}\n")


def _instance_facts(run: "Record") -> dict[str, Any]:
    step = run.steps.get("instance")
    return step.facts if step else {}


def follow_console(provider: "Provider", instance: "Resource", *, follow: bool) -> None:
    """Write an instance's console to standard output. Ctrl-C ends the watching, not the machine."""
    sys.stdout.flush()
    try:
        for text in provider.console(instance, follow):
            sys.stdout.buffer.write(text.encode(errors="replace"))
            sys.stdout.buffer.flush()
    except KeyboardInterrupt:
        sys.stderr.write("\ncvmboot: the machine goes on; `cvmboot deploy destroy` ends it\n")
