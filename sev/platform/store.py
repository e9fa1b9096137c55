"""Files of an emulated platform: written whole or not at all, private ones for their owner only, and read with suspicion."""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from sev.errors import PlatformError

PUBLIC_MODE = 0o644
PRIVATE_MODE = 0o600
LARGEST_FILE = 1 << 16


def read_file(path: Path, private: bool = False) -> bytes:
    """A regular file of at most 64 KiB; a private one must be closed to group and others. PlatformError."""
    try:
        # A FIFO in the place of a file must not make us wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PlatformError(f"{path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PlatformError(f"{path}: not a regular file")
        if private and status.st_mode & 0o077:
            raise PlatformError(
                f"{path}: others can read this private key (mode {status.st_mode & 0o777:o}); chmod 600 it"
            )
        contents = file.read(LARGEST_FILE + 1)
    if len(contents) > LARGEST_FILE:
        raise PlatformError(f"{path}: more than {LARGEST_FILE} bytes")
    return contents


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object. PlatformError for anything else."""
    try:
        settings = json.loads(read_file(path))
    except (ValueError, RecursionError):
        raise PlatformError(f"{path}: not JSON") from None
    if not isinstance(settings, dict):
        raise PlatformError(f"{path}: wanted a JSON object")
    return settings


def write_folder(folder: Path, files: dict[str, bytes], private: set[str]) -> None:
    """Make a folder with these files, all at once. FileExistsError if it exists and is not empty; PlatformError else."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise PlatformError(f"{folder}: {error.strerror}") from None
    try:
        for name, contents in files.items():
            mode = PRIVATE_MODE if name in private else PUBLIC_MODE
            descriptor = os.open(draft / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(contents)
                file.flush()
                os.fsync(descriptor)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise FileExistsError(f"{folder}: not a folder")
        draft.rename(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            shutil.rmtree(draft)
        if folder.exists():
            raise FileExistsError(f"{folder}: there is something already") from None
        raise PlatformError(f"{folder}: {error.strerror}") from None
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
