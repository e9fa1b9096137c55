"""What the tests of batches have in common, beside the fixtures."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

Run = Callable[..., "subprocess.CompletedProcess[str]"]
PATIENCE = 100


def lines_in(text: str) -> dict[str, dict[str, Any]]:
    """The lines of an output by their ids; each must be there once."""
    lines = [json.loads(line) for line in text.splitlines()]
    by_id = {str(line["id"]): line for line in lines}
    assert len(by_id) == len(lines)
    return by_id
