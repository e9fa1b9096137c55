"""Targets for atheris outside of sev: executable images and FAT volumes, through the doors of their own tests."""

import sys
from pathlib import Path

from fuzz_targets import Target

TESTS = Path(__file__).resolve().parents[2]
NAMES = ("PE files", "FAT volumes")


def target(name: str) -> Target:
    """The target of a name among NAMES."""
    sys.path += [str(TESTS / "loader"), str(TESTS / "images")]
    if name == "PE files":
        import test_loader_fuzz

        return Target(name, test_loader_fuzz.corpus(), test_loader_fuzz.use_everything)
    import test_fat_hostile

    from images.block import MemoryDevice

    volume = test_fat_hostile.BASES[12]
    return Target(name, [volume], lambda data: test_fat_hostile.use_everything(_device(MemoryDevice, data)))


def _device(kind: type, data: bytes) -> object:
    return kind(data + bytes(-len(data) % 512), read_only=True)
