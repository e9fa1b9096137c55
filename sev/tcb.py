"""TCB_VERSION: the security patch levels (SPLs) of a platform's firmware, in the two layouts there are.

AMD 56860, table "TCB_VERSION": Milan and Genoa keep the boot loader in byte 0, TEE in 1, SNP in 6, microcode in 7; Turin and
Venice put FMC in front and move the rest up to bytes 0 to 3, microcode stays in 7.
"""

from functools import lru_cache

from sev.errors import SevError
from sev.product import Line

SIZE = 8
_PLACES = {"boot_loader": 0, "tee": 1, "snp": 6, "microcode": 7}
_PLACES_FMC = {"fmc": 0, "boot_loader": 1, "tee": 2, "snp": 3, "microcode": 7}

# The names by which certificates (extensions under 1.3.6.1.4.1.3704.1.3) and KDS know them.
KDS_NAMES = {"fmc": "fmcSPL", "boot_loader": "blSPL", "tee": "teeSPL", "snp": "snpSPL", "microcode": "ucodeSPL"}


def places_of(line: Line) -> dict[str, int]:
    """Which byte of TCB_VERSION each SPL of a line lies in."""
    return _PLACES_FMC if line.has_fmc else _PLACES


class Tcb:
    """A TCB_VERSION of one line. `raw` is its 8 bytes, reserved ones included; `spl` maps names to levels 0 to 255."""

    __slots__ = ("line", "raw")

    def __init__(self, raw: bytes, line: Line) -> None:
        if len(raw) != SIZE:
            raise SevError(f"TCB_VERSION of {len(raw)} bytes; wanted {SIZE}")
        self.raw = bytes(raw)
        self.line = line

    @classmethod
    def of(cls, line: Line, **spl: int) -> "Tcb":
        """A TCB from levels by name: fmc (Turin and later), boot_loader, tee, snp, microcode. SevError for a bad one."""
        places = places_of(line)
        raw = bytearray(SIZE)
        for name, level in spl.items():
            if name not in places:
                raise SevError(f"{line.name} has no SPL called {name}; it has {', '.join(places)}")
            if not 0 <= level <= 255:
                raise SevError(f"{name} {level}: wanted 0 to 255")
            raw[places[name]] = level
        return cls(bytes(raw), line)

    @property
    def spl(self) -> dict[str, int]:
        """Level by name."""
        return {name: self.raw[place] for name, place in places_of(self.line).items()}

    @property
    def reserved_set(self) -> bool:
        """Whether a byte that no SPL of this line lies in is not zero."""
        raw = self.raw
        return any(raw[4:7]) if self.line.has_fmc else any(raw[2:6])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tcb) and (self.raw, self.line) == (other.raw, other.line)

    def __hash__(self) -> int:
        return hash((self.raw, self.line))

    def __le__(self, other: "Tcb") -> bool:
        """Every SPL is at most the other's: what "not newer than" means for TCBs, a partial order."""
        return all(mine <= theirs for mine, theirs in zip(self.raw, other.raw, strict=True))

    def __str__(self) -> str:
        return _text(self.raw, self.line)

    def __repr__(self) -> str:
        return f"Tcb({self.line.name}: {self})"


# The machines of a fleet have a few TCBs, and each verdict names them several times.
@lru_cache(maxsize=1024)
def _text(raw: bytes, line: Line) -> str:
    return " ".join(f"{KDS_NAMES[name]}={raw[place]}" for name, place in places_of(line).items())
