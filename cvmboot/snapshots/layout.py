"""Whether this program understands the state that another one wrote: the source of all classes in it must be the same."""

import hashlib
from pathlib import Path

from cvmboot.snapshots.state_classes import CLASSES

_ROOT = Path(__file__).parents[2]


class Layout:
    """The modules whose classes are in a snapshot, and a digest (hexadecimal) of their source."""

    def __init__(self, modules: list[str], digest: str) -> None:
        self.modules = list(modules)
        self.digest = digest

    @classmethod
    def of(cls, classes: list[str]) -> "Layout":
        """That of this program, for classes named module:Class."""
        modules = sorted({name.partition(":")[0] for name in classes})
        return cls(modules, digest_of(modules))

    @property
    def is_ours(self) -> bool:
        """Whether the source of this program's modules is the same."""
        return set(self.modules) <= CLASSES.keys() and digest_of(self.modules) == self.digest


def digest_of(modules: list[str]) -> str:
    """SHA-256 of the modules' names and source. A module whose source is not at hand counts by its name only."""
    digest = hashlib.sha256()
    for name in modules:
        digest.update(name.encode() + b"\0")
        path = _ROOT.joinpath(*name.split("."))
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            try:
                digest.update(file.read_bytes())
                break
            except OSError:
                continue
    return digest.hexdigest()
