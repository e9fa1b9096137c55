"""What the tests of batches have in common, beside the fixtures."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PATIENCE = 100


def lines_in(text: str) -> dict[str, dict[str, Any]]:
    """The lines of an output by their ids; each must be there once."""
    lines = [json.loads(line) for line in text.splitlines()]
    by_id = {str(line["id"]): line for line in lines}
    assert len(by_id) == len(lines)
    return by_id


def children_of(pid: int) -> list[int]:
    """The processes that a batch started to judge, by /proc."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"crew/member.py" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except (OSError, IndexError):
            continue
    return found
