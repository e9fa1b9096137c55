"""Time-based authenticated variables: who may write PK, KEK, the databases, and private ones (UEFI 2.10, 8.2.2)."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from authenticated_writes import (
    GLOBAL,
    OWNER,
    PKCS7_GUID,
    SECURITY,
    descriptor,
    esl,
    hash_list,
    outcome,
    signed,
    stamp,
    unsigned,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from signing_keys import Identity, detached, signed_data, signer_info

from uefi.guids import Guid
from uefi.security import signature_lists
from uefi.variables.attributes import APPEND_WRITE, BOOTSERVICE_ACCESS, NV_BS_RT, NV_BS_RT_AT
from uefi.variables.store import VariableStore
from uefi.variables.variable import Variable

VENDOR = Guid.parse("11111111-2222-3333-4444-123456789abc")
PK = Identity("platform key", ca=True)
NEW_PK = Identity("new platform key")
KEK = Identity("key exchange key", ca=True)
KEK_LEAF = Identity("below the key exchange key", KEK)
DB = Identity("signature database", ca=True)
OTHER = Identity("stranger", ca=True)
APPEND = NV_BS_RT_AT | APPEND_WRITE
OK, VIOLATION = "EFI_SUCCESS", "EFI_SECURITY_VIOLATION"


def enrolled() -> VariableStore:
    """A platform in User Mode."""
    store = VariableStore()
    store.set("db", SECURITY, NV_BS_RT_AT, unsigned(esl(DB)))
    store.set("KEK", GLOBAL, NV_BS_RT_AT, unsigned(esl(KEK)))
    store.set("PK", GLOBAL, NV_BS_RT_AT, signed(PK, "PK", GLOBAL, esl(PK)))
    assert store.mode == "user"
    return store


def test_setup_mode_takes_keys_without_a_signature_and_keeps_only_the_value() -> None:
    store = VariableStore()
    for name, guid in (("db", SECURITY), ("dbx", SECURITY), ("dbt", SECURITY), ("dbr", SECURITY), ("KEK", GLOBAL)):
        assert outcome(store, name, guid, unsigned(esl(OTHER))) == OK
        assert outcome(store, name, guid, signed(OTHER, name, guid, esl(KEK))) == OK
        assert store.get(name, guid) == (NV_BS_RT_AT, esl(KEK))
    assert store.mode == "setup"


def test_a_new_pk_signs_itself_or_is_not_signed() -> None:
    assert outcome(VariableStore(), "PK", GLOBAL, signed(PK, "PK", GLOBAL, esl(PK))) == OK
    assert outcome(VariableStore(), "PK", GLOBAL, unsigned(esl(PK))) == OK
    assert outcome(VariableStore(), "PK", GLOBAL, signed(OTHER, "PK", GLOBAL, esl(PK))) == VIOLATION
    strict = VariableStore(signed_pk_only=True)
    assert outcome(strict, "PK", GLOBAL, unsigned(esl(PK))) == VIOLATION
    assert outcome(strict, "PK", GLOBAL, signed(PK, "PK", GLOBAL, esl(PK))) == OK


@pytest.mark.parametrize(
    ("name", "guid", "good", "bad"),
    [
        ("PK", GLOBAL, [PK], [KEK, NEW_PK, OTHER]),
        ("KEK", GLOBAL, [PK], [KEK, OTHER]),
        ("db", SECURITY, [PK, KEK, KEK_LEAF], [DB, OTHER]),
        ("dbx", SECURITY, [PK, KEK, KEK_LEAF], [DB, OTHER]),
        ("dbt", SECURITY, [PK, KEK, KEK_LEAF], [DB, OTHER]),
        ("dbr", SECURITY, [PK, KEK, KEK_LEAF], [DB, OTHER]),
        ("OsRecovery0001", VENDOR, [PK, KEK], [DB, OTHER]),
        ("OsRecoveryOrder", GLOBAL, [PK, KEK], [DB, OTHER]),
    ],
)
def test_user_mode_wants_the_right_signer(name: str, guid: Guid, good: list[Identity], bad: list[Identity]) -> None:
    payload = VENDOR if name == "OsRecoveryOrder" else esl(NEW_PK)
    for signer in bad:
        assert outcome(enrolled(), name, guid, signed(signer, name, guid, payload, second=9)) == VIOLATION
    assert outcome(enrolled(), name, guid, unsigned(payload, second=9)) == VIOLATION
    for signer in good:
        store = enrolled()
        assert outcome(store, name, guid, signed(signer, name, guid, payload, second=9)) == OK
        assert store.get(name, guid) == (NV_BS_RT_AT, payload)


def test_dbr_signs_recovery_variables() -> None:
    store = enrolled()
    assert outcome(store, "dbr", SECURITY, signed(KEK, "dbr", SECURITY, esl(OTHER))) == OK
    assert outcome(store, "OsRecovery0001", VENDOR, signed(OTHER, "OsRecovery0001", VENDOR, b"option")) == OK


def test_a_changed_pk_changes_who_signs() -> None:
    store = enrolled()
    assert outcome(store, "PK", GLOBAL, signed(PK, "PK", GLOBAL, esl(NEW_PK), second=1)) == OK
    assert outcome(store, "KEK", GLOBAL, signed(PK, "KEK", GLOBAL, esl(OTHER), second=1)) == VIOLATION
    assert outcome(store, "KEK", GLOBAL, signed(NEW_PK, "KEK", GLOBAL, esl(OTHER), second=1)) == OK
    assert store.mode == "user"


def test_deleting_pk_leads_back_to_setup_mode() -> None:
    store = enrolled()
    assert outcome(store, "PK", GLOBAL, b"", attributes=0) == "EFI_WRITE_PROTECTED"
    assert outcome(store, "PK", GLOBAL, signed(OTHER, "PK", GLOBAL, b"", second=1)) == VIOLATION
    assert outcome(store, "PK", GLOBAL, signed(PK, "PK", GLOBAL, b"", second=1)) == OK
    assert store.mode == "setup"
    assert outcome(store, "db", SECURITY, unsigned(esl(OTHER))) == OK


def test_pk_holds_one_signature() -> None:
    two = signature_lists.build(signature_lists.parse(esl(PK, KEK)))
    assert outcome(VariableStore(), "PK", GLOBAL, signed(PK, "PK", GLOBAL, two)) == "EFI_INVALID_PARAMETER"
    data = signed(PK, "PK", GLOBAL, esl(NEW_PK), second=1, attributes=APPEND)
    assert outcome(enrolled(), "PK", GLOBAL, data, APPEND) == "EFI_INVALID_PARAMETER"


@pytest.mark.parametrize("payload", [b"x", esl(DB)[:-1], esl(DB) + b"\0", hash_list(1)[:16] + bytes(12)])
def test_databases_hold_signature_lists(payload: bytes) -> None:
    assert outcome(VariableStore(), "db", SECURITY, unsigned(payload)) == "EFI_INVALID_PARAMETER"
    data = signed(KEK, "db", SECURITY, payload, second=1)
    assert outcome(enrolled(), "db", SECURITY, data) == "EFI_INVALID_PARAMETER"


def test_databases_hold_readable_certificates() -> None:
    broken = esl(DB).replace(DB.der, b"\x31" + DB.der[1:])
    assert outcome(VariableStore(), "db", SECURITY, unsigned(broken)) == "EFI_INVALID_PARAMETER"


def test_time_must_go_on() -> None:
    store = enrolled()
    for second, status in ((5, OK), (5, VIOLATION), (4, VIOLATION), (6, OK)):
        assert outcome(store, "db", SECURITY, signed(KEK, "db", SECURITY, hash_list(second), second=second)) == status


def test_a_write_cannot_be_replayed() -> None:
    store = enrolled()
    old = signed(KEK, "dbx", SECURITY, hash_list(1), second=1)
    assert outcome(store, "dbx", SECURITY, old) == OK
    assert outcome(store, "dbx", SECURITY, signed(KEK, "dbx", SECURITY, hash_list(1, 2), second=2)) == OK
    assert outcome(store, "dbx", SECURITY, old) == VIOLATION
    assert store.get("dbx", SECURITY)[1] == hash_list(1, 2)


def test_an_append_needs_no_later_time_and_keeps_the_latest() -> None:
    store = enrolled()
    assert outcome(store, "dbx", SECURITY, signed(KEK, "dbx", SECURITY, hash_list(1, 2), second=5)) == OK

    def append(second: int, *values: int) -> str:
        data = signed(KEK, "dbx", SECURITY, hash_list(*values), second=second, attributes=APPEND)
        return outcome(store, "dbx", SECURITY, data, APPEND)

    assert append(3, 2, 3) == OK
    assert store.get("dbx", SECURITY) == (NV_BS_RT_AT, hash_list(1, 2) + hash_list(3))
    assert outcome(store, "dbx", SECURITY, signed(KEK, "dbx", SECURITY, hash_list(9), second=4)) == VIOLATION
    assert append(8, 1, 2, 3) == OK
    assert store.get("dbx", SECURITY) == (NV_BS_RT_AT, hash_list(1, 2) + hash_list(3))
    assert outcome(store, "dbx", SECURITY, signed(KEK, "dbx", SECURITY, hash_list(9), second=8)) == VIOLATION
    assert outcome(store, "dbx", SECURITY, signed(KEK, "dbx", SECURITY, hash_list(9), second=9)) == OK


def test_a_signature_is_for_one_name_guid_attributes_and_value() -> None:
    good = signed(KEK, "dbx", SECURITY, hash_list(1), second=1)
    assert outcome(enrolled(), "dbx", SECURITY, good) == OK
    assert outcome(enrolled(), "db", SECURITY, good) == VIOLATION
    assert outcome(enrolled(), "dbx", SECURITY, good, APPEND) == VIOLATION
    assert outcome(enrolled(), "dbx", SECURITY, good + hash_list(2)) == VIOLATION
    assert outcome(enrolled(), "dbx", SECURITY, stamp(2) + good[16:]) == VIOLATION
    elsewhere = signed(KEK, "private", GLOBAL, b"x")
    assert outcome(enrolled(), "private", VENDOR, elsewhere) == VIOLATION


def test_keys_want_the_authenticated_attributes() -> None:
    for attributes in (NV_BS_RT, NV_BS_RT | APPEND_WRITE, NV_BS_RT_AT & ~1, BOOTSERVICE_ACCESS):
        data = unsigned(esl(PK)) if attributes & 0x20 else esl(PK)
        assert outcome(VariableStore(), "PK", GLOBAL, data, attributes) == "EFI_INVALID_PARAMETER"


def test_a_private_variable_belongs_to_its_first_signer() -> None:
    store = VariableStore()
    mine = Identity("owner", KEK)

    def write(signer: Identity, second: int, payload: bytes, *others: Identity) -> str:
        return outcome(store, "Mine", VENDOR, signed(signer, "Mine", VENDOR, payload, *others, second=second))

    assert outcome(store, "Mine", VENDOR, unsigned(b"data")) == VIOLATION
    assert write(mine, 1, b"one", KEK) == OK
    assert store.get("Mine", VENDOR) == (NV_BS_RT_AT, b"one")
    assert write(OTHER, 2, b"two") == VIOLATION
    assert write(mine, 2, b"two") == VIOLATION, "without the certificate above it is another chain"
    assert write(Identity("owner", OTHER), 2, b"two", OTHER) == VIOLATION
    assert write(Identity("namesake's brother", KEK), 2, b"two", KEK) == VIOLATION
    assert write(Identity("owner", KEK, serial=77), 2, b"renewed", KEK) == OK, "same name under the same authority"
    assert write(mine, 2, b"again", KEK) == VIOLATION
    assert outcome(store, "Mine", VENDOR, b"", attributes=0) == "EFI_WRITE_PROTECTED"
    assert outcome(store, "Mine", VENDOR, b"x", attributes=NV_BS_RT) == "EFI_INVALID_PARAMETER"
    assert write(mine, 3, b"", KEK) == OK
    assert write(OTHER, 1, b"now it is mine") == OK


def test_a_private_variable_appends() -> None:
    store = VariableStore()
    assert outcome(store, "Mine", VENDOR, signed(DB, "Mine", VENDOR, b"one", attributes=APPEND), APPEND) == OK
    assert outcome(store, "Mine", VENDOR, signed(DB, "Mine", VENDOR, b"one", attributes=APPEND), APPEND) == OK
    assert store.get("Mine", VENDOR) == (NV_BS_RT_AT, b"oneone")


def test_a_private_variable_without_a_known_signer_is_closed() -> None:
    store = VariableStore([Variable("Mine", VENDOR, NV_BS_RT_AT, b"data")])
    assert outcome(store, "Mine", VENDOR, signed(DB, "Mine", VENDOR, b"new")) == VIOLATION


def test_contentinfo_attributes_and_other_digests_are_taken() -> None:
    for wrapped, digest in ((True, "sha256"), (False, "sha384"), (True, "sha512")):
        message = "dbx".encode("utf-16-le") + SECURITY + struct.pack("<I", NV_BS_RT_AT) + stamp(1) + hash_list(1)
        for attributes in (True, False):
            blob = signed_data(
                [signer_info(KEK, message, digest=digest, attributes=attributes)], [KEK], wrapped=wrapped
            )
            assert outcome(enrolled(), "dbx", SECURITY, descriptor(stamp(1), blob) + hash_list(1)) == OK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        unsigned(b"")[:39],
        stamp() + struct.pack("<IHH16s", 23, 0x200, 0x0EF1, PKCS7_GUID),
        stamp() + struct.pack("<IHH16s", 25, 0x200, 0x0EF1, PKCS7_GUID),
        stamp() + struct.pack("<IHH16s", 0xFFFFFFFF, 0x200, 0x0EF1, PKCS7_GUID),
        descriptor(stamp(), b"", kind=2) + esl(PK),
        descriptor(stamp(), b"", certificate_type=bytes(16)) + esl(PK),
        *(descriptor(stamp()[:at] + b"\1" + stamp()[at + 1 :], b"") + esl(PK) for at in (7, 8, 12, 14, 15)),
    ],
)
def test_damaged_descriptors_are_violations_even_in_setup_mode(data: bytes) -> None:
    assert outcome(VariableStore(), "PK", GLOBAL, data) == VIOLATION


def test_authenticated_writes_at_run_time() -> None:
    store = enrolled()
    store.enter_runtime()
    assert outcome(store, "dbx", SECURITY, signed(KEK, "dbx", SECURITY, hash_list(1), second=1)) == OK
    assert outcome(store, "dbx", SECURITY, signed(OTHER, "dbx", SECURITY, hash_list(2), second=2)) == VIOLATION


GOOD = signed(KEK, "dbx", SECURITY, hash_list(1), second=1)
USER = enrolled().save()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.booleans())
def test_damage_and_truncation_change_nothing(position: int, flip: int, cut: bool) -> None:
    store = VariableStore()
    store.load(USER)
    data = bytearray(GOOD)
    data[position] ^= flip
    status = outcome(store, "dbx", SECURITY, bytes(data[:position] if cut else data))
    if status == OK:
        # Unused bits of the encoding may differ; the signed value may not.
        assert store.get("dbx", SECURITY)[1] == hash_list(1)
        assert not cut


@pytest.mark.skipif(not shutil.which("sign-efi-sig-list"), reason="Debian's efitools is not installed")
def test_efitools_enrolls_everything(tmp_path: Path) -> None:
    def run(*command: str) -> None:
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    for name, identity in (("PK", PK), ("KEK", KEK), ("db", DB), ("new", NEW_PK)):
        (tmp_path / f"{name}.key").write_bytes(identity.pem_key())
        (tmp_path / f"{name}.crt").write_bytes(identity.pem_certificate())
        run("cert-to-efi-sig-list", "-g", str(OWNER), f"{name}.crt", f"{name}.esl")

    def sign(by: str, what: str, variable: str, time: str, *more: str) -> bytes:
        keys = ("-k", f"{by}.key", "-c", f"{by}.crt", "-t", f"2023-01-01 00:00:{time}")
        run("sign-efi-sig-list", *keys, *more, variable, what, "out.auth")
        return (tmp_path / "out.auth").read_bytes()

    store = VariableStore(signed_pk_only=True)
    assert outcome(store, "db", SECURITY, sign("KEK", "db.esl", "db", "01")) == OK
    assert outcome(store, "KEK", GLOBAL, sign("PK", "KEK.esl", "KEK", "01")) == OK
    assert outcome(store, "PK", GLOBAL, sign("KEK", "PK.esl", "PK", "01")) == VIOLATION
    assert outcome(store, "PK", GLOBAL, sign("PK", "PK.esl", "PK", "01")) == OK
    assert store.mode == "user"
    assert outcome(store, "db", SECURITY, sign("KEK", "new.esl", "db", "01", "-a"), APPEND) == OK
    assert store.get("db", SECURITY)[1] == esl(DB) + esl(NEW_PK)
    assert outcome(store, "db", SECURITY, sign("new", "db.esl", "db", "09")) == VIOLATION
    assert outcome(store, "db", SECURITY, sign("PK", "db.esl", "db", "09")) == OK
    (tmp_path / "none.esl").write_bytes(b"")
    assert outcome(store, "PK", GLOBAL, sign("PK", "none.esl", "PK", "09")) == OK
    assert store.mode == "setup"


@pytest.mark.skipif(not shutil.which("sbvarsign"), reason="Debian's sbsigntool is not installed")
def test_sbvarsign_writes_a_private_variable(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(DB.pem_key())
    (tmp_path / "crt").write_bytes(DB.pem_certificate())
    (tmp_path / "data").write_bytes(b"value")
    command = ["sbvarsign", "--key", "key", "--cert", "crt", "--guid", str(VENDOR), "--output", "out"]
    command += ["--attr", "NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS,TIME_BASED_AUTHENTICATED_WRITE_ACCESS"]
    subprocess.run([*command, "Mine", "data"], cwd=tmp_path, check=True, capture_output=True)
    store = VariableStore()
    assert outcome(store, "Mine", VENDOR, (tmp_path / "out").read_bytes()) == OK
    assert store.get("Mine", VENDOR) == (NV_BS_RT_AT, b"value")


def test_the_detached_helper_is_what_efitools_makes() -> None:
    """The helper's signatures carry no content and no attributes."""
    from uefi.security import pkcs7

    parsed = pkcs7.parse(detached(PK, b"x"))
    assert parsed.content is None
    assert parsed.signers[0].signed_attributes is None
