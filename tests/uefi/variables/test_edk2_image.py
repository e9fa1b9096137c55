"""OVMF_VARS.fd: the valid variables come out of an image, and damaged images are refused."""

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uefi import guids
from uefi.guids import Guid
from uefi.time import EfiTime
from uefi.variables import certdb, edk2_image
from uefi.variables.attributes import NV_BS_RT, NV_BS_RT_AT
from uefi.variables.errors import VariableFileError
from uefi.variables.nv_file import NvFile
from uefi.variables.store import VariableStore
from uefi.variables.variable import Variable

VENDOR = Guid.parse("11111111-2222-3333-4444-123456789abc")
OVMF = Path("/usr/share/OVMF")
STORE_GUID = bytes.fromhex("782cf3aa7b949a43a1802e144ec37792")
VOLUME_GUID = bytes.fromhex("8d2bf1ff96768b4ca9852747075b4f50")


def record(name: str, data: bytes, *, state: int = 0x3F, attributes: int = NV_BS_RT, time: bytes = bytes(16)) -> bytes:
    raw_name = name.encode("utf-16-le") + b"\0\0"
    header = struct.pack("<HBBIQ", 0x55AA, state, 0, attributes, 0) + time
    header += struct.pack("<III", 0, len(raw_name), len(data)) + VENDOR
    whole = header + raw_name + data
    return whole + b"\xff" * (-len(whole) % 4)


def image(*records: bytes, size: int = 0x1000, volume_size: int = 0x2000, before: bytes = b"") -> bytes:
    store = STORE_GUID + struct.pack("<IBBHI", size, 0x5A, 0xFE, 0, 0) + b"".join(records)
    volume = bytes(16) + VOLUME_GUID + struct.pack("<Q4sIHHHBB", volume_size, b"_FVH", 0x4FEFF, 0x48, 0, 0, 0, 2)
    volume += struct.pack("<IIII", 2, 0x1000, 0, 0)
    return before + volume + store + b"\xff" * (volume_size - len(volume) - len(store))


def values(data: bytes) -> dict[str, bytes]:
    return {each.name: each.data for each in edk2_image.parse(data)}


def test_valid_variables_come_out_in_order() -> None:
    time = EfiTime(2023, 10, 2, hour=3, minute=53, second=39)
    found = edk2_image.parse(
        image(
            record("deleted", b"0", state=0x3C),
            record("first", b"12345"),
            record("header only", b"0", state=0x7F),
            record("signed", b"", attributes=NV_BS_RT_AT, time=time.pack()),
            record("last", b"9"),
        )
    )
    assert found == [
        Variable("first", VENDOR, NV_BS_RT, b"12345"),
        Variable("signed", VENDOR, NV_BS_RT_AT, b"", time=time),
        Variable("last", VENDOR, NV_BS_RT, b"9"),
    ]


def test_a_variable_in_transition_counts_until_its_successor_is_complete() -> None:
    old = record("A", b"old", state=0x3E)
    assert values(image(old, record("B", b"b"))) == {"A": b"old", "B": b"b"}
    assert values(image(old, record("A", b"new"))) == {"A": b"new"}
    assert values(image(old, record("A", b"new", state=0x7F))) == {"A": b"old"}


def test_the_volume_may_lie_inside_a_larger_image() -> None:
    assert values(image(record("A", b"a"), before=bytes(0x1000) + VOLUME_GUID + bytes(100))) == {"A": b"a"}


def test_an_interrupted_write_ends_the_store() -> None:
    torn = struct.pack("<HBBIQ", 0x55AA, 0xFF, 0, 0, 0) + b"\xff" * 44
    assert values(image(record("A", b"a"), torn, record("B", b"b"))) == {"A": b"a"}


def changed(offset: int, data: bytes) -> bytes:
    whole = bytearray(image(record("A", b"a")))
    whole[offset : offset + len(data)] = data
    return bytes(whole)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(0x1000), "no firmware volume"),
        (changed(16, bytes(16)), "no firmware volume"),
        (changed(40, b"_FV_"), "no firmware volume"),
        (image()[:0x1FFF], "firmware volume of 0x2000 bytes"),
        (changed(32, b"\x50\0\0\0\0\0\0\0"), "firmware volume of 0x50 bytes"),
        (changed(48, b"\xff\xff"), "header 0xffff"),
        (changed(0x48, bytes([1]) * 16), "variable store 01010101-"),
        (changed(0x48 + 20, b"\xff"), "format 0xff"),
        (changed(0x48 + 21, b"\x00"), "state 0x0"),
        (changed(0x48 + 16, struct.pack("<I", 0x1FB9)), "variable store of 0x1fb9 bytes"),
        (changed(0x48 + 16, struct.pack("<I", 27)), "variable store of 0x1b bytes"),
        (image(record("A\0B", b"")), "NUL inside its name"),
        (image(record("A", b"").replace(b"A\0\0\0", b"A\0A\0")), "without a NUL"),
    ],
)
def test_damaged_images_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(VariableFileError, match=message):
        edk2_image.parse(data)


GOOD = image(record("A", b"a"), record("B", b"bb"), size=0x200, volume_size=0x300)


@settings(deadline=None)
@given(st.integers(0, 0xF0), st.binary(min_size=1, max_size=4))
def test_damage_raises_only_the_packages_error(offset: int, data: bytes) -> None:
    whole = bytearray(GOOD)
    whole[offset : offset + len(data)] = data
    try:
        edk2_image.parse(bytes(whole))
    except VariableFileError as error:
        assert "\n" not in str(error)


@settings(deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_truncations_are_refused(size: int) -> None:
    with pytest.raises(VariableFileError):
        edk2_image.parse(GOOD[:size])


def test_an_image_is_read_but_never_written(tmp_path: Path) -> None:
    path = tmp_path / "OVMF_VARS.fd"
    path.write_bytes(GOOD)
    file = NvFile(path)
    store = VariableStore(file.load(), persist=file.save)
    assert not file.writable
    assert store.get("A", VENDOR) == (NV_BS_RT, b"a")
    store.set("A", VENDOR, NV_BS_RT, b"new")
    assert store.get("A", VENDOR) == (NV_BS_RT, b"new")
    assert path.read_bytes() == GOOD


@pytest.mark.parametrize("name", ["OVMF_VARS.fd", "OVMF_VARS_4M.fd"])
def test_ovmfs_empty_images(name: str) -> None:
    if not (OVMF / name).exists():
        pytest.skip("Debian's package ovmf is not installed")
    assert NvFile(OVMF / name).load() == []


@pytest.mark.skipif(not (OVMF / "OVMF_VARS_4M.ms.fd").exists(), reason="Debian's package ovmf is not installed")
def test_ovmf_with_microsofts_keys_is_in_user_mode() -> None:
    store = VariableStore(NvFile(OVMF / "OVMF_VARS_4M.ms.fd").load())
    assert store.mode == "user"
    assert store.secure_boot
    assert b"Microsoft Corporation UEFI CA 2011" in store.get("db", guids.IMAGE_SECURITY_DATABASE)[1]


NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-16-le"), min_size=1, max_size=8)


@settings(deadline=None)
@given(st.dictionaries(NAMES, st.binary(min_size=32, max_size=32), max_size=4), st.integers(0, 200))
def test_the_signers_of_private_variables_survive_in_certdb(signers: dict[str, bytes], cut: int) -> None:
    variables = [Variable(name, VENDOR, NV_BS_RT_AT, b"x", signer_digest=digest) for name, digest in signers.items()]
    database = certdb.build(variables)
    assert certdb.parse(database.data) == {(name, VENDOR): digest for name, digest in signers.items()}
    if cut < len(database.data):
        with pytest.raises(VariableFileError):
            certdb.parse(database.data[:cut])


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_random_certdbs_raise_only_the_packages_error(data: bytes) -> None:
    for each in (data, struct.pack("<I", len(data) + 4) + data):
        try:
            certdb.parse(each)
        except VariableFileError as error:
            assert "\n" not in str(error)


def test_certdb_with_whole_certificates_or_wrong_sizes() -> None:
    name = "A".encode("utf-16-le")
    entry = VENDOR + struct.pack("<III", 28 + 2 + 5, 1, 5) + name + b"\x30\x03\x02\x01\x00"
    assert certdb.parse(struct.pack("<I", 4 + len(entry)) + entry) == {}
    for size, units, digest_size in ((34, 1, 5), (36, 1, 5), (35, 2, 5), (35, 0xFFFFFFFF, 5)):
        bad = VENDOR + struct.pack("<III", size, units, digest_size) + entry[28:]
        with pytest.raises(VariableFileError, match="does not add up"):
            certdb.parse(struct.pack("<I", 4 + len(bad)) + bad)
