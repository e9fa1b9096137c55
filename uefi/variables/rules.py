"""Variables that the specification defines: attributes, size and who may write them (UEFI 2.10, 3.3 and 32.6)."""

from uefi import guids
from uefi.guids import Guid
from uefi.status import EfiError, Status
from uefi.variables import attributes as attr

POLICY_KEYS = (
    ("PK", guids.GLOBAL_VARIABLE),
    ("KEK", guids.GLOBAL_VARIABLE),
    ("db", guids.IMAGE_SECURITY_DATABASE),
    ("dbx", guids.IMAGE_SECURITY_DATABASE),
    ("dbt", guids.IMAGE_SECURITY_DATABASE),
    ("dbr", guids.IMAGE_SECURITY_DATABASE),
)
"""The variables whose value is signature lists and that Secure Boot rests on (UEFI 2.10, 8.2, step 3)."""

_ANY = 1 << 32


class Rule:
    """What a variable must be like: exact attributes, data of `smallest` to `largest` bytes, perhaps read-only."""

    __slots__ = ("attributes", "largest", "multiple", "read_only", "smallest")

    def __init__(
        self, attributes: int, smallest: int = 1, largest: int = _ANY, *, multiple: int = 1, read_only: bool = False
    ) -> None:
        self.attributes = attributes
        self.smallest = smallest
        self.largest = largest
        self.multiple = multiple
        self.read_only = read_only


def _read_only(smallest: int = 1, largest: int = _ANY) -> Rule:
    return Rule(attr.BS_RT, smallest, largest, read_only=True)


_ORDER = Rule(attr.NV_BS_RT, 2, multiple=2)
_DEVICE_PATH = Rule(attr.NV_BS_RT, 4)
_KEYS = Rule(attr.NV_BS_RT_AT, 0)

_GLOBAL: dict[str, Rule] = {
    "AuditMode": Rule(attr.BS_RT, 1, 1),
    "BootCurrent": Rule(attr.BS_RT, 2, 2),
    "BootNext": Rule(attr.NV_BS_RT, 2, 2),
    "BootOptionSupport": _read_only(4, 4),
    "BootOrder": _ORDER,
    "ConIn": _DEVICE_PATH,
    "ConInDev": _read_only(),
    "ConOut": _DEVICE_PATH,
    "ConOutDev": _read_only(),
    "CryptoIndications": Rule(attr.NV_BS_RT, 8, 8),
    "CryptoIndicationsActivated": _read_only(8, 8),
    "CryptoIndicationsSupported": _read_only(8, 8),
    "DeployedMode": Rule(attr.BS_RT, 1, 1),
    "DriverOrder": _ORDER,
    "ErrOut": _DEVICE_PATH,
    "ErrOutDev": _read_only(),
    "HwErrRecSupport": Rule(attr.NV_BS_RT, 2, 2, read_only=True),
    "KEK": _KEYS,
    "KEKDefault": _read_only(),
    "Lang": Rule(attr.NV_BS_RT),
    "LangCodes": _read_only(),
    "OsIndications": Rule(attr.NV_BS_RT, 8, 8),
    "OsIndicationsSupported": _read_only(8, 8),
    "OsRecoveryOrder": Rule(attr.NV_BS_RT_AT, 0, multiple=16),
    "PK": _KEYS,
    "PKDefault": _read_only(),
    "PlatformLang": Rule(attr.NV_BS_RT),
    "PlatformLangCodes": _read_only(),
    "SecureBoot": _read_only(1, 1),
    "SetupMode": _read_only(1, 1),
    "SignatureSupport": _read_only(),
    "SysPrepOrder": _ORDER,
    "Timeout": Rule(attr.NV_BS_RT, 2, 2),
    "VendorKeys": _read_only(1, 1),
    "dbDefault": _read_only(),
    "dbrDefault": _read_only(),
    "dbtDefault": _read_only(),
    "dbxDefault": _read_only(),
    "devAuthBoot": _read_only(1, 1),
    "devdbDefault": _read_only(),
}

_NUMBERED: dict[str, Rule] = {
    "Boot": Rule(attr.NV_BS_RT, 6),
    "Driver": Rule(attr.NV_BS_RT, 6),
    "Key": Rule(attr.NV_BS_RT, 10),
    "PlatformRecovery": _read_only(),
    "SysPrep": Rule(attr.NV_BS_RT, 6),
}
"""Names that end in four upper-case hex digits."""

_HARDWARE_ERROR = Rule(attr.NV_BS_RT | attr.HARDWARE_ERROR_RECORD)


def rule_for(name: str, guid: Guid) -> Rule | None:
    """The rule of a variable, None if anybody may use this vendor GUID as he likes.

    EfiError(INVALID_PARAMETER) for a name that the specification does not define under a vendor GUID of its own: such
    variables must not be created (UEFI 2.10, 3.3).
    """
    if guid == guids.GLOBAL_VARIABLE:
        rule = _GLOBAL.get(name) or _NUMBERED.get(_stem(name))
    elif guid == guids.IMAGE_SECURITY_DATABASE:
        rule = _KEYS if (name, guid) in POLICY_KEYS else None
    elif guid == guids.HARDWARE_ERROR_VARIABLE:
        rule = _HARDWARE_ERROR if _stem(name) == "HwErrRec" else None
    else:
        return None
    if rule is None:
        raise EfiError(Status.INVALID_PARAMETER, f"UEFI defines no variable {name!r} under its GUID {guid}")
    return rule


def check(name: str, guid: Guid, attributes: int, size: int) -> None:
    """Check a SetVariable by a guest of `size` data bytes (after the authentication descriptor) against the rule.

    EfiError: WRITE_PROTECTED for a read-only variable, INVALID_PARAMETER for other attributes or an impossible size.
    Deletions (no access attributes, or no data and no append) only have to be permitted at all.
    """
    rule = rule_for(name, guid)
    if rule is None:
        if attributes & attr.HARDWARE_ERROR_RECORD:
            raise EfiError(Status.INVALID_PARAMETER, f"hardware error record under the GUID {guid}")
        return
    if rule.read_only:
        raise EfiError(Status.WRITE_PROTECTED, f"{name} is read-only")
    if not attributes & attr.ACCESS or (size == 0 and not attributes & attr.APPEND_WRITE):
        return
    if attributes & ~attr.APPEND_WRITE != rule.attributes:
        raise EfiError(
            Status.INVALID_PARAMETER, f"{name} with {attr.text(attributes)}, wanted {attr.text(rule.attributes)}"
        )
    if not rule.smallest <= size <= rule.largest or size % rule.multiple:
        raise EfiError(Status.INVALID_PARAMETER, f"{name} of {size} bytes")


def is_os_recovery(name: str, guid: Guid) -> bool:
    """OsRecoveryOrder, or OsRecovery#### under any vendor's GUID (UEFI 2.10, 3.3)."""
    return (name == "OsRecoveryOrder" and guid == guids.GLOBAL_VARIABLE) or _stem(name) == "OsRecovery"


def _stem(name: str) -> str:
    """ "Boot" for "Boot00A1"; "" without four upper-case hex digits at the end."""
    digits = name[-4:]
    return name[:-4] if len(digits) == 4 and all(digit in "0123456789ABCDEF" for digit in digits) else ""
