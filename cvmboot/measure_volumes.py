"""Lists the firmware volumes of an image as JSON; `measure inspect` runs this as a process, `python -m` this module.

The work is done by the library uefi-firmware, which has no types and may be absent.
"""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

_MEMORY = 2 << 30
_SECONDS = 30
_MOST_DEPTH = 32
_NO_GUID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


def _limit() -> None:
    try:
        import resource
    except ImportError:  # a host without POSIX limits
        return
    for kind, wanted in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CPU, _SECONDS), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _walk(items: list[dict[str, Any]], depth: int, modules: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each volume, the outer ones first; `modules` is the list of the volume around `items`."""
    if depth > _MOST_DEPTH:
        return
    for item in items:
        inner = modules
        deeper = depth
        if item["type"] == "FirmwareVolume":
            inner = []
            deeper = depth + 1
            size = getattr(item["_self"], "size", 0) or 0
            yield {"guid": item["guid"], "size": size, "depth": depth, "modules": inner}
        elif item["type"] == "FirmwareFile" and item["guid"] != _NO_GUID:
            attributes = item["attrs"]
            modules.append(
                {
                    "guid": item["guid"],
                    "name": "",
                    "type": str(attributes.get("type_name", "")),
                    "size": attributes.get("size", 0),
                }
            )
        elif item["attrs"].get("type_name") == "User interface name" and modules:
            modules[-1]["name"] = "".join(letter for letter in str(item["label"]) if letter.isprintable())[:80]
        yield from _walk(item["objects"], deeper, inner)


def main(path: str) -> int:
    """Write the volumes of a file as a JSON list to standard output; the exit status."""
    _limit()
    try:
        library = importlib.import_module("uefi_firmware")
    except ImportError:
        sys.stderr.write("the library uefi-firmware is not installed\n")
        return 1
    data = Path(path).read_bytes()
    # The library writes its complaints to standard output.
    with redirect_stdout(sys.stderr):
        parsed = library.AutoParser(data).parse()
        volumes = [] if parsed is None else list(_walk(list(parsed.iterate_objects()), 0, []))
    sys.stdout.write(json.dumps(volumes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
