"""`cvmboot deploy gce`: the options of Google Compute Engine."""

import re
from typing import Annotated, Any

import typer

from cvmboot import deploy_common as common
from cvmboot.errors import UsageError

HELP = """Make an image and an instance of an application on Google Compute Engine.

Credentials are Application Default Credentials: `gcloud auth application-default login`, GOOGLE_APPLICATION_CREDENTIALS, or a
service account's. The image is private to the project; the machine has no public address and no service account. --max-run
ends it, and its cost, by itself.

Exit status: 0; 1 an error of ours or Google's: what was made stays, and the same command goes on; 2 wrong usage.
"""
EPILOG = """Examples:

\b
  cvmboot deploy gce go-boot.efi --project my-project --zone europe-west4-a --dry-run
  cvmboot deploy gce go-boot.efi --zone europe-west4-a --snp --max-run 8h --console
  cvmboot deploy gce app.efi --zone us-central1-a --snp --spot --secure-boot-keys keys/ --record app.json
  cvmboot deploy gce image.tar.gz --zone us-central1-a --image-only --family my-app
"""
DEFAULT_TYPE, DEFAULT_SNP_TYPE = "e2-small", "n2d-standard-2"
_NICS = ("gvnic", "virtio")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def deploy(
    app: common.Application,
    zone: Annotated[str, typer.Option("--zone", help="Such as europe-west4-a.", metavar="ZONE", show_default=False)],
    project: Annotated[
        str | None, typer.Option("--project", help="Default: the credentials' project.", metavar="PROJECT")
    ] = None,
    snp: common.Snp = False,
    name: common.Name = None,
    machine_type: Annotated[
        str | None,
        typer.Option("--machine-type", help=f"Default {DEFAULT_TYPE}, with --snp {DEFAULT_SNP_TYPE}.", metavar="TYPE"),
    ] = None,
    nic: Annotated[str, typer.Option("--nic", help="gvnic or virtio: the network card.", metavar="CARD")] = "gvnic",
    network: Annotated[
        str | None, typer.Option("--network", help="Default: the project's network `default`.", metavar="NETWORK")
    ] = None,
    subnet: Annotated[
        str | None, typer.Option("--subnet", help="Default: the network's in this region.", metavar="SUBNET")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Give the machine a public address.")] = False,
    max_run: Annotated[
        str | None,
        typer.Option("--max-run", help="Delete the machine after this time: 90m, 8h, 3d.", metavar="TIME"),
    ] = None,
    spot: Annotated[
        bool, typer.Option("--spot", help="A Spot VM: cheaper, and deleted when Google needs its place.")
    ] = False,
    serial_input: Annotated[
        bool,
        typer.Option(
            "--serial-input/--no-serial-input", help="`gcloud compute connect-to-serial-port` may write to it."
        ),
    ] = True,
    secure_boot: Annotated[
        bool | None,
        typer.Option("--secure-boot/--no-secure-boot", help="Default: on with --secure-boot-keys, else off."),
    ] = None,
    secure_boot_keys: common.Keys = None,
    disk_type: Annotated[str, typer.Option("--disk-type", metavar="TYPE", help="The boot disk's.")] = "pd-balanced",
    guest_feature: Annotated[
        list[str] | None,
        typer.Option("--guest-feature", help="Another guest OS feature of the image; repeatable.", metavar="FEATURE"),
    ] = None,
    image_name: Annotated[
        str | None, typer.Option("--image-name", help="Default: the name and the run.", metavar="NAME")
    ] = None,
    family: Annotated[str | None, typer.Option("--family", help="The image's family.", metavar="FAMILY")] = None,
    bucket: Annotated[
        str | None,
        typer.Option("--bucket", help="Send through this bucket. Default: one is made, and deleted.", metavar="BUCKET"),
    ] = None,
    image_only: common.ImageOnly = False,
    size: common.Size = None,
    add: common.Add = None,
    dry_run: common.DryRun = False,
    replace: common.Replace = False,
    console: common.Console = False,
    record: common.RecordFile = None,
    ovmf: common.Ovmf = None,
    timeout: Annotated[
        int,
        typer.Option("--timeout", help="Seconds to wait for each thing that Google does.", metavar="SECONDS", min=1),
    ] = 1800,
    state: common.State = None,
    as_json: common.AsJson = False,
    quiet: common.Quiet = False,
) -> None:
    if nic not in _NICS:
        raise UsageError(f"--nic {nic[:40]}: wanted {' or '.join(_NICS)}")
    if image_only and (snp or console or public or spot or max_run is not None):
        raise UsageError("--image-only starts no machine: --snp, --console, --public, --spot and --max-run are for one")
    given = common.Common(app, name, snp, image_only, dry_run, replace, console, record, ovmf, state, as_json, quiet)
    options: dict[str, Any] = {
        "machine_type": machine_type or (DEFAULT_SNP_TYPE if snp else DEFAULT_TYPE),
        "snp": snp,
        "nic": nic,
        "image_name": image_name,
        "family": family,
        "guest_features": list(dict.fromkeys(guest_feature or ())),
        "network": network,
        "subnet": subnet,
        "public": public,
        "spot": spot,
        "max_run": None if max_run is None else _seconds(max_run),
        "disk_type": disk_type,
        "secure_boot": secure_boot_keys is not None if secure_boot is None else secure_boot,
        "serial_input": serial_input,
        "bucket": bucket,
    }
    access = {"timeout": timeout, "buckets": [bucket] if bucket else []}
    from cloud.errors import Unfit
    from cloud.gce.options import check_options

    try:
        check_options(options)
    except Unfit as error:
        raise UsageError(str(error)) from None
    place = f"{project or ''}/{zone}"
    raise typer.Exit(common.deploy("gce", given, place, options, access, secure_boot_keys, size, add))


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if not match:
        raise UsageError(f"--max-run {text[:40]}: wanted a number and a unit, such as 90m, 8h or 3d")
    return int(match[1]) * _UNITS[match[2]]
