"""Reports: decoded and encoded byte for byte, products, TCB layouts, named bits."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sev.decoded import decoded
from sev.errors import MalformedReport, SevError
from sev.platform_info import PlatformInfo
from sev.policy import GuestPolicy
from sev.product import GENOA, MILAN, TURIN, VENICE, product_of, signature_of
from sev.report import FIELDS, SIZE, Report
from sev.tcb import Tcb


def test_every_real_report_comes_back_byte_for_byte(real_data: Path) -> None:
    files = [*(real_data / "pairs").glob("*/report.bin"), *(real_data / "reports-only").iterdir()]
    versions = set()
    for file in files:
        raw = file.read_bytes()
        report = Report.decode(raw)
        assert report.encode() == raw, file
        versions.add(report.version)
    assert versions >= {2, 3, 4, 5}


def test_real_reports_say_what_is_known_of_them(real_pairs: list[Path]) -> None:
    for pair in real_pairs:
        known = json.loads((pair / "expected.json").read_text())
        report = Report.decode((pair / "report.bin").read_bytes())
        assert report.version == known["version"]
        assert int(report.policy) == int(known["policy"], 16)
        assert int(report.platform_info) == int(known["platform_info"], 16)
        assert report.vmpl == known["vmpl"]
        assert report.signer == known["signer"]
        assert report.author_key_en == bool(known["author_key_en"])
        for tcb in ("reported_tcb", "current_tcb", "committed_tcb", "launch_tcb"):
            assert getattr(report, tcb).hex() == known[tcb]
        assert ".".join(map(str, report.current_version)) == known["fw_current"]
        assert ".".join(map(str, report.committed_version)) == known["fw_committed"]
        assert report.launch_mit_vector == int(known["launch_mit"], 16)
        assert report.current_mit_vector == int(known["current_mit"], 16)
        assert report.chip_id.hex() == known["chip_id"]
        assert report.measurement.hex() == known["measurement"]
        assert report.report_data.hex() == known["report_data"]
        assert report.host_data.hex() == known["host_data"]
        assert f"{report.cpuid_fam_id:02x}h/{report.cpuid_mod_id:02x}h/{report.cpuid_step}" == known["fms"]


@given(st.integers(1, 255), st.binary(min_size=SIZE - 4, max_size=SIZE - 4))
def test_any_report_of_any_version_comes_back_byte_for_byte(version: int, rest: bytes) -> None:
    raw = version.to_bytes(4, "little") + rest
    report = Report.decode(raw)
    assert report.encode() == raw
    json.dumps(decoded(report))


@given(st.binary(max_size=SIZE + 8))
def test_anything_else_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(MalformedReport) as refused:
        Report.decode(data[: SIZE - 1] if len(data) == SIZE else data)
    assert "\n" not in str(refused.value)


def test_fields_lie_where_the_specification_has_them() -> None:
    report = Report(
        5, guest_svn=0x11, vmpl=1, key_info=0b00101, report_data=b"d" * 64, cpuid_fam_id=0x1A, launch_mit_vector=0xB
    )
    raw = report.encode()
    assert len(raw) == 1184
    assert raw[4] == 0x11
    assert raw[0x30] == 1
    assert raw[0x50:0x90] == b"d" * 64
    assert raw[0x188] == 0x1A
    assert raw[0x1F8] == 0xB
    assert (report.author_key_en, report.mask_chip_key, report.signer) == (True, False, "VLEK")


def test_fields_overlap_nowhere() -> None:
    ends = 0
    for offset, size, _, _ in FIELDS.values():
        assert offset >= ends
        ends = offset + size
    assert ends == SIZE


def test_a_field_that_a_version_does_not_have_is_not_lost_silently() -> None:
    with pytest.raises(MalformedReport, match="current_mit_vector"):
        Report(4, current_mit_vector=1).encode()
    with pytest.raises(MalformedReport, match="cpuid_fam_id"):
        Report(2, cpuid_fam_id=0x19).encode()
    with pytest.raises(MalformedReport, match="no field colour"):
        Report(5, colour=1)
    with pytest.raises(MalformedReport, match="wanted 64"):
        Report(5, report_data=b"short")
    with pytest.raises(MalformedReport, match="4 bytes"):
        Report(5, guest_svn=1 << 32)


def test_bytes_of_a_later_version_are_reserved_bytes_of_an_earlier_one() -> None:
    raw = bytearray(Report(5, launch_mit_vector=7, cpuid_fam_id=0x19).encode())
    raw[0] = 2
    report = Report.decode(bytes(raw))
    assert report.product is None
    assert report.launch_mit_vector == 0
    assert report.reserved[0x188][0] == 0x19
    assert report.encode() == raw


def test_zeros_are_no_report() -> None:
    with pytest.raises(MalformedReport, match="all zeros"):
        Report.decode(bytes(SIZE))


@pytest.mark.parametrize(
    ("family", "model", "name", "line"),
    [
        (0x19, 0x01, "Milan", MILAN),
        (0x19, 0x11, "Genoa", GENOA),
        (0x19, 0xA0, "Bergamo or Siena", GENOA),
        (0x1A, 0x02, "Turin", TURIN),
        (0x1A, 0x11, "Turin", TURIN),
        (0x1A, 0x50, "Venice", VENICE),
        (0x1A, 0xC7, "Venice", VENICE),
    ],
)
def test_products_by_cpuid(family: int, model: int, name: str, line: object) -> None:
    product = product_of(family, model)
    assert product is not None
    assert (product.name, product.line) == (name, line)


@pytest.mark.parametrize(("family", "model"), [(0x17, 0x31), (0x19, 0x20), (0x1A, 0x12), (0x1A, 0xC8), (0, 0)])
def test_other_processors_are_unknown(family: int, model: int) -> None:
    assert product_of(family, model) is None


def test_cpuid_signatures() -> None:
    assert signature_of(0x19, 0x01, 1) == 0x00A00F11
    assert signature_of(0x19, 0x11, 1) == 0x00A10F11
    assert signature_of(0x1A, 0x02, 1) == 0x00B00F21


def test_tcb_layouts() -> None:
    assert Tcb.of(MILAN, boot_loader=4, tee=1, snp=24, microcode=219).raw.hex() == "04010000000018db"
    assert Tcb.of(TURIN, fmc=1, boot_loader=3, tee=2, snp=6, microcode=117).raw.hex() == "0103020600000075"
    assert str(Tcb(bytes.fromhex("0a00000000001754"), GENOA)) == "blSPL=10 teeSPL=0 snpSPL=23 ucodeSPL=84"
    assert Tcb(bytes.fromhex("0a00010000001754"), GENOA).reserved_set
    assert not Tcb(bytes.fromhex("0103020600000075"), TURIN).reserved_set
    with pytest.raises(SevError, match="no SPL called fmc"):
        Tcb.of(MILAN, fmc=1)
    with pytest.raises(SevError, match="0 to 255"):
        Tcb.of(MILAN, snp=256)


def test_tcbs_are_partially_ordered() -> None:
    low, high = Tcb.of(MILAN, snp=8, microcode=9), Tcb.of(MILAN, snp=9, microcode=9)
    other = Tcb.of(MILAN, snp=7, microcode=10)
    assert low <= high
    assert not high <= low
    assert not other <= high
    assert not high <= other


def test_bits_have_names_and_unknown_ones_stay_visible() -> None:
    policy = GuestPolicy(0xB001F | 1 << 40)
    assert policy.abi == (0, 0x1F)
    assert policy.bit("DEBUG")
    assert not policy.bit("MIGRATE_MA")
    assert policy.unknown == [40]
    assert not policy.well_formed
    assert GuestPolicy(0x30000).well_formed
    assert not GuestPolicy(0x10000).well_formed
    info = PlatformInfo(0x167)
    assert info.named["IOMMU_WRITE_SAFE"]
    assert info.unknown == [8]
    assert str(info) == "0x167 SMT_EN TSME_EN ECC_EN ALIAS_CHECK_COMPLETE IOMMU_WRITE_SAFE bit8?"
    with pytest.raises(KeyError):
        policy.bit("NO_SUCH")
