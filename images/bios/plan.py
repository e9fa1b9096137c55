"""The load plan behind the boot record: what the BIOS stage reads where, and how it enters the program."""

from struct import Struct
from typing import Any, NamedTuple

from images.block import BlockDevice

MAGIC = b"CVMBPLAN"
PLAN_AT = 512
PLAN = Struct("<8sIIQ")  # magic, mode, count of segments, entry
SEGMENT = Struct("<QQQQ")  # LBA, physical address, bytes in the file, bytes in memory
MOST_SEGMENTS = 8
COMMAND_LINE_LIMIT = 255
PVH, LINUX64 = 1, 2


class LoadPlan(NamedTuple):
    """A plan that was read: `segments` are (LBA, physical address, bytes in the file, bytes in memory)."""

    mode: int
    entry: int
    segments: list[tuple[int, int, int, int]]
    command_line: str


def read_load_plan(device: BlockDevice) -> LoadPlan | None:
    """What the stage of ours on `device` would load; None if there is none."""
    size = PLAN.size + MOST_SEGMENTS * SEGMENT.size + COMMAND_LINE_LIMIT + 1
    if device.size < PLAN_AT + size:
        return None
    raw = device.read(PLAN_AT, size)
    magic, mode, count, entry = PLAN.unpack_from(raw)
    if magic != MAGIC or count > MOST_SEGMENTS:
        return None
    segments = [SEGMENT.unpack_from(raw, PLAN.size + n * SEGMENT.size) for n in range(count)]
    text = raw[PLAN.size + MOST_SEGMENTS * SEGMENT.size :].partition(b"\0")[0].decode("utf-8", "replace")
    return LoadPlan(mode, entry, segments, text)


def read_plan(device: BlockDevice) -> dict[str, Any] | None:
    """The same as plain data, for `image inspect`."""
    plan = read_load_plan(device)
    if plan is None:
        return None
    return {
        "entry_kind": {PVH: "pvh", LINUX64: "linux64"}.get(plan.mode, f"unknown ({plan.mode})"),
        "entry": f"{plan.entry:#x}",
        "command_line": plan.command_line,
        "segments": [
            {"lba": lba, "address": f"{address:#x}", "file_size": file_size, "memory_size": memory_size}
            for lba, address, file_size, memory_size in plan.segments
        ],
    }
