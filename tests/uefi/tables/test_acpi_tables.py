"""ACPI tables: lengths, checksums, links between them, and iasl's opinion of the AML where it is installed."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uefi.tables import acpi, aml
from uefi.tables.acpi import AcpiSettings

BASE, FACS = 0x7F000000, 0x7E000000
REDUCED = AcpiSettings(
    cpus=2, ecam_base=None, buses=1, gsi_of=None, s5_type=5, sleep_port=0x600, reset_port=0x600, reset_value=1
)


def tables(blob: bytes) -> dict[str, bytes]:
    """Signature -> table, found as an operating system finds them: RSDP, XSDT, FADT."""
    assert blob[:8] == b"RSD PTR "
    assert sum(blob[:20]) & 0xFF == 0
    assert sum(blob[:36]) & 0xFF == 0
    revision, rsdt, length, xsdt = struct.unpack_from("<BIIQ", blob, 15)
    assert (revision, rsdt, length) == (2, 0, 36)

    def at(address: int) -> bytes:
        offset = address - BASE
        table = blob[offset : offset + int.from_bytes(blob[offset + 4 : offset + 8], "little")]
        assert sum(table) & 0xFF == 0
        return table

    root = at(xsdt)
    found = {"XSDT": root}
    for (address,) in struct.iter_unpack("<Q", root[36:]):
        table = at(address)
        found[table[:4].decode()] = table
    found["DSDT"] = at(int.from_bytes(found["FACP"][140:148], "little"))
    return found


def test_everything_is_found_from_the_rsdp() -> None:
    found = tables(acpi.build(AcpiSettings(), BASE, FACS))
    assert set(found) == {"XSDT", "FACP", "APIC", "MCFG", "DSDT"}
    assert "HPET" in tables(acpi.build(AcpiSettings(hpet=0xFED00000), BASE, FACS))


def test_fadt_tells_the_ports() -> None:
    settings = AcpiSettings(pm_base=0x600, gpe0_offset=0x30, gpe0_length=8, sci=10, smi_command=0xB2, reset_port=0xCF9)
    fadt = acpi.fadt(settings, 0x1000, 0x2000)
    assert (len(fadt), fadt[8], fadt[131]) == (276, 6, 4)
    assert struct.unpack_from("<II", fadt, 36) == (0x2000, 0x1000)
    assert struct.unpack_from("<HI", fadt, 46) == (10, 0xB2)
    assert struct.unpack_from("<8I", fadt, 56) == (0x600, 0, 0x604, 0, 0, 0x608, 0x630, 0)
    assert tuple(fadt[88:93]) == (4, 2, 0, 4, 8)
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0xCF9, 6)
    assert struct.unpack_from("<QQ", fadt, 132) == (0, 0x1000)
    for offset, width, port in ((148, 32, 0x600), (172, 16, 0x604), (208, 32, 0x608), (220, 64, 0x630)):
        assert struct.unpack_from("<BB2xQ", fadt, offset) == (1, width, port)


def test_madt_lists_processors_and_overrides() -> None:
    madt = acpi.madt(AcpiSettings(cpus=257))
    assert struct.unpack_from("<II", madt, 36) == (0xFEE00000, 1)
    entries = []
    at = 44
    while at < len(madt):
        entries.append(madt[at : at + madt[at + 1]])
        at += madt[at + 1]
    assert at == len(madt)
    assert [entry[3] for entry in entries if entry[0] == 0] == list(range(255))
    assert [int.from_bytes(entry[4:8], "little") for entry in entries if entry[0] == 9] == [255, 256]
    overrides = [struct.unpack("<BBIH", entry[2:]) for entry in entries if entry[0] == 2]
    assert overrides == [(0, 0, 2, 0), (0, 9, 9, 0xD)]
    assert [entry for entry in entries if entry[0] == 1] == [struct.pack("<BBBBII", 1, 12, 0, 0, 0xFEC00000, 0)]


def test_mcfg_and_hpet() -> None:
    assert struct.unpack_from("<QHBB", acpi.mcfg(0xB0000000, 64), 44) == (
        0xB0000000,
        0,
        0,
        63,
    )
    assert struct.unpack_from("<BBBBQ", acpi.hpet(0xFED00000), 40) == (0, 64, 0, 0, 0xFED00000)


def test_hardware_reduced_acpi_has_no_pm_block_and_no_legacy() -> None:
    found = tables(acpi.build(REDUCED, BASE))
    assert set(found) == {"XSDT", "FACP", "APIC", "DSDT"}
    fadt, madt = found["FACP"], found["APIC"]
    assert len(fadt) == 276
    assert struct.unpack_from("<II", fadt, 36) == (0, int.from_bytes(fadt[140:148], "little"))
    assert not any(fadt[46:109]), "no SCI, no SMI, no PM block"
    assert struct.unpack_from("<HBI", fadt, 109) == (1 << 2, 0, 1 << 0 | 1 << 10 | 1 << 20)
    assert struct.unpack_from("<BBBBQB", fadt, 116) == (1, 8, 0, 1, 0x600, 1)
    assert fadt[244:256] == fadt[256:268] == struct.pack("<BBBBQ", 1, 8, 0, 1, 0x600)
    assert int.from_bytes(madt[40:44], "little") == 0, "no 8259s"
    assert [madt[44 + 8 * number : 52 + 8 * number] for number in range(2)] == [
        struct.pack("<BBBBI", 0, 8, number, number, 1) for number in range(2)
    ]
    assert len(madt) == 44 + 2 * 8 + 12 + 6, "processors, I/O APIC and NMI, and no overrides"


def test_facs() -> None:
    facs = acpi.facs()
    assert (len(facs), facs[:8], facs[32]) == (64, b"FACS\x40\0\0\0", 2)


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        (aml.integer(0), "00"),
        (aml.integer(1), "01"),
        (aml.integer(2), "0a02"),
        (aml.integer(0x1234), "0b3412"),
        (aml.integer(0x12345678), "0c78563412"),
        (aml.integer(1 << 32), "0e0000000001000000"),
        (aml.string("AB"), "0d414200"),
        (aml.eisa_id("PNP0A08"), "0c41d00a08"),
        (aml.name("_UID", aml.integer(0)), "085f55494400"),
        (aml.name_string("\\_SB"), "5c5f53425f"),
        (aml.name_string("\\_SB.PCI0"), "5c2e5f53425f50434930"),
        (aml.name_string("\\_SB.PCI0.ISA"), "5c2f035f53425f504349304953415f"),
        (aml.name_string("\\"), "5c00"),
        (aml.package(aml.integer(1)), "12030101"),
        (aml.buffer(b"\xaa"), "110301aa"),
        (aml.resources(), "11050a027987"),
    ],
)
def test_aml_encodings(term: bytes, expected: str) -> None:
    assert term.hex() == expected


@given(st.integers(0, 70000))
def test_package_lengths_count_themselves(size: int) -> None:
    encoded = aml.package_length(bytes(size))
    extra = encoded[0] >> 6
    assert len(encoded) == 1 + extra
    value = encoded[0] & 0x3F if not extra else encoded[0] & 0xF | int.from_bytes(encoded[1:], "little") << 4
    assert value == size + len(encoded)


@pytest.mark.parametrize("name", ["TOOLONG", "1ABC", "ab", "A.", "\\_SB.X-Y"])
def test_wrong_names(name: str) -> None:
    with pytest.raises(ValueError, match="AML name"):
        aml.name_string(name)


@pytest.mark.skipif(shutil.which("iasl") is None, reason="iasl (Debian's acpica-tools) is not installed")
def test_iasl_reads_and_recompiles_the_tables(tmp_path: Path) -> None:
    windows = (range(0xC0000000, 0xE0000000), range(1 << 39, 1 << 40))
    settings = AcpiSettings(cpus=300, memory_windows=windows, s5_type=5)
    for name, table in (
        ("dsdt", acpi.dsdt(settings)),
        ("facp", acpi.fadt(settings, 0x1000, 0x2000)),
        ("apic", acpi.madt(settings)),
        ("dsdt2", acpi.dsdt(REDUCED)),
        ("facp2", acpi.reduced_fadt(REDUCED, 0x1000, 0x600)),
        ("apic2", acpi.madt(REDUCED)),
    ):
        (tmp_path / f"{name}.aml").write_bytes(table)
        for arguments in (["-d", f"{name}.aml"], [f"{name}.dsl"]):
            run = subprocess.run(["iasl", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert run.returncode == 0, run.stdout + run.stderr
            assert "error" not in (run.stdout + run.stderr).lower().replace("0 errors", "")
    source = (tmp_path / "dsdt.dsl").read_text()
    for wanted in (
        'EisaId ("PNP0A08")',
        'EisaId ("PNP0501")',
        "Name (\\_S5",
        "0x000000FFFFFFFFFF",
        "C12B",
        "Memory32Fixed",
        "WordIO",
        "WordBusNumber",
    ):
        assert wanted in source
