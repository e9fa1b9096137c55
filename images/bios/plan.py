"""The load plan behind the boot record: what the BIOS stage reads where, and how it enters the program."""

from struct import Struct
from typing import Any

from images.block import BlockDevice

MAGIC = b"CVMBPLAN"
PLAN_AT = 512
PLAN = Struct("<8sIIQ")  # magic, mode, count of segments, entry
SEGMENT = Struct("<QQQQ")  # LBA, physical address, bytes in the file, bytes in memory
MOST_SEGMENTS = 8
COMMAND_LINE_LIMIT = 255
PVH, LINUX64 = 1, 2


def read_plan(device: BlockDevice) -> dict[str, Any] | None:
    """What the stage of ours on `device` would load, as plain data; None if there is none. For `image inspect`."""
    size = PLAN.size + MOST_SEGMENTS * SEGMENT.size + COMMAND_LINE_LIMIT + 1
    if device.size < PLAN_AT + size:
        return None
    raw = device.read(PLAN_AT, size)
    magic, mode, count, entry = PLAN.unpack_from(raw)
    if magic != MAGIC or count > MOST_SEGMENTS:
        return None
    segments = [SEGMENT.unpack_from(raw, PLAN.size + n * SEGMENT.size) for n in range(count)]
    return {
        "entry_kind": {PVH: "pvh", LINUX64: "linux64"}.get(mode, f"unknown ({mode})"),
        "entry": f"{entry:#x}",
        "command_line": raw[PLAN.size + MOST_SEGMENTS * SEGMENT.size :].partition(b"\0")[0].decode("utf-8", "replace"),
        "segments": [
            {"lba": lba, "address": f"{address:#x}", "file_size": file_size, "memory_size": memory_size}
            for lba, address, file_size, memory_size in segments
        ],
    }
