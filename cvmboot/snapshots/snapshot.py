"""A frozen machine as an object: made of one that runs, kept in memory or in a file, cloned as often as one likes."""

import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cvmboot.snapshots import bases
from cvmboot.snapshots.errors import BadState, SnapshotError, printable
from cvmboot.snapshots.file import Progress, SnapshotFile, open_file, write
from cvmboot.snapshots.layout import Layout
from cvmboot.snapshots.options import plain, restored
from cvmboot.snapshots.state import freeze

if TYPE_CHECKING:
    from cvmboot.assembly import Assembly
    from cvmboot.media import Media
    from cvmboot.options import RunOptions
    from cvmboot.power import PoweredMachine
    from cvmboot.unikernel import UnikernelAssembly
    from cvmboot.virtual_machine import VirtualMachine

PATIENCE = 10.0
"""Seconds in which a guest has to get to a place where it can be frozen."""


class Snapshot:
    """A machine at one moment, which never changes. `clone` makes machines that go on from there, each for itself.

    Close it when no more clones are to be made; clones live on. A file is readable by its owner only: the guest's secrets are
    in it.
    """

    def __init__(self, file: SnapshotFile) -> None:
        """For `open`, and `VirtualMachine.snapshot`."""
        self.file = file

    @classmethod
    def open(cls, path: str | Path) -> "Snapshot":
        """The snapshot in a file. SnapshotError if it is none."""
        return cls(open_file(Path(path)))

    def clone(self, **options: Any) -> "VirtualMachine":
        """A machine that goes on where this one was frozen: `VirtualMachine(restore=self, **options)`."""
        from cvmboot.virtual_machine import VirtualMachine

        return VirtualMachine(restore=self, **options)

    def options(self, given: dict[str, Any]) -> "RunOptions":
        """RunOptions of a machine that is restored with the fields given. UsageError for those that it cannot have."""
        try:
            return restored(self.file.facts.options, given)
        except BadState as error:
            raise SnapshotError(f"{self.file.name}: {printable(error)}; make the snapshot anew") from None

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it, as `cvmboot snapshot info --json` prints it."""
        facts = self.file.facts
        return {
            "name": facts.name,
            "created": facts.created,
            "version": facts.version,
            "restorable": facts.layout.is_ours,
            "options": facts.options,
            "memory": facts.ram,
            "memory_in_file": self.file.ram_in_use(),
            "state": facts.state_size,
            "image": facts.image_size,
            "cpus": facts.cpus,
            "engine": facts.engine,
            "disks": facts.bases,
            "platform": None if facts.platform is None else vars(facts.platform),
        }

    def close(self) -> None:
        """Let go of it."""
        self.file.close()

    def __enter__(self) -> "Snapshot":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def take(machine: "PoweredMachine", path: Path | None = None, progress: Progress | None = None) -> Snapshot:
    """Freeze a machine that runs, and let it go on. SnapshotError if that is impossible, or the file cannot be written.

    The file appears under its name when it is whole.
    """
    with Taking(machine.image, path, progress) as taking:
        machine.at_rest(taking.store, PATIENCE)
        return taking.finish()


class Taking:
    """A snapshot in the making: `store` on the machine's thread, then `finish`. Left before that, nothing remains of it."""

    def __init__(self, image: Path, path: Path | None, progress: Progress | None = None) -> None:
        """In memory without `path`. SnapshotError if no file can be made there."""
        self._image = image
        self._path = path
        self._progress = progress
        self._beside: Path | None = None
        try:
            if path is None:
                self._descriptor = os.memfd_create("cvmboot-snapshot", os.MFD_CLOEXEC)
            else:
                if path.exists() and not path.is_file():
                    what = "a folder" if path.is_dir() else "no regular file, and clones map it"
                    raise SnapshotError(f"{path}: this is {what}; name a file that can be written")
                self._place = path.resolve()  # what a symbolic link leads to is written
                self._descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=self._place.parent)  # mode 0600
                self._beside = Path(name)
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> SnapshotError:
        return SnapshotError(f"{self._path}: {error.strerror or error}; name a file that can be written")

    def store(self, assembly: "Assembly | UnikernelAssembly", media: "Media", options: "RunOptions") -> None:
        """Write what the machine is now. SnapshotError."""
        state = freeze(assembly, media, options)
        platform = assembly.snp.guest.platform if assembly.snp is not None else None
        facts = {
            "version": _version(),
            "layout": _layout_of(state),
            "options": plain(options),
            "name": str(self._image),
            "bases": bases.describe(media),
            "platform": None
            if platform is None
            else {"folder": str(platform.folder.absolute()), "fingerprint": platform.fingerprint},
            "created": int(time.time()),
            "cpus": len(assembly.computer.engine.cpus),
            "engine": assembly.computer.engine.name,
            "unikernel": not hasattr(assembly, "firmware"),
        }
        try:
            write(self._descriptor, facts, state, assembly.image, assembly.computer.memory, self._progress)
        except OSError as error:
            raise self._failed(error) from None

    def finish(self) -> Snapshot:
        """What was stored, under its name. SnapshotError."""
        try:
            if self._beside is not None:
                self._beside.rename(self._place)
        except OSError as error:
            raise self._failed(error) from None
        descriptor, self._descriptor = self._descriptor, -1
        name = str(self._path) if self._path is not None else "(snapshot)"
        return Snapshot(SnapshotFile(descriptor, name, just_written=True))

    def __enter__(self) -> "Taking":
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            if self._beside is not None:
                self._beside.unlink(missing_ok=True)


def _layout_of(state: bytes) -> dict[str, Any]:
    import json

    length = int.from_bytes(state[:8], "little")
    layout = Layout.of(json.loads(state[8 : 8 + length])["classes"])
    return {"modules": layout.modules, "digest": layout.digest}


def _version() -> str:
    from cvmboot.version import version

    return version()
