"""`cvmboot image`: makes disk images of programs, and looks into disk images."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cvmboot.arguments import size_of
from cvmboot.errors import CvmbootError, UsageError
from cvmboot.progress import progress_bar
from cvmboot.status import SIGNALED

if TYPE_CHECKING:
    from images.build import BuiltImage
    from images.compose import Kernel
    from loader.authenticode_sign import Signer

app = typer.Typer(help="Disk images for clouds and hypervisors: make them, look into them.", no_args_is_help=True)

BUILD_HELP = """Make a disk image that boots APP: an EFI application, or an ELF unikernel.

An EFI application goes onto a GPT disk, as EFI/BOOT/BOOTX64.EFI of a FAT32 EFI system partition. An ELF file goes onto a
disk with a BIOS boot sector of ours. No root, no mounts; the same input gives the same bytes anywhere.

The format is what the name ends in: .raw or .img, .tar.gz (Google Compute Engine), .vmdk (streamOptimized), .vhd (fixed),
.qcow2. Several -o write several files of the same disk.
"""
BUILD_EXAMPLES = """Examples:

\b
  cvmboot image build go-boot.efi -o disk.raw
  cvmboot image build go-boot.efi -o image.tar.gz -o disk.vmdk --json
  cvmboot image build go-boot.efi -o disk.raw --linux vmlinuz --initrd initrd.img --cmdline "console=ttyS0"
  cvmboot image build app.efi -o disk.qcow2 --add ./files:/ --add notes.txt:/docs/ --label DATA
  cvmboot image build app.efi -o disk.raw --sign db.key,db.crt
  cvmboot image build example.elf -o image.tar.gz
"""


@app.command("build", help=BUILD_HELP, epilog=BUILD_EXAMPLES)
def build(
    application: Annotated[Path, typer.Argument(metavar="APP", help="The program to boot.", show_default=False)],
    output: Annotated[
        list[Path],
        typer.Option("-o", "--output", metavar="FILE", help="The image; may be repeated.", show_default=False),
    ],
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="NAME", help="raw, gce, vmdk, vhd, qcow2 or qcow2-plain, whatever the name says."
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="SIZE", help="The disk's size; default the next whole GiB that fits."),
    ] = None,
    esp_size: Annotated[
        str | None,
        typer.Option(
            "--esp-size", metavar="SIZE", help="The EFI system partition's size; default what fits, at least 64M."
        ),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            "--add",
            metavar="SRC:DEST",
            help="A file or folder for the partition; DEST/ is a directory. May be repeated.",
        ),
    ] = None,
    linux: Annotated[
        Path | None,
        typer.Option("--linux", metavar="FILE", help="A Linux kernel for APP to load, with a loader entry."),
    ] = None,
    initrd: Annotated[
        list[Path] | None,
        typer.Option("--initrd", metavar="FILE", help="The kernel's initial RAM disk; may be repeated."),
    ] = None,
    cmdline: Annotated[
        str, typer.Option("--cmdline", metavar="TEXT", help="The command line of the kernel or ELF unikernel.")
    ] = "",
    entry: Annotated[
        str, typer.Option("--entry", metavar="NAME", help="The loader entry: loader/entries/NAME.conf.")
    ] = "arch",
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="The volume's label.")] = "ESP",
    sign: Annotated[
        str | None,
        typer.Option("--sign", metavar="KEY,CERT", help="Sign APP for Secure Boot: an RSA key and its certificate."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
    digest: Annotated[
        bool, typer.Option("--digest/--no-digest", help="Compute SHA-256 of file and disk, half a second a GiB.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """`image build`."""
    from images.build import write
    from images.compose import compose
    from images.containers.writers import format_for
    from images.output_file import check_output

    if format_name is not None and len(output) > 1:
        raise UsageError("--format is for one -o; let the names of several files say their formats")
    disk_size = None if size is None else size_of("--size", size)
    partition_size = None if esp_size is None else size_of("--esp-size", esp_size)
    added = [_source_and_destination(word) for word in add or ()]
    kernel = _kernel(linux, initrd or [], cmdline, entry)
    with _reporting(), _ending_on_sigterm():
        kinds = [format_for(path, format_name) for path in output]
        for path in output:
            check_output(path, force=force)
        signer = None if sign is None else _signer(sign)
        with progress_bar(f"{application.name}: reading files") as progress:
            composition = compose(
                application,
                size=disk_size,
                esp_size=partition_size,
                add=added,
                kernel=kernel,
                label=label,
                signer=signer,
                command_line=cmdline if kernel is None else "",
                progress=progress,
            )
        for kind in kinds:
            kind.check_size(composition.size)
        built = []
        for path, kind in zip(output, kinds, strict=True):
            with progress_bar(f"{path.name}: writing") as progress:
                built.append(write(composition, path, kind, force=force, progress=progress))
        if digest:
            for image in built:
                with progress_bar(f"{Path(image.path).name}: SHA-256") as progress:
                    image.digests(progress)
    if as_json:
        plain = [image.to_json(digests=digest) for image in built]
        sys.stdout.write(json.dumps(plain[0] if len(plain) == 1 else plain, indent=2) + "\n")
        return
    sys.stdout.write("".join(_lines(image, digest) for image in built))


@app.command("inspect")
def inspect(
    image: Annotated[
        Path, typer.Argument(metavar="FILE", help="A disk image, or an EFI application.", show_default=False)
    ],
    digest: Annotated[
        bool, typer.Option("--digest", help="SHA-256 of the whole file and disk, too: half a second a GiB.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Look into an image: format, partitions, files, programs and their signatures, and what a cloud would refuse.

    Reads raw images, qcow2, VMDK, VHD, Google's tar.gz, and single EFI applications.
    """
    from cvmboot.image_signatures import signature_facts
    from cvmboot.image_words import words
    from images.inspect import inspect as look

    with _reporting(f"{image}: "), progress_bar(f"{image.name}: reading") as progress:
        facts = look(image, signature_facts, digests=digest, progress=progress)
    sys.stdout.write(json.dumps(facts, indent=2) + "\n" if as_json else words(facts))


def _lines(image: "BuiltImage", digest: bool) -> str:
    lines = f"{image.path}: {image.format}, {image.file_size} bytes, a disk of {image.size >> 20} MiB, boots by {image.boot}\n"
    if digest:
        lines += f"  file SHA-256 {image.sha256}\n"
        if image.format != "raw":
            lines += f"  disk SHA-256 {image.raw_sha256}\n"
    return lines


def _source_and_destination(word: str) -> tuple[str, str]:
    source, colon, destination = word.rpartition(":")
    if not colon or not source or not destination:
        raise UsageError(f"--add {word}: wanted SRC:DEST, such as vmlinuz:/vmlinuz or ./folder:/")
    return source, destination


def _kernel(linux: Path | None, initrds: list[Path], cmdline: str, entry: str) -> "Kernel | None":
    from images.compose import Kernel

    if linux is None:
        if initrds:
            raise UsageError("--initrd is about a kernel; name it with --linux")
        return None
    return Kernel(linux, initrds, options=cmdline, title=linux.name, entry=entry)


def _signer(text: str) -> "Signer":
    from loader.authenticode_sign import Signer
    from loader.errors import SigningError

    key, comma, certificate = text.partition(",")
    if not comma or not key or not certificate:
        raise UsageError("--sign: wanted KEY,CERT: two files with a comma between them")
    try:
        return Signer.load(key, certificate)
    except SigningError as error:
        raise CvmbootError(f"--sign {error}") from None


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM as Ctrl-C: what was begun is removed on the way out."""
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(SIGNALED + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _reporting(prefix: str = "") -> Iterator[None]:
    """Errors of images as ours; those about the input are usage errors only where an option is to blame."""
    from images.errors import ImageError

    try:
        yield
    except ImageError as error:
        text = str(error)
        raise CvmbootError(text if text.startswith(prefix) else prefix + text) from None
