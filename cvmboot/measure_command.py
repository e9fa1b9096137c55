"""`cvmboot measure`: the launch digest that a firmware has on a real host, and why a report shows another one."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cvmboot.errors import CvmbootError, UsageError
from cvmboot.measure_settings import SCHEMA, Settings, measuring, read_settings

_EPILOG = """Examples:

\b
  cvmboot measure --ovmf OVMF.fd --vcpus 4 --vcpu-type EPYC-v4
  cvmboot measure --ovmf OVMF.amdsev.fd --vcpu-type EPYC-Genoa --kernel vmlinuz --initrd initrd --append "console=ttyS0"
  cvmboot measure --ovmf OVMF.fd --vmm ec2 --vcpus 1-64 --json
  cvmboot measure --igvm guest.igvm
  cvmboot measure --ovmf OVMF.fd --explain 329c8ce0972a...
  cvmboot measure inspect OVMF.fd
"""
_HELP = """Compute the launch digest (MEASUREMENT of a report) of a guest. With --explain, find the settings that give one.

Exit status: 0; 1 an error of ours, or a file that cannot be measured; 2 wrong usage; 7 --explain found nothing.
"""
app = typer.Typer(help=_HELP, epilog=_EPILOG, invoke_without_command=True)


def _show(settings: Settings, as_json: bool) -> None:
    from base64 import b64encode

    from sev.measure import GuestFeatures
    from sev.measure.snp import firmware_digest

    digests = settings.digests()
    only = len(digests) == 1
    if not as_json:
        sys.stdout.writelines(
            digest.hex() + "\n" if only else f"{vcpus:4} {digest.hex()}\n" for vcpus, digest in digests
        )
        return
    digest = digests[0][1]
    kernel = settings.kernel_hashes
    features = GuestFeatures({"snp": 1 if settings.svsm is not None else settings.features}.get(settings.mode, 0))
    has_processors = settings.mode in ("snp", "sev-es")
    plain = {
        "schema": SCHEMA,
        **({"digest": digest.hex(), "digest_base64": b64encode(digest).decode()} if only else {}),
        **({} if only else {"digests": [{"vcpus": vcpus, "digest": each.hex()} for vcpus, each in digests]}),
        "mode": settings.mode,
        "svsm": settings.svsm is not None,
        "vmm": settings.vmm.name if has_processors else None,
        "vcpus": (settings.vcpus if only else settings.vcpu_counts) if has_processors else None,
        "vcpu_signature": f"{settings.signature:#010x}" if has_processors and settings.signature is not None else None,
        "guest_features": f"{int(features):#x}" if settings.mode == "snp" else None,
        "guest_features_set": [name for name, is_set in features.named.items() if is_set],
        "kernel_hashes": None
        if kernel is None
        else {
            "kernel": kernel.kernel.hex(),
            "initrd": kernel.initrd.hex(),
            "command_line": kernel.command_line.hex(),
        },
        "firmware": {
            "size": len(settings.firmware.data),
            "address": f"{settings.firmware.gpa:#x}",
            "sha384": settings.firmware.sha384,
            "snp_ovmf_hash": (settings.firmware_hash or firmware_digest(settings.firmware).value).hex(),
        },
    }
    sys.stdout.write(json.dumps(plain, indent=2) + "\n")


def _dump_vmsa(settings: Settings, folder: Path) -> None:
    started = settings.processors()
    if started is None:
        raise UsageError(f"--dump-vmsa: --mode {settings.mode} measures no processors")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for index, page in enumerate(started.pages()):
            (folder / f"vmsa{index}.bin").write_bytes(page)
    except OSError as error:
        raise CvmbootError(f"{error.filename}: {error.strerror}") from None


_Path = Path | None
_Text = str | None
_Number = int | None


@app.callback()
def measure(
    context: typer.Context,
    ovmf: Annotated[_Path, typer.Option("--ovmf", help="The firmware image.", metavar="FILE")] = None,
    vcpus: Annotated[
        str, typer.Option("--vcpus", help="Number of processors; 1-64 gives the digest of each number.", metavar="N")
    ] = "1",
    vcpu_type: Annotated[
        _Text, typer.Option("--vcpu-type", help="Processor model by its QEMU name, such as EPYC-v4.", metavar="NAME")
    ] = None,
    vcpu_sig: Annotated[
        _Text, typer.Option("--vcpu-sig", help="Processor signature: EAX of CPUID leaf 1.", metavar="HEX")
    ] = None,
    vcpu_family: Annotated[_Number, typer.Option("--vcpu-family", help="Its family, with the two below.")] = None,
    vcpu_model: Annotated[_Number, typer.Option("--vcpu-model", help="Its model.")] = None,
    vcpu_stepping: Annotated[_Number, typer.Option("--vcpu-stepping", help="Its stepping.")] = None,
    guest_features: Annotated[
        _Text,
        typer.Option("--guest-features", help="SEV_FEATURES; default 0x1. Kernels 6.6 to 6.8: 0x21.", metavar="HEX"),
    ] = None,
    vmm: Annotated[
        _Text,
        typer.Option(
            "--vmm", help="qemu (default), ec2, gce or krun; qemu-nofpu, ec2-rdx0: older ones.", metavar="KIND"
        ),
    ] = None,
    mode: Annotated[
        _Text, typer.Option("--mode", help="snp (default), sev-es, sev, or ovmf-hash.", metavar="MODE")
    ] = None,
    kernel: Annotated[_Path, typer.Option("--kernel", help="Kernel given to QEMU.", metavar="FILE")] = None,
    initrd: Annotated[_Path, typer.Option("--initrd", help="Its initial RAM disk.", metavar="FILE")] = None,
    append: Annotated[_Text, typer.Option("--append", help="Its command line.", metavar="TEXT")] = None,
    snp_ovmf_hash: Annotated[
        _Text,
        typer.Option(
            "--snp-ovmf-hash", help="Digest of the image's pages (--mode ovmf-hash), in their place.", metavar="HEX"
        ),
    ] = None,
    svsm: Annotated[
        _Path, typer.Option("--svsm", help="COCONUT-SVSM image below the firmware.", metavar="FILE")
    ] = None,
    vars_size: Annotated[
        _Text, typer.Option("--vars-size", help="Size of the variable store, with --svsm.", metavar="BYTES")
    ] = None,
    vars_file: Annotated[_Path, typer.Option("--vars-file", help="The variable store itself.", metavar="FILE")] = None,
    igvm: Annotated[
        _Path,
        typer.Option("--igvm", help="An IGVM file; --vmm qemu says if KVM measures it otherwise.", metavar="FILE"),
    ] = None,
    native_zero: Annotated[
        bool,
        typer.Option("--native-zero", help="Pages without data are the processor's zero pages (COCONUT's vanadium)."),
    ] = False,
    dump_vmsa: Annotated[
        _Path, typer.Option("--dump-vmsa", help="Write each processor's page as vmsa0.bin ... there.", metavar="DIR")
    ] = None,
    explain: Annotated[
        _Text,
        typer.Option("--explain", help="Find what gives this digest; a report's file will do.", metavar="DIGEST"),
    ] = None,
    max_vcpus: Annotated[int, typer.Option("--max-vcpus", help="Most processors --explain tries.", metavar="N")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Compute a launch digest, or explain one."""
    arguments = dict(locals())  # converted; in context.params a path may still be text
    if context.invoked_subcommand is not None:
        return
    given = {name: arguments[name] for name in context.params}
    if igvm is not None:
        from cvmboot.measure_igvm import WITH_IGVM, measure_igvm

        others = [name for name, value in given.items() if value not in (None, False) and name not in WITH_IGVM]
        if others:
            raise UsageError(f"--igvm goes alone: leave --{others[0].replace('_', '-')} out")
        measure_igvm(igvm, vmm, native_zero, as_json)
        return
    if native_zero:
        raise UsageError("--native-zero is for --igvm")
    if ovmf is None:
        raise UsageError("--ovmf FILE or --igvm FILE is needed; see cvmboot measure --help")
    settings = read_settings(given)
    if explain is not None:
        from cvmboot.measure_explain import explain_digest

        raise typer.Exit(explain_digest(settings, explain, max(max_vcpus, *settings.vcpu_counts), as_json))
    if settings.svsm is not None and settings.features_given and settings.features != 1:
        from cvmboot.cli import complain

        complain("--guest-features does not count with --svsm: COCONUT-SVSM's processors start with 0x1")
    with measuring(str(ovmf)):
        if dump_vmsa is not None:
            if len(settings.vcpu_counts) > 1:
                raise UsageError("--dump-vmsa: give one number of --vcpus")
            _dump_vmsa(settings, dump_vmsa)
        _show(settings, as_json)


@app.command("inspect")
def inspect(
    file: Annotated[Path, typer.Argument(help="The firmware image, or an IGVM file.", metavar="FILE")],
    modules: Annotated[bool, typer.Option("--modules", help="List the modules of each volume, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show the tables of a firmware image: footer, SEV metadata, kernel hashes, reset vector, firmware volumes."""
    from cvmboot.measure_inspect import inspect_firmware

    inspect_firmware(file, modules, as_json)


@app.command("id-block")
def id_block(
    context: typer.Context,
    digest: Annotated[_Text, typer.Option("--digest", help="The launch digest to sign.", metavar="DIGEST")] = None,
    id_key: Annotated[_Path, typer.Option("--id-key", help="P-384 private key in PEM.", metavar="FILE")] = None,
    author_key: Annotated[
        _Path, typer.Option("--author-key", help="Private key that signs the ID key.", metavar="FILE")
    ] = None,
    family_id: Annotated[_Text, typer.Option("--family-id", help="16 bytes.", metavar="HEX")] = None,
    image_id: Annotated[_Text, typer.Option("--image-id", help="16 bytes.", metavar="HEX")] = None,
    guest_svn: Annotated[_Text, typer.Option("--guest-svn", help="Default 0.", metavar="N")] = None,
    policy: Annotated[_Text, typer.Option("--policy", help="Guest policy; default 0x30000.", metavar="HEX")] = None,
    id_block: Annotated[_Path, typer.Option("--id-block", help="The block, in base64.", metavar="FILE")] = None,
    id_auth: Annotated[_Path, typer.Option("--id-auth", help="Its authentication, in base64.", metavar="FILE")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Sign an ID block with --digest and --id-key, or check the one in --id-block and --id-auth."""
    arguments = dict(locals())
    from cvmboot.measure_id_block import check_id_block, sign_id_block

    if digest is not None:
        sign_id_block({name: arguments[name] for name in context.params})
    elif id_block is not None and id_auth is not None:
        check_id_block(id_block, id_auth, as_json)
    else:
        raise UsageError("--digest and --id-key are needed to sign, --id-block and --id-auth to check")
