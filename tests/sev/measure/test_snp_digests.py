"""Launch digests against a plain recomputation from the specification, written apart from the package."""

import struct
from collections.abc import Iterable
from hashlib import sha256, sha384

import pytest
from made_firmware import AP_RESET, HASH_TABLE_GPA, SECTIONS, image, svsm_image

from sev.measure import (
    VMMS,
    Firmware,
    KernelHashes,
    LaunchDigest,
    MeasureError,
    firmware_digest,
    sev_es_launch_digest,
    sev_launch_digest,
    signature_of,
    snp_launch_digest,
    svsm_launch_digest,
)
from sev.measure.firmware import guid_bytes
from sev.measure.vmsa import svsm_vmsa_page, vmsa_page

MILAN = 0xA00F11
BASE = 0x1_0000_0000
ZEROS = bytes(48)
NORMAL, VMSA, ZERO, UNMEASURED, SECRETS, CPUID = 1, 2, 3, 4, 5, 6


def chain(pages: Iterable[tuple[int, int, bytes]]) -> bytes:
    """The digest of (type, address, hash of contents) in this order."""
    value = bytes(48)
    for kind, gpa, contents in pages:
        info = value + contents + struct.pack("<HBB", 0x70, kind, 0) + bytes(4) + struct.pack("<Q", gpa)
        assert len(info) == 0x70
        value = sha384(info).digest()
    return value


def image_pages(data: bytes, end: int = BASE) -> list[tuple[int, int, bytes]]:
    start = end - len(data)
    return [(NORMAL, start + at, sha384(data[at : at + 4096]).digest()) for at in range(0, len(data), 4096)]


def section_pages(index: int, kind: int) -> list[tuple[int, int, bytes]]:
    gpa, size, _ = SECTIONS[index]
    return [(kind, gpa + at, ZEROS) for at in range(0, size, 4096)]


def vcpu_pages(count: int, vmm: str = "qemu", features: int = 1) -> list[tuple[int, int, bytes]]:
    entries = [0xFFFFFFF0] + [AP_RESET] * (count - 1)
    return [(VMSA, 0xFFFFFFFFF000, sha384(vmsa_page(entry, MILAN, features, VMMS[vmm])).digest()) for entry in entries]


def test_order_of_qemu() -> None:
    data = image()
    pages = image_pages(data) + section_pages(0, ZERO) + section_pages(1, CPUID) + section_pages(2, SECRETS)
    pages += section_pages(3, ZERO) + vcpu_pages(3, features=0x21)
    assert snp_launch_digest(Firmware(data), vcpus=3, signature=MILAN, guest_features=0x21) == chain(pages)


def test_order_of_ec2_has_cpuid_last() -> None:
    data = image()
    pages = image_pages(data) + section_pages(0, ZERO) + section_pages(2, SECRETS) + section_pages(3, ZERO)
    pages += section_pages(1, CPUID) + vcpu_pages(2, "ec2")
    assert snp_launch_digest(Firmware(data), vcpus=2, signature=MILAN, vmm=VMMS["ec2"]) == chain(pages)


def test_gce_does_not_measure_sec_memory() -> None:
    data = image()
    pages = image_pages(data) + section_pages(0, UNMEASURED) + section_pages(1, CPUID) + section_pages(2, SECRETS)
    pages += section_pages(3, ZERO) + vcpu_pages(1, "gce")
    assert snp_launch_digest(Firmware(data), vcpus=1, signature=MILAN, vmm=VMMS["gce"]) == chain(pages)


def hash_table(kernel: bytes, initrd: bytes, command_line: bytes) -> bytes:
    entries = b"".join(
        guid_bytes(guid) + struct.pack("<H", 50) + sha256(data).digest()
        for guid, data in (
            ("97d02dd8-bd20-4c94-aa78-e7714d36ab2a", command_line),
            ("44baf731-3a2f-4bd7-9af1-41e29169781d", initrd),
            ("4de79437-abd2-427f-b835-d5b172d2045b", kernel),
        )
    )
    return guid_bytes("9438d606-4f22-4cc9-b479-a793d411fd21") + struct.pack("<H", 168) + entries + bytes(8)


def test_kernel_hashes_lie_where_the_firmware_looks() -> None:
    data = image()
    page = (bytes(HASH_TABLE_GPA % 4096) + hash_table(b"K", b"I", b"quiet\0")).ljust(4096, b"\0")
    pages = image_pages(data) + section_pages(0, ZERO) + section_pages(1, CPUID) + section_pages(2, SECRETS)
    pages += [(NORMAL, 0x810000, sha384(page).digest()), *vcpu_pages(1)]
    kernel = KernelHashes.of(b"K", b"I", "quiet")
    assert snp_launch_digest(Firmware(data), vcpus=1, signature=MILAN, kernel=kernel) == chain(pages)


def test_firmware_hash_stands_for_the_contents_of_the_image() -> None:
    whole = Firmware(image())
    changed = Firmware(bytes([1]) + image()[1:])
    given = firmware_digest(whole).value
    assert given == chain(image_pages(image()))
    wanted = snp_launch_digest(whole, vcpus=2, signature=MILAN)
    assert snp_launch_digest(changed, vcpus=2, signature=MILAN) != wanted
    assert snp_launch_digest(changed, vcpus=2, signature=MILAN, firmware_hash=given) == wanted


def test_svsm_below_the_variable_store() -> None:
    firmware, svsm = image(), svsm_image()
    end = BASE - len(firmware) - 0x3000
    entry = end - len(svsm) + 0x40
    vcpu = (VMSA, 0xFFFFFFFFF000, sha384(svsm_vmsa_page(entry, MILAN, 1)).digest())
    pages = image_pages(firmware) + image_pages(svsm, end) + [(SECRETS, 0x1000, ZEROS), (CPUID, 0x2000, ZEROS)]
    digest = svsm_launch_digest(Firmware(firmware), Firmware(svsm, end), vcpus=3, signature=MILAN)
    assert digest == chain([*pages, vcpu, vcpu, vcpu])


def test_sev_and_sev_es() -> None:
    data = image()
    kernel = KernelHashes.of(b"K")
    table = hash_table(b"K", b"", b"\0")
    assert sev_launch_digest(Firmware(data)) == sha256(data).digest()
    assert sev_launch_digest(Firmware(data), kernel) == sha256(data + table).digest()
    vcpus = b"".join(vmsa_page(entry, MILAN, 0) for entry in (0xFFFFFFF0, AP_RESET, AP_RESET))
    wanted = sha256(data + table + vcpus).digest()
    assert sev_es_launch_digest(Firmware(data), vcpus=3, signature=MILAN, kernel=kernel) == wanted


@pytest.mark.parametrize("vcpus", [0, -1, 4097])
def test_number_of_processors(vcpus: int) -> None:
    with pytest.raises(MeasureError, match=f"^{vcpus} processors"):
        snp_launch_digest(Firmware(image()), vcpus=vcpus, signature=MILAN)


def test_refusals_of_firmware_that_fits_no_launch() -> None:
    settings = {"vcpus": 1, "signature": MILAN}
    kernel = KernelHashes.of(b"K")
    with pytest.raises(MeasureError, match="no SEV metadata"):
        snp_launch_digest(Firmware(bytes(4096)), **settings)
    with pytest.raises(MeasureError, match="type 0x9"):
        snp_launch_digest(Firmware(image(sections=[(0, 4096, 9)])), **settings)
    with pytest.raises(MeasureError, match="no SNP_KERNEL_HASHES"):
        snp_launch_digest(Firmware(image(sections=SECTIONS[:3])), kernel=kernel, **settings)
    with pytest.raises(MeasureError, match="0x2000 bytes; wanted 0x1000"):
        snp_launch_digest(Firmware(image(sections=[(0, 0x2000, 0x10)])), kernel=kernel, **settings)
    with pytest.raises(MeasureError, match="multiple of 0x1000"):
        firmware_digest(Firmware(bytes(5000)))
    with pytest.raises(MeasureError, match="no SEV hash table"):
        sev_launch_digest(Firmware(bytes(4096)), kernel)
    with pytest.raises(MeasureError, match="47"):
        LaunchDigest(bytes(47))
    with pytest.raises(MeasureError, match="NUL"):
        KernelHashes.of(b"", b"", "a\0b")


def test_signatures() -> None:
    assert signature_of("EPYC-Milan") == MILAN
    assert signature_of("epyc-genoa-V1") == 0xA10F10
    assert signature_of("qemu64") == 0x60FB1
    with pytest.raises(MeasureError, match="'Pentium'"):
        signature_of("Pentium")


@pytest.mark.parametrize(
    ("vmm", "rdx", "pat", "attributes", "fpu"),
    [
        ("qemu", MILAN, 0x0007040600070406, (0x9B, 0x9B, 0x93, 0x8B), (0x1F80, 0x37F)),
        ("ec2", 0x600, 0x0007040600070406, (0x9A, 0x9B, 0x92, 0x83), (0, 0)),
        ("gce", 0x600, 0x00070106, (0x9B, 0x9B, 0x93, 0x8B), (0, 0)),
    ],
)
def test_registers(vmm: str, rdx: int, pat: int, attributes: tuple[int, ...], fpu: tuple[int, int]) -> None:
    boot = vmsa_page(0xFFFFFFF0, MILAN, 0x21, VMMS[vmm])
    other = vmsa_page(AP_RESET, MILAN, 0x21, VMMS[vmm])

    def value(page: bytes, offset: int, size: int = 8) -> int:
        return int.from_bytes(page[offset : offset + size], "little")

    assert (value(boot, 0x310), value(boot, 0x268), value(boot, 0x3B0)) == (rdx, pat, 0x21)
    assert (value(boot, 0x12, 2), value(other, 0x12, 2), value(boot, 0x22, 2), value(boot, 0x92, 2)) == attributes
    assert (value(boot, 0x408, 4), value(boot, 0x410, 2)) == fpu
    assert (value(boot, 0x18), value(boot, 0x178)) == (0xFFFF0000, 0xFFF0)
    assert (value(other, 0x18), value(other, 0x178)) == (0x800000, 0xB004)
    assert (len(boot), len(other)) == (4096, 4096)
