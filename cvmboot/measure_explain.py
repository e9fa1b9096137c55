"""`cvmboot measure --explain`: the search for a digest, told to a person."""

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.measure_settings import SCHEMA, Settings, digest_bytes, measuring, read_file
from cvmboot.progress import SlowBar

if TYPE_CHECKING:
    from sev.measure.explain import Kernel, Match, Search
    from sev.report import Report

NO_MATCH = 7
"""Exit status when nothing gives the digest."""

_LARGEST_REPORT = 4 << 20
_MOST_CLOSEST = 8


def explain_digest(settings: Settings, text: str, most_vcpus: int, as_json: bool) -> int:
    """Search for a digest (digits, or the file of a report) and say what gives it. The exit status: 0 or NO_MATCH."""
    from sev.measure.explain import Search

    report = _report_in(text)
    wanted = digest_bytes("--explain", text, (48, 32)) if report is None else bytes(report.measurement)
    with measuring():
        search = Search(
            settings.firmware,
            kernels=_kernels(settings),
            signature=settings.signature,
            guest_features=settings.features,
            vmm=settings.vmm,
            most_vcpus=most_vcpus,
            firmware_hash=settings.firmware_hash,
            svsm=settings.svsm,
        )
        started = time.monotonic()
        with SlowBar("searching") as bar:
            match = search.run(wanted, bar.show, len(os.sched_getaffinity(0)))
    seconds = time.monotonic() - started
    near = [] if match is not None or len(wanted) != 48 else closest(settings, search, report)
    plain = _plain(search, match, wanted, seconds) | {"closest": near}
    sys.stdout.write(json.dumps(plain, indent=2) + "\n" if as_json else _words(settings, search, match, near))
    return NO_MATCH if match is None else 0


def _report_in(text: str) -> "Report | None":
    """The report in the file of that name; None if there is no such file, and the text is digits."""
    path = Path(text)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):
        is_file = False
    if not is_file:
        return None
    from sev.evidence import read_evidence
    from sev.report import Report

    with measuring(text):
        return Report.decode(read_evidence(read_file(path, _LARGEST_REPORT)).report)


def closest(settings: Settings, search: "Search", report: "Report | None") -> list[dict[str, Any]]:
    """The digests of what comes closest in kind to the settings given, and to what a report says of its host.

    Nobody can see in a digest how near it is to another one; but these are what others will have computed, to be compared.
    """
    from sev.measure import VMMS, MeasureError
    from sev.measure.processors import names_of

    likely = ["qemu", "ec2", "gce"]
    if settings.vmm_given:
        likely.insert(0, settings.vmm.name)
    elif report is not None and report.signer == "VLEK":
        likely.insert(0, "ec2")  # of the clouds here it alone signs with VLEKs
    rows: list[dict[str, Any]] = []
    for vmm in (VMMS[name] for name in dict.fromkeys(likely) if VMMS[name] in search.vmms):
        for signature in _likely_signatures(settings, report) if vmm.rdx is None else [0]:
            try:
                digest = search.digest(vmm, settings.vcpus, signature, settings.features, search.kernels[0])
            except MeasureError:
                continue  # more processors than this image starts
            shown = vmm.rdx is None
            rows.append(
                {
                    "vmm": vmm.name,
                    "vcpus": settings.vcpus,
                    "vcpu_signature": f"{signature:#010x}" if shown else None,
                    "vcpu_models": names_of(signature)[:1] if shown else [],
                    "guest_features": f"{settings.features:#x}",
                    "kernel": search.kernels[0].text,
                    "digest": digest.hex(),
                }
            )
    return rows[:_MOST_CLOSEST]


def _likely_signatures(settings: Settings, report: "Report | None") -> list[int]:
    """The signature given; or that of the report's CPU, and of QEMU's model of its line; or those of all EPYC models."""
    from sev.measure.processors import signature, signature_of

    if settings.signature is not None:
        return [settings.signature]
    models = ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"]
    if report is None or report.product is None:
        return [signature_of(name) for name in models]
    seen = signature(report.cpuid_fam_id, report.cpuid_mod_id, report.cpuid_step & 0xF)
    of_line = [signature_of(name) for name in models if name == f"EPYC-{report.product.line.name}"]
    return list(dict.fromkeys([*of_line, seen, signature_of("EPYC-v4")]))


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


def _words(settings: Settings, search: "Search", match: "Match | None", near: list[dict[str, Any]]) -> str:
    if match is None:
        return _tried(settings, search) + _closest_words(near)
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


def _closest_words(near: list[dict[str, Any]]) -> str:
    lines = ["closest in kind, to compare with what others have computed:"] if near else []
    for row in near:
        of_model = f", {row['vcpu_models'][0]}" if row["vcpu_models"] else ""
        signature = f", {row['vcpu_signature']}{of_model}" if row["vcpu_signature"] else ""
        count = f"{row['vcpus']} vCPU{'' if row['vcpus'] == 1 else 's'}"
        lines += [
            f"  {row['digest']}",
            f"    {row['vmm']}, {count}{signature}, {row['guest_features']}, {row['kernel']}",
        ]
    return "".join(f"{line}\n" for line in lines)


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
