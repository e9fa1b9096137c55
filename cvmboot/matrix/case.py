"""One case of a matrix, and the record of it that goes to whoever plays it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from cvmboot.crew.chunk import Record
from cvmboot.errors import CvmbootError
from cvmboot.matrix.contents import Contents
from cvmboot.matrix.keys import DEFAULT_TIMEOUT, INPUTS, OUTPUTS, RUN_OPTIONS, Plain, fields_of

GRACE = 15.0
"""Seconds beyond a case's timeout after which its process is killed: the machine itself does not come back."""


class Case:
    """`name` is unique in its file, `settings` are checked; paths in them are relative to `folder`. `index` counts from 1.
    There is no `image` where the settings name a snapshot to go on from."""

    def __init__(self, index: int, name: str, image: Path | None, settings: Plain, folder: Path) -> None:
        self.index = index
        self.name = name
        self.image = image
        self.settings = settings
        self._folder = folder

    @property
    def timeout(self) -> float:
        """Seconds that the whole case may take."""
        return float(self.settings.get("timeout", DEFAULT_TIMEOUT))

    def inputs(self) -> dict[str, Path]:
        """The files and folders that the case reads, by their keys."""
        paths = {key: self._folder / self.settings[key] for key in self.settings if key in INPUTS}
        return ({} if self.image is None else {"image": self.image}) | paths

    def options(self) -> Plain:
        """The run options that were set, as they stand in the file."""
        return {key: value for key, value in self.settings.items() if key in RUN_OPTIONS}

    def _is_unikernel(self) -> bool:
        """Whether the image is a unikernel without UEFI, of which there is no trace."""
        if self.image is None:
            return False
        try:
            with self.image.open("rb") as file:
                first = file.read(4)
            if first == b"\x7fELF" or first.startswith(b"MZ"):
                return first == b"\x7fELF"
            from cvmboot.bios_disks import program_of

            return program_of(self.image) is not None
        except (OSError, CvmbootError):
            return False  # whoever boots it says why

    def digest(self, contents: Contents) -> str:
        """SHA-256 of all that the result depends on: what the file says, and what the files that it names hold."""
        inputs = self.inputs()
        told: dict[str, Any] = {key: value for key, value in self.settings.items() if key not in inputs}
        told |= {key: [path.name, contents.digest(path)] for key, path in inputs.items()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def record(self, folder: Path | None, with_trace: bool) -> Record:
        """Plain data: `image` and `fields` (of RunOptions) with the paths of `inputs`, the script, and in `folder` what to keep;
        `outputs` names the files there by their fields. `with_trace` keeps a trace wherever there can be one."""
        settings = self.settings
        fields = fields_of(settings) | {key: path for key, path in self.inputs().items() if key != "image"}
        outputs = {key: str(fields.pop(key)) for key in OUTPUTS if key in fields}
        if with_trace and not self._is_unikernel():
            outputs.setdefault("trace", "trace.jsonl")
        return {
            "index": self.index,
            "source": self.name,
            "image": self.image,
            "fields": fields,
            "outputs": outputs,
            "folder": folder,
            "steps": settings.get("steps", []),
            "never": settings.get("never", []),
            "status": settings.get("status"),
            "outcome": settings.get("outcome"),
            "timeout": self.timeout,
        }
