"""The emulated platform: its folder, its keys, what it signs and derives."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sev import certificate_table
from sev.certificates import ARK, ASK, ASVK, Certificate
from sev.errors import MalformedCertificate, PlatformError, Refused
from sev.firmware_status import INVALID_KEY, INVALID_PARAM
from sev.platform import VCEK, VLEK, GuestFields, KeyRequest, Platform
from sev.report import SIGNED_SIZE, Report
from sev.verifier import verify


def test_private_files_are_the_owner_s_alone(turin: Platform) -> None:
    private = {"secret.bin", "ark.key", "ask.key", "asvk.key"}
    files = [file for file in turin.folder.rglob("*") if file.is_file()]
    assert private <= {file.name for file in files}
    for file in files:
        mode = stat.S_IMODE(file.stat().st_mode)
        assert mode == (0o600 if file.name in private else 0o644), file
        if file.name not in private:
            assert b"PRIVATE" not in file.read_bytes()


def test_a_platform_stays_itself(turin: Platform) -> None:
    again = Platform.load(turin.folder)
    assert again.settings.to_json() == turin.settings.to_json()
    raw = again.sign_report(again.report(report_data=b"x" * 64).encode())
    assert verify(raw, turin.certificates(), roots=[turin.authority().certificates[ARK]]).verified
    assert again.leaf(VCEK).ec_point == turin.leaf(VCEK).ec_point


def test_chips_differ(tmp_path: Path) -> None:
    one, two = (Platform.new(tmp_path / name, "turin", with_certificates=False) for name in ("one", "two"))
    assert one.settings.hwid != two.settings.hwid
    assert one.derive_key(KeyRequest(), GuestFields()) != two.derive_key(KeyRequest(), GuestFields())
    assert len(one.chip_id) == 64
    assert not any(one.chip_id[8:])
    assert not (tmp_path / "one" / "authority").exists()
    one.certificate_table()
    assert (tmp_path / "one" / "authority").is_dir()


def test_each_tcb_has_a_vcek_of_its_own(turin: Platform) -> None:
    other = bytes.fromhex("0103020600000074")
    assert turin.leaf(VCEK).ec_point != turin.leaf(VCEK, other).ec_point
    older = Platform.load(turin.folder, tcb=other)
    raw = older.sign_report(older.report().encode())
    roots = [turin.authority().certificates[ARK]]
    assert not verify(raw, turin.certificates(), roots=roots).verified
    assert verify(raw, older.certificates(), roots=roots).verified
    assert Report.decode(raw).launch_tcb == other


def test_new_refuses_what_is_there_already(turin: Platform, tmp_path: Path) -> None:
    kept = (turin.folder / "secret.bin").read_bytes()
    with pytest.raises(PlatformError, match="not an empty folder"):
        Platform.new(turin.folder)
    assert (turin.folder / "secret.bin").read_bytes() == kept
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PlatformError):
        Platform.new(tmp_path / "file")
    Platform.new(tmp_path / "empty", with_certificates=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["empty", "file"]


def test_open_makes_a_platform_once(tmp_path: Path) -> None:
    made: list[Platform] = []
    threads = [threading.Thread(target=lambda: made.append(Platform.open(tmp_path / "p"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({platform.settings.hwid for platform in made}) == 1
    with pytest.raises(PlatformError, match="wanted milan"):
        Platform.open(tmp_path / "p", "milan")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"product": "rome"}, "wanted milan, genoa, turin"),
        ({"hwid": b"\x01"}, "wanted 8 bytes"),
        ({"hwid": b""}, "wanted 8 bytes"),
        ({"tcb": bytes.fromhex("0103020601000075")}, "current_tcb"),
        ({"firmware": (1, 55, 256)}, "firmware"),
        ({"cpuid": (0x19, 1, 1)}, "not of the Turin line"),
        ({"platform_info": -1}, "platform_info"),
        ({"csp_id": "x" * 128}, "csp_id"),
        ({"colour": 1}, "no setting colour"),
    ],
)
def test_settings_that_no_chip_can_have(wrong: dict[str, object], reason: str, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=reason):
        Platform.new(tmp_path / "p", with_certificates=False, **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "p").exists()


def _copy(platform: Platform, folder: Path) -> Path:
    folder.mkdir()
    for file in platform.folder.rglob("*"):
        target = folder / file.relative_to(platform.folder)
        if file.is_dir():
            target.mkdir()
        else:
            target.write_bytes(file.read_bytes())
            target.chmod(stat.S_IMODE(file.stat().st_mode))
    return folder


def test_hostile_folders_are_refused(turin: Platform, milan: Platform, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="no emulated platform"):
        Platform.load(tmp_path)
    folder = _copy(turin, tmp_path / "open")
    (folder / "secret.bin").chmod(0o644)
    with pytest.raises(PlatformError, match="others can read"):
        Platform.load(folder)
    (folder / "secret.bin").unlink()
    os.mkfifo(folder / "secret.bin", 0o600)
    with pytest.raises(PlatformError, match="not a regular file"):
        Platform.load(folder)
    folder = _copy(turin, tmp_path / "short")
    (folder / "secret.bin").write_bytes(b"short")
    with pytest.raises(PlatformError, match="5 bytes; wanted 32"):
        Platform.load(folder)
    for number, text in enumerate((b"", b"{", b"[]", b"[" * 60000, b"{}", b'{"format": 2}', b"x" * (1 << 17), b"\xff")):
        folder = _copy(turin, tmp_path / f"json{number}")
        (folder / "platform.json").write_bytes(text)
        with pytest.raises(PlatformError):
            Platform.load(folder)
    folder = _copy(turin, tmp_path / "swapped")
    (folder / "authority" / "ask.der").write_bytes((turin.folder / "authority" / "asvk.der").read_bytes())
    with pytest.raises(PlatformError, match="wanted the emulated ASK of Turin"):
        Platform.load(folder).authority()
    (folder / "authority" / "ask.der").write_bytes((milan.folder / "authority" / "ask.der").read_bytes())
    with pytest.raises(PlatformError):
        Platform.load(folder).authority()
    (folder / "authority" / "ask.der").write_bytes((turin.folder / "authority" / "ask.der").read_bytes())
    for wrong in (b"nonsense", (turin.folder / "authority" / "asvk.key").read_bytes()):
        (folder / "authority" / "ask.key").write_bytes(wrong)
        with pytest.raises(PlatformError, match=r"ask\.key"):
            Platform.load(folder).certificate_table()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_settings_file_loads_or_is_refused(data: st.DataObject, turin: Platform) -> None:
    kept = turin.settings.to_json()
    plain = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.lists(st.integers(), max_size=4)
    )
    name = data.draw(st.sampled_from([*kept, "tcb", "other"]))
    kept[name] = data.draw(plain)
    from sev.platform.settings import Settings

    try:
        Settings.from_json(json.loads(json.dumps(kept)))
    except PlatformError as error:
        assert "\n" not in str(error)


def test_reports_carry_what_the_platform_is(milan: Platform) -> None:
    report = milan.report(report_data=b"d" * 64, vmpl=2)
    assert report.product is not None
    assert report.product.name == "Milan"
    assert report.reported_tcb.hex() == "04000000000018db"
    assert report.current_version == (1, 55, 29)
    assert report.chip_id == milan.settings.hwid
    assert (report.version, report.vmpl, report.signer) == (5, 2, "VCEK")
    for version in (2, 3, 4, 5):
        raw = milan.sign_report(milan.report(version).encode())
        assert Report.decode(raw).version == version
        assert raw[:SIGNED_SIZE] == milan.report(version).encode()[:SIGNED_SIZE]


def test_signing_follows_what_the_report_names(milan: Platform) -> None:
    none = milan.sign_report(milan.report(key_info=7 << 2).encode())
    assert not any(none[SIGNED_SIZE:])
    with pytest.raises(Refused) as refused:
        milan.sign_report(milan.report(key=VLEK).encode())
    assert refused.value.status == INVALID_KEY
    with pytest.raises(Refused):
        milan.sign_report(milan.report(key_info=3 << 2).encode())
    loaded = Platform.load(milan.folder, load_vlek=True)
    assert (milan.select_key(0), milan.select_key(1), loaded.select_key(0)) == (VCEK, VCEK, VLEK)
    with pytest.raises(Refused):
        milan.select_key(2)
    assert not any(loaded.report(key=VLEK).chip_id)


GUEST = GuestFields(policy=0x30000, guest_svn=5, measurement=b"m" * 48)


def test_the_same_request_gives_the_same_key_across_boots(turin: Platform) -> None:
    request = KeyRequest(field_select=0x7F, guest_svn=3)
    key = turin.derive_key(request, GUEST)
    assert len(key) == 32
    assert Platform.load(turin.folder).derive_key(KeyRequest(field_select=0x7F, guest_svn=3), GUEST) == key


@pytest.mark.parametrize(
    ("bit", "request_fields", "guest_fields"),
    [
        (0, {}, {"policy": 0x30001}),
        (1, {}, {"image_id": b"i" * 16}),
        (2, {}, {"family_id": b"f" * 16}),
        (3, {}, {"measurement": b"n" * 48}),
        (4, {"guest_svn": 1}, {}),
        (5, {"tcb_version": bytes.fromhex("0100000000000000")}, {}),
        (6, {"launch_mit_vector": 1}, {}),
    ],
)
def test_a_field_changes_the_key_exactly_if_it_is_selected(
    bit: int, request_fields: dict[str, int], guest_fields: dict[str, bytes], turin: Platform
) -> None:
    guest = {"policy": 0x30000, "measurement": b"m" * 48, "guest_svn": 5}
    for select in (1 << bit, 0x7F, 0x7F & ~(1 << bit), 0):
        plain = turin.derive_key(KeyRequest(field_select=select), GuestFields(**guest))  # type: ignore[arg-type]
        other = turin.derive_key(
            KeyRequest(field_select=select, **request_fields),  # type: ignore[arg-type]
            GuestFields(**{**guest, **guest_fields}),  # type: ignore[arg-type]
        )
        assert (plain != other) == bool(select >> bit & 1)


def test_selection_vmpl_and_root_key_change_the_key(turin: Platform) -> None:
    loaded = Platform.load(turin.folder, load_vlek=True)
    with_vmrk = GuestFields(vmrk=b"r" * 32)
    keys = [
        turin.derive_key(KeyRequest(), GUEST),
        turin.derive_key(KeyRequest(field_select=1), GUEST),
        turin.derive_key(KeyRequest(field_select=2), GUEST),
        turin.derive_key(KeyRequest(vmpl=1), GUEST),
        turin.derive_key(KeyRequest(vmpl=3), GUEST),
        loaded.derive_key(KeyRequest(), GUEST),
        turin.derive_key(KeyRequest(root_key=1), with_vmrk),
        turin.derive_key(KeyRequest(root_key=1), GuestFields(vmrk=b"s" * 32)),
    ]
    assert len(set(keys)) == len(keys)
    assert turin.derive_key(KeyRequest(key_select=1), GUEST) == keys[0]
    assert loaded.derive_key(KeyRequest(key_select=1), GUEST) == keys[0]
    assert loaded.derive_key(KeyRequest(key_select=2), GUEST) == keys[5]


@pytest.mark.parametrize(
    ("wrong", "guest", "status"),
    [
        ({"vmpl": 0}, GuestFields(vmpl=1), INVALID_PARAM),
        ({"vmpl": 4}, GUEST, INVALID_PARAM),
        ({"key_select": 3}, GUEST, INVALID_PARAM),
        ({"field_select": 0x80}, GUEST, INVALID_PARAM),
        ({"field_select": 1 << 63}, GUEST, INVALID_PARAM),
        ({"guest_svn": 6}, GUEST, INVALID_PARAM),
        ({"tcb_version": bytes.fromhex("0203020600000075")}, GUEST, INVALID_PARAM),
        ({"tcb_version": bytes.fromhex("0000000001000000")}, GUEST, INVALID_PARAM),
        ({"field_select": 0x40, "has_vector": False}, GUEST, INVALID_PARAM),
        ({"root_key": 1}, GUEST, INVALID_KEY),
        ({"key_select": 2}, GUEST, INVALID_KEY),
    ],
)
def test_what_a_guest_may_not_have_is_refused(
    wrong: dict[str, int], guest: GuestFields, status: int, turin: Platform
) -> None:
    with pytest.raises(Refused) as refused:
        turin.derive_key(KeyRequest(**wrong), guest)  # type: ignore[arg-type]
    assert refused.value.status == status


def test_key_requests_of_linux_and_tamago_decode() -> None:
    linux = bytes.fromhex("03000000000000007f00000000000000010000000200000001020304000000ff")
    request = KeyRequest.decode(linux, 1)
    assert (request.root_key, request.key_select, request.field_select) == (1, 1, 0x7F)
    assert (request.vmpl, request.guest_svn, request.tcb_version.hex()) == (1, 2, "01020304000000ff")
    assert not request.has_vector
    assert request.encode() == linux
    tamago = linux + bytes([9]) + bytes(31)
    request = KeyRequest.decode(tamago, 1)
    assert (request.has_vector, request.launch_mit_vector) == (True, 9)
    for wrong, version in (
        (linux[:-1], 1),
        (linux, 2),
        (linux, 3),
        (tamago + b"\0", 1),
        (linux + bytes(8) + b"\1", 2),
        (b"\x08" + linux[1:], 1),
        (linux[:4] + b"\x01" + linux[5:], 1),
        (linux[:9] + b"\x01" + linux[10:], 1),
    ):
        with pytest.raises(Refused) as refused:
            KeyRequest.decode(wrong, version)
        assert refused.value.status == INVALID_PARAM


@settings(max_examples=300, deadline=None)
@given(payload=st.binary(max_size=80), version=st.integers(0, 3), vmpl=st.integers(0, 3))
def test_any_key_request_is_answered_or_refused(payload: bytes, version: int, vmpl: int, turin: Platform) -> None:
    try:
        key = turin.derive_key(KeyRequest.decode(payload, version), GuestFields(vmpl=vmpl, guest_svn=1))
    except Refused as refused:
        assert refused.status in (INVALID_PARAM, INVALID_KEY)
    else:
        assert len(key) == 32


def test_certificate_tables(turin: Platform) -> None:
    issued = turin.authority().certificates
    for key, intermediate in ((VCEK, ASK), (VLEK, ASVK)):
        entries = certificate_table.decode(turin.certificate_table(key))
        assert [name for name, _ in entries] == [key.upper(), "ASK", "ARK"]
        assert Certificate.decode(entries[0][1]).kind == key.upper()
        assert entries[1][1] == issued[intermediate].der
        assert entries[2][1] == issued[ARK].der
    table = turin.certificate_table()
    assert table[:16].hex() == "63da758de6644564adc5f4b93be8accd"
    mixed = bytes.fromhex("8d75da6364e66445adc5f4b93be8accd") + table[16:]
    assert certificate_table.decode(mixed)[0][0] == "VCEK"
    assert certificate_table.decode(bytes(24)) == []


@given(st.binary(max_size=300))
def test_any_table_decodes_or_is_refused(data: bytes) -> None:
    try:
        entries = certificate_table.decode(data)
    except MalformedCertificate:
        return
    assert all(len(contents) <= len(data) for _, contents in entries)


def test_tables_that_reach_outside_are_refused() -> None:
    guid = certificate_table.GUIDS["VCEK"]
    for offset, length in ((48, 1), (0, 4), (47, 1), (0xFFFFFFFF, 0xFFFFFFFF)):
        entry = guid + offset.to_bytes(4, "little") + length.to_bytes(4, "little")
        with pytest.raises(MalformedCertificate):
            certificate_table.decode(entry + bytes(24))
    with pytest.raises(MalformedCertificate, match="without a closing entry"):
        certificate_table.decode(guid + bytes(8))
    with pytest.raises(MalformedCertificate, match="more than 64"):
        certificate_table.decode((guid + bytes(8)) * 80)
