"""A number for formats that want one of their own for each disk: it comes from the disk, so it is the same each time."""

import hashlib
from struct import pack

from images.block import BlockDevice

_TABLES = 34 * 512  # a GPT: its GUIDs and checksums tell disks apart


def fingerprint(device: BlockDevice) -> bytes:
    """SHA-256 over the disk's size and the partition tables at both its ends. Raises DeviceFailure."""
    count = min(_TABLES, device.size)
    state = hashlib.sha256(pack("<Q", device.size) + device.read(0, count))
    state.update(device.read(device.size - count, count))
    return state.digest()
