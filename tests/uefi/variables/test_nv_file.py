"""The file of --vars: what is saved loads again, other tools read it, and hostile files get one line."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from authenticated_writes import outcome, signed
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import Identity

from uefi import guids
from uefi.guids import Guid
from uefi.time import EfiTime
from uefi.variables import nv_file
from uefi.variables.attributes import NV_BS, NV_BS_RT, NV_BS_RT_AT
from uefi.variables.errors import VariableFileError
from uefi.variables.nv_file import NvFile
from uefi.variables.store import VariableStore
from uefi.variables.variable import Variable

VENDOR = Guid.parse("11111111-2222-3333-4444-123456789abc")
OWNER = Identity("owner of a variable")

NAMES = st.text(st.characters(exclude_characters="\0", codec="utf-16-le"), min_size=1, max_size=12)
SIGNED = st.builds(
    lambda name, data, digest: Variable(
        name, VENDOR, NV_BS_RT_AT, data, time=EfiTime(2024, 1, 2), signer_digest=digest
    ),
    NAMES,
    st.binary(max_size=20),
    st.binary(min_size=32, max_size=32),
)
PLAIN = st.builds(
    Variable, NAMES, st.binary(min_size=16, max_size=16).map(Guid), st.sampled_from([NV_BS, NV_BS_RT]), st.binary()
)


@settings(deadline=None)
@given(st.lists(st.one_of(PLAIN, SIGNED), max_size=6, unique_by=lambda variable: variable.key))
def test_what_is_built_parses(variables: list[Variable]) -> None:
    assert nv_file.parse_json(nv_file.build_json(variables)) == variables


def test_lone_surrogates_in_a_name_survive() -> None:
    variables = [Variable("\ud800x", VENDOR, NV_BS, b"1"), Variable("\U0001f600", VENDOR, NV_BS, b"2")]
    assert nv_file.parse_json(nv_file.build_json(variables)) == variables


def test_the_format_is_that_of_virt_fw_vars() -> None:
    variable = Variable("PK", guids.GLOBAL_VARIABLE, NV_BS_RT_AT, b"\1\2", time=EfiTime(2023, 10, 2, hour=3))
    assert json.loads(nv_file.build_json([variable, Variable("Timeout", guids.GLOBAL_VARIABLE, 7, b"\5\0")])) == {
        "version": 2,
        "variables": [
            {
                "name": "PK",
                "guid": "8be4df61-93ca-11d2-aa0d-00e098032b8c",
                "attr": 39,
                "data": "0102",
                "time": "e7070a02030000000000000000000000",
            },
            {"name": "Timeout", "guid": "8be4df61-93ca-11d2-aa0d-00e098032b8c", "attr": 7, "data": "0500"},
        ],
    }


def test_a_missing_file_is_made_on_the_first_write_only(tmp_path: Path) -> None:
    path = tmp_path / "vars.json"
    file = NvFile(path)
    store = VariableStore(file.load(), persist=file.save)
    store.put("Timeout", guids.GLOBAL_VARIABLE, NV_BS_RT, b"\0\0")
    assert list(tmp_path.iterdir()) == []
    store.set("Name", VENDOR, NV_BS, b"data")
    assert [each.name for each in NvFile(path).load()] == ["Timeout", "Name"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_holds_no_variables(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert NvFile(tmp_path / "empty").load() == []


def test_everything_lasts_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "vars.json"

    def start() -> VariableStore:
        file = NvFile(path)
        return VariableStore(file.load(), persist=file.save)

    store = start()
    assert outcome(store, "Mine", VENDOR, signed(OWNER, "Mine", VENDOR, b"one", second=5)) == "EFI_SUCCESS"
    store.set("\u00e4 name", VENDOR, NV_BS_RT, b"data")
    store.reset()
    assert start().save() == store.save()
    store = start()
    stranger = Identity("not the owner")
    assert outcome(store, "Mine", VENDOR, signed(stranger, "Mine", VENDOR, b"x", second=9)) == "EFI_SECURITY_VIOLATION"
    assert outcome(store, "Mine", VENDOR, signed(OWNER, "Mine", VENDOR, b"x", second=5)) == "EFI_SECURITY_VIOLATION"
    assert outcome(store, "Mine", VENDOR, signed(OWNER, "Mine", VENDOR, b"two", second=6)) == "EFI_SUCCESS"
    assert start().get("Mine", VENDOR) == (NV_BS_RT_AT, b"two")


def test_saving_replaces_the_file_and_keeps_its_mode_and_a_link_to_it(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text('{"version": 2, "variables": []}')
    real.chmod(0o640)
    link.symlink_to(real)
    NvFile(link).save([Variable("Name", VENDOR, NV_BS, b"1")])
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert [each.name for each in NvFile(real).load()] == ["Name"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "vars.json"
    file = NvFile(path)
    store = VariableStore(file.load(), persist=file.save)
    store.set("Name", VENDOR, NV_BS, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert outcome(store, "Name", VENDOR, b"new", NV_BS) == "EFI_DEVICE_ERROR"
    assert [each.data for each in NvFile(path).load()] == [b"old"]
    assert list(tmp_path.iterdir()) == [path]


GOOD = {"name": "Name", "guid": str(VENDOR), "attr": 3, "data": "00"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "neither JSON of virt-fw-vars nor an OVMF variable image"),
        (b"\xff\xfe{}", "neither JSON of virt-fw-vars nor an OVMF variable image"),
        (b"{", "malformed JSON"),
        (b'{"a": ' * 100_000, "malformed JSON"),
        (b'{"\xff": 1}', "malformed JSON"),
        (b"{}", 'without a list "variables"'),
        (b'{"version": 2, "variables": {}}', 'without a list "variables"'),
        (b'{"version": 3, "variables": []}', '"version" is 3, wanted 2'),
        (b'{"variables": []}', '"version" is None, wanted 2'),
        ([7], "variable 1: 7, wanted an object"),
        ([GOOD, GOOD], "variable 2: 'Name' 11111111-2222-3333-4444-123456789abc is there twice"),
        ([GOOD | {"name": 5}], '"name" is 5, wanted text'),
        ([GOOD | {"name": ""}], "\"name\" is '', wanted text"),
        ([GOOD | {"name": "a\0b"}], '"name" is'),
        ([GOOD | {"guid": "x"}], "\"guid\" is 'x', wanted 8-4-4-4-12 hex digits"),
        ([GOOD | {"guid": None}], '"guid" is None'),
        ([GOOD | {"attr": "3"}], "\"attr\" is '3', wanted attribute bits"),
        ([GOOD | {"attr": True}], '"attr" is True'),
        ([GOOD | {"attr": -1}], '"attr" is -1'),
        ([GOOD | {"attr": 0}], '"attr" is 0'),
        ([GOOD | {"attr": 0x43}], '"attr" is 67'),
        ([GOOD | {"attr": 0x100}], '"attr" is 256'),
        ([GOOD | {"data": "0"}], "\"data\" is '0', wanted hex digits"),
        ([GOOD | {"data": 0}], '"data" is 0, wanted hex digits'),
        ([GOOD | {"time": "00"}], '"time" has 1 bytes, wanted 16'),
        ([GOOD | {"time": "zz"}], "\"time\" is 'zz', wanted hex digits"),
        ([{"guid": str(VENDOR)}], '"name" is None'),
        ([GOOD] * 8193, "8193 variables, at most 8192"),
    ],
)
def test_hostile_files_get_one_line(tmp_path: Path, content: bytes | list[object], message: str) -> None:
    path = tmp_path / "vars.json"
    if isinstance(content, list):
        content = json.dumps({"version": 2, "variables": content}).encode()
    path.write_bytes(content)
    with pytest.raises(VariableFileError) as caught:
        NvFile(path).load()
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(nv_file.MAX_FILE_SIZE + 1)
    for path, message in (
        (tmp_path, "not a regular file"),
        (tmp_path / "fifo", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (large, "16777217 bytes, at most 16777216"),
        (tmp_path / "none" / "vars.json", "its folder does not exist"),
        (tmp_path / "large" / "vars.json", "Not a directory"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / "nul\0nul", "null byte"),
    ):
        with pytest.raises(VariableFileError, match=message):
            NvFile(path).load()


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_random_bytes_raise_only_the_packages_error(data: bytes) -> None:
    for each in (data, b'{"version": 2, "variables": [' + data + b"]}"):
        try:
            nv_file.parse_json(each)
        except VariableFileError as error:
            assert "\n" not in str(error)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(str(VENDOR)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(GOOD)), inner, max_size=4),
    max_leaves=6,
)


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from([*GOOD, "time", "digest"]), VALUES), max_size=3))
def test_random_json_raises_only_the_packages_error(rows: list[dict[str, object]]) -> None:
    try:
        nv_file.parse_json(json.dumps({"version": 2, "variables": [GOOD, *rows]}).encode())
    except VariableFileError as error:
        assert "\n" not in str(error)


@pytest.mark.skipif(not shutil.which("virt-fw-vars"), reason="virt-firmware is not installed")
def test_virt_fw_vars_reads_and_writes_the_file(tmp_path: Path) -> None:
    path, image = tmp_path / "vars.json", Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
    if not image.exists():
        pytest.skip("Debian's package ovmf is not installed")
    file = NvFile(path)
    store = VariableStore(file.load(), persist=file.save)
    assert outcome(store, "Mine", VENDOR, signed(OWNER, "Mine", VENDOR, b"one", second=5)) == "EFI_SUCCESS"
    store.set("Name", VENDOR, NV_BS_RT, b"data")
    converted, back = tmp_path / "vars.fd", tmp_path / "back.json"
    for arguments in (
        ("-i", str(image), "--set-json", str(path), "-o", str(converted)),
        ("-i", str(converted), "--output-json", str(back)),
    ):
        subprocess.run(["virt-fw-vars", *arguments], check=True, capture_output=True)
    for each in (back, converted):
        assert sorted(NvFile(each).load(), key=lambda variable: variable.name) == sorted(
            file.load(), key=lambda variable: variable.name
        )
