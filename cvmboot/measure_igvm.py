"""`cvmboot measure --igvm`: the launch digest of an IGVM file, and what its ID block says of it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.errors import UsageError
from cvmboot.measure_settings import SCHEMA, measuring, read_file

if TYPE_CHECKING:
    from sev.measure.igvm import Igvm

INSPECT_SCHEMA = "cvmboot.measure.igvm/1"
WITH_IGVM = frozenset({"igvm", "native_zero", "vmm", "as_json", "vcpus", "max_vcpus"})
"""The options that may stand beside --igvm."""


def measure_igvm(path: Path, vmm: str | None, native_zero: bool, as_json: bool) -> None:
    """Write the digest of an IGVM file. What speaks against it goes to standard error, in one line each."""
    from cvmboot.cli import complain
    from sev.measure.igvm import LARGEST_FILE, Igvm

    if vmm is not None and vmm.lower() != "qemu":
        raise UsageError(f"--vmm {vmm}: with --igvm only qemu makes a difference")
    with measuring(str(path)):
        file = Igvm(read_file(path, LARGEST_FILE))
        digest = file.launch_digest(native_zero)
        id_block = _id_block(file, digest)
    if vmm is not None:
        for difference in file.kvm_differences():
            complain(f"{path}: warning: QEMU on KVM measures another digest: {difference}")
    if id_block is not None and id_block["problem"]:
        complain(f"{path}: warning: {id_block['problem']}; no host will start it")
    plain = {"schema": SCHEMA, "digest": digest.hex(), "mode": "igvm", "native_zero": native_zero}
    plain |= _contents(file, id_block)
    sys.stdout.write(json.dumps(plain, indent=2) + "\n" if as_json else digest.hex() + "\n")


def inspect_igvm(path: Path, data: bytes, as_json: bool) -> None:
    """Write what an IGVM file holds, as `measure inspect` does for firmware images. CvmbootError for a damaged one."""
    from sev.measure.igvm import Igvm

    with measuring(str(path)):
        file = Igvm(data)
        digest = file.launch_digest()
        plain: dict[str, Any] = {"schema": INSPECT_SCHEMA, "size": len(data), "digest": digest.hex()}
        plain |= _contents(file, _id_block(file, digest))
    if as_json:
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
        return
    block = plain["id_block"]
    lines = [
        f"IGVM file         {plain['size']} bytes",
        f"launch digest     {plain['digest']}",
        f"guest policy      {plain['guest_policy'] or 'none'}",
        "pages",
        *(f"  {name:15} {count}" for name, count in plain["pages"].items() if count),
        "ID block          none" if block is None else "ID block",
        *(f"  {name.replace('_', ' '):18} {value}" for name, value in (block or {}).items() if value not in (None, "")),
        *(f"QEMU on KVM measures another digest: {difference}" for difference in plain["kvm_differences"]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _contents(file: "Igvm", id_block: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "guest_policy": None if file.guest_policy is None else f"{file.guest_policy:#x}",
        "pages": file.page_counts(),
        "kvm_differences": file.kvm_differences(),
        "id_block": id_block,
    }


def _id_block(file: "Igvm", digest: bytes) -> dict[str, Any] | None:
    """The ID block of a file; `problem` says why the secure processor would refuse it, or ""."""
    from sev.errors import SevError

    if file.id_block is None:
        return None
    problem = ""
    if file.id_block.launch_digest != digest:
        problem = f"its ID block wants the launch digest {file.id_block.launch_digest.hex()}"
    block, auth = file.id_block.signed(file.guest_policy or 0)
    try:
        auth.verify(block)
    except SevError as error:
        problem = problem or f"its ID block: {error}"
    return {
        "launch_digest": block.launch_digest.hex(),
        "family_id": block.family_id.hex(),
        "image_id": block.image_id.hex(),
        "guest_svn": block.guest_svn,
        "id_key_digest": auth.id_key_digest.hex(),
        "author_key_digest": None if auth.author_key is None else auth.author_key_digest.hex(),
        "problem": problem,
    }
