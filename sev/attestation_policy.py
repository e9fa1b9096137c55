"""What a verifier asks of a genuine report: values it must have, minimums, and what may be left unasked.

The fields are those of AMD 56860, table "ATTESTATION_REPORT Structure". sev.appraisal makes a policy's checks.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from sev.errors import SevError
from sev.tcb import KDS_NAMES

DEBUG, MIGRATION, VMPL, RESERVED = "debug", "migration", "vmpl", "reserved"
ALL = (DEBUG, MIGRATION, VMPL, RESERVED)
CRL_REQUIRED, CRL_IF_PRESENT, CRL_OFF = "required", "if-present", "off"
CRL_CHOICES = (CRL_REQUIRED, CRL_IF_PRESENT, CRL_OFF)
ANY = "any"
HIGHEST_VMPL = 3
MOST_VALUES = 10_000
# Fields of bytes that may be asked for, and their sizes in bytes.
SETS = {"measurement": 48, "id_key_digest": 48, "author_key_digest": 48}
VALUES = {"report_data": 64, "host_data": 32, "family_id": 16, "image_id": 16}
_HEX = re.compile(r"[0-9a-fA-F]*\Z")
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
    (boot_loader, tee, snp, microcode, fmc) to least levels; `min_firmware` is (major, minor) or (major, minor, build).
    """

    __slots__ = ("allow", "crl", "min_firmware", "min_guest_svn", "min_tcb", "vmpl", *SETS, *VALUES)

    measurement: frozenset[bytes]
    id_key_digest: frozenset[bytes]
    author_key_digest: frozenset[bytes]
    report_data: bytes | None
    host_data: bytes | None
    family_id: bytes | None
    image_id: bytes | None

    def __init__(self, allow: frozenset[str] = frozenset()) -> None:
        self.allow = allow
        self.vmpl: int | None = None if VMPL in allow else 0
        self.crl = CRL_IF_PRESENT
        self.min_guest_svn: int | None = None
        self.min_tcb: dict[str, int] = {}
        self.min_firmware: tuple[int, ...] | None = None
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
            if key != "allow":
                setattr(policy, key, KEYS[key](key, value))
        return policy


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


def _value(key: str, value: Any) -> bytes:
    return _digits(key, value, VALUES[key])


def _set(key: str, value: Any) -> frozenset[bytes]:
    values = value if isinstance(value, list) else [value]
    if not values:
        raise BadPolicy(key, "an empty list lets nothing pass; leave the key out to ask for nothing")
    if len(values) > MOST_VALUES:
        raise BadPolicy(key, f"{len(values)} values; at most {MOST_VALUES}")
    return frozenset(_digits(key, each, SETS[key]) for each in values)


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


def _crl(key: str, value: Any) -> str:
    for choice in CRL_CHOICES:
        if value == choice:
            return choice
    raise BadPolicy(key, f"{_shown(value)}; wanted {', '.join(CRL_CHOICES)}")


# What a policy can ask for, in the order of a policy file.
KEYS: dict[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(SETS, _set),
    **dict.fromkeys(VALUES, _value),
    "min_guest_svn": _svn,
    "min_tcb": _tcb,
    "min_firmware": _firmware,
    "vmpl": _vmpl,
    "crl": _crl,
    "allow": _allowed,
}
