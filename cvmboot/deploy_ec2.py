"""`cvmboot deploy ec2`: the options of Amazon EC2."""

from typing import Annotated, Any

import typer

from cvmboot import deploy_common as common
from cvmboot.errors import UsageError

HELP = """Make an EBS snapshot, an AMI and an instance of an application on Amazon EC2.

Credentials come from the AWS SDK's own chain (environment, ~/.aws, roles). The image is private and the machine has no public
address unless asked for. An application that shuts down ends the instance, and its cost (--on-shutdown).

Exit status: 0; 1 an error of ours or the cloud's: what was made stays, and the same command goes on; 2 wrong usage.
"""
EPILOG = """Examples:

\b
  cvmboot deploy ec2 go-boot.efi --region us-east-2 --dry-run
  cvmboot deploy ec2 go-boot.efi --region us-east-2 --snp --machine-type c6a.large --console
  cvmboot deploy ec2 app.efi --region eu-west-1 --secure-boot-keys keys/ --copy-to us-east-2 --image-only
  cvmboot deploy ec2 app.efi --region eu-west-1 --via s3 --bucket my-bucket
"""
DEFAULT_TYPE, DEFAULT_SNP_TYPE, DEFAULT_BIOS_TYPE = "t3.micro", "c6a.large", "t3.micro"
_WAYS = ("ebs", "s3")
_BEHAVIOURS = ("terminate", "stop")


def deploy(
    app: common.Application,
    region: Annotated[
        str | None, typer.Option("--region", help="Default: the AWS SDK's configuration.", metavar="REGION")
    ] = None,
    snp: common.Snp = False,
    name: common.Name = None,
    machine_type: Annotated[
        str | None,
        typer.Option("--machine-type", help=f"Default {DEFAULT_TYPE}, with --snp {DEFAULT_SNP_TYPE}.", metavar="TYPE"),
    ] = None,
    image_name: Annotated[
        str | None, typer.Option("--image-name", help="The AMI's name. Default: name and run.", metavar="NAME")
    ] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", help="Availability zone. Default: AWS chooses.", metavar="ZONE")
    ] = None,
    subnet: Annotated[
        str | None, typer.Option("--subnet", help="Default: the default VPC's.", metavar="SUBNET")
    ] = None,
    security_group: Annotated[
        list[str] | None,
        typer.Option("--security-group", help="Id; may be repeated. Default: the VPC's.", metavar="GROUP"),
    ] = None,
    public_ip: Annotated[bool, typer.Option("--public-ip", help="Give the machine a public address.")] = False,
    on_shutdown: Annotated[
        str, typer.Option("--on-shutdown", help="terminate or stop, when the guest powers off.", metavar="WHAT")
    ] = "terminate",
    encrypt: Annotated[bool, typer.Option("--encrypt", help="Encrypt snapshot and disk.")] = False,
    kms_key: Annotated[
        str | None, typer.Option("--kms-key", help="Encrypt with this key. Default: the account's.", metavar="KEY")
    ] = None,
    copy_to: Annotated[
        list[str] | None,
        typer.Option("--copy-to", help="Copy the image to this region; may be repeated.", metavar="REGION"),
    ] = None,
    secure_boot_keys: common.Keys = None,
    tpm: Annotated[bool, typer.Option("--tpm/--no-tpm", help="A TPM 2.0 (NitroTPM); UEFI only.")] = True,
    via: Annotated[
        str, typer.Option("--via", help="ebs: EBS direct. s3: a bucket and ImportSnapshot.", metavar="WAY")
    ] = "ebs",
    bucket: Annotated[
        str | None, typer.Option("--bucket", help="With --via s3: the bucket, which must be there.", metavar="BUCKET")
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
        int, typer.Option("--timeout", help="Seconds to wait for each thing that AWS does.", metavar="SECONDS", min=1)
    ] = 1800,
    profile: Annotated[
        str | None, typer.Option("--profile", help="Profile of the AWS configuration.", metavar="NAME")
    ] = None,
    state: common.State = None,
    as_json: common.AsJson = False,
    quiet: common.Quiet = False,
) -> None:
    if via not in _WAYS:
        raise UsageError(f"--via {via[:40]}: wanted {' or '.join(_WAYS)}")
    if (bucket is None) != (via == "ebs"):
        raise UsageError("--via s3 and --bucket belong together")
    if on_shutdown not in _BEHAVIOURS:
        raise UsageError(f"--on-shutdown {on_shutdown[:40]}: wanted {' or '.join(_BEHAVIOURS)}")
    if image_only and (snp or console):
        raise UsageError(
            "--image-only starts no machine: --snp and --console are for one; SEV-SNP is chosen at its start"
        )
    given = common.Common(app, name, snp, image_only, dry_run, replace, console, record, ovmf, state, as_json, quiet)
    options: dict[str, Any] = {
        "machine_type": machine_type or (DEFAULT_SNP_TYPE if snp else DEFAULT_TYPE),
        "snp": snp,
        "image_name": image_name,
        "zone": zone,
        "subnet": subnet,
        "security_groups": security_group or [],
        "public_ip": public_ip,
        "on_shutdown": on_shutdown,
        "encrypt": encrypt or kms_key is not None,
        "kms_key": kms_key,
        "copy_to": list(dict.fromkeys(copy_to or ())),
        "tpm": tpm,
        "via": via,
        "bucket": bucket,
    }
    access = {
        "profile": profile,
        "timeout": timeout,
        "copy_to": options["copy_to"],
        "buckets": [bucket] if bucket else [],
    }
    raise typer.Exit(common.deploy("ec2", given, region or "", options, access, secure_boot_keys, size, add))
