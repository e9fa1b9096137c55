"""Writes a fixed VHD: the disk's bytes with holes, then the footer (Microsoft, VHD Image Format Specification 1.0)."""

from struct import pack_into
from typing import BinaryIO

from images.block import BlockDevice
from images.containers.fingerprint import fingerprint
from images.containers.raw_write import write_raw
from images.containers.vhd import CHECKSUM_OFFSET, COOKIE, FIXED, FOOTER, FOOTER_SIZE, VERSION, checksum
from images.sparse import Progress

_FEATURES = 2  # reserved, must be set
_NO_DATA_OFFSET = 0xFFFFFFFFFFFFFFFF
# Readers (QEMU) believe Current Size only of creators they know, and compute the size from the geometry otherwise, which
# cannot say most sizes. "win " is Hyper-V's name, and its meaning of the footer is the one we follow.
_CREATOR, _CREATOR_VERSION, _CREATOR_HOST = b"win ", 0x000A0000, b"Wi2k"


def write_vhd(device: BlockDevice, file: BinaryIO, progress: Progress | None = None) -> None:
    """Writes all of `device` and a footer to an empty, seekable `file`. OSError where the host cannot.

    The time stamp is 0 (2000-01-01) and the unique id comes from the disk: the same disk gives the same file.
    """
    write_raw(device, file, progress)
    file.seek(device.size)
    file.write(footer(device.size, fingerprint(device)[:16]))


def footer(size: int, unique_id: bytes) -> bytes:
    """The 512 bytes for a disk of `size` bytes."""
    cylinders, heads, sectors = geometry(size // 512)
    raw = bytearray(FOOTER_SIZE)
    FOOTER.pack_into(
        raw, 0, COOKIE, _FEATURES, VERSION, _NO_DATA_OFFSET, 0, _CREATOR, _CREATOR_VERSION, _CREATOR_HOST,
        size, size, cylinders, heads, sectors, FIXED, 0, unique_id, 0,
    )  # fmt: skip
    pack_into(">I", raw, CHECKSUM_OFFSET, checksum(raw))
    return bytes(raw)


def geometry(sectors: int) -> tuple[int, int, int]:
    """(cylinders, heads, sectors per track): "CHS Calculation", the specification's appendix."""
    sectors = min(sectors, 65535 * 16 * 255)
    if sectors >= 65535 * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track = 17
    tracks = sectors // per_track
    heads = max(4, (tracks + 1023) // 1024)
    if tracks >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
        tracks = sectors // per_track
    if tracks >= heads * 1024:
        per_track, heads = 63, 16
        tracks = sectors // per_track
    return tracks // heads, heads, per_track
