"""Inspecting images that were damaged on purpose: an answer with problems in it, or one line."""

import json
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_tools import HELLO, MIB, needs, tool

from cvmboot.image_signatures import signature_facts
from cvmboot.image_words import words
from images.block import FileDevice
from images.build import build
from images.compose import compose
from images.disk import Disk
from images.errors import ImageError
from images.fat import FatVolume
from images.inspect import inspect
from loader.authenticode_sign import Signer, sign

UNIKERNEL = HELLO.parent / "unikernel_pvh.elf"


def look(path: Path) -> None:
    """Inspects; all but one line, or facts that JSON and a table can show, fails the test."""
    try:
        facts = inspect(path, signature_facts)
    except ImageError as error:
        assert "\n" not in str(error)
        return
    json.dumps(facts)
    table = words(facts)
    assert table.isprintable() or all(line.isprintable() for line in table.splitlines())


@cache
def signed_application() -> bytes:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "signer")])
    now = datetime.datetime(2026, 1, 1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7).not_valid_before(now).not_valid_after(now)
    return sign(HELLO.read_bytes(), Signer(key, [builder.sign(key, SHA256())]))


@cache
def disk_bytes(boot: str) -> bytes:
    composition = compose(signed_application(), size=36 * MIB) if boot == "uefi" else compose(UNIKERNEL, size=4 * MIB)
    return composition.device.read(0, composition.size)


# Where the structures of a disk are: tables, boot sector, FAT, root directory, the application.
PLACES = st.one_of(
    st.integers(0, 34 * 512),
    st.integers(MIB, MIB + 96),
    st.integers(MIB + 32 * 512, MIB + 32 * 512 + 400),
    st.integers(MIB + 560_000, MIB + 600_000),
    st.integers(0, 36 * MIB - 1),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    boot=st.sampled_from(["uefi", "bios"]),
    changes=st.lists(st.tuples(PLACES, st.integers(0, 255)), min_size=1, max_size=8),
)
def test_flipped_disks(tmp_path: Path, boot: str, changes: list[tuple[int, int]]) -> None:
    image = bytearray(disk_bytes(boot))
    for offset, value in changes:
        image[offset % len(image)] = value
    (tmp_path / "disk").write_bytes(image)
    look(tmp_path / "disk")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 255)), min_size=1, max_size=5),
    st.integers(0, 12_000),
)
def test_flipped_and_cut_programs(tmp_path: Path, changes: list[tuple[int, int]], length: int) -> None:
    """Headers, sections, and the certificate table at the end."""
    for data in (signed_application(), UNIKERNEL.read_bytes()):
        image = bytearray(data)
        for offset, value in changes:
            image[offset % len(image)] = value
        for candidate in (image, image[:length]):
            (tmp_path / "app").write_bytes(candidate)
            look(tmp_path / "app")


def test_files_that_share_clusters_are_not_hashed_for_ever(tmp_path: Path) -> None:
    build(HELLO, tmp_path / "disk", format_name="raw", size=36 * MIB)
    volume = FatVolume(Disk(FileDevice(tmp_path / "disk", writable=True)).esp())
    volume.make("\\large").write(0, b"x" * 20 * MIB)
    first = volume.lookup("\\large")
    for number in range(5):
        entry = volume.make(f"\\copy{number}")
        entry.raw[20:32] = first.raw[20:32]  # the same clusters and size
        entry.store()
    facts = inspect(tmp_path / "disk", signature_facts)
    assert any("share clusters" in problem for problem in facts["problems"])
    assert len(facts["files"]) < 4


def test_a_damaged_file_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"o" * 100_000)
    build(
        HELLO,
        tmp_path / "disk",
        format_name="raw",
        size=36 * MIB,
        add=[(tmp_path / "other", "/a"), (tmp_path / "other", "/b")],
    )
    volume = FatVolume(Disk(FileDevice(tmp_path / "disk", writable=True)).esp())
    entry = volume.lookup("\\a")
    entry.raw[28:32] = (1_000_000).to_bytes(4, "little")  # longer than its chain
    entry.store()
    facts = inspect(tmp_path / "disk", signature_facts)
    found = {file["path"]: file["sha256"] for file in facts["files"]}
    assert found["\\a"] is None and found["\\b"] is not None and len(found) == 3
    assert any(problem.startswith("\\a: ") for problem in facts["problems"])


@needs("sgdisk")
def test_a_disk_of_others(tmp_path: Path) -> None:
    """Two partitions by sgdisk, none with a file system."""
    with (tmp_path / "disk").open("wb") as file:
        file.truncate(64 * MIB)
    tool("sgdisk", "-n", "1:2048:+8M", "-t", "1:8300", "-c", "1:data", "-n", "2:0:0", "-t", "2:ef00", tmp_path / "disk")
    facts = inspect(tmp_path / "disk", signature_facts)
    assert [part["type"] for part in facts["partitions"]] == ["Linux file system", "EFI system partition"]
    assert facts["partitions"][0]["name"] == "data" and facts["boot"] == "none"
    assert any("nothing boots" in reason for reason in facts["refusals"]["ec2"])
    assert any("no FAT volume" in problem for problem in facts["problems"])


def test_a_disk_of_4096_byte_sectors(tmp_path: Path) -> None:
    """Tables at other places, as on some NVMe disks."""
    from images.block import MemoryDevice, SliceDevice
    from images.fat.format import format_fat
    from images.gpt import EFI_SYSTEM_PARTITION
    from images.gpt_write import NewPartition, write_gpt

    device = MemoryDevice(300 * MIB, block_size=4096)
    write_gpt(device, b"d" * 16, [NewPartition(256, 70_000, type_guid=EFI_SYSTEM_PARTITION, unique_guid=b"p" * 16)])
    part = SliceDevice(device, 256 * 4096, (70_000 - 255) * 4096)
    format_fat(part, fat_type=32)
    FatVolume(part).make("\\EFI\\BOOT\\BOOTX64.EFI").write(0, HELLO.read_bytes())
    (tmp_path / "disk").write_bytes(device.data)
    facts = inspect(tmp_path / "disk", signature_facts)
    assert facts["scheme"] == "gpt" and facts["files"][0]["pe"]["machine"] == "x86-64"


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 2000])
def test_small_files(tmp_path: Path, size: int) -> None:
    for fill in (b"\0", b"\xff", b"\x55\xaa"):
        (tmp_path / "small").write_bytes((fill * size)[:size])
        look(tmp_path / "small")
