"""What an emulated chip is: product, CPUID, identity, TCB versions, firmware versions; its defaults and its file's form."""

import os
from datetime import UTC, datetime
from typing import Any

from sev.emulated import EMULATED, HWID_MARK, SHORT_HWID_MARK
from sev.errors import PlatformError, SevError
from sev.product import GENOA, MILAN, TURIN, Line, product_of
from sev.tcb import SIZE as TCB_SIZE
from sev.tcb import Tcb, places_of

FORMAT = 1
_DEFAULT_CSP_ID = "CN=csp.cvmboot.invalid"


class _Model:
    __slots__ = ("cpuid", "firmware", "line", "spl")

    def __init__(self, line: Line, cpuid: tuple[int, int, int], firmware: tuple[int, int, int], **spl: int) -> None:
        self.line = line
        self.cpuid = cpuid
        self.firmware = firmware
        self.spl = spl


MODELS = {
    "milan": _Model(MILAN, (0x19, 0x01, 1), (1, 55, 29), boot_loader=4, tee=0, snp=24, microcode=219),
    "genoa": _Model(GENOA, (0x19, 0x11, 1), (1, 55, 40), boot_loader=10, tee=0, snp=23, microcode=84),
    "turin": _Model(TURIN, (0x1A, 0x02, 1), (1, 55, 61), fmc=1, boot_loader=3, tee=2, snp=6, microcode=117),
}
_TCBS = ("current_tcb", "committed_tcb", "launch_tcb", "reported_tcb")


def new_hwid(line: Line) -> bytes:
    """A random HWID of the line's size that begins with the mark of emulated chips."""
    mark = HWID_MARK if line.hwid_size > len(HWID_MARK) else SHORT_HWID_MARK
    return mark + os.urandom(line.hwid_size - len(mark))


class Settings:
    """`product` is milan, genoa or turin; TCBs are 8 raw bytes, firmware versions (major, minor, build)."""

    __slots__ = (
        *("committed_firmware", "committed_tcb", "cpuid", "csp_id", "current_tcb", "firmware", "hwid", "launch_tcb"),
        *("line", "load_vlek", "made", "mitigation_vector", "platform_info", "product", "reported_tcb"),
    )

    def __init__(self, product: str, **given: Any) -> None:
        """Settings of a product, with its defaults for what is not given; `tcb` stands for all four TCBs.

        PlatformError for an unknown product or setting, or a value of another type or range.
        """
        model = MODELS.get(product)
        if model is None:
            raise PlatformError(f"product {product!r}; wanted {', '.join(MODELS)}")
        self.product = product
        self.line = model.line
        self.made: datetime = given.pop("made", None) or datetime.now(UTC).replace(microsecond=0)
        self.cpuid: tuple[int, int, int] = tuple(given.pop("cpuid", model.cpuid))
        self.hwid: bytes = given.pop("hwid") if "hwid" in given else new_hwid(model.line)
        tcb = given.pop("tcb") if "tcb" in given else Tcb.of(model.line, **model.spl).raw
        self.current_tcb: bytes = given.pop("current_tcb", tcb)
        self.committed_tcb: bytes = given.pop("committed_tcb", tcb)
        self.launch_tcb: bytes = given.pop("launch_tcb", tcb)
        self.reported_tcb: bytes = given.pop("reported_tcb", tcb)
        self.firmware: tuple[int, int, int] = tuple(given.pop("firmware", model.firmware))
        self.committed_firmware: tuple[int, int, int] = tuple(given.pop("committed_firmware", self.firmware))
        self.platform_info: int = given.pop("platform_info", 0x25)
        self.mitigation_vector: int = given.pop("mitigation_vector", 0xB)
        self.csp_id: str = given.pop("csp_id", _DEFAULT_CSP_ID)
        self.load_vlek: bool = given.pop("load_vlek", False)
        if given:
            raise PlatformError(f"a platform has no setting {', '.join(map(str, given))}")
        self._check()

    def _check(self) -> None:
        for name in _TCBS:
            raw = getattr(self, name)
            if not isinstance(raw, bytes) or len(raw) != TCB_SIZE or Tcb(raw, self.line).reserved_set:
                places = ", ".join(f"{spl} in byte {place}" for spl, place in places_of(self.line).items())
                raise PlatformError(f"{name} {_shown(raw)}; wanted 8 bytes with {places}")
        if not isinstance(self.hwid, bytes) or len(self.hwid) != self.line.hwid_size:
            raise PlatformError(f"hwid {_shown(self.hwid)}; wanted {self.line.hwid_size} bytes for {self.line.name}")
        for name in ("cpuid", "firmware", "committed_firmware"):
            numbers = getattr(self, name)
            if len(numbers) != 3 or not all(type(n) is int and 0 <= n <= 255 for n in numbers):
                raise PlatformError(f"{name} {numbers}; wanted three numbers from 0 to 255")
        product = product_of(*self.cpuid[:2])
        if product is None or product.line is not self.line:
            raise PlatformError(
                f"family {self.cpuid[0]:#x}, model {self.cpuid[1]:#x}: not of the {self.line.name} line"
            )
        for name in ("platform_info", "mitigation_vector"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < 1 << 64:
                raise PlatformError(f"{name} {value!r}; wanted a number of 64 bits")
        if not isinstance(self.csp_id, str) or not self.csp_id.isascii() or not 0 < len(self.csp_id) < 128:
            raise PlatformError(f"csp_id {self.csp_id!r:.60}; wanted 1 to 127 ASCII characters")
        if type(self.load_vlek) is not bool:
            raise PlatformError(f"load_vlek {self.load_vlek!r:.60}; wanted true or false")

    def to_json(self) -> dict[str, Any]:
        """The form in which platform.json keeps it."""
        return {
            "format": FORMAT,
            "kind": EMULATED,
            "product": self.product,
            "made": self.made.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "cpuid": list(self.cpuid),
            "hwid": self.hwid.hex(),
            **{name: getattr(self, name).hex() for name in _TCBS},
            "firmware": list(self.firmware),
            "committed_firmware": list(self.committed_firmware),
            "platform_info": self.platform_info,
            "mitigation_vector": self.mitigation_vector,
            "csp_id": self.csp_id,
            "load_vlek": self.load_vlek,
        }

    @classmethod
    def from_json(cls, kept: dict[str, Any], **changes: Any) -> "Settings":
        """What to_json gave, with `changes` in place of what is kept. PlatformError."""
        if kept.get("format") != FORMAT or kept.get("kind") != EMULATED:
            raise PlatformError(f"not an emulated platform of format {FORMAT}: format {kept.get('format')!r:.20}")
        given = {name: value for name, value in kept.items() if name not in ("format", "kind")}
        wanted = Settings(next(iter(MODELS))).to_json()
        if missing := wanted.keys() - kept.keys():
            raise PlatformError(f"{', '.join(sorted(missing))} missing")
        try:
            given["made"] = datetime.strptime(given["made"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            for name in ("hwid", *_TCBS):
                given[name] = bytes.fromhex(given[name])
            if "tcb" in changes:
                given.update(dict.fromkeys(_TCBS, changes.pop("tcb")))
            return cls(**{**given, **changes})
        except (TypeError, ValueError, AttributeError, SevError) as error:
            raise PlatformError(f"bad settings: {' '.join(str(error).split())[:200]}") from None


def _shown(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else repr(value)[:60]
