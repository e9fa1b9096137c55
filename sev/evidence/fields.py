"""Puts a report together from its decoded fields, as JSON of several tools has them: arrays, hex or base64, numbers, names.

Known are the names of virtee/sev (so Trustee and Confidential Containers), of go-sev-guest, of Azure's confidential sidecars, and
of `cvmboot attest show --json`. Reserved bytes that a tool leaves out are taken for zeros: the signature tells.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from sev.errors import MalformedReport
from sev.report import FIELDS, SIGNED_SIZE, SIZE

_HEX = re.compile(r"(?:0x)?([0-9a-fA-F]*)\Z")
_NUMBER = re.compile(r"[0-9]{1,20}\Z")
_ALIASES = {
    "signature_algo": ("sig_algo",),
    "platform_info": ("plat_info",),
    "key_info": ("signer_info", "_author_key_en", "author_key_en"),
    "current_tcb": ("platform_version",),
    "committed_tcb": ("committed_svn",),
    "launch_tcb": ("launch_svn",),
}
_TCBS = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
_SPL = {
    "fmc": ("fmc", "fmcSPL"),
    "boot_loader": ("bootloader", "boot_loader", "blSPL"),
    "tee": ("tee", "teeSPL"),
    "snp": ("snp", "snpSPL"),
    "microcode": ("microcode", "ucodeSPL"),
}
_PLACES = {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7}
_PLACES_FMC = {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7}
# Without these, an object is no report.
_MARKS = ("version", "policy", "report_data", "measurement", "chip_id", "signature")
_OPTIONAL = {"cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "launch_mit_vector", "current_mit_vector"}
_COMPONENT = 72


def is_decoded_report(value: Mapping[str, Any]) -> bool:
    """Whether a JSON object has the fields of a report."""
    return all(name in value or _camel(name) in value for name in _MARKS)


def assemble(value: Mapping[str, Any]) -> bytes:
    """The 1184 bytes of a decoded report. MalformedReport names the field that is missing or cannot be."""
    raw = bytearray(SIZE)
    sparse = "reportData" in value  # protocol buffers' JSON leaves zeros out
    for name, (offset, size, is_int, since) in FIELDS.items():
        if name == "signature":
            raw[SIGNED_SIZE:] = _signature(_member(value, name))
            continue
        given = _member(value, name)
        if given is None and name.startswith(("current_", "committed_")) and not name.endswith(("_tcb", "_vector")):
            given = _version_part(value, name)
        if given is None:
            if name in _OPTIONAL or since > 1 or (sparse and is_int) or (sparse and name in _TCBS):
                continue
            raise MalformedReport(f"decoded report without {name}")
        raw[offset : offset + size] = _encoded(name, given, size, is_int)
    _put_cpuid(raw, value)
    _put_reserved(raw, value)
    return bytes(raw)


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _member(value: Mapping[str, Any], name: str) -> Any:
    for alias in (name, _camel(name), *_ALIASES.get(name, ())):
        given = value.get(alias)
        if given is None:
            given = value.get(_camel(alias))
        # `attest show --json` has author_key_en as a truth beside key_info as a number.
        if given is not None and not isinstance(given, bool):
            return given
    return None


def _version_part(value: Mapping[str, Any], name: str) -> Any:
    """current_build and its like out of {"current": {"major", "minor", "build"}}, or out of committed_version as one number."""
    which, part = name.split("_")
    whole = value.get(which)
    if isinstance(whole, dict):
        return whole.get(part)
    packed = value.get("committed_version")
    if isinstance(packed, int) and not isinstance(packed, bool) and 0 <= packed < 1 << 64:
        place = ("build", "minor", "major").index(part) + (4 if which == "committed" else 0)
        return packed >> 8 * place & 0xFF
    return None


def _encoded(name: str, given: Any, size: int, is_int: bool) -> bytes:
    if isinstance(given, dict):
        if name in _TCBS and "raw" not in given:
            return _tcb(name, given)
        given = given.get("value", given.get("raw"))
    if name in _TCBS and isinstance(given, int):
        is_int = True
    if is_int or (name in _TCBS and isinstance(given, str) and _NUMBER.match(given) and len(given) != 2 * size):
        return _number(name, given, size)
    return _bytes(name, given, size)


def _number(name: str, given: Any, size: int) -> bytes:
    if isinstance(given, str):
        if _NUMBER.match(given):
            given = int(given)
        elif given.startswith("0x") and len(given) <= 18 and _HEX.match(given):
            given = int(given, 16)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < 1 << 8 * size:
        raise MalformedReport(f"decoded report: {name} is no number of {size} bytes")
    return given.to_bytes(size, "little")


def _bytes(name: str, given: Any, size: int) -> bytes:
    found: bytes | None = None
    if isinstance(given, list) and all(type(item) is int and 0 <= item < 256 for item in given):
        found = bytes(given)
    elif isinstance(given, str) and len(given) <= 4 * size + 16:
        digits = _HEX.match(given)
        if digits and len(digits[1]) == 2 * size:
            found = bytes.fromhex(digits[1])
        else:
            try:
                found = base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True)
            except (binascii.Error, ValueError):
                found = None
    if found is None or len(found) != size:
        seen = "" if found is None else f", it has {len(found)}"
        raise MalformedReport(f"decoded report: {name} are no {size} bytes{seen}")
    return found


def _tcb(name: str, given: Mapping[str, Any]) -> bytes:
    levels = {spl: next((given[key] for key in keys if given.get(key) is not None), None) for spl, keys in _SPL.items()}
    raw = bytearray(8)
    if isinstance(given.get("_reserved"), list):  # virtee/sev before 6.0 knew the older layout only
        raw[2:6] = _bytes(f"{name}._reserved", given["_reserved"], 4)
    for spl, place in (_PLACES if levels["fmc"] is None else _PLACES_FMC).items():
        raw[place : place + 1] = _number(f"{name}.{spl}", levels[spl], 1)
    return bytes(raw)


def _signature(given: Any) -> bytes:
    if isinstance(given, dict):
        r, s = (_bytes(f"signature.{part}", given.get(part), _COMPONENT) for part in ("r", "s"))
        return (r + s).ljust(SIZE - SIGNED_SIZE, b"\0")
    return _bytes("signature", given, SIZE - SIGNED_SIZE)


def _put_cpuid(raw: bytearray, value: Mapping[str, Any]) -> None:
    cpuid = value.get("cpuid")
    if isinstance(cpuid, dict):  # attest show --json
        for at, name in ((0x188, "family"), (0x189, "model"), (0x18A, "stepping")):
            raw[at : at + 1] = _number(f"cpuid.{name}", cpuid.get(name), 1)
        return
    eax = value.get("cpuid1eax_fms", value.get("cpuid1eaxFms"))
    if eax is not None and raw[0] >= 3:
        raw[0x188:0x18B] = cpuid_bytes(int.from_bytes(_number("cpuid1eax_fms", eax, 4), "little"))


def cpuid_bytes(eax: int) -> bytes:
    """CPUID_FAM_ID, CPUID_MOD_ID and CPUID_STEP out of CPUID Fn0000_0001_EAX (AMD 24594): family and model added up."""
    family = (eax >> 8 & 0xF) + (eax >> 20 & 0xFF)
    return bytes((family & 0xFF, (eax >> 12 & 0xF0) | (eax >> 4 & 0xF), eax & 0xF))


def _put_reserved(raw: bytearray, value: Mapping[str, Any]) -> None:
    """Reserved bytes, where they are given: by offset (attest show --json), or under the names of those who knew them as such,
    Azure's sidecars and virtee/sev before 6.0. Later versions of the report have fields there."""
    for name, at, size in (
        ("reserved2", 0x188, 0x18),
        ("_reserved_1", 0x188, 0x18),
        ("reserved3", 0x1F8, 0xA8),
        ("_reserved_4", 0x1F8, 0xA8),
    ):
        if name in value:
            raw[at : at + size] = _bytes(name, value[name], size)
    for place, data in reserved.items() if isinstance(reserved := value.get("reserved"), dict) else ():
        digits = _HEX.match(data) if isinstance(data, str) else None
        at = int(place, 16) if isinstance(place, str) and re.fullmatch(r"0x[0-9a-f]{1,3}", place) else SIZE
        if digits is None or len(digits[1]) % 2 or at + len(digits[1]) // 2 > SIGNED_SIZE:
            raise MalformedReport("decoded report: reserved bytes that cannot be")
        raw[at : at + len(digits[1]) // 2] = bytes.fromhex(digits[1])
