"""Disks written as qcow2, VMDK, VHD and tar.gz and read back: any disk, huge ones in little memory, and what others made."""

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_tools import GIB, MIB, assert_same_disk, needs, patchy_disk, tool

from images.block import FileDevice, MemoryDevice
from images.containers.deflate import GzipFile
from images.containers.gce_write import number, write_gce
from images.containers.readers import open_container
from images.containers.tar import read_number
from images.containers.vhd_write import geometry
from images.containers.writers import FORMATS
from images.mosaic import Mosaic
from images.sparse import nonzero_blocks, nonzero_runs, spans

QEMU_NAMES = {"raw": "raw", "vmdk": "vmdk", "vhd": "vpc", "qcow2": "qcow2", "qcow2-plain": "qcow2"}
READ_BACK = [name for name in FORMATS if name != "raw"]
PIECES = st.lists(
    st.tuples(st.integers(0, 2 * MIB), st.one_of(st.integers(1, 700), st.integers(60_000, 140_000))), max_size=6
)


def disk_of(pieces: list[tuple[int, int]], size: int) -> Mosaic:
    """A disk with those of the pieces that fit beside each other."""
    kept: list[tuple[int, int]] = []
    end = 0
    for offset, count in sorted(pieces):
        if end <= offset and offset + count <= size:
            kept.append((offset, count))
            end = offset + count
    return patchy_disk(size, kept)


@pytest.mark.parametrize("name", READ_BACK)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=PIECES, megabytes=st.integers(1, 3))
def test_any_disk_comes_back(tmp_path: Path, name: str, pieces: list[tuple[int, int]], megabytes: int) -> None:
    disk = disk_of(pieces, megabytes * MIB)
    with (tmp_path / "image").open("w+b") as file:
        file.truncate()
        FORMATS[name].write(disk, file)
    container = open_container(FileDevice(tmp_path / "image"))
    assert container is not None and container.format == name.removesuffix("-plain")
    assert container.device.size == disk.size
    assert container.device.read(0, disk.size) == disk.read(0, disk.size)
    assert list(nonzero_runs(container.device)) == list(nonzero_runs(disk))


@given(pieces=PIECES, unit=st.sampled_from([512, 4096, 65536]))
@settings(max_examples=60, deadline=None)
def test_runs_and_blocks_are_the_disk(pieces: list[tuple[int, int]], unit: int) -> None:
    disk = disk_of(pieces, 2 * MIB + 512)
    whole = disk.read(0, disk.size)
    for iterate in (nonzero_runs, nonzero_blocks):
        copy = bytearray(disk.size)
        end = 0
        for offset, data in iterate(disk, unit):
            assert end <= offset and offset % unit == 0 and data
            assert data[:unit].strip(b"\0") and data[-(len(data) % unit or unit) :].strip(b"\0")
            copy[offset : offset + len(data)] = data
            end = offset + len(data)
        assert copy == whole
    assert all(offset + size <= disk.size for offset, size in spans(disk, unit))
    # A device that does not know its holes gives the same.
    assert list(nonzero_blocks(MemoryDevice(whole), unit)) == list(nonzero_blocks(disk, unit))


LARGE_SCRIPT = """
import json, re, sys
from pathlib import Path
from images.containers.vhd_write import geometry
from images.containers.writers import FORMATS
from images.mosaic import Mosaic
from images.block import FileDevice
from images.containers.readers import open_container
from images.sparse import nonzero_blocks
name, path = sys.argv[1:]
disk = Mosaic(100 << 30)
data = bytes(range(256)) * 4096
for n in range(64):
    disk.place((n << 30) + (n << 20) * 7, 1 << 20, lambda start, count: data[start : start + count])
disk.place_bytes(disk.size - 512, b"e" * 512)
with open(path, "wb") as file:
    FORMATS[name].write(disk, file)
container = open_container(FileDevice(path))
device = container.device if container else FileDevice(path)
assert device.size == disk.size
found = 0
for (offset, block), (wanted, original) in zip(nonzero_blocks(device, 65536), nonzero_blocks(disk, 65536), strict=True):
    assert (offset, block) == (wanted, original)
    found += len(block)
peak = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
print(json.dumps({"peak": peak, "found": found}))
"""


@pytest.mark.parametrize("name", FORMATS)
def test_100_gib_in_little_memory(tmp_path: Path, name: str) -> None:
    """Written and read back whole by one process: 64 MiB of data over 100 GiB, the last sector used."""
    done = subprocess.run(
        [sys.executable, "-c", LARGE_SCRIPT, name, str(tmp_path / "image")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["found"] == 64 * MIB + 65536
    assert facts["peak"] < 150 * 1024  # KiB
    assert (tmp_path / "image").stat().st_blocks * 512 < 70 * MIB


@needs("qemu-img")
@pytest.mark.parametrize("name", [name for name in FORMATS if name in QEMU_NAMES])
@pytest.mark.parametrize("size", [64 * MIB, 5 * GIB + MIB])
def test_qemu_reads_the_same_disk(tmp_path: Path, name: str, size: int) -> None:
    pieces = [(0, 512), (70_000, 300_000), (600 * MIB, 200_000), (2 * GIB + 4096, 100), (size - 512, 512)]
    disk = patchy_disk(size, [piece for piece in pieces if piece[0] < size])
    for file, kind in (("image", name), ("raw", "raw")):
        with (tmp_path / file).open("wb") as output:
            FORMATS[kind].write(disk, output)
    kind = QEMU_NAMES[name]
    facts = json.loads(tool("qemu-img", "info", "--output=json", "-f", kind, tmp_path / "image"))
    assert facts["virtual-size"] == size
    assert "identical" in tool("qemu-img", "compare", "-f", kind, "-F", "raw", tmp_path / "image", tmp_path / "raw")
    if kind == "vmdk":
        assert facts["format-specific"]["data"]["create-type"] == "streamOptimized"
    if kind in {"vmdk", "qcow2"}:
        assert "No errors" in tool("qemu-img", "check", "-f", kind, tmp_path / "image")
    tool("qemu-img", "convert", "-f", kind, "-O", "raw", tmp_path / "image", tmp_path / "back")
    assert_same_disk(FileDevice(tmp_path / "back"), disk)


@needs("qemu-img")
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qcow2", ""),
        ("qcow2", "compat=0.10"),
        ("qcow2", "cluster_size=512"),
        ("qcow2", "cluster_size=2M"),
        ("qcow2", "refcount_bits=1"),
        ("qcow2 compressed", ""),
        ("qcow2 compressed", "cluster_size=4096"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=streamOptimized"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vpc", "subformat=dynamic,force_size=on"),
    ],
)
def test_what_qemu_writes_is_read(tmp_path: Path, kind: str, options: str) -> None:
    disk = patchy_disk(40 * MIB, [(0, 512), (70_000, 300_000), (20 * MIB, 5000), (40 * MIB - 512, 512)])
    with (tmp_path / "raw").open("wb") as file:
        FORMATS["raw"].write(disk, file)
    kind, _, compressed = kind.partition(" ")
    more = ["-o", options] if options else []
    tool(
        "qemu-img", "convert", *(["-c"] if compressed else []), "-O", kind, *more, tmp_path / "raw", tmp_path / "image"
    )
    container = open_container(FileDevice(tmp_path / "image"))
    assert container is not None
    assert_same_disk(container.device, disk)


@needs("tar")
@pytest.mark.parametrize("extra", [0, 3, 4, 5, 24, 25, 26, 60])
def test_gnu_tar_unpacks_the_sparse_archive(tmp_path: Path, extra: int) -> None:
    """With as many pieces as fill the header, one extension block, two."""
    disk = patchy_disk(9 * GIB, [(n * 140 * MIB, 5000) for n in range(extra)])  # offsets that octal digits cannot say
    with (tmp_path / "image.tar.gz").open("wb") as file:
        write_gce(disk, file, mtime=1_700_000_000)
    assert tool("tar", "-tzf", tmp_path / "image.tar.gz") == "disk.raw\n"
    tool("tar", "-xSzf", tmp_path / "image.tar.gz", "-C", tmp_path)
    facts = (tmp_path / "disk.raw").stat()
    assert (facts.st_size, facts.st_mtime) == (9 * GIB, 1_700_000_000)
    assert_same_disk(FileDevice(tmp_path / "disk.raw"), disk)
    with tarfile.open(tmp_path / "image.tar.gz") as archive:
        (member,) = archive.getmembers()
        assert member.isfile() and member.size == 9 * GIB and member.mode == 0o644


@needs("tar")
@pytest.mark.parametrize("options", ["--format=oldgnu -S", "--format=gnu", "--format=ustar", "--format=posix"])
def test_what_tar_writes_is_read(tmp_path: Path, options: str) -> None:
    disk = patchy_disk(40 * MIB, [(0, 512), *((n * MIB, 5000) for n in range(1, 39)), (40 * MIB - 512, 512)])
    with (tmp_path / "disk.raw").open("wb") as file:
        FORMATS["raw"].write(disk, file)
    for name, compress in (("image.tar.gz", "-z"), ("image.tar", "--no-auto-compress")):
        tool("tar", *options.split(), compress, "-cf", tmp_path / name, "-C", tmp_path, "disk.raw")
        container = open_container(FileDevice(tmp_path / name))
        assert container is not None and container.facts["member"] == "disk.raw"
        assert container.facts["sparse"] == ("-S" in options)
        assert_same_disk(container.device, disk)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(4 * MIB, (120, 4, 17)), (GIB, (2080, 16, 63)), (40 * GIB, (20560, 16, 255)), (2040 * GIB, None)],
)
def test_geometry_of_a_vhd(size: int, expected: tuple[int, int, int] | None) -> None:
    """By hand from "CHS Calculation"; the largest geometry there is for disks beyond it."""
    assert geometry(size // 512) == (expected or (65535, 16, 255))


def test_gzip_is_python_s_own_reading(tmp_path: Path) -> None:
    import gzip

    output = io.BytesIO()
    with GzipFile(output) as packed:
        packed.write(b"hello " * 1000)
        packed.write(b"world")
    assert gzip.decompress(output.getvalue()) == b"hello " * 1000 + b"world"
    assert output.getvalue()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # no name, no time


@given(st.integers(0, 2**80))
def test_numbers_of_tar_headers(value: int) -> None:
    assert read_number(number(value, 12), "size") == value
