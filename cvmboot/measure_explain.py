"""`cvmboot measure --explain`: the search for a digest, told to a person."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.errors import UsageError
from cvmboot.measure_settings import SCHEMA, Settings, digest_bytes, measuring, read_file

if TYPE_CHECKING:
    from sev.measure.explain import Kernel, Match, Search

NO_MATCH = 7
"""Exit status when nothing gives the digest."""

_QUIET_SECONDS = 1.0
_LARGEST_REPORT = 4 << 20


def explain_digest(settings: Settings, text: str, most_vcpus: int, as_json: bool) -> int:
    """Search for a digest (digits, or the file of a report) and say what gives it. The exit status: 0 or NO_MATCH."""
    from sev.measure.explain import Search

    if settings.svsm is not None:
        raise UsageError("--explain does not search guests with --svsm")
    wanted = _wanted(text)
    with measuring():
        search = Search(
            settings.firmware,
            kernels=_kernels(settings),
            signature=settings.signature,
            guest_features=settings.features,
            vmm=settings.vmm,
            most_vcpus=most_vcpus,
            firmware_hash=settings.firmware_hash,
        )
        started = time.monotonic()
        match = _with_progress(search, wanted)
    seconds = time.monotonic() - started
    plain = _plain(search, match, wanted, seconds)
    sys.stdout.write(json.dumps(plain, indent=2) + "\n" if as_json else _words(settings, search, match))
    return NO_MATCH if match is None else 0


def _wanted(text: str) -> bytes:
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        return digest_bytes("--explain", text, (48, 32))
    from sev.evidence import read_evidence
    from sev.report import Report

    with measuring(text):
        return bytes(Report.decode(read_evidence(read_file(path, _LARGEST_REPORT)).report).measurement)


def _kernels(settings: Settings) -> "list[Kernel]":
    """What a host may have measured of the kernel: as given first, then the usual mistakes."""
    from hashlib import sha256

    from sev.measure import KernelHashes
    from sev.measure.explain import NO_KERNEL, Kernel
    from sev.measure.kernel_hashes import command_line_hash

    if settings.kernel is None:
        return [NO_KERNEL]
    append = settings.append or ""
    lines = {append: ""}
    lines.setdefault(append.strip(), ", command line without the spaces around it")
    lines.setdefault(append + "\n", ", command line with a newline")
    lines.setdefault("", ", no command line")
    empty = sha256().digest()
    initrds = {settings.initrd or empty: ""}
    initrds.setdefault(empty, ", no initrd")
    candidates = [
        Kernel(
            f"kernel hashes as given{initrd_text}{line_text}",
            KernelHashes(settings.kernel, initrd, command_line_hash(line)),
        )
        for line, line_text in lines.items()
        for initrd, initrd_text in initrds.items()
    ]
    return [*candidates, NO_KERNEL]


def _with_progress(search: "Search", wanted: bytes) -> "Match | None":
    """Search, with a progress bar on standard error once it takes more than a second."""
    begin = time.monotonic()
    bar: list[Any] = []

    def show(done: int, total: int) -> None:
        if not bar:
            if time.monotonic() - begin < _QUIET_SECONDS:
                return
            from rich.console import Console
            from rich.progress import Progress

            progress = Progress(console=Console(stderr=True), transient=True)
            bar.extend((progress, progress.add_task("searching", total=total)))
            progress.start()
        bar[0].update(bar[1], completed=done)

    try:
        return search.run(wanted, show)
    finally:
        if bar:
            bar[0].stop()


def _plain(search: "Search", match: "Match | None", wanted: bytes, seconds: float) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "digest": wanted.hex(),
        "found": match is not None,
        "match": None
        if match is None
        else {
            "kind": match.kind,
            "vmm": match.vmm and match.vmm.name,
            "vcpus": match.vcpus,
            "vcpu_signature": None if match.signature is None else f"{match.signature:#010x}",
            "vcpu_models": match.models,
            "guest_features": None if match.guest_features is None else f"{int(match.guest_features):#x}",
            "kernel": match.kernel and match.kernel.text,
        },
        "tried": {
            "combinations": search.tried,
            "seconds": round(seconds, 3),
            "vcpus": [1, search.most_vcpus],
            "vcpu_signatures": [f"{value:#010x}" for value in search.signatures],
            "guest_features": [f"{int(value):#x}" for value in search.features],
            "vmms": [vmm.name for vmm in search.vmms],
            "kernels": [kernel.text for kernel in search.kernels],
        },
    }


def _words(settings: Settings, search: "Search", match: "Match | None") -> str:
    if match is None:
        return _tried(settings, search)
    lines = [f"found: {match.kind}"]
    if match.vmm is not None:
        differs = settings.vmm_given and match.vmm is not settings.vmm
        lines.append(f"  VMM             {match.vmm.name} ({match.vmm.text})" + _given(differs, settings.vmm.name))
    if match.vcpus is not None:
        lines.append(f"  vCPUs           {match.vcpus}" + _given(match.vcpus != settings.vcpus, str(settings.vcpus)))
        if match.signature is None:
            lines.append("  vCPU model      any: this VMM does not show it")
        else:
            models = ", ".join(match.models) or "not one of a known model"
            given = settings.signature
            differs = given is not None and given != match.signature
            lines.append(
                f"  vCPU signature  {match.signature:#010x} ({models})" + _given(differs, f"{given or 0:#010x}")
            )
    if match.guest_features is not None:
        differs = settings.features_given and match.guest_features != settings.features
        lines.append(f"  guest features  {match.guest_features}" + _given(differs, f"{settings.features:#x}"))
    if match.kernel is not None:
        lines.append(f"  kernel          {match.kernel.text}")
    return "\n".join(lines) + "\n"


def _given(differs: bool, text: str) -> str:
    return f"; you gave {text}" if differs else ""


def _tried(settings: Settings, search: "Search") -> str:
    features = sorted(int(value) for value in search.features)
    lines = [
        f"nothing gives this digest; {search.tried:,} combinations were tried:",
        f"  VMM             {', '.join(vmm.name for vmm in search.vmms)}",
        f"  vCPUs           1 to {search.most_vcpus}",
        f"  vCPU signature  {', '.join(f'{value:#x}' for value in sorted(search.signatures))}",
        f"  guest features  {len(features)} values from {features[0]:#x} to {features[-1]:#x}",
        *(f"  kernel          {kernel.text}" for kernel in search.kernels),
        "so it comes from another firmware image, or from what only the host knows. Next, try:",
        f"  - the very image of that host: this one has SHA-384 {settings.firmware.sha384[:32]}...",
    ]
    from sev.measure.firmware import SECTION_KERNEL_HASHES

    if settings.kernel is not None:
        lines.append("  - the kernel, initrd and command line of that guest, byte for byte")
    elif any(settings.firmware.sections_of(SECTION_KERNEL_HASHES)):
        lines.append("  - --kernel, --initrd and --append: this image measures them")
    lines.append("  - --vcpu-sig, --guest-features or --max-vcpus with other values")
    return "\n".join(lines) + "\n"
