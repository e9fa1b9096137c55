"""The global variables at power on."""

import pytest

from uefi import guids
from uefi.status import EfiError
from uefi.variables.attributes import BS_RT, NV_BS_RT
from uefi.variables.standard_globals import load_option, standard_globals
from uefi.variables.store import VariableStore

GLOBAL = guids.GLOBAL_VARIABLE
END = bytes.fromhex("7fff0400")
UART = bytes.fromhex("0102060000000000") + END
OPTION = load_option("App", END)


def boot(store: VariableStore, option: bytes | None = OPTION) -> int | None:
    return standard_globals(store, console_in=UART, console_out=UART + b"2", error_out=UART + b"3", boot_option=option)


def test_a_load_option_is_laid_out_as_specified() -> None:
    assert load_option("Ab", END, b"opt", 9) == bytes.fromhex("09000000 0400 4100 6200 0000 7fff0400") + b"opt"
    with pytest.raises(OverflowError):
        load_option("Ab", bytes(0x10000))


@pytest.mark.parametrize(
    ("name", "attributes", "data"),
    [
        ("ConIn", NV_BS_RT, UART),
        ("ConOut", NV_BS_RT, UART + b"2"),
        ("ErrOut", NV_BS_RT, UART + b"3"),
        ("ConInDev", BS_RT, UART),
        ("Lang", NV_BS_RT, b"eng\0"),
        ("LangCodes", BS_RT, b"eng\0"),
        ("PlatformLang", NV_BS_RT, b"en\0"),
        ("PlatformLangCodes", BS_RT, b"en\0"),
        ("Timeout", NV_BS_RT, b"\0\0"),
        ("BootOptionSupport", BS_RT, bytes(4)),
        ("OsIndicationsSupported", BS_RT, bytes(8)),
        ("HwErrRecSupport", NV_BS_RT, b"\1\0"),
        ("Boot0000", NV_BS_RT, OPTION),
        ("BootOrder", NV_BS_RT, b"\0\0"),
        ("BootCurrent", BS_RT, b"\0\0"),
        ("SetupMode", BS_RT, b"\1"),
        ("SecureBoot", BS_RT, b"\0"),
    ],
)
def test_they_are_there(name: str, attributes: int, data: bytes) -> None:
    store = VariableStore()
    assert boot(store) == 0
    assert store.get(name, GLOBAL) == (attributes, data)


def test_signature_support_lists_types_of_signatures() -> None:
    store = VariableStore()
    boot(store)
    attributes, data = store.get("SignatureSupport", GLOBAL)
    kinds = {data[at : at + 16] for at in range(0, len(data), 16)}
    assert attributes == BS_RT
    assert {bytes(guids.CERT_X509), bytes(guids.CERT_SHA256), bytes(guids.CERT_X509_SHA256)} <= kinds


def test_what_the_user_chose_stays() -> None:
    store = VariableStore()
    boot(store)
    store.set("Timeout", GLOBAL, NV_BS_RT, b"\7\0")
    store.set("ConOut", GLOBAL, NV_BS_RT, UART)
    store.reset()
    with pytest.raises(EfiError):
        store.get("LangCodes", GLOBAL)
    boot(store)
    assert store.value("Timeout", GLOBAL) == b"\7\0"
    assert store.value("ConOut", GLOBAL) == UART
    assert store.value("LangCodes", GLOBAL) == b"eng\0"


def test_boot_options_are_found_again_or_added_at_the_end() -> None:
    store = VariableStore()
    assert boot(store) == 0
    assert boot(store) == 0
    assert boot(store, load_option("Other", END)) == 1
    assert store.value("BootOrder", GLOBAL) == b"\0\0\1\0"
    store.set("Boot0000", GLOBAL, NV_BS_RT, b"")
    assert boot(store, load_option("Other", END)) == 1
    assert boot(store, load_option("Third", END)) == 0
    assert store.value("BootCurrent", GLOBAL) == b"\0\0"


def test_without_a_boot_option_there_is_no_current_one() -> None:
    store = VariableStore()
    assert boot(store, None) is None
    assert store.value("BootCurrent", GLOBAL) is None
    assert store.value("BootOrder", GLOBAL) is None


def test_every_one_passes_the_checks_for_guests_or_is_read_only() -> None:
    store = VariableStore()
    boot(store)
    name, guid = store.next_name("", GLOBAL)
    read_only = 0
    while True:
        attributes, data = store.get(name, guid)
        try:
            store.set(name, guid, attributes, data)
        except EfiError as error:
            assert "read-only" in error.reason
            read_only += 1
        try:
            name, guid = store.next_name(name, guid)
        except EfiError:
            break
    assert read_only > 8
