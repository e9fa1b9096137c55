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
from sev.measure.explain import NO_KERNEL, SEV, SNP, Kernel, Search

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


@pytest.mark.parametrize("vector", vectors())
def test_each_is_explained_without_hints(vector: dict[str, Any]) -> None:
    parameters = vector["params"]
    kernel = Kernel("as given", kernel_of(parameters))
    given = parameters.get("snp_ovmf_hash_str")
    search = Search(
        Firmware((FOLDER / Path(parameters["ovmf"]).name).read_bytes()),
        kernels=[NO_KERNEL, kernel] if kernel.hashes else [NO_KERNEL],
        firmware_hash=bytes.fromhex(given) if given else None,
    )
    match = search.run(bytes.fromhex(vector["expected"]))
    assert match is not None
    assert match.kind == parameters["mode"].replace("_", "-")
    assert match.kernel is (kernel if kernel.hashes else NO_KERNEL)
    if match.kind != SEV:
        assert match.vcpus == parameters["vcpus"]
        assert match.vmm is vmm_named(parameters.get("vmm_type", "qemu"))
        assert match.signature is None or parameters["vcpu_type"] in match.models
    if match.kind == SNP:
        assert match.guest_features == parameters["guest_features"]


@pytest.mark.skipif(not LAUNCHES.exists(), reason="no ../shared/data/sev/measure")
def test_firmware_hash() -> None:
    firmware = Firmware((FOLDER / "ovmf_AmdSev_suffix.bin").read_bytes())
    assert firmware_digest(firmware).value.hex() == json.loads(LAUNCHES.read_text())["ovmf_suffix_hash"]
