"""Builds an EFI application with a program database (.pdb) beside it, by clang and lld."""

import shutil
import subprocess
from pathlib import Path

import pytest

_VERSION = "-14"
"""Of Debian 12, where the plain name is missing."""


def _tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name + _VERSION)
    if found is None:
        pytest.skip(f"no {name}: Debian's packages clang and lld have it")
    return found


def build(folder: Path, source: str) -> None:
    """Make app.efi and app.pdb in `folder` of C with an efi_main. pytest.skip where a tool is missing."""
    (folder / "app.c").write_text(source)
    flags = ("-target", "x86_64-unknown-windows", "-g", "-gcodeview", "-O1", "-ffreestanding", "-mno-red-zone")
    subprocess.run([_tool("clang"), *flags, "-c", "app.c", "-o", "app.o"], cwd=folder, check=True)
    link = ("-nodefaultlib", "-entry:efi_main", "-debug", "-subsystem:efi_application", "-out:app.efi", "app.o")
    subprocess.run([_tool("lld-link"), *link], cwd=folder, check=True)
