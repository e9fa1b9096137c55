"""SMBIOS structures: layout walked by hand, and dmidecode's opinion where it is installed."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from uefi.tables import smbios
from uefi.tables.smbios import SmbiosSettings

GIB = 1 << 30


def walk(table: bytes) -> list[tuple[int, int, bytes, list[bytes]]]:
    """(type, handle, fixed part, strings) of each structure."""
    found = []
    at = 0
    while at < len(table):
        kind, length, handle = struct.unpack_from("<BBH", table, at)
        end = table.index(b"\0\0", at + length)
        strings = [text for text in table[at + length : end].split(b"\0") if text]
        found.append((kind, handle, table[at : at + length], strings))
        at = end + 2
    return found


def test_every_structure_once_with_handles_of_its_own() -> None:
    table = smbios.structures(SmbiosSettings(ram=[(0, 3 * GIB), (4 * GIB, GIB)], cpus=4))
    found = walk(table)
    assert [kind for kind, _, _, _ in found] == [0, 1, 3, 4, 16, 17, 19, 19, 32, 127]
    assert len({handle for _, handle, _, _ in found}) == len(found)
    lengths = {kind: len(fixed) for kind, _, fixed, _ in found}
    assert lengths == {0: 26, 1: 27, 3: 22, 4: 48, 16: 23, 17: 40, 19: 31, 32: 11, 127: 4}


def test_string_numbers_point_at_strings() -> None:
    found = walk(smbios.structures(SmbiosSettings(ram=[(0, GIB)], processor_version="X", serial="S\u20ac")))
    system = found[1]
    assert system[3][system[2][4] - 1] == b"cvmboot"
    assert system[3][system[2][7] - 1] == b"S?"
    processor = found[3]
    assert processor[3][processor[2][0x10] - 1] == b"X"
    assert processor[2][0x20] == 0


def test_memory_sizes() -> None:
    for ram, mib, extended in (([(0, 2 * GIB)], 2048, 0), ([(0, 3 * GIB), (4 * GIB, 61 * GIB)], 0x7FFF, 65536)):
        fixed = walk(smbios.structures(SmbiosSettings(ram=ram)))[5][2]
        assert struct.unpack_from("<H", fixed, 0x0C) == (mib,)
        assert struct.unpack_from("<I", fixed, 0x1C) == (extended,)


def test_mapped_ranges_beyond_4_tib() -> None:
    found = walk(smbios.structures(SmbiosSettings(ram=[(0, 3 * GIB), (4 * GIB, 5 << 40)])))
    low, high = (fixed for kind, _, fixed, _ in found if kind == 19)
    assert struct.unpack_from("<II", low, 4) == (0, 3 * (1 << 20) - 1)
    assert struct.unpack_from("<IIHBQQ", high, 4)[0] == 0xFFFFFFFF
    assert struct.unpack_from("<QQ", high, 15) == (4 * GIB, 4 * GIB + (5 << 40) - 1)


def test_entry_point() -> None:
    entry = smbios.entry_point(0x7F001000, 500)
    assert len(entry) == 24 == entry[6]
    assert sum(entry) & 0xFF == 0
    assert struct.unpack_from("<IQ", entry, 12) == (500, 0x7F001000)


@pytest.mark.skipif(shutil.which("dmidecode") is None, reason="dmidecode is not installed")
def test_dmidecode_reads_it(tmp_path: Path) -> None:
    uuid = bytes(range(16))
    table = smbios.structures(SmbiosSettings(ram=[(0, 2 * GIB)], cpus=3, uuid=uuid, processor_version="EPYC-v4"))
    dump = tmp_path / "dump.bin"
    dump.write_bytes(smbios.entry_point(0x20, len(table)).ljust(0x20, b"\0") + table)
    run = subprocess.run(["dmidecode", "--from-dump", str(dump)], capture_output=True, text=True, check=True)
    assert "03020100-0504-0706-0809-0a0b0c0d0e0f" in run.stdout
    for wanted in ("UEFI is supported", "Core Count: 3", "Size: 2 GB", "Version: EPYC-v4", "End Of Table"):
        assert wanted in run.stdout
    assert "OUT OF SPEC" not in run.stdout.upper()
    assert "WRONG" not in (run.stdout + run.stderr).upper()
