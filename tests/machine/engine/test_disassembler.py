"""Where instructions end: as capstone's own package says."""

import random
from pathlib import Path

import capstone  # type: ignore[import-untyped]
import pytest

from machine.engine import disassembler
from machine.engine.disassembler import Disassembler

SAMPLES = Path(__file__).resolve().parents[3] / "samples" / "built"


def _by_the_package(code: bytes) -> list[int]:
    package = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    return [address + size for address, size, *_ in package.disasm_lite(code, 0)]


def test_real_code_and_rubbish() -> None:
    image = (SAMPLES / "hello.efi").read_bytes()
    dice = random.Random(3)
    ours = Disassembler()
    instructions = 0
    for start in range(0, len(image) - 64, 61):
        for code in (image[start : start + 64], dice.randbytes(40)):
            expected = _by_the_package(code)
            assert list(ours.ends(code)) == expected
            instructions += len(expected)
    assert instructions > 1000


def test_several_at_a_time_do_not_disturb_each_other() -> None:
    one, two = Disassembler(), Disassembler()
    first, second = one.ends(b"\x90\x48\x89\xc8\x90"), two.ends(b"\xb8\0\0\0\0\x90")
    assert [next(first), next(second), next(first), next(second), next(first)] == [1, 5, 4, 6, 5]


def test_a_library_that_lies_elsewhere_is_found_through_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disassembler.importlib.util, "find_spec", lambda _name: None)
    disassembler._library.cache_clear()
    try:
        assert list(Disassembler().ends(b"\x90\x66\x90")) == [1, 3]
        assert _by_the_package(b"\x90\x66\x90") == [1, 3]
    finally:
        disassembler._library.cache_clear()
