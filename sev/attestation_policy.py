"""What a verifier asks of a genuine report: values it must have, minimums, and what may be left unasked.

The fields are those of AMD 56860, table "ATTESTATION_REPORT Structure". sev.appraisal makes a policy's checks.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from sev.bits import Bits
from sev.errors import SevError
from sev.platform_info import PlatformInfo
from sev.policy import GuestPolicy
from sev.tcb import KDS_NAMES

DEBUG, MIGRATION, VMPL, RESERVED = "debug", "migration", "vmpl", "reserved"
ALL = (DEBUG, MIGRATION, VMPL, RESERVED)
CRL_REQUIRED, CRL_IF_PRESENT, CRL_OFF = "required", "if-present", "off"
CRL_CHOICES = (CRL_REQUIRED, CRL_IF_PRESENT, CRL_OFF)
ANY = "any"
REQUIRE, FORBID = "require", "forbid"
BIT_RULES = (REQUIRE, FORBID, ANY)
# What a TCB of the report is held against: nothing, or CURRENT_TCB, of which it may be older, or not.
AT_MOST_CURRENT, CURRENT = "at-most-current", "current"
TCB_RULES = (AT_MOST_CURRENT, CURRENT, ANY)
TCB_NAMES = ("committed", "reported", "launch")
# The firmware keeps COMMITTED and REPORTED at or below CURRENT; a guest that moved may have been launched under a newer one.
DEFAULT_TCB_RULES = {"committed": AT_MOST_CURRENT, "reported": AT_MOST_CURRENT, "launch": ANY}
HIGHEST_VMPL = 3
MOST_VALUES = 10_000
# Fields of bytes that may be asked for, and their sizes in bytes.
SETS = {"measurement": 48, "id_key_digest": 48, "author_key_digest": 48, "chip_id": 64}
BITS: dict[str, type[Bits]] = {"guest_policy": GuestPolicy, "platform_info": PlatformInfo}
MITIGATIONS = ("launch_mitigations", "current_mitigations")
# Bits that the default policy looks at: what to write in `allow` to leave them unasked.
_DEFAULT_BITS = {"DEBUG": DEBUG, "MIGRATE_MA": MIGRATION}
VALUES = {"report_data": 64, "host_data": 32, "family_id": 16, "image_id": 16}
_HEX = re.compile(r"[0-9a-fA-F]*\Z")
_BIT = re.compile(r"bit([0-9]{1,2})\Z")
_MASK = re.compile(r"0x[0-9a-fA-F]{1,16}\Z")
_CRL = re.compile(r"(required|if-present|off)?(?:(?:\A|,)stale-ok:([0-9]{1,5}))?\Z")
_CSP_ID = re.compile(r"[\x20-\x7e]{1,127}\Z")
_FIRMWARE = re.compile(r"([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?\Z")
_SPL_NAMES = {name.lower(): short for short, name in KDS_NAMES.items()} | {short: short for short in KDS_NAMES}


class BadPolicy(SevError):
    """A policy that cannot be. `key` is the key at fault, dotted if it lies in a table; `problem` says what is wrong."""

    def __init__(self, key: str, problem: str) -> None:
        self.key = key if key.isprintable() and len(key) <= 80 else _shown(key)
        super().__init__(f"{self.key}: {problem}")
        self.problem = problem


class Policy:
    """A policy. An empty set, an empty dict and None ask for nothing; the defaults are the default policy.

    `allow` names those in ALL that are not asked for; `vmpl` is the one wanted, None for any; `min_tcb` maps names of SPLs
    (boot_loader, tee, snp, microcode, fmc) to least levels; `min_firmware` is (major, minor) or (major, minor, build), and so is
    `min_committed_firmware`. `guest_policy` and `platform_info` map names of bits ("bit9" for one without a name) to REQUIRE,
    FORBID or ANY; `tcb_relations` maps TCB_NAMES to TCB_RULES; `launch_mitigations` and `current_mitigations` are the bits of the
    vectors that must be set; `csp_id` are the cloud providers that a VLEK may name; `stale_days` is how old a CRL may be beyond
    its next update.
    """

    __slots__ = (
        *("allow", "crl", "csp_id", "min_committed_firmware", "min_firmware", "min_guest_svn", "min_tcb", "stale_days"),
        *("tcb_relations", "vmpl", *BITS, *MITIGATIONS, *SETS, *VALUES),
    )

    measurement: frozenset[bytes]
    id_key_digest: frozenset[bytes]
    author_key_digest: frozenset[bytes]
    chip_id: frozenset[bytes]
    guest_policy: dict[str, str]
    platform_info: dict[str, str]
    launch_mitigations: int | None
    current_mitigations: int | None
    report_data: bytes | None
    host_data: bytes | None
    family_id: bytes | None
    image_id: bytes | None

    def __init__(self, allow: frozenset[str] = frozenset()) -> None:
        self.allow = allow
        self.vmpl: int | None = None if VMPL in allow else 0
        self.crl = CRL_IF_PRESENT
        self.stale_days = 0
        self.csp_id: frozenset[str] = frozenset()
        self.tcb_relations = dict(DEFAULT_TCB_RULES)
        self.min_guest_svn: int | None = None
        self.min_tcb: dict[str, int] = {}
        self.min_firmware: tuple[int, ...] | None = None
        self.min_committed_firmware: tuple[int, ...] | None = None
        for name in BITS:
            setattr(self, name, {})
        for name in MITIGATIONS:
            setattr(self, name, None)
        for name in SETS:
            setattr(self, name, frozenset())
        for name in VALUES:
            setattr(self, name, None)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Policy":
        """A policy from plain data, as a policy file or a command line has it: hex text, numbers, names. BadPolicy."""
        for key in values:
            if key not in KEYS:
                raise BadPolicy(str(key), f"no such key; wanted one of {', '.join(KEYS)}")
        policy = cls(_allowed("allow", values.get("allow", [])))
        if "vmpl" in values and VMPL in policy.allow:
            raise BadPolicy("vmpl", f"asked for, and allow has {VMPL}: give one of them")
        for key, value in values.items():
            if key == "crl":
                policy.crl, policy.stale_days = _crl(key, value)
            elif key != "allow":
                setattr(policy, key, KEYS[key](key, value))
        for bit, what in _DEFAULT_BITS.items():
            if bit in policy.guest_policy and what in policy.allow:
                raise BadPolicy(f"guest_policy.{bit}", f"asked for, and allow has {what}: give one of them")
        return policy

    def bit_rule(self, field: str, bit: str) -> str:
        """What is asked of a bit with a name: REQUIRE, FORBID or ANY; DEBUG and MIGRATE_MA are forbidden by default."""
        rules: dict[str, str] = getattr(self, field)
        default = _DEFAULT_BITS.get(bit) if field == "guest_policy" else None
        return rules.get(bit, FORBID if default and default not in self.allow else ANY)


def _shown(value: object) -> str:
    """A value as short text. What may be long, deep or a number of thousands of digits is not written out."""
    if isinstance(value, str):
        return ascii(value) if len(value) <= 40 else f"{value[:37]!a}..."
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a number of more than 64 bits"
    return f"a {type(value).__name__}"


def _allowed(key: str, value: Any) -> frozenset[str]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in ALL:
            raise BadPolicy(key, f"{_shown(name)}; wanted {', '.join(ALL)}")
    return frozenset(names)


def _digits(key: str, value: Any, size: int) -> bytes:
    if not isinstance(value, str) or not _HEX.match(value):
        raise BadPolicy(key, f"{_shown(value)}; wanted {2 * size} hex digits")
    if len(value) != 2 * size:
        raise BadPolicy(key, f"{len(value)} hex digits; wanted {2 * size}")
    return bytes.fromhex(value)


def _member(key: str, value: Any) -> bytes:
    """One value of a set. A CHIP_ID of Turin is 8 bytes and zeros; the 8 will do."""
    if key == "chip_id" and isinstance(value, str) and len(value) == 16:
        return _digits(key, value, 8).ljust(SETS[key], b"\0")
    return _digits(key, value, SETS[key])


def _value(key: str, value: Any) -> bytes:
    return _digits(key, value, VALUES[key])


def _set(key: str, value: Any) -> frozenset[bytes]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise BadPolicy(key, "an empty list lets nothing pass; leave the key out to ask for nothing")
    if len(values) > MOST_VALUES:
        raise BadPolicy(key, f"{len(values)} values; at most {MOST_VALUES}")
    return frozenset(_member(key, each) for each in values)


def _number(key: str, value: Any, largest: int) -> int:
    # In Python, and so in what a TOML parser gives, true is an int.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise BadPolicy(key, f"{_shown(value)}; wanted 0 to {largest}")
    return value


def _svn(key: str, value: Any) -> int:
    return _number(key, value, 0xFFFFFFFF)


def _vmpl(key: str, value: Any) -> int | None:
    if value == ANY:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= HIGHEST_VMPL:
        raise BadPolicy(key, f"{_shown(value)}; wanted 0 to {HIGHEST_VMPL}, or {ANY}")
    return value


def _tcb(key: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict):
        raise BadPolicy(key, f"{_shown(value)}; wanted SPLs by name: {', '.join(KDS_NAMES.values())}")
    levels: dict[str, int] = {}
    for name, level in value.items():
        short = _SPL_NAMES.get(str(name).lower())
        if short is None:
            raise BadPolicy(f"{key}.{name}", f"no such SPL; wanted one of {', '.join(KDS_NAMES.values())}")
        if short in levels:
            raise BadPolicy(f"{key}.{name}", "the same SPL is named twice")
        levels[short] = _number(f"{key}.{name}", level, 255)
    return levels


def _firmware(key: str, value: Any) -> tuple[int, ...]:
    found = _FIRMWARE.match(value) if isinstance(value, str) else None
    numbers = tuple(int(part) for part in found.groups() if part is not None) if found else ()
    if not numbers or max(numbers) > 255:
        raise BadPolicy(key, f"{_shown(value)}; wanted MAJOR.MINOR or MAJOR.MINOR.BUILD, each at most 255, as text")
    return numbers


def _crl(key: str, value: Any) -> tuple[str, int]:
    """When a CRL is looked at, and how many days beyond its next update it may be."""
    found = _CRL.match(value) if isinstance(value, str) and value else None
    if not found or (found[2] and found[1] == CRL_OFF):
        wanted = f"{', '.join(CRL_CHOICES)}, or one of the first two with stale-ok, such as required,stale-ok:30"
        raise BadPolicy(key, f"{_shown(value)}; wanted {wanted}")
    return found[1] or CRL_IF_PRESENT, int(found[2] or 0)


def _bits(key: str, value: Any) -> dict[str, str]:
    known = [name for name in BITS[key].NAMES.values() if name != "RESERVED_ONE"]
    if not isinstance(value, dict):
        raise BadPolicy(key, f"{_shown(value)}; wanted bits by name: {', '.join(known)}")
    rules: dict[str, str] = {}
    for name, rule in value.items():
        unnamed = _BIT.match(str(name))
        if unnamed:
            number = int(unnamed[1])
            if number > 63 or number in BITS[key].NAMES or BITS[key].NOT_FLAGS >> number & 1:
                why = f"it has a name: {BITS[key].NAMES[number]}" if number in BITS[key].NAMES else "no such bit"
                raise BadPolicy(f"{key}.{name}", why)
        elif name not in known:
            raise BadPolicy(
                f"{key}.{name}", f"no such bit; wanted one of {', '.join(known)}, or bit0 to bit63 without a name"
            )
        rules[name] = _rule(f"{key}.{name}", rule, BIT_RULES)
    return rules


def _rule(key: str, value: Any, rules: tuple[str, ...]) -> str:
    for rule in rules:
        if value == rule:
            return rule
    raise BadPolicy(key, f"{_shown(value)}; wanted {', '.join(rules)}")


def _relations(key: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise BadPolicy(key, f"{_shown(value)}; wanted {', '.join(TCB_NAMES)} with one of {', '.join(TCB_RULES)} each")
    for name in value:
        if name not in TCB_NAMES:
            raise BadPolicy(f"{key}.{name}", f"no such TCB; wanted one of {', '.join(TCB_NAMES)}")
    return DEFAULT_TCB_RULES | {name: _rule(f"{key}.{name}", rule, TCB_RULES) for name, rule in value.items()}


def _mask(key: str, value: Any) -> int:
    if isinstance(value, str) and _MASK.match(value):
        return int(value, 16)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise BadPolicy(key, f"{_shown(value)}; wanted bits as hex text such as 0x3")
    return value


def _csp_ids(key: str, value: Any) -> frozenset[str]:
    values = value if isinstance(value, list) else [value]
    if not values or len(values) > MOST_VALUES:
        raise BadPolicy(key, f"{len(values)} values; wanted 1 to {MOST_VALUES}")
    for each in values:
        if not isinstance(each, str) or not _CSP_ID.match(each):
            raise BadPolicy(key, f"{_shown(each)}; wanted text such as CN=cc-us-east-2.amazonaws.com")
    return frozenset(values)


# What a policy can ask for, in the order of a policy file.
KEYS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(SETS, _set),
    **dict.fromkeys(VALUES, _value),
    "min_guest_svn": _svn,
    "min_tcb": _tcb,
    "min_firmware": _firmware,
    "min_committed_firmware": _firmware,
    "tcb_relations": _relations,
    "launch_mitigations": _mask,
    "current_mitigations": _mask,
    "guest_policy": _bits,
    "platform_info": _bits,
    "csp_id": _csp_ids,
    "vmpl": _vmpl,
    "crl": _crl,
    "allow": _allowed,
}
