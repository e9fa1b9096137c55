"""Prints BUILD.json: which compiler and linker made the built samples, and the SHA-256 of each."""

import argparse
import hashlib
import json
import subprocess
from pathlib import Path


def version_line(command: list[str]) -> str:
    """The first line that a tool says about its version."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0].strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--linker", required=True)
    parser.add_argument("--built", type=Path, required=True)
    arguments = parser.parse_args()
    record = {
        "compiler": version_line([arguments.compiler, "--version"]),
        "linker": version_line([arguments.linker, "--version"]),
        "files": {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(arguments.built.glob("*.e[fl][fi]"))
        },
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
