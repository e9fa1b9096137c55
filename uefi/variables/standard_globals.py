"""The global variables that a program finds when the firmware starts it (UEFI 2.10, 3.3)."""

from uefi import guids
from uefi.security.signature_lists import DATA_SIZES
from uefi.variables import attributes as attr
from uefi.variables.store import VariableStore

LOAD_OPTION_ACTIVE = 0x00000001

MAX_BOOT_OPTIONS = 0x10000

_UNSUPPORTED_SIGNATURES = (guids.CERT_EXTERNAL_MANAGEMENT,)


def load_option(
    description: str, device_path: bytes, optional_data: bytes = b"", attributes: int = LOAD_OPTION_ACTIVE
) -> bytes:
    """An EFI_LOAD_OPTION, the value of Boot####, Driver#### and SysPrep#### (UEFI 2.10, 3.1.3).

    `device_path` is one or more packed paths with their end nodes, up to 65535 bytes (OverflowError beyond);
    `optional_data` is the image's load options.
    """
    text = description.encode("utf-16-le", "surrogatepass") + b"\0\0"
    return (
        attributes.to_bytes(4, "little") + len(device_path).to_bytes(2, "little") + text + device_path + optional_data
    )


def standard_globals(
    store: VariableStore,
    *,
    console_in: bytes,
    console_out: bytes,
    error_out: bytes,
    boot_option: bytes | None = None,
    os_indications_supported: int = 0,
    boot_option_support: int = 0,
) -> int | None:
    """Put the standard global variables into `store`, at power on and after each reset; BootCurrent's number or None.

    `console_in`, `console_out` and `error_out` are packed device paths (several consoles: several instances).
    `boot_option` is the EFI_LOAD_OPTION of the image that starts (see `load_option`): the Boot#### with that value is
    BootCurrent; without one a new Boot#### is made, the last in BootOrder. What a user may change (NV: Timeout,
    languages, ConIn, ConOut, ErrOut, BootOrder) is left as it is if it is there. No file is written by this.
    """
    defaults = {
        "ConIn": console_in,
        "ConOut": console_out,
        "ErrOut": error_out,
        "Lang": b"eng\0",
        "PlatformLang": b"en\0",
        "Timeout": (0).to_bytes(2, "little"),
    }
    for name, data in defaults.items():
        if store.value(name, guids.GLOBAL_VARIABLE) is None:
            store.put(name, guids.GLOBAL_VARIABLE, attr.NV_BS_RT, data)
    fixed = {
        "BootOptionSupport": boot_option_support.to_bytes(4, "little"),
        "ConInDev": console_in,
        "ConOutDev": console_out,
        "ErrOutDev": error_out,
        "LangCodes": b"eng\0",
        "OsIndicationsSupported": os_indications_supported.to_bytes(8, "little"),
        "PlatformLangCodes": b"en\0",
        "SignatureSupport": b"".join(kind for kind in DATA_SIZES if kind not in _UNSUPPORTED_SIGNATURES),
    }
    for name, data in fixed.items():
        store.put(name, guids.GLOBAL_VARIABLE, attr.BS_RT, data)
    # Level 1: error records are kept (UEFI 2.10, appendix P).
    store.put("HwErrRecSupport", guids.GLOBAL_VARIABLE, attr.NV_BS_RT, (1).to_bytes(2, "little"))
    if boot_option is None:
        return None
    number = _boot_number(store, boot_option)
    if number is not None:
        store.put("BootCurrent", guids.GLOBAL_VARIABLE, attr.BS_RT, number.to_bytes(2, "little"))
    return number


def _boot_number(store: VariableStore, boot_option: bytes) -> int | None:
    """The number of the Boot#### in BootOrder with this value, made if there is none; None if all numbers are taken."""
    order = store.value("BootOrder", guids.GLOBAL_VARIABLE) or b""
    for at in range(0, len(order) - 1, 2):
        number = int.from_bytes(order[at : at + 2], "little")
        if store.value(_boot_name(number), guids.GLOBAL_VARIABLE) == boot_option:
            return number
    for number in range(MAX_BOOT_OPTIONS):
        if store.value(_boot_name(number), guids.GLOBAL_VARIABLE) is None:
            store.put(_boot_name(number), guids.GLOBAL_VARIABLE, attr.NV_BS_RT, boot_option)
            store.put("BootOrder", guids.GLOBAL_VARIABLE, attr.NV_BS_RT, order + number.to_bytes(2, "little"))
            return number
    return None


def _boot_name(number: int) -> str:
    return f"Boot{number:04X}"
