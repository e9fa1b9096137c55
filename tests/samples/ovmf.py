"""Boots a folder of EFI files under QEMU and OVMF, and gives back what they print: the oracle for our own answers."""

import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

QEMU = "qemu-system-x86_64"
CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
VARIABLES = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")

# What a terminal obeys and does not show: colours, cursor movement, clearing; and the shift of OVMF's boot logo.
_CONTROL_SEQUENCE = re.compile(r"\x1b\[[0-9;=?]*[A-Za-z]|\x1b[()][A-Z0-9]|\x00")


def missing() -> str | None:
    """Says what is not installed here, or None if OVMF can be booted."""
    if shutil.which(QEMU) is None:
        return f"{QEMU} is not installed"
    for file in (CODE, VARIABLES):
        if not file.exists():
            return f"{file} is not installed"
    return None


def boot(
    files: dict[str, Path],
    command: str | None = None,
    *,
    typed: Iterable[tuple[str, str]] = (),
    until: str = "",
    timeout: float = 300,
    options: Iterable[str] = (),
) -> str:
    """Boots under QEMU and OVMF and returns the console's text without control sequences, lines ended by LF.

    `files` go into a FAT file system by their path there ("EFI/BOOT/BOOTX64.EFI"); it takes writes, which are lost.
    With `command` ("\\everything.efi exitboot"), launcher.efi among the files starts it, then switches the machine off.
    Each pair of `typed` is a text to wait for and what to type then. QEMU is ended once `until` (if any) was printed,
    or after `timeout` seconds, with TimeoutError. `options` are added to QEMU's command line.
    """
    with tempfile.TemporaryDirectory(prefix="ovmf-") as scratch:
        folder = Path(scratch, "disk")
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if command is not None:
            (folder / "EFI/BOOT").mkdir(parents=True, exist_ok=True)
            (folder / "launcher.efi").rename(folder / "EFI/BOOT/BOOTX64.EFI")
            (folder / "launch.txt").write_text(command + "\r\n", "ascii")
        variables = Path(scratch, "variables.fd")
        shutil.copyfile(VARIABLES, variables)
        arguments = [QEMU, "-accel", "tcg", "-cpu", "max", "-M", "q35", "-m", "1G", "-display", "none", "-no-reboot"]
        arguments += ["-net", "none", "-serial", "stdio", "-monitor", "none"]
        arguments += ["-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={CODE}"]
        arguments += ["-drive", f"if=pflash,format=raw,unit=1,file={variables}"]
        arguments += ["-drive", f"if=none,id=disk,format=raw,snapshot=on,file=fat:{folder}"]
        arguments += ["-device", "ide-hd,drive=disk,bootindex=1"]
        # The overlay of snapshot=on goes to TMPDIR.
        return run([*arguments, *options], typed, until, timeout, {**os.environ, "TMPDIR": scratch})


def run(
    arguments: list[str],
    typed: Iterable[tuple[str, str]] = (),
    until: str = "",
    timeout: float = 300,
    environment: dict[str, str] | None = None,
) -> str:
    """Runs a QEMU whose serial port is its standard input and output; the rest is as boot() says."""
    waiting = list(typed)
    raw = b""
    seen = 0  # how much of the text has been matched by `typed`
    deadline = time.monotonic() + timeout
    process = subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                raise TimeoutError(f"no end after {timeout} s; the console says:\n{plain(raw)}")
            chunk = os.read(process.stdout.fileno(), 65536)
            raw += chunk
            text = plain(raw)
            while waiting and (at := text.find(waiting[0][0], seen)) >= 0:
                seen = at + len(waiting[0][0])
                process.stdin.write(waiting.pop(0)[1].encode())
                process.stdin.flush()
            if not chunk or (until and until in text):
                return text
    finally:
        process.kill()
        process.wait()


def plain(raw: bytes) -> str:
    """The text of console bytes: control sequences taken out, CR LF made LF."""
    return _CONTROL_SEQUENCE.sub("", raw.decode("utf-8", "replace")).replace("\r", "")
