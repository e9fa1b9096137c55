"""Setup, User, Audit and Deployed Mode: transitions, and the variables that show them (UEFI 2.10, 32.3)."""

import pytest
from authenticated_writes import GLOBAL, SECURITY, esl, outcome, signed, unsigned
from signing_keys import Identity

from uefi import guids
from uefi.variables.attributes import BS_RT, NV_BS, NV_BS_RT_AT
from uefi.variables.store import VariableStore
from uefi.variables.variable import Variable

PK = Identity("platform key")
FLAGS = ("SetupMode", "AuditMode", "DeployedMode", "SecureBoot")
SHOWN = {"setup": "1000", "user": "0001", "audit": "1100", "deployed": "0011"}


def shown(store: VariableStore) -> str:
    values = [store.get(name, GLOBAL) for name in FLAGS]
    assert all(attributes == BS_RT for attributes, _ in values)
    return "".join(str(value[0]) for _, value in values)


def write(store: VariableStore, name: str, value: bytes = b"\1", attributes: int = BS_RT) -> str:
    return outcome(store, name, GLOBAL, value, attributes)


def enroll(store: VariableStore) -> None:
    store.set("PK", GLOBAL, NV_BS_RT_AT, unsigned(esl(PK)))


def in_mode(mode: str) -> VariableStore:
    store = VariableStore()
    if mode in ("user", "deployed"):
        enroll(store)
    if mode == "deployed":
        assert write(store, "DeployedMode") == "EFI_SUCCESS"
    if mode == "audit":
        assert write(store, "AuditMode") == "EFI_SUCCESS"
    assert store.mode == mode
    return store


@pytest.mark.parametrize("mode", SHOWN)
def test_variables_show_the_mode(mode: str) -> None:
    store = in_mode(mode)
    assert shown(store) == SHOWN[mode]
    assert store.secure_boot == (SHOWN[mode][3] == "1")


@pytest.mark.parametrize("mode", SHOWN)
def test_the_mode_lasts_over_a_reset_and_in_a_file(mode: str) -> None:
    kept: list[list[Variable]] = []
    store = VariableStore(persist=kept.append)
    store.load(in_mode(mode).save())
    store.set("any", guids.SHIM_LOCK, NV_BS, b"1")
    again = VariableStore(kept[-1])
    store.reset()
    assert again.mode == store.mode == mode
    assert shown(again) == shown(store) == SHOWN[mode]


@pytest.mark.parametrize(
    ("mode", "name", "after"),
    [
        ("setup", "AuditMode", "audit"),
        ("setup", "DeployedMode", ""),
        ("user", "AuditMode", "audit"),
        ("user", "DeployedMode", "deployed"),
        ("audit", "AuditMode", ""),
        ("audit", "DeployedMode", ""),
        ("deployed", "AuditMode", ""),
        ("deployed", "DeployedMode", ""),
    ],
)
def test_writing_a_mode_variable(mode: str, name: str, after: str) -> None:
    store = in_mode(mode)
    assert write(store, name) == ("EFI_SUCCESS" if after else "EFI_WRITE_PROTECTED")
    assert store.mode == (after or mode)
    assert shown(store) == SHOWN[after or mode]


def test_going_to_audit_mode_deletes_pk() -> None:
    store = in_mode("user")
    assert write(store, "AuditMode") == "EFI_SUCCESS"
    assert store.value("PK", GLOBAL) is None
    assert not store.secure_boot


@pytest.mark.parametrize(("mode", "after"), [("setup", "user"), ("audit", "deployed")])
def test_enrolling_pk(mode: str, after: str) -> None:
    store = in_mode(mode)
    enroll(store)
    assert store.mode == after
    assert store.secure_boot


@pytest.mark.parametrize("mode", ["user", "deployed"])
def test_deleting_pk_sets_up(mode: str) -> None:
    store = in_mode(mode)
    assert outcome(store, "PK", GLOBAL, signed(PK, "PK", GLOBAL, b"", second=9)) == "EFI_SUCCESS"
    assert store.mode == "setup"
    assert shown(store) == SHOWN["setup"]


def test_values_that_are_no_mode() -> None:
    store = in_mode("user")
    for value in (b"\2", b"\1\0"):
        assert write(store, "AuditMode", value) == "EFI_INVALID_PARAMETER"
    assert write(store, "AuditMode", b"", BS_RT) == "EFI_INVALID_PARAMETER"
    assert write(store, "AuditMode", b"\1", 0) == "EFI_INVALID_PARAMETER"
    assert write(store, "AuditMode", b"\1", NV_BS_RT_AT & ~0x20) == "EFI_INVALID_PARAMETER"
    assert write(store, "AuditMode", b"\0") == "EFI_SUCCESS"
    assert store.mode == "user"


def test_modes_are_read_only_while_an_operating_system_runs() -> None:
    store = in_mode("user")
    store.enter_runtime()
    assert write(store, "AuditMode") == "EFI_WRITE_PROTECTED"
    assert write(store, "DeployedMode") == "EFI_WRITE_PROTECTED"


def test_secure_boot_stays_as_it_is_until_the_reset() -> None:
    store = in_mode("user")
    store.enter_runtime()
    assert outcome(store, "PK", GLOBAL, signed(PK, "PK", GLOBAL, b"", second=9)) == "EFI_SUCCESS"
    assert shown(store) == "1001"
    store.reset()
    assert shown(store) == SHOWN["setup"]


def test_vendor_keys_until_somebody_enrolls_his() -> None:
    store = VariableStore()
    assert store.get("VendorKeys", GLOBAL) == (BS_RT, b"\1")
    store.set("db", SECURITY, NV_BS_RT_AT, unsigned(esl(PK)))
    assert store.get("VendorKeys", GLOBAL) == (BS_RT, b"\0")


def test_ovmfs_switch_turns_secure_boot_off_but_not_for_the_guest() -> None:
    switch = ("SecureBootEnable", guids.EDK2_SECURE_BOOT_ENABLE_DISABLE)
    keys = Variable("PK", GLOBAL, NV_BS_RT_AT, esl(PK))
    for value, expected in ((b"\0", "0000"), (b"\1", "0001")):
        assert shown(VariableStore([keys, Variable(*switch, NV_BS, value)])) == expected
    store = VariableStore([keys])
    assert outcome(store, *switch, b"\0", NV_BS) == "EFI_WRITE_PROTECTED"
    assert store.secure_boot


@pytest.mark.parametrize(("audit", "deployed", "mode"), [(1, 1, "user"), (1, 0, "user"), (0, 1, "deployed")])
def test_flags_in_a_file_count_only_where_they_can_be(audit: int, deployed: int, mode: str) -> None:
    flags = [
        Variable("AuditMode", GLOBAL, BS_RT, bytes([audit])),
        Variable("DeployedMode", GLOBAL, BS_RT, bytes([deployed])),
    ]
    keys = Variable("PK", GLOBAL, NV_BS_RT_AT, esl(PK))
    assert VariableStore([*flags, keys]).mode == ("deployed" if deployed else mode)
    assert VariableStore(flags).mode == ("audit" if audit else "setup")
