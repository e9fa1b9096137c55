"""Prints BUILD.json: which compiler and linker made the stage, and its SHA-256."""

import argparse
import hashlib
import json
import subprocess
from pathlib import Path


def version_line(tool: str) -> str:
    """The first line that a tool says about its version."""
    return (
        subprocess.run([tool, "--version"], check=True, capture_output=True, text=True).stdout.splitlines()[0].strip()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compiler", required=True)
    parser.add_argument("--linker", required=True)
    parser.add_argument("--file", type=Path, required=True)
    arguments = parser.parse_args()
    record = {
        "compiler": version_line(arguments.compiler),
        "linker": version_line(arguments.linker),
        "files": {arguments.file.name: hashlib.sha256(arguments.file.read_bytes()).hexdigest()},
    }
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
