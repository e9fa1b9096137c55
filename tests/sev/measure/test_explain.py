"""The search for the settings behind a digest."""

import os
import signal

import pytest
from made_firmware import SECTIONS, entry, image, svsm_image

from sev.measure import (
    VMMS,
    Firmware,
    KernelHashes,
    LaunchDigest,
    MeasureError,
    explain,
    firmware_digest,
    sev_es_launch_digest,
    sev_launch_digest,
    signature_of,
    snp_launch_digest,
    svsm_launch_digest,
)
from sev.measure.explain import FIRMWARE_ONLY, NO_KERNEL, SEV, SEV_ES, SNP, SNP_SVSM, WITHOUT_PROCESSORS, Kernel, Search
from sev.measure.firmware import SEV_METADATA
from sev.measure.snp import add_metadata

FIRMWARE = Firmware(image())
HASHES = KernelHashes.of(b"K", b"I", "quiet")
KERNEL = Kernel("the kernel", HASHES)


@pytest.mark.parametrize(
    ("vmm", "vcpus", "model", "features"),
    [
        ("qemu", 1, "EPYC-v4", 0x1),
        ("qemu", 64, "EPYC-Milan", 0x21),
        ("qemu", 3, "EPYC-Turin", 0x201),
        ("qemu-nofpu", 2, "EPYC-Genoa", 0x1),
        ("ec2", 2, "EPYC-Milan", 0x1),
        ("gce", 8, "EPYC-Milan", 0x1),
        ("krun", 2, "EPYC-Milan", 0x1),
    ],
)
@pytest.mark.parametrize("kernel", [NO_KERNEL, KERNEL])
def test_found(vmm: str, vcpus: int, model: str, features: int, kernel: Kernel) -> None:
    wanted = snp_launch_digest(
        FIRMWARE,
        vcpus=vcpus,
        signature=signature_of(model),
        guest_features=features,
        vmm=VMMS[vmm],
        kernel=kernel.hashes,
    )
    match = Search(FIRMWARE, kernels=[NO_KERNEL, KERNEL], most_vcpus=64).run(wanted)
    assert match is not None
    assert (match.kind, match.vmm, match.vcpus, match.guest_features, match.kernel) == (
        *(SNP, VMMS[vmm], vcpus, features),
        kernel,
    )
    assert model in match.models or (match.signature is None and VMMS[vmm].rdx is not None)


def test_values_that_only_the_caller_knows() -> None:
    wanted = snp_launch_digest(FIRMWARE, vcpus=5, signature=0x123456, guest_features=0x4001)
    assert Search(FIRMWARE, most_vcpus=8).run(wanted) is None
    match = Search(FIRMWARE, signature=0x123456, guest_features=0x4001, most_vcpus=8).run(wanted)
    assert match is not None
    assert (match.vcpus, match.signature, match.guest_features, match.models) == (5, 0x123456, 0x4001, [])


def test_sev_and_sev_es() -> None:
    match = Search(FIRMWARE, kernels=[NO_KERNEL, KERNEL]).run(sev_launch_digest(FIRMWARE, HASHES))
    assert match is not None
    assert (match.kind, match.kernel) == (SEV, KERNEL)
    wanted = sev_es_launch_digest(FIRMWARE, vcpus=4, signature=signature_of("EPYC-Rome"))
    match = Search(FIRMWARE, most_vcpus=8).run(wanted)
    assert match is not None
    assert (match.kind, match.vcpus, match.vmm, match.guest_features) == (SEV_ES, 4, VMMS["qemu"], None)
    assert "EPYC-Rome" in match.models


def test_launches_that_ended_early() -> None:
    digest = firmware_digest(FIRMWARE)
    match = Search(FIRMWARE).run(digest.value)
    assert match is not None
    assert match.kind == FIRMWARE_ONLY
    add_metadata(digest, FIRMWARE, VMMS["gce"], None)
    match = Search(FIRMWARE).run(digest.value)
    assert match is not None
    assert (match.kind, match.vmm) == (WITHOUT_PROCESSORS, VMMS["gce"])


def test_nothing_found_says_what_was_tried() -> None:
    seen: list[tuple[int, int]] = []
    search = Search(FIRMWARE, kernels=[NO_KERNEL, KERNEL], most_vcpus=2)
    assert search.run(b"x" * 48, lambda done, total: seen.append((done, total))) is None
    assert len(seen) > 1 and seen[-1][0] == seen[-1][1]
    assert search.tried == seen[-1][1] * 2


@pytest.mark.parametrize(("features", "vcpus"), [(0x1, 3), (0x335, 40), (0x33D, 64), (0x331, None)])
def test_workers_find_the_same(features: int, vcpus: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sev.measure.explain.ALONE", 1)
    wanted = bytes(48)
    if vcpus:
        settings = {"guest_features": features, "kernel": HASHES, "signature": signature_of("EPYC-Genoa")}
        wanted = snp_launch_digest(FIRMWARE, vcpus=vcpus, **settings)
    found = []
    for workers in (1, 2):
        search = Search(FIRMWARE, kernels=[NO_KERNEL, KERNEL], most_vcpus=64)
        match = search.run(wanted, workers=workers)
        found.append(
            (search.tried, match and (match.vmm, match.vcpus, match.signature, match.guest_features, match.kernel))
        )
    assert found[0] == found[1]
    assert (match is not None) == (vcpus is not None)


def test_a_killed_worker_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sev.measure.explain.ALONE", 1)
    here, plain = os.getpid(), explain._count_processors

    def die(*words: object) -> int | None:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(explain, "_count_processors", die)
    with pytest.raises(MeasureError, match="lost one of its processes"):
        Search(FIRMWARE, most_vcpus=2).run(bytes(48), workers=2)


def test_svsm() -> None:
    svsm = Firmware(svsm_image(), FIRMWARE.gpa - 0x3000)
    wanted = svsm_launch_digest(FIRMWARE, svsm, vcpus=7, signature=signature_of("EPYC-Genoa"))
    assert Search(FIRMWARE, most_vcpus=8).run(wanted) is None
    match = Search(FIRMWARE, most_vcpus=8, svsm=svsm).run(wanted)
    assert match is not None
    assert (match.kind, match.vcpus, match.guest_features, match.vmm) == (SNP_SVSM, 7, 0x1, VMMS["qemu"])
    assert "EPYC-Genoa" in match.models
    with pytest.raises(MeasureError, match="start no SVSM"):
        Search(FIRMWARE, svsm=svsm).run(bytes(32))
    with pytest.raises(MeasureError, match="SVSM info"):
        Search(FIRMWARE, svsm=FIRMWARE)


def test_firmware_hash() -> None:
    given = LaunchDigest(b"h" * 48).value
    wanted = snp_launch_digest(FIRMWARE, vcpus=2, signature=0xA00F11, firmware_hash=given)
    assert Search(FIRMWARE, most_vcpus=4).run(wanted) is None
    assert Search(FIRMWARE, most_vcpus=4, firmware_hash=given).run(wanted) is not None


def test_firmware_for_one_processor_and_without_kernel() -> None:
    bare = Firmware(image(sections=SECTIONS[:3], entries=[entry(SEV_METADATA, (0x300).to_bytes(4, "little"))]))
    search = Search(bare, kernels=[KERNEL])
    assert search.run(b"x" * 48) is None
    assert (search.most_vcpus, search.kernels) == (1, [NO_KERNEL])
    assert search.run(snp_launch_digest(bare, vcpus=1, signature=0xA00F11)) is not None


def test_refusals() -> None:
    with pytest.raises(MeasureError, match="47 bytes"):
        Search(FIRMWARE).run(bytes(47))
    with pytest.raises(MeasureError, match="at most 0"):
        Search(FIRMWARE, most_vcpus=0)
    with pytest.raises(MeasureError, match="no SEV metadata"):
        Search(Firmware(bytes(4096))).run(bytes(48))
