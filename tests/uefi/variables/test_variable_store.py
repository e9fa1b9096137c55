"""SetVariable, GetVariable, GetNextVariableName and QueryVariableInfo as UEFI 2.10, 8.2 has them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uefi import guids
from uefi.guids import Guid
from uefi.status import EfiError, Status, status_name
from uefi.variables.attributes import (
    APPEND_WRITE,
    AUTHENTICATED_WRITE_ACCESS,
    BOOTSERVICE_ACCESS,
    BS_RT,
    ENHANCED_AUTHENTICATED_ACCESS,
    HARDWARE_ERROR_RECORD,
    NON_VOLATILE,
    NV_BS,
    NV_BS_RT,
    NV_BS_RT_AT,
    RUNTIME_ACCESS,
)
from uefi.variables.store import Limits, VariableStore
from uefi.variables.variable import HEADER_SIZE, Variable, storage_size

VENDOR = Guid.parse("11111111-2222-3333-4444-123456789abc")
OTHER_VENDOR = Guid.parse("99999999-2222-3333-4444-123456789abc")
GLOBAL = guids.GLOBAL_VARIABLE


def status_of(call: "object", *arguments: object) -> str:
    """The name of the status that a service ends with."""
    try:
        call(*arguments)  # type: ignore[operator]
    except EfiError as error:
        assert "\n" not in error.reason
        return status_name(error.status)
    return "EFI_SUCCESS"


def names(store: VariableStore) -> list[tuple[str, Guid]]:
    """All names as a guest enumerates them."""
    found: list[tuple[str, Guid]] = []
    name, guid = "", GLOBAL
    while True:
        try:
            name, guid = store.next_name(name, guid)
        except EfiError as error:
            assert error.status == Status.NOT_FOUND
            return found
        found.append((name, guid))


def vendor_names(store: VariableStore) -> list[str]:
    return [name for name, guid in names(store) if guid == VENDOR]


def test_what_is_set_is_got() -> None:
    store = VariableStore()
    store.set("Name", VENDOR, NV_BS_RT, b"data")
    assert store.get("Name", VENDOR) == (NV_BS_RT, b"data")
    store.set("Name", VENDOR, NV_BS_RT, b"other")
    assert store.get("Name", VENDOR) == (NV_BS_RT, b"other")
    assert status_of(store.get, "Name", OTHER_VENDOR) == "EFI_NOT_FOUND"
    assert status_of(store.get, "name", VENDOR) == "EFI_NOT_FOUND"
    assert status_of(store.get, "", VENDOR) == "EFI_NOT_FOUND"


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        (BOOTSERVICE_ACCESS, "EFI_SUCCESS"),
        (BS_RT, "EFI_SUCCESS"),
        (NV_BS, "EFI_SUCCESS"),
        (NV_BS_RT, "EFI_SUCCESS"),
        (RUNTIME_ACCESS, "EFI_INVALID_PARAMETER"),
        (NON_VOLATILE | RUNTIME_ACCESS, "EFI_INVALID_PARAMETER"),
        (NON_VOLATILE, "EFI_INVALID_PARAMETER"),
        (0x100 | NV_BS_RT, "EFI_INVALID_PARAMETER"),
        (0x80000000 | NV_BS_RT, "EFI_INVALID_PARAMETER"),
        (AUTHENTICATED_WRITE_ACCESS | NV_BS_RT, "EFI_UNSUPPORTED"),
        (ENHANCED_AUTHENTICATED_ACCESS | NV_BS_RT, "EFI_UNSUPPORTED"),
        (HARDWARE_ERROR_RECORD | NV_BS, "EFI_INVALID_PARAMETER"),
        (HARDWARE_ERROR_RECORD | NV_BS_RT, "EFI_INVALID_PARAMETER"),
        (0, "EFI_NOT_FOUND"),
    ],
)
def test_attributes_of_a_new_variable(attributes: int, status: str) -> None:
    store = VariableStore()
    assert status_of(store.set, "Name", VENDOR, attributes, b"data") == status
    assert (status_of(store.get, "Name", VENDOR) == "EFI_SUCCESS") == (status == "EFI_SUCCESS")


def test_an_empty_name_is_refused() -> None:
    assert status_of(VariableStore().set, "", VENDOR, NV_BS, b"data") == "EFI_INVALID_PARAMETER"


def test_rewriting_with_other_attributes_changes_nothing() -> None:
    store = VariableStore()
    store.set("Name", VENDOR, NV_BS_RT, b"data")
    for attributes in (NV_BS, BS_RT, BOOTSERVICE_ACCESS):
        assert status_of(store.set, "Name", VENDOR, attributes, b"other") == "EFI_INVALID_PARAMETER"
        assert status_of(store.set, "Name", VENDOR, attributes, b"") == "EFI_INVALID_PARAMETER"
    assert store.get("Name", VENDOR) == (NV_BS_RT, b"data")


def test_no_data_or_no_attributes_delete() -> None:
    store = VariableStore()
    for attributes, data in ((NV_BS_RT, b""), (0, b""), (0, b"ignored")):
        store.set("Name", VENDOR, NV_BS_RT, b"data")
        store.set("Name", VENDOR, attributes, data)
        assert status_of(store.get, "Name", VENDOR) == "EFI_NOT_FOUND"
        assert status_of(store.set, "Name", VENDOR, attributes, data) == "EFI_NOT_FOUND"


def test_append() -> None:
    store = VariableStore()
    append = NV_BS_RT | APPEND_WRITE
    store.set("Name", VENDOR, append, b"")
    assert status_of(store.get, "Name", VENDOR) == "EFI_NOT_FOUND"
    store.set("Name", VENDOR, append, b"one")
    store.set("Name", VENDOR, append, b"two")
    store.set("Name", VENDOR, append, b"")
    assert store.get("Name", VENDOR) == (NV_BS_RT, b"onetwo")
    assert status_of(store.set, "Name", VENDOR, NV_BS | APPEND_WRITE, b"x") == "EFI_INVALID_PARAMETER"
    assert store.get("Name", VENDOR) == (NV_BS_RT, b"onetwo")


def test_hardware_error_records_have_their_own_names() -> None:
    store = VariableStore()
    attributes = NV_BS_RT | HARDWARE_ERROR_RECORD
    store.set("HwErrRec00A1", guids.HARDWARE_ERROR_VARIABLE, attributes, b"record")
    assert store.get("HwErrRec00A1", guids.HARDWARE_ERROR_VARIABLE) == (attributes, b"record")
    for name in ("HwErrRec00a1", "HwErrRec", "Other"):
        assert status_of(store.set, name, guids.HARDWARE_ERROR_VARIABLE, attributes, b"x") == "EFI_INVALID_PARAMETER"


def test_enumeration_keeps_the_order_of_creation() -> None:
    store = VariableStore()
    for name in "CABD":
        store.set(name, VENDOR, BS_RT, b"1")
    store.set("A", VENDOR, BS_RT, b"2")
    assert vendor_names(store) == ["C", "A", "B", "D"]
    store.set("C", VENDOR, 0, b"")
    store.set("C", VENDOR, NV_BS, b"3")
    assert vendor_names(store) == ["A", "B", "D", "C"]


def test_enumeration_goes_on_only_from_what_exists() -> None:
    store = VariableStore()
    store.set("A", VENDOR, BS_RT, b"1")
    assert status_of(store.next_name, "B", VENDOR) == "EFI_INVALID_PARAMETER"
    assert status_of(store.next_name, "A", OTHER_VENDOR) == "EFI_INVALID_PARAMETER"
    assert status_of(store.next_name, "A", VENDOR) == "EFI_NOT_FOUND"
    assert store.next_name("", VENDOR) == names(store)[0]
    store.set("B", VENDOR, BS_RT, b"1")
    assert store.next_name("A", VENDOR) == ("B", VENDOR)


def runtime_store() -> VariableStore:
    store = VariableStore()
    store.set("boot", VENDOR, NV_BS, b"1")
    store.set("volatile", VENDOR, BS_RT, b"2")
    store.set("runtime", VENDOR, NV_BS_RT, b"3")
    store.enter_runtime()
    return store


def test_run_time_hides_boot_service_variables() -> None:
    store = runtime_store()
    assert status_of(store.get, "boot", VENDOR) == "EFI_NOT_FOUND"
    assert store.get("volatile", VENDOR) == (BS_RT, b"2")
    assert store.get("runtime", VENDOR) == (NV_BS_RT, b"3")
    assert vendor_names(store) == ["volatile", "runtime"]
    assert status_of(store.next_name, "boot", VENDOR) == "EFI_INVALID_PARAMETER"


def test_names_hide_as_soon_as_run_time_begins() -> None:
    store = VariableStore()
    store.set("boot", VENDOR, NV_BS, b"1")
    assert vendor_names(store) == ["boot"]
    store.enter_runtime()
    assert vendor_names(store) == []


def test_run_time_writes_only_nonvolatile_runtime_variables() -> None:
    store = runtime_store()
    for attributes, data in ((NV_BS, b"new"), (NV_BS, b""), (0, b"")):
        assert status_of(store.set, "boot", VENDOR, attributes, data) == "EFI_WRITE_PROTECTED"
    for attributes, data in ((BS_RT, b"new"), (BS_RT | APPEND_WRITE, b"new"), (BS_RT, b""), (0, b"")):
        assert status_of(store.set, "volatile", VENDOR, attributes, data) == "EFI_WRITE_PROTECTED"
    assert status_of(store.set, "new", VENDOR, BS_RT, b"1") == "EFI_INVALID_PARAMETER"
    assert status_of(store.set, "new", VENDOR, NV_BS, b"1") == "EFI_INVALID_PARAMETER"
    store.set("new", VENDOR, NV_BS_RT, b"1")
    store.set("runtime", VENDOR, NV_BS_RT, b"changed")
    assert store.get("runtime", VENDOR) == (NV_BS_RT, b"changed")
    store.set("runtime", VENDOR, NV_BS_RT, b"")
    assert vendor_names(store) == ["volatile", "new"]


def test_a_reset_drops_what_is_volatile_and_ends_run_time() -> None:
    store = runtime_store()
    store.reset()
    assert vendor_names(store) == ["boot", "runtime"]
    store.set("volatile", VENDOR, BOOTSERVICE_ACCESS, b"again")


def test_query_variable_info() -> None:
    store = VariableStore(limits=Limits(variable=1000, non_volatile=5000, volatile=3000))
    total, free, largest = store.query_info(NV_BS_RT)
    assert (total, free, largest) == (5000, 5000, 1000 - HEADER_SIZE)
    store.set("AB", VENDOR, NV_BS_RT, bytes(101))
    assert store.query_info(NV_BS)[1] == 5000 - (HEADER_SIZE + 6 + 101 + 1)
    total, free, _ = store.query_info(BS_RT)
    assert total == 3000
    store.set("v", VENDOR, BS_RT, bytes(100))
    assert store.query_info(BOOTSERVICE_ACCESS)[1] == free - HEADER_SIZE - 4 - 100
    assert store.query_info(NV_BS)[1] == 5000 - (HEADER_SIZE + 6 + 101 + 1)


@pytest.mark.parametrize(
    ("attributes", "status"),
    [
        (0, "EFI_INVALID_PARAMETER"),
        (NON_VOLATILE, "EFI_INVALID_PARAMETER"),
        (RUNTIME_ACCESS, "EFI_INVALID_PARAMETER"),
        (0x100 | BS_RT, "EFI_INVALID_PARAMETER"),
        (BS_RT | AUTHENTICATED_WRITE_ACCESS, "EFI_UNSUPPORTED"),
        (HARDWARE_ERROR_RECORD | BS_RT, "EFI_INVALID_PARAMETER"),
        (HARDWARE_ERROR_RECORD | NV_BS_RT, "EFI_SUCCESS"),
        (NV_BS_RT_AT, "EFI_SUCCESS"),
    ],
)
def test_query_variable_info_refuses_what_set_variable_refuses(attributes: int, status: str) -> None:
    assert status_of(VariableStore().query_info, attributes) == status


def test_query_variable_info_at_run_time_is_about_runtime_variables() -> None:
    store = runtime_store()
    assert status_of(store.query_info, NV_BS) == "EFI_INVALID_PARAMETER"
    assert status_of(store.query_info, NV_BS_RT) == "EFI_SUCCESS"


def test_one_variable_too_large() -> None:
    store = VariableStore(limits=Limits(variable=200))
    largest = store.query_info(NV_BS)[2] - 2 * len("Name\0")
    store.set("Name", VENDOR, NV_BS, bytes(largest))
    assert status_of(store.set, "Name", VENDOR, NV_BS, bytes(largest + 1)) == "EFI_INVALID_PARAMETER"
    assert status_of(store.set, "Name", VENDOR, NV_BS | APPEND_WRITE, b"x") == "EFI_INVALID_PARAMETER"
    assert status_of(store.set, "N" * 100, VENDOR, NV_BS, b"x") == "EFI_INVALID_PARAMETER"
    assert store.get("Name", VENDOR) == (NV_BS, bytes(largest))


@pytest.mark.parametrize("attributes", [NV_BS, BOOTSERVICE_ACCESS])
def test_storage_runs_out_and_deleting_makes_room(attributes: int) -> None:
    limits = Limits(variable=1000, non_volatile=2000, volatile=2000)
    store = VariableStore(limits=limits)
    made = 0
    while status_of(store.set, f"{made}", VENDOR, attributes, bytes(300)) == "EFI_SUCCESS":
        made += 1
    free = store.query_info(attributes)[1]
    assert 2 <= made <= 5
    assert free < storage_size("0", 300)
    assert status_of(store.set, "0", VENDOR, attributes, bytes(300 + free + 4)) == "EFI_OUT_OF_RESOURCES"
    store.set("0", VENDOR, attributes, bytes(299))
    store.set("0", VENDOR, attributes, b"")
    store.set("new", VENDOR, attributes, bytes(290))


def test_a_variable_may_grow_into_what_is_left() -> None:
    store = VariableStore(limits=Limits(variable=1000, non_volatile=1000))
    store.set("A", VENDOR, NV_BS, bytes(600))
    store.set("A", VENDOR, NV_BS, bytes(900))
    assert store.query_info(NV_BS)[1] == 1000 - storage_size("A", 900)


def test_an_append_cannot_make_a_global_too_long() -> None:
    store = VariableStore()
    store.set("Timeout", GLOBAL, NV_BS_RT, b"\5\0")
    assert status_of(store.set, "Timeout", GLOBAL, NV_BS_RT | APPEND_WRITE, b"\5\0") == "EFI_INVALID_PARAMETER"
    store.set("BootOrder", GLOBAL, NV_BS_RT | APPEND_WRITE, b"\0\0")
    store.set("BootOrder", GLOBAL, NV_BS_RT | APPEND_WRITE, b"\1\0")
    assert store.get("BootOrder", GLOBAL) == (NV_BS_RT, b"\0\0\1\0")


@pytest.mark.parametrize(
    "name",
    [
        *("SecureBoot", "SetupMode", "VendorKeys", "SignatureSupport", "OsIndicationsSupported", "BootOptionSupport"),
        *("PlatformLangCodes", "LangCodes", "ConInDev", "ConOutDev", "ErrOutDev", "PKDefault", "KEKDefault"),
        *("dbDefault", "dbxDefault", "dbtDefault", "dbrDefault", "HwErrRecSupport", "PlatformRecovery0000"),
    ],
)
def test_read_only_globals(name: str) -> None:
    store = VariableStore()
    for attributes, data in ((BS_RT, b"\1"), (NV_BS_RT, b"\1"), (BS_RT, b""), (0, b"")):
        assert status_of(store.set, name, GLOBAL, attributes, data) == "EFI_WRITE_PROTECTED"


@pytest.mark.parametrize(
    ("name", "attributes", "data", "status"),
    [
        ("BootOrder", NV_BS_RT, b"\0\0\1\0", "EFI_SUCCESS"),
        ("BootOrder", NV_BS_RT, b"\0\0\1", "EFI_INVALID_PARAMETER"),
        ("BootOrder", BS_RT, b"\0\0", "EFI_INVALID_PARAMETER"),
        ("BootNext", NV_BS_RT, b"\0\0", "EFI_SUCCESS"),
        ("BootNext", NV_BS_RT, b"\0\0\0\0", "EFI_INVALID_PARAMETER"),
        ("Boot00AF", NV_BS_RT, bytes(20), "EFI_SUCCESS"),
        ("Boot00af", NV_BS_RT, bytes(20), "EFI_INVALID_PARAMETER"),
        ("Boot0", NV_BS_RT, bytes(20), "EFI_INVALID_PARAMETER"),
        ("Driver0000", NV_BS_RT, bytes(20), "EFI_SUCCESS"),
        ("Timeout", NV_BS_RT, b"\5\0", "EFI_SUCCESS"),
        ("Timeout", NV_BS_RT, b"\5", "EFI_INVALID_PARAMETER"),
        ("OsIndications", NV_BS_RT, bytes(8), "EFI_SUCCESS"),
        ("PlatformLang", NV_BS_RT, b"en\0", "EFI_SUCCESS"),
        ("PK", NV_BS_RT, b"key", "EFI_INVALID_PARAMETER"),
        ("Anything", NV_BS_RT, b"x", "EFI_INVALID_PARAMETER"),
        ("db", NV_BS_RT, b"x", "EFI_INVALID_PARAMETER"),
    ],
)
def test_globals_keep_to_the_specification(name: str, attributes: int, data: bytes, status: str) -> None:
    assert status_of(VariableStore().set, name, GLOBAL, attributes, data) == status


def test_the_guid_of_the_image_security_database_takes_only_its_databases() -> None:
    store = VariableStore()
    assert status_of(store.set, "mine", guids.IMAGE_SECURITY_DATABASE, NV_BS_RT, b"x") == "EFI_INVALID_PARAMETER"
    assert status_of(store.set, "db", guids.IMAGE_SECURITY_DATABASE, NV_BS_RT, b"x") == "EFI_INVALID_PARAMETER"


def test_a_change_is_persisted_once_and_only_if_it_is_nonvolatile() -> None:
    kept: list[list[Variable]] = []
    store = VariableStore([Variable("old", VENDOR, NV_BS, b"1")], persist=kept.append)
    store.set("volatile", VENDOR, BS_RT, b"1")
    store.put("firmware", VENDOR, NV_BS, b"1")
    store.get("old", VENDOR)
    assert kept == []
    store.set("new", VENDOR, NV_BS, b"1")
    store.set("new", VENDOR, NV_BS, b"1")
    store.set("old", VENDOR, NV_BS, b"")
    assert [[each.name for each in variables] for variables in kept] == [
        ["old", "firmware", "new"],
        ["firmware", "new"],
    ]


def test_a_change_that_cannot_be_kept_is_undone() -> None:
    def refuse(variables: list[Variable]) -> None:
        raise OSError(28, "No space left on device")

    store = VariableStore([Variable("old", VENDOR, NV_BS, b"1"), Variable("last", VENDOR, NV_BS, b"1")], persist=refuse)
    before = names(store)
    assert status_of(store.set, "old", VENDOR, NV_BS, b"") == "EFI_DEVICE_ERROR"
    assert status_of(store.set, "old", VENDOR, NV_BS, b"2") == "EFI_DEVICE_ERROR"
    assert status_of(store.set, "new", VENDOR, NV_BS, b"2") == "EFI_DEVICE_ERROR"
    assert status_of(store.set, "DeployedMode", GLOBAL, BS_RT, b"\1") == "EFI_WRITE_PROTECTED"
    assert status_of(store.set, "AuditMode", GLOBAL, BS_RT, b"\1") == "EFI_DEVICE_ERROR"
    assert names(store) == before
    assert store.get("old", VENDOR) == (NV_BS, b"1")
    assert store.get("AuditMode", GLOBAL) == (BS_RT, b"\0")
    assert store.mode == "setup"


def test_a_saved_store_loads_into_another() -> None:
    store = runtime_store()
    copy = VariableStore()
    copy.load(store.save())
    assert copy.save() == store.save()
    assert names(copy) == names(store)
    assert copy.at_runtime


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "\ud800", "\U0001f600"]),
        st.sampled_from([VENDOR, OTHER_VENDOR, GLOBAL]),
        st.one_of(st.sampled_from([0, BS_RT, NV_BS, NV_BS_RT, NV_BS_RT | APPEND_WRITE]), st.integers(0, 0x1FF)),
        st.binary(max_size=60),
    ),
    max_size=25,
)


@settings(deadline=None)
@given(OPERATIONS, st.booleans())
def test_any_sequence_of_writes_leaves_a_sound_store(
    operations: list[tuple[str, Guid, int, bytes]], runtime: bool
) -> None:
    kept: list[list[Variable]] = []
    limits = Limits(variable=200, non_volatile=400, volatile=1000)
    store = VariableStore(persist=kept.append, limits=limits)
    for index, (name, guid, attributes, data) in enumerate(operations):
        if runtime and index == 10:
            store.enter_runtime()
        before = store.save()
        if status_of(store.set, name, guid, attributes, data) != "EFI_SUCCESS":
            assert store.save() == before
        elif attributes & 7 and data and not attributes & APPEND_WRITE:
            assert store.get(name, guid) == (attributes, data)
    listed = names(store)
    assert len(set(listed)) == len(listed)
    for name, guid in listed:
        store.get(name, guid)
    for attributes, limit in ((NV_BS_RT, 400), (BS_RT, 1000)):
        stored = [
            each for each in map(Variable.load, store.save()["variables"]) if each.attributes & 1 == attributes & 1
        ]
        assert sum(each.size for each in stored) <= limit
        assert store.query_info(attributes)[1] == limit - sum(each.size for each in stored)
    if kept:
        now = [each for each in map(Variable.load, store.save()["variables"]) if each.non_volatile]
        assert kept[-1] == now
