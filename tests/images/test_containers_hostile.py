"""Image files made to hurt: cut off, flipped, with tables that loop or lead outside, or that unpack to far too much."""

import gzip
import io
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tools import MIB, patchy_disk

from images.block import MemoryDevice
from images.containers.gce_write import number
from images.containers.qcow2 import COPIED, HEADER
from images.containers.readers import Container, open_container
from images.containers.vhd import CHECKSUM_OFFSET, checksum
from images.containers.vmdk import HEADER as VMDK_HEADER
from images.containers.writers import FORMATS
from images.errors import ContainerError, ImageError, UnsupportedFormat
from images.sparse import nonzero_blocks

SIZE = 2 * MIB
PIECES = [(0, 512), (70_000, 300_000), (MIB + 5000, 100_000), (SIZE - 512, 512)]


def made(name: str, size: int = SIZE) -> bytes:
    output = io.BytesIO()
    FORMATS[name].write(patchy_disk(size, PIECES), output)
    return output.getvalue()


def dynamic_vhd() -> bytes:
    """A dynamic VHD of 4 MiB in two blocks, the second one present."""
    footer = bytearray(made("vhd", 4 * MIB)[-512:])
    struct.pack_into(">Q", footer, 16, 512)  # Data Offset
    struct.pack_into(">I", footer, 60, 3)
    struct.pack_into(">I", footer, CHECKSUM_OFFSET, checksum(footer))
    header = bytearray(1024)
    struct.pack_into(">8sQQIII", header, 0, b"cxsparse", 2**64 - 1, 1536, 0x10000, 2, 2 * MIB)
    struct.pack_into(">I", header, 36, checksum(header, 36))
    table = struct.pack(">II", 0xFFFFFFFF, 4).ljust(512, b"\xff")
    return bytes(footer + header) + table + b"\xff" * 512 + b"d" * 2 * MIB + bytes(footer)


MAKERS: dict[str, Callable[[], bytes]] = {name: lambda name=name: made(name) for name in FORMATS if name != "raw"}  # type: ignore[misc]
MAKERS["gce"] = lambda: made("gce")
MAKERS["vhd-dynamic"] = dynamic_vhd
SOUND = {name: make() for name, make in MAKERS.items()}


def read_all(data: bytes) -> Container | None:
    """Opens and reads whatever is there; all but a one-line ImageError fails the test."""
    begin = time.monotonic()
    try:
        container = open_container(MemoryDevice(data))
        if container is not None and container.device.size <= 1 << 30:
            for _ in nonzero_blocks(container.device, 65536):
                pass
            container.device.read(max(0, container.device.size - 4096), min(4096, container.device.size))
    except ImageError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return None
    finally:
        assert time.monotonic() - begin < 60
    return container


@pytest.mark.parametrize("name", SOUND)
def test_the_sound_ones_are_read(name: str) -> None:
    assert read_all(SOUND[name]) is not None


@pytest.mark.parametrize("name", SOUND)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_flipped_bytes(name: str, data: st.DataObject) -> None:
    image = bytearray(SOUND[name])
    places = st.one_of(st.integers(0, min(1200, len(image) - 1)), st.integers(0, len(image) - 1))
    places |= st.integers(max(0, len(image) - 2000), len(image) - 1)
    for _ in range(data.draw(st.integers(1, 6))):
        image[data.draw(places)] = data.draw(st.integers(0, 255))
    read_all(bytes(image))


@pytest.mark.parametrize("name", SOUND)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_overwritten_words(name: str, data: st.DataObject) -> None:
    """Numbers that matter get values that hurt."""
    image = bytearray(SOUND[name])
    values = st.sampled_from([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 62, 1 << 63, (1 << 64) - 1, 65536, len(image)])
    for _ in range(data.draw(st.integers(1, 3))):
        where = data.draw(st.sampled_from([0, 65536, len(image) - 1536])) + 4 * data.draw(st.integers(0, 130))
        shape = data.draw(st.sampled_from(["<I", ">I", "<Q", ">Q"]))
        value = data.draw(values) & (1 << 8 * struct.calcsize(shape)) - 1
        if 0 <= where <= len(image) - 8:
            struct.pack_into(shape, image, where, value)
    read_all(bytes(image))


@pytest.mark.parametrize("name", SOUND)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_cut_off(name: str, data: st.DataObject) -> None:
    image = SOUND[name]
    cut = image[: data.draw(st.integers(0, len(image) - 1))]
    container = read_all(cut)
    # VHD and VMDK have their ends to tell it by; an archive has its lengths. qcow2's last clusters are refcounts.
    if name in {"vhd", "vmdk", "gce", "vhd-dynamic"}:
        assert container is None or container.device.size != (4 * MIB if "dynamic" in name else SIZE)


@settings(max_examples=60, deadline=None)
@given(magic=st.sampled_from([b"QFI\xfb", b"KDMV", b"\x1f\x8b", b"conectix"]), junk=st.binary(max_size=3000))
def test_nothing_but_a_magic_number(magic: bytes, junk: bytes) -> None:
    read_all(magic + junk)
    read_all(magic + junk + bytes(4096))
    read_all(junk + b"conectix".ljust(512, b"\0"))


def refused(image: bytes, kind: type[ImageError] = ContainerError) -> str:
    """The message for an image that is refused when opened, or when all of it is read."""
    with pytest.raises(kind) as caught:
        container = open_container(MemoryDevice(image))
        assert container is not None
        for _ in nonzero_blocks(container.device, 65536):
            pass
    return str(caught.value)


def patched(name: str, offset: int, shape: str, value: int) -> bytes:
    image = bytearray(SOUND[name])
    struct.pack_into(shape, image, offset, value)
    return bytes(image)


def test_qcow2_tables_that_lie() -> None:
    l1 = HEADER.unpack_from(SOUND["qcow2"])[8]
    l2 = struct.unpack_from(">Q", SOUND["qcow2"], l1)[0] & ~COPIED
    assert "backing file" in refused(patched("qcow2", 8, ">Q", 4096), UnsupportedFormat)
    assert "encrypted (LUKS)" in refused(patched("qcow2", 32, ">I", 2), UnsupportedFormat)
    for bit, words in (
        (0, "qemu-img check"),
        (2, "another file"),
        (3, "otherwise than with zlib"),
        (40, "unknown feature"),
    ):
        assert words in refused(patched("qcow2", 72, ">Q", 1 << bit), UnsupportedFormat)
    assert "version 4" in refused(patched("qcow2", 4, ">I", 4), UnsupportedFormat)
    assert "cluster_bits is 40" in refused(patched("qcow2", 20, ">I", 40))
    assert "size is" in refused(patched("qcow2", 24, ">Q", 1 << 60))
    assert "l1_size is 0" in refused(patched("qcow2", 36, ">I", 0))
    assert "L1 table" in refused(patched("qcow2", 40, ">Q", 1 << 40))
    assert "an L2 table" in refused(patched("qcow2", l1, ">Q", 1 << 40))
    assert "an L2 table" in refused(patched("qcow2", l1, ">Q", 512))
    assert "outside the file" in refused(patched("qcow2", l2, ">Q", 1 << 40))
    assert "is not aligned" in refused(patched("qcow2", l2, ">Q", 66048))
    assert "does not unpack" in refused(patched("qcow2", l2, ">Q", 1 << 62 | 0x20000 + 7))


def test_qcow2_tables_used_twice() -> None:
    image = bytearray(made("qcow2"))
    size = 1 << 30
    struct.pack_into(">Q", image, 24, size)
    struct.pack_into(">I", image, 36, 2)
    l1 = HEADER.unpack_from(image)[8]
    image[l1 + 8 : l1 + 16] = image[l1 : l1 + 8]
    assert "two L1 entries" in refused(bytes(image))
    # A table that is its own data cluster is no loop: it is read as bytes.
    image = bytearray(made("qcow2"))
    where = struct.unpack_from(">Q", image, l1)[0]
    struct.pack_into(">Q", image, (where & ~COPIED) + 8, where)
    assert read_all(bytes(image)) is not None


def test_a_cluster_that_unpacks_to_too_much_or_too_little() -> None:
    l1 = HEADER.unpack_from(SOUND["qcow2"])[8]
    l2 = struct.unpack_from(">Q", SOUND["qcow2"], l1)[0] & ~COPIED
    for size, good in ((65536, True), (64 * MIB, True), (1000, False)):
        deflate = zlib.compressobj(9, zlib.DEFLATED, -12)
        packed = deflate.compress(bytes(size)) + deflate.flush()
        image = bytearray(SOUND["qcow2"]) + bytes(-len(SOUND["qcow2"]) % 512)
        struct.pack_into(">Q", image, l2, 1 << 62 | (len(packed) // 512) << 54 | len(image))
        image += packed + bytes(-len(packed) % 512)
        # What is more than a cluster is never unpacked.
        assert (read_all(bytes(image)) is not None) == good


def test_vmdk_tables_that_lie() -> None:
    image = SOUND["vmdk"]
    footer = len(image) - 1024
    directory = VMDK_HEADER.unpack_from(image, footer)[9] * 512
    table = struct.unpack_from("<I", image, directory)[0] * 512
    assert "no footer" in refused(image[:-512])
    assert "capacity" in refused(patched("vmdk", footer + 12, "<Q", 1 << 60))
    assert "grainSize" in refused(patched("vmdk", footer + 20, "<Q", 127))
    assert "numGTEsPerGT" in refused(patched("vmdk", footer + 44, "<I", 1 << 31))
    assert "grain directory" in refused(patched("vmdk", footer + 56, "<Q", 1 << 50))
    assert "a grain table at sector" in refused(patched("vmdk", directory, "<I", 0x7FFFFFFF))
    assert "grain 0 at sector" in refused(patched("vmdk", table, "<I", 0x7FFFFFFF))
    assert "the marker at sector 130 is of LBA" in refused(patched("vmdk", table, "<I", 130))
    assert "compressed bytes" in refused(patched("vmdk", 128 * 512 + 8, "<I", 1 << 30))
    assert "does not unpack" in refused(patched("vmdk", 128 * 512 + 12, "<I", 0))
    assert "copied as text" in refused(patched("vmdk", 73, "<B", 13))


def test_vhd_footers_that_lie() -> None:
    end = len(SOUND["vhd"]) - 512

    def with_checksum(name: str, offset: int, shape: str, value: int) -> bytes:
        image = bytearray(patched(name, offset, shape, value))
        struct.pack_into(">I", image, len(image) - 512 + CHECKSUM_OFFSET, checksum(image[-512:]))
        return bytes(image)

    assert "checksum" in refused(patched("vhd", end + 48, ">Q", SIZE + 512))
    assert "Current Size is" in refused(with_checksum("vhd", end + 48, ">Q", SIZE + 512))
    assert "at most" in refused(with_checksum("vhd", end + 48, ">Q", 1 << 62))
    assert "a differencing disk" in refused(with_checksum("vhd", end + 60, ">I", 4), UnsupportedFormat)
    assert "a disk of kind 9" in refused(with_checksum("vhd", end + 60, ">I", 9), UnsupportedFormat)
    assert "version" in refused(with_checksum("vhd", end + 12, ">I", 0x20000))
    assert "cut off" in refused(b"conectix" + bytes(4096))
    dynamic = bytearray(SOUND["vhd-dynamic"])
    struct.pack_into(">I", dynamic, 1536 + 4, 1 << 30)
    assert "outside the file" in refused(bytes(dynamic))
    struct.pack_into(">II", dynamic, 1536, 4, 4)
    assert "two blocks are the same" in refused(bytes(dynamic))
    assert "cookie" in refused(patched("vhd-dynamic", 512, ">Q", 0))


def tar_header(
    name: bytes = b"disk.raw", kind: bytes = b"0", size: int = 0, real: int = 0, pieces: bytes = b""
) -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[124:136] = number(size, 12)
    header[156:157] = kind
    header[257:265] = b"ustar  \0"
    header[386 : 386 + len(pieces)] = pieces
    header[483:495] = number(real, 12)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def piece(offset: int, size: int) -> bytes:
    return number(offset, 12) + number(size, 12)


def test_archives_that_lie() -> None:
    for content, words in (
        (b"", "ends in a tar header"),
        (bytes(1024), "no file in the archive"),
        (b"not a tar archive".ljust(2048, b"x"), "no tar archive"),
        (tar_header(size=1 << 40), "ends in the disk"),
        (tar_header(size=1 << 70), "at most"),
        (tar_header(kind=b"2"), "wanted a regular file"),
        (tar_header(kind=b"L", size=1 << 30), "at most"),
        (tar_header(kind=b"5") * 100, "first 64 headers"),
        (tar_header(kind=b"S", size=512, real=100, pieces=piece(0, 512)), "overlaps another or the disk's end"),
        (tar_header(kind=b"S", size=1024, real=8192, pieces=piece(4096, 512) + piece(0, 512)), "overlaps another"),
        (tar_header(kind=b"S", size=99, real=8192, pieces=piece(0, 512)), "the header says 99"),
        (tar_header(kind=b"S", size=0, real=1 << 62), "at most"),
    ):
        assert words in refused(gzip.compress(content)), words
    pax = b"30 GNU.sparse.major=1\n".ljust(30, b"x")
    message = refused(gzip.compress(tar_header(kind=b"x", size=30) + pax.ljust(512, b"\0")), UnsupportedFormat)
    assert "--format=oldgnu" in message
    sound = SOUND["gce"]
    assert "cut off" in refused(sound[:-9])
    broken = bytearray(sound)
    broken[-6] ^= 1
    assert "damaged" in refused(bytes(broken))


def test_zeros_that_unpack_to_much_take_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain archive of zeros is a small file that becomes a large disk: all of it stays a hole."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    size = 200 * MIB
    packed = gzip.compress(tar_header(size=size) + bytes(size) + bytes(1024))
    assert len(packed) < MIB
    container = open_container(MemoryDevice(packed))
    assert container is not None and container.device.size == size
    assert list(nonzero_blocks(container.device)) == []
    assert list(tmp_path.iterdir()) == []  # the temporary file has no name


def test_no_room_for_the_temporary_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc")
    with pytest.raises(ImageError, match="TMPDIR"):
        open_container(MemoryDevice(SOUND["gce"]))
