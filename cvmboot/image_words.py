"""The facts that images.inspect found, as a table for people."""

from collections.abc import Iterator
from typing import Any

_WIDTH = 16
_CLOUDS = {"gce": "Google Compute Engine", "ec2": "Amazon EC2"}


def words(facts: dict[str, Any]) -> str:
    """Lines of text; everything that came from the image is printable."""
    lines = list({"efi": _program_lines, "elf": _elf_lines}.get(facts["format"], _disk_lines)(facts))
    return "".join(_printable(line) + "\n" for line in lines)


def _disk_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield _row("format", ", ".join((facts["format"], *_container(facts["container"]))))
    yield _row("file", size_text(facts["file_size"]))
    yield _row("disk", size_text(facts["disk_size"]))
    for name, key in (("file SHA-256", "sha256"), ("disk SHA-256", "disk_sha256")):
        if facts[key]:
            yield _row(name, facts[key])
    guid = f", GUID {facts['disk_guid']}" if facts["disk_guid"] else ""
    yield _row("partitions", facts["scheme"] + guid)
    for part in facts["partitions"]:
        volume = part["file_system"]
        shape = (
            f", {volume['type']} {volume['label']!r} {volume['volume_id']}, {size_text(volume['free'])} free"
            if volume
            else ""
        )
        place = f"LBA {part['first_lba']} to {part['last_lba']}, {size_text(part['size'])}"
        yield _row(f"  {part['number']}", f"{part['type']}, {place}{shape}")
    yield _row("boots by", {"uefi": "UEFI", "bios": "BIOS"}.get(facts["boot"], "nothing"))
    if program := facts["bios_program"]:
        yield _row(
            "program", f"{program['entry_kind']} entry {program['entry']}, command line {program['command_line']!r}"
        )
        yield from _segment_lines(program["segments"])
    if facts["files"]:
        yield "files"
    for file in facts["files"]:
        yield f"  {file['sha256'] or 'cannot be read':64} {file['size']:>12} {file['path']}"
        if file["pe"]:
            yield from (f"      {line}" for line in _pe_lines(file["pe"]))
    yield from (_row("problem", text) for text in facts["problems"])
    for cloud, name in _CLOUDS.items():
        reasons = facts["refusals"][cloud]
        yield _row(name, "takes it as it is" if not reasons else "refuses it:", 22)
        yield from (f"  - {reason}" for reason in reasons)


def _program_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield _row("format", "EFI application")
    yield _row("file", size_text(facts["file_size"]))
    yield _row("SHA-256", facts["sha256"])
    yield from _pe_lines(facts["pe"])
    for section in facts["pe"].get("sections", ()):
        sizes = f"{section['virtual_size']:>10} in memory {section['raw_size']:>10} in the file"
        yield _row(f"  {section['name']}", f"{section['rva']:>10} {section['rights']} {sizes}")


def _elf_lines(facts: dict[str, Any]) -> Iterator[str]:
    elf = facts["elf"]
    yield _row("format", "ELF program")
    yield _row("file", size_text(facts["file_size"]))
    yield _row("SHA-256", facts["sha256"])
    if elf["problem"]:
        yield _row("problem", elf["problem"])
        return
    pvh = f"PVH entry {elf['pvh_entry']}" if elf["pvh_entry"] else "no PVH entry"
    yield _row("program", f"{elf['machine']}, entry {elf['entry']}, {pvh}")
    yield from _segment_lines(elf["segments"])


def _segment_lines(segments: list[dict[str, Any]]) -> Iterator[str]:
    for one in segments:
        yield _row(
            "  segment", f"{one['address']:>12} {one['file_size']:>10} in the file {one['memory_size']:>10} in memory"
        )


def _pe_lines(pe: dict[str, Any]) -> Iterator[str]:
    if pe["problem"]:
        yield _row("problem", pe["problem"])
    if "machine" not in pe:
        return
    place = f"at {pe['image_base']} only" if pe["needs_preferred_base"] else "anywhere"
    yield _row(
        "program",
        f"{pe['subsystem']} for {pe['machine']}, entry {pe['entry']}, {size_text(pe['size_of_image'])}, {place}",
    )
    yield _row("DLL flags", " ".join(pe["dll_characteristics"]) or "none (no NX_COMPAT)")
    yield _row("Authenticode", f"SHA-256 {pe['authenticode_sha256'] or 'cannot be computed'}")
    if not pe["signatures"]:
        yield _row("signed", "no")
    for signature in pe["signatures"]:
        names = ", ".join(
            f"{one['subject'] or 'unknown'} ({one['digest_algorithm']})" for one in signature.get("signers", ())
        )
        state = f"BAD: {signature['problem']}" if signature["problem"] else "the signature is good; trust was not asked"
        yield _row("signed by", f"{names or 'nobody'}; {state}")


def _container(container: dict[str, Any]) -> Iterator[str]:
    """What is worth a word of images.containers.readers' facts."""
    if "member" in container:
        yield f"{container['member']} in {container['tar_format']} tar"
        yield "sparse" if container["sparse"] else "not sparse"
    if "create_type" in container:
        yield str(container["create_type"])
    if "kind" in container:
        yield str(container["kind"])
    if "version" in container:
        yield f"version {container['version']}, clusters of {size_text(container['cluster_size'])}"


def size_text(size: int) -> str:
    """A size for people."""
    value = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def _row(name: str, value: str, width: int = _WIDTH) -> str:
    return f"{name:{width}} {value}"


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line)
