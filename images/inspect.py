"""What is in an image file, as plain data: container, partitions, files with their digests, programs, clouds' refusals."""

import hashlib
import os
from typing import Any

from images import gpt
from images.bios.plan import read_plan
from images.block import BlockSizedDevice, FileDevice
from images.cloud_rules import refusals
from images.containers.readers import open_container
from images.disk import Disk, Partition, guess_block_size
from images.errors import ImageError, UnsupportedFormat
from images.fat import Entry, FatVolume
from images.fat.bpb import looks_like_fat
from images.formats import RAW, other_format
from images.pe_facts import SignatureFacts, pe_facts
from images.sparse import Progress, device_sha256
from loader.elf_program import ElfProgram
from loader.errors import LoaderError

SCHEMA = "cvmboot.image.inspect/1"
_SPAN = 1 << 20
_MOST_PROGRAM = 256 << 20
_MOST_FILES = 65536
_MOST_HASHED = 16 << 30  # bytes of files in all: a small image may hold a volume of terabytes of zeros
_TYPES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system partition",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux file system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot partition",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
}


def inspect(
    path: str | os.PathLike[str],
    signature_facts: SignatureFacts,
    *,
    digests: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All that docs/images.md lists under "inspect"; nothing is written.

    `digests`: SHA-256 of the whole file and of the whole disk, too, which takes half a second a GiB. Raises ImageError
    (or a subclass) if the file cannot be read, is damaged, or is of a format that is not read here.
    """
    file = FileDevice(path)
    try:
        head = file.read(0, min(4, file.size))
        if head[:2] == b"MZ" or head == b"\x7fELF":
            return _program(file, signature_facts)
        if other := other_format(file):
            look, command = other
            raise UnsupportedFormat(
                f"looks like {look}; " + (f"first: {command}" if command else "wanted a disk image")
            )
        container = open_container(file, progress)
        device: BlockSizedDevice = container.device if container is not None else file
        device.block_size = guess_block_size(device)
        facts: dict[str, Any] = {
            "schema": SCHEMA,
            "path": os.fspath(path),
            "file_size": file.size,
            "format": container.format if container is not None else RAW,
            "container": container.facts if container is not None else {},
            "disk_size": device.size,
            "sha256": device_sha256(file) if digests else None,
            "disk_sha256": device_sha256(device, progress) if digests else None,
        }
        facts |= _disk_facts(Disk(device), signature_facts)
        facts["refusals"] = refusals(facts)
        return facts
    finally:
        file.close()


def _program(file: FileDevice, signature_facts: SignatureFacts) -> dict[str, Any]:
    """A program that an image could be made of."""
    if file.size > _MOST_PROGRAM:
        raise ImageError(f"{file.size} bytes, a program has at most {_MOST_PROGRAM}")
    data = file.read(0, file.size)
    is_elf = data[:1] == b"\x7f"
    return {
        "schema": SCHEMA,
        "path": file.path,
        "file_size": file.size,
        "format": "elf" if is_elf else "efi",
        "sha256": hashlib.sha256(data).hexdigest(),
        "pe": None if is_elf else pe_facts(data, signature_facts),
        "elf": _elf_facts(data) if is_elf else None,
    }


def _elf_facts(data: bytes) -> dict[str, Any]:
    try:
        program = ElfProgram(data)
    except LoaderError as error:
        return {"problem": str(error)}
    return {
        "problem": None,
        "machine": "x86-64" if program.is_64 else "x86",
        "entry": f"{program.entry:#x}",
        "pvh_entry": None if program.pvh_entry is None else f"{program.pvh_entry:#x}",
        "segments": [
            {"address": f"{one.address:#x}", "file_size": one.file_size, "memory_size": one.memory_size}
            for one in program.segments
        ],
    }


def _disk_facts(disk: Disk, signature_facts: SignatureFacts) -> dict[str, Any]:
    problems = list(disk.problems)
    partitions = [_partition(part, problems) for part in disk.partitions]
    files: list[dict[str, Any]] = []
    boot = "none"
    try:
        volume = FatVolume(disk.esp())
        boot = "uefi"
        files = _files(volume, signature_facts, problems)
    except ImageError as error:
        if boot == "none" and _has_boot_code(disk):
            boot = "bios"
        else:
            problems.append(str(error))
    return {
        "scheme": disk.scheme,
        "disk_guid": gpt.guid_text(disk.disk_guid) if disk.disk_guid else None,
        "boot": boot,
        "bios_program": read_plan(disk.device),
        "partitions": partitions,
        "files": files,
        "problems": problems,
    }


def _has_boot_code(disk: Disk) -> bool:
    """Whether a BIOS would find code in the master boot record, on a disk that is for a BIOS."""
    sector = disk.device.read(0, min(512, disk.device.size))
    return sector[510:512] == b"\x55\xaa" and any(sector[:440]) and disk.scheme in {"mbr", "none"}


def _partition(part: Partition, problems: list[str]) -> dict[str, Any]:
    type_guid = gpt.guid_text(part.type_guid) if part.type_guid else None
    facts: dict[str, Any] = {
        "number": part.number,
        "name": part.name,
        "type": _TYPES.get(type_guid or "", f"MBR type {part.mbr_type:#04x}" if part.mbr_type else "unknown"),
        "type_guid": type_guid,
        "guid": gpt.guid_text(part.signature) if len(part.signature) == 16 else None,
        "first_lba": part.first_lba,
        "last_lba": part.last_lba,
        "size": part.device.size,
        "is_esp": part.is_esp,
        "file_system": None,
    }
    if looks_like_fat(part.device):
        try:
            volume = FatVolume(part.device)
            facts["file_system"] = {
                "type": f"FAT{volume.fat_type}",
                "label": volume.label,
                "volume_id": f"{volume.bpb.volume_id >> 16:04X}-{volume.bpb.volume_id & 0xFFFF:04X}",
                "cluster_size": volume.bpb.cluster_size,
                "size": volume.total_bytes,
                "free": volume.free_bytes,
            }
        except ImageError as error:
            problems.append(f"partition {part.number}: {error}")
    return facts


def _files(volume: FatVolume, signature_facts: SignatureFacts, problems: list[str]) -> list[dict[str, Any]]:
    """Every file; what is damaged is a problem of its own and does not hide the others."""
    files: list[dict[str, Any]] = []
    left = volume.total_bytes  # files that share clusters could make an endless amount of a small image
    to_hash = _MOST_HASHED
    try:
        for count, (path, entry) in enumerate(volume.walk()):
            if count >= _MOST_FILES:
                problems.append(f"more than {_MOST_FILES} files; the others are not looked at")
                break
            if entry.is_dir:
                continue
            if entry.size > left:
                problems.append(f"{path}: the files have more bytes than the volume; they share clusters")
                break
            left -= entry.size
            to_hash -= entry.size
            try:
                if to_hash < 0:
                    raise ImageError(f"not read: the files have more than {_MOST_HASHED >> 30} GiB")
                files.append(_file(path, entry, signature_facts))
            except ImageError as error:
                problems.append(f"{path}: {error}")
                files.append({"path": path, "size": entry.size, "sha256": None, "pe": None})
    except ImageError as error:
        problems.append(str(error))
    return files


def _file(path: str, entry: Entry, signature_facts: SignatureFacts) -> dict[str, Any]:
    state = hashlib.sha256()
    for offset in range(0, entry.size, _SPAN):
        state.update(entry.read(offset, min(_SPAN, entry.size - offset)))
    facts: dict[str, Any] = {"path": path, "size": entry.size, "sha256": state.hexdigest(), "pe": None}
    if entry.read(0, 2) == b"MZ" and entry.size <= _MOST_PROGRAM:
        facts["pe"] = pe_facts(entry.read(0, entry.size), signature_facts)
    return facts
