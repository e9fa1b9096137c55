"""Launch digests and ID blocks that others have published, with their inputs; read from the shared folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from sev.measure import (
    Firmware,
    KernelHashes,
    firmware_digest,
    sev_es_launch_digest,
    sev_launch_digest,
    signature_of,
    snp_launch_digest,
    vmm_named,
)

FOLDER = Path(__file__).parents[4] / "shared" / "data" / "sev" / "measure"
LAUNCHES = FOLDER / "launch-digests.json"


def vectors() -> list[Any]:
    """One parameter for each launch digest; a single skipped one where the folder is absent."""
    if not LAUNCHES.exists():
        return [pytest.param({}, marks=pytest.mark.skip(reason="no ../shared/data/sev/measure"), id="absent")]
    return [pytest.param(vector, id=vector["test"]) for vector in json.loads(LAUNCHES.read_text())["vectors"]]


def kernel_of(parameters: dict[str, Any]) -> KernelHashes | None:
    """The kernel hashes of a vector; its files are all empty."""
    if parameters["kernel"] is None:
        return None
    assert parameters["kernel"] == "/dev/null"
    assert parameters["initrd"] in (None, "/dev/null")
    return KernelHashes.of(b"", b"", parameters["append"] or "")


@pytest.mark.parametrize("vector", vectors())
def test_launch_digest(vector: dict[str, Any]) -> None:
    parameters = vector["params"]
    firmware = Firmware((FOLDER / Path(parameters["ovmf"]).name).read_bytes())
    kernel = kernel_of(parameters)
    model = parameters["vcpu_type"]
    started = {"vcpus": parameters["vcpus"], "signature": signature_of(model) if model else 0}
    vmm = vmm_named(parameters.get("vmm_type", "qemu"))
    given = parameters.get("snp_ovmf_hash_str")
    if parameters["mode"] == "SEV":
        digest = sev_launch_digest(firmware, kernel)
    elif parameters["mode"] == "SEV_ES":
        digest = sev_es_launch_digest(firmware, vmm=vmm, kernel=kernel, **started)
    else:
        digest = snp_launch_digest(
            firmware,
            guest_features=parameters["guest_features"],
            vmm=vmm,
            kernel=kernel,
            firmware_hash=bytes.fromhex(given) if given else None,
            **started,
        )
    assert digest.hex() == vector["expected"]


@pytest.mark.skipif(not LAUNCHES.exists(), reason="no ../shared/data/sev/measure")
def test_firmware_hash() -> None:
    firmware = Firmware((FOLDER / "ovmf_AmdSev_suffix.bin").read_bytes())
    assert firmware_digest(firmware).value.hex() == json.loads(LAUNCHES.read_text())["ovmf_suffix_hash"]
