"""Debian's kernels for tests: where they are, an initial RAM disk with busybox that a test makes, and what is typed at its shell.

`.ci/fetch-linux` brings kernels, modules and busybox to build/linux, outside of the system.
"""

import gzip
import lzma
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from cvmboot import VirtualMachine

PATIENCE = 400
"""Seconds that a boot may take on a busy machine with others beside it; an idle one takes 20."""
PROMPT = r"/ # (?:\x1b\[6n)?"
_FETCHED = Path(__file__).parents[2] / "build" / "linux"

INIT = """#!/bin/sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 1
exec setsid cttyhack sh
"""
"""The first program: commands by name, what they look at, and a shell with a terminal."""


@dataclass
class Linux:
    """A kernel's file, its version, the folder of its modules if there is one, and a busybox that needs no libraries."""

    kernel: Path
    version: str
    modules: Path | None
    busybox: Path

    def module(self, name: str) -> bytes:
        """A module's file, unpacked; skips the test if it is not at hand."""
        found = sorted(self.modules.rglob(f"{name}.ko*")) if self.modules is not None else []
        if not found:
            pytest.skip(f"no module {name} of {self.version}: .ci/fetch-linux brings it")
        return lzma.decompress(found[0].read_bytes()) if found[0].suffix == ".xz" else found[0].read_bytes()

    def loadable(self, *names: str) -> list[str]:
        """Modules in an order in which they can be loaded: what one needs before it, nothing that the kernel has built in."""
        if self.modules is None:
            pytest.skip(f"no modules of {self.version}: .ci/fetch-linux brings them")
        files = {path.name.partition(".ko")[0].replace("-", "_"): path for path in self.modules.rglob("*.ko*")}
        order: list[str] = []

        def add(name: str) -> None:
            path = files.get(name.replace("-", "_"))
            if path is None:
                return
            stem = path.name.partition(".ko")[0]
            if stem not in order:
                needed = re.search(rb"\0depends=([^\0]*)", self.module(stem))
                for other in needed[1].decode().split(",") if needed else ():
                    add(other)
                order.append(stem)

        for name in names:
            add(name)
        return order

    def initrd(self, modules: Iterable[str] = (), files: Mapping[str, bytes] | None = None, init: str = INIT) -> bytes:
        """A compressed initial RAM disk: busybox, `init`, modules by name in /modules, and files by path."""
        content: dict[str, tuple[int, bytes]] = dict.fromkeys(("bin", "proc", "sys", "dev", "modules"), (16877, b""))
        content["bin/busybox"] = (0o100755, self.busybox.read_bytes())
        content["bin/sh"] = (0o120777, b"busybox")
        content["init"] = (0o100755, init.encode())
        for name in modules:
            content[f"modules/{name}.ko"] = (0o100644, self.module(name))
        for path, data in (files or {}).items():
            content[path] = (0o100755, data)
        return gzip.compress(archive(content), 1)


def archive(content: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A cpio archive, "newc", of {path: (mode, data)} (Linux, Documentation/driver-api/early-userspace/buffer-format.rst)."""
    parts = []
    for number, (path, (mode, data)) in enumerate([*content.items(), ("TRAILER!!!", (0, b""))], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]
    return b"".join(parts)


def find_linux(newer: bool = False) -> Linux:
    """Debian's kernel at hand, or that of its next release; skips the test if there is none, or no static busybox."""
    guests = Path(os.environ.get("CVMBOOT_GUESTS", "/nonexistent"))
    roots = (_FETCHED, *sorted(guests.glob("linux-image-*"), reverse=True), Path("/"))
    if newer:
        roots = (_FETCHED / "newer",)
    kernels = [
        (root, kernel)
        for root in roots
        for kernel in sorted((*root.glob("boot/vmlinuz-*-amd64"), *root.glob("vmlinuz-*-amd64")), reverse=True)
    ]
    if not kernels:
        pytest.skip(f"no Debian kernel in {', '.join(map(str, roots))}: .ci/fetch-linux brings it")
    busybox = next((path for root in (_FETCHED, Path("/")) if _is_static(path := root / "bin/busybox")), None)
    if busybox is None:
        pytest.skip("no busybox without libraries: .ci/fetch-linux brings one, and Debian's busybox-static is one")
    root, kernel = kernels[0]
    version = kernel.name.removeprefix("vmlinuz-")
    modules = root / "lib/modules" / version
    return Linux(kernel, version, modules if modules.is_dir() else None, busybox)


def _is_static(path: Path) -> bool:
    """Whether a program names no loader: it has no PT_INTERP with ld-linux."""
    return path.is_file() and b"/lib64/ld-linux" not in path.read_bytes()[:4096]


def ask(vm: VirtualMachine, command: str, timeout: float = 60) -> str:
    """Type a command, of at most 70 letters, at the shell's prompt; what it prints, up to the next prompt."""
    vm.sendline(command)
    vm.expect_exact(command, timeout=timeout)  # the terminal's echo
    vm.expect(PROMPT, timeout=timeout)
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", vm.before).replace("\r", "").strip("\n")
