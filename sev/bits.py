"""A bit field with names, in which bits that nobody has named yet stay visible."""

from functools import lru_cache
from typing import Any


class Bits(int):
    """A 64-bit field. `NAMES` maps bit numbers to names, in bit order."""

    __slots__ = ()
    NAMES: dict[int, str] = {}  # noqa: RUF012
    NOT_FLAGS = 0
    _KNOWN = 0

    def bit(self, name: str) -> bool:
        """Whether the bit with this name is set. KeyError if there is none."""
        for number, known in self.NAMES.items():
            if known == name:
                return bool(self >> number & 1)
        raise KeyError(name)

    @property
    def named(self) -> dict[str, bool]:
        """Each known bit by name."""
        return {name: bool(self >> number & 1) for number, name in self.NAMES.items()}

    def __init_subclass__(cls) -> None:
        cls._KNOWN = cls.NOT_FLAGS | sum(1 << number for number in cls.NAMES)

    @property
    def unknown(self) -> list[int]:
        """Numbers of the bits that are set and have no name."""
        rest = int(self) & ~self._KNOWN
        if not rest:
            return []
        return [number for number in range(rest.bit_length()) if rest >> number & 1]

    def __str__(self) -> str:
        kind: Any = type(self)
        return _text(kind, int(self))


# Many reports have the same few values, and each verdict names them several times.
@lru_cache(maxsize=256)
def _text(kind: Any, value: int) -> str:
    names = [name for number, name in kind.NAMES.items() if value >> number & 1]
    return " ".join([f"{value:#x}", *names, *(f"bit{number}?" for number in kind(value).unknown)])
