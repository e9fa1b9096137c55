"""What the tests of matrices have in common: files, and the command in this process and in one of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SAMPLES = Path(__file__).parents[3] / "samples"
BUILT = SAMPLES / "built"
PATIENCE = 60


def words(*more: object) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "cvmboot", "matrix", *map(str, more)]


def ran(*more: object) -> "subprocess.CompletedProcess[str]":
    """Run it to its end."""
    return subprocess.run(words(*more), capture_output=True, text=True, timeout=PATIENCE, check=False)


def results_in(text: str) -> dict[str, dict[str, Any]]:
    """JSON lines by their cases; each must be there once."""
    lines = [json.loads(line) for line in text.splitlines()]
    by_name = {line["source"]: line for line in lines}
    assert len(by_name) == len(lines)
    return by_name
