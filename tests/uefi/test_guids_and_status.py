"""Guid, its table of names, and the EFI_STATUS codes."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from uefi import guids
from uefi.guids import Guid, guid_name
from uefi.status import EfiError, Status, is_error, status_name


@settings(deadline=None)
@given(st.uuids())
def test_text_and_bytes_are_those_of_a_uuid(value: uuid.UUID) -> None:
    guid = Guid.parse(str(value))
    assert guid == value.bytes_le
    assert hash(guid) == hash(value.bytes_le)
    assert str(guid) == str(value)
    assert Guid.parse(str(value).upper()) == guid
    assert Guid(value.bytes_le) == guid
    assert eval(repr(guid)) == guid


@settings(deadline=None)
@given(st.text(max_size=40))
def test_other_text_is_refused(text: str) -> None:
    try:
        assert str(Guid.parse(text)) == text.lower()
    except ValueError as error:
        assert "8-4-4-4-12" in str(error)


@pytest.mark.parametrize(
    "text", ["", "0-0-0-0-0", "5b1b31a1-9562-11d2-8e3f-00a0c969723", "zb1b31a1-9562-11d2-8e3f-00a0c969723b"]
)
def test_malformed_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="8-4-4-4-12"):
        Guid.parse(text)


@settings(deadline=None)
@given(st.binary(max_size=40).filter(lambda raw: len(raw) != 16))
def test_other_lengths_are_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Guid(raw)


def test_names() -> None:
    assert guid_name(guids.LOADED_IMAGE_PROTOCOL) == "EFI_LOADED_IMAGE_PROTOCOL_GUID"
    assert guid_name(bytes(guids.SMBIOS3_TABLE)) == "SMBIOS3_TABLE_GUID"
    assert guid_name(guids.ACPI_TABLE) == "ACPI_TABLE_GUID"
    assert guid_name(guids.ACPI_TABLE_PROTOCOL) == "EFI_ACPI_TABLE_PROTOCOL_GUID"
    assert guid_name(bytes(15) + b"\1") == "00000000-0000-0000-0000-000000000001"


def test_no_guid_is_in_the_table_twice_by_mistake() -> None:
    aliases = {
        "DEBUGPORT_PROTOCOL": "DEBUG_PORT_DEVICE_PATH",
        "IMAGE_SECURITY_DATABASE": "IMAGE_EXECUTION_INFO_TABLE",
    }
    seen: dict[bytes, str] = {}
    for name, value in vars(guids).items():
        if isinstance(value, Guid):
            first = seen.setdefault(value, name)
            assert first == name or name in (aliases.get(first), first), f"{name} is {first}"


def test_status_codes() -> None:
    assert Status.INVALID_PARAMETER == 0x8000000000000002
    assert Status.SECURITY_VIOLATION == 0x800000000000001A
    assert Status.HTTP_ERROR == 0x8000000000000023
    assert status_name(Status.SUCCESS) == "EFI_SUCCESS"
    assert status_name(Status.BUFFER_TOO_SMALL) == "EFI_BUFFER_TOO_SMALL"
    assert status_name(Status.WARN_BUFFER_TOO_SMALL) == "EFI_WARN_BUFFER_TOO_SMALL"
    assert status_name(0x8000000000000063) == "EFI_STATUS(0x8000000000000063)"
    assert is_error(Status.NOT_FOUND)
    assert not is_error(Status.WARN_STALE_DATA)
    codes = [value for name, value in vars(Status).items() if name.isupper()]
    assert len(set(codes)) == len(codes)


def test_an_error_carries_its_status() -> None:
    error = EfiError(Status.TIMEOUT, "the device is slow")
    assert error.status == Status.TIMEOUT
    assert str(error) == "EFI_TIMEOUT: the device is slow"
    assert str(EfiError(Status.TIMEOUT)) == "EFI_TIMEOUT"
